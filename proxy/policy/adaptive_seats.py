"""How many seats an upstream has that does not say: more while it keeps up, fewer when it says no or begins to queue.

Additive increase, multiplicative decrease, as TCP finds its share of a line (Chiu and Jain, 1989); growing waits count as a sign of a
queue, as in TCP Vegas. Each process observes its own requests and says by how much the shared number should move. Knows no pool, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SAID_NO: Final = frozenset({429, 503, 529})
CUT_PERCENT: Final = 70
"""What is left of the seats after the upstream said no: halving would leave an upstream idle that only wants a little less."""
EASE_PERCENT: Final = 75
"""What is left when answers begin so late that the upstream must be queueing: little enough that the queue goes away, and with it any
doubt about how quick the upstream can be."""
QUEUEING: Final = 2.0
"""An answer that begins so many times later than the quickest lately is one that waited."""
FORGET: Final = 1.05
"""With each such cut the quickest is taken for a little slower: an upstream may have become slower for good."""
LATE_MAX: Final = 8
"""So many late answers in a row make a queue; one may just be long to read."""


@dataclass(frozen=True, slots=True)
class Move:
    """How the number of seats should change: `more` are added, or it is cut to `percent` of what it is."""

    more: int = 0
    percent: int = 100


class AdaptiveSeats:
    """What one process has seen of one upstream since its last move."""

    __slots__ = ("_kept_up", "_late", "_quickest_s", "seats")

    def __init__(self, seats: int) -> None:
        self.seats = seats
        """As the pool last said."""
        self._kept_up = 0
        self._late = 0
        self._quickest_s: float | None = None

    def observe(self, status: int | None, first_byte_s: float, *, is_wanted: bool) -> Move | None:
        """What follows from one answer: its status (None: there was none) and how long it took to begin.

        `is_wanted`: whether anybody waits for a seat, for without need no number of seats is too small.
        """
        if status is None or status in SAID_NO:
            return self._moved(Move(percent=CUT_PERCENT))
        quickest_s = first_byte_s if self._quickest_s is None else min(self._quickest_s, first_byte_s)
        self._quickest_s = quickest_s
        self._late = self._late + 1 if first_byte_s > QUEUEING * quickest_s else 0
        if self._late >= LATE_MAX:
            self._quickest_s = quickest_s * FORGET
            return self._moved(Move(percent=EASE_PERCENT))
        if not is_wanted or self._late:
            return None
        self._kept_up += 1
        return self._moved(Move(more=1)) if self._kept_up >= self.seats else None

    def _moved(self, move: Move) -> Move:
        self._kept_up = self._late = 0
        return move
