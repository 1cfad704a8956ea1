"""The number of seats of an upstream that does not say how many it has: it is found, kept, and found again."""

from __future__ import annotations

import random

import pytest

from proxy.policy.adaptive_seats import CUT_PERCENT, EASE_PERCENT, LATE_MAX, AdaptiveSeats, Move


def applied(seats: int, move: Move | None, *, least: int = 1, most: int = 500) -> int:
    if move is None:
        return seats
    return max(least, min(most, seats * move.percent // 100 + move.more))


def settled(capacity: int, *, says_no: bool, rounds: int = 30_000, seed: int = 7) -> list[int]:
    """The seats over time at an upstream that serves so many at once: beyond that it says no, or lets the rest wait."""
    rng = random.Random(seed)
    adaptive, seats, seen = AdaptiveSeats(4), 4, []
    for _ in range(rounds):
        adaptive.seats = seats
        over = seats > capacity and rng.random() < (seats - capacity) / seats
        status = 429 if over and says_no else 200
        waited = max(1.0, seats / capacity) ** 3 if not says_no else 1.0
        seats = applied(seats, adaptive.observe(status, 0.1 * waited * rng.uniform(0.95, 1.05), is_wanted=True))
        seen.append(seats)
    return seen


@pytest.mark.parametrize("says_no", [True, False])
@pytest.mark.parametrize("capacity", [5, 20, 80])
def test_the_upstreams_capacity_is_found_and_kept(capacity: int, says_no: bool) -> None:
    """By its refusals or by how late it answers: most of the time near what it can do, seldom far below or above."""
    late = settled(capacity, says_no=says_no)[15_000:]
    assert 0.7 * capacity <= sum(late) / len(late) <= 1.5 * capacity
    assert max(late) <= 2 * capacity + 2


def test_a_no_cuts_at_once() -> None:
    """Whatever form it has: too many requests, overloaded, or no answer at all."""
    for status in (429, 503, 529, None):
        assert AdaptiveSeats(10).observe(status, 0.1, is_wanted=False) == Move(percent=CUT_PERCENT)


def test_nothing_grows_that_nobody_wants() -> None:
    """While no one waits, success says nothing about how many more there could be."""
    adaptive = AdaptiveSeats(2)
    assert all(adaptive.observe(200, 0.1, is_wanted=False) is None for _ in range(100))


def test_one_more_after_as_many_answers_as_there_are_seats() -> None:
    """So the number grows by one in about the time that one request takes, however many there are."""
    adaptive = AdaptiveSeats(3)
    assert [adaptive.observe(200, 0.1, is_wanted=True) for _ in range(6)] == [None, None, Move(more=1)] * 2


def test_one_late_answer_is_no_queue() -> None:
    """Only several in a row are, for a single request may just be long to read."""
    adaptive = AdaptiveSeats(3)
    adaptive.observe(200, 0.1, is_wanted=True)
    moves = [adaptive.observe(200, 0.5, is_wanted=True) for _ in range(LATE_MAX)]
    assert moves == [None] * (LATE_MAX - 1) + [Move(percent=EASE_PERCENT)]


def test_an_upstream_that_has_become_slower_for_good_is_not_starved() -> None:
    """In time its new pace counts as the quickest, and seats grow again."""
    adaptive = AdaptiveSeats(5)
    for _ in range(50):
        adaptive.observe(200, 0.1, is_wanted=True)
    moves = [adaptive.observe(200, 0.3, is_wanted=True) for _ in range(1500)]
    assert any(move == Move(more=1) for move in moves[1000:])
