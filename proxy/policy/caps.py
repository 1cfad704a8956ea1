"""When one set of limits lets an account spend more than another. Pure."""

from __future__ import annotations

from proxy.domain import Limit


def exceeds(limits: tuple[Limit, ...], cap: tuple[Limit, ...]) -> bool:
    """Whether `limits` may let an account spend more than `cap` does: not where each of the cap's limits is kept, or lowered."""
    by_key = {limit.key: limit for limit in limits}
    return any(not _is_within(by_key.get(limit.key), limit) for limit in cap)


def _is_within(limit: Limit | None, bound: Limit) -> bool:
    if limit is None or limit.credits_nanocredits > bound.credits_nanocredits:
        return False
    if limit.rollover == "none" or bound.rollover == "full":
        return True
    return limit.rollover == bound.rollover and limit.rollover_max_nanocredits <= bound.rollover_max_nanocredits
