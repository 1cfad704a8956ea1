"""Equality over the admin API: what is told of a window and its groups, to whom, and counting anew."""

from __future__ import annotations

import asyncio

import pytest

from proxy import config
from proxy.errors import LedgerUnavailable
from proxy.policy.equality import Recount
from proxy.policy.tallies import WINDOWS
from proxy.server import equality as figures
from proxy.server.equality import EqualityFigures
from tests.server.admin.bench import CREDIT, Client, ClientOf, Health
from tests.support.known_use import KnownUse, Person


def people(count: int, use_nanocredits: int, *, denied: bool = False, unit: str = "credits", **groups: str) -> list[Person]:
    name = "-".join([*groups.values(), str(use_nanocredits), "denied" if denied else ""])
    return [Person(f"{name}-{n}", use_nanocredits, groups=groups, denied=denied, unit=unit) for n in range(count)]


@pytest.fixture
def use(health: Health) -> KnownUse:
    """A hundred people of two plans: half of one have nothing."""
    health.use.people = [
        *people(40, 3 * CREDIT, plan="paid", country="FR"),
        *people(30, CREDIT, plan="free", country="IN"),
        *people(25, 0, plan="free", country="IN"),
        *people(5, 0, plan="free", denied=True),
    ]
    health.use.deficit_nanocredits = {"queue_timeout": CREDIT, "insufficient_quota": CREDIT // 2}
    health.use.least_served_of_demand = 0.25
    health.use.utilisation = 0.75
    health.use.drift = 0.001
    return health.use


async def test_a_window_is_told_as_the_contract_says(call: Client, use: KnownUse) -> None:
    """Every member of the contract, and what must stand beside Gini: utilisation, the least served, the denied."""
    told = await call.done("GET", "/equality?window=week&group=plan")
    assert use.asked == [("week", "plan")]
    indices = {name: told.pop(name) for name in ("gini", "jain", "theil", "atkinson", "lorenz", "lorenz_error", "shares", "groups")}
    assert told == {
        "window": "week",
        "group": "plan",
        "unit": "credits",
        "people_by_unit": {"credits": 100},
        "starts_at": "2024-10-04T00:00:00Z",
        "resets_at": "2024-10-05T00:00:00Z",
        "accounts": 100,
        "active": 70,
        "p90_p10": None,
        "zero": {"idle": 25, "denied": 5},
        "demand": "151.5",
        "served": "150",
        "deficit": "1.5",
        "deficit_reasons": {"insufficient_quota": "0.5", "queue_timeout": "1"},
        "least_served": 0.25,
        "utilisation": 0.75,
        "drift": 0.001,
        "groups_left_out": 0,
        "groups_suppressed": 0,
    }
    assert 0.45 < indices["gini"]["low"] <= 0.46 <= indices["gini"]["high"] < 0.47
    assert indices["jain"] == pytest.approx(150**2 / (100 * (40 * 9 + 30)))
    assert indices["theil"]["within"] > 0 < indices["theil"]["between"]
    assert 0 < indices["atkinson"] < 1
    assert indices["lorenz"][-1] == [1.0, 1.0]
    assert dict(map(tuple, indices["lorenz"]))[0.6] == pytest.approx(0.2, abs=0.01)
    assert indices["lorenz_error"] < 0.011
    assert indices["shares"]["bottom40"] == pytest.approx(10 / 150, abs=indices["lorenz_error"])
    paid, free = indices["groups"]
    assert (paid["name"], paid["accounts"], paid["accounts_share"], paid["use_share"]) == ("paid", 40, 0.4, 0.8)
    assert (free["name"], free["gini"]["low"]) == ("free", pytest.approx(0.5, abs=1e-9))


async def test_a_day_without_groups_is_what_is_told_unasked(call: Client, use: KnownUse) -> None:
    """All of Theil's index is then inside the one group that everybody is in."""
    told = await call.done("GET", "/equality")
    assert (told["window"], told["group"], told["groups"]) == ("day", None, [])
    assert (told["theil"]["within"] > 0, told["theil"]["between"]) == (True, 0)


async def test_every_window_can_be_asked_for(call: Client, use: KnownUse) -> None:
    """The half-life has no end."""
    for window in WINDOWS:
        told = await call.done("GET", f"/equality?window={window}")
        assert (told["window"], told["resets_at"] is None) == (window, window == "half_life")


async def test_groups_are_plans_organisations_and_configured_labels(call: Client, use: KnownUse) -> None:
    """Whoever has no value of a label is told of under the empty name; small groups are suppressed."""
    told = await call.done("GET", "/equality?group=country")
    assert [(group["name"], group["accounts"]) for group in told["groups"]] == [("IN", 55)]
    assert told["groups_suppressed"] == 2  # five people without a country, and who would give them away
    assert (await call.done("GET", "/equality?group=organisation"))["groups"][0]["name"] == ""
    for query, place in (("group=shoe_size", "?group"), ("window=hour", "?window"), ("gruop=plan", "?gruop")):
        reply = await call("GET", f"/admin/v1/equality?{query}")
        assert (reply.status, reply.json["errors"][0]["place"]) == (400, place)


async def test_people_who_count_in_different_units_are_told_of_apart(call: Client, use: KnownUse) -> None:
    """Amounts of two units are not added up: without being asked the figures are of what most people count in; too few are not told of."""
    use.people = [*use.people, *people(30, 700 * CREDIT, unit="general", plan="lab"), *people(3, CREDIT, unit="vision", plan="eyes")]
    told, by_plan = await call.done("GET", "/equality"), await call.done("GET", "/equality?group=plan&unit=general")
    assert (told["unit"], told["accounts"], told["served"]) == ("credits", 100, "150")
    assert told["people_by_unit"] == by_plan["people_by_unit"] == {"credits": 100, "general": 30, "vision": 3}
    assert (by_plan["unit"], by_plan["accounts"], by_plan["served"], by_plan["gini"]["high"] < 0.01) == ("general", 30, "21000", True)
    assert [group["name"] for group in by_plan["groups"]] == ["lab"]
    for unit in ("vision", "none-such"):
        reply = await call("GET", f"/admin/v1/equality?unit={unit}")
        assert (reply.status, reply.json["errors"][0]["place"]) == (400, "?unit")


async def test_nothing_used_is_told_without_indices(call: Client, health: Health) -> None:
    """Everyone entitled is counted all the same."""
    health.use.people = people(30, 0)
    told = await call.done("GET", "/equality")
    assert (told["accounts"], told["active"], told["zero"], told["served"]) == (30, 0, {"idle": 30, "denied": 0}, "0")
    for name in ("gini", "jain", "theil", "atkinson", "lorenz", "lorenz_error", "shares", "p90_p10"):
        assert told[name] is None


async def test_viewers_look_and_operators_recount(client_of: ClientOf, use: KnownUse) -> None:
    """The recount tells its drift, and stands in the audit log."""
    viewer, operator = client_of("viewer"), client_of("operator")
    assert (await viewer("GET", "/admin/v1/equality")).status == 200
    assert (await client_of(None)("GET", "/admin/v1/equality")).status == 401
    assert (await viewer("POST", "/admin/v1/equality/recount")).status == 403
    assert use.recounts == 0
    told = await operator.done("POST", "/equality/recount")
    drifts = [{"window": window, "people": 1, "use": "0.000000005", "of_use": 0.001} for window in WINDOWS]
    assert told == {"running": False, "accounts": 100, "took_ms": 12, "drifts": drifts}
    (event,) = (await operator.done("GET", "/events"))["items"]
    assert (event["action"], event["actor"], event["after"]["drifts"]) == ("equality.recount", "operator-1", drifts)


class SlowRecount(KnownUse):
    """Its recounts end when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def recount(self) -> Recount:
        done = await super().recount()
        await self.may_end.wait()
        return done


async def test_a_long_recount_goes_on_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks meanwhile joins it; its end is told to the next who asks, and only then another may begin."""
    monkeypatch.setattr(figures, "RECOUNT_WAIT_S", 0.01)
    states = SlowRecount()
    shown = EqualityFigures(states, config.Equality, states.recount)
    assert await shown.recount() is None
    assert await asyncio.gather(shown.recount(), shown.recount()) == [None, None]
    states.may_end.set()
    assert await shown.recount() is not None
    assert states.recounts == 1
    assert await shown.recount() is not None
    assert states.recounts == 2
    states.may_end.clear()
    assert await shown.recount() is None
    await shown.close()


async def test_a_ledger_that_is_away_is_said(call: Client, health: Health) -> None:
    """503, for figures as for the recount; a failed recount does not stand in the way of the next."""

    class Away(KnownUse):
        async def recount(self) -> Recount:
            self.recounts += 1
            raise LedgerUnavailable("the ledger is away")

    shown = EqualityFigures(states := Away(), config.Equality, states.recount)
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            await shown.recount()
    assert states.recounts == 2
