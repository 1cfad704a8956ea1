"""A price raised by a percentage: what a budget is debited is more, what the work is worth stays the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from proxy.domain import Price, Tier
from proxy.policy.price_row import KINDS, RATE_KINDS


def raised(row: Price, percent: int) -> Price:
    """The row with every rate at so many percent, each rounded up: beyond the exact rate by less than one nanocredit."""
    tiers = tuple(replace(tier, **_times(tier, RATE_KINDS, percent)) for tier in row.tiers)
    return replace(row, **_times(row, (*KINDS, "request"), percent), tiers=tiers, raised_percent=percent)


def raised_amount(amount: int, percent: int) -> int:
    """What was counted at a row's own rates, at so many percent of them: rounded up."""
    return -(-amount * percent // 100)


def _times(row: Price | Tier, kinds: Iterable[str], percent: int) -> dict[str, Any]:
    known = ((kind, getattr(row, kind)) for kind in kinds)
    return {kind: raised_amount(amount, percent) for kind, amount in known if amount is not None}
