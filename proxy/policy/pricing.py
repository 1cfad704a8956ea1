"""What usage costs: prices by kind, their fallbacks and tiers, bounds before the fact, and which row of the price book applies.

Rates are nanocredits per million tokens, units are nanocredits each. A cost is rounded once, at the very end, up; so a total never
depends on how a stream was cut into pieces. Knows no dialect and no clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, mul

from proxy.domain import NO_USAGE, USAGE_KINDS, Measure, Price, Tier, Usage, counts_of

TOKENS_PER_RATE = 1_000_000
REMEMBERED_PRICES_MAX = 4096
OUTPUT_TOKENS_MAX = 100_000_000
"""More than any model writes in one answer: the answer to "how many tokens are affordable" where output is free."""
CACHED_MODELS_MAX = 1024

_effective_at_ms: Callable[[Price], int] = attrgetter("effective_at_ms")

INPUT_KINDS = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input")
OUTPUT_KINDS = ("output", "reasoning", "audio_output")
TOKEN_KINDS = INPUT_KINDS + OUTPUT_KINDS
MILLIONTHS_PER_UNIT = {
    "image": ("image", 1_000_000),
    "character": ("character", 1_000_000),
    "tool_use": ("tool_use", 1_000_000),
    "milliseconds": ("second", 1_000),
    "bytes": ("megabyte", 1),
}
"""Kinds of usage that are not tokens: each with the row's price for it, and how many millionths of that price one costs."""


def rate(price: Price, kind: str) -> int:
    """Nanocredits per million tokens of a token kind, where no tier applies.

    Its own rate, else that of its fallback, else the row's dearest: a kind that nobody thought of is never free.
    """
    own: int | None = getattr(price, kind)
    if own is not None:
        return own
    if kind == "cache_write_1h" and price.cache_write is not None:
        return price.cache_write
    fallback = price.output if kind in OUTPUT_KINDS else price.input
    if fallback is not None:
        return fallback
    return max((known for other in TOKEN_KINDS if (known := getattr(price, other)) is not None), default=0)


def cost_nanocredits(price: Price, usage: Usage) -> int:
    """What one request costs by its usage, in nanocredits, the price per request included.

    Give cumulative usage and charge the difference between two costs; the sum of the differences is then the cost of the whole.
    """
    return _round_up(_cost_millionths(price, usage)) + price.request


def _cost_millionths(price: Price, usage: Usage) -> int:
    bands = _bands(price)
    band = bands[0]
    if len(bands) > 1:
        input_tokens = usage.input_tokens
        band = next(band for band in reversed(bands) if input_tokens > band.above_input_tokens)
    return sum(map(mul, counts_of(usage), band.each_millionths))


def estimate_nanocredits(
    price: Price, *, input_tokens: int, output_tokens: int, units: Usage = NO_USAGE, measure: Measure = "output"
) -> int:
    """No less than the cost of so much, or of less input, whichever kinds the tokens turn out to be.

    `output_tokens` are those of all choices together, or what else the output is measured in; `units` is what is priced by the piece.
    """
    return _round_up(_estimate_millionths(price, input_tokens, output_tokens, units, measure)) + price.request


def _estimate_millionths(price: Price, input_tokens: int, output_tokens: int, units: Usage, measure: Measure) -> int:
    millionths = 0
    for band in _bands(price):
        if input_tokens > band.above_input_tokens:
            of_band = band.input_millionths(input_tokens, units) + output_tokens * band.dearest_output(measure)
            millionths = max(millionths, of_band)
    return millionths


def affordable_output_tokens(
    price: Price, *, input_tokens: int, amount_nanocredits: int, units: Usage = NO_USAGE, measure: Measure = "output"
) -> int:
    """The most output, over all choices together, whose estimate fits the amount; 0 where not even the input fits.

    Never more than OUTPUT_TOKENS_MAX, which is also the answer where output is free.
    """
    amount_millionths = (amount_nanocredits - price.request) * TOKENS_PER_RATE
    most = OUTPUT_TOKENS_MAX
    for band in _bands(price):
        if input_tokens > band.above_input_tokens:
            left_millionths = amount_millionths - band.input_millionths(input_tokens, units)
            if left_millionths < 0:
                return 0
            if each := band.dearest_output(measure):
                most = min(most, left_millionths // each)
    return most


def least_output_rate(price: Price) -> int:
    """Nanocredits per million output tokens that are due at least, whichever kind and tier they turn out to be of."""
    return min(band.cheapest_output for band in _bands(price))


def is_priced(price: Price, needs: Sequence[Sequence[str]]) -> bool:
    """Whether a row prices every kind of one of these sets, or the request itself; else the request must be refused."""
    if price.request > 0:
        return True
    return any("request" not in kinds and None not in [getattr(price, kind) for kind in kinds] for kinds in needs)


# --- many requests at once -----------------------------------------------------------------------------------------------------------


class BatchBill:
    """What the requests of a batch cost together, at the row's percentage for batches: rounded once, for all of them.

    Each request is priced by itself, for a tier counts by the input of one request.
    """

    __slots__ = ("_millionths", "_price")

    def __init__(self, price: Price) -> None:
        """Of a row that has a `batch_percent`."""
        self._price = price
        self._millionths = 0

    def add(self, usage: Usage) -> None:
        """One more request, by its usage."""
        self._millionths += _cost_millionths(self._price, usage) + self._price.request * TOKENS_PER_RATE

    def add_at_most(self, *, input_tokens: int, output_tokens: int) -> None:
        """One more request, by the most that it may use."""
        most = _estimate_millionths(self._price, input_tokens, output_tokens, NO_USAGE, "output")
        self._millionths += most + self._price.request * TOKENS_PER_RATE

    @property
    def nanocredits(self) -> int:
        percent = self._price.batch_percent
        assert percent is not None, "the row is priced for batches"
        return -(-self._millionths * percent // (100 * TOKENS_PER_RATE))


# --- a row's rates, worked out once ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Band:
    """What a row charges while the input is above one tier's bound and not above the next one's."""

    above_input_tokens: int
    to_input_tokens: int | None
    each_millionths: tuple[int, ...]
    """Millionths of a nanocredit for one of each kind of usage."""
    dearest_input: int
    dearest_output_token: int
    cheapest_output: int
    byte_millionths: int

    def input_millionths(self, input_tokens: int, units: Usage) -> int:
        """No less than what so many tokens of input cost in this band, and the units with them."""
        if self.to_input_tokens is not None:
            input_tokens = min(input_tokens, self.to_input_tokens)
        millionths = input_tokens * self.dearest_input
        return millionths if units is NO_USAGE else millionths + sum(map(mul, counts_of(units), self.each_millionths))

    def dearest_output(self, measure: Measure) -> int:
        return self.dearest_output_token if measure == "output" else self.byte_millionths


_remembered_bands: dict[int, tuple[Price, Sequence[_Band]]] = {}
"""By a row's identity, which the kept row holds on to: hashing a row costs more than what is looked up."""


def _bands(price: Price) -> Sequence[_Band]:
    """A row's bands, by rising input; the first takes even an empty input."""
    known = _remembered_bands.get(id(price))
    if known is None or known[0] is not price:
        if len(_remembered_bands) >= REMEMBERED_PRICES_MAX:
            _remembered_bands.clear()
        starts = [-1, *(tier.above_input_tokens for tier in price.tiers)]
        ends = [*starts[1:], None]
        rows = [price, *(_with_tier(price, tier) for tier in price.tiers)]
        known = _remembered_bands[id(price)] = (price, tuple(map(_band, rows, starts, ends)))
    return known[1]


def _with_tier(price: Price, tier: Tier) -> Price:
    """The row as the tier makes it: what a tier leaves out is taken from the row, and what both leave out falls back as ever."""
    return replace(price, **{kind: own for kind in TOKEN_KINDS if (own := getattr(tier, kind)) is not None})


def _band(row: Price, above_input_tokens: int, to_input_tokens: int | None) -> _Band:
    tokens = {kind: rate(row, kind) for kind in TOKEN_KINDS}
    units = {kind: millionths * (getattr(row, priced) or 0) for kind, (priced, millionths) in MILLIONTHS_PER_UNIT.items()}
    each = {**tokens, **units}
    return _Band(
        above_input_tokens=above_input_tokens,
        to_input_tokens=to_input_tokens,
        each_millionths=tuple(each[kind] for kind in USAGE_KINDS),
        dearest_input=max(tokens[kind] for kind in INPUT_KINDS),
        dearest_output_token=max(tokens[kind] for kind in OUTPUT_KINDS),
        cheapest_output=min(tokens[kind] for kind in OUTPUT_KINDS),
        byte_millionths=units["bytes"],
    )


def _round_up(millionths: int) -> int:
    return -(-millionths // TOKENS_PER_RATE)


# --- which row applies -------------------------------------------------------------------------------------------------------------


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
