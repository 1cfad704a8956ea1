"""What budgets are counted in: credits, or units of a level. Prices turned into units, and amounts turned back into credits.

All accounts of one tree count in one unit, because a hold is booked alike at every level of a path; an account keeps its unit for good, for
nobody could say what its balances were worth in another. Which index counts is `levels`' to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from proxy.domain import CREDITS, NANOCREDITS_PER_CREDIT, AccountId, Plan, Price, Tier, credits_from_nanocredits
from proxy.errors import Expected, Refusal
from proxy.policy.price_row import KINDS, RATE_KINDS


def price_in_units(row: Price, unit: str, index_nanocredits: int) -> Price:
    """A row of the book with all its rates divided by a level's index: nanounits for a million tokens, or for a piece.

    Each is rounded up, so that nothing is undercharged, and is beyond the exact rate by less than one nanounit.
    """
    tiers = tuple(replace(tier, **_divided(tier, RATE_KINDS, index_nanocredits)) for tier in row.tiers)
    rates = _divided(row, (*KINDS, "request"), index_nanocredits)
    return replace(row, **rates, tiers=tiers, unit=unit, worth_nanocredits=index_nanocredits)


def _divided(row: Price | Tier, kinds: Iterable[str], index_nanocredits: int) -> dict[str, Any]:
    known = ((kind, getattr(row, kind)) for kind in kinds)
    return {kind: -(-amount * NANOCREDITS_PER_CREDIT // index_nanocredits) for kind, amount in known if amount is not None}


def nominal_nanocredits(price: Price, amount: int) -> int:
    """What an amount that was counted at this price is in credits, whatever its unit and however raised: how much work it stands for.
    To the nearest."""
    worth, percent = price.worth_nanocredits, price.raised_percent
    if worth == NANOCREDITS_PER_CREDIT and percent == 100:
        return amount
    each = NANOCREDITS_PER_CREDIT * percent
    return (amount * worth * 100 + each // 2) // each


def note_of(price: Price) -> str:
    """For the journal: the level and the index by which an amount was counted, `level:small@0.3`, and by how much its price was raised,
    `price:1.35`; empty where it is in credits at the book's price."""
    level = "" if price.unit == CREDITS else f"level:{price.unit}@{credits_from_nanocredits(price.worth_nanocredits)}"
    raised = "" if price.raised_percent == 100 else f"price:{price.raised_percent / 100:.2f}"
    return " ".join(filter(None, (level, raised)))


def name_unit(refusal: Expected, price: Price) -> None:
    """Have a refusal say what its amounts count, where that is not credits."""
    if price.unit != CREDITS:
        refusal.counts_in(price.unit, price.worth_nanocredits)


def check_one_unit(plan: Plan, others: Iterable[Plan], account: AccountId) -> None:
    """See that an account of this plan counts as the others of its path do. Raises Refusal units_differ."""
    for other in others:
        if other.unit != plan.unit:
            raise Refusal(
                "units_differ",
                f"account {account!r} would count in {named(plan.unit)} (plan {plan.name!r}), accounts above it count in "
                f"{named(other.unit)} (plan {other.name!r})",
                account=account,
                hint="all accounts of one tree count in one unit: choose a plan in that unit",
            )


def check_keeps_unit(before: Plan, after: Plan, account: AccountId) -> None:
    """See that a change of plan leaves an account its unit. Raises Refusal units_differ."""
    if before.unit != after.unit:
        raise Refusal(
            "units_differ",
            f"account {account!r} counts in {named(before.unit)} (plan {before.name!r}), the plan {after.name!r} in {named(after.unit)}",
            account=account,
            hint="an account keeps its unit: open another account for the other one",
        )


def check_plan_keeps_unit(before: Plan, after: Plan) -> None:
    """See that a plan keeps its unit, which its accounts' balances are in. Raises Refusal units_differ."""
    if before.unit != after.unit:
        raise Refusal(
            "units_differ",
            f"the plan {before.name!r} counts in {named(before.unit)}, and a plan keeps its unit; it cannot count in {named(after.unit)}",
            hint="define a plan of another name for the other unit",
        )


def check_transfer(source: Plan, target: Plan, *, giver: AccountId, receiver: AccountId) -> None:
    """See that what one account gives is what the other counts in. Raises Refusal units_differ."""
    if source.unit != target.unit:
        raise Refusal(
            "units_differ",
            f"account {giver!r} counts in {named(source.unit)}, account {receiver!r} in {named(target.unit)}",
            account=giver,
            hint="give to accounts that count in the same unit",
        )


def named(unit: str) -> str:
    """A unit in a sentence."""
    return unit if unit == CREDITS else f"units of level {unit!r}"
