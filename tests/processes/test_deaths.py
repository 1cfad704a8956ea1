"""Parent, workers and ledger as real processes that are killed."""
# ruff: noqa: ASYNC110 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp

from tests.support.program import COST_OF_EIGHT_TOKENS, Begin, assert_balanced, nothing_held, rest_of, serve, stream
from tests.support.running_proxy import (
    children_of,
    command_of,
    configuration,
    is_running,
    until,
)


async def test_a_worker_that_is_killed_is_replaced(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Others go on meanwhile, its holds expire and are charged for what was forwarded, counters never fall, the books balance."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    await asyncio.gather(*(proxy.chat() for _ in range(10)))
    assert (await proxy.metrics())["requests_total"] == 10

    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stream(proxy, tokens=200)) for _ in range(8)]
        victim = proxy.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        ends = await asyncio.gather(*map(rest_of, streams), return_exceptions=True)
    broken = [end for end in ends if isinstance(end, aiohttp.ClientError)]
    whole = [end for end in ends if isinstance(end, str)]
    assert broken, f"no stream was on the worker that was killed: {ends}"
    assert whole, f"no stream was on the other worker: {ends}"
    assert all(end.endswith("data: [DONE]\n\n") for end in whole)

    await until(lambda: len(proxy.worker_pids()) == 2 and victim not in proxy.worker_pids())
    assert (await proxy.chat())[0] == 200
    await nothing_held(proxy)
    metrics = await proxy.metrics()
    assert metrics["worker_restarts_total"] == 1
    assert metrics["requests_total"] >= 11
    assert metrics["expired_holds_total"] == len(broken)
    assert metrics["open_streams"] == metrics["held_credits"] == 0
    assert "ended (status -9); starting another" in proxy.said
    await assert_balanced(begin, file)
    assert await proxy.stop() == 0


async def test_a_killed_parent_takes_everything_along(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Workers settle what runs and end, the ledger ends after them; the next start is none the worse."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2, drain_timeout_s=1))
    everyone = [*children_of(proxy.process.pid), *proxy.worker_pids()]
    assert len(everyone) == 5  # the nursery, the ledger, its guard; two workers
    async with stream(proxy, tokens=10_000):
        proxy.process.kill()
        await until(lambda: not any(map(is_running, everyone)))
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    account = await proxy.account()
    assert account["held"] == "0"
    assert account["spent"] != "0"
    assert (await proxy.chat())[0] == 200
    await assert_balanced(begin, file)


async def test_a_ledger_that_dies_is_started_again(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Requests are refused meanwhile, never let through; then all goes on, and it is counted."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    (server,) = [pid for pid in children_of(proxy.process.pid) if "ledger.sock" in command_of(pid) and "-server" in command_of(pid)]
    os.kill(server, signal.SIGKILL)
    await until(lambda: "the embedded ledger runs again" in proxy.said)
    async with asyncio.timeout(10):
        while (await proxy.chat())[0] != 200:
            await asyncio.sleep(0.05)
    assert (await proxy.metrics())["ledger_restarts_total"] == 1
    assert (await proxy.account())["spent"] == COST_OF_EIGHT_TOKENS
