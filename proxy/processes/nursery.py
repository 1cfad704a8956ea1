"""The nursery, seen from the parent: workers are asked of it, and it tells how they ended.

It is forked from the parent before that has begun anything, so that what both need is loaded once. Where it dies it takes nobody
along: its workers go on, and that they ended is then seen by their channels alone. Another is this program again with the hidden
command `_nursery`, which loads everything anew. Owns the process and its end. Must not know what workers are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from proxy.processes.channel import Message
from proxy.processes.forking import Work, end_after, request, tend

log = logging.getLogger(__name__)

PROGRAM: Final = Path(__file__).parents[1] / "__main__.py"
BIRTH_DEADLINE_S: Final = 60.0
"""How long a worker's birth may take, also where the nursery must load everything first, on a busy machine."""
READ_BYTES: Final = 65536

_decode = msgspec.json.Decoder(Message).decode


class NoBirth(Exception):
    """There is no new worker; the message says why."""


class Child:
    """A worker's process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        """How it ended, as `subprocess` has it; None while it lives, and where nobody is left who could tell."""
        self.told = asyncio.Event()
        """Set when it has ended, or nobody is left who could tell."""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """One nursery's process, alive or ended."""

    def __init__(self, pid: int, ours: socket.socket, *, reap: Callable[[], object]) -> None:
        ours.setblocking(False)
        self._pid = pid
        self._reap = reap
        self.is_gone = False
        self._ours = ours
        self._heard = b""
        self._heard_by: asyncio.AbstractEventLoop | None = None
        self._asked: deque[asyncio.Future[Child]] = deque()
        self._children: dict[int, Child] = {}

    @classmethod
    @contextlib.contextmanager
    def forked(cls, work: Work) -> Iterator[Self]:
        """A nursery for as long as the context lasts, forked from this process, which must have no thread, loop or connection yet."""
        gc.freeze()  # what is loaded stays; a collection that looked at it would copy the pages that all now share
        sys.stdout.flush()  # or it would be written twice
        sys.stderr.flush()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            ours.close()
            end_after(lambda: tend(theirs, work))
        theirs.close()
        nursery = cls(pid, ours, reap=lambda: os.waitpid(pid, 0))
        try:
            yield nursery
        finally:
            nursery.close()

    @classmethod
    def started(cls) -> Self:
        """One that begins from nothing."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", str(PROGRAM), "_nursery", str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
            return cls(process.pid, ours, reap=process.wait)

    async def bear(self, fds: Sequence[int]) -> Child:
        """A new worker that has these descriptors open under the same numbers, its channel first. Raises NoBirth."""
        if self._heard_by is None:
            self._heard_by = asyncio.get_running_loop()
            self._heard_by.add_reader(self._ours, self._hear)
        answer: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        try:
            socket.send_fds(self._ours, [request(fds)], fds)
            async with asyncio.timeout(BIRTH_DEADLINE_S):
                return await answer
        except OSError as error:  # it took too long, too
            self._lose()
            raise NoBirth("the nursery does not answer") from error

    def close(self) -> None:
        """End it; its workers live on."""
        if self.is_gone:
            return
        self.is_gone = True
        if self._heard_by is not None and not self._heard_by.is_closed():
            self._heard_by.remove_reader(self._ours)
        self._ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._reap()
        for child in self._children.values():
            child.told.set()

    def _lose(self) -> None:
        if self.is_gone:
            return
        self.close()
        log.error("the nursery of the workers is gone; they live on, and the next is born in another")
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(NoBirth("the nursery is gone"))

    def _hear(self) -> None:
        try:
            heard = self._ours.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            heard = b""
        if not heard:
            self._lose()
            return
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            self._take(_decode(line))

    def _take(self, message: Message) -> None:
        match message["is"]:
            case "born":
                child = self._children[message["pid"]] = Child(message["pid"])
                answer = self._asked.popleft()
                if not answer.done():  # else nobody wants it any more, and its channel has ended
                    answer.set_result(child)
            case "refused":
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_exception(NoBirth(f"the system refuses another process: {message['reason']}"))
            case "ended":
                child = self._children.pop(message["pid"])
                child.status = message["status"]
                child.told.set()
            case unknown:
                raise AssertionError(f"the nursery said {unknown!r}")
