"""What usage costs, what it costs at most, and which row of the price book applies."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import Price, Usage
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
    matches,
    unpriced_kind,
)

GPT_4O_MINI = Price("gpt-4o-mini", 0, input=150_000_000, cached_input=75_000_000, output=600_000_000)

RATES = st.none() | st.integers(0, 10**12)
PRICES = st.builds(
    Price,
    model=st.just("m"),
    effective_at_ms=st.just(0),
    request=st.integers(0, 10**9),
    **{kind: RATES for kind in (*TOKEN_KINDS, *pricing.UNIT_KINDS)},
)
COUNTS = st.integers(0, 10**7)
TOKENS = st.builds(Usage, **{kind: COUNTS for kind in TOKEN_KINDS})


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


def test_units_cost_their_price_each_and_a_request_its_price_once() -> None:
    """Images, seconds, megabytes and the request itself are nanocredits each, beside the tokens."""
    price = Price("m", 0, input=1_000_000, image=11, second=13, megabyte=17, request=19)
    assert cost_nanocredits(price, Usage(input=1, image=2, second=3, megabyte=4)) == 1 + 22 + 39 + 68 + 19
    assert cost_nanocredits(price, Usage()) == 19


def test_a_cost_is_rounded_once_and_up() -> None:
    """Three kinds at a third of a nanocredit make one, not three."""
    price = Price("m", 0, input=333_333, cached_input=333_333, output=333_333)
    assert cost_nanocredits(price, Usage(input=1)) == 1
    assert cost_nanocredits(price, Usage(input=1, cached_input=1, output=1)) == 1
    assert cost_nanocredits(price, Usage(input=1, cached_input=1, output=2)) == 2


@given(PRICES, TOKENS)
def test_a_cost_is_the_exact_sum_rounded_up(price: Price, usage: Usage) -> None:
    """The integer arithmetic agrees with exact fractions."""
    exact = sum(Fraction(getattr(usage, kind) * pricing.rate(price, kind), 1_000_000) for kind in TOKEN_KINDS)
    assert cost_nanocredits(price, usage) == ceil(exact) + price.request


@given(PRICES, st.lists(TOKENS, max_size=6))
def test_charged_differences_of_cumulative_costs_add_up_to_the_cost_of_the_whole(price: Price, parts: list[Usage]) -> None:
    """However a stream is cut into pieces, the total is the same."""
    total = Usage()
    charged = 0
    for part in parts:
        grown = Usage(**{kind: getattr(total, kind) + getattr(part, kind) for kind in TOKEN_KINDS})
        charged += cost_nanocredits(price, grown) - cost_nanocredits(price, total)
        assert cost_nanocredits(price, grown) >= cost_nanocredits(price, total)
        total = grown
    assert charged == cost_nanocredits(price, total) - cost_nanocredits(price, Usage())


# --- bounds ----------------------------------------------------------------------------------------------------------------------


@given(PRICES, TOKENS)
def test_an_estimate_is_never_below_the_cost_whichever_kinds_the_tokens_turn_out_to_be(price: Price, usage: Usage) -> None:
    """The dearest kind of each direction bounds every split."""
    estimate = estimate_nanocredits(price, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    assert estimate >= cost_nanocredits(price, usage)


@given(PRICES, COUNTS, COUNTS)
def test_an_estimate_is_the_cost_of_the_dearest_kinds(price: Price, input_tokens: int, output_tokens: int) -> None:
    """A bound is no larger than it must be: some split costs just that."""
    dearest_input = max(INPUT_KINDS, key=lambda kind: pricing.rate(price, kind))
    dearest_output = max(OUTPUT_KINDS, key=lambda kind: pricing.rate(price, kind))
    usage = Usage(**{dearest_input: input_tokens, dearest_output: output_tokens})
    assert estimate_nanocredits(price, input_tokens=input_tokens, output_tokens=output_tokens) == cost_nanocredits(price, usage)


SMALL_PRICES = st.builds(
    Price,
    model=st.just("m"),
    effective_at_ms=st.just(0),
    request=st.integers(0, 20),
    **{kind: st.none() | st.integers(100_000, 3_000_000) for kind in TOKEN_KINDS},
)


@given(SMALL_PRICES, st.integers(0, 30), st.integers(-5, 120), st.integers(1, 4))
def test_the_affordable_output_is_the_most_whose_estimate_fits(price: Price, input_tokens: int, amount: int, choices: int) -> None:
    """The closed form agrees with trying every number."""
    if pricing.rate(price, "output") == 0:
        price = replace(price, output=100_000)

    def fits(tokens: int) -> bool:
        return estimate_nanocredits(price, input_tokens=input_tokens, output_tokens=tokens * choices) <= amount

    best = max((tokens for tokens in range(1_300) if fits(tokens)), default=0)
    found = affordable_output_tokens(price, input_tokens=input_tokens, amount_nanocredits=amount, choices=choices)
    assert found == best
    assert not fits(found + 1)


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
    assert [prices.find("m", at_ms).input for at_ms in (9, 10, 9)] == [1, 2, 1]  # type: ignore[union-attr]


def test_the_names_that_callers_make_up_are_not_remembered_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who asks for ever new models cannot fill the memory."""
    monkeypatch.setattr(pricing, "CACHED_MODELS_MAX", 8)
    prices = PriceBook(rows(("*", 0, 1)))
    for number in range(100):
        assert prices.find(f"model-{number}", 0) is not None
        assert len(prices._candidates_by_model) <= 8


@pytest.mark.parametrize(
    ("price", "needs_output", "kind"),
    [
        (Price("m", 0, input=1, output=1), True, None),
        (Price("m", 0, input=0, output=0), True, None),
        (Price("m", 0, input=1), True, "output"),
        (Price("m", 0, input=1), False, None),
        (Price("m", 0, output=1), True, "input"),
        (Price("m", 0, cached_input=1, output=1), True, "input"),
        (Price("m", 0, request=5), False, "input"),
    ],
)
def test_the_kind_that_an_operation_needs_and_the_row_leaves_out_is_named(price: Price, needs_output: bool, kind: str | None) -> None:
    """A price of 0 is a price; none at all is a refusal."""
    assert unpriced_kind(price, needs_output=needs_output) == kind
