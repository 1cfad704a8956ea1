"""Usage in every chunk, asked for where the upstream can send it: exact debits, and a client that sees what it would have seen."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.conftest import Start
from tests.support import openai_answers
from tests.support.openai_answers import DONE, chat_chunk, event
from tests.support.proxied import RATE_INPUT, RATE_OUTPUT, chat
from tests.support.scripted_upstream import ScriptedUpstream

BOTH = {"include_usage": True, "continuous_usage_stats": True}


def chunks(*, counted: bool) -> list[bytes]:
    """Two chunks of three tokens each, as a server sends them that counts in each, or that does not."""
    texts = ["one two three ", "four five six"]
    counts = [{"usage": openai_answers.usage(10, 3 * place)} if counted else {} for place in (1, 2)]
    return [event({**chat_chunk({"content": text}), **count}) for text, count in zip(texts, counts, strict=True)]


@pytest.mark.parametrize("asked", [False, True])
async def test_usage_in_every_chunk_is_asked_for_and_hidden(upstream: ScriptedUpstream, start: Start, asked: bool) -> None:
    """Whoever hangs up pays the tokens that the upstream has counted so far; a client that asked gets what it asked for."""
    async with start(upstream={"continuous_usage": True}) as proxied:
        body = chat(stream=True, **({"stream_options": BOTH} if asked else {}))
        asking = asyncio.create_task(proxied.post(json=body).__aenter__())
        exchange = await upstream.next_request()
        assert exchange.document["stream_options"] == BOTH
        for chunk in chunks(counted=True):
            await exchange.send(chunk)
        answer = await asking
        expected = b"".join(chunks(counted=asked))
        assert await answer.content.readexactly(len(expected)) == expected
        answer.close()
        await exchange.client_gone()
        assert (await proxied.until_settled()).spent == (10 * RATE_INPUT + 6 * RATE_OUTPUT) // 1_000_000


async def test_usage_in_every_chunk_passes_where_nobody_asked_for_it(upstream: ScriptedUpstream, start: Start) -> None:
    """An upstream that is not asked and sends it all the same is not edited."""
    async with start() as proxied:
        asking = asyncio.create_task(proxied.post(json=chat(stream=True)).__aenter__())
        exchange = await upstream.next_request()
        for data in (*chunks(counted=True), DONE):
            await exchange.send(data)
        await exchange.finish()
        async with await asking as answer:
            assert await answer.read() == bytes(exchange.sent)
