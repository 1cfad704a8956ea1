"""One request's seat at one upstream, from asking to leaving, and its turn at one upstream after another.

A request asks without waiting, beside its hold, and waits only where no seat is free. What all requests of a worker share stands in
`seating.py`. Must not know what a request costs, nor HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from proxy import config
from proxy.domain import Caller, Path, Usage
from proxy.errors import LedgerUnavailable, Refusal
from proxy.policy.fair_share import Claim
from proxy.server.metering import Charge

if TYPE_CHECKING:  # it makes no seat, but keeps those that are made
    from proxy.server.seating import Seating


class Seat:
    """One request's place at one upstream, from asking to leaving. `ask`, then `taken`, then `leave`, which may come at any time."""

    __slots__ = (
        "_asked_s",
        "_caller",
        "_estimate",
        "_generation",
        "_lag_nanocredits",
        "_left",
        "_priority",
        "_seated_s",
        "_seating",
        "_section",
        "_spare",
        "_weights",
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
        weights: tuple[int, int],
        estimate_nanocredits: int,
        priority: int,
        spare: bool,
    ) -> None:
        self._seating = seating
        self._section = section
        self._caller = caller
        self._generation = seating.accounts.generation
        self._weights = weights
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

    @property
    def section(self) -> config.Upstream:
        return self._section

    @property
    def _path(self) -> Path:
        """As whom it waits: agents as their person, so that many of them get no more than one."""
        return self._caller.person or self._caller.path

    @property
    def claim(self) -> Claim:
        """What it asks for, in the words of the rule."""
        path, weights = self._path, self._weights
        return Claim(self.ticket, path[0], path[-1], self._estimate, weights[0], weights[-1], self._priority, self._spare)

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
                path=self._path,
                weights=self._weights,
                estimate_nanocredits=self._estimate,
                seats=section.first_seats,
                depth=section.queue_depth_per_account,
                priority=self._priority,
                spare=self._spare,
            )
        except Refusal as refusal:
            self._fail(self._seating.patience.full(refusal, section) if refusal.code == "queue_full" else refusal)
        except LedgerUnavailable as failure:
            if not self._seating.enter_alone(self):
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
        """Wait until it is there; the seconds that it took. Whoever was paused meanwhile does not have it.

        Raises Refusal queue_full, queue_timeout, account_suspended; LedgerUnavailable.
        """
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._section.queue_timeout_s):
                await self.granted
        except TimeoutError:
            raise self._seating.patience.timed_out(self._section, lag_nanocredits=self._lag_nanocredits) from None
        waited_s = time.monotonic() - self._asked_s
        self._seating.metrics.queued(pool=self.pool, seconds=waited_s)
        await self._check_active()
        return waited_s

    async def _check_active(self) -> None:
        """Raises Refusal account_suspended. Asks the ledger only where some account has changed while this waited."""
        accounts = self._seating.accounts
        if accounts.generation != self._generation:
            with contextlib.suppress(LedgerUnavailable):  # the hold stands, and what runs goes on without the ledger, too
                await accounts.check_active(self._caller.path)

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
        self._seating.left_alone(self)
        await self._seating.give_back(self.pool, self.ticket, spent_nanocredits)


class Turn:
    """The seats of one request, at one upstream after another. Leaving this context gives back whatever is left."""

    __slots__ = ("_caller", "_most", "_priority", "_seating", "_stands_back", "_ticket", "_weights", "is_lent", "seat")

    def __init__(
        self,
        seating: Seating,
        ticket: str,
        caller: Caller,
        *,
        most: Callable[[], int],
        priority: int,
        weights: tuple[int, int] | None = None,
        stands_back: bool = False,
    ) -> None:
        """`weights`: other ones than the caller's own. `stands_back`: it has a budget, and yet takes only what nobody else wants; what it
        has taken it keeps."""
        self._seating = seating
        self._ticket = ticket
        self._caller = caller
        self._most = most
        self._priority = priority
        self._weights = weights or caller.weights
        self._stands_back = stands_back
        self.is_lent = False
        """Whether the seat is to be given up once somebody with a budget wants it."""
        self.seat: Seat | None = None
        """The one that it has or waits for; None where the upstream has no limit."""

    def ask(self, section: config.Upstream, *, spare: bool = False) -> None:
        """Ask for a seat at this upstream, and give back the one before; a spare one only where nobody else wants it."""
        self.leave(None)
        self.seat = None
        self.is_lent = spare
        if section.first_seats is not None:
            self.seat = Seat(
                self._seating,
                section,
                self._ticket + ("+" if spare else ""),
                self._caller,
                weights=self._weights,
                estimate_nanocredits=self._seating.likely(self._caller, section.name, most_nanocredits=self._most()),
                priority=self._priority,
                spare=spare or self._stands_back,
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
