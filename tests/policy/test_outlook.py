"""What budgets in units will cost, and what a pool will buy: by known prices first, by the schedule where none is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import Level
from proxy.policy.levels import DAY_MS, Step
from proxy.policy.outlook import look_ahead

CREDIT = UNIT = 1_000_000_000
LEVEL = Level("small")
STEPS = (Step(0, 2 * CREDIT, "a"), Step(10 * DAY_MS, CREDIT, "b"))
NOW_MS = 20 * DAY_MS


def test_people_with_units_a_day_cost_their_number_at_the_index() -> None:
    """A thousand with two units each at one credit: two thousand credits a day now, and a tenth of that a year later."""
    now, later = (look_ahead(LEVEL, STEPS, as_of_ms=NOW_MS, months=months, people=1000, units_nanounits=2 * UNIT) for months in (0, 12))
    assert (now.day_nanocredits, now.index_nanocredits, now.known_at_ms) == (2000 * CREDIT, CREDIT, now.at_ms)
    assert (later.day_nanocredits, later.index_nanocredits, later.known_at_ms) == (200 * CREDIT, CREDIT // 10, NOW_MS)
    assert now.each_nanounits is None


def test_a_year_is_the_sum_of_its_days() -> None:
    """Falling day by day: the 365 terms of a geometric series."""
    outlook = look_ahead(LEVEL, STEPS, as_of_ms=NOW_MS, months=0, people=1, units_nanounits=UNIT)
    ratio = 10 ** (-1 / 365.25)
    assert outlook.year_nanocredits == pytest.approx(CREDIT * (1 - ratio**365) / (1 - ratio), rel=1e-6)
    flat = look_ahead(Level("small", deflation=1), STEPS, as_of_ms=NOW_MS, months=0, people=1, units_nanounits=UNIT)
    assert flat.year_nanocredits == 365 * CREDIT


def test_a_pool_buys_each_person_what_it_pays_at_the_index() -> None:
    """Ten times as much a year later, for the same credits."""
    each = [
        look_ahead(LEVEL, STEPS, as_of_ms=NOW_MS, months=months, people=4, pool_nanocredits=10 * CREDIT).each_nanounits
        for months in (0, 12, 24, 36)
    ]
    assert each == [25 * UNIT // 10, 25 * UNIT, 250 * UNIT, 2500 * UNIT]


def test_known_prices_to_come_are_planned_with() -> None:
    """Until the last of them the prices that are known hold, as long as each is in force; the schedule begins there."""
    year_ms = round(365.25 * DAY_MS)
    steps = (*STEPS, Step(NOW_MS + year_ms // 2, CREDIT // 2, "c"), Step(NOW_MS + year_ms * 3 // 2, CREDIT // 4, "d"))
    known = [look_ahead(LEVEL, steps, as_of_ms=NOW_MS, months=months, people=1, units_nanounits=UNIT) for months in (0, 5, 6, 17, 18, 30)]
    assert [outlook.day_nanocredits for outlook in known] == [CREDIT, CREDIT, CREDIT // 2, CREDIT // 2, CREDIT // 4, CREDIT // 40]
    assert [outlook.known_at_ms == outlook.at_ms for outlook in known] == [True] * 5 + [False]
    assert known[-1].known_at_ms == steps[-1].at_ms


@pytest.mark.parametrize(
    ("index", "deflation", "months", "is_least"), [(50, 10, 0, False), (50, 10, 12, True), (1, 10, 0, True), (1, 1, 36, False)]
)
def test_the_schedule_stops_at_the_least_index_and_says_so(index: int, deflation: float, months: int, is_least: bool) -> None:
    """Where it comes to it by the end of the 365 days; a level that is not taken to fall does not stop."""
    level, steps = Level("small", deflation=deflation), (Step(0, index, "a"),)
    outlook = look_ahead(level, steps, as_of_ms=NOW_MS, months=months, people=1, units_nanounits=UNIT)
    assert outlook.is_least is is_least


def test_a_level_that_is_yet_to_come_costs_nobody_knows_what_until_then() -> None:
    """No figure is made up."""
    steps = (Step(NOW_MS + 30 * DAY_MS, CREDIT, "a"),)
    now = look_ahead(LEVEL, steps, as_of_ms=NOW_MS, months=0, people=1, units_nanounits=UNIT, pool_nanocredits=CREDIT)
    assert (now.index_nanocredits, now.day_nanocredits, now.year_nanocredits, now.each_nanounits, now.known_at_ms) == (None,) * 5
    assert look_ahead(LEVEL, steps, as_of_ms=NOW_MS, months=12, people=1, units_nanounits=UNIT).day_nanocredits is not None


@given(people=st.integers(1, 10**9), units=st.integers(1, 10**13), index=st.integers(1, 10**12), months=st.sampled_from([0, 12, 36]))
def test_what_a_pool_buys_and_what_that_costs_are_each_others_reverse(people: int, units: int, index: int, months: int) -> None:
    """The pool that so many units cost buys no fewer of them, and what a pool buys costs no more than the pool."""
    steps = (Step(0, index, "a"),)
    there = look_ahead(LEVEL, steps, as_of_ms=0, months=months, people=people, units_nanounits=units)
    assert there.day_nanocredits is not None
    back = look_ahead(LEVEL, steps, as_of_ms=0, months=months, people=people, pool_nanocredits=there.day_nanocredits)
    assert back.each_nanounits is not None
    assert back.each_nanounits >= units
    again = look_ahead(LEVEL, steps, as_of_ms=0, months=months, people=people, units_nanounits=back.each_nanounits)
    assert again.day_nanocredits is not None
    assert again.day_nanocredits <= there.day_nanocredits
