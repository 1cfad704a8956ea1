"""Seats that a worker gives by itself while the ledger is away, no more than its part of them, and by the same rule.

For `on_failure = "allow"` only. The workers that were there when the ledger was last heard divide the seats among themselves, so together
they give no more than there are, beside those that had been given before. The ledger hears of these seats once it is back. Must not know
what a request costs, nor HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from proxy.policy.fair_share import Claim, FairPool, Place, Step

LEASE_MS = 10_000


class Alone:
    """The pools of one worker without a ledger; `on_seated` hears of every seat that is given, by pool and ticket."""

    def __init__(self, on_seated: Callable[[str, str], None]) -> None:
        self.is_allowed = False
        self._on_seated = on_seated
        self._number = self._workers = 0
        self._pools: dict[str, FairPool] = {}

    def part_is(self, number: int, workers: int) -> None:
        """This worker is the one of that number, from 0, among so many."""
        self._number, self._workers = number, workers

    def part(self, seats: int) -> int:
        """How many of so many seats are this worker's to give; none before it has heard of the others."""
        if not (self.is_allowed and self._workers):
            return 0
        return seats // self._workers + (self._number < seats % self._workers)

    def enter(self, pool: str, claim: Claim, *, seats: int, depth: int, taken: int) -> bool:
        """Give a request a seat, or let it wait for one; whether it may. `taken`: how many this worker's requests have of the ledger."""
        part = self.part(seats)
        if part == 0 or claim.spare:
            return False
        mine = self._pools.setdefault(pool, FairPool(0, depth=depth, lease_ms=LEASE_MS))
        mine.depth = depth
        self._told(pool, mine.set_seats(max(0, part - taken), now_ms=_now_ms()))
        return self._told(pool, mine.enter(claim, now_ms=_now_ms())).place not in (Place.REFUSED, Place.GONE)

    def has(self, pool: str, ticket: str) -> bool:
        """Whether a request waits here, or has a seat from here."""
        return pool in self._pools and ticket in self._pools[pool].tickets

    def leave(self, pool: str, ticket: str, *, seats: int, taken: int) -> None:
        """A request has ended, whoever gave it its seat: that goes to the next."""
        mine = self._pools.get(pool)
        if mine is not None:
            self._told(pool, mine.leave(ticket, now_ms=_now_ms()))
            self._told(pool, mine.set_seats(max(0, self.part(seats) - taken), now_ms=_now_ms()))

    def beat(self, pool: str, tickets: Iterable[str]) -> None:
        """These requests are still there. Every second or so."""
        if (mine := self._pools.get(pool)) is not None:
            self._told(pool, mine.heartbeat(tickets, now_ms=_now_ms()))

    def end(self) -> None:
        """The ledger is back and has heard of everything: from now on seats are its own to give."""
        self._pools.clear()

    def _told(self, pool: str, step: Step) -> Step:
        for ticket in step.seated:
            self._on_seated(pool, ticket)
        return step


def _now_ms() -> int:
    return int(time.monotonic() * 1000)
