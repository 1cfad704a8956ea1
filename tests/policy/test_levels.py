"""The index of a level: what it is on a day, how it moves, and what is planned with where no price is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import NANOCREDITS_PER_CREDIT, Level, Price
from proxy.policy.levels import DAY_MS, Levels, Step, blended_nanocredits, index_steps, members, planned_index, step_at
from proxy.policy.pricing import find_price

CREDIT = 1_000_000_000
LEVEL = Level("small")
YEAR_MS = round(365.25 * DAY_MS)


def row(model: str, day: int, input: int | None, output: int | None = None, *, level: str | None = "small", **rates: int) -> Price:
    """A row from a day on; `output` as `input` where it is left out."""
    return Price(model, day * DAY_MS, input=input, output=input if output is None else output, level=level, **rates)


def moves(rows: list[Price], level: Level = LEVEL) -> list[tuple[int, int, str]]:
    return [(step.at_ms // DAY_MS, step.index_nanocredits, step.model) for step in index_steps(level, rows)]


# --- the blend -----------------------------------------------------------------------------------------------------------------------


def test_a_blend_is_three_parts_input_to_one_of_output_unless_the_level_says_otherwise() -> None:
    """A million tokens of it cost so much, rounded down."""
    price = row("m", 0, 100, 500)
    assert blended_nanocredits(price, LEVEL) == 200
    assert blended_nanocredits(price, replace(LEVEL, input_parts=1)) == 300
    assert blended_nanocredits(row("m", 0, 1, 2), LEVEL) == 1


def test_a_row_that_does_not_price_what_the_blend_is_made_of_has_none() -> None:
    """Nor has one that costs nothing: nobody's budget could be counted by it. A level of embeddings is made of input alone."""
    embedding = Price("e", 0, input=20, level="small")
    assert blended_nanocredits(embedding, LEVEL) is None
    assert blended_nanocredits(embedding, replace(LEVEL, output_parts=0)) == 20
    assert blended_nanocredits(Price("i", 0, image=5, level="small"), LEVEL) is None
    assert blended_nanocredits(row("free", 0, 0), LEVEL) is None
    assert blended_nanocredits(row("nearly", 0, 1, 0), LEVEL) == 1


# --- steps ---------------------------------------------------------------------------------------------------------------------------


def test_the_index_is_that_of_the_cheapest_model_of_the_level() -> None:
    """Rows without the level, or of another one, do not count."""
    rows = [row("a", 1, 30), row("b", 2, 20), row("c", 2, 5, level=None), row("d", 2, 6, level="other")]
    assert moves(rows) == [(1, 30, "a"), (2, 20, "b")]
    assert [price.model for price in members(LEVEL, rows, 2 * DAY_MS)] == ["b", "a"]
    assert [price.model for price in members(LEVEL, rows, 1 * DAY_MS)] == ["a"]


def test_the_index_never_rises_unless_it_may() -> None:
    """A model that grows dearer, or leaves, leaves the index where it was; one that may rise follows up to what is cheapest then."""
    rows = [row("a", 1, 30), row("b", 2, 20), row("b", 3, 50), row("a", 4, 40), row("c", 5, 10)]
    assert moves(rows) == [(1, 30, "a"), (2, 20, "b"), (5, 10, "c")]
    rising = replace(LEVEL, may_rise=True)
    assert moves(rows, rising) == [(1, 30, "a"), (2, 20, "b"), (3, 30, "a"), (4, 40, "a"), (5, 10, "c")]


def test_a_level_that_loses_all_its_models_keeps_its_index() -> None:
    """Whoever counts in it goes on counting."""
    rows = [row("a", 1, 30), row("a", 2, 20, level=None)]
    for level in (LEVEL, replace(LEVEL, may_rise=True)):
        assert moves(rows, level) == [(1, 30, "a")]
    assert members(LEVEL, rows, 2 * DAY_MS) == ()


def test_before_its_first_row_a_level_has_no_index() -> None:
    """And one that nobody has named has none at all."""
    levels = Levels([row("a", 5, 30)])
    assert [levels.index("small", day * DAY_MS) for day in (4, 5, 6)] == [None, 30, 30]
    assert levels.index("small", 5 * DAY_MS - 1) is None
    assert levels.index("unknown", 5 * DAY_MS) is None


def test_what_a_unit_is_worth_is_its_index() -> None:
    """Rounded down; credits are credits, and before there is an index nobody can say."""
    levels = Levels([row("a", 5, NANOCREDITS_PER_CREDIT // 3)])
    assert levels.in_credits("credits", 7, 0) == 7
    assert [levels.in_credits("small", 2 * NANOCREDITS_PER_CREDIT, day * DAY_MS) for day in (4, 5)] == [None, 666_666_666]


def test_levels_are_those_that_rows_name_and_those_with_settings() -> None:
    """Settings hold for the level of their name; the others have the defaults. None is called credits."""
    configured = Level("large", input_parts=1, deflation=2)
    levels = Levels(
        [row("a", 0, 10, 30), row("b", 0, 10, 30, level="large"), row("c", 0, 1, level="credits")], [configured, Level("unused")]
    )
    assert list(levels.by_name) == ["large", "small", "unused"]
    assert (levels.index("small", 0), levels.index("large", 0), levels.index("unused", 0)) == (15, 20, None)


DAYS = 12
drawn_rows = st.lists(
    st.builds(
        row,
        st.sampled_from(["a", "b", "c*", "*"]),
        st.integers(0, DAYS),
        st.integers(0, 50),
        st.integers(0, 50),
        level=st.sampled_from(["small", "small", "other", None]),
    ),
    max_size=12,
)


drawn_days = st.none() | st.integers(0, DAYS)
drawn_kept = st.none() | st.builds(lambda day, index: Step(day * DAY_MS, index, "gone"), st.integers(0, DAYS), st.integers(1, 50))


@given(rows=drawn_rows, may_rise=st.booleans(), rises_day=drawn_days, kept=drawn_kept)
def test_the_steps_are_what_a_plain_search_of_every_day_finds(
    rows: list[Price], may_rise: bool, rises_day: int | None, kept: Step | None
) -> None:
    """On each day the least blend of the rows in force, by the price book's own rule of what is in force, never above the day before.

    What was kept stands for the day before it was noted; on the day on which it rises nothing does.
    """
    level = replace(LEVEL, may_rise=may_rise, rises_at_ms=None if rises_day is None else rises_day * DAY_MS)
    steps = index_steps(level, rows, kept)
    index: int | None = None
    for day in range(DAYS + 2):
        at_ms = day * DAY_MS
        in_force = [find_price([other for other in rows if other.model == pattern], pattern, at_ms) for pattern in {r.model for r in rows}]
        blends = [blended_nanocredits(price, level) for price in in_force if price is not None and price.level == "small"]
        least = min((blend for blend in blends if blend is not None), default=None)
        if kept is not None and kept.at_ms == at_ms:
            index = kept.index_nanocredits
        if least is not None and (index is None or may_rise or day == rises_day or least < index):
            index = least
        step = step_at(steps, at_ms)
        assert (None if step is None else step.index_nanocredits) == index


# --- what is kept --------------------------------------------------------------------------------------------------------------------


def noted(rows: list[Price], day: int, level: Level = LEVEL, kept: dict[str, Step] | None = None) -> dict[str, Step]:
    """What is kept once the indices of a day were noted."""
    levels = Levels(rows, [level], kept)
    return {**levels.kept, **levels.to_keep(day * DAY_MS)}


def test_an_index_that_was_noted_outlasts_the_row_that_set_it() -> None:
    """Whether the row is gone, or dearer in place, or all rows are gone, and with them the level's section; what falls below it counts."""
    kept = noted([row("a", 0, 100), row("b", 1, 10)], 2)
    assert kept == {"small": Step(2 * DAY_MS, 10, "b")}
    for rows in ([row("a", 0, 100)], [row("a", 0, 100), row("b", 1, 50)], []):
        levels = Levels(rows, (), kept)
        assert (levels.index("small", 2 * DAY_MS), levels.index("small", 9 * DAY_MS)) == (10, 10)
        assert levels.to_keep(9 * DAY_MS) == {}
    falling = Levels([row("a", 0, 100), row("c", 5, 7)], (), kept)
    assert [falling.index("small", day * DAY_MS) for day in (2, 4, 5)] == [10, 10, 7]
    assert falling.to_keep(6 * DAY_MS) == {"small": Step(6 * DAY_MS, 7, "c")}


def test_a_mistaken_row_is_cured_from_an_instant_on() -> None:
    """Once: what was kept before it no longer counts, what is kept after it does. Without rows there is nothing to rise to."""
    mistake, right = row("a", 1, 1), row("a", 0, 100)
    kept = noted([right, mistake], 2)
    cure = replace(LEVEL, rises_at_ms=5 * DAY_MS)
    cured = Levels([right], [cure], kept)
    assert [cured.index("small", day * DAY_MS) for day in (0, 2, 4, 5, 9)] == [100, 1, 1, 100, 100]
    assert cured.to_keep(4 * DAY_MS) == {}
    kept = noted([right], 6, cure, kept)
    assert kept == {"small": Step(6 * DAY_MS, 100, "a")}
    assert Levels([row("a", 0, 300)], [cure], kept).index("small", 9 * DAY_MS) == 100
    assert Levels([], [cure], noted([right, mistake], 2)).index("small", 9 * DAY_MS) == 1


def test_what_did_not_change_at_a_cure_is_noted_again() -> None:
    """Else it would not count after the cure, and a row that goes then would take it along."""
    rows, cure = [row("a", 0, 100), row("b", 0, 10)], replace(LEVEL, rises_at_ms=5 * DAY_MS)
    kept = noted(rows, 6, cure, noted(rows, 2))
    assert kept == {"small": Step(6 * DAY_MS, 10, "b")}
    assert Levels(rows[:1], [cure], kept).index("small", 9 * DAY_MS) == 10


def test_a_level_that_may_rise_is_kept_as_it_rises() -> None:
    """So once it may no longer, it stays where it is, and does not fall to what it was long ago."""
    rows, rising = [row("a", 0, 10), row("a", 3, 70)], replace(LEVEL, may_rise=True)
    kept = noted(rows, 4, rising, noted(rows, 1, rising))
    assert kept == {"small": Step(4 * DAY_MS, 70, "a")}
    assert Levels(rows, [rising], noted(rows, 1, rising)).index("small", 4 * DAY_MS) == 70
    assert Levels(rows, [LEVEL], kept).index("small", 9 * DAY_MS) == 70
    assert Levels(rows, [LEVEL]).index("small", 9 * DAY_MS) == 10
    assert Levels([], [rising], kept).index("small", 9 * DAY_MS) == 70


def test_a_clock_that_was_put_back_makes_no_index_dearer() -> None:
    """What is kept lies ahead of it then: it is noted once more, as of now, or what is less."""
    kept = noted([row("b", 1, 10)], 5)
    for rows, index in (([row("a", 0, 100)], 10), ([], 10), ([row("c", 0, 3)], 3)):
        again = Levels(rows, (), kept).to_keep(4 * DAY_MS)
        assert (again["small"].index_nanocredits, again["small"].at_ms) == (index, 4 * DAY_MS)
        assert Levels(rows, (), again).index("small", 4 * DAY_MS) == index


@given(books=st.lists(st.tuples(drawn_rows, st.integers(0, 3)), min_size=1, max_size=6))
def test_whatever_becomes_of_the_rows_the_index_never_rises(books: list[tuple[list[Price], int]]) -> None:
    """The price book is edited again and again, and the index is noted before each edit, as it is before the configuration is read."""
    kept: dict[str, Step] = {}
    before, day = None, 0
    for rows, days in books:
        for _ in range(days + 1):
            index = Levels(rows, [LEVEL], kept).index("small", day * DAY_MS)
            assert before is None or (index is not None and index <= before)
            before = index
            kept = noted(rows, day, kept=kept)
            day += 1


# --- the schedule --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "factor"),
    [(1, 0.993716), (365.25 / 12, 0.8254), (109.95, 0.5), (365.25, 0.1), (3 * 365.25, 0.001)],
)
def test_where_no_price_is_known_the_index_falls_tenfold_in_a_year(days: float, factor: float) -> None:
    """By 0.63 % a day and 17 % a month, and by half in 110 days."""
    steps = (Step(0, CREDIT, "a"),)
    planned = planned_index(LEVEL, steps, 5 * DAY_MS + round(days * DAY_MS), as_of_ms=5 * DAY_MS)
    assert planned is not None
    assert planned / CREDIT == pytest.approx(factor, rel=1e-4)


def test_the_schedule_never_touches_what_is_in_force() -> None:
    """Up to the day that is known, and for a level without deflation, the index is the price book's."""
    steps = (Step(0, 1000, "a"), Step(10 * DAY_MS, 100, "b"))
    known = [planned_index(LEVEL, steps, day * DAY_MS, as_of_ms=20 * DAY_MS) for day in (0, 9, 10, 20)]
    assert known == [1000, 1000, 100, 100]
    assert planned_index(replace(LEVEL, deflation=1), steps, 20 * DAY_MS + YEAR_MS, as_of_ms=20 * DAY_MS) == 100
    assert planned_index(LEVEL, steps, -1, as_of_ms=0) is None
    assert planned_index(LEVEL, (Step(0, 3, "a"),), 10 * YEAR_MS, as_of_ms=0) == 1


def test_a_known_later_price_counts_from_its_date_on() -> None:
    """Until the last that is known the index is the prices' alone; the schedule begins there."""
    steps = (Step(0, 1_000_000, "a"), Step(YEAR_MS, 500_000, "b"))
    planned = [planned_index(LEVEL, steps, at_ms, as_of_ms=0) for at_ms in (0, YEAR_MS // 2, YEAR_MS - 1, YEAR_MS, 2 * YEAR_MS)]
    assert planned == [1_000_000, 1_000_000, 1_000_000, 500_000, 50_000]


days_ahead = st.lists(st.tuples(st.integers(0, 1500), st.integers(1, CREDIT)), min_size=1, max_size=6)


@given(deflation=st.floats(1, 1000), as_of_day=st.integers(0, 100), priced=days_ahead)
def test_planned_indices_never_rise(deflation: float, as_of_day: int, priced: list[tuple[int, int]]) -> None:
    """For any deflation, any day that is known, and any prices to come of a level that may not rise."""
    level = replace(LEVEL, deflation=deflation)
    steps = index_steps(level, [row("a", 0, CREDIT), *(row(f"m{n}", day, rate) for n, (day, rate) in enumerate(priced))])
    planned = [planned_index(level, steps, day * DAY_MS, as_of_ms=as_of_day * DAY_MS) or 0 for day in range(0, 3000, 30)]
    assert planned == sorted(planned, reverse=True)
