"""How many seats an upstream has that does not say: more while it keeps up, fewer when it says no or begins to queue.

Additive increase, multiplicative decrease, as TCP finds its share of a line (Chiu and Jain, 1989); what shows a queue is that answers begin
later, as in TCP Vegas, and by Little's law how late says how long it is. Each process judges what its own requests met (`AdaptiveSeats`)
and says how the shared number should move; the pool decides what becomes of it (`moved`, as `lua/pool_adapt.lua` does). Knows no clock.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from proxy.frozen import dataclass

SAID_NO: Final = frozenset({429, 503, 529})
CUT_PERCENT: Final = 70
"""What is left of the seats after the upstream said no twice in a short while: halving would leave an upstream idle that only wants a
little less. After the first time one seat less may do."""
AGAIN_ANSWERS: Final = 5
"""A short while: fewer answers than these came between the two."""
QUIET_ANSWERS: Final = 100
"""So many answers must come before as many seats are tried again as were too many: of an upstream that never queues, only refuses, one
answer in a hundred is a refusal then."""
LOOK_TURNS: Final = 100
"""After so many answers for each seat it is seen how quick the upstream is with half of them, unless it was seen meanwhile."""
LOOK_MOVES: Final = 3
"""For so many blocks of answers."""
BLOCK_MIN: Final = 8
"""Answers that are judged together are as many as there are seats, and at least so many."""
QUEUEING: Final = 2.0
"""Answers that begin so many times later than they can are queued for."""
LATE_DOUBTS: Final = 2
"""By so many standard errors their mean must be beyond that: requests differ, and some are met by a stall."""
EASE: Final = 0.8
"""How much is left of the seats that would keep the upstream busy without a queue: a little less, so that in between there is none, and
how quick it can be is seen again, even where that was never seen before."""
EASE_LEAST_PERCENT: Final = 35
"""What one cut for lateness leaves at least: it may have been a stall."""
FORGET: Final = 1.05
"""With each such cut what the upstream can do is taken for a little slower: it may have become so for good."""


@dataclass(frozen=True, slots=True)
class Move:
    """How the number of seats should change, by requests of which the first was sent at `sent_s`: `answers` kept up, so one is added; or it
    is cut to `percent` of what it is; or a cut that did no good is taken back, to `back_to`."""

    sent_s: float
    answers: int = 0
    percent: int = 100
    is_no: bool = False
    """Whether it is cut because the upstream said no."""
    back_to: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a pool has found out about its upstream: the number of seats, and how it came to be."""

    seats: int
    cut_ms: int = 0
    """When it was last cut."""
    refused_at: int = 0
    """How many requests it had when it last said no; 0 once that is long ago."""
    quiet: int = 0
    """Answers since then."""
    look_after: int = 0
    """Answers that are still to come until it is seen how quick the upstream is with half the seats."""
    looking: int = 0
    """Blocks of answers for which that is still to be seen."""
    look_from: int = 0
    """The seats before."""


def moved(found: Found, move: Move, *, least: int, most: int, now_ms: int, sent_ms: int) -> Found:
    """What follows from one process's move; `sent_ms`: its time by the pool's clock.

    Requests that were sent before the last cut say nothing of what came of it. So several that are refused together cut once, and those
    that are refused thereafter cut again, however soon.
    """
    is_new = sent_ms > found.cut_ms
    if move.answers and not move.is_no:
        after = _kept_up(found, move.answers, is_new=is_new, now_ms=now_ms)
    elif not is_new:
        return found
    elif move.back_to:
        after = replace(found, seats=max(found.seats, move.back_to))
    elif move.is_no:
        is_first = not found.refused_at or found.quiet + move.answers >= AGAIN_ANSWERS
        seats = found.seats - 1 if is_first else found.seats * CUT_PERCENT // 100
        after = replace(found, seats=seats, cut_ms=now_ms, refused_at=found.seats, quiet=0, looking=0)
    else:
        seats = found.seats * move.percent // 100
        after = replace(found, seats=seats, cut_ms=now_ms, look_after=_look_after(found), looking=0)
    return replace(after, seats=max(least, min(most, after.seats)))


def _kept_up(found: Found, answers: int, *, is_new: bool, now_ms: int) -> Found:
    """Of a pool whose upstream keeps up: one seat more; none where so many were too many a short while ago, nor while it is looked."""
    quiet = found.quiet + answers if found.refused_at else 0
    refused_at = found.refused_at if quiet < QUIET_ANSWERS else 0
    found = replace(found, refused_at=refused_at, quiet=quiet if refused_at else 0)
    if found.looking:
        looking = found.looking - is_new
        return replace(found, looking=looking, seats=found.seats if looking else max(found.seats, found.look_from))
    if found.look_after <= answers and found.seats > 1:
        half = found.seats - found.seats // 2
        return replace(found, seats=half, cut_ms=now_ms, look_after=_look_after(found), looking=LOOK_MOVES, look_from=found.seats)
    seats = found.seats + 1 if not refused_at or found.seats + 1 < refused_at else found.seats
    return replace(found, seats=seats, look_after=max(0, found.look_after - answers))


def _look_after(found: Found) -> int:
    return LOOK_TURNS * max(BLOCK_MIN, found.seats)


@dataclass(frozen=True, slots=True)
class _Late:
    """A block of answers that were late, and how many seats there were."""

    mean_s: float
    seats: int


class AdaptiveSeats:
    """What one process has seen of one upstream since its last move."""

    __slots__ = ("_began_s", "_cut_s", "_eased_from", "_late", "_quick_s", "_squares", "_sum_s", "_taken", "seats")

    def __init__(self, seats: int) -> None:
        self.seats = seats
        """As the pool last said."""
        self._cut_s = -math.inf
        self._quick_s = math.inf
        """How soon answers begin where nothing queues, in the mean, as far as is known."""
        self._late: _Late | None = None
        """The block before, if it was late."""
        self._eased_from = 0
        """The seats before the first of the cuts for lateness that followed each other."""
        self._taken = 0
        self._sum_s = self._squares = 0.0
        self._began_s = math.inf

    def told(self, seats: int, *, cut_s: float) -> None:
        """The pool has so many seats, and was last cut at this time."""
        self.seats = seats
        self._cut_s = max(self._cut_s, cut_s)
        if self._began_s <= cut_s:
            self._begin()

    def observe(self, status: int | None, first_byte_s: float, *, sent_s: float, taken_s: float, is_wanted: bool) -> Move | None:
        """What follows from one answer: its status (None: there was none), when it was asked for and how long it took to begin.

        `taken_s`: for how long a request takes its seat, in the mean. `is_wanted`: whether anybody waits for a seat, for without need no
        number of seats is too small.
        """
        if status is None or status in SAID_NO:
            answers = self._taken
            self._begin()
            self._late = None
            return Move(sent_s, answers=answers, is_no=True)
        if not 200 <= status <= 299 or sent_s <= self._cut_s:
            return None  # a request that was at fault is answered sooner than any that is served
        self._taken += 1
        self._sum_s += first_byte_s
        self._squares += first_byte_s**2
        self._began_s = min(self._began_s, sent_s)
        return self._judged(taken_s, is_wanted=is_wanted) if self._taken >= max(BLOCK_MIN, self.seats) else None

    def _begin(self) -> None:
        self._taken = 0
        self._sum_s = self._squares = 0.0
        self._began_s = math.inf

    def _judged(self, taken_s: float, *, is_wanted: bool) -> Move | None:
        """What a whole block says. Requests differ: what chance may have done to the mean shall neither make a queue nor hide that there
        is none."""
        answers, began_s, mean_s = self._taken, self._began_s, self._sum_s / self._taken
        doubt_s = math.sqrt(max(0.0, self._squares / answers - mean_s**2) / (answers - 1))
        self._begin()
        self._quick_s = min(self._quick_s, mean_s + doubt_s)
        before, self._late = self._late, None
        if not is_wanted:
            return None
        if mean_s - LATE_DOUBTS * doubt_s <= QUEUEING * self._quick_s:
            return Move(began_s, answers=answers)
        if before is not None and mean_s > before.mean_s * (1 + self.seats / before.seats) / 2:
            self._quick_s = mean_s + doubt_s  # fewer seats made it no quicker, so nothing queued for them
            return Move(began_s, back_to=self._eased_from)
        if before is None:
            self._eased_from = self.seats
        self._late = _Late(mean_s, self.seats)
        without_queue = 1 - (mean_s - doubt_s - self._quick_s) / max(taken_s, mean_s)
        self._quick_s *= FORGET
        return Move(began_s, percent=max(EASE_LEAST_PERCENT, int(100 * EASE * without_queue)))
