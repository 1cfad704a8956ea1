"""Several upstreams for one model: another stands in before the first byte of an answer, on one hold and for one charge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.server.conftest import Start
from tests.support import openai_answers, scripted_upstream
from tests.support.openai_answers import encode
from tests.support.proxied import KEY, RATE_INPUT, RATE_OUTPUT, chat, price
from tests.support.scripted_upstream import ScriptedUpstream

USAGE = openai_answers.usage(10, 5)
COST = (10 * RATE_INPUT + 5 * RATE_OUTPUT) // 1_000_000
ANSWER = openai_answers.chat("hi", usage=USAGE)


@pytest.fixture
async def second() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as running:
        yield running


def both(first: ScriptedUpstream, second: ScriptedUpstream, **members: Any) -> list[dict[str, Any]]:
    """The first upstream, and a second one that stands in for it."""
    return [{"name": "first", "base_url": first.base_url, **members}, {"name": "second", "base_url": second.base_url, **members}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("trouble", ["refuses", "vanishes", "is silent", 429, 500, 503])
async def test_another_upstream_stands_in(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, trouble: str | int, stream: bool
) -> None:
    """Whatever keeps the first one from answering, the caller gets the second one's answer, held once and charged once."""
    second.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    sections = both(upstream, second, first_byte_timeout_s=0.2)
    if trouble == "refuses":
        sections[0]["base_url"] = "http://127.0.0.1:1"
    async with start(upstreams=sections) as proxied:
        asking = proxied.post(json=chat(stream=stream))
        if trouble != "refuses":
            answering = _answer(upstream, trouble)
            answer, _ = await _together(asking, answering)
        else:
            answer = await asking
        async with answer:
            assert answer.status == 200
            assert b"tok" in await answer.read()
        totals = await proxied.until_settled()
        assert (totals.spent, totals.overrun) == (COST, 0)
        assert [verb for verb, _ in proxied.ledger.calls] == ["hold", "settle"]
        assert proxied.outcomes() == {"complete": 1}
        assert next(values for values, _ in proxied.metrics.snapshot()["requests_total"])[0] == "second"


async def _answer(upstream: ScriptedUpstream, trouble: str | int) -> None:
    exchange = await upstream.next_request()
    if isinstance(trouble, int):
        await exchange.answer(openai_answers.error("no"), status=trouble)
    elif trouble == "vanishes":
        exchange.abort()
    else:
        await exchange.client_gone()


async def _together(asking: Any, answering: Any) -> Any:
    return await asyncio.gather(asking, answering)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_is_wrong_with_the_request_is_wrong_everywhere(
    upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start, status: int
) -> None:
    """The first upstream's answer stands, and the second is not asked."""
    async with start(upstreams=both(upstream, second)) as proxied:
        answer, _ = await _together(proxied.post(json=chat()), _answer(upstream, status))
        async with answer:
            assert (answer.status, await answer.read()) == (status, openai_answers.error("no"))
        assert (await proxied.until_settled()).spent == 0
        assert second.received == []


async def test_nobody_stands_in_after_the_first_byte(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    """What was forwarded cannot be taken back, so a stream that breaks off is told as broken off."""
    async with start(upstreams=both(upstream, second)) as proxied:

        async def break_off() -> None:
            exchange = await upstream.next_request()
            await exchange.send(openai_answers.event(openai_answers.chat_chunk({"content": "one "})))
            exchange.abort()

        answer, _ = await _together(proxied.post(json=chat(stream=True)), break_off())
        async with answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        await proxied.until_settled()
        assert second.received == []


async def test_the_last_ones_answer_stands(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    """Where all fail, the caller hears from the last, and nothing is charged."""
    second.automatic = lambda exchange: exchange.answer(openai_answers.error("busy"), status=503)
    async with start(upstreams=both(upstream, second)) as proxied:
        answer, _ = await _together(proxied.post(json=chat()), _answer(upstream, 500))
        async with answer:
            assert (answer.status, await answer.read()) == (503, openai_answers.error("busy"))
        assert (await proxied.until_settled()).spent == 0


async def test_the_hold_covers_whoever_answers(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    """Where two upstreams count pictures differently, the greater rule is held for."""
    sections = both(upstream, second)
    sections[0]["image_tokens"], sections[1]["image_tokens"] = 100, 5_000
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [picture]}]}
    async with start(upstreams=sections) as proxied:
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        async with proxied.post(json=body) as answer:
            assert answer.status == 200
        ((_, held),) = [call for call in proxied.ledger.calls if call[0] == "hold"]
        assert held["least_nanocredits"] > 5_000 * RATE_INPUT // 1_000_000


# --- aliases -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_alias_is_asked_for_by_the_upstreams_own_name(upstream: ScriptedUpstream, start: Start, stream: bool) -> None:
    """Only the name in the body changes; the answer passes as it is."""
    upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    async with start(upstream={"models": ["tiny"], "aliases": {"fast": "tiny"}}, prices=(price("tiny"),)) as proxied:
        async with proxied.post(json={**chat(stream=stream), "model": "fast"}) as answer:
            assert answer.status == 200
            await answer.read()
        assert upstream.received[-1].document["model"] == "tiny"
        assert (await proxied.until_settled()).spent == COST


async def test_each_upstream_has_its_own_name_for_an_alias(upstream: ScriptedUpstream, second: ScriptedUpstream, start: Start) -> None:
    """The one that stands in is asked under the name that it knows."""
    second.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    sections = both(upstream, second)
    sections[0]["aliases"], sections[1]["aliases"] = {"fast": "tiny"}, {"fast": "tiny-v2"}
    async with start(upstreams=sections) as proxied:
        answer, _ = await _together(proxied.post(json={**chat(), "model": "fast"}), _answer(upstream, 503))
        async with answer:
            assert answer.status == 200
        assert upstream.received[-1].document["model"] == "tiny"
        assert second.received[-1].document["model"] == "tiny-v2"


async def test_an_alias_may_have_a_price_of_its_own(upstream: ScriptedUpstream, start: Start) -> None:
    """An exact row for the alias counts; a pattern that merely fits it does not hide the row of what it stands for."""
    prices = (price("*", input=99_000_000), price("tiny"), price("cheap", input=0, output=0, request=7))
    aliases = {"fast": "tiny", "cheap": "tiny"}
    async with start(upstream={"aliases": aliases}, prices=prices) as proxied:
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        for name, spent in (("fast", COST), ("cheap", 7)):
            before = await proxied.spent()
            async with proxied.post(json={**chat(), "model": name}) as answer:
                assert answer.status == 200
            assert (await proxied.until_settled()).spent - before == spent


async def test_an_alias_is_listed(upstream: ScriptedUpstream, start: Start) -> None:
    """Callers find it among the models that they may use."""
    async with (
        start(upstream={"models": ["tiny"], "aliases": {"fast": "tiny"}}, prices=(price("tiny"),)) as proxied,
        proxied.client.get(proxied.base_url + "/v1/models", headers={"x-api-key": KEY}) as answer,
    ):
        assert [model["id"] for model in (await answer.json())["data"]] == ["fast", "tiny"]


async def test_a_row_that_prices_the_request_itself_is_enough(upstream: ScriptedUpstream, start: Start) -> None:
    """An operator may price by the request alone: its tokens are then free by that rule, streamed or not."""
    upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    async with start(prices=(price("*", input=None, output=None, request=13),)) as proxied:
        for stream in (False, True):
            async with proxied.post(json=chat(stream=stream)) as answer:
                assert answer.status == 200
                assert encode("tok ")[1:4] in await answer.read()
        assert (await proxied.until_settled()).spent == 26
