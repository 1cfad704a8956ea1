"""What budgets in units of a level will cost, and what a fixed pool of credits will buy, by the prices that are known and the schedule.

A plan, never a debit: whoever is charged is charged by the index in force. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.domain import NANOCREDITS_PER_CREDIT, Level
from proxy.policy.levels import DAY_MS, LEAST_INDEX_NANOCREDITS, YEAR_DAYS, Step, known_until_ms, planned_index

DAYS_SUMMED = 365
MONTHS_PER_YEAR = 12


@dataclass(frozen=True, slots=True)
class Outlook:
    """How it is so many months from now; amounts are None where nobody knows what a unit costs, or nobody asked."""

    months: int
    at_ms: int
    index_nanocredits: int | None
    known_at_ms: int | None
    """When the index was last known, from a price row: later than that it is the schedule's."""
    is_least: bool
    """Whether the schedule has come, then or within the 365 days, to the least index there is, and falls no further."""
    day_nanocredits: int | None
    """What everybody's units cost on that day, rounded up."""
    year_nanocredits: int | None
    """The same for the 365 days that begin then."""
    each_nanounits: int | None
    """What the pool buys everyone on that day, rounded down."""


def look_ahead(
    level: Level,
    steps: Sequence[Step],
    *,
    as_of_ms: int,
    months: int,
    people: int,
    units_nanounits: int | None = None,
    pool_nanocredits: int | None = None,
) -> Outlook:
    """So many months, twelfths of 365.25 days, after `as_of`: what `people` with so many units a day each cost, and what a pool of so
    much a day buys each."""
    at_ms = as_of_ms + round(months * YEAR_DAYS / MONTHS_PER_YEAR * DAY_MS)
    indices = [planned_index(level, steps, at_ms + day * DAY_MS, as_of_ms=as_of_ms) for day in range(DAYS_SUMMED)]
    first, last_known_ms = indices[0], known_until_ms(steps, as_of_ms=as_of_ms)
    costs = [None if index is None or units_nanounits is None else _cost(people * units_nanounits, index) for index in indices]
    known = [cost for cost in costs if cost is not None]
    is_planned = level.deflation > 1 and at_ms + (DAYS_SUMMED - 1) * DAY_MS > last_known_ms
    return Outlook(
        months=months,
        at_ms=at_ms,
        index_nanocredits=first,
        known_at_ms=None if first is None else min(last_known_ms, at_ms),
        is_least=is_planned and indices[-1] == LEAST_INDEX_NANOCREDITS,
        day_nanocredits=costs[0],
        year_nanocredits=sum(known) if len(known) == DAYS_SUMMED else None,
        each_nanounits=None if first is None or pool_nanocredits is None else pool_nanocredits * NANOCREDITS_PER_CREDIT // (first * people),
    )


def _cost(nanounits: int, index_nanocredits: int) -> int:
    return -(-nanounits * index_nanocredits // NANOCREDITS_PER_CREDIT)
