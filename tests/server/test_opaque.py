"""Endpoints that no dialect knows, by an operator's rule: paid by the request, the second, the megabyte; everything passes unread."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from proxy.server import estimating
from tests.server.conftest import Start
from tests.support.proxied import ACCOUNT, KEY, Proxied, price
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

RULE = {"path": "/custom/tts", "upstream": "up", "model": "tts"}
MEGABYTE = 2_000_000
"""Nanocredits: two for each byte."""
AUDIO = {"Content-Type": "audio/mpeg", "X-Voice": "ann"}


def rules(*members: dict[str, Any]) -> dict[str, Any]:
    return {"opaque": [{**RULE, **rule} for rule in members or ({},)]}


def tts(**rates: Any) -> tuple[Any, ...]:
    return (price("tts", **{"input": None, "output": None, **rates}),)


async def fetch(proxied: Proxied, method: str = "POST", path: str = "/custom/tts", **options: Any) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
    async with proxied.client.request(method, proxied.base_url + path, headers=headers, **options) as answer:
        return answer.status, await answer.read()


async def test_bytes_are_paid_both_ways(upstream: ScriptedUpstream, start: Start) -> None:
    """What is sent and what is answered, to the byte; body, type and headers pass as they are."""
    async with start(settings=rules(), prices=tts(megabyte=MEGABYTE, request=7)) as proxied:
        asking = asyncio.create_task(fetch(proxied, data=b"\x00\xffhello", headers={"Content-Type": "application/x-odd"}))
        exchange = await upstream.next_request()
        assert (exchange.method, exchange.raw_path, exchange.body) == ("POST", "/custom/tts", b"\x00\xffhello")
        assert exchange.headers["Content-Type"] == "application/x-odd"
        await exchange.start(headers=AUDIO)
        for part in (b"a" * 1000, b"b" * 2000):
            await exchange.send(part)
        await exchange.finish()
        assert await asking == (200, b"a" * 1000 + b"b" * 2000)
        assert (await proxied.until_settled()).spent == 7 + 2 * (7 + 3000)


async def test_time_is_paid_by_the_millisecond(upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """From sending to the last byte of the answer, rounded up once, and extended ahead while it runs."""
    monkeypatch.setattr(estimating, "SLICE_MS", 20)
    async with start(settings=rules(), prices=tts(second=1_000_000)) as proxied:
        asking = asyncio.create_task(fetch(proxied))
        exchange = await upstream.next_request()
        await exchange.start(headers=AUDIO)

        async def extended() -> bool:
            return sum(verb == "extend" for verb, _ in proxied.ledger.calls) >= 3

        await proxied.until(extended)
        await exchange.finish()
        await asking
        spent_ms = (await proxied.until_settled()).spent / 1000
        assert spent_ms + 40 >= 60  # three slices of 20 ms were asked for, the last at most two ahead of their time
        assert proxied.outcomes() == {"complete": 1}


@pytest.mark.parametrize("begun", [False, True])
async def test_time_that_the_budget_cannot_pay_is_cut(
    upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """While the upstream is silent too: a refusal before the first byte, a broken answer after it; nothing is overspent."""
    monkeypatch.setattr(estimating, "SLICE_MS", 20)
    async with start(settings=rules(), prices=tts(second=1_000_000), credits_nanocredits=100_000) as proxied:
        asking = asyncio.create_task(fetch(proxied))
        exchange = await upstream.next_request()
        if begun:
            await exchange.start(headers=AUDIO)
            await exchange.send(b"x")
        await exchange.client_gone()
        if begun:
            with pytest.raises(aiohttp.ClientError):
                await asking
        else:
            status, body = await asking
            assert (status, b"insufficient_quota" in body) == (402, True)
        totals = await proxied.until_settled()
        assert 50_000 <= totals.spent <= 100_000


async def test_a_long_answer_is_renewed_and_cut_by_bytes(upstream: ScriptedUpstream, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the budget covers is delivered, then the connection is broken off, never ended as if it were whole."""
    monkeypatch.setattr(estimating, "SLICE_BYTES", 1000)

    async def pour(exchange: Exchange) -> None:
        await exchange.start(headers=AUDIO)
        while True:
            await exchange.send(b"x" * 500)

    upstream.automatic = pour
    async with start(settings=rules(), prices=tts(megabyte=MEGABYTE), credits_nanocredits=20_000) as proxied:
        received = bytearray()

        async def read_on() -> None:
            async with proxied.post("/custom/tts", data=b"") as answer:
                async for data in answer.content.iter_any():
                    received.extend(data)

        with pytest.raises(aiohttp.ClientError):
            await read_on()
        totals = await proxied.until_settled()
        assert totals.spent == 2 * len(received) <= 20_000
        assert len(received) > 8_000
        assert proxied.outcomes() == {"cut": 1}


async def test_an_upstreams_error_costs_nothing(upstream: ScriptedUpstream, start: Start) -> None:
    """It passes as it is."""
    async with start(settings=rules(), prices=tts(request=7)) as proxied:
        asking = asyncio.create_task(fetch(proxied))
        await (await upstream.next_request()).answer(b"no", status=500)
        assert await asking == (500, b"no")
        assert (await proxied.until_settled()).spent == 0


async def test_what_no_row_prices_is_refused(upstream: ScriptedUpstream, start: Start) -> None:
    """A row for tokens says nothing of it; the hint says what is missing."""
    async with start(settings=rules(), prices=tts(input=1, output=1)) as proxied:
        status, body = await fetch(proxied)
        assert (status, b"model_not_priced" in body, b"request" in body) == (403, True, True)
        assert upstream.received == []


async def test_rules_name_methods_queries_and_beginnings(upstream: ScriptedUpstream, start: Start) -> None:
    """Only what a rule names is let through; the rest of a path that begins so passes as it came."""
    upstream.automatic = lambda exchange: exchange.answer(b"ok")
    settings = rules(
        {"path": "/api/*", "methods": ["DELETE", "POST"], "query": ["voice"]}, {"path": "/api/health", "methods": ["GET"], "free": True}
    )
    async with start(settings=settings, prices=tts(request=7)) as proxied:
        assert (await fetch(proxied, "DELETE", "/api/models/x:7b?voice=ann"))[0] == 200
        assert upstream.received[-1].raw_path == "/api/models/x:7b?voice=ann"
        assert (await fetch(proxied, "POST", "/api/pull?other=1"))[0] == 400
        assert (await fetch(proxied, "PUT", "/api/pull"))[0] == 405
        assert (await fetch(proxied, "POST", "/api/../etc"))[0] in (400, 404)
        assert (await fetch(proxied, "POST", "/apis"))[0] == 404
        assert (await fetch(proxied, "GET", "/api/health")) == (200, b"ok")
        assert (await proxied.until_settled()).spent == 7


async def test_a_hang_up_is_charged_as_forwarded(upstream: ScriptedUpstream, start: Start) -> None:
    """The upstream is told at once."""
    async with start(settings=rules(), prices=tts(megabyte=MEGABYTE)) as proxied:
        asking = asyncio.create_task(fetch(proxied, data=b"12345"))
        exchange = await upstream.next_request()
        asking.cancel()
        await exchange.client_gone()
        assert (await proxied.until_settled()).spent == 10
        assert (await proxied.account(ACCOUNT)).totals.held == 0
