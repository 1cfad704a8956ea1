"""Seats at upstreams that serve only so many requests at a time: asked for, waited for, given back.

The pools' state and the rule of who goes next are the ledger's (`policy/fair_share.py`); one request's way to its seat is `seat.py`'s. Here
is what one worker has of them all: leases, kept alive by a periodic `beat`, what could not be given back yet, what came of it. Must not
know what a request costs, nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol

from proxy import config
from proxy.domain import Adapted, Beats, Caller, Path, Place
from proxy.errors import LedgerUnavailable
from proxy.metrics import DeficitReason, Metrics
from proxy.policy.adaptive_seats import AdaptiveSeats, Move
from proxy.policy.estimates import Estimates
from proxy.server.alone import Alone
from proxy.server.patience import Patience
from proxy.server.seat import Seat

log = logging.getLogger(__name__)

KEPT_MAX = 10_000
_REASONS: Mapping[str, DeficitReason] = {
    **dict.fromkeys(("insufficient_quota", "request_exceeds_budget", "budget_in_flight"), "budget"),
    **dict.fromkeys(("upstream_error", "upstream_timeout"), "upstream"),
    "too_many_requests": "rate",
    "queue_full": "queue_full",
    "queue_timeout": "queue_timeout",
    "client_gone": "client_gone",
}


class Pools(Protocol):
    """What the ledger offers here."""

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
    ) -> Place: ...

    async def charge(self, pool: str, ticket: str, *, spent_nanocredits: int) -> bool | None: ...

    async def leave(self, pool: str, ticket: str, *, spent_nanocredits: int | None) -> None: ...

    async def learn_age(self) -> None: ...

    async def number_among_workers(self) -> tuple[int, int]: ...

    def took(self, pool: str, ticket: str) -> None: ...

    async def beat(self, tickets: Mapping[str, Sequence[str]]) -> Beats: ...

    async def configure(self, pool: str, *, seats: int | None = None, memory_nanocredits: int | None = None) -> bool: ...

    async def adapt(self, pool: str, move: Move, *, least: int, most: int) -> Adapted | None: ...


class Accounts(Protocol):
    """Whether who has waited may still have a request served."""

    @property
    def generation(self) -> int:
        """The same as long as no account has changed."""
        ...

    async def check_active(self, path: Path) -> None:
        """Raises Refusal account_suspended; LedgerUnavailable."""
        ...


class Seating:
    """All seats that one worker has or waits for."""

    def __init__(
        self, pools: Pools, accounts: Accounts, metrics: Metrics, in_background: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self.pools = pools
        self.accounts = accounts
        self.metrics = metrics
        self.in_background = in_background
        self.estimates = Estimates()
        self.mine: defaultdict[str, dict[str, Seat]] = defaultdict(dict)
        """By pool and ticket. Bounded by the requests that are open."""
        self.patience = Patience()
        self._alone = Alone(self._seated_alone)
        self.denied: Callable[[Caller, str, int], None] = lambda _caller, _code, _nanocredits: None
        """Told of a request that was not served: whose, why, and what it would probably have cost."""
        self._limited: frozenset[str] = frozenset()
        """Names of the upstreams that have a limit."""
        self._untold: dict[str, config.Upstream] = {}
        """Upstreams whose pools have not been told yet how they are to be."""
        self._kept: dict[tuple[str, str], int | None] = {}
        """Tickets that could not be given back yet, by pool and name, and what they did cost."""
        self._adaptive: dict[str, AdaptiveSeats] = {}

    def configure(self, sections: Sequence[config.Upstream], *, on_failure: Literal["refuse", "allow"]) -> None:
        """Take over new numbers of seats, and whether to go on without the ledger; the next beat tells the pools."""
        self._alone.is_allowed = on_failure == "allow"
        limited = [section for section in sections if section.first_seats is not None]
        self._limited = frozenset(section.name for section in limited)
        self._untold = {section.name: section for section in limited}
        adapting = {section.name for section in limited if section.seats == "auto"}
        self._adaptive = {name: adaptive for name, adaptive in self._adaptive.items() if name in adapting}

    def likely(self, caller: Caller, pool: str, *, most_nanocredits: int) -> int:
        """What a request will probably cost, by what the caller's recent ones did cost here; `most` is what it may cost."""
        return self.estimates.estimate(caller.account, pool, least_nanocredits=1, most_nanocredits=max(1, most_nanocredits))

    def seated(self, pool: str, ticket: str) -> None:
        """A seat was handed over to a ticket that waits here; of an unknown one the lease ends by itself."""
        seat = self.mine[pool].get(ticket)
        if seat is not None:
            seat.grant()

    async def give_back(self, pool: str, ticket: str, spent_nanocredits: int | None) -> None:
        """End a ticket. While the ledger is away its seat stays taken: a later beat gives it back, or its lease ends by itself."""
        try:
            await self.pools.leave(pool, ticket, spent_nanocredits=spent_nanocredits)
        except LedgerUnavailable:
            if len(self._kept) < KEPT_MAX:
                self._kept[pool, ticket] = spent_nanocredits
        else:
            self._kept.pop((pool, ticket), None)

    async def beat(self) -> None:
        """Keep all leases alive, hear of seats whose message was lost, tell what running requests have cost. Every second or so."""
        if not (self._limited or self._kept or any(self.mine.values())):
            return
        try:
            await self.pools.learn_age()
            if self._alone.is_allowed:
                self._alone.part_is(*await self.pools.number_among_workers())
            for pool in list(self._untold):
                section = self._untold[pool]
                seats = None if section.seats == "auto" else section.first_seats
                if await self.pools.configure(pool, seats=seats, memory_nanocredits=section.memory_credits):
                    self._untold.pop(pool, None)
            await self._beat()
        except LedgerUnavailable:
            log.debug("no beat: the ledger is away")
            self._go_on_alone()
        else:
            self._alone.end()

    async def _beat(self) -> None:
        await asyncio.gather(*(self.give_back(pool, ticket, spent) for (pool, ticket), spent in self._kept.items()))
        tickets = {pool: list(self.mine[pool]) for pool in {*self._limited, *(pool for pool, seats in self.mine.items() if seats)}}
        beats = await self.pools.beat(tickets)
        for pool, names in beats.seated.items():
            for name in names:
                self.seated(pool, name)
        for pool, names in beats.yielding.items():
            for name in names:
                if (seat := self.mine[pool].get(name)) is not None:
                    seat.on_yield()
        for pool, names in beats.unknown.items():
            for name in names:
                if (seat := self.mine[pool].get(name)) is not None and not seat.granted.done():
                    seat.ask()  # the pool has lost it, so it asks again
        running = [seat for seats in self.mine.values() for seat in seats.values() if seat.is_dearer]
        await asyncio.gather(*(self.pools.charge(seat.pool, seat.ticket, spent_nanocredits=seat.so_far()) for seat in running))

    # --- while the ledger is away ------------------------------------------------------------------------------------------------

    def enter_alone(self, seat: Seat) -> bool:
        """Let a request have its seat from this worker alone, or wait for one; whether it may."""
        section = seat.section
        assert section.first_seats is not None, "who has no limit has no seats"
        return self._alone.enter(
            *(seat.pool, seat.claim),
            seats=section.first_seats,
            depth=section.queue_depth_per_account,
            taken=self._taken(seat.pool),
        )

    def left_alone(self, seat: Seat) -> None:
        """A request has left, whoever gave it its seat."""
        self._alone.leave(seat.pool, seat.ticket, seats=seat.section.first_seats or 0, taken=self._taken(seat.pool))

    def _taken(self, pool: str) -> int:
        """How many requests here have a seat that the ledger gave."""
        return sum(not seat.is_waiting and not self._alone.has(pool, ticket) for ticket, seat in self.mine[pool].items())

    def _seated_alone(self, pool: str, ticket: str) -> None:
        self.pools.took(pool, ticket)
        self.metrics.seated_alone(pool=pool)
        self.seated(pool, ticket)

    def _go_on_alone(self) -> None:
        """Who waits at the ledger waits here instead; who has a seat from here keeps it."""
        for pool, seats in self.mine.items():
            self._alone.beat(pool, list(seats))
            for seat in list(seats.values()):
                if seat.is_waiting:
                    self.enter_alone(seat)

    # --- what came of it ---------------------------------------------------------------------------------------------------------

    def count(self, caller: Caller, pool: str, outcome: str, most: Callable[[], int], spent_nanocredits: int | None) -> None:
        """Count a request that has ended as demand of its pool: served, or not, and why."""
        if spent_nanocredits:
            self.estimates.observe(caller.account, pool, spent_nanocredits)
            self.metrics.served(pool=pool, amount_nanocredits=spent_nanocredits)
        elif outcome != "complete":
            self.not_served(caller, pool, outcome, self.likely(caller, pool, most_nanocredits=most()))

    def not_served(self, caller: Caller, pool: str, outcome: str, amount_nanocredits: int) -> None:
        """Count what was asked of a pool and not served, and why, in credits."""
        self.denied(caller, outcome, amount_nanocredits)
        self.metrics.not_served(pool=pool, reason=_REASONS.get(outcome, "other"), amount_nanocredits=amount_nanocredits)

    def heard(self, section: config.Upstream, status: int | None, asked_s: float) -> None:
        """An upstream that was asked then answered now, or (None) did not; one whose seats are "auto" gets more or fewer by it."""
        if section.seats != "auto" or section.first_seats is None:
            return
        adaptive = self._adaptive.setdefault(section.name, AdaptiveSeats(section.first_seats))
        move = adaptive.observe(
            status,
            time.monotonic() - asked_s,
            sent_s=asked_s,
            taken_s=self.patience.taken_s(section.name),
            is_wanted=any(seat.is_waiting for seat in self.mine[section.name].values()),
        )
        if move is not None:
            self.in_background(self._adapt(section, adaptive, move))

    async def _adapt(self, section: config.Upstream, adaptive: AdaptiveSeats, move: Move) -> None:
        try:
            adapted = await self.pools.adapt(section.name, move, least=section.seats_min, most=section.seats_max)
        except LedgerUnavailable:
            return
        if adapted is not None:
            adaptive.told(adapted.seats, cut_s=adapted.cut_s)
