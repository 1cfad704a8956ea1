"""The prices of one model, as genai-prices has them, as one row of the price book.

Theirs are dollars for so many of a unit, with tiers by the length of the input, as ours are. Amounts are exact, rounded up at the ninth
decimal place. What has no place in a row is told, or refused where it would be charged too little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any

from proxy import config
from proxy.domain import NANOCREDITS_PER_CREDIT, Price, Tier

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

    Amount = Decimal | TieredPrices

TOKENS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
}
PIECES = {
    "input_mchars": ("character", 1_000_000),
    "requests_kcount": ("request", 1_000),
    "audio_hours": ("second", 3_600),
    "input_audio_hours": ("second", 3_600),
    "output_audio_hours": ("second", 3_600),
    "rerank_searches_kcount": ("tool_use", 1_000),
    "web_searches_kcount": ("tool_use", 1_000),
    "social_searches_kcount": ("tool_use", 1_000),
    "storage_searches_kcount": ("tool_use", 1_000),
    "code_executions_kcount": ("tool_use", 1_000),
}
"""Our price for one piece, and how many of them the package's price is for."""
NEAREST = {
    "input_text_mtok": "input_mtok",
    "input_image_mtok": "input_mtok",
    "input_video_mtok": "input_mtok",
    "cache_audio_read_mtok": "cache_read_mtok",
    "cache_image_read_mtok": "cache_read_mtok",
    "cache_text_read_mtok": "cache_read_mtok",
    "output_text_mtok": "output_mtok",
    "output_image_mtok": "output_mtok",
    "output_video_mtok": "output_mtok",
    "output_citation_mtok": "output_mtok",
}
"""Tokens that have no kind of their own here, and those that they are counted as."""


class Unsayable(Exception):
    """Why a model's prices cannot be a row."""


def credit_row(prices: ModelPrice, *, credits_per_dollar: Decimal, nearest: bool) -> tuple[Price, Sequence[str]]:
    """The row, of no name and no date yet, and what of it is not said in full. Raises Unsayable.

    `nearest`: also where some kind of token would cost less than it should, because it is counted as another.
    """
    given: dict[str, Amount] = {key: value for key, value in vars(prices).items() if value is not None and not key.startswith("_")}
    if not given:
        raise Unsayable("no price is known")
    notes = list(_not_said(given, nearest=nearest))
    factor = Fraction(credits_per_dollar) * NANOCREDITS_PER_CREDIT
    pieces: dict[str, Any] = {}
    for key, (kind, per) in PIECES.items():
        if (amount := given.get(key)) is not None:
            if not isinstance(amount, Decimal):
                raise Unsayable(f"{key} has tiers")
            pieces[kind] = max(pieces.get(kind, 0), ceil(Fraction(amount) * factor / per))
    tokens = {kind: given[key] for key, kind in TOKENS.items() if key in given}
    tiers = tuple(Tier(above, **_at(tokens, above, factor, tiered_only=True)) for above in _bounds(tokens))
    row = Price("", 0, **_at(tokens, 0, factor, tiered_only=False), **pieces, tiers=tiers)
    try:
        config.check_priced(row)
    except ValueError as error:
        raise Unsayable(str(error)) from error
    return row, notes


def _bounds(tokens: Mapping[str, Amount]) -> Sequence[int]:
    return sorted({tier.start for amount in tokens.values() if not isinstance(amount, Decimal) for tier in amount.tiers})


def _at(tokens: Mapping[str, Amount], above: int, factor: Fraction, *, tiered_only: bool) -> dict[str, Any]:
    """Nanocredits per million tokens for an input longer than so much, by kind."""
    rates: dict[str, Any] = {}
    for kind, amount in tokens.items():
        if isinstance(amount, Decimal):
            dollars = amount
            if tiered_only:
                continue
        else:
            dollars = next((tier.price for tier in reversed(amount.tiers) if tier.start <= above), amount.base)
        rates[kind] = ceil(Fraction(dollars) * factor)
    return rates


def _not_said(given: Mapping[str, Amount], *, nearest: bool) -> Iterator[str]:
    """What a row of these prices would leave unsaid. Raises Unsayable where that would cost too little."""
    for key in sorted(given.keys() - TOKENS.keys() - PIECES.keys()):
        counted_as = NEAREST.get(key)
        if counted_as is None:
            raise Unsayable(f"{key} is {_shown(given[key])}, which has no kind here")
        charged = given[counted_as] if counted_as in given else given.get("input_mtok")
        if charged != given[key]:
            line = f"{key} is {_shown(given[key])}, and such tokens count as {counted_as} at {_shown(charged)}"
            if not nearest and not _covers(charged, given[key]):
                raise Unsayable(f"{line}; --nearest takes it so")
            yield line
    for kind in ("tool_use", "second"):
        named = {key: given[key] for key, (ours, _) in PIECES.items() if ours == kind and key in given}
        if len(set(map(_shown, named.values()))) > 1:
            yield f"{kind} is the dearest of " + ", ".join(f"{key} {_shown(amount)}" for key, amount in named.items())


def _covers(charged: Amount | None, due: Amount) -> bool:
    return isinstance(charged, Decimal) and isinstance(due, Decimal) and charged >= due


def _shown(amount: Amount | None) -> str:
    return f"{amount:f}" if isinstance(amount, Decimal) else "in tiers" if amount is not None else "nothing"
