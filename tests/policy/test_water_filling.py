"""The lines through the users: each where the definition says, up to the width of a bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.tallies import RATIO, Tally
from proxy.policy.water_filling import average_nanocredits, level_nanocredits, top_edge_nanocredits, users

PEOPLE = st.lists(st.tuples(st.integers(1, 10**12), st.integers(1, 50)), min_size=1, max_size=60)
"""Use and weight."""


def tally_of(people: list[tuple[int, int]]) -> Tally:
    tally = Tally()
    for use, weight in people:
        tally.move(use_nanocredits=use, weight=weight, sign=1)
    return tally.sound()


@given(PEOPLE, st.floats(0.001, 0.999))
def test_the_level_frees_what_is_lacking(people: list[tuple[int, int]], part: float) -> None:
    """What people used beyond the level is what is lacking, as far as buckets can tell: each use is known to the width of its bucket."""
    use = sum(u for u, _ in people)
    level = level_nanocredits(tally_of(people), freed_nanocredits=part * use)
    assert level is not None
    assert sum(max(0.0, u / RATIO - w * level) for u, w in people) <= part * use * (1 + 1e-9)
    assert sum(max(0.0, u * RATIO - w * level) for u, w in people) >= part * use * (1 - 1e-9)


def test_there_is_no_level_where_nothing_lacks() -> None:
    """Then nobody needs to leave anything."""
    assert level_nanocredits(tally_of([(100, 1)]), freed_nanocredits=0) is None
    assert level_nanocredits(Tally(), freed_nanocredits=5) is None


def test_more_than_all_cannot_be_freed() -> None:
    """The level is never below 0."""
    assert level_nanocredits(tally_of([(100, 1), (900, 2)]), freed_nanocredits=10**6) == 0.0


def test_the_level_of_a_known_case() -> None:
    """1, 1 and 10 used; of these 12 there should be 6 for others: the big one stops at 4."""
    assert level_nanocredits(tally_of([(1, 1), (1, 1), (10, 1)]), freed_nanocredits=6) == pytest.approx(4)


@given(PEOPLE, st.floats(0.001, 1.0))
def test_the_top_begins_where_so_many_are_above(people: list[tuple[int, int]], share: float) -> None:
    """From the edge on there is at least this share of all weight, and beyond that bucket less."""
    edge = top_edge_nanocredits(tally_of(people), share)
    weight = sum(w for _, w in people)
    assert sum(w for u, w in people if u / w >= edge) >= share * weight * (1 - 1e-9)
    assert sum(w for u, w in people if u / w >= edge * RATIO * (1 + 1e-9)) <= share * weight * (1 + 1e-9)


@given(PEOPLE)
def test_only_users_count(people: list[tuple[int, int]]) -> None:
    """The average is theirs, and their curve starts at 0 without a flat stretch."""
    tally = tally_of(people)
    assert average_nanocredits(tally) == pytest.approx(sum(u for u, _ in people) / sum(w for _, w in people))
    curve = users(tally)
    assert curve is not None
    assert curve.share_below(1e-9).high > 0


def test_without_users_there_are_no_lines() -> None:
    """Nothing to divide by."""
    assert (average_nanocredits(Tally()), top_edge_nanocredits(Tally(), 0.01), users(Tally())) == (0.0, 0.0, None)
