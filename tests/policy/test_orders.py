"""How orders treat one caller: on the right side of a line nothing happens, on the other side never more than the bound."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.orders import NEUTRAL, POLICIES, WEIGHT_UNIT, Orders, Treatment, treat

ORDERS = Orders(
    at_ms=0,
    window_starts_at_ms=0,
    on=POLICIES,
    average_nanocredits=1_000,
    floor_nanocredits=500,
    boost_quarters=16,
    cap_nanocredits=1_500,
    price_theta=2,
    price_kappa=0.5,
    price_beta=1,
    price_percent_max=400,
    brake_nanocredits=8_000,
    brake_quarters=1,
    tithe_nanocredits=2_000,
    tithe_share=0.1,
)


def test_each_line_has_its_effect() -> None:
    """From below the floor to the top, in the order in which they come."""
    below, usual, above, far, top = (treat(ORDERS, use_nanocredits=x, weight=1) for x in (200, 1_000, 1_600, 4_000, 9_000))
    assert below == Treatment(weight_quarters=16, topup_nanocredits=300, applied=("floor",))
    assert usual == NEUTRAL
    assert above == Treatment(is_spare=True, applied=("cap",))
    assert far == Treatment(is_spare=True, price_percent=200, tithe_share=0.1, applied=("cap", "progressive_price", "tithe"))
    assert top.weight_quarters == 1
    assert top.price_percent == 400


def test_use_counts_by_weight() -> None:
    """Who is entitled to three times as much may use three times as much."""
    assert treat(ORDERS, use_nanocredits=4_500, weight=3) == NEUTRAL
    assert treat(ORDERS, use_nanocredits=600, weight=3).topup_nanocredits == 900


def test_a_dry_run_has_no_effect_and_is_told() -> None:
    """Everything that would apply is named, and nothing else differs from doing nothing."""
    dry = replace(ORDERS, on=(), proposed=POLICIES)
    for x in (0, 200, 1_000, 4_000, 10**9):
        treatment = treat(dry, use_nanocredits=x, weight=1)
        assert replace(treatment, proposed=()) == NEUTRAL
        assert treatment.proposed == treat(ORDERS, use_nanocredits=x, weight=1).applied


@given(st.floats(-1e15, 1e15), st.integers(1, 10**6), st.floats(0, 1e6), st.floats(0.25, 4), st.floats(0, 10))
def test_every_effect_is_bounded(use: float, weight: int, average: float, beta: float, kappa: float) -> None:
    """Whatever the lines: prices stay within 100 % and their maximum, weights within a quarter and four times."""
    orders = replace(ORDERS, average_nanocredits=average, price_beta=beta, price_kappa=kappa)
    treatment = treat(orders, use_nanocredits=use, weight=weight)
    assert 100 <= treatment.price_percent <= 400
    assert 1 <= treatment.weight_quarters <= 16
    assert 0 <= treatment.topup_nanocredits <= orders.floor_nanocredits * weight


@given(st.lists(st.floats(0, 1e7), min_size=2, max_size=20))
def test_who_used_more_is_never_treated_better(uses: list[float]) -> None:
    """Price, class, weight and tithe only move against whoever has used more."""
    treatments = [treat(ORDERS, use_nanocredits=use, weight=1) for use in sorted(uses)]
    for less, more in itertools.pairwise(treatments):
        assert more.price_percent >= less.price_percent
        assert more.weight_quarters <= less.weight_quarters
        assert more.is_spare >= less.is_spare
        assert more.tithe_share >= less.tithe_share
        assert more.topup_nanocredits <= less.topup_nanocredits


def test_no_orders_mean_no_effect() -> None:
    """As at the start, and whenever nothing is scarce."""
    assert treat(Orders(at_ms=0, window_starts_at_ms=0), use_nanocredits=10**9, weight=1) is NEUTRAL
    assert NEUTRAL.weight_quarters == WEIGHT_UNIT
