"""The controller on a real ledger: one look at a time whoever takes it, decisions in force, every step in the audit log."""

from __future__ import annotations

import json
from typing import Any

from proxy import config
from proxy.app.controller import Controller
from proxy.domain import AccountId
from proxy.ledger import Store, keys
from proxy.ledger.interventions import InterventionRecord
from proxy.ledger.pools import Pools
from proxy.metrics import Metrics
from proxy.policy.interventions import State
from proxy.policy.orders import POLICIES, PolicyName
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
    orders = await town.record.orders()
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
    town = Town(store, dividend={"mode": "on", "steps_max": 2, "reserve_credits": "0.0000004"})
    await until(town, 2, "dividend")
    (dividend,) = (await town.giving.dividends.all(after=None, limit=10)).items
    assert (dividend.asked_nanocredits, dividend.by) == (300, "equal")
    assert dividend.reason.startswith("intervention dividend: ")


async def test_a_record_of_another_version_counts_as_none(store: Store) -> None:
    """What cannot be read begins anew, at strength 0."""
    town = Town(store)
    await store.engine.command("HSET", keys.INTERVENTIONS, "state", '{"scarcity": 7}', "orders", '{"at": true}')
    assert (await town.record.read()).state == State()
    assert await town.record.orders() is None
    await town.look()
    assert (await town.record.orders()) is not None


async def test_what_is_published_reads_back_as_it_was(store: Store) -> None:
    """Every field of a decision survives the way through the ledger."""
    town = Town(store, None, **{name: {"mode": "on"} for name in POLICIES})
    await town.look()
    await until(town, 1)
    published = await town.record.read()
    assert published.orders is not None
    await town.record.publish(published.state, published.orders)
    assert await town.record.read() == published
