"""How equal use is, as the ledger knows it: one process's share in counting it, and the state of each window.

Verbs tell moves (`moves`), a flush tells what they add to the tallies at least once a second (`tallying`, `additions`), whoever reads the
tallies adds it, now and then for all (`folding`), and accounts that were opened or changed are enrolled where they are counted now. A
recount (`recount`) corrects what was lost. Must not know how it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.domain import CREDITS, AccountId, Path
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger import keys
from proxy.ledger.additions import Additions
from proxy.ledger.balances import read_balance
from proxy.ledger.denials import Denials
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.enrolment import Enrolment
from proxy.ledger.folding import FEW_PIECES, Folding
from proxy.ledger.marks import Era
from proxy.ledger.moves import Move, Moves
from proxy.ledger.tallying import (
    ALL,
    DAY_MS,
    EPOCHS,
    Counted,
    Hash,
    by_unit,
    count,
    day_of,
    entitled_name,
    groups,
    index_on,
    name_of,
    present_uses,
    read_hash,
    starts_ms,
)
from proxy.policy.equality import Group, Uses, WindowState
from proxy.policy.tallies import Population, Tally, WindowName

COUNTED_AT_ONCE: Final = 50
"""Moves: some milliseconds of the process."""
ENROLLED_AT_ONCE: Final = 50
ENROLLED_MAX: Final = 500
"""Changed accounts that one flush enrols; the others wait for the next."""
CHANGED_MAX: Final = 10_000
"""Accounts that wait to be enrolled; where more have changed, a recount enrols all."""


@dataclass(frozen=True, slots=True)
class Counting:
    """What is agreed on between all processes: kept in the ledger."""

    generation: int = 1
    """The one that is read."""
    next: int = 0
    """The one that a recount at work fills; 0 where none is."""
    half_life_days: int = 7
    labels: tuple[str, ...] = ()
    after: str = ""
    """The last account that the recount has reached."""
    began_ms: int = 0
    counted_ms: int = 0
    """When the last recount ended; 0 where there was none."""
    is_due: bool = False
    drifts: str = "[]"

    @property
    def era(self) -> Era:
        return Era(max(self.generation, self.next), self.half_life_days, self.labels)

    @property
    def generations(self) -> tuple[int, ...]:
        return (self.generation, self.next) if self.next else (self.generation,)


async def read_counting(engine: Engine) -> Counting:
    """What is agreed on now. Raises LedgerUnavailable."""
    flat = await engine.command("HGETALL", keys.EQUALITY)
    fields = {flat[n].decode(): flat[n + 1].decode() for n in range(0, len(flat), 2)}
    whole = {name: int(fields.get(name, default)) for name, default in _WHOLE.items()}
    return Counting(
        **whole,
        labels=tuple(json.loads(fields.get("labels", "[]"))),
        after=fields.get("after", ""),
        is_due=fields.get("is_due") == "1",
        drifts=fields.get("drifts", "[]"),
    )


_WHOLE: Final = {"generation": 1, "next": 0, "half_life_days": 7, "began_ms": 0, "counted_ms": 0}


class EqualityLedger:
    """One process's way to the statistics."""

    def __init__(self, engine: Engine, directory: Directory, moves: Moves) -> None:
        self._engine = engine
        self._directory = directory
        self._moves = moves
        self._additions = Additions(engine)
        self.folding = Folding(engine)
        self._changed: set[AccountId] = set()
        self._asks_recount = False
        self._flushing = asyncio.Lock()
        self._counting = Counting()
        self._learnt = -1
        """What the directory had heard of when it was read."""
        self.denials = Denials(engine, directory, self._additions, self.folding)
        self.enrolment = Enrolment(engine, directory, moves)
        directory.announced = self._note_change

    async def learn(self) -> Counting:
        """What is agreed on now, which this process's calls then go by. Raises LedgerUnavailable."""
        heard = self._directory.countings
        self._counting = await read_counting(self._engine)
        self._learnt = heard
        if self._counting.era != self._moves.era:
            self._moves.era = self._counting.era
        return self._counting

    async def announce(self) -> Counting:
        """Have every process learn what is agreed on now, this one at once. Raises LedgerUnavailable."""
        await self._directory.announce_counting()
        return await self.learn()

    # --- counting ----------------------------------------------------------------------------------------------------------------

    def _note_change(self, kind: str, name: str) -> None:
        """This process has changed an account or a plan."""
        if kind == "plan" or len(self._changed) >= CHANGED_MAX:
            self._asks_recount = True
        elif kind == "account":
            self._changed.add(AccountId(name))

    async def flush(self) -> None:
        """Tell all that this process has counted and changed. Raises LedgerUnavailable; nothing is lost or told twice then."""
        async with self._flushing:
            counting = await self.learn() if self._learnt != self._directory.countings else self._counting
            if self._asks_recount:
                await self._engine.command("HSET", keys.EQUALITY, "is_due", "1")
                self._asks_recount = False
            await self._enrol_changed()
            await self._gather(counting)
            await self.denials.gather(counting.half_life_days)
            await self._additions.send()
        if self._additions.is_much(FEW_PIECES):
            await self.folding.fold((self._additions.shard,))

    async def _enrol_changed(self) -> None:
        """Enrol who was opened or changed, as far as one flush has time for it: what was used is told each second, whatever is opened."""
        for _ in range(0, ENROLLED_MAX, ENROLLED_AT_ONCE):
            accounts = [self._changed.pop() for _ in range(min(ENROLLED_AT_ONCE, len(self._changed)))]
            if not accounts:
                return
            try:
                paths = await asyncio.gather(*(self._path(account) for account in accounts))
                known = [path[: n + 1] for path in paths for n in range(max(0, len(path) - 2), len(path))]
                await self.enrolment.enrol(list(dict.fromkeys(known)))
            except LedgerUnavailable:
                self._changed.update(accounts)
                raise

    async def _path(self, account: AccountId) -> Path:
        try:
            return await self._directory.path(account)
        except Refusal:
            return ()  # it was announced, but is not there: nothing to enrol

    async def _gather(self, counting: Counting) -> None:
        """Turn pending moves into additions, a few at a time beside the requests; from then on they are sent once, whatever fails."""
        for _ in range(0, len(self._moves.pending), COUNTED_AT_ONCE):
            hashes = await self._counted(self._moves.pending.take(COUNTED_AT_ONCE), counting.generations)
            for name, told in hashes.items():
                for of, sums, buckets in told.fields():
                    self._additions.add(name, of, sums, buckets, gone_ms=told.gone_ms)
            await asyncio.sleep(0)

    async def _counted(self, moves: Sequence[Move], generations: tuple[int, ...]) -> dict[str, Hash]:
        """What moves add to each hash; once more where a plan is met that another process has defined a moment ago."""
        unknown: set[str] = set()

        def unit_of(plan: str) -> str:
            unit = self._directory.unit_of_plan(plan)
            if unit is None:
                unknown.add(plan)
            return unit or CREDITS

        hashes = count(moves, generations, self._engine.now_ms(), unit_of=unit_of)
        if unknown:
            for plan in tuple(unknown):
                with contextlib.suppress(Refusal, LedgerUnavailable):  # then they count as credits, until the recount
                    await self._directory.known_plan(plan)
            hashes = count(moves, generations, self._engine.now_ms(), unit_of=unit_of)
        return hashes

    # --- what is known -------------------------------------------------------------------------------------------------------------

    async def state(self, window: WindowName, group: str | None = None, unit: str | None = None) -> WindowState:
        """A window as it stands, divided by `plan`, `organisation` or a label, or by nothing; of those who count in one unit (None: the
        one that most people count in). Raises LedgerUnavailable."""
        counting = await read_counting(self._engine)
        now_ms, half_life_days = self._engine.now_ms(), counting.half_life_days
        index = index_on(window, day_of(now_ms), half_life_days)
        divided = group if group in (None, "plan", "organisation") else f"label:{group}"
        places = [(counting.generation, dimension) for dimension in (ALL, divided) if dimension is not None]
        everybody, *parts = (by_unit(fields) for fields in await self.groups(window, half_life_days, *places))
        people = {name: _people(fields[""]) for name, fields in everybody.items()}
        unit = unit or max(people, key=lambda name: (people[name], name == CREDITS, name), default=CREDITS)
        denied = await self.denials.denied(window, unit, half_life_days)
        totals = await self.denials.totals(window, unit, half_life_days)
        starts, is_aged = starts_ms(window, index, half_life_days), window == "half_life"
        return WindowState(
            window=window,
            starts_at_ms=now_ms - half_life_days * DAY_MS if is_aged else starts,
            resets_at_ms=None if is_aged else starts_ms(window, index + 1, half_life_days),
            total=everybody.get(unit, {}).get("", Group(Population(), Tally())),
            groups=parts[0].get(unit, {}) if parts else {},
            denied_people=denied.without_use,
            deficit_nanocredits=totals.deficit_nanocredits,
            least_served_of_demand=denied.least_served_of_demand,
            utilisation=totals.utilisation,
            drift=next((drift["of_use"] for drift in json.loads(counting.drifts) if drift["window"] == window), None),
            use_scale=2.0 ** -((now_ms - starts) / (half_life_days * DAY_MS)) if is_aged else 1.0,
            unit=unit,
            people_by_unit=people,
        )

    async def groups(self, window: WindowName, half_life_days: int, *places: tuple[int, str]) -> list[dict[str, Group]]:
        """A window's fields (`tallying.field_of`), for each generation and dimension; costs by groups and buckets.

        Raises LedgerUnavailable. What one process told at once is in all of them or in none, so they can be compared.
        """
        index = index_on(window, day_of(self._engine.now_ms()), half_life_days)
        epochs = range(EPOCHS if window == "half_life" else 1)
        names = [
            [entitled_name(generation, dimension), *(name_of(generation, window, index - ago, half_life_days, dimension) for ago in epochs)]
            for generation, dimension in places
        ]
        flats_by_name = iter(await self.folding.read(*itertools.chain.from_iterable(names)))
        found: list[dict[str, Group]] = []
        for own in names:
            entitled: dict[str, Counted] = {}
            used: dict[str, Counted] = {}
            for ago, flats in enumerate(itertools.islice(flats_by_name, len(own)), start=-1):
                for flat in flats:
                    read_hash(flat, entitled if ago < 0 else used, epochs_ago=max(0, ago))
                    await asyncio.sleep(0)  # so that nobody waits for all of it: with many groups it takes a while
            found.append(groups(entitled, used))
        return found

    async def standing(self, path: Path) -> Uses | None:
        """What the person used that a path's use counts as; None where it never used anything. Raises LedgerUnavailable."""
        person = await self._directory.person(path)
        packed = await self._engine.command("GET", keys.balance(path[0], person))
        uses = read_balance(packed).uses if packed is not None else None
        if uses is None:
            return None
        return present_uses(uses, self._engine.now_ms(), unit=await self._directory.unit(person))


def _people(group: Group) -> int:
    return max(group.population.people, group.tally.people)
