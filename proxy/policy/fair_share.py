"""The seats of one upstream: who has one, who waits, and what happens in each step.

The reference for the ledger's `pool_*` scripts: plain state, no clock, no chance. Seats are leases; a free one is given away in the step
in which it becomes free, so nothing idles while anyone waits. Callers whose budget is used up are spare: they have groups of their own,
are seated when nobody with a budget waits, and are told to stop when somebody does. Who goes next is `shares`' to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

from proxy.policy.shares import COST_MAX, SCALE, Shares, Ticket

OVERDUE_PER_STEP: Final = 8
OVERDUE_PER_BEAT: Final = 64
ENDED_PER_STEP: Final = OVERDUE_PER_BEAT + 2
"""More than can end in a step, so that what is remembered of ended tickets stays bounded."""


class Place(Enum):
    """Where a ticket is."""

    WAITING = "waiting"
    SEATED = "seated"
    YIELDING = "yielding"
    """Seated, and told to stop soon: somebody with a budget waits."""
    REFUSED = "refused"
    """Its account has as many waiting tickets as it may; nothing is kept of it."""
    GONE = "gone"
    """Ended, dropped as overdue, or never heard of."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One request that wants a seat. `root` is the organisation (an account without one is its own); weights are 1 to 10^6,
    in quarters and up to sixteen of them while interventions change any."""

    ticket: str
    root: str
    account: str
    estimate_nanocredits: int
    root_weight: int = 1
    account_weight: int = 1
    priority: int = 0
    """Higher goes first among the account's own tickets."""
    spare: bool = False
    """Its budget is used up: it takes only what nobody else wants."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a verb did: the places of the tickets it was asked about, and what became of others meanwhile."""

    places: Mapping[str, Place]
    seated: tuple[str, ...] = ()
    """Took a seat in this step, in this order."""
    yielding: tuple[str, ...] = ()
    """Spare ones that were told to stop in this step."""
    dropped: tuple[str, ...] = ()
    """Overdue."""

    @property
    def place(self) -> Place:
        """Of the only ticket asked about."""
        (place,) = self.places.values()
        return place


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands in a pool; `lag`: nanocredits by which it is behind (or, below 0, ahead of) the one picked last."""

    root: str
    account: str
    spare: bool
    root_weight: int
    account_weight: int
    waiting: int
    seated: int
    root_lag_nanocredits: int
    account_lag_nanocredits: int


@dataclass(frozen=True, slots=True)
class _Ended:
    until_ms: int
    cumulative_nanocredits: int
    was_dropped: bool


class FairPool:
    """Seats shared by weight. Every verb may be repeated: the same ticket's second enter, resume or leave changes nothing, nor does a
    cumulative cost that is not above the last. An ended ticket is remembered for the length of a lease, so a late repetition finds it."""

    def __init__(self, seats: int, *, depth: int, lease_ms: int, memory_nanocredits: int = 0) -> None:
        self.seats = seats
        self.depth = depth
        self.lease_ms = lease_ms
        self.tickets: dict[str, Ticket] = {}
        self.used = 0
        self.shares = {spare: Shares(memory_nanocredits * SCALE) for spare in (False, True)}
        self._steps = 0
        self._ended: dict[str, _Ended] = {}
        self._spare_seated: list[str] = []
        """Spare tickets with a seat that were not told to stop, in the order in which they were seated."""
        self._told = 0
        self._earliest_ms = 0
        """No deadline is before this: most steps need not look for overdue tickets."""

    # --- verbs -------------------------------------------------------------------------------------------------------------------

    def enter(self, claim: Claim, *, now_ms: int) -> Step:
        """Ask for a seat: SEATED, WAITING or REFUSED (GONE where the ticket has ended before)."""
        dropped, seated = self._begin(now_ms)
        if claim.ticket not in self.tickets and self._remembered(claim.ticket, now_ms) is None:
            if self.used >= self.seats and self.shares[claim.spare].depth(claim.root, claim.account) >= self.depth:
                return self._step({claim.ticket: Place.REFUSED}, seated, dropped)
            self._enqueue(claim, now_ms)
            seated += self._seat_waiting()
        return self._step({claim.ticket: self._place(claim.ticket)}, seated, dropped)

    def resume(self, claim: Claim, cumulative_nanocredits: int, *, now_ms: int) -> Step:
        """Take back a request that runs already, though the pool has lost it (state lost, or a heartbeat came too late): it is seated
        whatever the number of seats. `gap_bound` holds again once such tickets have left."""
        dropped, seated = self._begin(now_ms)
        ended = self._remembered(claim.ticket, now_ms)
        if claim.ticket not in self.tickets and (ended is None or ended.was_dropped):
            ticket = self._enqueue(claim, now_ms)
            paid = ended.cumulative_nanocredits if ended else 0
            ticket.cumulative_nanocredits = max(paid, _counted(cumulative_nanocredits))
            self._seat(ticket, paid_nanocredits=paid)
            self._ended.pop(ticket.name, None)
        return self._step({claim.ticket: self._place(claim.ticket)}, seated, dropped)

    def charge(self, ticket: str, cumulative_nanocredits: int, *, now_ms: int) -> Step:
        """Say what a running request has cost so far; above its estimate its account is charged more."""
        dropped, seated = self._begin(now_ms)
        running = self.tickets.get(ticket)
        if running is not None and running.is_seated:
            self._report(running, cumulative_nanocredits)
            if running.cumulative_nanocredits > running.charged_nanocredits:
                self.shares[running.spare].charge(running, running.cumulative_nanocredits)
        return self._step({ticket: self._place(ticket)}, seated, dropped)

    def leave(self, ticket: str, cumulative_nanocredits: int = 0, *, now_ms: int) -> Step:
        """End a ticket: a seated one is charged what it did cost in the end and its seat goes to the next; a waiting one owes nothing."""
        dropped, seated = self._begin(now_ms)
        known = self.tickets.get(ticket)
        if known is not None:
            self._report(known, cumulative_nanocredits)
            self._end(known, now_ms)
            seated += self._seat_waiting()
        return self._step({ticket: Place.GONE}, seated, dropped)

    def heartbeat(self, tickets: Iterable[str], *, now_ms: int) -> Step:
        """Renew a worker's leases, and tell it where its tickets are: what it missed while its messages were lost. Drops all that is
        overdue, a part at a time, so that those who wait get what a crashed worker had as soon as its leases end."""
        names = list(tickets)
        for name in names:
            if name in self.tickets:
                self.tickets[name].deadline_ms = now_ms + self.lease_ms
        dropped, seated = self._begin(now_ms, OVERDUE_PER_BEAT)
        while self._earliest_ms <= now_ms:
            more_dropped, more_seated = self._begin(now_ms, OVERDUE_PER_BEAT)
            dropped, seated = dropped + more_dropped, seated + more_seated
        return self._step({name: self._place(name) for name in names}, seated, dropped)

    def set_seats(self, seats: int, *, now_ms: int) -> Step:
        """Have so many seats; 0 drains the pool. Nobody loses a seat: with fewer than are taken, none is given until enough leave."""
        self.seats = seats
        dropped, seated = self._begin(now_ms)
        return self._step({}, seated, dropped)

    # --- what it looks like --------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return sum(shares.waiting for shares in self.shares.values())

    def standings(self) -> list[Standing]:
        """Every account with a ticket, organisations together."""
        return [
            Standing(
                root=root,
                account=account,
                spare=spare,
                root_weight=shares.roots.members[root].weight,
                account_weight=member.weight,
                waiting=member.waiting,
                seated=member.seated,
                root_lag_nanocredits=_lag(shares.roots.clock, shares.roots.members[root].served, shares.roots.members[root].weight),
                account_lag_nanocredits=_lag(inside.clock, member.served, member.weight),
            )
            for spare, shares in self.shares.items()
            for root, inside in sorted(shares.accounts.items())
            for account, member in sorted(inside.members.items())
            if not member.is_idle
        ]

    # --- parts of a step -----------------------------------------------------------------------------------------------------------

    def _begin(self, now_ms: int, overdue_most: int = OVERDUE_PER_STEP) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Every step first drops what is overdue, a bounded number, and gives away the seats that are free; returns both."""
        self._steps += 1
        for name in [name for name, ended in islice(self._ended.items(), ENDED_PER_STEP) if ended.until_ms <= now_ms]:
            del self._ended[name]
        dropped: list[str] = []
        if self._earliest_ms <= now_ms:
            by_deadline = sorted((ticket.deadline_ms, name) for name, ticket in self.tickets.items())
            dropped = [name for deadline_ms, name in by_deadline[:overdue_most] if deadline_ms <= now_ms]
            for name in dropped:
                self._end(self.tickets[name], now_ms, was_dropped=True)
            rest = by_deadline[len(dropped) :]
            self._earliest_ms = rest[0][0] if rest else now_ms + self.lease_ms
        return tuple(dropped), self._seat_waiting()

    def _step(self, places: Mapping[str, Place], seated: tuple[str, ...], dropped: tuple[str, ...]) -> Step:
        """Every step ends with as many spare tickets told to stop as there are tickets with a budget waiting; those seated last first,
        for the least is lost with them."""
        told = []
        while self._spare_seated and self._told < self.shares[False].waiting:
            told.append(self._spare_seated.pop())
            self.tickets[told[-1]].is_told = True
            self._told += 1
        places = {name: Place.YIELDING if name in told else place for name, place in places.items()}
        return Step(places, seated, tuple(told), dropped)

    def _place(self, name: str) -> Place:
        ticket = self.tickets.get(name)
        if ticket is None:
            return Place.GONE
        if not ticket.is_seated:
            return Place.WAITING
        return Place.YIELDING if ticket.is_told else Place.SEATED

    def _remembered(self, name: str, now_ms: int) -> _Ended | None:
        ended = self._ended.get(name)
        return ended if ended is not None and now_ms < ended.until_ms else None

    def _enqueue(self, claim: Claim, now_ms: int) -> Ticket:
        estimate = _counted(claim.estimate_nanocredits)
        deadline_ms = now_ms + self.lease_ms  # of a clock that may step back
        ticket = Ticket(claim.ticket, claim.root, claim.account, estimate, claim.priority, claim.spare, self._steps, deadline_ms)
        self.tickets[ticket.name] = ticket
        self._earliest_ms = min(self._earliest_ms, deadline_ms)
        self.shares[claim.spare].enqueue(ticket, root_weight=claim.root_weight, account_weight=claim.account_weight)
        return ticket

    def _seat_waiting(self) -> tuple[str, ...]:
        """Give free seats away: to those with a budget first, then to spare ones."""
        seated = []
        while self.used < self.seats:
            name = self.shares[False].next() or self.shares[True].next()
            if name is None:
                break
            self._seat(self.tickets[name])
            seated.append(name)
        return tuple(seated)

    def _seat(self, ticket: Ticket, *, paid_nanocredits: int = 0) -> None:
        self._steps += 1
        self.shares[ticket.spare].seat(ticket, number=self._steps, paid_nanocredits=paid_nanocredits)
        self.used += 1
        if ticket.spare:
            self._spare_seated.append(ticket.name)

    def _report(self, ticket: Ticket, cumulative_nanocredits: int) -> None:
        """Totals only grow: a report that was overtaken by a later one changes nothing."""
        if ticket.is_seated:
            ticket.cumulative_nanocredits = max(ticket.cumulative_nanocredits, _counted(cumulative_nanocredits))

    def _end(self, ticket: Ticket, now_ms: int, *, was_dropped: bool = False) -> None:
        del self.tickets[ticket.name]
        self.shares[ticket.spare].end(ticket)
        self._ended[ticket.name] = _Ended(now_ms + self.lease_ms, ticket.cumulative_nanocredits, was_dropped)
        if ticket.is_seated:
            self.used -= 1
            if ticket.is_told:
                self._told -= 1
            elif ticket.spare:
                self._spare_seated.remove(ticket.name)


def _counted(cost_nanocredits: int) -> int:
    return min(max(0, cost_nanocredits), COST_MAX)


def _lag(clock: int, served: int, weight: int) -> int:
    return (clock - served) * weight // SCALE
