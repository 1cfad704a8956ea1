"""What orders mean, in sentences: every figure in them is the one that is carried out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.policy.effects import effect
from proxy.policy.orders import POLICIES, Orders, treat

CREDIT = 1_000_000_000
ORDERS = Orders(
    at_ms=0,
    window_starts_at_ms=0,
    on=POLICIES,
    average_nanocredits=CREDIT,
    floor_nanocredits=CREDIT / 2,
    boost_quarters=16,
    cap_nanocredits=1.5 * CREDIT,
    price_theta=2,
    price_kappa=0.5,
    price_percent_max=1_000,
    brake_nanocredits=8 * CREDIT,
    brake_quarters=1,
    tithe_nanocredits=2 * CREDIT,
    tithe_share=0.1,
    dividend_nanocredits=3 * CREDIT,
)


@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_a_price_is_told_as_it_is_raised(beta: float) -> None:
    """At one time the average beyond the line, and at two, whatever the exponent."""
    orders = replace(ORDERS, price_beta=beta)
    at_one, at_two = (treat(orders, use_nanocredits=x * CREDIT, weight=1).price_percent - 100 for x in (3, 4))
    assert at_one == 50
    assert f"by {at_one}% at one time the average beyond that" in effect(orders, "progressive_price")
    said = effect(orders, "progressive_price").partition(" and by ")[2]
    assert abs(int(said.partition("%")[0]) - at_two) <= 1


def test_a_dividend_is_told_with_its_amount() -> None:
    """What is dealt, which is a part of what the commons has, or nothing."""
    assert effect(ORDERS, "dividend").startswith("3 credits of the commons are dealt")
    assert "nothing beyond its reserve" in effect(replace(ORDERS, dividend_nanocredits=0), "dividend")


def test_what_has_no_effect_says_so() -> None:
    """A brake of less than a quarter, a cap that frees nothing, a price while seats are idle; and what is not in force says nothing."""
    assert "nobody counts less" in effect(replace(ORDERS, brake_quarters=4), "brake")
    assert "counts 0.25 times" in effect(ORDERS, "brake")
    assert effect(replace(ORDERS, cap_nanocredits=None), "cap") == "nobody needs to make room"
    assert "while seats are idle" in effect(replace(ORDERS, price_kappa=0.0), "progressive_price")
    assert [effect(replace(ORDERS, on=()), policy) for policy in POLICIES] == [""] * len(POLICIES)


def test_amounts_are_told_in_what_they_count() -> None:
    """Of people who count in units of a level, in these."""
    for policy in ("floor", "cap", "progressive_price", "brake", "tithe", "dividend"):
        assert "credits" in effect(ORDERS, policy)
        said = effect(replace(ORDERS, unit="general"), policy)
        assert "units of general" in said
        assert "credits" not in said
