"""What a unit of a level costs: the index of a named class of capability, how it has fallen, and how it is taken to fall on.

One unit is a million tokens, blended in the level's own parts, at the least price among the level's models; so a budget in units keeps its
worth while prices fall. The index is a step function of the price book, and of what the ledger has kept of it, so that every process, and
every year, finds the same, whatever rows are gone.
Halving in 110 days is what a factor of 10 a year means; the factor is a default for planning, never a price. Knows no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from proxy.domain import CREDITS, NANOCREDITS_PER_CREDIT, Level, Price
from proxy.policy.pricing import rate

DAY_MS = 86_400_000
YEAR_DAYS = 365.25
LEAST_INDEX_NANOCREDITS = 1


@dataclass(frozen=True, slots=True)
class Step:
    """From an instant on, an index: nanocredits for a million blended tokens; `model` is the pattern of the row that set it."""

    at_ms: int
    index_nanocredits: int
    model: str


def blended_nanocredits(row: Price, level: Level) -> int | None:
    """What a million tokens cost by a row, in the level's blend, rounded down.

    None where the row does not price what the blend is made of, or prices it at nothing: by that nobody's budget can be counted.
    """
    parts = {"input": level.input_parts, "output": level.output_parts}
    if any(getattr(row, kind) is None for kind, count in parts.items() if count):
        return None
    weighted = sum(count * rate(row, kind) for kind, count in parts.items() if count)
    return max(1, weighted // sum(parts.values())) if weighted else None


def index_steps(level: Level, rows: Iterable[Price], kept: Step | None = None) -> tuple[Step, ...]:
    """How a level's index has moved and, by rows that are yet to take effect, will move.

    At each instant it is the least blend among the rows in force that name the level (of each model pattern the latest), but never above
    what it was before unless the level may rise, or rises at that instant. A level that loses all its rows keeps its index.

    `kept` is the index that was noted as the one in force at an instant: from then on it stands for all that was before.
    """
    listed = list(rows)
    patterns = {row.model for row in listed if row.level == level.name}
    dated = sorted((row for row in listed if row.model in patterns), key=_effective_at_ms)  # stable: of equal dates the later row counts
    begun = {at_ms: list(together) for at_ms, together in groupby(dated, key=_effective_at_ms)}
    turns = [at_ms for at_ms in (level.rises_at_ms, None if kept is None else kept.at_ms) if at_ms is not None]
    blends: dict[str, int] = {}
    steps: list[Step] = []
    for at_ms in sorted({*begun, *turns}):
        for row in begun.get(at_ms, ()):
            blend = blended_nanocredits(row, level) if row.level == level.name else None
            blends.pop(row.model, None)
            if blend is not None:
                blends[row.model] = blend
        before = kept if kept is not None and kept.at_ms == at_ms else steps[-1] if steps else None
        step = before
        if blends:
            model = min(blends, key=blends.__getitem__)
            if before is None or blends[model] < before.index_nanocredits or level.may_rise or at_ms == level.rises_at_ms:
                step = Step(at_ms, blends[model], model)
        if step is not None and (not steps or step.index_nanocredits != steps[-1].index_nanocredits):
            steps.append(replace(step, at_ms=at_ms))
    return tuple(steps)


def members(level: Level, rows: Iterable[Price], at_ms: int) -> tuple[Price, ...]:
    """The rows in force that name a level, by what their blend costs; those without a blend, which count for nothing, last."""
    latest: dict[str, Price] = {}
    for row in sorted(rows, key=_effective_at_ms):
        if row.effective_at_ms <= at_ms:
            latest[row.model] = row
    named = [row for row in latest.values() if row.level == level.name]
    return tuple(sorted(named, key=lambda row: (blended_nanocredits(row, level) or float("inf"), row.model)))


def step_at(steps: Sequence[Step], at_ms: int) -> Step | None:
    """The step that holds at an instant; None before the first."""
    begun = bisect_right(steps, at_ms, key=lambda step: step.at_ms)
    return steps[begun - 1] if begun else None


def planned_index(level: Level, steps: Sequence[Step], at_ms: int, *, as_of_ms: int) -> int | None:
    """The index to plan with at an instant, by what is known as of another; None where there is none by then.

    Until the last known step it is what is known, and it stays so until `as_of`; from then on it falls by the level's schedule. So it
    never rises where prices do not. Rounded down, never below the least index there is.
    """
    step = step_at(steps, at_ms)
    if step is None:
        return None
    days = (at_ms - known_until_ms(steps, as_of_ms=as_of_ms)) / DAY_MS
    if days <= 0:
        return step.index_nanocredits
    return max(LEAST_INDEX_NANOCREDITS, int(step.index_nanocredits * level.deflation ** -(days / YEAR_DAYS)))


def known_until_ms(steps: Sequence[Step], *, as_of_ms: int) -> int:
    """Until when the index is known, as of an instant: until then, or until the last step, where that is yet to come."""
    return max(steps[-1].at_ms, as_of_ms) if steps else as_of_ms


class Levels:
    """All levels of a price book: those with settings of their own, those that rows name, and those of which an index was kept.

    Immutable; a change makes a new one.
    """

    def __init__(self, rows: Iterable[Price] = (), configured: Iterable[Level] = (), kept: Mapping[str, Step] | None = None) -> None:
        self.rows: tuple[Price, ...] = tuple(rows)
        self.kept: Mapping[str, Step] = kept or {}
        """The index of each level as it was noted last; see `to_keep`."""
        named = {row.level: Level(row.level) for row in self.rows if row.level is not None}
        every = {name: Level(name) for name in self.kept} | named | {level.name: level for level in configured}
        self.by_name: Mapping[str, Level] = {name: every[name] for name in sorted(every) if name != CREDITS}
        self.steps: Mapping[str, tuple[Step, ...]] = {
            name: index_steps(level, self.rows, self.kept.get(name)) for name, level in self.by_name.items()
        }

    def index(self, name: str, at_ms: int) -> int | None:
        """A level's index at an instant, nanocredits for a million blended tokens; None before its first, and of no level."""
        step = step_at(self.steps.get(name, ()), at_ms)
        return None if step is None else step.index_nanocredits

    def counted_in(self, unit: str, amount_nanocredits: int, at_ms: int) -> int:
        """So many credits in what an account counts, rounded down; unchanged where that is credits, or has no index."""
        index = None if unit == CREDITS else self.index(unit, at_ms)
        return amount_nanocredits if index is None else amount_nanocredits * NANOCREDITS_PER_CREDIT // index

    def in_credits(self, unit: str, amount: int, at_ms: int) -> int | None:
        """What so much of what an account counts is worth in nanocredits, rounded down; None where its level has no index yet."""
        index = NANOCREDITS_PER_CREDIT if unit == CREDITS else self.index(unit, at_ms)
        return None if index is None else amount * index // NANOCREDITS_PER_CREDIT

    def to_keep(self, now_ms: int) -> dict[str, Step]:
        """What is to be noted of the levels' indices now, so that it outlasts the rows that set them: what is not noted so yet."""
        found = {}
        for name, level in self.by_name.items():
            step, kept = step_at(self.steps[name], now_ms), self.kept.get(name)
            if kept is not None and kept.at_ms > now_ms:  # noted by a clock that was put back since
                least = kept if step is None or level.may_rise else min(step, kept, key=lambda of: of.index_nanocredits)
                found[name] = replace(least, at_ms=now_ms)
                continue
            if step is None:
                continue
            has_risen = kept is not None and level.rises_at_ms is not None and kept.at_ms <= level.rises_at_ms < now_ms
            if kept is None or kept.index_nanocredits != step.index_nanocredits or has_risen:
                found[name] = replace(step, at_ms=now_ms)
        return found


def _effective_at_ms(row: Price) -> int:
    return row.effective_at_ms
