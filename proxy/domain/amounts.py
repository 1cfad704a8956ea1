"""Amounts of budget, and who has them: integers in nanocredits, 1 credit is 10^9 of them.

They are always below 2^53, because the ledger's scripts calculate in doubles.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NewType

NANOCREDITS_PER_CREDIT = 1_000_000_000
CREDITS = "credits"
"""The unit of budgets that are in no units of a level; no level has this name."""

AMOUNT_MAX_NANOCREDITS = 2**53 - 1
PATH_DEPTH_MAX = 8
IDENTIFIER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}"

AccountId = NewType("AccountId", str)
Path = tuple[AccountId, ...]
"""An account and all above it, root first: `("org:acme", "user:ann")`."""


def credits_from_nanocredits(amount_nanocredits: int) -> str:
    """An amount as people read it: a decimal string in credits, exact, without trailing zeros."""
    sign = "-" if amount_nanocredits < 0 else ""
    whole, fraction = divmod(abs(amount_nanocredits), NANOCREDITS_PER_CREDIT)
    return f"{sign}{whole}.{fraction:09d}".rstrip("0") if fraction else f"{sign}{whole}"


def nanocredits_from_credits(credits: str | int | Decimal) -> int:
    """The exact integer for a decimal amount of credits.

    Raises ValueError where the amount is not a finite number, has more than 9 places or leaves the ledger's range.
    """
    try:
        amount = Decimal(credits)
    except ArithmeticError as error:
        raise ValueError(f"{credits!r} is not a decimal number of credits") from error
    if not amount.is_finite():
        raise ValueError(f"{credits!r} is not a finite number of credits")
    if amount and (not -40 <= amount.adjusted() <= 20 or len(amount.as_tuple().digits) > 28):
        raise ValueError(f"{credits!r} credits have more digits than the ledger can count")
    if abs(amount) > AMOUNT_MAX_NANOCREDITS // NANOCREDITS_PER_CREDIT:
        raise ValueError(f"{credits} credits are beyond the ledger's range of {AMOUNT_MAX_NANOCREDITS // NANOCREDITS_PER_CREDIT}")
    scaled = amount * NANOCREDITS_PER_CREDIT
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{credits} credits have more than 9 decimal places")
    return int(scaled)
