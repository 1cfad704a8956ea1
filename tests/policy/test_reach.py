"""How far orders reach: whom each policy treats, and what that moves in a day."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.orders import POLICIES, Orders, PolicyName
from proxy.policy.reach import DAY_MS, Crowd, Reach, reaches
from proxy.policy.tallies import Tally

NOON_MS = DAY_MS // 2
ORDERS = Orders(
    at_ms=NOON_MS,
    window_starts_at_ms=0,
    proposed=POLICIES,
    average_nanocredits=1_000,
    floor_nanocredits=500,
    boost_quarters=16,
    cap_nanocredits=1_500,
    price_theta=2,
    price_kappa=0.5,
    price_percent_max=400,
    brake_nanocredits=8_000,
    brake_quarters=1,
    tithe_nanocredits=2_000,
    tithe_share=0.1,
    dividend_nanocredits=70_000,
)


def crowd(*uses: int, denied: int = 0, entitled: int = 0, weight: int = 1) -> Crowd:
    tally = Tally()
    for use in uses:
        tally.move(use_nanocredits=use, weight=weight, sign=1)
    return Crowd(tally, denied, entitled)


def reached(found: Crowd, orders: Orders = ORDERS) -> dict[PolicyName, tuple[int, int]]:
    return {name: (reach.people, reach.daily_nanocredits) for name, reach in reaches(orders, found, dividend_interval_s=86_400).items()}


def test_everyone_beyond_a_line_is_counted_once() -> None:
    """Below the floor also those who got nothing; what is moved is of the day so far, taken for all of it."""
    assert reached(crowd(100, 1_000, 1_000, 4_000, denied=3, entitled=20)) == {
        "floor": (1 + 3, 3 * 500),
        "cap": (1, 0),
        "progressive_price": (1, 2 * 2_000 * 100 // 200),  # from once the price to twice
        "brake": (0, 0),
        "tithe": (1, 2 * 2_000 // 10),
        "dividend": (20, 70_000),
    }


def test_a_dry_run_reaches_whom_it_would_reach_in_force() -> None:
    """Mode makes no difference to what is told, only to what is done."""
    found = crowd(100, 3_000, 9_000, denied=1, entitled=9)
    assert reached(found) == reached(found, replace(ORDERS, on=POLICIES, proposed=()))
    assert reached(found, replace(ORDERS, proposed=("cap",))) == {"cap": (2, 0)}
    assert reached(crowd(), replace(ORDERS, proposed=())) == {}


def test_the_first_minutes_of_a_day_are_not_taken_for_all_of_it() -> None:
    """Less than an hour counts as one."""
    early = replace(ORDERS, at_ms=60_000)
    assert reached(crowd(4_000), early)["tithe"] == (1, 24 * 200)


def test_a_dividend_of_many_days_is_a_part_of_it_a_day() -> None:
    """And one that is dealt each hour is not told as many, for the commons has it once."""
    found = crowd(4_000, entitled=10)
    weekly = reaches(ORDERS, found, dividend_interval_s=7 * 86_400)["dividend"]
    hourly = reaches(ORDERS, found, dividend_interval_s=3_600)["dividend"]
    assert (weekly, hourly) == (Reach(10, 10_000), Reach(10, 70_000))


@given(st.lists(st.integers(1, 10**12), max_size=30), st.integers(0, 1_000), st.integers(1, 1_000))
def test_nobody_is_counted_twice_and_nothing_is_negative(uses: list[int], denied: int, weight: int) -> None:
    """Whatever was used."""
    for name, reach in reaches(ORDERS, crowd(*uses, denied=denied, entitled=5_000, weight=weight), dividend_interval_s=60).items():
        assert 0 <= reach.people <= (5_000 if name == "dividend" else len(uses) + denied)
        assert reach.daily_nanocredits >= 0
