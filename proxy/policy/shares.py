"""Who goes next: service charged by weight, counted at two levels, organisations first and accounts inside each.

Start-time fair queueing in front of D seats (Goyal et al. 1996; Jin et al., "Interposed Proportional Sharing", 2004) with the cost of a
request as its length, as in "Fairness in Serving Large Language Models" (Sheng et al., 2024). Owns the order and the bound; knows
nothing of seats, tickets' lives or time. Every number is an integer below 2^53, so that a ledger script can keep the same ones.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

SCALE: Final = 1000
"""Served is counted in thousandths of a nanocredit per unit of weight: a weight of a thousand loses nothing to rounding."""

COST_MAX: Final = 2**40
"""A request above about 1,100 credits counts as this much: products with SCALE stay exact in a double."""

REBASE_ABOVE: Final = 2**50
FORGET_PER_JOIN: Final = 2


def served(cost_nanocredits: int, weight: int) -> int:
    """What a cost adds to the service of a weight. Rounded down, here and nowhere else; callers add differences of cumulative costs."""
    return cost_nanocredits * SCALE // weight


def gap_bound(
    *,
    seats: int,
    estimate_nanocredits: int,
    overrun_nanocredits: int,
    refund_nanocredits: int,
    weight: int = 1,
    memory_nanocredits: int = 0,
) -> int:
    """How far apart the service V of two members of a group can be while both wait: U = K + (c + D·(o + r)) / w, in units of `served`.

    c, o, r: the largest estimate, the most a cost passes its estimate, the most it stays below; D: the most tickets seated at once;
    w: the least weight; K: the memory. Over any interval in which both wait throughout, what they are charged per weight differs by at
    most 2U, for the difference is within ±U at both ends. What was charged and not yet delivered is at most D·c/w more.

    Proof, with v for the clock, which never falls. (A) Always V_f <= v + (c + D·o)/w: f's last seating began at V_f <= v; since then
    V_f rose by that ticket's estimate, by the overruns of the at most D tickets that f had seated, or by a lift, to v at most.
    (B) While g waits, V_g >= v - K - D·r/w. Look at the last moment when g began to wait or the clock rose. In the first case g was
    lifted to v - K; in the second someone was picked at V = v while g waited, and the least is picked, so V_g >= v. Since then V_g fell
    only by refunds of the at most D tickets that g had seated; a later ticket is charged before it is refunded. A - B is U.
    """
    charge, overrun, refund = (-(-cost * SCALE // weight) for cost in (estimate_nanocredits, overrun_nanocredits, refund_nanocredits))
    return memory_nanocredits * SCALE + charge + seats * (overrun + refund)


@dataclass(slots=True)
class Member:
    """An organisation among organisations, or an account inside one. `since`: the number of the step in which it began to wait or was
    last picked; of members with equal service the one with the lowest goes first."""

    served: int
    weight: int
    waiting: int = 0
    seated: int = 0
    since: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.seated


@dataclass(slots=True)
class Group:
    """Members that share by weight. `clock`: the greatest service at which one was picked; it is what "now" means to those who return."""

    memory: int
    """How far below the clock service is remembered, in units of `served`."""
    clock: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    idle: dict[str, None] = field(default_factory=dict)
    """Members without a ticket that are still remembered, those looked at longest ago first."""

    @property
    def floor(self) -> int:
        """Where a member starts that is new, or was away for long."""
        return max(0, self.clock - self.memory)

    def join(self, name: str, *, weight: int, number: int) -> None:
        """One more ticket of a member waits. Lift: a member that had none waiting is raised to the floor, so that what it left unused
        while away is not owed to it. The latest weight holds for all that is seated from now on."""
        member = self.members.setdefault(name, Member(self.floor, weight))
        self.idle.pop(name, None)
        if not member.waiting:
            member.served = max(member.served, self.floor)
            member.since = number
        member.weight = weight
        member.waiting += 1

    def least(self) -> str | None:
        """Pick: of the members that wait, the one with the least service."""
        waiting = [(member.served, member.since, name) for name, member in self.members.items() if member.waiting]
        return min(waiting)[2] if waiting else None

    def seat(self, name: str, *, number: int) -> None:
        """A waiting ticket of a member takes a seat: the clock follows."""
        member = self.members[name]
        self.clock = max(self.clock, member.served)
        member.waiting -= 1
        member.seated += 1
        member.since = number

    def part(self, name: str, *, was_seated: bool) -> None:
        """A ticket ends. Once a group has none at all, nobody in it was kept waiting by what others got: the clock moves up to the
        greatest service, so that nobody is behind or ahead by more than the memory."""
        member = self.members[name]
        if was_seated:
            member.seated -= 1
        else:
            member.waiting -= 1
        if member.is_idle:
            self.idle[name] = None
        if len(self.idle) == len(self.members):
            self.clock = max(self.clock, *(each.served for each in self.members.values()))

    def forget(self, at_most: int) -> None:
        """Drop idle members at or below the floor: they would start there anyhow, so nothing observable changes."""
        for name in list(islice(self.idle, at_most)):
            del self.idle[name]
            if self.members[name].served <= self.floor:
                del self.members[name]
            else:
                self.idle[name] = None

    def rebase(self) -> None:
        """Count from the least number in use again; only differences matter."""
        if self.clock > REBASE_ABOVE:
            least = min([self.floor, *(member.served for member in self.members.values())])
            self.clock -= least
            for member in self.members.values():
                member.served -= least


@dataclass(slots=True)
class Ticket:
    """One request that waits for a seat or has one."""

    name: str
    root: str
    account: str
    estimate_nanocredits: int
    priority: int
    spare: bool
    number: int
    """Tickets are numbered as they enter."""
    deadline_ms: int
    is_seated: bool = False
    is_told: bool = False
    """Asked to give its seat up."""
    cumulative_nanocredits: int = 0
    """What the request has cost so far, as last reported."""
    charged_nanocredits: int = 0
    """What its members are charged for it: the estimate at least, while it runs."""
    root_weight: int = 1
    account_weight: int = 1
    """The weights at which it was seated; all its charges are at these."""

    @property
    def order(self) -> tuple[int, int, str]:
        """Inside an account's own queue: by priority, then first in, first out."""
        return (-self.priority, self.number, self.name)


@dataclass(slots=True)
class Shares:
    """Two levels of groups, and a queue for each account: who waits, and what each was charged."""

    memory: int
    roots: Group = field(init=False)
    accounts: dict[str, Group] = field(default_factory=dict)
    queues: dict[tuple[str, str], list[tuple[int, int, str]]] = field(default_factory=dict)
    waiting: int = 0

    def __post_init__(self) -> None:
        self.roots = Group(self.memory)

    def depth(self, root: str, account: str) -> int:
        """How many tickets of an account wait."""
        return len(self.queues.get((root, account), ()))

    def enqueue(self, ticket: Ticket, *, root_weight: int, account_weight: int) -> None:
        """A ticket waits, both its members with it."""
        inside = self.accounts.setdefault(ticket.root, Group(self.memory))
        self.roots.join(ticket.root, weight=root_weight, number=ticket.number)
        inside.join(ticket.account, weight=account_weight, number=ticket.number)
        insort(self.queues.setdefault((ticket.root, ticket.account), []), ticket.order)
        self.waiting += 1
        self.roots.forget(FORGET_PER_JOIN)
        inside.forget(FORGET_PER_JOIN)

    def next(self) -> str | None:
        """The name of the ticket that goes next: of the organisation with the least service, its account with the least, that one's
        first in line."""
        root = self.roots.least()
        if root is None:
            return None
        account = self.accounts[root].least()
        assert account is not None, "an organisation waits exactly as long as one of its accounts does"
        return self.queues[root, account][0][2]

    def seat(self, ticket: Ticket, *, number: int, paid_nanocredits: int = 0) -> None:
        """A waiting ticket takes a seat and is charged its estimate at once; `paid` is what its members were charged for it before."""
        inside = self.accounts[ticket.root]
        self._unqueue(ticket)
        self.roots.seat(ticket.root, number=number)
        inside.seat(ticket.account, number=number)
        ticket.root_weight = self.roots.members[ticket.root].weight
        ticket.account_weight = inside.members[ticket.account].weight
        ticket.is_seated = True
        ticket.charged_nanocredits = paid_nanocredits
        self.charge(ticket, max(ticket.estimate_nanocredits, ticket.cumulative_nanocredits))

    def charge(self, ticket: Ticket, cost_nanocredits: int) -> None:
        """Correct what a seated ticket's members are charged for it, to a cumulative cost; at least one nanocredit, for requests that
        cost nothing would never move their account back in the order and so keep everybody else out."""
        before, now = ticket.charged_nanocredits, max(1, cost_nanocredits)
        ticket.charged_nanocredits = now
        root, account = self.roots.members[ticket.root], self.accounts[ticket.root].members[ticket.account]
        root.served += served(now, ticket.root_weight) - served(before, ticket.root_weight)
        account.served += served(now, ticket.account_weight) - served(before, ticket.account_weight)

    def end(self, ticket: Ticket) -> None:
        """A ticket goes: a seated one is charged what it did cost, a waiting one nothing."""
        if ticket.is_seated:
            self.charge(ticket, ticket.cumulative_nanocredits)
        else:
            self._unqueue(ticket)
        inside = self.accounts[ticket.root]
        inside.part(ticket.account, was_seated=ticket.is_seated)
        self.roots.part(ticket.root, was_seated=ticket.is_seated)
        if self.roots.members[ticket.root].is_idle:
            inside.forget(len(inside.idle))
            if not inside.members:
                del self.accounts[ticket.root]
        inside.rebase()
        self.roots.rebase()

    def _unqueue(self, ticket: Ticket) -> None:
        queue = self.queues[ticket.root, ticket.account]
        queue.remove(ticket.order)
        if not queue:
            del self.queues[ticket.root, ticket.account]
        self.waiting -= 1
