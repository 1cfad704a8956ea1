"""The Lorenz curve of a tally, with what the buckets leave open: every figure is an interval that the true one lies in.

Inside a bucket the curve is convex, its slope stays between the bucket's bounds, and both its ends are known. So it runs below the chord
and above the two tangents; and Gini's index goes beyond that of the chords by the sum of p_k q_k G_k, where bucket k has the share p_k of
all weight and q_k of all use, and 0 <= G_k <= (b - m)(m - a) / ((b - a) m): a, b its bounds and m its mean, the extreme being two points.
Hence Gini's interval is never wider than (sqrt g - 1) / (sqrt g + 1), g the ratio of the bounds. Nor is the index ever above the
coefficient of variation over sqrt 3 (Glasser 1962), which is known exactly and is the closer bound where all have nearly the same. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.policy.tallies import RATIO, Population, Tally, bucket_bounds

GINI_WIDTH_MAX: Final = (RATIO**0.5 - 1) / (RATIO**0.5 + 1)
"""0.0217: no certified interval of Gini's index is wider."""
ROUNDING: Final = 1e-12
"""Added to both sides of an interval: what a sum of doubles may be wrong by."""
VARIATION_ROUNDING: Final = 1e-8
"""Added to the squared coefficient of variation, whose sums have seen as many additions as there were debits."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure that lies somewhere from `low` to `high`."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


class _Stretch(NamedTuple):
    """The people of one bucket on the curve. Bounds and mean are use per weight in averages, so they are slopes."""

    population_from: float
    population_to: float
    share_from: float
    share_to: float
    least: float
    most: float
    mean: float
    alone: bool
    """One person: nothing is open."""


class Curve:
    """Population shares are shares of all weight; people without use come first."""

    def __init__(self, population: Population, tally: Tally) -> None:
        """The tally must be sound and have use. Where more people have use than are entitled, all of them are."""
        weight = max(population.weight, tally.weight)
        use = tally.use_nanocredits
        self.average_nanocredits = use / weight
        """Use per weight."""
        variation = max(0.0, tally.square * weight / use**2 - 1)
        self._gini_max = math.sqrt((variation + VARIATION_ROUNDING) / 3)
        self._stretches = tuple(_stretches(tally, weight, use))
        self._ends = [stretch.population_to for stretch in self._stretches]

    def gini(self) -> Interval:
        """Gini's index of use per weight, each person counted as often as it weighs."""
        chords, open_width = 1.0, 0.0
        for population_from, population_to, share_from, share_to, least, most, mean, alone in self._stretches:
            population = population_to - population_from
            chords -= population * (share_from + share_to)
            if not alone and least < mean < most:
                open_width += population * (share_to - share_from) * (most - mean) * (mean - least) / ((most - least) * mean)
        return _widened(chords, max(chords, min(chords + open_width, self._gini_max)))

    def share_below(self, population: float) -> Interval:
        """The share of all use that the lowest part of the population has: Lorenz's curve at one point."""
        if population >= 1:
            return Interval(1.0, 1.0)
        s = self._at(population)
        chord = s.share_from + (population - s.population_from) * s.mean
        if s.alone:
            return _widened(chord, chord)
        from_left = s.share_from + (population - s.population_from) * min(s.least, s.mean)
        from_right = s.share_to - (s.population_to - population) * max(s.most, s.mean)
        return _widened(max(from_left, from_right), chord)

    def share_above(self, population: float) -> Interval:
        """The share of all use that everyone above this part of the population has."""
        below = self.share_below(population)
        return Interval(1 - below.high, 1 - below.low)

    def quantile(self, population: float) -> Interval:
        """The use per weight, in averages, that this part of the population does not pass."""
        s = self._at(population)
        return Interval(s.mean, s.mean) if s.alone else Interval(min(s.least, s.mean), max(s.most, s.mean))

    def _at(self, population: float) -> _Stretch:
        return self._stretches[min(bisect_left(self._ends, population), len(self._ends) - 1)]


def _stretches(tally: Tally, weight: int, use: float) -> Iterator[_Stretch]:
    average = use / weight
    passed_weight = weight - tally.weight
    passed_use: float = 0
    population, share = passed_weight / weight, 0.0
    if passed_weight:
        yield _Stretch(0.0, population, 0.0, 0.0, 0.0, 0.0, 0.0, alone=True)
    for number, bucket in tally.buckets.items():
        least, most = bucket_bounds(number)
        passed_weight += bucket.weight
        passed_use += bucket.use_nanocredits
        to, share_to = passed_weight / weight, passed_use / use
        mean = bucket.use_nanocredits / bucket.weight / average
        yield _Stretch(population, to, share, share_to, least / average, most / average, mean, bucket.count == 1)
        population, share = to, share_to


def _widened(low: float, high: float) -> Interval:
    return Interval(min(1.0, max(0.0, low - ROUNDING)), min(1.0, max(0.0, high + ROUNDING)))
