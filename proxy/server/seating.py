"""Seats at upstreams that serve only so many requests at a time: asked for, waited for, given back.

The pools' state and the rule of who goes next are the ledger's (`policy/fair_share.py`); here a request asks without waiting, beside its
hold, and waits only where no seat is free. Leases are kept alive by a periodic `beat`. Must not know what a request costs, nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, Self

from proxy import config
from proxy.domain import Beats, Caller, Path, Place, Usage
from proxy.errors import LedgerUnavailable, Refusal
from proxy.metrics import DeficitReason, Metrics
from proxy.policy.adaptive_seats import AdaptiveSeats, Move
from proxy.policy.estimates import Estimates
from proxy.server.metering import Charge
from proxy.server.patience import Patience

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

    async def beat(self, tickets: Mapping[str, Sequence[str]]) -> Beats: ...

    async def configure(self, pool: str, *, seats: int | None = None, memory_nanocredits: int | None = None) -> bool: ...

    async def adapt(self, pool: str, move: Move, *, least: int, most: int) -> int | None: ...


class Seat:
    """One request's place at one upstream, from asking to leaving. `ask`, then `taken`, then `leave`, which may come at any time."""

    __slots__ = (
        "_asked_s",
        "_caller",
        "_estimate",
        "_lag_nanocredits",
        "_left",
        "_priority",
        "_seated_s",
        "_seating",
        "_section",
        "_spare",
        "granted",
        "on_yield",
        "so_far",
        "ticket",
    )

    def __init__(
        self,
        seating: Seating,
        section: config.Upstream,
        ticket: str,
        caller: Caller,
        *,
        estimate_nanocredits: int,
        priority: int,
        spare: bool,
    ) -> None:
        self._seating = seating
        self._section = section
        self._caller = caller
        self._estimate = estimate_nanocredits
        self._priority = priority
        self._spare = spare
        self._lag_nanocredits = 0
        """What others were to be served first when it began to wait."""
        self._asked_s = time.monotonic()
        self._seated_s: float | None = None
        self._left = False
        self.ticket = ticket
        self.so_far: Callable[[], int] = lambda: 0
        """What the request has cost until now."""
        self.on_yield: Callable[[], None] = lambda: None
        """Called when a spare seat is wanted back."""
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_waiting(self) -> bool:
        """Whether it has asked and not yet been seated."""
        return self._seated_s is None and not self._left

    @property
    def is_dearer(self) -> bool:
        """Whether it has its seat, and costs more already than was thought when it got it."""
        return self._seated_s is not None and not self._left and self.so_far() > self._estimate

    @property
    def pool(self) -> str:
        return self._section.name

    def ask(self) -> None:
        """Ask for it, without waiting for the answer."""
        self._seating.mine[self.pool][self.ticket] = self
        self._seating.in_background(self._enter())

    async def _enter(self) -> None:
        section = self._section
        assert section.first_seats is not None, "who has no limit has no seats"
        try:
            place = await self._seating.pools.enter(
                self.pool,
                self.ticket,
                path=self._caller.person or self._caller.path,
                weights=self._caller.weights,
                estimate_nanocredits=self._estimate,
                seats=section.first_seats,
                depth=section.queue_depth_per_account,
                priority=self._priority,
                spare=self._spare,
            )
        except Refusal as refusal:
            self._fail(self._seating.patience.full(refusal, section) if refusal.code == "queue_full" else refusal)
        except LedgerUnavailable as failure:
            self._fail(failure)
        else:
            self._lag_nanocredits = place.lag_nanocredits
            if place.seated:
                self.grant()

    def grant(self) -> None:
        """It has its seat; whoever waits goes on."""
        if self._seated_s is None:
            self._seated_s = time.monotonic()
        if not self.granted.done():
            self.granted.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)
            self.granted.exception()  # whoever left meanwhile does not ask for it

    async def taken(self) -> float:
        """Wait until it is there; the seconds that it took. Raises Refusal queue_full, queue_timeout; LedgerUnavailable."""
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._section.queue_timeout_s):
                await self.granted
        except TimeoutError:
            raise self._seating.patience.timed_out(self._section, lag_nanocredits=self._lag_nanocredits) from None
        waited_s = time.monotonic() - self._asked_s
        self._seating.metrics.queued(pool=self.pool, seconds=waited_s)
        return waited_s

    def leave(self, charge: Charge | None) -> None:
        """Give it back, or stop waiting; None where nothing was sent. Does not wait."""
        if self._left:
            return
        self._left = True
        rest_s = 0.0
        if self._seated_s is not None:
            taken_s = time.monotonic() - self._seated_s
            rest_s = 0.0 if charge is None else self._rest_s(charge.usage, taken_s)
            self._seating.patience.was_taken(self.pool, taken_s + rest_s, 0 if charge is None else charge.spent_nanocredits)
        spent = None if charge is None else charge.spent_nanocredits
        if rest_s > 0:
            asyncio.get_running_loop().call_later(rest_s, lambda: self._seating.in_background(self._leave(spent)))
        else:
            self._seating.in_background(self._leave(spent))

    def _rest_s(self, usage: Usage, taken_s: float) -> float:
        """How much longer the seat stays taken where the upstream counts tokens a minute: so many seats give so many tokens their time."""
        per_minute, seats = self._section.tokens_per_minute, self._section.first_seats
        if per_minute is None or seats is None:
            return 0.0
        return (usage.input_tokens + usage.output_tokens) * 60 * seats / per_minute - taken_s

    async def _leave(self, spent_nanocredits: int | None) -> None:
        self._seating.mine[self.pool].pop(self.ticket, None)
        await self._seating.give_back(self.pool, self.ticket, spent_nanocredits)


class Turn:
    """The seats of one request, at one upstream after another. Leaving this context gives back whatever is left."""

    __slots__ = ("_caller", "_most", "_priority", "_seating", "_ticket", "seat")

    def __init__(self, seating: Seating, ticket: str, caller: Caller, *, most: Callable[[], int], priority: int) -> None:
        self._seating = seating
        self._ticket = ticket
        self._caller = caller
        self._most = most
        self._priority = priority
        self.seat: Seat | None = None
        """The one that it has or waits for; None where the upstream has no limit."""

    def ask(self, section: config.Upstream, *, spare: bool = False) -> None:
        """Ask for a seat at this upstream, and give back the one before; a spare one only where nobody else wants it."""
        self.leave(None)
        self.seat = None
        if section.first_seats is not None:
            self.seat = Seat(
                self._seating,
                section,
                self._ticket + ("+" if spare else ""),
                self._caller,
                estimate_nanocredits=self._seating.likely(self._caller, section.name, most_nanocredits=self._most()),
                priority=self._priority,
                spare=spare,
            )
            self.seat.ask()

    def leave(self, charge: Charge | None) -> None:
        """Give the seat back; None where nothing was sent. Does not wait."""
        if self.seat is not None:
            self.seat.leave(charge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(None)


class Seating:
    """All seats that one worker has or waits for."""

    def __init__(self, pools: Pools, metrics: Metrics, in_background: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self.pools = pools
        self.metrics = metrics
        self.in_background = in_background
        self.estimates = Estimates()
        self.mine: defaultdict[str, dict[str, Seat]] = defaultdict(dict)
        """By pool and ticket. Bounded by the requests that are open."""
        self.patience = Patience()
        self.denied: Callable[[Path, str, int], None] = lambda _path, _code, _nanocredits: None
        """Told of a request that was not served: whose, why, and what it would probably have cost."""
        self._limited: frozenset[str] = frozenset()
        """Names of the upstreams that have a limit."""
        self._untold: dict[str, config.Upstream] = {}
        """Upstreams whose pools have not been told yet how they are to be."""
        self._kept: dict[tuple[str, str], int | None] = {}
        """Tickets that could not be given back yet, by pool and name, and what they did cost."""
        self._adaptive: dict[str, AdaptiveSeats] = {}

    def configure(self, sections: Sequence[config.Upstream]) -> None:
        """Take over new numbers of seats; the next beat tells the pools."""
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
            for pool in list(self._untold):
                section = self._untold[pool]
                seats = None if section.seats == "auto" else section.first_seats
                if await self.pools.configure(pool, seats=seats, memory_nanocredits=section.memory_credits):
                    self._untold.pop(pool, None)
            await self._beat()
        except LedgerUnavailable:
            log.debug("no beat: the ledger is away")

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

    def count(self, caller: Caller, pool: str, outcome: str, most: Callable[[], int], spent_nanocredits: int | None) -> None:
        """Count a request that has ended as demand of its pool: served, or not, and why."""
        if spent_nanocredits:
            self.estimates.observe(caller.account, pool, spent_nanocredits)
            self.metrics.served(pool=pool, amount_nanocredits=spent_nanocredits)
        elif outcome != "complete":
            amount = self.likely(caller, pool, most_nanocredits=most())
            self.denied(caller.path, outcome, amount)
            self.metrics.not_served(pool=pool, reason=_REASONS.get(outcome, "other"), amount_nanocredits=amount)

    def heard(self, section: config.Upstream, status: int | None, seconds: float) -> None:
        """An upstream answered, or (None) did not, after so long; one whose seats are "auto" gets more or fewer by it."""
        if section.seats != "auto" or section.first_seats is None:
            return
        adaptive = self._adaptive.setdefault(section.name, AdaptiveSeats(section.first_seats))
        is_wanted = any(seat.is_waiting for seat in self.mine[section.name].values())
        move = adaptive.observe(status, seconds, is_wanted=is_wanted)
        if move is not None:
            self.in_background(self._adapt(section, adaptive, move))

    async def _adapt(self, section: config.Upstream, adaptive: AdaptiveSeats, move: Move) -> None:
        try:
            seats = await self.pools.adapt(section.name, move, least=section.seats_min, most=section.seats_max)
        except LedgerUnavailable:
            return
        if seats is not None:
            adaptive.seats = seats
