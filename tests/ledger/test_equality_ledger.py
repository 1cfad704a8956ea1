"""The statistics that the ledger keeps of use: by its verbs alone, and always what the balances say."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.domain import AccountId, Limit, Plan
from proxy.errors import Refusal
from proxy.ledger import equality
from proxy.policy.tallies import WINDOWS
from tests.support.ledger_bench import NOON_MS, Clock
from tests.support.ledger_server import LedgerServer, ledger_binaries
from tests.support.use_counting import DAY_S, PlainUses, World, day_at, open_world

PERSONS = {"org:acme": "org:acme", "ann": "ann", "ann:agents": "ann", "bot": "ann", "bob": "bob", "solo": "solo", "uma": "uma"}
"""Whom the use of each account is attributed to."""


@pytest.fixture(params=[*ledger_binaries()])
async def world(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> AsyncIterator[World]:
    async with open_world(ledger_servers(request.param), Clock()) as world:
        yield world


async def used(world: World, name: str) -> tuple[int, int, int]:
    uses = await world.uses(name)
    assert uses is not None
    return uses.of_day, uses.of_week, uses.of_month


async def test_a_persons_use_stands_in_its_balance_by_day_week_and_month(world: World) -> None:
    """Sunday noon, then Monday, then the next month: each window begins anew when its time has come, and no other."""
    await world.spend("ann", 100)
    await world.spend("ann", 20)
    assert await used(world, "ann") == (120, 120, 120)
    world.clock.pass_s(DAY_S)  # Monday, 23 November
    await world.spend("ann", 3)
    assert await used(world, "ann") == (3, 3, 123)
    world.clock.pass_s(8 * DAY_S)  # Tuesday, 1 December
    await world.spend("ann", 5)
    assert await used(world, "ann") == (5, 5, 5)


async def test_what_agents_spend_is_their_persons_use(world: World) -> None:
    """Nobody else on the path has used anything: neither the agents nor the organisation."""
    await world.spend("bot", 70)
    await world.spend("ann", 1)
    assert await used(world, "ann") == (71, 71, 71)
    assert await world.uses("bot") is None
    assert await world.uses("ann:agents") is None
    assert await world.uses("org:acme") is None


async def test_debits_extensions_late_settles_and_corrections_move_what_they_change(world: World) -> None:
    """Whatever changes what a person has spent changes its use; a correction takes back no more than a window has."""
    path, ledger = world.paths["ann"], world.stores[0].ledger
    await ledger.hold(path, "h", want_nanocredits=100, least_nanocredits=100)
    assert await world.uses("ann") is None
    await ledger.debit(path, "h", spent_nanocredits=30)
    assert (await used(world, "ann"))[0] == 30
    await ledger.extend(path, "h", sequence=1, spent_nanocredits=60, want_nanocredits=10)
    assert (await used(world, "ann"))[0] == 60
    world.clock.pass_s(DAY_S)
    await ledger.expire_due()
    await ledger.settle(path, "h", spent_nanocredits=90)
    assert await used(world, "ann") == (30, 30, 90)
    await ledger.adjust(path, "a", credits_nanocredits=-40)
    assert await used(world, "ann") == (0, 0, 50)
    await world.flush()
    await world.check()


async def test_a_window_tells_who_is_entitled_used_or_not_and_groups_divide_it(world: World) -> None:
    """People: ann, bob, solo, idle; the organisation is none while others stand below it, unless it uses something itself."""
    await world.spend("ann", 100)
    await world.spend("solo", 300)
    await world.flush()
    state = await world.stores[1].equality.state("day", "plan")
    assert (state.total.population.people, state.total.population.weight) == (4, 1 + 3 + 3 + 1)
    assert state.total.tally.use_nanocredits == 400
    assert {name: (group.population.people, group.tally.use_nanocredits) for name, group in state.groups.items()} == {
        "everyone": (2, 100),
        "triple": (2, 300),
    }
    state = await world.stores[0].equality.state("week", "organisation")
    assert {name: group.population.people for name, group in state.groups.items()} == {"org:acme": 2, "": 2}
    await world.spend("org:acme", 7)
    await world.flush()
    assert (await world.stores[0].equality.state("day")).total.population.people == 5
    world.clock.pass_s(DAY_S)
    assert (await world.stores[0].equality.state("day")).total.population.people == 4
    await world.check()


async def test_a_flush_is_one_command_and_without_moves_none(world: World) -> None:
    """However many windows and groups it tells of: the server has little more to do where many processes serve few requests each."""
    store = world.stores[0]

    async def commands() -> dict[str, int]:
        rows = (await store.engine.everywhere("INFO", "commandstats"))[0].decode().split()
        calls = {row.split(":")[0]: int(row.split("calls=")[1].split(",")[0]) for row in rows if row.startswith("cmdstat_")}
        return {name.removeprefix("cmdstat_"): number for name, number in calls.items() if "info" not in name}

    await world.flush()
    for name in ("ann", "solo"):
        await world.spend(name, 100)
    before = await commands()
    await store.equality.flush()
    await store.equality.flush()
    assert {name: number - before.get(name, 0) for name, number in (await commands()).items() if number != before.get(name)} == {"rpush": 1}


async def test_what_was_used_is_told_however_many_accounts_are_opened_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One flush enrols only some of them, and the next ones go on, until all are counted."""
    await world.flush()
    monkeypatch.setattr(equality, "ENROLLED_AT_ONCE", 2)
    monkeypatch.setattr(equality, "ENROLLED_MAX", 6)
    for n in range(20):
        await world.account(f"new-{n}")
    await world.spend("ann", 100)
    flushed = world.stores[0].equality.flush
    people = [(await world.stores[0].equality.state("day")).total.population.people]
    while people[-1] < 4 + 20:
        await flushed()
        state = await world.stores[0].equality.state("day")
        assert state.total.tally.use_nanocredits == 100
        people.append(state.total.population.people)
    assert people == [4, 10, 16, 22, 24]
    await world.check()


async def test_a_change_of_plan_weight_or_status_moves_a_person_over(world: World) -> None:
    """At the next flush of whoever changed it, with all that it has used; twice is no change."""
    await world.spend("ann", 100)
    directory = world.stores[0].directory
    for change in ({"plan": "triple"}, {"weight": 5}, {"status": "suspended"}, {"status": "active"}):
        await directory.update_account(AccountId("ann"), operation_id=world.operation_id(), **change)
        await world.refresh()
        for _ in range(2):
            await world.flush()
            await world.check()
    state = await world.stores[0].equality.state("month", "plan")
    assert (state.groups["triple"].population.people, state.groups["triple"].population.weight) == (3, 5 + 3 + 3)
    await directory.update_account(AccountId("idle"), status="closed", operation_id=world.operation_id())
    await world.flush()
    assert (await world.stores[0].equality.state("day")).total.population.people == 3


async def test_who_counts_in_another_unit_is_told_of_apart(world: World) -> None:
    """Nobody's units are added to anybody's credits; whoever asks for no unit is told of the one that most people count in, and how many
    count in others. A process that has not heard of a plan yet asks what it counts in."""
    await world.spend("ann", 30)
    await world.spend("uma", 7_000)
    await world.flush()
    for window in ("day", "week", "month"):
        state = await world.stores[1].equality.state(window)
        assert (state.unit, state.total.tally.use_nanocredits) == ("credits", 30)
        assert state.people_by_unit == {"credits": 4, "general": 1}
        units = await world.stores[1].equality.state(window, "plan", "general")
        assert (units.unit, units.total.tally.use_nanocredits, list(units.groups)) == ("general", 7_000, ["measured"])
    standing = await world.stores[1].equality.standing(world.paths["uma"])
    assert standing is not None
    assert (standing.unit, standing.use_nanocredits["day"]) == ("general", 7_000)
    await world.stores[1].directory.put_plan(Plan("late", (Limit(10**15, "day"),), unit="general"), operation_id="late")
    await world.stores[1].directory.create_account(AccountId("ulf"), plan="late", operation_id="ulf")
    await world.stores[1].equality.flush()
    assert world.stores[0].directory.unit_of_plan("late") is None
    path = await world.stores[0].directory.path(AccountId("ulf"))
    await world.stores[0].ledger.hold(path, "h", want_nanocredits=5, least_nanocredits=5)
    await world.stores[0].ledger.settle(path, "h", spent_nanocredits=5)
    await world.stores[0].equality.flush()
    state = await world.stores[0].equality.state("day", None, "general")
    assert (state.people_by_unit["general"], state.total.tally.use_nanocredits) == (2, 7_005)


async def test_the_commons_is_nobody(world: World) -> None:
    """What it is not entitled to it does not count for, at its next enrolment; what it uses itself still counts."""
    for store in world.stores:
        store.equality.enrolment.commons = AccountId("idle")
    await world.stores[0].directory.update_account(AccountId("idle"), weight=2, operation_id="enrolled-again")
    await world.flush()
    assert (await world.stores[0].equality.state("day")).total.population.people == 3
    await world.spend("idle", 4)
    await world.flush()
    assert (await world.stores[0].equality.state("day")).total.population.people == 4
    await world.check()


async def test_days_weeks_and_months_turn_in_the_scripts_as_they_do_everywhere_else(world: World) -> None:
    """Over five hundred days from a leap year's eve on, and at the ends of centuries."""
    starts = [dt.date(2027, 12, 30) + dt.timedelta(days=7 * n + n % 3) for n in range(75)]
    starts += [dt.date(year, month, day) for year in (2099, 2100, 2400) for month, day in ((2, 28), (3, 1), (12, 31))]
    plain = PlainUses()
    for start in starts:
        world.clock.now_ms = int(dt.datetime.combine(start, dt.time(23, 59), dt.UTC).timestamp() * 1000)
        for _ in range(2):
            await world.spend("ann", 10)
            plain.spend(10, world.clock.now_ms)
            assert await used(world, "ann") == tuple(plain.of(window, world.clock.now_ms) for window in ("day", "week", "month")), start
            world.clock.pass_s(120)


async def test_use_loses_half_of_its_weight_in_each_half_life(world: World) -> None:
    """Across epochs, too: what was used long ago counts by when it was used."""
    plain = PlainUses()
    for amount, seconds in ((1000, 3 * DAY_S), (50, 9 * DAY_S), (7, 40_000), (400, 30 * DAY_S), (1, 0)):
        await world.spend("ann", amount)
        plain.spend(amount, world.clock.now_ms)
        world.clock.pass_s(seconds)
    await world.flush()
    state = await world.stores[0].equality.state("half_life")
    assert state.total.tally.use_nanocredits * state.use_scale == pytest.approx(plain.aged(world.clock.now_ms), rel=1e-12)
    await world.check()
    world.clock.pass_s(20 * 7 * DAY_S)
    assert (await world.stores[0].equality.state("half_life")).total.tally.people == 0


async def test_the_use_of_a_person_is_told_to_whoever_asks_with_its_path(world: World) -> None:
    """By its agents' paths too; nothing is known of who never used anything and is not entitled."""
    await world.spend("bot", 70)
    standing = await world.stores[1].equality.standing(world.paths["bot"])
    assert standing is not None
    assert (standing.weight, standing.use_nanocredits["day"], standing.use_nanocredits["month"]) == (1, 70, 70)
    world.clock.pass_s(DAY_S)
    standing = await world.stores[1].equality.standing(world.paths["ann"])
    assert standing is not None
    assert (standing.use_nanocredits["day"], standing.use_nanocredits["month"]) == (0, 70)
    assert await world.stores[1].equality.standing(world.paths["org:acme"]) is None


# --- random histories --------------------------------------------------------------------------------------------------------------


class History:
    """Random things that several processes do, and what plain rules say of them."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.plain: defaultdict[str, PlainUses] = defaultdict(PlainUses)
        self.open: list[tuple[str, str, int]] = []
        self.spent: defaultdict[str, int] = defaultdict(int)

    async def step(self) -> None:
        steps = (self.request, self.request, self.stream, self.correct, self.change, self.pass_time, self.flush)
        await self.chance.choice(steps)()

    def ledger(self):
        return self.chance.choice(self.world.stores).ledger

    def book(self, name: str, amount: int) -> None:
        if amount:
            self.plain[PERSONS[name]].spend(amount, self.world.clock.now_ms)
        for account in self.world.paths[name]:
            self.spent[account] += amount

    async def request(self) -> None:
        name, amount = self.chance.choice(list(PERSONS)), self.chance.choice((1, 5, 700, 123_456_789))
        await self.world.spend(name, amount, by=self.chance.randrange(len(self.world.stores)))
        self.book(name, amount)

    async def stream(self) -> None:
        """A hold debited by several processes, twice each, then settled."""
        name, hold_id = self.chance.choice(list(PERSONS)), self.world.operation_id()
        path, spent = self.world.paths[name], 0
        await self.ledger().hold(path, hold_id, want_nanocredits=1000, least_nanocredits=1)
        for _ in range(self.chance.randrange(4)):
            more = spent + self.chance.randrange(200)
            for _ in range(2):
                await self.ledger().debit(path, hold_id, spent_nanocredits=more)
            self.book(name, more - spent)
            spent = more
            self.world.clock.pass_s(self.chance.choice((0, 1, 50)))
        await self.ledger().settle(path, hold_id, spent_nanocredits=spent)

    async def correct(self) -> None:
        name = self.chance.choice(list(PERSONS))
        amount = self.chance.choice((40, -1, -min(30, self.spent[name])))
        if amount and self.spent[name] + amount >= 0:
            try:
                await self.ledger().adjust(self.world.paths[name], self.world.operation_id(), credits_nanocredits=amount)
            except Refusal as refusal:  # who is above was given back so much that this would be more than it has spent
                if refusal.code != "adjustment_exceeds_spent":
                    raise
                return
            self.book(name, amount)

    async def change(self) -> None:
        change = self.chance.choice(({"plan": "triple"}, {"plan": "everyone"}, {"weight": 2}, {"weight": 9}))
        directory = self.chance.choice(self.world.stores).directory
        name = self.chance.choice(("ann", "bob", "solo", "idle"))
        await directory.update_account(AccountId(name), operation_id=self.world.operation_id(), **change)
        if self.chance.random() < 0.7:
            await self.world.refresh()

    async def pass_time(self) -> None:
        self.world.clock.pass_s(self.chance.choice((0.001, 60, 3600, 6 * 3600, DAY_S, 6 * DAY_S, 20 * DAY_S)))

    async def flush(self) -> None:
        await self.chance.choice(self.world.stores).equality.flush()

    async def check(self) -> None:
        """The balances say what the rules say, and the tallies what the balances say."""
        await self.world.flush()
        now_ms = self.world.clock.now_ms
        for person, plain in self.plain.items():
            standing = await self.world.stores[0].equality.standing(self.world.paths[person])
            assert standing is not None
            for window in ("day", "week", "month"):
                assert standing.use_nanocredits[window] == plain.of(window, now_ms), (person, window, day_at(now_ms))
        await self.world.check()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])  # every world begins by emptying it
@given(seed=st.integers(0, 2**32))
@example(seed=500)  # all that had aged was given back, and rounding left 10^-15 of a nanocredit
@example(seed=9_039_902)  # the one above was given back before the one below
def test_whatever_happens_the_tallies_are_what_the_balances_say(seed: int, ledger_server: LedgerServer) -> None:
    """Three processes, over turns of every window, changes of weight and plan, corrections, repeats: counted in steps, or all anew."""

    async def run() -> None:
        async with open_world(ledger_server, Clock(NOON_MS + seed % 90 * DAY_S * 1000), processes=3) as world:
            history = History(world, random.Random(seed))
            for n in range(60):
                await history.step()
                if n % 20 == 19:
                    await history.check()

    asyncio.run(run())


def test_there_is_nothing_to_tell_of_an_empty_ledger(ledger_server: LedgerServer) -> None:
    """No people, no use; not an error."""

    async def run() -> None:
        async with open_world(ledger_server, Clock()) as world:
            for window in WINDOWS:
                state = await world.stores[0].equality.state(window, "plan")
                assert (state.total.population.people, state.total.tally.people, dict(state.groups)) == (0, 0, {})

    asyncio.run(run())
