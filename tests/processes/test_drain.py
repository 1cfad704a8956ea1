"""Parent and workers as real processes that are told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Begin, assert_balanced, nothing_held, rest_of, serve, stream
from tests.support.running_proxy import (
    configuration,
    until,
)


async def test_a_drain_lets_what_runs_finish(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """New connections are refused, a new request on an open one is told, the stream ends whole, and the exit is a success."""
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    async with stream(proxy, tokens=60) as running, aiohttp.ClientSession() as kept:
        async with kept.post(**proxy.chat_request()) as response:
            await response.read()
        proxy.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in proxy.said)
        async with asyncio.timeout(5):
            while True:
                async with kept.post(**proxy.chat_request()) as response:
                    refusal = await response.json()
                if response.status == 503:
                    break
        assert refusal["error"]["code"] == "draining"
        assert response.headers["Connection"] == "close"
        with pytest.raises(aiohttp.ClientConnectorError):
            await proxy.chat()
        assert (await proxy.readiness())[0] == 503
        text = await rest_of(running)
        assert text.endswith("data: [DONE]\n\n")
        assert "error" not in text
    assert await proxy.ended() == 0
    await assert_balanced(begin, file)


async def test_a_drain_cuts_and_settles_what_takes_too_long(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """The client sees an error, never a clean end; what it got is charged, nothing stays held."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, drain_timeout_s=0.5))
    async with stream(proxy, tokens=100_000) as running:
        proxy.process.send_signal(signal.SIGTERM)
        text = await rest_of(running)
    assert '"code": "draining"' in text or '"code":"draining"' in text
    assert await proxy.ended() == 0
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    account = await proxy.account()
    assert account["held"] == "0"
    assert float(account["spent"]) > 0
    await assert_balanced(begin, file)


async def test_ctrl_c_drains_like_sigterm(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group; workers and ledger stay until what runs is settled."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, workers=2))
    async with stream(proxy, tokens=40) as running:
        os.killpg(proxy.process.pid, signal.SIGINT)
        assert (await rest_of(running)).endswith("data: [DONE]\n\n")
    assert await proxy.ended() == 0
    assert "Traceback" not in proxy.said


async def test_a_second_signal_ends_it_at_once(begin: Begin, upstream: str, file: Path, data_dir: Path) -> None:
    """Whoever is in a hurry need not wait for streams; what ran expires in the next life and is charged as last recorded."""
    proxy = await serve(begin, file, configuration(upstream, data_dir, drain_timeout_s=600))
    async with stream(proxy, tokens=100_000):
        proxy.process.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in proxy.said)
        proxy.process.send_signal(signal.SIGTERM)
        assert await proxy.ended(deadline_s=10) == 1
    proxy = await serve(begin, file, configuration(upstream, data_dir))
    await nothing_held(proxy)
    await assert_balanced(begin, file)
