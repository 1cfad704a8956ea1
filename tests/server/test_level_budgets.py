"""Budgets in units of a level, through the whole proxy: what is charged, shown and counted, and when the index counts that is in force."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.domain import AccountId, Level, Limit, Plan, Price
from tests.server.conftest import Start
from tests.server.test_handler import Asked, bound, delta
from tests.support import openai_answers
from tests.support.openai_answers import chat_events
from tests.support.proxied import ACCOUNT, PATH, Proxied, chat, price
from tests.support.scripted_upstream import JSON, ScriptedUpstream

DAY_MS = 86_400_000
UNIT = 1_000_000_000
INDEX = 2_000_000
"""Nanocredits for a million blended tokens: a unit is worth two thousandths of a nanocredit a token."""
TINY = Price("tiny", 0, input=1_000_000, output=5_000_000, level="small")
DEAR = Price("dear", 0, input=3_000_000, output=7_000_000)
USAGE = openai_answers.usage(30, 10)
COST = 80
"""Of that usage, in nanocredits: 30 at 1 and 10 at 5."""
IN_UNITS = COST * UNIT // INDEX
PLENTY = 100 * UNIT


def small(**options: Any) -> dict[str, Any]:
    """A caller whose plan counts in units of the level, and what a test adds to that."""
    return {"plan": {"unit": "small"}, "prices": (TINY, DEAR), "credits_nanocredits": PLENTY, **options}


async def answered(proxied: Proxied, upstream: ScriptedUpstream, body: dict[str, Any], usage: Any = USAGE) -> Asked:
    """A request and its answer: whole, or as a stream."""
    asked = Asked(proxied, body)
    exchange = await upstream.next_request()
    if body.get("stream"):
        for data in chat_events(["word "] * 10, usage=usage):
            await exchange.send(data)
        await exchange.finish()
    else:
        await exchange.answer(openai_answers.chat("word " * 10, usage=usage), headers=JSON)
    await asked.whole()
    return asked


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_costs_its_price_divided_by_the_index(upstream: ScriptedUpstream, start: Start, stream: bool) -> None:
    """To the nanounit, streamed or not; the same work is counted in credits where work is counted."""
    async with start(**small()) as proxied:
        await answered(proxied, upstream, chat(stream=stream))
        totals = await proxied.until_settled()
        assert (totals.spent, totals.held, totals.overrun) == (IN_UNITS, 0, 0)
        assert proxied.counted("credits_total", "debited") == COST
        assert proxied.counted("served_credits_total", "up") == COST
        assert proxied.counted("held_credits") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_say_what_their_amounts_count(upstream: ScriptedUpstream, start: Start, stream: bool) -> None:
    """The level, and its index; where they count credits, nothing."""
    async with start(**small()) as proxied:
        asked = await answered(proxied, upstream, chat(stream=stream))
        assert asked.answer.headers["X-Ledger-Unit"] == "small;index=0.002"
    async with start(prices=(TINY,)) as proxied:
        asked = await answered(proxied, upstream, chat(stream=stream))
        assert "X-Ledger-Unit" not in asked.answer.headers


async def test_headers_and_journal_are_in_units_and_name_the_index(upstream: ScriptedUpstream, start: Start) -> None:
    """Cost and remainder in the account's unit; the memo says by which index it was counted."""
    async with start(**small()) as proxied:
        asked = await answered(proxied, upstream, chat())
        assert asked.answer.headers["X-Ledger-Cost"] == "0.00004"
        assert asked.answer.headers["X-Ledger-Remaining"] == "99.99996"
        (settled,) = [named for verb, named in proxied.ledger.calls if verb == "settle"]
        assert settled["memo"] == "tiny input=30 output=10 level:small@0.002"


@pytest.mark.parametrize("stream", [False, True])
async def test_rate_limits_name_the_unit_that_they_count(upstream: ScriptedUpstream, start: Start, stream: bool) -> None:
    """Millionths of a unit; a client that took them for credits would be wrong about its budget by the index."""
    async with start(**small()) as proxied:
        asked = await answered(proxied, upstream, chat(stream=stream))
        assert ';q=100000000;qu="microunits"' in asked.answer.headers["RateLimit-Policy"]
    async with start(prices=(TINY,), credits_nanocredits=PLENTY) as proxied:
        asked = await answered(proxied, upstream, chat(stream=stream))
        assert ';q=100000000;qu="microcredits"' in asked.answer.headers["RateLimit-Policy"]


async def test_refusals_name_the_unit_of_their_amounts(upstream: ScriptedUpstream, start: Start) -> None:
    """In the body and in the header, as answers do; where amounts are credits, or there are none, nothing is named."""
    for unit, options in (("small", small(credits_nanocredits=5)), (None, {"prices": (TINY,), "credits_nanocredits": 5})):
        async with start(**options) as proxied:
            asked = Asked(proxied, chat())
            member = msgspec.json.decode(await asked.whole())["compute_ledger"]
            assert (asked.answer.status, member["available"], member.get("unit")) == (402, "0.000000005", unit)
            assert asked.answer.headers.get("X-Ledger-Unit") == (unit and "small;index=0.002")
    async with start(**small()) as proxied:
        asked = Asked(proxied, {**chat(), "model": "unknown"})
        assert "unit" not in msgspec.json.decode(await asked.whole())["compute_ledger"]
        assert "X-Ledger-Unit" not in asked.answer.headers


async def test_a_model_without_a_level_costs_its_price_in_the_units_of_the_plan(upstream: ScriptedUpstream, start: Start) -> None:
    """Any model that has a price may be used; one twice as dear takes twice as many units."""
    async with start(**small()) as proxied:
        await answered(proxied, upstream, {**chat(), "model": "dear"})
        assert await proxied.spent() == (30 * 3 + 10 * 7) * UNIT // INDEX


async def test_callers_in_credits_are_charged_as_ever(upstream: ScriptedUpstream, start: Start) -> None:
    """For the same model, beside those who count in its level."""
    async with start(prices=(TINY,)) as proxied:
        await answered(proxied, upstream, chat())
        assert await proxied.spent() == COST
        (settled,) = [named for verb, named in proxied.ledger.calls if verb == "settle"]
        assert settled["memo"] == "tiny input=30 output=10"


async def test_a_budget_in_units_ends_a_stream_where_the_units_end(upstream: ScriptedUpstream, start: Start) -> None:
    """Exactly as many tokens are delivered as the units pay, and nothing is overspent."""
    body = chat(stream=True, content="")
    input_units = bound(body, 0) * UNIT // INDEX  # an input token is one nanocredit
    budget = input_units + 7 * 5 * UNIT // INDEX
    settings = {"ledger": {"slice_tokens": 2}}
    async with start(**small(credits_nanocredits=budget, settings=settings)) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for _ in range(12):
            await exchange.send(delta("w "))
        received = await asked.whole()
        assert received.count(b'"w "') == 7
        assert b"insufficient_quota" in received
        assert b'"unit":"small"' in received
        totals = await proxied.until_settled()
        assert totals.held == 0
        assert totals.spent <= budget


@pytest.mark.parametrize("change", ["price", "level"])
async def test_the_index_that_held_when_a_stream_began_settles_it(upstream: ScriptedUpstream, start: Start, change: str) -> None:
    """A price or an index that changes mid-stream counts from the next request on, and the audit of the hold finds nothing odd."""
    async with start(**small()) as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        events = list(chat_events(["word "] * 10, usage=USAGE))
        await exchange.send(events[0])
        await asked.until(b"data:")
        if change == "price":
            cheaper = Price("tiny", proxied.clock.now_ms, input=100_000, output=500_000, level="small")
            proxied.book.price_book = (TINY, cheaper)
        else:
            proxied.book.price_book = (TINY, Price("rival", proxied.clock.now_ms, input=100_000, output=500_000, level="small"))
        for data in events[1:]:
            await exchange.send(data)
        await exchange.finish()
        await asked.whole()
        assert await proxied.spent() == IN_UNITS
        await answered(proxied, upstream, chat(stream=True))
        # The model's own price has fallen as the index has, or the index alone has.
        assert await proxied.spent() == IN_UNITS + (IN_UNITS if change == "price" else 10 * IN_UNITS)
        memos = [named["memo"].rpartition(" ")[2] for verb, named in proxied.ledger.calls if verb == "settle"]
        assert memos == ["level:small@0.002", "level:small@0.0002"]


async def test_the_same_work_a_year_later_costs_the_same_in_units_and_a_tenth_in_credits(upstream: ScriptedUpstream, start: Start) -> None:
    """Where prices have fallen tenfold in 365.25 days; no schedule makes a debit cheaper or dearer before a price is there."""
    async with start(**small()) as proxied:
        later_ms = proxied.clock.now_ms + round(365.25 * DAY_MS)
        proxied.book.price_book = (TINY, Price("tiny", later_ms, input=100_000, output=500_000, level="small"))
        charges, work = [], []
        for at_ms in (proxied.clock.now_ms, later_ms - 1, later_ms):
            proxied.clock.now_ms = at_ms
            before, counted = await proxied.spent(), proxied.counted("credits_total", "debited")
            await answered(proxied, upstream, chat())
            charges.append(await proxied.spent() - before)
            work.append(proxied.counted("credits_total", "debited") - counted)
        assert charges == [IN_UNITS] * 3
        assert work == [COST, COST, COST // 10]


async def test_a_level_without_an_index_is_refused_with_the_row_to_add(start: Start, upstream: ScriptedUpstream) -> None:
    """Nobody can say what a unit is worth: 403, and nothing is held. A row that is yet to take effect does not help."""
    ahead = Price("tiny", 2_000_000_000_000, input=1, output=1, level="small")
    async with start(**small(prices=(price("tiny"), ahead))) as proxied:
        asked = Asked(proxied, chat())
        body = msgspec.json.decode(await asked.whole())
        assert (asked.answer.status, body["error"]["code"]) == (403, "model_not_priced")
        assert '[[price]]\nmodel = "tiny"\ninput = "..."\noutput = "..."\nlevel = "small"' in body["compute_ledger"]["hint"]
        assert (upstream.received, proxied.ledger.calls) == ([], [])


async def test_the_blend_of_the_configuration_counts(start: Start, upstream: ScriptedUpstream) -> None:
    """A level of embeddings is measured by input alone."""
    async with start(**small()) as proxied:
        proxied.book.configured_levels = (Level("small", input_parts=1, output_parts=0),)
        await answered(proxied, upstream, chat())
        assert await proxied.spent() == 2 * IN_UNITS


async def test_what_is_held_is_counted_in_credits_to_the_last_one(upstream: ScriptedUpstream, start: Start) -> None:
    """However an index divides, and however often a hold grew and was debited, nothing is left of it in the end."""
    odd = Price("tiny", 0, input=999_983, output=7_400_003, level="small")
    settings = {"ledger": {"slice_tokens": 3}}
    async with start(**small(prices=(odd,), settings=settings)) as proxied:
        for _ in range(3):
            asked = Asked(proxied, chat(stream=True))
            exchange = await upstream.next_request()
            for data in chat_events(["word "] * 20, usage=openai_answers.usage(31, 20)):
                await exchange.send(data)
                await asked.until(b"data:")
            assert proxied.counted("held_credits") > 0
            await exchange.finish()
            await asked.whole()
        assert (await proxied.until_settled()).held == 0
        assert proxied.counted("held_credits") == 0
        verbs = [verb for verb, _ in proxied.ledger.calls]
        assert verbs.count("extend") > 3


# --- seats and the commons -----------------------------------------------------------------------------------------------------------


async def test_seats_are_shared_by_work_whatever_it_is_counted_in(upstream: ScriptedUpstream, start: Start) -> None:
    """What a pool is told of a request is in credits: what it will probably cost, what it has cost so far, and what it did cost."""
    body = chat(stream=True, max_tokens=400)
    async with start(**small(upstream={"seats": 1})) as proxied:
        told = Told(proxied)
        await answered(proxied, upstream, chat())
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for _ in range(300):
            await exchange.send(delta("w "))

        async def is_dearer() -> bool:
            return bool(told.amounts["charge"])

        await proxied.until(is_dearer)
        for data in chat_events([], usage=openai_answers.usage(30, 300)):
            await exchange.send(data)
        await exchange.finish()
        await asked.whole()
        await proxied.until_settled()
        assert told.amounts["leave"] == [COST, 30 + 300 * 5]
        assert 0 < told.amounts["enter"][0] <= bound(chat(), 0) + 32_768 * 5
        assert told.amounts["enter"][1] <= 2 * COST
        assert max(told.amounts["charge"]) <= 300 * 5


class Told:
    """What the pools of a proxy are told that requests cost, in the order in which they are told."""

    def __init__(self, proxied: Proxied) -> None:
        self.amounts: dict[str, list[int]] = {"enter": [], "charge": [], "leave": []}
        for verb, amount in (("enter", "estimate_nanocredits"), ("charge", "spent_nanocredits"), ("leave", "spent_nanocredits")):
            setattr(proxied.pools, verb, self._noting(verb, amount, getattr(proxied.pools, verb)))

    def _noting(self, verb: str, amount: str, call: Any) -> Any:
        async def noted(*arguments: Any, **named: Any) -> Any:
            if named[amount] is not None:
                self.amounts[verb].append(named[amount])
            return await call(*arguments, **named)

        return noted


@pytest.mark.parametrize("unit", ["small", "credits"])
async def test_the_commons_pays_for_a_spare_seat_in_its_own_unit_alone(upstream: ScriptedUpstream, start: Start, unit: str) -> None:
    """Who counts in units gets one where the commons does so, too; else a budget that is used up is used up."""
    settings = {"commons": {"account": "commons"}}
    plan = {"unit": "small", "scavenge": True}
    async with start(**small(upstream={"seats": 1}, settings=settings, plan=plan, credits_nanocredits=IN_UNITS)) as proxied:
        commons = AccountId("commons")
        await proxied.model.put_plan(Plan("commons", (Limit(PLENTY, "day"),), unit=unit), operation_id="plan-commons")
        members = {"parent": None, "weight": None, "limits": None, "labels": {}}
        await proxied.model.create_account(commons, plan="commons", operation_id="open-commons", **members)
        proxied.book.units[commons] = unit
        await proxied.ledger.adjust(PATH, "used-up", credits_nanocredits=IN_UNITS)
        upstream.automatic = lambda exchange: exchange.answer(openai_answers.chat("word " * 10, usage=USAGE))
        asked = Asked(proxied, chat(max_tokens=1, content=""))
        await asked.whole()
        await proxied.until_settled()
        assert asked.answer.status == (200 if unit == "small" else 402)
        assert ((await proxied.account(commons)).totals.spent > 0) is (unit == "small")
        assert (await proxied.account(ACCOUNT)).totals.spent == IN_UNITS


async def test_an_outages_allowance_is_in_credits(upstream: ScriptedUpstream, start: Start) -> None:
    """What may pass unpaid is bounded by work: a caller in units gets no more of it for counting in small ones."""
    body = chat(max_tokens=10)
    settings = {"ledger": {"on_failure": "allow", "allow_max": "0.0000005"}}
    async with start(**small(settings=settings)) as proxied:
        most = bound(body, 0) + 10 * 5
        assert most < 500 < 2 * most * UNIT // INDEX
        proxied.ledger.cut()
        await answered(proxied, upstream, body)
        assert proxied.counted("uncounted_credits_total") == most
        proxied.ledger.mend()

        async def is_charged() -> bool:
            return await proxied.spent() == IN_UNITS

        await proxied.until(is_charged)
