"""How equal use is: what is told of a window, of its groups, and to a person of its own place.

Everyone who is entitled counts, also without use; x is use per weight. Gini, Jain, Theil and Atkinson(1/2) are as usually defined over x
with weights; all are 0 (Jain 1) where everyone has the same x, and none changes with the unit. A group is suppressed where it has too few
people or where one of them may have more than half of its use. What the others leave of the whole tells of the suppressed together: so the
next smallest are suppressed, too, until they are two or more groups with people enough, and Theil's parts count them as one. What is told
of all groups together still counts everyone. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.domain import CREDITS
from proxy.policy.lorenz import Curve, Interval
from proxy.policy.tallies import Population, Tally, WindowName, bucket_bounds, bucket_of

GROUP_MIN: Final = 20
GROUPS_SHOWN_MAX: Final = 100
LORENZ_AT: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Shares of the population at which the curve is told; finer where most of the use is."""
OF_AVERAGE_MAX: Final = 10.0
"""More a person is not told: the larger its own part, the closer it would tell what the others have."""
PERCENT_STEP: Final = 10
"""How coarsely a person learns its place."""


@dataclass(frozen=True, slots=True)
class Group:
    """People who are counted together."""

    population: Population
    tally: Tally


@dataclass(frozen=True, slots=True)
class WindowState:
    """What the ledger knows of a window at one instant, without anybody's name: of those who count in one unit."""

    window: WindowName
    starts_at_ms: int
    resets_at_ms: int | None
    """None for the half-life, which has no end; it starts one half-life ago."""
    total: Group
    groups: Mapping[str, Group] = field(default_factory=dict)
    """The whole by the one dimension that was asked for, those without any value of it under the empty name; empty where none was."""
    denied_people: int = 0
    """Who asked and got nothing at all."""
    deficit_nanocredits: Mapping[str, int] = field(default_factory=dict)
    """What was asked for and not served, as estimated, by the refusal's code."""
    least_served_of_demand: float | None = None
    """The smallest share of its demand that anybody was served who was denied something; None where nobody was."""
    utilisation: float | None = None
    """Seat-time taken of the seat-time there was; None where no pool has seats."""
    drift: float | None = None
    """By how much, as a share of all use, the last recount corrected this window; None before the first."""
    use_scale: float = 1.0
    """What the tallies' use is to be multiplied by to be credits of now: in the half-life it stands as of some moment before."""
    unit: str = CREDITS
    """What all amounts count."""
    people_by_unit: Mapping[str, int] = field(default_factory=dict)
    """Everyone who counts, also in other units."""


@dataclass(frozen=True, slots=True)
class Uses:
    """What one person used, by window, in the units of that window's tallies."""

    weight: int
    use_nanocredits: Mapping[WindowName, float]
    unit: str = CREDITS


@dataclass(frozen=True, slots=True)
class Drift:
    """What a recount found of one window: how far people and use had been told wrong, each difference taken by its size."""

    window: WindowName
    people: int
    use_nanocredits: float
    of_use: float
    """As a share of all use."""


@dataclass(frozen=True, slots=True)
class Recount:
    """A recount that is done."""

    accounts: int
    took_ms: int
    drifts: tuple[Drift, ...]


@dataclass(frozen=True, slots=True)
class Indices:
    """How equal use is among some people. An interval holds the true figure; plain figures are exact."""

    gini: Interval
    jain: float
    theil: float
    atkinson: float
    lorenz: tuple[tuple[float, Interval], ...]
    """Shares of all use that the lowest share of the population has."""
    top1: Interval
    top10: Interval
    bottom50: Interval
    bottom40: Interval
    p90_of_p10: Interval | None
    """Use per weight that a tenth passes, over what nine tenths pass; None where the latter is no use at all."""


@dataclass(frozen=True, slots=True)
class GroupShown:
    """What may be told of a group."""

    name: str
    people: int
    people_share: float
    use_share: float
    indices: Indices | None
    """None where it has no use."""


@dataclass(frozen=True, slots=True)
class Equality:
    """What is told of a window."""

    state: WindowState
    people: int
    active: int
    idle: int
    """Entitled people without use who were never refused; `denied` are the others."""
    denied: int
    served_nanocredits: int
    deficit_nanocredits: int
    indices: Indices | None
    """None where nobody has used anything: there is nothing to divide."""
    theil_within: float
    theil_between: float
    """Theil's index in two: inside groups, and between their averages; all of it is inside where no groups were asked for."""
    groups: tuple[GroupShown, ...]
    """The largest use first, and at most 100."""
    groups_left_out: int
    """How many more there are to show."""
    groups_suppressed: int
    least_served_of_demand: float | None
    """The smallest share of its demand that anybody was served; None where nobody asked."""

    @property
    def demand_nanocredits(self) -> int:
        return self.served_nanocredits + self.deficit_nanocredits


@dataclass(frozen=True, slots=True)
class Standing:
    """A person's own place, told coarsely enough to say nothing of anybody else."""

    of_average: float
    """Its use per weight over the average, at most 10."""
    percentile: tuple[int, int]
    """In which part of the people it stands, from the least use to the most."""


def measure(state: WindowState, *, group_min: int = GROUP_MIN) -> Equality:
    """All that is told of a window; its cost grows with buckets and groups, not with people."""
    total = Group(state.total.population, state.total.tally.sound())
    groups = {name: Group(group.population, group.tally.sound()) for name, group in state.groups.items()}
    active = total.tally.people
    people = max(total.population.people, active)
    denied = min(state.denied_people, people - active)
    suppressed = _suppressed(groups, group_min)
    apart = [group for name, group in groups.items() if name not in suppressed]
    within, between = _theil_parts([*apart, _together(groups[name] for name in suppressed)] if groups else [total])
    use = total.tally.use_nanocredits
    named = sorted((name for name in groups if name not in suppressed), key=lambda name: (-groups[name].tally.use_nanocredits, name))
    return Equality(
        state=state,
        people=people,
        active=active,
        idle=people - active - denied,
        denied=denied,
        served_nanocredits=round(use * state.use_scale),
        deficit_nanocredits=sum(state.deficit_nanocredits.values()),
        indices=indices(total),
        theil_within=within,
        theil_between=between,
        groups=tuple(_shown(name, groups[name], people, use) for name in named[:GROUPS_SHOWN_MAX]),
        groups_left_out=max(0, len(named) - GROUPS_SHOWN_MAX),
        groups_suppressed=len(suppressed),
        least_served_of_demand=1.0 if state.least_served_of_demand is None and active else state.least_served_of_demand,
    )


def indices(group: Group) -> Indices | None:
    """How equal use is among a group's people; None where they have none. The tally must be sound."""
    use = group.tally.use_nanocredits
    if use <= 0:
        return None
    weight = max(group.population.weight, group.tally.weight)
    curve = Curve(group.population, group.tally)
    lowest, highest = curve.quantile(0.1), curve.quantile(0.9)
    return Indices(
        gini=curve.gini(),
        jain=min(1.0, use * use / (weight * group.tally.square)) if group.tally.square else 1.0,
        theil=_theil(group),
        atkinson=min(1.0, max(0.0, 1 - (group.tally.root / weight) ** 2 * weight / use)),
        lorenz=tuple((population, curve.share_below(population)) for population in LORENZ_AT),
        top1=curve.share_above(0.99),
        top10=curve.share_above(0.9),
        bottom50=curve.share_below(0.5),
        bottom40=curve.share_below(0.4),
        p90_of_p10=Interval(highest.low / lowest.high, highest.high / lowest.low) if lowest.low > 0 else None,
    )


def standing(group: Group, *, use_nanocredits: float, weight: int, group_min: int = GROUP_MIN) -> Standing | None:
    """The place of one of these people; None where those with use are too few to be told of, or one of them may have more than half of it:
    else whoever knows its own use, and how many there are, would know another's."""
    tally = group.tally.sound()
    people = max(group.population.people, tally.people)
    if tally.people < group_min or _may_dominate(tally):
        return None
    average = tally.use_nanocredits / max(group.population.weight, tally.weight)
    below, beside = 0, people - tally.people
    if use_nanocredits > 0:
        number = bucket_of(use_nanocredits / weight)
        below = beside + sum(bucket.count for other, bucket in tally.buckets.items() if other < number)
        beside = tally.buckets[number].count if number in tally.buckets else 0
    steps, step_people = 100 // PERCENT_STEP, people * PERCENT_STEP
    low = min(100 * below // step_people, steps - 1) * PERCENT_STEP
    high = -(-100 * (below + beside) // step_people) * PERCENT_STEP
    of_average = min(OF_AVERAGE_MAX, round(use_nanocredits / weight / average, 1))
    return Standing(of_average=of_average, percentile=(low, max(high, low + PERCENT_STEP)))


# --- groups --------------------------------------------------------------------------------------------------------------------


def _theil(group: Group) -> float:
    use = group.tally.use_nanocredits
    average = use / max(group.population.weight, group.tally.weight)
    return max(0.0, group.tally.log / use - math.log(average))


def _theil_parts(groups: list[Group]) -> tuple[float, float]:
    """Theil's index inside the groups, each by its share of use, and between their averages."""
    with_use = [(group, group.tally.use_nanocredits) for group in groups if group.tally.buckets]
    use = sum(part for _, part in with_use)
    if not use:
        return 0.0, 0.0
    average = use / sum(max(group.population.weight, group.tally.weight) for group in groups)
    within = between = 0.0
    for group, part in with_use:
        within += part / use * _theil(group)
        between += part / use * math.log(part / max(group.population.weight, group.tally.weight) / average)
    return within, max(0.0, between)


def is_told(group: Group, *, group_min: int = GROUP_MIN) -> bool:
    """Whether a group has people enough, none of whom may have more than half of its use."""
    return _people(group) >= group_min and not _may_dominate(group.tally.sound())


def _suppressed(groups: Mapping[str, Group], group_min: int) -> set[str]:
    suppressed = {name for name, group in groups.items() if not is_told(group, group_min=group_min)}
    people = sum(_people(groups[name]) for name in suppressed)
    for name in sorted(groups.keys() - suppressed, key=lambda name: (_people(groups[name]), name)):
        if not suppressed or (len(suppressed) > 1 and people >= group_min):
            break
        suppressed.add(name)
        people += _people(groups[name])
    return suppressed


def _together(groups: Iterable[Group]) -> Group:
    population, tally = Population(), Tally()
    for group in groups:
        population += group.population
        tally.add(group.tally)
    return Group(population, tally)


def _may_dominate(tally: Tally) -> bool:
    """Whether one of these people may have more than half of the use: false only where the tally rules it out."""
    half = tally.use_nanocredits / 2
    if not half or tally.concentration < half * half * (1 - 1e-9):
        return False
    return any(_most_of_one(number, tally) > half for number in tally.buckets)


def _most_of_one(number: int, tally: Tally) -> float:
    """The most that one person of a bucket can have used: the others have at least its lower bound, and weigh at least 1."""
    bucket = tally.buckets[number]
    least, most = bucket_bounds(number)
    others = bucket.count - 1
    return bucket.use_nanocredits if not others else min(bucket.use_nanocredits - others * least, most * (bucket.weight - others))


def _people(group: Group) -> int:
    return max(group.population.people, group.tally.people)


def _shown(name: str, group: Group, people: int, use: float) -> GroupShown:
    return GroupShown(
        name=name,
        people=_people(group),
        people_share=_people(group) / people if people else 0.0,
        use_share=group.tally.use_nanocredits / use if use else 0.0,
        indices=indices(group),
    )
