"""Ways of sharing a server's seats: the pool's fair share, and those that are usual: first come, taking turns, requests per minute.

Each decides who is seated when a request arrives and when one ends. Time is an argument.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

from proxy.policy.estimates import Estimates
from proxy.policy.fair_share import Claim, FairPool, Place
from proxy.policy.shares import Group
from proxy.simulation.fair_share.workloads import INPUT_COST, OUTPUT_COST, Request, Workload

MINUTE_S = 60.0


class Policy(Protocol):
    """Who is seated when. `waiting` counts each client's requests in line; nobody outside changes it."""

    waiting: Counter[str]

    def arrive(self, request: Request, now_s: float) -> Sequence[Request]:
        """The requests that are seated now."""

    def progress(self, request: Request, cost: int, now_s: float) -> None:
        """What a running request has cost so far."""

    def finish(self, request: Request, now_s: float) -> Sequence[Request]:
        """The requests that are seated now that this one has ended."""


class FirstCome:
    """One line for all."""

    def __init__(self, workload: Workload, seats: int) -> None:
        self.waiting: Counter[str] = Counter()
        self._free = seats
        self._line: deque[Request] = deque()

    def arrive(self, request: Request, now_s: float) -> Sequence[Request]:
        self._line.append(request)
        self.waiting[request.client] += 1
        return self._seat()

    def progress(self, request: Request, cost: int, now_s: float) -> None:
        """Costs change nothing."""

    def finish(self, request: Request, now_s: float) -> Sequence[Request]:
        self._free += 1
        return self._seat()

    def _next(self) -> Request:
        return self._line.popleft()

    def _seat(self) -> list[Request]:
        seated = []
        while self._free and +self.waiting:
            request = self._next()
            self.waiting[request.client] -= 1
            self._free -= 1
            seated.append(request)
        return seated


class TakingTurns(FirstCome):
    """A line for each client, one request from each in turn: fair in requests, whatever they cost and whoever they are for."""

    def __init__(self, workload: Workload, seats: int) -> None:
        super().__init__(workload, seats)
        self._lines = {client.name: deque[Request]() for client in workload.clients}

    def arrive(self, request: Request, now_s: float) -> Sequence[Request]:
        self._lines[request.client].append(request)
        self.waiting[request.client] += 1
        return self._seat()

    def _next(self) -> Request:
        name = next(name for name, line in self._lines.items() if line)
        self._lines[name] = self._lines.pop(name)  # to the end of the round
        return self._lines[name].popleft()


class RequestsPerMinute(FirstCome):
    """First come, first served behind a limit: an equal part for each client of what the server can do in requests of 256 and 256."""

    def __init__(self, workload: Workload, seats: int, *, per_minute: int) -> None:
        super().__init__(workload, seats)
        self._per_minute = per_minute
        self._admitted: Counter[tuple[str, int]] = Counter()

    def arrive(self, request: Request, now_s: float) -> Sequence[Request]:
        window = (request.client, int(now_s // MINUTE_S))
        if self._admitted[window] >= self._per_minute:
            return ()  # refused
        self._admitted[window] += 1
        return super().arrive(request, now_s)


class FairShare:
    """The pool's own rules, fed as the proxy feeds them: an estimate from the caller's history, corrected while the answer streams.

    Watches, after every step, how far apart those who wait have drifted, and what the bound needs to know.
    """

    def __init__(self, workload: Workload, seats: int, *, memory: int = 0) -> None:
        self.waiting: Counter[str] = Counter()
        self.pool = FairPool(seats, depth=10**9, lease_ms=10**9, memory_nanocredits=memory)
        self.memory = memory
        self._workload = workload
        self._clients = {client.name: client for client in workload.clients}
        self._estimates = Estimates()
        self._requests: dict[str, Request] = {}
        self._claimed: dict[str, int] = {}
        self.largest_estimate = self.largest_overrun = self.largest_refund = 0
        self.widest = self.widest_over_time = 0
        self._gaps: dict[tuple[str, str, str], tuple[int, int]] = {}

    def arrive(self, request: Request, now_s: float) -> Sequence[Request]:
        client = self._clients[request.client]
        least = INPUT_COST * request.input_tokens
        most = least + OUTPUT_COST * self._workload.output_tokens_max
        estimate = self._estimates.estimate(client.name, "", least_nanocredits=least, most_nanocredits=most)
        self._requests[request.name] = request
        self._claimed[request.name] = estimate
        self.largest_estimate = max(self.largest_estimate, estimate)
        # An organisation weighs 1 here; a client without one carries its own weight to where it competes.
        root_weight = 1 if client.organisation else client.weight
        step = self.pool.enter(
            Claim(request.name, client.root, client.name, estimate, root_weight, client.weight), now_ms=round(now_s * 1000)
        )
        assert step.place in (Place.SEATED, Place.WAITING)
        self.waiting[client.name] += 1
        return self._seated(step.seated)

    def progress(self, request: Request, cost: int, now_s: float) -> None:
        self.pool.charge(request.name, cost, now_ms=round(now_s * 1000))
        if cost > self._claimed[request.name]:
            self._watch()

    def finish(self, request: Request, now_s: float) -> Sequence[Request]:
        self._estimates.observe(request.client, "", request.cost)
        correction = request.cost - self._claimed.pop(request.name)
        self.largest_overrun = max(self.largest_overrun, correction)
        self.largest_refund = max(self.largest_refund, -correction)
        return self._seated(self.pool.leave(request.name, request.cost, now_ms=round(now_s * 1000)).seated)

    def _seated(self, names: Sequence[str]) -> list[Request]:
        requests = [self._requests.pop(name) for name in names]
        for request in requests:
            self.waiting[request.client] -= 1
        self._watch()
        return requests

    def _watch(self) -> None:
        shares = self.pool.shares[False]
        gaps: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._compare("", shares.roots, gaps)
        for root, inside in shares.accounts.items():
            if len(inside.members) > 1:
                self._compare(root, inside, gaps)
        self._gaps = gaps

    def _compare(self, place: str, group: Group, gaps: dict[tuple[str, str, str], tuple[int, int]]) -> None:
        waiting = sorted((name, member.served) for name, member in group.members.items() if member.waiting)
        for (name, served), (other, others) in combinations(waiting, 2):
            gap = served - others
            low, high = self._gaps.get((place, name, other), (gap, gap))
            low, high = gaps[place, name, other] = (gap, high) if gap < low else (low, max(gap, high))
            self.widest = max(self.widest, abs(gap))
            self.widest_over_time = max(self.widest_over_time, high - low)
