"""The controller on a real ledger: one look at a time whoever takes it, decisions in force, every step in the audit log."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from proxy import config
from proxy.app.controller import Controller
from proxy.app.intervening import modes_in
from proxy.domain import AccountId
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger import Store, keys
from proxy.ledger.interventions import InterventionRecord
from proxy.ledger.pools import Pools
from proxy.metrics import Metrics
from proxy.policy.equality import WindowState
from proxy.policy.interventions import State
from proxy.policy.orders import ORDERS_VALID_MS, POLICIES, Orders, PolicyName
from proxy.policy.tallies import WindowName
from proxy.server.pools import UpstreamPools
from tests.server.admin.bench import COMMONS, giving_of
from tests.support.known_use import KnownUse, Person

CROWD = [Person(f"user:{n}", 10_000 if n < 5 else 100) for n in range(100)]
AT_ONCE: dict[str, Any] = {"tick_s": 0.1, "step_s": 0.1, "sustained_s": 0}


class Town:
    """A controller before a ledger, with people and a shortage in the test's hands."""

    def __init__(self, store: Store, use: KnownUse | None = None, **policies: Any) -> None:
        self.store = store
        self.use = use or KnownUse(list(CROWD))
        self.metrics = Metrics()
        self.record = InterventionRecord(store.engine)
        self.giving = giving_of(store)
        self.settings = config.validate({"intervention": {**AT_ONCE, **policies}, "commons": {"account": "commons"}}, source="test")
        self.controller = Controller(
            store,
            uses=self.use,
            pools=UpstreamPools(Pools(store.engine), lambda: ()),
            metrics=self.metrics,
            settings=lambda: self.settings,
            giving=self.giving,
        )

    async def look(self, *, lacking: int = 1_000_000) -> None:
        """One look at a time when so much more was refused, whether or not the lease of the one before is over."""
        self.use.deficit_nanocredits["insufficient_quota"] = self.use.deficit_nanocredits.get("insufficient_quota", 0) + lacking
        await self.store.engine.command("DEL", keys.lease("interventions"))
        await self.controller.tick()

    async def orders(self) -> Orders | None:
        """As workers take them, by this town's configuration."""
        return await self.record.orders(lambda by_operators: modes_in(self.settings, by_operators))

    def gauge(self, name: str, policy: str) -> float:
        return dict(self.metrics.snapshot()[name])[(policy,)][0]


async def until(town: Town, strength: int, policy: PolicyName = "cap", *, lacking: int = 1_000_000) -> None:
    """Look until a policy is at a strength; the test's own timeout is the limit."""
    while (await town.record.read()).state.policies[policy].strength != strength:
        await town.look(lacking=lacking)


async def test_it_begins_grows_and_ends_and_every_step_is_written_down(store: Store) -> None:
    """With who, what, from what, to what and why; the figures before and after stand beside it."""
    town = Town(store, cap={"mode": "on", "steps_max": 2})
    await town.look()
    await until(town, 2)
    orders = await town.orders()
    assert orders is not None
    assert orders.on == ("cap",)
    assert town.gauge("intervention_active", "cap") == 1
    assert town.gauge("intervention_proposed", "floor") == 1
    assert town.gauge("intervention_strength", "cap") == 1
    town.use.people = [Person(f"user:{n}", 100) for n in range(100)]
    await until(town, 0)
    assert town.gauge("intervention_active", "cap") == 0
    events = [event for event in (await store.directory.events(limit=100)).items if event.subject == "cap"]
    assert [event.action for event in reversed(events)] == [f"intervention.{kind}" for kind in ("start", "grow", "ease", "stop")]
    assert {event.actor for event in events} == {"interventions"}
    stop = events[0]
    before, after = json.loads(stop.before), json.loads(stop.after)
    assert (before["strength"], after["strength"], after["mode"]) == (1, 0, "on")
    assert before["gini_low"] < 0.01
    assert json.loads(events[-1].after)["gini_low"] > 0.5
    assert "Gini" in stop.reason


async def test_one_look_is_taken_in_each_tick_whoever_takes_it(store: Store) -> None:
    """Two controllers of which one holds the lease: the other only shows what was decided; where the one is gone, it goes on."""
    use = KnownUse(list(CROWD))
    first, second = Town(store, use, tick_s=60), Town(store, use, tick_s=60)
    await first.look()
    looks = len(use.asked)
    await second.controller.tick()
    await first.controller.tick()
    assert len(use.asked) == looks
    await store.engine.command("DEL", keys.lease("interventions"))  # as when its time is over
    await second.controller.tick()
    assert len(use.asked) == looks + 1
    assert 0 < await store.engine.command("PTTL", keys.lease("interventions")) <= 60_000


async def test_with_all_policies_off_nothing_is_looked_at(store: Store) -> None:
    """Nor is anything written."""
    town = Town(store, None, **{name: {"mode": "off"} for name in POLICIES})
    await town.look()
    assert town.use.asked == []
    assert await store.engine.command("EXISTS", keys.INTERVENTIONS) == 0
    assert town.gauge("intervention_active", "cap") == 0


async def test_a_mode_set_at_run_time_outranks_the_file(store: Store) -> None:
    """Until it is taken back."""
    town = Town(store)
    await town.controller.set_mode("brake", "off")
    assert (await town.controller.standing()).modes["brake"] == "off"
    await town.look()
    assert (await town.record.read()).state.policies["brake"].mode == "off"
    await town.controller.set_mode("brake", None)
    assert (await town.controller.standing()).modes["brake"] == "dry_run"


async def test_a_dividend_is_declared_once_from_what_the_commons_has(store: Store) -> None:
    """Beyond its reserve, by the strength's part; a dry run declares nothing."""
    commons = AccountId(COMMONS)
    await store.directory.create_account(commons, parent=None, plan="everyone", weight=None, limits=(), labels={}, operation_id="open")
    await store.ledger.grant((commons,), "endowment", credits_nanocredits=1_000)
    dry = Town(store, dividend={"mode": "dry_run", "steps_max": 1})
    await dry.look()
    await until(dry, 1, "dividend")
    assert (await dry.giving.dividends.all(after=None, limit=10)).items == ()
    assert "deal" not in acts_of(dry, "dividend")
    assert acts_of(dry, "dividend")["would_deal"] == 1
    town = Town(store, dividend={"mode": "on", "steps_max": 2, "reserve_credits": "0.0000004"})
    await until(town, 2, "dividend")
    (dividend,) = (await town.giving.dividends.all(after=None, limit=10)).items
    assert (dividend.asked_nanocredits, dividend.by) == (300, "equal")
    assert dividend.reason.startswith("intervention dividend: ")


async def test_an_earlier_dividend_is_not_taken_for_this_one(store: Store) -> None:
    """Also where the record was lost, so that its id is the same: it was dealt long ago."""
    await endowed(store)
    town = Town(store, dividend={"mode": "on", "steps_max": 1, "interval_s": 60})
    await town.giving.dividends.declare("intervention:0", credits_nanocredits=3, by="equal", expires_at_ms=None, reason="then")
    old = await town.giving.dividends.find("intervention:0")
    longer = 3_600_000
    await store.engine.command(
        "SET",
        keys.dividend("intervention:0"),
        msgspec.json.encode(msgspec.structs.replace(old, declared_at_ms=old.declared_at_ms - longer)),
    )
    await town.look()
    await until(town, 1, "dividend")
    assert len((await town.giving.dividends.all(after=None, limit=10)).items) == 2
    assert acts_of(town, "dividend")["deal"] == 1


@pytest.mark.parametrize("how", ["given back to a file that says off", "reloaded"])
async def test_workers_act_no_more_on_what_is_off_by_now(store: Store, how: str) -> None:
    """Before anybody has looked again: what operators are told and what workers do is the same."""
    town = Town(store, cap={"mode": "on" if how == "reloaded" else "off", "steps_max": 1}, tick_s=60)
    if how != "reloaded":
        await town.controller.set_mode("cap", "on")
    await town.look()
    await until(town, 1)
    if how == "reloaded":
        town.settings = config.validate({"intervention": {**AT_ONCE, "cap": {"mode": "off"}}}, source="test")
    else:
        await town.controller.set_mode("cap", None)
    orders, standing = await town.orders(), await town.controller.standing()
    assert orders is not None
    assert (orders.on, standing.acts("cap")) == ((), False)


async def test_a_record_of_another_version_counts_as_none(store: Store) -> None:
    """What cannot be read begins anew, at strength 0."""
    town = Town(store)
    await store.engine.command("HSET", keys.INTERVENTIONS, "state", '{"scarcity": 7}', "orders", '{"at": true}')
    assert (await town.record.read()).state == State()
    assert await town.orders() is None
    await town.look()
    assert (await town.orders()) is not None


async def test_what_is_published_reads_back_as_it_was(store: Store) -> None:
    """Every field of a decision survives the way through the ledger."""
    town = Town(store, None, **{name: {"mode": "on"} for name in POLICIES})
    await town.look()
    await until(town, 1)
    published = await town.record.read()
    assert published.orders is not None
    assert await town.record.publish(published.state, published.orders, since=published.revision)
    again = await town.record.read()
    assert replace(again, revision=published.revision) == published
    assert any(reach.people for reach in again.state.reaches.values())


# --- who decides, and what an operator sets meanwhile -----------------------------------------------------------------------------------


class SlowUse:
    """The same people, told only once the test lets it be."""

    def __init__(self, use: KnownUse) -> None:
        self.use, self.is_asked, self.may_answer = use, asyncio.Event(), asyncio.Event()

    async def state(self, window: WindowName, group: str | None) -> WindowState:
        found = await self.use.state(window, group)
        self.is_asked.set()
        await self.may_answer.wait()
        return found


def slowed(town: Town, **policies: Any) -> tuple[Controller, SlowUse]:
    """Another controller, whose looks take as long as the test wants."""
    other, use = Town(town.store, town.use, **policies), SlowUse(town.use)
    controller = Controller(
        *(town.store,),
        uses=use,
        pools=UpstreamPools(Pools(town.store.engine), lambda: ()),
        metrics=Metrics(),
        settings=lambda: other.settings,
        giving=other.giving,
    )
    return controller, use


async def test_a_late_look_does_not_undo_what_an_operator_has_ended(store: Store) -> None:
    """Whether or not somebody has looked since: what hangs decides from what was, and is not in force."""
    policy = {"mode": "on", "steps_max": 2}
    town = Town(store, cap=policy)
    await town.look()
    await until(town, 2)
    for looks_between in (0, 1):
        controller, use = slowed(town, cap={"mode": "on", "steps_max": 4})  # which it would rescale
        await store.engine.command("DEL", keys.lease("interventions"))
        hanging = asyncio.create_task(controller.tick())
        await use.is_asked.wait()
        written = len((await store.directory.events(limit=100)).items)
        await town.controller.set_mode("cap", "off")
        orders = await town.orders()
        assert orders is not None
        assert orders.on == (), "workers hear of it before anybody looks"
        for _ in range(looks_between):
            await town.look()
            written = len((await store.directory.events(limit=100)).items)
        use.may_answer.set()
        await hanging
        published = await town.record.read()
        assert published.state.policies["cap"].strength == (2 if looks_between == 0 else 0)
        assert len((await store.directory.events(limit=100)).items) == written, "nor is it written down"
        assert (await town.orders()) == replace(published.orders, on=()) if published.orders else False
        await town.controller.set_mode("cap", None)
        await until(town, 2)


async def test_of_two_that_decided_from_the_same_record_one_counts(store: Store) -> None:
    """The other's decision changes nothing; a repeat of the one's own is no other."""
    town = Town(store)
    await town.look()
    published = await town.record.read()
    assert published.orders is not None
    assert await town.record.is_still(published.revision)
    assert await town.record.publish(published.state, published.orders, since=published.revision)
    assert not await town.record.is_still(published.revision)
    late = replace(published.orders, average_nanocredits=7)
    assert not await town.record.publish(State(), late, since=published.revision)
    assert (await town.orders()) == published.orders


async def test_modes_stay_where_the_rest_cannot_be_read(store: Store) -> None:
    """What an operator has switched off stays off after an upgrade; of modes, too, only what cannot be read is nothing."""
    town = Town(store, cap={"mode": "on"})
    await town.controller.set_mode("cap", "off")
    await store.engine.command("HSET", keys.INTERVENTIONS, "state", '{"scarcity": 7}', "mode:brake", "sometimes")
    published = await town.record.read()
    assert (published.state, published.modes) == (State(), {"cap": "off"})
    assert (await town.controller.standing()).modes["cap"] == "off"


@pytest.mark.parametrize("policy", ["tithe", "dividend"])
async def test_what_moves_credits_of_the_commons_is_off_without_one(store: Store, policy: PolicyName) -> None:
    """It cannot be switched on; where a changed file takes the commons away, what was on ends."""
    town = Town(store, **{policy: {"mode": "dry_run", "steps_max": 1}})
    with_commons = town.settings
    town.settings = config.validate({"intervention": {**AT_ONCE, policy: {"steps_max": 1}}}, source="test")
    with pytest.raises(Refusal, match="needs a commons") as refused:
        await town.controller.set_mode(policy, "on")
    assert refused.value.code == "invalid_request"
    await town.controller.set_mode(policy, "dry_run")
    town.settings = with_commons
    await town.controller.set_mode(policy, "on")
    await town.look()
    await until(town, 1, policy)
    assert town.gauge("intervention_active", policy) == 1
    town.settings = config.validate({"intervention": AT_ONCE}, source="test")
    await town.look()
    published = await town.record.read()
    assert published.orders is not None
    assert policy not in published.orders.on
    assert (published.state.policies[policy].strength, town.gauge("intervention_active", policy)) == (0, 0)
    assert (await town.controller.standing()).modes[policy] == "off"


class LostUse:
    """A ledger that does not say what was used."""

    async def state(self, window: WindowName, group: str | None) -> WindowState:
        raise LedgerUnavailable


async def test_a_policy_whose_orders_have_lapsed_is_shown_as_active_no_more(store: Store) -> None:
    """Workers do not follow it either; the look that fails shows it, too."""
    town = Town(store, cap={"mode": "on", "steps_max": 2})
    await town.look()
    await until(town, 2)
    published = await town.record.read()
    assert published.orders is not None
    assert (await town.controller.standing()).acts("cap")
    old = replace(published.orders, at_ms=published.orders.at_ms - ORDERS_VALID_MS - 60_000)
    assert await town.record.publish(published.state, old, since=published.revision)
    lost = Town(store, cap={"mode": "on", "steps_max": 2})
    lost.controller._uses = LostUse()
    with pytest.raises(LedgerUnavailable):
        await lost.look()
    assert lost.gauge("intervention_active", "cap") == 0
    assert lost.gauge("intervention_people", "cap") == 0
    assert not (await town.controller.standing()).acts("cap")


# --- what is dealt, and what a dry run tells ----------------------------------------------------------------------------------------------


async def endowed(store: Store, credits_nanocredits: int = 1_000) -> None:
    commons = AccountId(COMMONS)
    await store.directory.create_account(commons, parent=None, plan="everyone", weight=None, limits=(), labels={}, operation_id="open")
    await store.ledger.grant((commons,), "endowment", credits_nanocredits=credits_nanocredits)


def acts_of(town: Town, policy: PolicyName) -> dict[str, int]:
    """How often each act of a policy was counted."""
    return {act: row[0] for (name, act), row in dict(town.metrics.snapshot()["intervention_acts_total"]).items() if name == policy}


async def test_a_dividend_that_is_refused_is_told_as_refused(store: Store) -> None:
    """In the audit log and in the metric; it counts as not dealt, so it is tried again, and then it is dealt."""
    await endowed(store)
    town = Town(store, dividend={"mode": "on", "steps_max": 1})
    for n in range(10):  # as many as may be open at a time
        await town.giving.dividends.declare(f"old{n}", credits_nanocredits=1, by="equal", expires_at_ms=None, reason="")
    await town.look()
    await until(town, 1, "dividend")
    while "deal_refused" not in acts_of(town, "dividend"):
        await town.look()
    events = [event for event in (await store.directory.events(limit=100)).items if event.subject == "dividend"]
    assert {event.action for event in events} == {"intervention.start", "intervention.deal_refused"}
    assert "10 dividends are not finished yet" in events[0].reason
    assert "deal" not in acts_of(town, "dividend")
    state = (await town.record.read()).state
    assert (state.dealt_at_ms, state.refused_at_ms > 0) == (0, True)

    await store.engine.command("DEL", keys.OPEN_DIVIDENDS)
    while "deal" not in acts_of(town, "dividend"):
        await town.look()
    assert (await town.record.read()).state.dealt_at_ms > 0


async def test_a_dividend_that_could_not_be_noted_is_dealt_and_told_once(store: Store) -> None:
    """Where the record of it is lost: the next look finds it, with the amount that it has, and declares no other."""
    await endowed(store)
    town = Town(store, dividend={"mode": "on", "steps_max": 1, "interval_s": 31 * 86_400})
    await town.look()
    await until(town, 1, "dividend")
    await store.ledger.grant((AccountId(COMMONS),), "more", credits_nanocredits=500)
    await store.engine.command("HDEL", keys.INTERVENTIONS, "state")
    await town.look()
    while (await town.record.read()).state.dealt_at_ms == 0:
        await town.look()
    (dividend,) = (await town.giving.dividends.all(after=None, limit=10)).items
    (dealt,) = [event for event in (await store.directory.events(limit=100)).items if event.action == "intervention.deal"]
    assert dividend.asked_nanocredits == json.loads(dealt.after)["amount_nanocredits"] == 1_000


async def test_a_dry_run_tells_whom_it_would_treat_and_what_that_would_move(store: Store) -> None:
    """In the metrics and beside each step in the audit log; nothing of either once it is off."""
    town = Town(store, tithe={"steps_max": 1})
    await town.look()
    await until(town, 1, "tithe")
    assert town.gauge("intervention_people", "tithe") == 5
    assert town.gauge("intervention_daily_credits", "tithe") > 0
    (start,) = [event for event in (await store.directory.events(limit=100)).items if event.subject == "tithe"]
    assert json.loads(start.after)["people"] == 5
    assert json.loads(start.after)["daily_nanocredits"] > 0
    await town.controller.set_mode("tithe", "off")
    await town.look()
    assert town.gauge("intervention_people", "tithe") == 0
