"""The program as real processes: commands that run, proxies that serve, and what tests ask of them."""
# ruff: noqa: ASYNC110, ASYNC240 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp

from tests.support.running_proxy import (
    RunningProxy,
)

Begin = Callable[..., Awaitable[RunningProxy]]

COST_OF_EIGHT_TOKENS = "0.000041"
"""Input 9 tokens at 1 credit per million, output 8 at 4."""


async def serve(begin: Begin, file: Path, text: str) -> RunningProxy:
    file.write_text(text)
    return await (await begin("serve", "--config", file)).ready()


async def run(begin: Begin, *arguments: str | Path) -> RunningProxy:
    """A command that ends by itself."""
    command = await begin(*arguments)
    await command.ended()
    return command


@contextlib.asynccontextmanager
async def stream(proxy: RunningProxy, *, tokens: int, model: str = "slow") -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that has begun: its first bytes have arrived."""
    async with aiohttp.ClientSession() as session, session.post(**proxy.chat_request(model=model, tokens=tokens, stream=True)) as response:
        assert response.status == 200
        await response.content.readany()
        yield response


async def rest_of(response: aiohttp.ClientResponse) -> str:
    return (await response.read()).decode()


async def nothing_held(proxy: RunningProxy) -> None:
    async with asyncio.timeout(15):
        while (await proxy.account())["held"] != "0":
            await asyncio.sleep(0.05)


async def assert_balanced(begin: Begin, file: Path) -> None:
    audit = await run(begin, "audit", "--config", file)
    assert (audit.process.returncode, audit.said) == (0, "")
    assert "the books balance" in audit.printed
