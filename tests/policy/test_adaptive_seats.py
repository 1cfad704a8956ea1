"""The number of seats of an upstream that does not say how many it has: it is found, kept, and found again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from proxy.policy.adaptive_seats import BLOCK_MIN, CUT_PERCENT, LOOK_MOVES, QUIET_ANSWERS, AdaptiveSeats, Found, Move, moved
from tests.support.simulated_seats import FOREVER, Simulated, Stall

SEEDS = range(3)
BUSY_LEAST = 0.75
"""Of an upstream's capacity, where requests differ or it never queues; there is no telling its capacity exactly."""


def even(seconds: float) -> Callable[[random.Random], float]:
    return lambda rng: seconds * rng.uniform(0.95, 1.05)


def uneven(seconds: float, *, variation: float) -> Callable[[random.Random], float]:
    """Services of which many are short and a few very long, as answers of models are; `variation`: their deviation by their mean."""
    sigma = math.sqrt(math.log(1 + variation**2))
    return lambda rng: rng.lognormvariate(math.log(seconds) - sigma**2 / 2, sigma)


# --- in time --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("service_s", [0.01, 0.1])
@pytest.mark.parametrize("waits", [0, 2])
def test_an_upstream_that_refuses_is_kept_busy_and_refuses_next_to_nothing(waits: int, service_s: float, seed: int) -> None:
    """Whether it refuses at once or queues a little first, and however quick it is; also soon after it can do less, and more again."""
    world = Simulated(seed=seed, capacity=8, waits=waits * 8, service_s=even(service_s))
    for capacity in (8, 3, 12):
        world.capacity, world.waits = capacity, waits * capacity
        world.run(60 * service_s)
        seen = world.run(400 * service_s)
        assert seen.refused <= 0.03 * seen.served + 2
        if service_s == 0.1:  # where ways take as long as services, seats are no measure of what it has
            assert seen.busy >= BUSY_LEAST * capacity
            assert seen.seats <= (2.5 if waits else 1.2) * capacity


@pytest.mark.parametrize("seed", SEEDS)
def test_an_upstream_that_queues_all_is_not_given_more_and_more(seed: int) -> None:
    """Even from the first request on it had more than it could serve, so that nobody has ever seen how quick it is."""
    world = Simulated(seed=seed, capacity=4, waits=FOREVER, service_s=even(0.1), people=200)
    for capacity in (4, 20, 5):
        world.capacity = capacity
        world.run(60)
        seen = world.run(60)
        assert seen.busy >= 0.9 * capacity
        assert seen.seats <= 2.2 * capacity


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("capacity", [8, 30])
def test_requests_that_differ_are_no_queue(capacity: int, seed: int) -> None:
    """Most answers come later than the quickest, and nothing waits."""
    world = Simulated(seed=seed, capacity=capacity, waits=FOREVER, service_s=uneven(0.1, variation=1), people=200)
    world.run(60)
    seen = world.run(60)
    assert seen.busy >= BUSY_LEAST * capacity
    assert seen.seats <= 2 * capacity


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_that_begin_at_once_and_last_long_keep_it_busy(seed: int) -> None:
    """What waits for a service is late by a whole stream, so one seat too many shows; nearly all of them are kept nevertheless."""
    world = Simulated(seed=seed, capacity=16, waits=FOREVER, service_s=uneven(10, variation=0.7), begins=0.02, people=100)
    world.run(600)
    seen = world.run(600)
    assert seen.busy >= 0.8 * 16
    assert seen.seats <= 1.3 * 16


@pytest.mark.parametrize("seed", SEEDS)
def test_a_delay_that_is_not_the_upstreams_takes_no_seats_away_for_good(seed: int) -> None:
    """Every answer comes three times as late from now on, however few requests there are: then fewer seats do no good, and come back."""
    world = Simulated(seed=seed, capacity=8, waits=FOREVER, service_s=even(0.1), people=100)
    world.run(20)
    world.hop_s = lambda rng: rng.uniform(0.101, 0.104)
    world.run(20)
    assert world.run(40).busy >= 0.85 * 8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_stalls_again_and_again_neither_starves_the_upstream_nor_floods_it(seed: int) -> None:
    """Answers that it saw late were not all late; while it stalls its own seats stand idle, which nobody can help."""
    rng, stalls, at_s = random.Random(seed), [], 0.0
    while at_s < 120:
        at_s += rng.expovariate(1 / 3)
        stalls.append(Stall(rng.randrange(2), at_s, at_s + rng.uniform(0.1, 0.5)))
        at_s = stalls[-1].ends_s
    world = Simulated(seed=seed, capacity=8, waits=16, service_s=even(0.1), stalls=stalls)
    world.run(20)
    seen = world.run(100)
    assert seen.busy >= 0.7 * 8
    assert seen.seats <= 2.5 * 8
    assert seen.refused <= 0.03 * seen.served


@pytest.mark.parametrize("seed", SEEDS)
def test_failures_that_have_nothing_to_do_with_seats_do_not_starve_it(seed: int) -> None:
    """One request in five hundred fails, whatever the number of seats."""
    world = Simulated(seed=seed, capacity=30, waits=FOREVER, service_s=even(0.1), fails=0.002, people=200)
    world.run(60)
    assert world.run(60).busy >= 0.85 * 30


# --- what a pool makes of a move -------------------------------------------------------------------------------------------------------


def after(found: Found, move: Move, *, now_s: float, least: int = 1, most: int = 500) -> Found:
    return moved(found, move, least=least, most=most, now_ms=round(now_s * 1000), sent_ms=round(move.sent_s * 1000))


LOOKED = 10**6
"""Answers after which it is to be seen next how quick the upstream is: not in these tests."""


def test_the_first_no_takes_one_seat_and_the_next_takes_many() -> None:
    """The first may just have been one request too many; refusals of requests that were sent before the cut say nothing new."""
    once = after(Found(20, look_after=LOOKED), Move(1.0, is_no=True), now_s=1.01)
    assert once.seats == 19
    assert after(once, Move(1.005, is_no=True), now_s=1.02) == once
    assert after(once, Move(1.02, is_no=True), now_s=1.03).seats == 19 * CUT_PERCENT // 100


def test_as_many_seats_as_were_too_many_are_not_tried_again_soon() -> None:
    """Only after a hundred answers without a no."""
    found = after(Found(5, look_after=LOOKED), Move(1.0, is_no=True), now_s=1.01)
    for answers in range(10, QUIET_ANSWERS, 10):
        found = after(found, Move(2.0, answers=10), now_s=3.0)
        assert (found.seats, found.quiet) == (4, answers)
    assert after(found, Move(2.0, answers=10), now_s=3.0).seats == 5


def test_now_and_then_half_the_seats_show_how_quick_it_can_be() -> None:
    """For a few blocks of answers; then the seats come back."""
    found = after(Found(21), Move(1.0, answers=21), now_s=1.5)
    assert found.seats == 11
    for _ in range(LOOK_MOVES - 1):
        found = after(found, Move(2.0, answers=11), now_s=3.0)
        assert found.seats == 11
    assert after(found, Move(2.0, answers=11), now_s=3.0).seats == 21


def test_the_bounds_hold_whatever_moves() -> None:
    assert after(Found(4, look_after=LOOKED), Move(1.0, answers=9), now_s=2.0, most=4).seats == 4
    assert after(Found(4), Move(1.0, is_no=True), now_s=2.0, least=4).seats == 4
    assert after(Found(4), Move(1.0, back_to=90), now_s=2.0, most=80).seats == 80


# --- what a process makes of its answers -----------------------------------------------------------------------------------------------


def block(adaptive: AdaptiveSeats, first_byte_s: float, *, status: int = 200, is_wanted: bool = True, sent_s: float = 1.0) -> Move | None:
    """What comes of a block of answers that are all alike."""
    moves = [
        adaptive.observe(status, first_byte_s, sent_s=sent_s, taken_s=first_byte_s, is_wanted=is_wanted)
        for _ in range(max(BLOCK_MIN, adaptive.seats))
    ]
    assert not any(moves[:-1])
    return moves[-1]


@pytest.mark.parametrize("status", [429, 503, 529, None])
def test_a_no_is_passed_on_at_once(status: int | None) -> None:
    """Whatever form it has: too many requests, overloaded, or no answer at all."""
    move = AdaptiveSeats(10).observe(status, 0.1, sent_s=1.0, taken_s=1.0, is_wanted=False)
    assert move == Move(1.0, is_no=True)


def test_nothing_grows_that_nobody_wants() -> None:
    """While no one waits, success says nothing about how many more there could be."""
    assert block(AdaptiveSeats(20), 0.1, is_wanted=False) is None


@pytest.mark.parametrize(("seats", "answers"), [(3, 8), (20, 20)])
def test_one_more_after_as_many_answers_as_there_are_seats(seats: int, answers: int) -> None:
    """So the number grows by one in about the time that one request takes, however many there are; of few after eight answers."""
    assert block(AdaptiveSeats(seats), 0.1) == Move(1.0, answers=answers)


def test_late_answers_leave_what_would_not_queue() -> None:
    """Of answers that take three times as long as they need, two parts are a queue; a little more goes, so that it shows."""
    adaptive = AdaptiveSeats(10)
    block(adaptive, 0.1)
    move = block(adaptive, 0.25)
    assert move is not None
    assert move.percent == pytest.approx(100 * 0.8 * 0.1 / 0.25, abs=4)


def test_one_answer_that_was_met_by_a_stall_makes_no_queue_of_the_others() -> None:
    """Their mean is as late as if all had queued; how much they differ shows that they did not."""
    adaptive = AdaptiveSeats(10)
    block(adaptive, 0.1)
    moves = [adaptive.observe(200, late_s, sent_s=1.0, taken_s=late_s, is_wanted=True) for late_s in (*[0.1] * 9, 2.0)]
    assert moves[-1] == Move(1.0, answers=10)


def test_fewer_seats_that_make_it_no_quicker_come_back() -> None:
    """Then it was no queue; and such answers are late no more."""
    adaptive = AdaptiveSeats(10)
    block(adaptive, 0.1)
    first = block(adaptive, 0.3)
    assert first is not None
    assert first.percent < 100
    adaptive.told(5, cut_s=2.0)
    assert block(adaptive, 0.3, sent_s=3.0) == Move(3.0, back_to=10)
    assert block(adaptive, 0.3, sent_s=3.0) == Move(3.0, answers=8)


def test_an_error_is_not_a_quick_answer() -> None:
    """A request at fault is refused sooner than any is served, and makes the others no later."""
    adaptive = AdaptiveSeats(8)
    for _ in range(50):
        assert adaptive.observe(400, 0.001, sent_s=1.0, taken_s=0.1, is_wanted=True) is None
    assert block(adaptive, 0.1) == Move(1.0, answers=8)


def test_what_was_sent_before_a_cut_counts_for_nothing() -> None:
    adaptive = AdaptiveSeats(8)
    adaptive.told(8, cut_s=5.0)
    assert block(adaptive, 0.1, sent_s=4.0) is None
    assert block(adaptive, 0.1, sent_s=6.0) == Move(6.0, answers=8)
