"""Pools in one process: the pure rule of `policy/fair_share.py` behind the interface that the ledger offers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from proxy.domain import Adapted, Beats, Path, Place
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger.pools import QueueFull
from proxy.policy.adaptive_seats import Found, Move, moved
from proxy.policy.fair_share import Claim, FairPool, Step
from proxy.policy.fair_share import Place as Stand

LEASE_MS = 10_000


class ModelPools:
    """What a worker is told of its seats; `on_seated` hears of hand-overs at once."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._pools: dict[str, FairPool] = {}
        self._found: dict[str, Found] = {}
        self.on_seated: Callable[[str, str], None] = lambda pool, ticket: None
        self.loses_messages = False
        self.is_down = False
        self.number, self.workers = 0, 1
        self.taken: set[tuple[str, str]] = set()
        """What a worker gave by itself."""
        self.draining: set[str] = set()

    def pool(self, name: str) -> FairPool:
        return self._pools[name]

    async def enter(
        self,
        pool: str,
        ticket: str,
        *,
        path: Path,
        weights: Sequence[int],
        estimate_nanocredits: int,
        seats: int,
        depth: int,
        priority: int = 0,
        spare: bool = False,
    ) -> Place:
        self._check_up()
        if pool in self.draining:
            raise Refusal("draining", "it is being drained")
        state = self._pools.setdefault(pool, FairPool(seats, depth=depth, lease_ms=LEASE_MS))
        state.depth = depth
        claim = Claim(ticket, path[0], path[-1], estimate_nanocredits, weights[0], weights[-1], priority, spare)
        step = self._told(pool, state.enter(claim, now_ms=self._now_ms()))
        if step.place is Stand.REFUSED:
            raise QueueFull(pool, waiting=depth, lag_nanocredits=0)
        return Place(step.place is Stand.SEATED)

    async def charge(self, pool: str, ticket: str, *, spent_nanocredits: int) -> bool | None:
        self._check_up()
        step = self._told(pool, self._pools[pool].charge(ticket, spent_nanocredits, now_ms=self._now_ms()))
        return None if step.place is Stand.YIELDING else step.place is not Stand.GONE

    async def leave(self, pool: str, ticket: str, *, spent_nanocredits: int | None) -> None:
        self._check_up()
        self._told(pool, self._pools[pool].leave(ticket, spent_nanocredits or 0, now_ms=self._now_ms()))

    async def learn_age(self) -> None:
        self._check_up()

    async def number_among_workers(self) -> tuple[int, int]:
        self._check_up()
        return self.number, self.workers

    def took(self, pool: str, ticket: str) -> None:
        self.taken.add((pool, ticket))

    async def beat(self, tickets: Mapping[str, Sequence[str]]) -> Beats:
        self._check_up()
        known = {pool: names for pool, names in tickets.items() if pool in self._pools}
        places = {pool: self._pools[pool].heartbeat(names, now_ms=self._now_ms()).places for pool, names in known.items()}

        def those(*stands: Stand) -> dict[str, frozenset[str]]:
            return {pool: frozenset(n for n, stand in standing.items() if stand in stands) for pool, standing in places.items()}

        return Beats(those(Stand.SEATED, Stand.YIELDING), those(Stand.YIELDING), those(Stand.GONE))

    async def configure(
        self, pool: str, *, seats: int | None = None, memory_nanocredits: int | None = None, draining: bool | None = None
    ) -> bool:
        if pool not in self._pools and seats is None:
            return False
        state = self._pools.setdefault(pool, FairPool(seats or 0, depth=64, lease_ms=LEASE_MS))
        if seats is not None:
            self._told(pool, state.set_seats(seats, now_ms=self._now_ms()))
        return True

    async def adapt(self, pool: str, move: Move, *, least: int, most: int) -> Adapted | None:
        state = self._pools.get(pool)
        if state is None:
            return None
        found = replace(self._found.get(pool, Found(0)), seats=state.seats)
        times = {"now_ms": time.monotonic_ns() // 1_000_000, "sent_ms": int(move.sent_s * 1000)}
        found = self._found[pool] = moved(found, move, least=least, most=most, **times)
        self._told(pool, state.set_seats(found.seats, now_ms=self._now_ms()))
        return Adapted(found.seats, found.cut_ms / 1000)

    def _check_up(self) -> None:
        if self.is_down:
            raise LedgerUnavailable

    def _told(self, pool: str, step: Step) -> Step:
        if not self.loses_messages:
            for ticket in step.seated:
                self.on_seated(pool, ticket)
        return step
