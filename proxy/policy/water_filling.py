"""Where lines are drawn through the people who used something: their average, the level that frees enough for others, the edge of the top.

People without use are left out on purpose: whoever used nothing, by choice or because he was refused, must not make the others look
unequal. Read from a tally's buckets; all of a bucket count as its average. x is use per weight, in nanocredits. Pure.
"""

from __future__ import annotations

from proxy.policy.lorenz import Curve
from proxy.policy.tallies import Population, Tally, bucket_bounds


def users(tally: Tally) -> Curve | None:
    """The Lorenz curve of those who used something; None where nobody did. The tally must be sound, here and below."""
    return Curve(Population(), tally) if tally.buckets else None


def average_nanocredits(tally: Tally) -> float:
    """The x of all users together; 0 where nobody used anything."""
    return tally.use_nanocredits / tally.weight if tally.buckets else 0.0


def level_nanocredits(tally: Tally, *, freed_nanocredits: float) -> float | None:
    """Water filling: the x at which all would have had to stop, so that so much of what was used had been left for others.

    Everyone keeps the lesser of his use and his weight times the level, whose sum is what was used less what is freed: max-min fairness
    where those who were refused stand below the level. None where there is nothing to free.
    """
    if freed_nanocredits <= 0 or not tally.buckets:
        return None
    weight, use, level = 0, 0.0, 0.0
    rising = [bucket for _, bucket in sorted(tally.buckets.items())]
    averages = [0.0, *(bucket.use_nanocredits / bucket.weight for bucket in rising)]
    for bucket, next_below in zip(reversed(rising), reversed(averages[:-1]), strict=True):
        weight += bucket.weight
        use += bucket.use_nanocredits
        level = (use - freed_nanocredits) / weight
        if level >= next_below:
            break
    return max(0.0, level)


def top_edge_nanocredits(tally: Tally, share: float) -> float:
    """The x from which on somebody belongs to this topmost share of the users, by weight; the lower bound of the bucket it begins in."""
    wanted = share * tally.weight
    for number, bucket in sorted(tally.buckets.items(), reverse=True):
        wanted -= bucket.weight
        if wanted <= 0:
            return bucket_bounds(number)[0]
    return 0.0
