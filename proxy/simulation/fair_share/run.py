"""Discrete events: requests arrive at a server with seats, run at its speed and end, on a clock that jumps from one to the next."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, count
from typing import Final

from proxy.simulation.fair_share.policies import FairShare, FirstCome, Policy, RequestsPerMinute, TakingTurns
from proxy.simulation.fair_share.workloads import INPUT_COST, OUTPUT_COST, Request, Workload

SLICE_TOKENS: Final = 64
"""How often a running request tells the pool what it has cost."""

EVEN_REQUEST: Final = Request("", 0, 0.0, 256, 256)


@dataclass(frozen=True, slots=True)
class Server:
    """A model endpoint: `seats` requests at a time, each read and answered at its own pace. As it stands it does about 820 tokens a
    second with 256 in and 256 out, as the published measurements (one A10G) do."""

    seats: int = 20
    read_tokens_per_s: float = 1000.0
    write_tokens_per_s: float = 21.0

    def seconds(self, request: Request) -> float:
        return request.input_tokens / self.read_tokens_per_s + request.output_tokens / self.write_tokens_per_s

    def written(self, request: Request, seconds: float) -> int:
        """Tokens that are out so long after the request was seated."""
        writing_s = seconds - request.input_tokens / self.read_tokens_per_s
        # Exactly at a token's time rounding must not lose it.
        return max(0, min(request.output_tokens, int(writing_s * self.write_tokens_per_s + 1e-6)))

    def per_minute(self, request: Request) -> float:
        return 60 * self.seats / self.seconds(request)


def limited(workload: Workload, server: Server) -> RequestsPerMinute:
    share = round(server.per_minute(EVEN_REQUEST) / len(workload.clients))
    return RequestsPerMinute(workload, server.seats, per_minute=share)


POLICIES: Final[dict[str, Callable[[Workload, Server], Policy]]] = {
    "fair share": lambda workload, server: FairShare(workload, server.seats),
    "first come": lambda workload, server: FirstCome(workload, server.seats),
    "taking turns": lambda workload, server: TakingTurns(workload, server.seats),
    "rate limit": limited,
}


@dataclass(slots=True)
class Record:
    """What happened: by client and second since the start, all cumulative. `service` and `demand` in units of cost."""

    workload: Workload
    server: Server
    policy: Policy
    demand: dict[str, list[int]] = field(default_factory=dict)
    service: dict[str, list[int]] = field(default_factory=dict)
    tokens: int = 0
    """Read and written in all."""
    busy_s: float = 0.0
    """Seats times seconds that worked."""
    idle_s: float = 0.0
    """Seats times seconds that stood empty while someone waited."""
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    """How long each client's requests waited, of those that were seated."""
    gap: int = 0
    """The widest difference in service per weight, over any interval in which both of two members of a group waited throughout."""


def play(workload: Workload, policy: Policy, server: Server) -> Record:
    """Let a workload happen; the same arguments give the same record."""
    return _Play(workload, policy, server).record()


class _Play:
    def __init__(self, workload: Workload, policy: Policy, server: Server) -> None:
        self.now_s = 0.0
        self._record = Record(workload, server, policy)
        self._groups = workload.groups
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._running: dict[str, tuple[Request, float]] = {}
        self._demand: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        """Service to requests that have ended."""
        self._tokens_ended = 0
        self._waiting_since: dict[str, float] = {}
        self._gaps: dict[tuple[str, str, str], tuple[float, float, float]] = {}
        """By pair: since when both wait, and the least and the greatest difference since."""
        for client in workload.clients:
            self._record.demand[client.name], self._record.service[client.name], self._record.waits_s[client.name] = [], [], []
            for request in client.requests:
                self._at(request.at_s, partial(self._arrive, request))
        for second in range(workload.seconds + 1):
            self._at(second, self._sample)

    def record(self) -> Record:
        while self._events and self._events[0][0] <= self._record.workload.seconds:
            at_s, _, happen = heapq.heappop(self._events)
            self._pass_time(at_s)
            happen()
            self._note_waiting()
        running = (request.input_tokens + self._written(request, start_s) for request, start_s in self._running.values())
        self._record.tokens = self._tokens_ended + sum(running)
        return self._record

    def _pass_time(self, until_s: float) -> None:
        passed_s, self.now_s = until_s - self.now_s, until_s
        self._record.busy_s += len(self._running) * passed_s
        if self._waiting_since:
            self._record.idle_s += (self._record.server.seats - len(self._running)) * passed_s

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), happen))

    def _arrive(self, request: Request) -> None:
        self._demand[request.client] += request.cost
        self._start(self._record.policy.arrive(request, self.now_s))

    def _start(self, requests: Sequence[Request]) -> None:
        server = self._record.server
        for request in requests:
            self._record.waits_s[request.client].append(self.now_s - request.at_s)
            self._running[request.name] = (request, self.now_s)
            for tokens in range(SLICE_TOKENS, request.output_tokens, SLICE_TOKENS):
                part_s = request.input_tokens / server.read_tokens_per_s + tokens / server.write_tokens_per_s
                self._at(self.now_s + part_s, partial(self._progress, request))
            self._at(self.now_s + server.seconds(request), partial(self._finish, request))

    def _progress(self, request: Request) -> None:
        self._record.policy.progress(request, self._cost(*self._running[request.name]), self.now_s)

    def _finish(self, request: Request) -> None:
        del self._running[request.name]
        self._ended[request.client] += request.cost
        self._tokens_ended += request.input_tokens + request.output_tokens
        self._start(self._record.policy.finish(request, self.now_s))

    def _written(self, request: Request, start_s: float) -> int:
        return self._record.server.written(request, self.now_s - start_s)

    def _cost(self, request: Request, start_s: float) -> int:
        return INPUT_COST * request.input_tokens + OUTPUT_COST * self._written(request, start_s)

    # --- what is noted -----------------------------------------------------------------------------------------------------------

    def _note_waiting(self) -> None:
        for name, waiting in self._record.policy.waiting.items():
            if not waiting:
                self._waiting_since.pop(name, None)
            elif name not in self._waiting_since:
                self._waiting_since[name] = self.now_s

    def _sample(self) -> None:
        service = self._ended.copy()
        for request, start_s in self._running.values():
            service[request.client] += self._cost(request, start_s)
        for client in self._record.workload.clients:
            self._record.demand[client.name].append(self._demand[client.name])
            self._record.service[client.name].append(service[client.name])
        self._compare(service)

    def _compare(self, service: Counter[str]) -> None:
        """Widen the gaps of the pairs that share in one group and both wait."""
        for place, members in self._groups.items():
            waiting = []
            for name, member in members.items():
                since = [self._waiting_since[client] for client in member.clients if client in self._waiting_since]
                if since:
                    waiting.append((name, min(since), sum(service[client] for client in member.clients) / member.weight))
            for (name, since_s, served), (other, others_since_s, others) in combinations(waiting, 2):
                self._widen((place, name, other), max(since_s, others_since_s), served - others)

    def _widen(self, pair: tuple[str, str, str], since: float, gap: float) -> None:
        known = self._gaps.get(pair)
        low, high = (known[1], known[2]) if known is not None and known[0] == since else (gap, gap)
        low, high = min(low, gap), max(high, gap)
        self._gaps[pair] = (since, low, high)
        self._record.gap = max(self._record.gap, round(high - low))
