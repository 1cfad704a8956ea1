"""How far orders reach: how many people each policy treats now, or as a dry run would, and about how many credits a day that moves.

What a price or a tithe moves is taken from the use of the day so far beyond its line, as if the rest of the day went on like that; what the
floor gives, from who was denied, once each; a dividend is what would be dealt. A commons that has less gives less. Estimates: all of a
bucket count as their average, and a price that grew with use counts by the middle of its way. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from proxy.policy.orders import Orders, PolicyName, treat
from proxy.policy.tallies import Tally

DAY_MS: Final = 86_400_000
ELAPSED_MIN_MS: Final = 3_600_000
"""Less of a day than this says nothing of all of it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What one policy comes to."""

    people: int = 0
    daily_nanocredits: int = 0
    """Moved between budgets, or debited beyond the price; 0 where a policy moves no credits."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Everybody, as far as it matters here."""

    uses: Tally
    denied_people: int
    """Who asked today and got nothing."""
    entitled_people: int


def reaches(orders: Orders, crowd: Crowd, *, dividend_interval_s: float) -> Mapping[PolicyName, Reach]:
    """Of each policy that is on or proposed."""
    names = (*orders.on, *orders.proposed)
    as_if_on = replace(orders, on=names, proposed=())
    people, moved = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    days = DAY_MS / max(ELAPSED_MIN_MS, orders.at_ms - orders.window_starts_at_ms)
    for bucket in crowd.uses.buckets.values():
        treatment = treat(as_if_on, use_nanocredits=bucket.use_nanocredits, weight=bucket.weight)
        for name in treatment.applied:
            people[name] += bucket.count
        if "progressive_price" in treatment.applied:
            beyond = bucket.use_nanocredits - bucket.weight * orders.price_theta * orders.average_nanocredits
            moved["progressive_price"] += days * beyond * (treatment.price_percent - 100) / 200
        if "tithe" in treatment.applied:
            moved["tithe"] += days * treatment.tithe_share * (bucket.use_nanocredits - bucket.weight * orders.tithe_nanocredits)
    if "floor" in people:
        weight = crowd.uses.weight / crowd.uses.people if crowd.uses.buckets else 1
        people["floor"] += crowd.denied_people
        moved["floor"] = crowd.denied_people * weight * orders.floor_nanocredits
    if "dividend" in people and orders.dividend_nanocredits:
        people["dividend"] = crowd.entitled_people
        moved["dividend"] = orders.dividend_nanocredits * min(1.0, DAY_MS / (1000 * dividend_interval_s))
    return {name: Reach(people[name], round(moved[name])) for name in names}
