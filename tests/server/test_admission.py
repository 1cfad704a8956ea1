"""Who is let in, and for what: models, prices, budgets, many at once; and that nothing secret gets out on any way."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from proxy.config import Compat
from tests.server.conftest import Start
from tests.server.test_handler import COST, USAGE, Asked, bound
from tests.support import openai_answers
from tests.support.proxied import KEY, RATE_INPUT, RATE_OUTPUT, UPSTREAM_KEY, Proxied, chat, price
from tests.support.scripted_upstream import EVENT_STREAM, Exchange, ScriptedUpstream


async def refused(proxied: Proxied, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, dict[str, Any]]:
    async with proxied.post(path, json=body) as answer:
        return answer.status, msgspec.json.decode(await answer.read())


async def listed(proxied: Proxied) -> list[str]:
    async with proxied.client.get(proxied.base_url + "/v1/models", headers={"x-api-key": KEY}) as answer:
        return [model["id"] for model in msgspec.json.decode(await answer.read())["data"]]


# --- models --------------------------------------------------------------------------------------------------------------------------


async def test_model_must_be_in_the_plan(start: Start, upstream: ScriptedUpstream) -> None:
    """403, whatever it costs and whoever serves it."""
    async with start(plan={"models": ("gpt-*", "tiny-2")}) as proxied:
        status, body = await refused(proxied, chat())
        assert (status, body["error"]["code"]) == (403, "model_not_allowed")
        assert upstream.received == []


async def test_model_must_be_served(start: Start) -> None:
    """404; the names of the upstreams stay inside."""
    async with start(upstream={"models": ["other"]}) as proxied:
        status, body = await refused(proxied, chat())
        assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_dialect_must_be_spoken(start: Start) -> None:
    """A path of an API that no upstream speaks does not exist."""
    async with start(upstream={"dialects": ["anthropic"]}) as proxied:
        status, body = await refused(proxied, chat())
        assert (status, body["error"]["code"]) == (404, "unknown_path")


@pytest.mark.parametrize(
    ("prices", "row"),
    [
        ((price("other"),), '[[price]]\nmodel = "tiny"\ninput = "..."\noutput = "..."'),
        ((price("tiny", output=None),), '[[price]]\nmodel = "tiny"\ninput = "..."\noutput = "..."'),
    ],
)
async def test_model_must_be_priced(start: Start, prices: Any, row: str) -> None:
    """Nothing is free by accident: 403, and the hint is the row that an operator would add."""
    async with start(prices=prices) as proxied:
        status, body = await refused(proxied, chat())
        assert (status, body["error"]["code"]) == (403, "model_not_priced")
        assert row in body["compute_ledger"]["hint"]


async def test_price_change_applies_to_the_next_request(start: Start, upstream: ScriptedUpstream) -> None:
    """The price that held when a request began is the one it pays."""
    async with start() as proxied:
        asked = Asked(proxied, chat())
        exchange = await upstream.next_request()
        proxied.book.price_book = (price(input=7_000_000),)
        await exchange.answer(openai_answers.chat("x", usage=USAGE))
        await asked.whole()
        assert await proxied.spent() == COST
        asked = Asked(proxied, chat())
        await (await upstream.next_request()).answer(openai_answers.chat("x", usage=USAGE))
        await asked.whole()
        assert await proxied.spent() == COST + 70 + 20


async def test_models_that_may_be_used_are_listed(start: Start) -> None:
    """Named by the configuration, served, priced and in the plan."""
    upstreams = [{"name": "a", "base_url": "http://127.0.0.1:9", "models": ["gpt-4o", "llama", "secret"]}]
    prices = (price("gpt-4o"), price("gpt-5"), price("llama*"), price("secret"))
    async with start(upstreams=upstreams, prices=prices, plan={"models": ("gpt-*", "llama")}) as proxied:
        assert await listed(proxied) == ["gpt-4o", "llama"]
        for model, status in (("llama", 200), ("gpt-5", 404), ("secret", 403)):
            async with proxied.client.get(f"{proxied.base_url}/v1/models/{model}", headers={"x-api-key": KEY}) as answer:
                assert answer.status == status


async def test_upstreams_are_asked_for_what_their_patterns_leave_open(start: Start, upstream: ScriptedUpstream) -> None:
    """Once a minute, with our key; what they list counts as far as it is priced and allowed."""

    async def models(exchange: Exchange) -> None:
        data = [{"id": name, "object": "model"} for name in ("tiny", "tiny-2", "huge")]
        await exchange.answer(openai_answers.encode({"object": "list", "data": data}))

    upstream.automatic = models
    async with start(prices=(price("tiny*"),)) as proxied:
        assert await listed(proxied) == ["tiny", "tiny-2"]
        assert await asyncio.gather(*(listed(proxied) for _ in range(5))) == [["tiny", "tiny-2"]] * 5
        assert len(upstream.received) == 1
        assert upstream.received[0].headers["Authorization"] == f"Bearer {UPSTREAM_KEY}"


@pytest.mark.parametrize("body", [b"not json", b'{"data":"x"}', b'{"data":[{"id":1}]}', b'{"data":[{"id":"a\\u0000b"}]}'])
async def test_upstream_that_lists_nonsense_lists_nothing(start: Start, upstream: ScriptedUpstream, body: bytes) -> None:
    """The configuration's own names are still there."""

    async def nonsense(exchange: Exchange) -> None:
        await exchange.answer(body)

    upstream.automatic = nonsense
    async with start(prices=(price("tiny"), price("*"))) as proxied:
        assert await listed(proxied) == ["tiny"]


# --- budgets -------------------------------------------------------------------------------------------------------------------------


async def test_budget_that_is_spent(start: Start, upstream: ScriptedUpstream) -> None:
    """402 with what is needed and available, when the window turns, and no reason to try again."""
    upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    body = chat(max_tokens=5)
    async with start(credits_nanocredits=bound(body, 5)) as proxied:
        asked = Asked(proxied, body)
        await asked.whole()
        asked = Asked(proxied, body)
        document = msgspec.json.decode(await asked.whole())
        assert (asked.answer.status, document["error"]["code"]) == (402, "insufficient_quota")
        assert asked.answer.headers["x-should-retry"] == "false"
        assert set(document["compute_ledger"]) >= {"account", "limit", "needed", "available", "resets_at"}
        assert len(upstream.received) == 1


async def test_request_that_can_never_fit(start: Start) -> None:
    """Another code, so that nobody waits for the window."""
    body = chat()
    async with start(credits_nanocredits=bound(body, 0)) as proxied:
        status, document = await refused(proxied, body)
        assert (status, document["error"]["code"]) == (402, "request_exceeds_budget")


async def test_budget_status_of_the_configuration(start: Start) -> None:
    """`[compat] budget_status` for clients that know no 402."""
    for budget_status in (429, 403):
        async with start(credits_nanocredits=1, settings={"compat": {"budget_status": budget_status}}) as proxied:
            asked = Asked(proxied, chat())
            await asked.whole()
            assert (asked.answer.status, asked.answer.headers["x-should-retry"]) == (budget_status, "false")
    assert Compat().budget_status == 402


async def test_suspended_account(start: Start) -> None:
    """403."""
    async with start() as proxied:
        await proxied.model.update_account(proxied.book.callers.popitem()[1].account, operation_id="s", status="suspended")
    async with start() as proxied:
        (caller,) = proxied.book.callers.values()
        await proxied.model.update_account(caller.account, operation_id="s", status="suspended")
        status, document = await refused(proxied, chat())
        assert (status, document["error"]["code"]) == (403, "account_suspended")


@pytest.mark.parametrize("stream", [False, True])
async def test_exactly_as_many_run_as_fit(start: Start, upstream: ScriptedUpstream, stream: bool) -> None:
    """200 at once on a budget for 37: 37 run, the others are refused, and not a nanocredit too much is spent."""
    body = chat(stream=stream, max_tokens=5)
    each = bound(body, 5)
    usage = openai_answers.usage(each - 20, 5)
    async with start(credits_nanocredits=37 * each + 19) as proxied:
        asked = [Asked(proxied, body) for _ in range(200)]
        exchanges = [await upstream.next_request() for _ in range(37)]
        await proxied.until(lambda: _refused_so_far(proxied, 163))
        for exchange in exchanges:
            if stream:
                for data in openai_answers.chat_events(["w "] * 5, usage=usage):
                    await exchange.send(data)
                await exchange.finish()
            else:
                await exchange.answer(openai_answers.chat("w " * 5, usage=usage))
        await asyncio.gather(*(one.whole() for one in asked))
        statuses = [one.answer.status for one in asked]
        assert (statuses.count(200), statuses.count(429)) == (37, 163)
        totals = await proxied.until_settled()
        assert (totals.spent, totals.held, totals.overrun) == (37 * each, 0, 0)


async def _refused_so_far(proxied: Proxied, count: int) -> bool:
    return proxied.outcomes().get("budget_in_flight", 0) == count


# --- nothing secret gets out ---------------------------------------------------------------------------------------------------------


async def test_callers_key_never_goes_upstream(start: Start, upstream: ScriptedUpstream) -> None:
    """Not in its own header, not in any other."""
    async with start() as proxied:
        headers = {"X-Trace": f"k={KEY}", "X_Api_Key": KEY, "Cookie": f"key={KEY}", "x-api-key": KEY}
        asked = Asked(proxied, chat(), headers=headers)
        exchange = await upstream.next_request()
        assert all(KEY not in value for value in exchange.headers.values())
        await exchange.answer(openai_answers.chat("x", usage=USAGE))
        await asked.whole()


async def test_unexpected_failure_is_a_500_without_secrets(
    start: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug ends as an answer in the dialect's shape and as a line in the log that holds neither prompt nor key; the hold ends."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"prompt of {KEY}")

    for place in ("proxy.server.headers.for_upstream", "proxy.server.answers.add_budget", "proxy.server.admission.check_allowed"):
        with caplog.at_level(logging.DEBUG), monkeypatch.context() as patch:
            upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
            patch.setattr(place, broken)
            async with start() as proxied:
                status, document = await refused(proxied, chat(content="a secret prompt"))
                assert (status, document["error"]["code"]) == (500, "internal_error")
                assert (await proxied.until_settled()).held == 0
                assert proxied.outcomes() == {"internal_error": 1}
    assert "RuntimeError" in caplog.text
    assert "secret prompt" not in caplog.text
    assert KEY not in caplog.text


async def test_nothing_is_logged_of_what_succeeds(start: Start, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture) -> None:
    """At the default level; and at the most talkative one still no prompt, no answer and no key."""
    upstream.automatic = openai_answers.generating(word="completion ")
    async with start() as proxied:
        with caplog.at_level(logging.INFO, logger="proxy"):
            await Asked(proxied, chat(content="a secret prompt", stream=True)).whole()
            assert [record for record in caplog.records if record.name.startswith("proxy")] == []
        with caplog.at_level(logging.DEBUG):
            await Asked(proxied, chat(content="a secret prompt")).whole()
    for secret in ("secret prompt", "completion", KEY, UPSTREAM_KEY):
        assert secret not in caplog.text


async def test_media_count_by_the_rule_of_the_upstream_that_serves(start: Start, upstream: ScriptedUpstream) -> None:
    """An image is held at the price that the serving upstream's operator gave it, whichever upstream stands first."""
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": image}]}
    upstreams = [
        {"name": "other", "base_url": "http://127.0.0.1:9", "models": ["x"], "image_tokens": 1},
        {"name": "up", "base_url": upstream.base_url, "models": ["tiny"], "image_tokens": 5000},
    ]
    async with start(upstreams=upstreams) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        assert (await proxied.account()).totals.held > 5000
        await exchange.answer(openai_answers.chat("x"))
        await asked.whole()
        assert await proxied.spent() > 5000


async def test_what_a_model_thinks_unseen_is_held_where_the_operator_says_how_much(start: Start, upstream: ScriptedUpstream) -> None:
    """Of twenty streams that each think 500 tokens unseen, only those run whose thoughts the budget pays; nothing is overrun."""
    bill = openai_answers.usage(10, 501, reasoning=500)
    whole = b"".join(openai_answers.chat_events(["word "], usage=bill))
    arrived = asyncio.Event()

    async def think(exchange: Exchange) -> None:
        await arrived.wait()
        await exchange.answer(whole, headers=EVENT_STREAM)

    upstream.automatic = think
    async with start(credits_nanocredits=10_000, upstream={"unseen_tokens": 500}, settings={"ledger": {"slice_tokens": 8}}) as proxied:
        asked = [Asked(proxied, chat(stream=True)) for _ in range(20)]

        async def decided() -> bool:
            return len(upstream.received) + sum(a.head.is_set() for a in asked) == 20

        await proxied.until(decided)
        arrived.set()
        answers = await asyncio.gather(*(a.whole() for a in asked))
        totals = await proxied.until_settled()
        each = (10 * RATE_INPUT + 501 * RATE_OUTPUT) // 1_000_000
        complete = sum(b"[DONE]" in answer for answer in answers)
        assert (totals.spent, totals.overrun) == (complete * each, 0)
        assert complete == 4
