"""The whole way of a request: what is charged, for every form of answer and every way in which one can end."""

from __future__ import annotations

import asyncio

import pytest

from proxy.dialects import DIALECTS, MediaRule, for_path
from proxy.domain import Call
from tests.server.conftest import Start
from tests.support import openai_answers
from tests.support.proxied import RATE_INPUT, RATE_OUTPUT, chat
from tests.support.scripted_upstream import EVENT_STREAM, ScriptedUpstream

USAGE = openai_answers.usage(10, 5)
COST = (10 * RATE_INPUT + 5 * RATE_OUTPUT) // 1_000_000


def call_of(body: dict[str, object], path: str = "/v1/chat/completions") -> Call:
    dialect, operation = for_path("POST", path)
    assert dialect is DIALECTS["openai"]
    return dialect.parse_request(operation, openai_answers.encode(body), MediaRule(0, 0, 0))


def counted(body: dict[str, object], output_tokens: int) -> int:
    """What a request costs when usage never comes."""
    return (call_of(body).input_tokens_counted * RATE_INPUT + output_tokens * RATE_OUTPUT) // 1_000_000


async def test_whole_answer_is_charged_by_its_usage(upstream: ScriptedUpstream, start: Start) -> None:
    """A whole answer passes byte for byte, settled before it is sent, with its cost and what is left in the headers."""
    body = openai_answers.chat("hello there", usage=USAGE)
    async with start() as proxied:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(_read(proxied.post(json=chat())))
            exchange = await upstream.next_request()
            await exchange.answer(body)
        status, headers, received = asked.result()
        assert (status, received) == (200, body)
        assert headers["X-Ledger-Cost"] == f"{COST / 1e9:.9f}".rstrip("0")
        assert headers["X-Ledger-Remaining"] == f"{(1_000_000 - COST) / 1e9:.9f}".rstrip("0")
        assert headers["RateLimit-Policy"] == '"day/UTC";q=1000;qu="microcredits";w=86400'
        assert headers["RateLimit"].startswith('"day/UTC";r=999;t=')
        assert len(headers["X-Request-Id"]) == 32
        assert (await proxied.until_settled()).spent == COST


async def _read(asking):  # type: ignore[no-untyped-def]
    async with asking as answer:
        return answer.status, answer.headers, await answer.read()
