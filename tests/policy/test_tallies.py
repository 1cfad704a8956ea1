"""Tallies as an algebra: whatever is moved, added up and aged, in whatever order, is the tally of the people as they end."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.tallies import BUCKETS_PER_DOUBLING, RATIO, Population, Tally, bucket_bounds, bucket_of

USES = st.integers(0, 2**53 - 1)
WEIGHTS = st.integers(1, 1_000_000)
PEOPLE = st.lists(st.tuples(USES, WEIGHTS), max_size=12)


def tally_of(people: list[tuple[int, int]]) -> Tally:
    tally = Tally()
    for use, weight in people:
        tally.move(use_nanocredits=use, weight=weight, sign=1)
    return tally


def assert_same(found: Tally, expected: Tally) -> None:
    """Counts, weights and whole uses to the last; sums of doubles to their rounding."""
    found, expected = found.sound(), expected.sound()
    assert {k: (b.count, b.weight, b.use_nanocredits) for k, b in found.buckets.items()} == {
        k: (b.count, b.weight, b.use_nanocredits) for k, b in expected.buckets.items()
    }
    for name in ("log", "root", "square", "concentration"):
        largest = max(getattr(expected, name), 2.0**53 if name == "root" else 2.0**106)
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=largest * 1e-9), name


@given(st.floats(min_value=1e-9, max_value=2.0**53))
def test_a_bucket_holds_what_is_from_its_lower_bound_to_below_its_upper(use_per_weight: float) -> None:
    """Up to the last digits of a double at the bounds, which are no doubles themselves."""
    least, most = bucket_bounds(bucket_of(use_per_weight))
    assert least * (1 - 1e-12) <= use_per_weight < most * (1 + 1e-12)
    assert most / least == pytest.approx(RATIO)


@given(st.integers(-1000, 1000), st.integers(0, 40))
def test_a_half_life_is_a_whole_number_of_buckets(bucket: int, half_lives: int) -> None:
    """Ageing never has to look at a person: bounds fall on bounds."""
    assert bucket_bounds(bucket)[0] / 2**half_lives == bucket_bounds(bucket - BUCKETS_PER_DOUBLING * half_lives)[0]


@given(PEOPLE, PEOPLE)
def test_adding_two_tallies_is_the_tally_of_both_peoples(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    """Shards and workers each know a part."""
    whole = tally_of(some)
    whole.add(tally_of(others))
    assert_same(whole, tally_of(some + others))


@given(PEOPLE, st.data())
def test_moves_told_apart_from_the_tally_lead_to_where_people_end(people: list[tuple[int, int]], data: st.DataObject) -> None:
    """A person is taken out where it was and put in where it is; the moves alone may count below zero, with the tally they do not."""
    begun = tally_of(people)
    moves = [Tally(), Tally()]
    ended = []
    for use, weight in people:
        later = use + data.draw(st.integers(0, 2**40)), data.draw(WEIGHTS)
        into = data.draw(st.sampled_from(moves))
        into.move(use_nanocredits=use, weight=weight, sign=-1)
        into.move(use_nanocredits=later[0], weight=later[1], sign=1)
        ended.append(later)
    for part in moves:
        begun.add(part)
    assert_same(begun, tally_of(ended))


@given(PEOPLE)
def test_everyone_taken_out_leaves_nothing(people: list[tuple[int, int]]) -> None:
    """No bucket stays behind with nobody in it, and no sum goes below zero."""
    tally = tally_of(people)
    for use, weight in reversed(people):
        tally.move(use_nanocredits=use, weight=weight, sign=-1)
    left = tally.sound()
    assert left.buckets == {}
    assert min(left.root, left.square, left.concentration) >= 0


@given(st.lists(st.tuples(st.integers(2**20, 2**53 - 1), st.integers(1, 1000)), min_size=1, max_size=12), st.integers(0, 20))
def test_an_aged_tally_is_the_tally_of_what_is_left_of_everybodys_use(people: list[tuple[int, int]], half_lives: int) -> None:
    """All sums follow from the old ones; a power of two changes no digit of a use."""
    aged = tally_of(people).aged(half_lives)
    expected = Tally()
    for use, weight in people:
        expected.move(use_nanocredits=math.ldexp(use, -half_lives), weight=weight, sign=1)
    assert aged.people == expected.people
    assert aged.use_nanocredits == expected.use_nanocredits
    for name in ("log", "root", "square", "concentration"):
        assert getattr(aged, name) == pytest.approx(getattr(expected, name), rel=1e-9), name


def test_whoever_has_no_use_stands_in_no_bucket() -> None:
    """The population knows of them."""
    tally = Tally()
    tally.move(use_nanocredits=0, weight=3, sign=1)
    assert tally == Tally()
    assert Population(2, 5) + Population(1, 3) == Population(3, 8)
