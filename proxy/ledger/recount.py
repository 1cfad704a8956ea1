"""The recount: all use counted anew from the balances, beside full traffic, to correct what flushes have lost.

A recount begins a new generation. From then on every verb that meets a record of an older one counts it anew, and the recount touches all
that no verb meets; moves meanwhile count in both generations. When all is touched and told, the two are compared: what differs is the
drift; then readers go by the new one. One recount runs at a time; where it dies another process goes on from where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from proxy.domain import Path
from proxy.errors import LedgerUnavailable
from proxy.ledger import keys, records
from proxy.ledger.additions import SHARDS
from proxy.ledger.engine import Engine
from proxy.ledger.equality import Counting, EqualityLedger, read_counting
from proxy.ledger.tallying import ALL, DAY_MS, EPOCHS, day_of, entitled_name, index_on, name_of
from proxy.policy.equality import Drift, Group, Recount
from proxy.policy.tallies import WINDOWS, Bucket, Population, Tally, WindowName

LEASE_MS: Final = 30_000
WAIT_S: Final = 0.5
READINGS: Final = 3
ROUNDING: Final = 1e-12
"""Of all use: what a bucket's sum of doubles may be off by, in the half-life."""
_TASK: Final = "equality-recount"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a recount goes."""

    batch: int = 100
    """Accounts that are looked at together: nobody else waits longer than some milliseconds for them, at the server or in this process."""
    pause_s: float = 0.02
    """After each batch: so a recount takes no more than a fifth of the server."""
    settle_s: float = 3.0
    """Until every process has heard how is counted now, which takes a quarter of a second, and told its moves: three flushes."""


class Recounter:
    """One process's way to recounts."""

    def __init__(self, engine: Engine, equality: EqualityLedger, pace: Pace | None = None) -> None:
        self._engine = engine
        self._equality = equality
        self._pace = pace or Pace()
        self._token = secrets.token_hex(8)
        self._running = asyncio.Lock()
        self._half_life_days = 7
        self._labels: tuple[str, ...] = ()
        self._hour_utc = 3
        self._taken_over: tuple[int, tuple[str, ...]] | None = None
        """How was to be counted when this process last made it so: two proxies that are configured differently must not go on in turns."""

    def configure(self, *, half_life_days: int, labels: tuple[str, ...], hour_utc: int) -> None:
        """How is to be counted from the next recount on, and when that is each night."""
        self._half_life_days, self._labels, self._hour_utc = half_life_days, labels, hour_utc

    async def run_if_due(self) -> Recount | None:
        """Recount where it is time, where a recount was asked for or broke off, or where is to be counted in another way."""
        counting = await read_counting(self._engine)
        hour_ms = self._hour_utc * DAY_MS // 24
        due_ms = (self._engine.now_ms() - hour_ms) // DAY_MS * DAY_MS + hour_ms
        is_due = counting.is_due or counting.next or counting.began_ms < due_ms or self._differs(counting)
        done = await self._run_alone() if is_due else None
        if done is not None:
            self._taken_over = self._half_life_days, self._labels
        return done

    async def run(self) -> Recount:
        """Recount now; where a recount is at work already, wait for that one and recount again. Raises LedgerUnavailable."""
        while True:
            if (done := await self._run_alone()) is not None:
                return done
            await asyncio.sleep(WAIT_S)

    def _differs(self, counting: Counting) -> bool:
        wanted = self._half_life_days, self._labels
        return wanted != (counting.half_life_days, counting.labels) and wanted != self._taken_over

    async def _run_alone(self) -> Recount | None:
        """None where another process is at it."""
        if self._running.locked():
            return None
        async with self._running:
            await self._engine.command("SET", keys.lease(_TASK), self._token, "NX", "PX", LEASE_MS)
            if not await self._has_lease():
                return None
            try:
                return await self._run()
            finally:
                with contextlib.suppress(LedgerUnavailable):  # the lease ends by itself, and whoever ends this hears of its own reason
                    if await self._has_lease():
                        await self._engine.command("DEL", keys.lease(_TASK))

    async def _has_lease(self) -> bool:
        held: bytes | None = await self._engine.command("GET", keys.lease(_TASK))
        return held == self._token.encode()

    async def _keep_lease(self) -> None:
        """Raises LedgerUnavailable where another process has gone on meanwhile."""
        if not await self._has_lease():
            raise LedgerUnavailable("the recount took too long, and another process goes on with it")
        await self._engine.command("PEXPIRE", keys.lease(_TASK), LEASE_MS)

    async def _run(self) -> Recount:
        await self._equality.flush()  # with what this process asks for
        counting = await self._begin()
        await asyncio.sleep(self._pace.settle_s)  # until every process counts in the new generation
        accounts = 0
        async for batch, after in self._batches(counting.after):
            await self._equality.enrolment.enrol(batch)
            await self._equality.flush()
            await self._engine.command("HSET", keys.EQUALITY, "after", after)
            await self._keep_lease()
            accounts += len(batch)
            await asyncio.sleep(self._pace.pause_s)
        await asyncio.sleep(self._pace.settle_s)
        await self._equality.flush()
        await self._keep_lease()
        return await self._end(counting, accounts)

    async def _begin(self) -> Counting:
        """Begin a new generation, or go on with the one that another process has begun."""
        counting = await read_counting(self._engine)
        if not counting.next:
            how = ("half_life_days", self._half_life_days, "labels", json.dumps(self._labels))
            generations = ("generation", counting.generation, "next", counting.generation + 1)
            when = ("after", "", "began_ms", self._engine.now_ms(), "is_due", 0)
            await self._engine.command("HSET", keys.EQUALITY, *how, *generations, *when)
        return await self._equality.announce()

    async def _batches(self, after: str) -> AsyncIterator[tuple[list[Path], str]]:
        """The paths of all accounts from one on, in the order of their ids; each batch with its last id."""
        start = f"({after}" if after else "-"
        while ids := await self._engine.command("ZRANGEBYLEX", keys.ACCOUNTS, start, "+", "LIMIT", 0, self._pace.batch):
            texts = await self._engine.commands(*(("GET", keys.path_of(raw.decode())) for raw in ids))
            yield [records.decode_path(text) for text in texts if text is not None], ids[-1].decode()
            start = f"({ids[-1].decode()}"

    async def _end(self, counting: Counting, accounts: int) -> Recount:
        """Tell the drift, have all read the new generation, and let the old one go."""
        drifts = tuple([await self._drift(counting, window) for window in WINDOWS])
        now_ms = self._engine.now_ms()
        generations = ("generation", counting.next, "next", 0, "after", "")
        found = ("counted_ms", now_ms, "drifts", json.dumps([asdict(drift) for drift in drifts]))
        await self._engine.command("HSET", keys.EQUALITY, *generations, *found)
        await self._equality.announce()
        await self._equality.folding.fold()  # so that nothing told of the old generation brings it back
        await self._drop(counting)
        return Recount(accounts, now_ms - counting.began_ms, drifts)

    async def _drift(self, counting: Counting, window: WindowName) -> Drift:
        """How far the two generations differ. A flush may be half told when they are read; so the least of some readings counts."""
        found: list[Drift] = []
        while not found or (found[-1].of_use and len(found) < READINGS):
            if found:
                await asyncio.sleep(self._pace.settle_s / READINGS)
            places = ((generation, ALL) for generation in (counting.generation, counting.next))
            both = await self._equality.groups(window, counting.half_life_days, *places)
            found.append(_difference(window, *both))
        return min(found, key=lambda drift: (drift.use_nanocredits, drift.people))

    async def _drop(self, counting: Counting) -> None:
        """Let go what nobody reads any more; what a process that has not heard of it adds later goes by itself."""
        dimensions = (ALL, "plan", "organisation", *(f"label:{name}" for name in counting.labels))
        today, half_life_days = day_of(self._engine.now_ms()), counting.half_life_days
        for dimension in dimensions:
            names = [entitled_name(counting.generation, dimension)]
            for window in WINDOWS:
                index = index_on(window, today, half_life_days)
                kept = EPOCHS if window == "half_life" else 2  # the present one, and one that has just ended
                names += [name_of(counting.generation, window, index - ago, half_life_days, dimension) for ago in range(kept)]
            await self._engine.commands(*(("UNLINK", keys.of_equality(shard, name)) for name in names for shard in range(SHARDS)))


_NOBODY: Final = Group(Population(), Tally())


def _difference(window: WindowName, before: Mapping[str, Group], anew: Mapping[str, Group]) -> Drift:
    """How far what was told of everybody, in each unit, is from what was counted anew."""
    parts = [_between(before.get(of, _NOBODY), anew.get(of, _NOBODY)) for of in before.keys() | anew.keys()]
    people, use, all_use = (sum(numbers) for numbers in zip(*parts, strict=True)) if parts else (0, 0.0, 0.0)
    return Drift(window, round(people), use, min(1.0, use / all_use) if all_use else 0.0)


def _between(before: Group, anew: Group) -> tuple[int, float, float]:
    """People and use that were told wrong, and all use there is."""
    people, use = abs(anew.population.people - before.population.people), 0.0
    for number in before.tally.buckets.keys() | anew.tally.buckets.keys():
        there, right = before.tally.buckets.get(number, Bucket()), anew.tally.buckets.get(number, Bucket())
        people += abs(right.count - there.count)
        difference = abs(right.use_nanocredits - there.use_nanocredits)
        use += difference if difference > ROUNDING * anew.tally.use_nanocredits else 0.0
    return people, use, max(before.tally.use_nanocredits, anew.tally.use_nanocredits)
