"""Tallies: how use is spread over people, kept by the bucket, so that nobody's use needs to be read to know how equal it is.

A person's place is x, the use per weight in nanocredits. Bucket k holds everyone with x in [g^k, g^(k+1)), g = 2^(1/8): one half-life is
exactly 8 buckets. People without use are in no bucket. A tally is also what a change adds to another: counts below zero are lawful until
all parts are added up. Rules: Theil, Atkinson and Jain need their sums alone; order statistics are `policy/lorenz.py`'s. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

BUCKETS_PER_DOUBLING: Final = 8
RATIO: Final = 2.0 ** (1 / BUCKETS_PER_DOUBLING)

_PARTS: Final = tuple(2.0 ** (part / BUCKETS_PER_DOUBLING) for part in range(BUCKETS_PER_DOUBLING))

WindowName = Literal["day", "week", "month", "half_life"]
WINDOWS: Final[tuple[WindowName, ...]] = ("day", "week", "month", "half_life")
"""Calendar windows of UTC, and one without an end, in which use loses half of its weight in every half-life."""


def bucket_of(use_per_weight: float) -> int:
    """The bucket of a use per weight above 0."""
    return math.floor(BUCKETS_PER_DOUBLING * math.log2(use_per_weight))


def bucket_bounds(bucket: int) -> tuple[float, float]:
    """The least use per weight of a bucket, and the least of the next one."""
    return _least(bucket), _least(bucket + 1)


def _least(bucket: int) -> float:
    doublings, part = divmod(bucket, BUCKETS_PER_DOUBLING)
    return math.ldexp(_PARTS[part], doublings)  # So that a doubling of a bound is a bound, to the last digit.


@dataclass(frozen=True, slots=True)
class Population:
    """Everyone who is entitled, with or without use, and the sum of their weights."""

    people: int = 0
    weight: int = 0

    def __add__(self, other: Population) -> Population:
        return Population(self.people + other.people, self.weight + other.weight)


@dataclass(slots=True)
class Bucket:
    count: int = 0
    weight: int = 0
    use_nanocredits: float = 0
    """Whole, and exact, in calendar windows."""


@dataclass(slots=True)
class Octave:
    """Sums over the people of eight buckets. Their terms grow so fast with use that what rounding leaves of somebody large who has gone
    would drown all small ones: so those of each doubling stand apart, and go with the last of its people."""

    log: float = 0.0
    """Of use x ln(use per weight): Theil's index."""
    square: float = 0.0
    """Of weight x (use per weight)^2: Jain's index."""
    concentration: float = 0.0
    """Of use^2: below a quarter of the squared sum of all use, nobody has half of it."""


@dataclass(slots=True)
class Tally:
    """The people with use, by bucket, and the sums over them that no bucket can give."""

    buckets: dict[int, Bucket] = field(default_factory=dict)
    octaves: dict[int, Octave] = field(default_factory=dict)
    """By the bucket's number in doublings."""
    root: float = 0.0
    """Sum of weight x sqrt(use per weight): Atkinson's index at 1/2."""

    @property
    def log(self) -> float:
        return sum(octave.log for octave in self.octaves.values())

    @property
    def square(self) -> float:
        return sum(octave.square for octave in self.octaves.values())

    @property
    def concentration(self) -> float:
        return sum(octave.concentration for octave in self.octaves.values())

    @property
    def people(self) -> int:
        return sum(bucket.count for bucket in self.buckets.values())

    @property
    def weight(self) -> int:
        return sum(bucket.weight for bucket in self.buckets.values())

    @property
    def use_nanocredits(self) -> float:
        return sum(bucket.use_nanocredits for bucket in self.buckets.values())

    def move(self, *, use_nanocredits: float, weight: int, sign: Literal[1, -1]) -> None:
        """Put one person with this use in, or take one out. A person without use is in no bucket, so nothing changes."""
        if use_nanocredits <= 0:
            return
        x = use_nanocredits / weight
        number = bucket_of(x)
        bucket = self.buckets.get(number)
        if bucket is None:
            bucket = self.buckets[number] = Bucket()
        bucket.count += sign
        bucket.weight += sign * weight
        bucket.use_nanocredits += sign * use_nanocredits
        octave = self._octave(number // BUCKETS_PER_DOUBLING)
        octave.log += sign * use_nanocredits * math.log(x)
        octave.square += sign * use_nanocredits * x
        octave.concentration += sign * float(use_nanocredits) * use_nanocredits
        self.root += sign * weight * math.sqrt(x)

    def _octave(self, number: int) -> Octave:
        octave = self.octaves.get(number)
        if octave is None:
            octave = self.octaves[number] = Octave()
        return octave

    def add(self, other: Tally) -> None:
        """Add another tally to this one: a part of the same people, or what has changed since."""
        for number, theirs in other.buckets.items():
            bucket = self.buckets.get(number)
            if bucket is None:
                bucket = self.buckets[number] = Bucket()
            bucket.count += theirs.count
            bucket.weight += theirs.weight
            bucket.use_nanocredits += theirs.use_nanocredits
        for number, sums in other.octaves.items():
            octave = self._octave(number)
            octave.log += sums.log
            octave.square += sums.square
            octave.concentration += sums.concentration
        self.root += other.root

    def aged(self, half_lives: int) -> Tally:
        """The same people after so many half-lives without use: all use is halved as often, and all move down by as many doublings."""
        scale = 2.0**-half_lives
        shift = BUCKETS_PER_DOUBLING * half_lives
        use: dict[int, float] = {}
        for number, bucket in self.buckets.items():
            octave = number // BUCKETS_PER_DOUBLING
            use[octave] = use.get(octave, 0.0) + bucket.use_nanocredits
        return Tally(
            buckets={
                number - shift: Bucket(bucket.count, bucket.weight, bucket.use_nanocredits * scale)
                for number, bucket in self.buckets.items()
            },
            octaves={
                number - half_lives: Octave(
                    log=scale * (sums.log - use.get(number, 0.0) * half_lives * math.log(2)),
                    square=sums.square * scale**2,
                    concentration=sums.concentration * scale**2,
                )
                for number, sums in self.octaves.items()
            },
            root=self.root * math.sqrt(scale),
        )

    def sound(self) -> Tally:
        """What may be shown of the whole: buckets in order, and sums, without those that nobody is left in. Sums are as they are, never
        below zero where no sum of theirs can be."""
        kept = {number: b for number, b in sorted(self.buckets.items()) if b.count > 0 and b.weight > 0 and b.use_nanocredits > 0}
        there = {number // BUCKETS_PER_DOUBLING for number in kept}
        sums = {number: octave for number, octave in self.octaves.items() if number in there}
        octaves = {number: Octave(o.log, max(o.square, 0.0), max(o.concentration, 0.0)) for number, o in sums.items()}
        return Tally(kept, octaves, max(self.root, 0.0))
