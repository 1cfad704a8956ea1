"""A ledger seen by several processes, with the statistics that it keeps, and the same told anew from the balances and from plain rules."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Mapping

from proxy import config
from proxy.domain import CREDITS, AccountId, AccountKind, Limit, Path, Plan
from proxy.ledger import Store, keys, open_ledger
from proxy.ledger.balances import StoredUses, read_balance
from proxy.ledger.marks import groups_of, read_mark
from proxy.policy.equality import Group
from proxy.policy.tallies import WINDOWS, Population, Tally, WindowName
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer

HALF_LIFE_DAYS = 7
DAY_S = 86_400
USE_MAX = 1e10
"""Nanocredits that nobody uses more of here."""
USE_LEAST = 1e-3
"""Less is no use: what rounding leaves where all that has aged was given back."""
DIMENSIONS = (None, "plan", "organisation")
UNITS = {"measured": "general"}
"""What a plan counts that counts in units of a level."""


@dataclasses.dataclass
class World:
    """Several processes on one server, under one clock, and what they have done."""

    clock: Clock
    stores: list[Store]
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)
    operations: int = 0

    def operation_id(self) -> str:
        self.operations += 1
        return f"operation-{self.operations}"

    async def account(self, name: str, *, parent: str | None = None, plan: str = "everyone", kind: AccountKind = "account") -> Path:
        account = await self.stores[0].directory.create_account(
            AccountId(name),
            parent=None if parent is None else AccountId(parent),
            plan=plan,
            kind=kind,
            operation_id=self.operation_id(),
        )
        await self.refresh()
        self.paths[name] = account.path
        return account.path

    async def refresh(self) -> None:
        """As every process does four times a second."""
        for store in self.stores:
            await store.directory.refresh()

    async def spend(self, name: str, amount: int, *, by: int = 0) -> None:
        """A request that cost an amount and is over, served by one of the processes."""
        hold_id, path, ledger = self.operation_id(), self.paths[name], self.stores[by].ledger
        await ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
        await ledger.settle(path, hold_id, spent_nanocredits=amount)

    async def flush(self) -> None:
        for store in self.stores:
            await store.equality.flush()

    async def uses(self, name: str) -> StoredUses | None:
        path = self.paths[name]
        packed = await self.stores[0].engine.command("GET", keys.balance(path[0], path[-1]))
        return read_balance(packed).uses

    async def told_anew(self, window: WindowName, dimension: str | None, unit: str) -> dict[str, Group]:
        """What the balances say of a window's groups, of those who count in a unit."""
        found: dict[str, Group] = {}
        for path in self.paths.values():
            uses = await self.uses(path[-1])
            if uses is None:
                continue
            mark = read_mark(uses.mark)
            if UNITS.get(mark.plan, CREDITS) != unit:
                continue
            group = "" if dimension is None else groups_of(mark, path[0] if len(path) > 1 else "")[dimension]
            use = present_use(uses, window, self.clock.now_ms)
            if not uses.is_entitled and not use:
                continue
            there = found.get(group, Group(Population(), Tally()))
            there.tally.move(use_nanocredits=use, weight=mark.weight, sign=1)
            found[group] = Group(there.population + Population(1, mark.weight), there.tally)
        return found

    async def check(self) -> None:
        """Every window, in each unit, undivided and by each dimension, is what the balances say."""
        for window, dimension, unit in itertools.product(WINDOWS, DIMENSIONS, (CREDITS, *UNITS.values())):
            state = await self.stores[-1].equality.state(window, dimension, unit)
            anew = await self.told_anew(window, dimension, unit)
            told = {"": state.total} if dimension is None else dict(state.groups)
            assert_same_groups(told, anew, (window, dimension, unit))


def assert_same_groups(told: Mapping[str, Group], anew: Mapping[str, Group], what: object) -> None:
    """Whole numbers agree exactly, sums of doubles but for the rounding of the largest amounts that have passed through them."""
    nobody = Group(Population(), Tally())
    for name in told.keys() | anew.keys():
        left, right = told.get(name, nobody), anew.get(name, nobody)
        assert left.population == right.population, (what, name)
        buckets = left.tally.sound().buckets
        counts = [{n: (b.count, b.weight) for n, b in of.items()} for of in (buckets, right.tally.buckets)]
        assert counts[0] == counts[1], (what, name)
        for number, bucket in buckets.items():
            use = right.tally.buckets[number].use_nanocredits
            assert abs(bucket.use_nanocredits - use) <= 1e-9 * use, (what, name, number)
        use = right.tally.use_nanocredits
        for of, rounding in (("log", 1e-9 * use), ("root", 1e-13 * USE_MAX**0.5), ("square", 0.0), ("concentration", 0.0)):
            a, b = getattr(left.tally.sound(), of), getattr(right.tally, of)
            assert abs(a - b) <= 1e-9 * max(abs(a), abs(b)) + rounding, (what, name, of, a, b)


def day_at(now_ms: int) -> dt.date:
    return dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC).date()


def calendar_of(window: WindowName, day: dt.date) -> tuple[int, ...]:
    """What tells a window from the next one."""
    match window:
        case "day":
            return (day.toordinal(),)
        case "week":
            return day.isocalendar()[:2]
        case "month":
            return (day.year, day.month)
        case _:
            raise AssertionError(f"a {window} stands in no calendar")


def present_use(uses: StoredUses, window: WindowName, now_ms: int) -> float:
    """What a balance says of the window that holds now, in the tallies' unit."""
    if window == "half_life" and uses.aged < USE_LEAST:
        return 0
    if window == "half_life":
        return uses.aged * 2.0 ** (uses.day // uses.half_life_days - day_at(now_ms).toordinal() // uses.half_life_days)
    day = dt.date.fromordinal(uses.day)
    used = {"day": uses.of_day, "week": uses.of_week, "month": uses.of_month}[window]
    return used if calendar_of(window, day) == calendar_of(window, day_at(now_ms)) else 0


@dataclasses.dataclass
class PlainUses:
    """A person's uses by the rules alone: what was spent when, window by window."""

    windows: dict[str, tuple[tuple[int, ...], int]] = dataclasses.field(default_factory=dict)
    amounts: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def spend(self, amount: int, now_ms: int) -> None:
        """Less than 0 takes back, as far as a window goes."""
        day = day_at(now_ms)
        for window in ("day", "week", "month"):
            calendar = calendar_of(window, day)
            before, used = self.windows.get(window, (calendar, 0))
            self.windows[window] = calendar, max(0, (used if before == calendar else 0) + amount)
        self.amounts.append((now_ms, amount))

    def of(self, window: str, now_ms: int) -> int:
        calendar, used = self.windows.get(window, ((), 0))
        return used if calendar == calendar_of(window, day_at(now_ms)) else 0

    def aged(self, now_ms: int) -> float:
        """Each amount counts half as much for every half-life that has passed since."""
        total, last_ms = 0.0, now_ms
        for at_ms, amount in self.amounts:
            total = max(0.0, total * 2.0 ** (-(at_ms - last_ms) / (HALF_LIFE_DAYS * DAY_S * 1000)) + amount)
            last_ms = at_ms
        return total * 2.0 ** (-(now_ms - last_ms) / (HALF_LIFE_DAYS * DAY_S * 1000)) if self.amounts else 0.0


@contextlib.asynccontextmanager
async def open_world(server: LedgerServer, clock: Clock, *, processes: int = 2, url: str | None = None) -> AsyncIterator[World]:
    """An emptied server with two plans and a few accounts, seen by several processes."""
    server.flush()
    section = config.LedgerSection(url=url or server.url, deadline_ms=10_000)
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_ledger(section, now_ms=clock)) for _ in range(processes)]
        world = World(clock, stores)
        for name, weight in (("everyone", 1), ("triple", 3)):
            await stores[0].directory.put_plan(Plan(name, (Limit(10**15, "day"),), weight=weight), operation_id=f"plan-{name}")
        for name, unit in UNITS.items():
            await stores[0].directory.put_plan(Plan(name, (Limit(10**15, "day"),), unit=unit), operation_id=f"plan-{name}")
        await world.refresh()
        await world.account("org:acme")
        await world.account("ann", parent="org:acme")
        await world.account("ann:agents", parent="ann", kind="agent")
        await world.account("bot", parent="ann:agents", kind="agent")
        await world.account("bob", parent="org:acme", plan="triple")
        await world.account("solo", plan="triple")
        await world.account("idle")
        await world.account("uma", plan="measured")
        yield world
