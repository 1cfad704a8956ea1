"""From moves to what they add to the tallies, and from the stored tallies back.

A tally stands in hashes named after generation, window, index of the window, and dimension (`all`, `plan`, `organisation`, `label:<name>`);
a field of one is a group's tally, of those who count in one unit: its sums, a row {number, people, weight, use} for each bucket, and one
{OCTAVES + number, log, square, concentration} for each octave. Who is entitled stands apart, without a window; who used something without
being entitled is counted as a stray: population = entitled + strays. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeVar

from proxy.domain import CREDITS
from proxy.ledger.additions import Row
from proxy.ledger.balances import StoredUses, read_uses
from proxy.ledger.marks import groups_of, read_mark
from proxy.ledger.moves import Move
from proxy.policy import windows
from proxy.policy.equality import Group, Uses
from proxy.policy.tallies import WINDOWS, Bucket, Octave, Population, Tally, WindowName

DAY_MS: Final = 86_400_000
FIRST_DAY: Final = 719_163
"""1 January 1970, where 1 January of the year 1 is 1."""
EPOCHS: Final = 16
"""Half-lives after which use counts as none."""
LEAST_USE: Final = 1e-3
"""Of a nanocredit: what has aged below it counts as none."""
ENTITLED_KEPT_MS: Final = 40 * DAY_MS
"""How long the numbers of the entitled stay after the last change; each recount writes them anew."""
OCTAVES: Final = 1_000_000
"""Above the number of any bucket; what stands between the numbers of buckets and those of octaves, in a field's rows."""
_SUMS: Final = struct.Struct("<3d")
_ROW: Final = struct.Struct("<4d")

ALL: Final = "all"
_TOGETHER: Final = ((ALL, ""),)

T = TypeVar("T")


@dataclass(slots=True)
class Counted:
    """Of a group: its tally, and who is not in it: strays in a window, the entitled where there is none."""

    tally: Tally = field(default_factory=Tally)
    people: int = 0
    weight: int = 0


@dataclass(slots=True)
class Hash:
    """What is to be added to one stored hash."""

    gone_ms: int
    groups: dict[str, Counted] = field(default_factory=dict)

    def group(self, name: str) -> Counted:
        counted = self.groups.get(name)
        if counted is None:
            counted = self.groups[name] = Counted()
        return counted

    def fields(self) -> Iterator[tuple[str, tuple[float, ...], dict[int, Row]]]:
        """Each group's name, sums, and rows of buckets and octaves."""
        for name, counted in self.groups.items():
            tally = counted.tally
            rows: dict[int, Row] = {n: (b.count, b.weight, b.use_nanocredits) for n, b in tally.buckets.items()}
            rows |= {OCTAVES + n: (octave.log, octave.square, octave.concentration) for n, octave in tally.octaves.items()}
            yield name, (tally.root, counted.people, counted.weight), rows


# --- windows ---------------------------------------------------------------------------------------------------------------------


def day_of(now_ms: int) -> int:
    """The number of a day of UTC, as `date.toordinal` counts."""
    return now_ms // DAY_MS + FIRST_DAY


def index_on(window: WindowName, day: int, half_life_days: int) -> int:
    """The index of the window that holds a day; of the half-life, the epoch."""
    return day // half_life_days if window == "half_life" else windows.index_on(window, day)


def starts_ms(window: WindowName, index: int, half_life_days: int) -> int:
    """When a window, or an epoch, starts."""
    day = index * half_life_days if window == "half_life" else windows.first_day(window, index)
    return (day - FIRST_DAY) * DAY_MS


def gone_ms(window: WindowName, index: int, half_life_days: int) -> int:
    """When what is told of a window may go: a window after its end; of an epoch, once its use counts as none."""
    return starts_ms(window, index + (EPOCHS + 1 if window == "half_life" else 2), half_life_days)


def name_of(generation: int, window: WindowName, index: int, half_life_days: int, dimension: str) -> str:
    """Of the hash with a window's tally."""
    place = f"{index}x{half_life_days}" if window == "half_life" else str(index)
    return f"{generation}:{window}:{place}:{dimension}"


def entitled_name(generation: int, dimension: str) -> str:
    """Of the hash with who is entitled."""
    return f"{generation}:entitled:-:{dimension}"


# --- from moves ------------------------------------------------------------------------------------------------------------------


class Slot(NamedTuple):
    """Where is counted, and when."""

    generation: int
    dimension: str
    today: int


def _sides(move: Move) -> tuple[tuple[bytes, Literal[1, -1]], ...]:
    """What comes, and then what goes."""
    return ((move.after, 1), (move.before, -1))


def use_of(uses: StoredUses, window: WindowName) -> float:
    """What stands there of a window, which need not be the present one."""
    match window:
        case "day":
            return uses.of_day
        case "week":
            return uses.of_week
        case "month":
            return uses.of_month
        case "half_life":
            return uses.aged


def field_of(group: str, unit: str) -> str:
    """The field of a group's people who count in one unit: amounts of two units are not added up."""
    return f"{unit} {group}"


def by_unit(fields: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """What fields say, by unit and then by group."""
    found: dict[str, dict[str, T]] = {}
    for name, told in fields.items():
        unit, _, group = name.partition(" ")
        found.setdefault(unit, {})[group] = told
    return found


def count(moves: Iterable[Move], generations: Iterable[int], now_ms: int, *, unit_of: Callable[[str], str]) -> dict[str, Hash]:
    """What moves add to each hash, of everybody together and of groups, in each of the generations that are counted now: a record is part
    of all up to its own, also of one that has begun since. `unit_of` tells what a plan's amounts count."""
    hashes: dict[str, Hash] = {}
    counted_in = tuple(generations)
    today = day_of(now_ms)
    for move in moves:
        organisation = move.root if move.root != move.person else ""
        among = counted_in
        for packed, sign in _sides(move):
            uses = read_uses(packed)
            if uses is None:
                continue
            if uses.generation > max(among):
                among = (*counted_in, uses.generation)
            mark = read_mark(uses.mark)
            unit = unit_of(mark.plan)
            places = {name: field_of(group, unit) for name, group in (*_TOGETHER, *groups_of(mark, organisation).items())}
            for generation in among:
                if generation <= uses.generation:
                    for dimension, group in places.items():
                        _add(hashes, uses, mark.weight, Slot(generation, dimension, today), group, sign)
                        if uses.is_entitled:
                            counted = hashes.setdefault(entitled_name(generation, dimension), Hash(now_ms + ENTITLED_KEPT_MS)).group(group)
                            counted.people += sign
                            counted.weight += sign * mark.weight
    return hashes


def _add(hashes: dict[str, Hash], uses: StoredUses, weight: int, slot: Slot, group: str, sign: Literal[1, -1]) -> None:
    """Put a person with these uses into each window that is still told of, or take it out."""
    for window, name, gone in _told_of(slot, uses.day, uses.half_life_days):
        use_nanocredits = use_of(uses, window)
        if use_nanocredits < LEAST_USE:
            continue
        if name not in hashes:
            hashes[name] = Hash(gone)
        counted = hashes[name].group(group)
        counted.tally.move(use_nanocredits=use_nanocredits, weight=weight, sign=sign)
        if not uses.is_entitled:
            counted.people += sign
            counted.weight += sign * weight


@lru_cache(maxsize=4_000)
def _told_of(slot: Slot, day: int, half_life_days: int) -> tuple[tuple[WindowName, str, int], ...]:
    """The windows of a day that are still told of: name of the hash, when it may go. One that is over stays as it was last told."""
    found: list[tuple[WindowName, str, int]] = []
    for window in WINDOWS:
        index = index_on(window, day, half_life_days)
        oldest = index_on(window, slot.today, half_life_days) - (EPOCHS - 1 if window == "half_life" else 0)
        if index >= oldest:
            name = name_of(slot.generation, window, index, half_life_days, slot.dimension)
            found.append((window, name, gone_ms(window, index, half_life_days)))
    return tuple(found)


# --- back from what is stored ----------------------------------------------------------------------------------------------------


def read_hash(flat: list[bytes], into: dict[str, Counted], *, epochs_ago: int = 0) -> None:
    """Add a stored hash, aged where it is of an earlier epoch, to the groups that it tells of."""
    for n in range(0, len(flat), 2):
        packed = flat[n + 1]
        root, people, weight = _SUMS.unpack_from(packed)
        tally = Tally(root=root)
        for number, first, second, third in _ROW.iter_unpack(packed[_SUMS.size :]):
            if number < OCTAVES // 2:
                tally.buckets[int(number)] = Bucket(round(first), round(second), third)
            else:
                tally.octaves[int(number) - OCTAVES] = Octave(first, second, third)
        there = into.setdefault(flat[n].decode(), Counted())
        there.tally.add(tally.aged(epochs_ago) if epochs_ago else tally)
        there.people += round(people)
        there.weight += round(weight)


def groups(entitled: Mapping[str, Counted], used: Mapping[str, Counted]) -> dict[str, Group]:
    """The population and tally of each field."""
    nobody = Counted()
    found = {}
    for name in entitled.keys() | used.keys():
        there, using = entitled.get(name, nobody), used.get(name, nobody)
        population = Population(there.people + using.people, there.weight + using.weight)
        if population.people > 0 or using.tally.people > 0:
            found[name] = Group(population, using.tally)
    return found


def present_uses(uses: StoredUses, now_ms: int, *, unit: str = CREDITS) -> Uses:
    """What a person used in the windows that hold now; of the half-life, as of the present epoch. `unit` is what its amounts count."""
    today, half_life_days = day_of(now_ms), uses.half_life_days
    found: dict[WindowName, float] = {}
    for window in WINDOWS:
        past = index_on(window, today, half_life_days) - index_on(window, uses.day, half_life_days)
        used = use_of(uses, window)
        found[window] = used * 2.0**-past if window == "half_life" else used if past <= 0 else 0.0
    return Uses(weight=read_mark(uses.mark).weight, use_nanocredits=found, unit=unit)
