"""Periodic jobs: things a process does again and again beside its requests.

The outermost edge of each: a failure is logged when it begins and when it is over, never each time, and never ends the job.
Must not know what the jobs do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from proxy.errors import Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What to do, and how long to pause in between."""

    name: str
    every_s: float
    act: Callable[[], Awaitable[object]]


@contextlib.asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The works run beside the body and are cancelled when it ends; where one fails, the body is cancelled and its error raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:  # a group of its own for the error of one would hide it from who expects it
        raise errors.exceptions[0] from None


def running(*jobs: Job) -> contextlib.AbstractAsyncContextManager[None]:
    """The jobs run as long as the context lasts; one that is at work when it ends is cancelled."""
    return beside(*(_repeat(job) for job in jobs))


async def _repeat(job: Job) -> None:
    failing = False
    own = asyncio.current_task()
    assert own is not None
    while True:
        try:
            await job.act()
        except Failure as failure:  # a dependency is away; whoever needs it says so too
            if not failing:
                log.warning("%s: %s", job.name, failure.message)
            failing = True
        except Exception:  # the outermost edge of the job: a bug in one round must not end all the rounds after it
            if not failing:
                log.exception("%s failed", job.name)
            failing = True
        else:
            if failing:
                log.info("%s: works again", job.name)
            failing = False
        if own.cancelling():  # its act failed while it was being ended, and so the word to end was lost
            return
        await asyncio.sleep(job.every_s)
