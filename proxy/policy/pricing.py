"""What usage costs: prices by kind, their fallbacks, bounds before the fact, and which row of the price book applies.

Rates are nanocredits per million tokens, units are nanocredits each. A cost is rounded once, at the very end, up; so a total never
depends on how a stream was cut into pieces. Knows no dialect and no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from proxy.domain import Price, Usage

TOKENS_PER_RATE = 1_000_000
REMEMBERED_PRICES_MAX = 4096
OUTPUT_TOKENS_MAX = 100_000_000
"""More than any model writes in one answer: the answer to "how many tokens are affordable" where output is free."""
CACHED_MODELS_MAX = 1024

INPUT_KINDS = ("input", "cached_input", "cache_write", "audio_input")
OUTPUT_KINDS = ("output", "reasoning", "audio_output")
TOKEN_KINDS = INPUT_KINDS + OUTPUT_KINDS
UNIT_KINDS = ("image", "second", "megabyte")


def rate(price: Price, kind: str) -> int:
    """Nanocredits per million tokens of a token kind.

    Its own rate, else that of its fallback, else the row's dearest: a kind that nobody thought of is never free.
    """
    own: int | None = getattr(price, kind)
    if own is not None:
        return own
    fallback = price.output if kind in OUTPUT_KINDS else price.input
    if fallback is not None:
        return fallback
    return max((known for other in TOKEN_KINDS if (known := getattr(price, other)) is not None), default=0)


def cost_nanocredits(price: Price, usage: Usage) -> int:
    """What one request costs by its usage, in nanocredits, the price per request included.

    Give cumulative usage and charge the difference between two costs; the sum of the differences is then the cost of the whole.
    """
    millionths: int = sum(tokens * rate(price, kind) for kind in TOKEN_KINDS if (tokens := getattr(usage, kind)))
    units: int = sum(count * (getattr(price, kind) or 0) for kind in UNIT_KINDS if (count := getattr(usage, kind)))
    return _round_up(millionths) + units + price.request


def estimate_nanocredits(price: Price, *, input_tokens: int, output_tokens: int) -> int:
    """No less than the cost of so many tokens, whichever kinds they turn out to be; `output_tokens` over all choices together."""
    return _round_up(input_tokens * _dearest(price, INPUT_KINDS) + output_tokens * _dearest(price, OUTPUT_KINDS)) + price.request


def affordable_output_tokens(price: Price, *, input_tokens: int, amount_nanocredits: int, choices: int = 1) -> int:
    """The most output tokens for each choice whose estimate, over all choices, fits the amount; 0 where not even the input fits.

    Never more than OUTPUT_TOKENS_MAX, which is also the answer where output is free.
    """
    left_millionths = (amount_nanocredits - price.request) * TOKENS_PER_RATE - input_tokens * _dearest(price, INPUT_KINDS)
    if left_millionths < 0:
        return 0
    output_rate = _dearest(price, OUTPUT_KINDS) * choices
    return OUTPUT_TOKENS_MAX if output_rate == 0 else min(OUTPUT_TOKENS_MAX, left_millionths // output_rate)


def unpriced_kind(price: Price, *, needs_output: bool) -> str | None:
    """The kind that an operation needs and the row does not price, so that the request must be refused; None where all is priced."""
    if price.input is None:
        return "input"
    if needs_output and price.output is None:
        return "output"
    return None


def matches(pattern: str, model: str) -> bool:
    """Whether a model falls under a pattern: its exact name, or a prefix with one trailing `*`. Case counts."""
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


def find_price(rows: Iterable[Price], model: str, at_ms: int) -> Price | None:
    """The row in force for a model at an instant, or None.

    The exact name beats a prefix and a longer prefix a shorter one; of one pattern's rows the latest in effect counts, and of two that
    start together the one that stands later. A pattern whose rows all lie in the future does not hide the next one.
    """
    return PriceBook(rows).find(model, at_ms)


class PriceBook:
    """Rows arranged so that a look-up does not depend on how many there are. Immutable; a change makes a new book."""

    def __init__(self, rows: Iterable[Price]) -> None:
        self.rows: tuple[Price, ...] = tuple(rows)
        by_pattern: dict[str, list[Price]] = {}
        for row in self.rows:
            by_pattern.setdefault(row.model, []).append(row)
        for dated in by_pattern.values():
            dated.sort(key=_effective_at_ms)  # stable, so that of two equal dates the later row stays behind
        exact_first = sorted(by_pattern, key=lambda pattern: (pattern.endswith("*"), -len(pattern)))
        self._dated_by_pattern: dict[str, Sequence[Price]] = {pattern: by_pattern[pattern] for pattern in exact_first}
        self._candidates_by_model: dict[str, list[Sequence[Price]]] = {}

    def find(self, model: str, at_ms: int) -> Price | None:
        """The row in force for a model at an instant, or None; the rule is that of `find_price`."""
        for dated in self._candidates(model):
            in_effect = bisect_right(dated, at_ms, key=_effective_at_ms)
            if in_effect:
                return dated[in_effect - 1]
        return None

    def _candidates(self, model: str) -> list[Sequence[Price]]:
        found = self._candidates_by_model.get(model)
        if found is None:
            found = [dated for pattern, dated in self._dated_by_pattern.items() if matches(pattern, model)]
            if len(self._candidates_by_model) >= CACHED_MODELS_MAX:
                self._candidates_by_model.clear()  # callers choose the names, so what they make us remember is bounded
            self._candidates_by_model[model] = found
        return found


def _effective_at_ms(row: Price) -> int:
    return row.effective_at_ms


def _dearest(price: Price, kinds: Sequence[str]) -> int:
    known = _dearest_rates.get(id(price))
    if known is None or known[0] is not price:
        if len(_dearest_rates) >= REMEMBERED_PRICES_MAX:
            _dearest_rates.clear()
        known = _dearest_rates[id(price)] = (price, {})
    if kinds not in known[1]:
        known[1][kinds] = max(rate(price, kind) for kind in kinds)
    return known[1][kinds]


_dearest_rates: dict[int, tuple[Price, dict[Sequence[str], int]]] = {}
"""By a row's identity, which the kept row holds on to: hashing a row costs more than what is looked up."""


def _round_up(millionths: int) -> int:
    return -(-millionths // TOKENS_PER_RATE)
