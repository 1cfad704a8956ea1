"""What usage costs, what it costs at most, and which row of the price book applies."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import NO_USAGE, USAGE_KINDS, Measure, Price, Tier, Usage
from proxy.policy import pricing
from proxy.policy.pricing import (
    INPUT_KINDS,
    OUTPUT_KINDS,
    OUTPUT_TOKENS_MAX,
    TOKEN_KINDS,
    PriceBook,
    affordable_output_tokens,
    cost_nanocredits,
    estimate_nanocredits,
    find_price,
    is_priced,
    least_output_rate,
    matches,
)

GPT_4O_MINI = Price("gpt-4o-mini", 0, input=150_000_000, cached_input=75_000_000, output=600_000_000)

UNITS = ("image", "character", "tool_use", "second", "megabyte")
RATES = st.none() | st.integers(0, 10**12)
COUNTS = st.integers(0, 10**7)
TOKENS = st.builds(Usage, **{kind: COUNTS for kind in TOKEN_KINDS})
PIECES = st.just(NO_USAGE) | st.builds(Usage, **{kind: COUNTS for kind in USAGE_KINDS if kind not in TOKEN_KINDS})


def prices(rates: st.SearchStrategy[int | None], *, bounds: st.SearchStrategy[int], request_max: int) -> st.SearchStrategy[Price]:
    """Rows with up to three tiers, whose rates rise and fall as they like."""
    tiers = st.lists(st.builds(Tier, bounds, **{kind: rates for kind in TOKEN_KINDS}), max_size=3, unique_by=lambda t: t.above_input_tokens)
    return st.builds(
        Price,
        model=st.just("m"),
        effective_at_ms=st.just(0),
        request=st.integers(0, request_max),
        tiers=tiers.map(lambda some: tuple(sorted(some, key=lambda tier: tier.above_input_tokens))),
        **{kind: rates for kind in (*TOKEN_KINDS, *UNITS)},
    )


PRICES = prices(RATES, bounds=st.integers(1, 10**7), request_max=10**9)


def in_tier(price: Price, input_tokens: int) -> Price:
    """The row without tiers that costs what the row does for so long an input."""
    given = {}
    for tier in price.tiers:
        if input_tokens > tier.above_input_tokens:
            given = {kind: own for kind in TOKEN_KINDS if (own := getattr(tier, kind)) is not None}
    return replace(price, tiers=(), **given)


def exact_cost(price: Price, usage: Usage) -> Fraction:
    """The cost as the rules say it, before it is rounded and without the price per request."""
    row = in_tier(price, usage.input_tokens)
    tokens = sum(Fraction(getattr(usage, kind) * pricing.rate(row, kind), 10**6) for kind in TOKEN_KINDS)
    pieces = sum(getattr(usage, kind) * (getattr(row, kind) or 0) for kind in ("image", "character", "tool_use"))
    return tokens + pieces + Fraction(usage.milliseconds, 1000) * (row.second or 0) + Fraction(usage.bytes, 10**6) * (row.megabyte or 0)


def both(one: Usage, other: Usage) -> Usage:
    return Usage(**{kind: getattr(one, kind) + getattr(other, kind) for kind in USAGE_KINDS})


# --- cost ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "nanocredits"),
    [
        (Usage(), 0),
        (Usage(input=1), 150),
        (Usage(output=1), 600),
        (Usage(input=1_000_000, output=1_000_000), 750_000_000),
        (Usage(input=10, cached_input=20, output=5), 10 * 150 + 20 * 75 + 5 * 600),
        (Usage(cache_write=3, audio_input=4), 7 * 150),
        (Usage(reasoning=3, audio_output=4), 7 * 600),
    ],
)
def test_usage_costs_its_kinds_own_rates_or_their_fallbacks(usage: Usage, nanocredits: int) -> None:
    """A kind without a rate costs what the general kind of its direction costs."""
    assert cost_nanocredits(GPT_4O_MINI, usage) == nanocredits


def test_a_kinds_own_rate_beats_the_fallback() -> None:
    """Each token kind that is priced is charged at its own rate."""
    rates = {kind: (place + 1) * 1_000_000 for place, kind in enumerate(TOKEN_KINDS)}
    price = Price("m", 0, **rates)
    for kind, rate in rates.items():
        assert cost_nanocredits(price, Usage(**{kind: 7})) == 7 * rate // 1_000_000


def test_a_kind_without_price_or_fallback_costs_the_rows_dearest_rate() -> None:
    """What nobody thought of is never free."""
    assert cost_nanocredits(Price("m", 0, input=2_000_000, cached_input=9_000_000), Usage(output=5)) == 45
    assert cost_nanocredits(Price("m", 0, output=3_000_000), Usage(input=2, cached_input=2)) == 12


def test_an_hours_cache_costs_as_the_short_one_where_it_has_no_price() -> None:
    """Then as input, where that has none either."""
    assert cost_nanocredits(Price("m", 0, input=1_000_000, cache_write=2_000_000), Usage(cache_write_1h=3)) == 6
    assert cost_nanocredits(Price("m", 0, input=1_000_000), Usage(cache_write_1h=3)) == 3


@pytest.mark.parametrize(
    ("usage", "nanocredits"),
    [
        (Usage(), 19),
        (Usage(image=2), 19 + 22),
        (Usage(character=3), 19 + 6),
        (Usage(tool_use=2), 19 + 46),
        (Usage(milliseconds=1_000), 19 + 13),
        (Usage(milliseconds=1), 19 + 1),
        (Usage(milliseconds=90_000), 19 + 90 * 13),
        (Usage(bytes=1_000_000), 19 + 17),
        (Usage(bytes=1), 19 + 1),
        (Usage(bytes=2_500_000), 19 + 43),
        (Usage(input=1, image=1, milliseconds=500, bytes=250_000), 19 + 23),
    ],
)
def test_units_cost_their_price_each_and_a_request_its_price_once(usage: Usage, nanocredits: int) -> None:
    """A second is a thousand milliseconds and a megabyte a million bytes; parts of them cost their part, rounded with the rest."""
    price = Price("m", 0, input=1_000_000, image=11, character=2, tool_use=23, second=13, megabyte=17, request=19)
    assert cost_nanocredits(price, usage) == nanocredits


TIERED = Price(
    "gemini-2.5-pro",
    0,
    input=1_250_000_000,
    cached_input=125_000_000,
    output=10_000_000_000,
    tiers=(Tier(200_000, input=2_500_000_000, output=15_000_000_000), Tier(500_000, input=3_000_000_000)),
)


@pytest.mark.parametrize(
    ("usage", "nanocredits"),
    [
        pytest.param(Usage(input=200_000, output=1), 200_000 * 1_250 + 10_000, id="up to the bound, the row itself"),
        pytest.param(Usage(input=200_001, output=1), 200_001 * 2_500 + 15_000, id="beyond it, every token at the tier's rates"),
        pytest.param(
            Usage(input=1, cached_input=200_000), 2_500 + 200_000 * 125, id="all input counts; what a tier leaves out is the row's"
        ),
        pytest.param(Usage(audio_input=200_001, reasoning=1), 200_001 * 2_500 + 15_000, id="what both leave out falls back in the tier"),
        pytest.param(Usage(input=500_001, output=1), 500_001 * 3_000 + 10_000, id="the last tier alone, not the one before it"),
        pytest.param(Usage(output=900_000), 900_000 * 10_000, id="output opens no tier"),
    ],
)
def test_the_last_tier_that_the_input_exceeds_prices_the_whole_request(usage: Usage, nanocredits: int) -> None:
    """A tier is a cliff, as the makers of the models have it."""
    assert cost_nanocredits(TIERED, usage) == nanocredits


def test_a_cost_is_rounded_once_and_up() -> None:
    """Three kinds at a third of a nanocredit make one, not three."""
    price = Price("m", 0, input=333_333, cached_input=333_333, output=333_333)
    assert cost_nanocredits(price, Usage(input=1)) == 1
    assert cost_nanocredits(price, Usage(input=1, cached_input=1, output=1)) == 1
    assert cost_nanocredits(price, Usage(input=1, cached_input=1, output=2)) == 2


@given(PRICES, TOKENS, PIECES)
def test_a_cost_is_the_exact_sum_rounded_up(price: Price, tokens: Usage, pieces: Usage) -> None:
    """The integer arithmetic agrees with exact fractions, and rounds once."""
    usage = both(tokens, pieces)
    assert cost_nanocredits(price, usage) == ceil(exact_cost(price, usage)) + price.request


@given(PRICES, st.lists(TOKENS, max_size=6))
def test_charged_differences_of_cumulative_costs_add_up_to_the_cost_of_the_whole(price: Price, parts: list[Usage]) -> None:
    """However a stream is cut into pieces, the total is the same."""
    total = Usage()
    charged = 0
    for part in parts:
        grown = both(total, part)
        charged += cost_nanocredits(price, grown) - cost_nanocredits(price, total)
        total = grown
    assert charged == cost_nanocredits(price, total) - cost_nanocredits(price, Usage())


@given(PRICES, TOKENS, TOKENS, PIECES)
def test_more_never_costs_less_within_a_tier(price: Price, usage: Usage, more_tokens: Usage, more_pieces: Usage) -> None:
    """Only a tier that is cheaper than the one below it can make a longer request cost less."""
    row = in_tier(price, usage.input_tokens)
    assert cost_nanocredits(row, both(both(usage, more_tokens), more_pieces)) >= cost_nanocredits(row, usage)


# --- bounds ----------------------------------------------------------------------------------------------------------------------

MEASURES: st.SearchStrategy[Measure] = st.sampled_from(["output", "bytes"])


@given(PRICES, TOKENS, PIECES, COUNTS, COUNTS)
def test_an_estimate_is_never_below_the_cost_of_anything_within_it(
    price: Price, usage: Usage, pieces: Usage, input_slack: int, output_slack: int
) -> None:
    """Whichever kinds the tokens turn out to be, and into whichever tier they fall, the cheaper one below included."""
    estimate = estimate_nanocredits(
        price, input_tokens=usage.input_tokens + input_slack, output_tokens=usage.output_tokens + output_slack, units=pieces
    )
    assert estimate >= cost_nanocredits(price, both(usage, pieces))


@given(PRICES, TOKENS, COUNTS)
def test_an_estimate_of_output_in_bytes_is_never_below_its_cost(price: Price, usage: Usage, size: int) -> None:
    """Where the answer is measured in bytes, the megabyte's price bounds it."""
    usage = replace(usage, output=0, reasoning=0, audio_output=0, bytes=size)
    estimate = estimate_nanocredits(price, input_tokens=usage.input_tokens, output_tokens=size, measure="bytes")
    assert estimate >= cost_nanocredits(price, usage)


@given(PRICES, COUNTS, COUNTS)
def test_an_estimate_is_what_the_dearest_request_within_it_costs(price: Price, input_tokens: int, output_tokens: int) -> None:
    """A bound is no larger than it must be: the whole input, or as much as stays below a tier, costs just that in some kinds."""

    def dearest(size: int) -> int:
        row = in_tier(price, size)
        inputs, outputs = (max(kinds, key=lambda kind: pricing.rate(row, kind)) for kinds in (INPUT_KINDS, OUTPUT_KINDS))
        return cost_nanocredits(price, Usage(**{inputs: size, outputs: output_tokens}))

    below_tiers = [tier.above_input_tokens for tier in price.tiers if tier.above_input_tokens < input_tokens]
    expected = max(map(dearest, [input_tokens, *below_tiers]))
    assert estimate_nanocredits(price, input_tokens=input_tokens, output_tokens=output_tokens) == expected


@given(PRICES, COUNTS, COUNTS, COUNTS, COUNTS, PIECES, MEASURES)
def test_more_is_never_estimated_at_less(
    price: Price, input_tokens: int, more_input: int, output: int, more_output: int, units: Usage, measure: Measure
) -> None:
    """In input and in output, tiers or not: a larger bound holds no less."""

    def estimate(inputs: int, outputs: int) -> int:
        return estimate_nanocredits(price, input_tokens=inputs, output_tokens=outputs, units=units, measure=measure)

    least = estimate(input_tokens, output)
    assert estimate(input_tokens + more_input, output) >= least
    assert estimate(input_tokens, output + more_output) >= least


SMALL_PRICES = prices(st.none() | st.integers(100_000, 3_000_000), bounds=st.integers(1, 30), request_max=20)
FEW_PIECES = st.just(NO_USAGE) | st.builds(Usage, image=st.integers(0, 2), milliseconds=st.integers(0, 3))


@given(SMALL_PRICES, st.integers(0, 40), st.integers(-5, 120), FEW_PIECES)
def test_the_affordable_output_is_the_most_whose_estimate_fits(price: Price, input_tokens: int, amount: int, units: Usage) -> None:
    """The closed form agrees with trying every number."""
    if min(pricing.rate(row, "output") for row in (price, *(in_tier(price, t.above_input_tokens + 1) for t in price.tiers))) == 0:
        price = replace(price, output=100_000)

    def fits(tokens: int) -> bool:
        return estimate_nanocredits(price, input_tokens=input_tokens, output_tokens=tokens, units=units) <= amount

    best = max((tokens for tokens in range(1_300) if fits(tokens)), default=0)
    found = affordable_output_tokens(price, input_tokens=input_tokens, amount_nanocredits=amount, units=units)
    assert found == best
    assert not fits(found + 1)


@given(st.integers(1, 10**9), st.integers(0, 50), st.integers(0, 10**6))
def test_the_affordable_output_in_bytes_is_the_most_whose_estimate_fits(megabyte: int, input_tokens: int, amount: int) -> None:
    """The same rule, at the megabyte's price."""
    price = Price("m", 0, input=1_000_000, output=7, megabyte=megabyte)

    def fits(size: int) -> bool:
        return estimate_nanocredits(price, input_tokens=input_tokens, output_tokens=size, measure="bytes") <= amount

    found = affordable_output_tokens(price, input_tokens=input_tokens, amount_nanocredits=amount, measure="bytes")
    assert fits(found) or found == 0
    assert found == OUTPUT_TOKENS_MAX or not fits(found + 1)


@given(PRICES, TOKENS)
def test_the_least_output_rate_is_below_what_any_output_costs(price: Price, usage: Usage) -> None:
    """So much may be debited before the usage is known, whichever tier the input will turn out to be in."""
    assert usage.output_tokens * least_output_rate(price) <= 10**6 * exact_cost(price, usage)


def test_where_output_is_free_the_affordable_output_is_the_cap() -> None:
    """A free kind has no natural end, so the answer has one; input that does not fit still affords nothing."""
    free = Price("m", 0, input=1_000_000, output=0)
    assert affordable_output_tokens(free, input_tokens=5, amount_nanocredits=5) == OUTPUT_TOKENS_MAX
    assert affordable_output_tokens(free, input_tokens=6, amount_nanocredits=5) == 0


# --- which row -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "model", "expected"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o*", "gpt-4o", True),
        ("gpt-4o*", "gpt-4", False),
        ("*", "anything at all", True),
        ("gpt-4o", "GPT-4o", False),
        ("gpt-4o", " gpt-4o", False),
        ("gpt-4o", "gpt-4o\u200b", False),
        ("a.c", "abc", False),
    ],
)
def test_a_pattern_is_an_exact_name_or_a_prefix(pattern: str, model: str, expected: bool) -> None:
    """Nothing is folded, trimmed or read as an expression."""
    assert matches(pattern, model) is expected


def rows(*named: tuple[str, int, int]) -> list[Price]:
    return [Price(model, effective_at_ms, input=rate) for model, effective_at_ms, rate in named]


@pytest.mark.parametrize(
    ("book", "model", "at_ms", "rate"),
    [
        pytest.param([("*", 0, 1), ("gpt*", 0, 2), ("gpt-4o", 0, 3)], "gpt-4o", 9, 3, id="the exact name wins"),
        pytest.param([("gpt-4o", 0, 3), ("gpt*", 0, 2), ("*", 0, 1)], "gpt-4", 9, 2, id="the longer prefix wins"),
        pytest.param([("*", 0, 1), ("gpt*", 0, 2)], "llama", 9, 1, id="the star takes the rest"),
        pytest.param([("gpt*", 0, 2)], "llama", 9, None, id="nothing matches"),
        pytest.param([("m", 5, 1), ("m", 0, 2)], "m", 9, 1, id="the latest in effect wins, wherever it stands"),
        pytest.param([("m", 0, 1), ("m", 10, 2)], "m", 9, 1, id="a row of tomorrow waits"),
        pytest.param([("m", 0, 1), ("m", 9, 2)], "m", 9, 2, id="a row counts from its very instant"),
        pytest.param([("m", 3, 1), ("m", 3, 2)], "m", 9, 2, id="of two that start together the later stands"),
        pytest.param([("*", 0, 1), ("m", 10, 2)], "m", 9, 1, id="an exact row of tomorrow does not hide the star"),
        pytest.param([("m", 10, 2)], "m", 9, None, id="only rows of tomorrow"),
        pytest.param([("m*", 9, 1), ("m", 0, 2)], "m", 9, 2, id="the exact name beats a newer prefix"),
    ],
)
def test_the_row_in_force(book: list[tuple[str, int, int]], model: str, at_ms: int, rate: int | None) -> None:
    """Exact beats wildcard, longer beats shorter, later beats earlier."""
    found = find_price(rows(*book), model, at_ms)
    assert (found and found.input) == rate


@given(
    st.lists(st.tuples(st.sampled_from(["*", "a*", "ab*", "ab", "a", "b"]), st.integers(0, 6)), max_size=12),
    st.sampled_from(["a", "ab", "abc", "b", "", "*"]),
    st.integers(0, 7),
)
def test_a_price_book_finds_what_a_plain_search_finds(named: list[tuple[str, int]], model: str, at_ms: int) -> None:
    """The arranged look-up agrees with ranking every row."""
    book = [Price(pattern, effective_at_ms, input=place) for place, (pattern, effective_at_ms) in enumerate(named)]
    in_force = [row for row in book if matches(row.model, model) and row.effective_at_ms <= at_ms]
    best = max(in_force, key=lambda r: (not r.model.endswith("*"), len(r.model), r.effective_at_ms, r.input), default=None)
    prices = PriceBook(book)
    assert prices.find(model, at_ms) is best
    assert prices.find(model, at_ms) is best, "the remembered answer is the same"


def test_a_remembered_model_still_changes_its_price_on_the_day() -> None:
    """What is remembered is which rows apply, not which is in force."""
    prices = PriceBook(rows(("m", 0, 1), ("m", 10, 2)))
    assert [prices.find("m", at_ms).input for at_ms in (9, 10, 9)] == [1, 2, 1]


def test_the_names_that_callers_make_up_are_not_remembered_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who asks for ever new models cannot fill the memory."""
    monkeypatch.setattr(pricing, "CACHED_MODELS_MAX", 8)
    prices = PriceBook(rows(("*", 0, 1)))
    for number in range(100):
        assert prices.find(f"model-{number}", 0) is not None
        assert len(prices._candidates_by_model) <= 8


TEXT = (("input", "output"),)
SPEECH = (("character",), ("input", "audio_output"))


@pytest.mark.parametrize(
    ("price", "needs", "priced"),
    [
        (Price("m", 0, input=1, output=1), TEXT, True),
        (Price("m", 0, input=0, output=0), TEXT, True),
        (Price("m", 0, input=1), TEXT, False),
        (Price("m", 0, output=1), TEXT, False),
        (Price("m", 0, cached_input=1, output=1), TEXT, False),
        (Price("m", 0, output=1, tiers=(Tier(9, input=1),)), TEXT, False),
        (Price("m", 0, input=1), (("input",),), True),
        (Price("m", 0, character=1), SPEECH, True),
        (Price("m", 0, input=1, audio_output=1), SPEECH, True),
        (Price("m", 0, input=1, output=1), SPEECH, False),
        (Price("m", 0, request=5), TEXT, True),
        (Price("m", 0, input=1, output=1), (), False),
    ],
)
def test_a_row_prices_a_request_by_all_of_one_set_of_its_needs(price: Price, needs: Any, priced: bool) -> None:
    """A price of 0 is a price; none at all is a refusal, but where the request itself has one."""
    assert is_priced(price, needs) is priced
