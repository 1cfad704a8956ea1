"""Prices in units of a level, amounts back in credits, and who may count with whom."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import AccountId, Level, Plan, Price, Tier, Usage
from proxy.errors import Refusal
from proxy.policy.levels import DAY_MS, Levels
from proxy.policy.pricing import affordable_output_tokens, cost_nanocredits, estimate_nanocredits
from proxy.policy.units import (
    check_keeps_unit,
    check_one_unit,
    check_plan_keeps_unit,
    check_transfer,
    nominal_nanocredits,
    note_of,
    price_in_units,
)

CREDIT = 1_000_000_000
ANN, BOB = AccountId("user:ann"), AccountId("user:bob")
MILLION = Usage(input=750_000, output=250_000)
"""A million tokens in the blend of three to one."""


def test_a_million_blended_tokens_at_the_index_cost_one_unit() -> None:
    """And the unit is worth the index."""
    row = Price("m", 0, input=CREDIT // 10, output=CREDIT // 2, level="small")
    index = Levels([row]).index("small", 0)
    assert index == CREDIT // 5
    price = price_in_units(row, "small", index)
    assert cost_nanocredits(price, MILLION) == CREDIT
    assert nominal_nanocredits(price, CREDIT) == cost_nanocredits(row, MILLION) == index
    assert (price.unit, price.worth_nanocredits) == ("small", index)


def test_the_same_work_a_year_later_costs_a_tenth_in_credits_and_the_same_in_units() -> None:
    """Where prices have fallen tenfold."""
    year_ms = round(365.25 * DAY_MS)
    now, later = (Price("m", at, input=rate, output=5 * rate, level="small") for at, rate in ((0, CREDIT), (year_ms, CREDIT // 10)))
    levels = Levels([now, later], [Level("small")])
    costs = []
    for row, at_ms in ((now, 0), (later, year_ms)):
        index = levels.index("small", at_ms)
        assert index is not None
        costs.append((cost_nanocredits(row, MILLION), cost_nanocredits(price_in_units(row, "small", index), MILLION)))
    assert costs == [(2 * CREDIT, CREDIT), (CREDIT // 5, CREDIT)]


def test_everything_that_a_row_prices_is_divided() -> None:
    """Tokens of every kind, pieces, the request itself, and the rates of tiers; what it does not price stays so, and percents stay."""
    row = Price(
        "m",
        0,
        **{kind: 2 * CREDIT for kind in ("input", "output", "cached_input", "cache_write", "cache_write_1h", "audio_input", "reasoning")},
        **{kind: 2 * CREDIT for kind in ("audio_output", "image", "character", "tool_use", "second", "megabyte")},
        request=2 * CREDIT,
        batch_percent=50,
        level="other",
        tiers=(Tier(1000, input=6 * CREDIT),),
    )
    halved = price_in_units(row, "small", 2 * CREDIT)
    rates = {name: value // 2 for name in Price.__dataclass_fields__ if type(value := getattr(row, name)) is int and value >= CREDIT}
    rates.pop("worth_nanocredits", None)
    assert len(rates) == 14
    expected = replace(row, **rates, tiers=(Tier(1000, input=3 * CREDIT),), unit="small", worth_nanocredits=2 * CREDIT)
    assert halved == expected
    assert price_in_units(Price("m", 0, request=0, input=7), "small", 7) == Price("m", 0, input=CREDIT, unit="small", worth_nanocredits=7)


rates = st.integers(0, 10**13)
counts = st.integers(0, 2_000_000)
usages = st.builds(Usage, input=counts, cached_input=counts, output=counts, reasoning=counts, image=st.integers(0, 9))
rows = st.builds(
    Price,
    st.just("m"),
    st.just(0),
    input=rates,
    output=rates,
    cached_input=st.none() | rates,
    image=rates,
    request=rates,
    tiers=st.just(()) | st.tuples(st.builds(Tier, st.just(100_000), input=rates)),
)


@given(row=rows, usage=usages, index=st.integers(1, 10**13))
def test_nothing_is_undercharged_and_next_to_nothing_overcharged(row: Price, usage: Usage, index: int) -> None:
    """A cost in units is no less than the exact quotient, and beyond it by no more than one nanounit for each million tokens or piece."""
    price = price_in_units(row, "small", index)
    costs = cost_nanocredits(price, usage)
    exact = Fraction(cost_nanocredits(row, usage) * CREDIT, index)
    rounded_up = Fraction(CREDIT, index)  # the credits themselves were rounded up to a nanocredit
    millions = Fraction(usage.input_tokens + usage.output_tokens, 1_000_000) + usage.image + 1
    assert exact - rounded_up <= costs <= exact + millions + 1


@given(row=rows, usage=usages, index=st.integers(CREDIT // 1000, 10**13))
def test_what_was_charged_in_units_is_the_same_work_in_credits(row: Price, usage: Usage, index: int) -> None:
    """To what one nanounit for each million tokens, or piece, is worth."""
    nominal = nominal_nanocredits(price := price_in_units(row, "small", index), cost_nanocredits(price, usage))
    millions = Fraction(usage.input_tokens + usage.output_tokens, 1_000_000) + usage.image + 2
    assert abs(nominal - cost_nanocredits(row, usage)) <= millions * Fraction(index, CREDIT) + 1


@given(row=rows, tokens=st.integers(0, 10_000), amount=st.integers(0, 10**12), index=st.integers(1, 10**12))
def test_bounds_hold_in_units_as_they_do_in_credits(row: Price, tokens: int, amount: int, index: int) -> None:
    """What is affordable has an estimate within the amount, and no usage of that size costs more than its estimate."""
    price = price_in_units(row, "small", index)
    output = affordable_output_tokens(price, input_tokens=tokens, amount_nanocredits=amount)
    if output:
        estimate = estimate_nanocredits(price, input_tokens=tokens, output_tokens=output)
        assert cost_nanocredits(price, Usage(input=tokens, output=output)) <= estimate <= amount


def test_amounts_in_credits_are_themselves() -> None:
    """A row of the book is worth one credit a credit, and has no note for the journal; a derived one names level and index."""
    row = Price("m", 0, input=3)
    assert [nominal_nanocredits(row, amount) for amount in (0, 1, 2**53)] == [0, 1, 2**53]
    assert note_of(row) == ""
    assert note_of(price_in_units(row, "small", 325_000_000)) == "level:small@0.325"


def test_accounts_of_one_tree_count_in_one_unit() -> None:
    """Opening, changing a plan, changing an account's plan and giving are refused where units would meet, with both names."""
    credits, small, other = Plan("c", ()), Plan("s", (), unit="small"), Plan("s2", (), unit="small")
    check_one_unit(small, [small, other], ANN)
    check_one_unit(credits, [], ANN)
    check_keeps_unit(small, other, ANN)
    check_plan_keeps_unit(small, replace(small, weight=2))
    check_transfer(small, other, giver=ANN, receiver=BOB)
    refused = [
        lambda: check_one_unit(small, [credits], ANN),
        lambda: check_one_unit(credits, [credits, small], ANN),
        lambda: check_keeps_unit(small, credits, ANN),
        lambda: check_plan_keeps_unit(small, replace(small, unit="credits")),
        lambda: check_transfer(small, credits, giver=ANN, receiver=BOB),
    ]
    for act in refused:
        with pytest.raises(Refusal) as caught:
            act()
        assert (caught.value.code, caught.value.status) == ("units_differ", 422)
        assert "credits" in caught.value.message
        assert "units of level 'small'" in caught.value.message
