"""Interventions on batches, through the whole proxy: orders fall on a batch as on a request, when its hold begins; but it takes no seat."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.policy.orders import POLICIES
from tests.server.conftest import Start
from tests.server.test_batching import BOUND, COST, DONE, ROW, balance, begin, begun, creation, look, upload
from tests.server.test_treatment import COMMONS, Intervened, open_commons
from tests.support import openai_answers as answers
from tests.support.batching_upstream import BatchingUpstream, output
from tests.support.proxied import ACCOUNT, KEY, Proxied
from tests.support.scripted_upstream import ScriptedUpstream

TITHE = COST // 4


@pytest.fixture
def batching(upstream: ScriptedUpstream) -> BatchingUpstream:
    kept = BatchingUpstream()
    upstream.automatic = kept.play
    return kept


@pytest.fixture
async def proxied(start: Start, batching: BatchingUpstream) -> AsyncIterator[Proxied]:
    async with start(prices=(ROW,)) as proxied:
        yield proxied


async def begun_headers(proxied: Proxied) -> dict[str, str]:
    """The headers of the answer to a batch's creation."""
    assert (await upload(proxied))[0] == 200
    async with proxied.post("/v1/batches", key=KEY, json=creation()) as answer:
        await answer.read()
        assert answer.status == 200
        return dict(answer.headers)


async def test_a_raised_price_is_held_debited_and_said(proxied: Proxied, batching: BatchingUpstream) -> None:
    """By the price in force when the hold began, whatever is in force when the batch ends; the work that it was counts as it is."""
    intervened = Intervened(proxied)
    intervened.uses.of_person[ACCOUNT] = 400
    await intervened.order("progressive_price")
    headers = await begun_headers(proxied)
    assert (headers["X-Ledger-Price-Factor"], headers["X-Ledger-Interventions"]) == ("2.00", "progressive_price")
    assert headers["X-Ledger-Remaining"] == f"0.{1_000_000 - 2 * BOUND:09d}".rstrip("0")
    assert await balance(proxied) == (2 * BOUND, 0, 0)
    await intervened.order()
    batching.end("batch_1", DONE, ran=2)
    await look(proxied)
    assert await balance(proxied) == (0, 2 * COST, 0)
    assert "price:2.00" in proxied.ledger.calls[-1][1]["memo"]
    assert proxied.counted("credits_total", "debited") == COST
    assert proxied.counted("intervention_acts_total", "progressive_price", "applied") == 1


async def test_a_price_that_is_raised_later_is_none_of_what_has_begun(proxied: Proxied, batching: BatchingUpstream) -> None:
    """A file that was uploaded before counts by what is in force when its batch begins."""
    await upload(proxied)
    intervened = Intervened(proxied)
    intervened.uses.of_person[ACCOUNT] = 300
    assert (await begin(proxied))[0] == 200
    await intervened.order("progressive_price")
    assert (await begin(proxied))[0] == 200
    assert (await balance(proxied))[0] == BOUND + -(-BOUND * 150 // 100)
    batching.end("batch_1", DONE)
    batching.end("batch_2", DONE)
    await look(proxied)
    assert await balance(proxied) == (0, COST + -(-COST * 150 // 100), 0)


async def test_the_ends_at_a_bound_are_raised_as_the_hold_was(proxied: Proxied, batching: BatchingUpstream) -> None:
    """What the upstream wrote beyond its bound is overrun, at the same price; of output that is gone the bound is paid."""
    intervened = Intervened(proxied)
    intervened.uses.of_person[ACCOUNT] = 400
    await intervened.order("progressive_price")
    await begun(proxied)
    batching.end("batch_1", output("1", answers.chat("hi", usage=answers.usage(0, BOUND + 1))))  # a token of output costs 2
    await look(proxied)
    assert await balance(proxied) == (0, 2 * BOUND, 2 * (BOUND + 2))
    assert proxied.counted("credits_total", "overrun") == BOUND + 2
    assert (await begin(proxied))[0] == 200
    batching.end("batch_2", DONE, ran=2)
    batching.files.pop(str(batching.batches["batch_2"]["output_file_id"]))
    await look(proxied)
    assert await balance(proxied) == (0, 4 * BOUND, 2 * (BOUND + 2))


async def test_what_acts_on_seats_does_not_act_on_batches(start: Start, batching: BatchingUpstream) -> None:
    """A batch takes none: whoever is above the cap and the brake has it begin at once, as it is, and nothing is said or counted."""
    async with start(prices=(ROW,), upstream={"seats": 1}) as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 2_000
        await intervened.order("cap", "brake")
        headers = await begun_headers(proxied)
        assert not {"X-Ledger-Interventions", "X-Ledger-Price-Factor"}.intersection(headers)
        assert await balance(proxied) == (BOUND, 0, 0)
        assert proxied.counted("intervention_acts_total") == 0


async def test_a_batch_owes_its_tithe_once_when_it_is_settled(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Of what it has cost, by the share that was in force when it began; nothing of what is only held."""
    await open_commons(proxied, 0)
    intervened = Intervened(proxied)
    intervened.uses.of_person[ACCOUNT] = 1_000
    await intervened.order("tithe")
    assert (await begun_headers(proxied))["X-Ledger-Interventions"] == "tithe"
    await intervened.order()
    await intervened.interventions.give_tithes()
    assert (await proxied.account()).totals.given == 0
    batching.end("batch_1", DONE, ran=2)
    for _ in range(2):
        await look(proxied)
        await intervened.interventions.give_tithes()
    totals = (await proxied.account()).totals
    assert (totals.spent, totals.given) == (COST, TITHE)
    assert (await proxied.account(COMMONS)).totals.granted == TITHE


async def test_below_the_floor_a_refused_batch_is_topped_up_and_begins(start: Start, batching: BatchingUpstream) -> None:
    """As a request would be, once a day; where that does not suffice the refusal is the caller's own."""
    async with start(prices=(ROW,), credits_nanocredits=0) as proxied:
        await open_commons(proxied, 10 * BOUND)
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 0
        await upload(proxied)
        assert (await begin(proxied))[0] == 402
        await intervened.order("floor", floor_nanocredits=BOUND)
        assert (await begin(proxied))[0] == 200
        assert (await balance(proxied))[0] == (await proxied.account()).totals.granted == BOUND
        batching.end("batch_1", DONE, ran=2)
        await look(proxied)
        status, refusal = await begin(proxied)
        assert (status, refusal["compute_ledger"]["available"]) == (402, f"0.{BOUND - COST:09d}".rstrip("0"))
        assert (await proxied.account()).totals.granted == BOUND


async def test_a_dry_run_changes_nothing_of_a_batch_and_is_counted(proxied: Proxied, batching: BatchingUpstream) -> None:
    """As far as the policies would act on a batch at all."""
    intervened = Intervened(proxied)
    intervened.uses.of_person[ACCOUNT] = 2_000
    await intervened.order(proposed=POLICIES)
    headers = await begun_headers(proxied)
    assert not {"X-Ledger-Interventions", "X-Ledger-Price-Factor"}.intersection(headers)
    batching.end("batch_1", DONE, ran=2)
    await look(proxied)
    await intervened.interventions.give_tithes()
    assert await balance(proxied) == (0, COST, 0)

    async def counted() -> bool:
        return all(proxied.counted("intervention_acts_total", name, "would_apply") == 1 for name in ("progressive_price", "tithe"))

    await proxied.until(counted)
    assert proxied.counted("intervention_acts_total") == 2


async def test_a_batch_that_a_raised_price_has_refused_is_told_so(proxied: Proxied, batching: BatchingUpstream) -> None:
    """As its answer would have been."""
    assert (await upload(proxied))[0] == 200
    intervened = Intervened(proxied)
    intervened.uses.of_person[ACCOUNT] = 400
    await intervened.order("progressive_price", price_kappa=1e9, price_percent_max=10**9)
    async with proxied.post("/v1/batches", key=KEY, json=creation()) as answer:
        await answer.read()
        assert answer.status == 402
        assert answer.headers["X-Ledger-Interventions"] == "progressive_price"
        assert answer.headers["X-Ledger-Price-Factor"] == "10000000.00"
