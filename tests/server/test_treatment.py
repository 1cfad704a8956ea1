"""Interventions, through the whole proxy: what orders make of one request, and that dry runs make nothing of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.domain import AccountId, Caller, Limit, Path, Plan
from proxy.errors import LedgerUnavailable, Refusal
from proxy.policy.equality import Uses
from proxy.policy.orders import NEUTRAL, ORDERS_VALID_MS, POLICIES, Orders, PolicyName, Treatment
from proxy.server.interventions import Interventions
from tests.server.conftest import Start
from tests.server.test_seating import ANSWER, COST, ask, people, until_waiting
from tests.support.proxied import ACCOUNT, KEY, PATH, Proxied, chat
from tests.support.scripted_upstream import ScriptedUpstream

COMMONS = AccountId("commons")
LINES = Orders(
    at_ms=0,
    window_starts_at_ms=1_800_000_000_000 - 1_800_000_000_000 % 86_400_000,
    average_nanocredits=100,
    floor_nanocredits=50,
    boost_quarters=16,
    cap_nanocredits=150,
    price_theta=2,
    price_kappa=0.5,
    price_percent_max=400,
    brake_nanocredits=1_000,
    brake_quarters=1,
    tithe_nanocredits=200,
    tithe_share=0.25,
)


class KnownUses:
    """What persons have used, as the test says."""

    def __init__(self) -> None:
        self.of_person: dict[AccountId, int] = {}
        self.asked: list[Path] = []
        self.known = asyncio.Event()
        """Nobody's use is told before this is set."""
        self.known.set()
        self.is_down = False

    async def of(self, path: Path) -> Uses | None:
        self.asked.append(path)
        await self.known.wait()
        if self.is_down:
            raise LedgerUnavailable
        use = self.of_person.get(path[-1])
        return None if use is None else Uses(1, {"day": use})

    async def set_aside(self, person: Path) -> int:
        return 0


class Intervened:
    """A proxy's interventions, with their orders and everybody's use in the test's hands."""

    def __init__(self, proxied: Proxied) -> None:
        self.uses = KnownUses()
        self.given: Orders | None = None
        self.commons: Path | None = (COMMONS,)
        self.is_commons_there = True
        self._proxied = proxied
        self.interventions = proxied.proxy.interventions = Interventions(
            read_orders=self._read,
            uses=self.uses,
            ledger=proxied.model,
            commons=self._commons,
            metrics=proxied.metrics,
            now_ms=proxied.clock,
            in_background=proxied.proxy.seating.in_background,
        )

    async def _read(self) -> Orders | None:
        return self.given

    async def _commons(self) -> Path | None:
        if not self.is_commons_there:
            raise Refusal("account_not_found", f"there is no account {COMMONS!r}", account=COMMONS)
        return self.commons

    async def order(self, *on: PolicyName, proposed: tuple[PolicyName, ...] = (), **lines: Any) -> None:
        self.given = replace(LINES, at_ms=self._proxied.clock.now_ms, on=on, proposed=proposed, **lines)
        await self.interventions.refresh()


async def answered(proxied: Proxied, upstream: ScriptedUpstream, key: str = KEY) -> tuple[int, dict[str, str], bytes]:
    asking = asyncio.create_task(ask(proxied, key))
    await (await upstream.next_request()).answer(ANSWER)
    return await asking


async def test_orders_say_nothing_of_who_counts_in_another_unit(upstream: ScriptedUpstream, start: Start) -> None:
    """Its use cannot be compared with their lines."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 10_000
        await intervened.order("progressive_price", unit="general")
        _, headers, _ = await answered(proxied, upstream)
        assert "X-Ledger-Price-Factor" not in headers
        assert (await proxied.until_settled()).spent == COST
        await intervened.order("progressive_price")
        _, headers, _ = await answered(proxied, upstream)
        assert headers["X-Ledger-Price-Factor"] == "4.00"


async def test_without_orders_nothing_is_asked_and_nothing_changes(upstream: ScriptedUpstream, start: Start) -> None:
    """Nobody's use is even looked at."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        await intervened.interventions.refresh()
        _, headers, _ = await answered(proxied, upstream)
        assert "X-Ledger-Price-Factor" not in headers
        assert (await proxied.until_settled()).spent == COST
        assert intervened.uses.asked == []


async def test_a_raised_price_is_debited_and_said(upstream: ScriptedUpstream, start: Start) -> None:
    """Four times the average: twice the price, in the debit, in a header and in the journal; the next one by its own use."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        await intervened.order("progressive_price")
        _, headers, _ = await answered(proxied, upstream)
        assert headers["X-Ledger-Price-Factor"] == "2.00"
        assert headers["X-Ledger-Interventions"] == "progressive_price"
        assert headers["X-Ledger-Cost"] == f"0.{2 * COST:09d}".rstrip("0")
        assert (await proxied.until_settled()).spent == 2 * COST
        assert "price:2.00" in proxied.ledger.calls[-1][1]["memo"]
        intervened.uses.of_person[ACCOUNT] = 100
        _, headers, _ = await answered(proxied, upstream)
        assert "X-Ledger-Price-Factor" not in headers
        assert (await proxied.until_settled()).spent == 3 * COST
        assert proxied.counted("intervention_acts_total", "progressive_price", "applied") == 1


async def test_work_is_shared_by_what_it_is_and_not_by_its_raised_price(upstream: ScriptedUpstream, start: Start) -> None:
    """A seat is charged what the work costs everybody."""
    async with start(upstream={"seats": 1}) as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        await intervened.order("progressive_price")
        await answered(proxied, upstream)
        await proxied.until_settled()
        assert proxied.counted("served_credits_total", "up") == COST


async def test_a_dry_run_changes_nothing_and_is_counted(upstream: ScriptedUpstream, start: Start) -> None:
    """Price, class, weight and tithe stay as they are, nothing waits for it; what would have applied is in the metrics."""
    async with start(upstream={"seats": 1}) as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 2_000
        await intervened.order(proposed=POLICIES)
        intervened.uses.known.clear()
        _, headers, _ = await answered(proxied, upstream)
        intervened.uses.known.set()
        await intervened.interventions.give_tithes()
        assert not {"X-Ledger-Price-Factor", "X-Ledger-Interventions"}.intersection(headers)
        totals = await proxied.until_settled()
        assert (totals.spent, totals.given) == (COST, 0)

        async def counted() -> bool:
            policies = ("cap", "progressive_price", "brake", "tithe")
            return all(proxied.counted("intervention_acts_total", policy, "would_apply") == 1 for policy in policies)

        await proxied.until(counted)
        assert proxied.counted("intervention_acts_total", "floor", "would_apply") == 0


async def test_above_the_cap_one_waits_until_nobody_else_wants_the_seat(upstream: ScriptedUpstream, start: Start) -> None:
    """Though by the fair queue it would be its turn; and where the seat is free it takes it at once, and keeps it."""
    async with start(upstream={"seats": 1, "queue_timeout_s": 5}) as proxied:
        intervened = Intervened(proxied)
        keys = await people(proxied, "user:bob")
        intervened.uses.of_person |= {ACCOUNT: 1_000, AccountId("user:bob"): 100}
        await intervened.order("cap")
        first = asyncio.create_task(ask(proxied, keys["user:bob"]))
        exchange = await upstream.next_request()
        capped = asyncio.create_task(ask(proxied))
        await until_waiting(proxied, 1)
        second = asyncio.create_task(ask(proxied, keys["user:bob"]))
        await until_waiting(proxied, 2)
        await exchange.answer(ANSWER)
        await (await upstream.next_request()).answer(ANSWER)
        assert (await first)[0] == (await second)[0] == 200
        exchange = await upstream.next_request()
        assert not capped.done()
        third = asyncio.create_task(ask(proxied, keys["user:bob"]))
        await until_waiting(proxied, 1)
        await proxied.proxy.seating.beat()  # tells spare seats that they are wanted back
        await exchange.answer(ANSWER)
        status, headers, body = await capped
        assert (status, body, headers["X-Ledger-Interventions"]) == (200, ANSWER, "cap"), "what runs is not cut for it"
        await (await upstream.next_request()).answer(ANSWER)
        assert (await third)[0] == 200


async def test_inside_an_organisation_the_persons_own_weight_changes_alone(start: Start) -> None:
    """The organisation's is everybody's in it; an agent waits with its person's."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        await intervened.order("floor")
        low = await _treated(intervened, 10)
        plan = Plan("everyone", ())
        org, ann, bot = AccountId("org"), AccountId("ann"), AccountId("bot")
        member = Caller(ann, (org, ann), plan, "key", (3, 2))
        agent = Caller(bot, (org, ann, bot), plan, "key", (3, 2), person=(org, ann))
        alone = Caller(ann, (ann,), plan, "key", (2, 2))
        weights = intervened.interventions.weights
        assert [weights(caller, low) for caller in (member, agent, alone)] == [(12, 32), (12, 32), (32, 32)]
        assert weights(member, NEUTRAL) == (12, 8)
        await intervened.order("cap")
        assert weights(member, NEUTRAL) == (3, 2)


async def _treated(intervened: Intervened, use: int) -> Treatment:
    intervened.uses.of_person[ACCOUNT] = use
    return await intervened.interventions.look(Caller(ACCOUNT, PATH, Plan("everyone", ()), "key"))


@pytest.mark.parametrize(("policy", "use"), [("floor", 10), ("brake", 2_000)])
async def test_weights_count_more_below_the_floor_and_less_at_the_top(
    upstream: ScriptedUpstream, start: Start, policy: PolicyName, use: int
) -> None:
    """All weights are in quarters while any differs: four times one, or a quarter of it."""
    async with start(upstream={"seats": 1, "queue_timeout_s": 5}) as proxied:
        intervened = Intervened(proxied)
        keys = await people(proxied, "user:bob", "user:eve")
        intervened.uses.of_person |= {ACCOUNT: 100, AccountId("user:bob"): use, AccountId("user:eve"): 100}
        await intervened.order(policy)
        running = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        waiting = [asyncio.create_task(ask(proxied, keys[name])) for name in keys]
        await until_waiting(proxied, 2)
        weights = {standing.account: standing.root_weight for standing in proxied.pools.pool("up").standings()}
        assert weights == {ACCOUNT: 4, "user:bob": 16 if policy == "floor" else 1, "user:eve": 4}
        await exchange.answer(ANSWER)
        for _ in waiting:
            await (await upstream.next_request()).answer(ANSWER)
        assert {(await one)[0] for one in (running, *waiting)} == {200}


async def open_commons(proxied: Proxied, credits_nanocredits: int) -> None:
    await proxied.model.create_account(
        COMMONS, parent=None, plan="everyone", weight=None, limits=(), labels={}, operation_id="open-commons"
    )
    if credits_nanocredits:
        await proxied.model.grant((COMMONS,), "endowment", credits_nanocredits=credits_nanocredits)


async def test_below_the_floor_a_refused_person_is_topped_up_and_served(upstream: ScriptedUpstream, start: Start) -> None:
    """Up to the floor, from the commons, once a day; what was given stands in the journal with the policy's name."""
    async with start(credits_nanocredits=0) as proxied:
        await open_commons(proxied, 1_000)
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 0
        await intervened.order("floor", floor_nanocredits=90)
        status, _, body = await answered(proxied, upstream)
        assert (status, body) == (200, ANSWER)
        totals = await proxied.until_settled()
        assert (totals.granted, totals.spent) == (90, COST)
        assert (await proxied.account(COMMONS)).totals.given == 90
        (grant,) = (await proxied.account()).grants
        assert "intervention floor" in grant.reason
        assert grant.expires_at_ms == LINES.window_starts_at_ms + 86_400_000
        intervened.uses.of_person[ACCOUNT] = COST
        async with proxied.post(json=chat(content="long " * 100)) as refused:
            assert refused.status == 402
        assert (await proxied.until_settled()).granted == 90


async def test_who_has_enough_left_gets_nothing_for_asking_too_much(start: Start) -> None:
    """A request that no budget could pay is refused, and opens no purse: what is left counts as if it were used."""
    async with start(credits_nanocredits=80) as proxied:
        await open_commons(proxied, 1_000)
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 0
        for floor, granted in ((80, 0), (100, 20)):
            await intervened.order("floor", floor_nanocredits=floor)
            async with proxied.post(json=chat(content="long " * 200)) as refused:
                assert refused.status == 402
            assert (await proxied.until_settled()).granted == granted


async def test_an_empty_commons_tops_nobody_up(upstream: ScriptedUpstream, start: Start) -> None:
    """The refusal is the caller's, as ever."""
    async with start(credits_nanocredits=0) as proxied:
        await open_commons(proxied, 0)
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 0
        await intervened.order("floor")
        status, _, _ = await ask(proxied)
        assert status == 402
        assert proxied.counted("intervention_acts_total", "floor", "top_up") == 0


async def test_an_agent_that_its_person_has_capped_is_not_topped_up(upstream: ScriptedUpstream, start: Start) -> None:
    """The cap is the person's to raise; the person's own budget is not what refuses."""
    async with start() as proxied:
        await open_commons(proxied, 1_000_000)
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 0
        await intervened.order("floor", floor_nanocredits=1_000)
        agent = AccountId("user:ann.bot")
        plan = Plan("everyone", ())
        await proxied.model.create_account(
            agent, parent=ACCOUNT, plan="everyone", weight=None, limits=(Limit(0, "day"),), labels={}, operation_id="open-agent"
        )
        key = f"cl-{'a' * 43}"
        proxied.book.add(key, Caller(agent, (ACCOUNT, agent), plan, "key-a", person=PATH))
        status, _, _ = await ask(proxied, key)
        assert status == 402
        assert (await proxied.account()).totals.granted == 0


async def test_tithes_go_to_the_commons_from_what_is_left(upstream: ScriptedUpstream, start: Start) -> None:
    """A quarter of what was spent, in one transfer for the requests of a minute, under an id that may be repeated."""
    async with start() as proxied:
        await open_commons(proxied, 0)
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 1_000
        await intervened.order("tithe")
        for _ in range(4):
            await answered(proxied, upstream)
        await proxied.until_settled()
        await intervened.interventions.give_tithes()
        await intervened.interventions.give_tithes()
        totals = (await proxied.account()).totals
        assert (totals.spent, totals.given) == (4 * COST, 4 * (COST // 4))
        assert (await proxied.account(COMMONS)).totals.granted == 4 * (COST // 4)
        assert proxied.counted("intervention_acts_total", "tithe", "give") == 1


async def test_old_orders_are_in_force_no_more(upstream: ScriptedUpstream, start: Start) -> None:
    """Where nobody has looked for minutes, nobody is treated by what was seen then."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        await intervened.order("progressive_price")
        proxied.clock.now_ms += ORDERS_VALID_MS + 1
        await intervened.interventions.refresh()
        _, headers, _ = await answered(proxied, upstream)
        assert "X-Ledger-Price-Factor" not in headers


async def test_while_the_ledger_cannot_say_all_are_treated_as_ever(upstream: ScriptedUpstream, start: Start) -> None:
    """Nobody pays for what is not known."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        intervened.uses.is_down = True
        await intervened.order(*POLICIES)
        _, headers, _ = await answered(proxied, upstream)
        assert "X-Ledger-Price-Factor" not in headers
        assert (await proxied.until_settled()).spent == COST


async def test_a_stream_keeps_the_price_that_it_began_with(upstream: ScriptedUpstream, start: Start) -> None:
    """Orders that end meanwhile change nothing of what runs."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        await intervened.order("progressive_price")
        asking = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        await intervened.order()
        await exchange.answer(ANSWER)
        await asking
        assert (await proxied.until_settled()).spent == 2 * COST


# --- nobody is treated in silence, nor refused so ---------------------------------------------------------------------------------------


async def test_a_refusal_by_a_raised_price_says_so(start: Start) -> None:
    """The 402 that the plain price would not have been carries what an answer would have."""
    async with start(credits_nanocredits=1) as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        await intervened.order("progressive_price", "tithe")
        status, headers, _ = await ask(proxied)
        assert status == 402
        assert headers["X-Ledger-Interventions"] == "progressive_price, tithe"
        assert headers["X-Ledger-Price-Factor"] == "2.00"
        await intervened.order(proposed=POLICIES)
        status, headers, _ = await ask(proxied)
        assert status == 402
        assert not {"X-Ledger-Price-Factor", "X-Ledger-Interventions"}.intersection(headers)


async def test_a_capped_caller_that_waited_in_vain_is_told_of_the_cap(upstream: ScriptedUpstream, start: Start) -> None:
    """Its 429 looks like nobody else's."""
    async with start(upstream={"seats": 1, "queue_timeout_s": 0.2}) as proxied:
        intervened = Intervened(proxied)
        keys = await people(proxied, "user:bob")
        intervened.uses.of_person |= {ACCOUNT: 1_000, AccountId("user:bob"): 100}
        await intervened.order("cap")
        first = asyncio.create_task(ask(proxied, keys["user:bob"]))
        exchange = await upstream.next_request()
        refused = await asyncio.gather(ask(proxied), ask(proxied, keys["user:bob"]))
        assert [(status, headers.get("X-Ledger-Interventions")) for status, headers, _ in refused] == [(429, "cap"), (429, None)]
        await exchange.answer(ANSWER)
        await first


# --- a commons that is named and not there ----------------------------------------------------------------------------------------------


async def test_a_missing_commons_leaves_a_refusal_as_it_is(start: Start) -> None:
    """Who is below the floor hears of his own budget, not of an account that he does not know."""
    async with start(credits_nanocredits=0) as proxied:
        intervened = Intervened(proxied)
        intervened.is_commons_there = False
        intervened.uses.of_person[ACCOUNT] = 0
        await intervened.order("floor", floor_nanocredits=90)
        status, headers, body = await ask(proxied)
        assert (status, headers["X-Ledger-Interventions"]) == (402, "floor")
        assert ACCOUNT.encode() in body
        assert proxied.counted("intervention_acts_total", "floor", "top_up") == 0


async def test_without_a_commons_no_tithe_is_due_which_is_told_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Giving goes on for whoever owes when it is there."""
    async with start() as proxied:
        await open_commons(proxied, 0)
        intervened = Intervened(proxied)
        intervened.is_commons_there = False
        for _ in range(3):
            intervened.interventions.owe(PATH, 0.5, 100)
            await intervened.interventions.give_tithes()
        told = [record for record in caplog.records if "commons" in record.getMessage()]
        assert [record.getMessage() for record in told] == ["nothing is given to or from the commons: there is no account 'commons'"]
        intervened.is_commons_there = True
        intervened.interventions.owe(PATH, 0.5, 100)
        await intervened.interventions.give_tithes()
        assert (await proxied.account()).totals.given == 50
