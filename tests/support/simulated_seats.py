"""A pool whose seats adapt, before an upstream of known capacity, on a simulated clock: the rule alone, with all that makes time noisy.

People ask again and again through several workers; each worker sees its own answers, late by what the network and the worker itself take.
Every run with the same arguments is the same.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.policy.adaptive_seats import AdaptiveSeats, Found, Move, moved

FOREVER = 10**9
SEATS_AT_FIRST = 16
NEVER = -math.inf


@dataclass(frozen=True)
class Stall:
    """A worker that does nothing for a while; what comes meanwhile it sees thereafter."""

    worker: int
    begins_s: float
    ends_s: float


@dataclass(frozen=True)
class Seen:
    """A stretch of time, as the upstream and the pool saw it."""

    served: int
    refused: int
    busy: float
    """How many it served at a time, in the mean."""
    seats: float
    """In the mean."""


@dataclass(frozen=True)
class _Job:
    worker: int
    seated_s: float
    asked_s: float


class Simulated:
    """`waits`: how many may wait at the upstream. `begins`: the part of a service after which its answer begins. `hop_s`: what each way
    takes that is not the upstream's. `fails`: the share of requests that it refuses whatever it has to do."""

    def __init__(
        self,
        *,
        seed: int,
        capacity: int,
        waits: int,
        service_s: Callable[[random.Random], float],
        people: int = 60,
        workers: int = 2,
        begins: float = 1.0,
        hop_s: Callable[[random.Random], float] = lambda rng: rng.uniform(0.001, 0.004),
        stalls: Sequence[Stall] = (),
        fails: float = 0.0,
    ) -> None:
        self.capacity, self.waits, self.hop_s, self.seats = capacity, waits, hop_s, Found(SEATS_AT_FIRST)
        self.now_s = 0.0
        self._rng = random.Random(seed)
        self._service_s, self._begins, self._stalls, self._fails = service_s, begins, stalls, fails
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._events = 0
        self._workers = [AdaptiveSeats(SEATS_AT_FIRST) for _ in range(workers)]
        self._used, self._serving = 0, 0
        self._wait_for_seats: deque[int] = deque()
        self._wait_at_upstream: deque[_Job] = deque()
        self._served = self._refused = 0
        self._taken_s = 1.0
        for _ in range(people):
            self._in(self._rng.uniform(0, 0.01), self._ask)

    def run(self, seconds: float) -> Seen:
        """Let so much time pass."""
        until_s, served, refused = self.now_s + seconds, self._served, self._refused
        busy_s = seats_s = 0.0
        while self._due and self._due[0][0] <= until_s:
            at_s, _, happens = heapq.heappop(self._due)
            busy_s += self._serving * (at_s - self.now_s)
            seats_s += self.seats.seats * (at_s - self.now_s)
            self.now_s = at_s
            happens()
        self.now_s = until_s
        return Seen(self._served - served, self._refused - refused, busy_s / seconds, seats_s / seconds)

    def _in(self, seconds: float, happens: Callable[[], None]) -> None:
        self._events += 1
        heapq.heappush(self._due, (self.now_s + seconds, self._events, happens))

    def _reach(self, worker: int, happens: Callable[[], None]) -> None:
        """On the way to a worker, which looks once it does anything at all."""

        def arrive() -> None:
            ends_s = [stall.ends_s for stall in self._stalls if stall.worker == worker and stall.begins_s <= self.now_s < stall.ends_s]
            if ends_s:
                self._in(max(ends_s) - self.now_s, arrive)
            else:
                happens()

        self._in(self.hop_s(self._rng), arrive)

    def _ask(self) -> None:
        self._wait_for_seats.append(self._rng.randrange(len(self._workers)))
        self._give()

    def _give(self) -> None:
        while self._used < self.seats.seats and self._wait_for_seats:
            self._used += 1
            worker, seated_s = self._wait_for_seats.popleft(), self.now_s
            self._reach(worker, lambda worker=worker, seated_s=seated_s: self._send(worker, seated_s))

    def _send(self, worker: int, seated_s: float) -> None:
        job = _Job(worker, seated_s, self.now_s)
        self._in(self.hop_s(self._rng), lambda: self._arrive(job))

    def _arrive(self, job: _Job) -> None:
        is_full = self._serving >= self.capacity and len(self._wait_at_upstream) >= self.waits
        if is_full or self._rng.random() < self._fails:
            self._refused += 1
            self._reach(job.worker, lambda: self._end(job, 429))
            return
        self._wait_at_upstream.append(job)
        self._serve()

    def _serve(self) -> None:
        while self._wait_at_upstream and self._serving < self.capacity:
            self._serving += 1
            job, service_s = self._wait_at_upstream.popleft(), self._service_s(self._rng)
            if self._begins < 1:
                self._in(self._begins * service_s, lambda job=job: self._reach(job.worker, lambda: self._hear(job, 200)))
            self._in(service_s, lambda job=job: self._finish(job))

    def _finish(self, job: _Job) -> None:
        self._serving -= 1
        self._served += 1
        self._serve()
        self._reach(job.worker, lambda: self._end(job, 200))

    def _end(self, job: _Job, status: int) -> None:
        if status != 200 or self._begins == 1:
            self._hear(job, status)
        self._taken_s += 0.1 * (self.now_s - job.seated_s - self._taken_s)
        self._in(0.0005, self._leave)
        self._in(0.002 if status == 200 else 0.05, self._ask)

    def _leave(self) -> None:
        self._used -= 1
        self._give()

    def _hear(self, job: _Job, status: int) -> None:
        worker = self._workers[job.worker]
        move = worker.observe(
            status,
            self.now_s - job.asked_s,
            sent_s=job.asked_s,
            taken_s=self._taken_s,
            is_wanted=bool(self._wait_for_seats),
        )
        if move is not None:
            self._in(0.0005, lambda: self._adapt(worker, move))

    def _adapt(self, worker: AdaptiveSeats, move: Move) -> None:
        now_ms, sent_ms = int(self.now_s * 1000) + 1, int(move.sent_s * 1000) + 1
        self.seats = moved(self.seats, move, least=1, most=256, now_ms=now_ms, sent_ms=sent_ms)
        worker.told(self.seats.seats, cut_s=self.seats.cut_ms / 1000 if self.seats.cut_ms else NEVER)
        self._give()
