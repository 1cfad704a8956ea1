"""Pools on a real server against the rule, `FairPool`, under random use: tickets that come and go, seats, weights, leases that run out,
repeats, lost answers, ends that overtake their beginnings, a server that loses everything.

After each step both must stand alike to the last unit. A failure prints the steps that lead to it and can be seen again with
`--hypothesis-seed=N`. The long run: `python -m pytest -m long tests/ledger/test_pools_stateful.py`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from proxy.domain import AccountId, Path
from proxy.errors import Conflict
from proxy.ledger.connection import servers
from proxy.ledger.engine import Engine
from proxy.ledger.pools import Pools, QueueFull
from proxy.policy.fair_share import Claim, FairPool, Place, Step, _Ended
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer, ledger_binaries
from tests.support.pool_records import StoredMember, StoredTicket, read_pool

POOL = "gpu"
LEASE_MS = 10_000
LEARNING_MS = 1_250
PATHS = [("org", "ann"), ("org", "bob"), ("org",), ("team", "ann"), ("solo",)]
Worker = Literal[0, 1]

workers = st.sampled_from([0, 1])
paths = st.sampled_from(PATHS).map(lambda names: tuple(AccountId(name) for name in names))
weights = st.sampled_from([1, 1, 2, 3, 7, 1000])
costs = st.sampled_from([0, 1, 7, 100, 333, 1000, 5000, 2**20])
seat_counts = st.sampled_from([0, 1, 1, 2, 3, 5])
nth = st.integers(0, 30)
again = st.sampled_from([False, False, True])
"""Whether the first answer gets lost, so that the call is made again."""


@dataclasses.dataclass
class Known:
    """A ticket that was entered, and by whom."""

    claim: Claim
    path: Path
    worker: int
    left: bool = False
    seated: bool = False
    spent: int = 0


class LedgerPool(FairPool):
    """The rule, and what a ledger adds to it whose messages may overtake one another."""

    _entering = ""

    def enter(self, claim: Claim, *, now_ms: int) -> Step:
        """A ticket that was dropped, not left, may enter again."""
        self._entering = claim.ticket
        step = super().enter(claim, now_ms=now_ms)
        self._entering = ""
        if claim.ticket in self.tickets:
            self._ended.pop(claim.ticket, None)
        return step

    def leave(self, ticket: str, cumulative_nanocredits: int = 0, *, now_ms: int) -> Step:
        """The end of a ticket that is not known, or was dropped, is remembered: an enter that comes later finds it."""
        step = super().leave(ticket, cumulative_nanocredits, now_ms=now_ms)
        ended = self._remembered(ticket, now_ms)
        if ended is None or ended.was_dropped:
            self._ended.pop(ticket, None)
            self._ended[ticket] = _Ended(now_ms + self.lease_ms, ended.cumulative_nanocredits if ended else 0, was_dropped=False)
        return step

    def _remembered(self, name: str, now_ms: int) -> _Ended | None:
        ended = super()._remembered(name, now_ms)
        return None if ended is not None and ended.was_dropped and name == self._entering else ended


class Comparison(RuleBasedStateMachine):
    """Everything is done to both; `FairPool` says what is right."""

    def __init__(self, server: LedgerServer, *, functions: bool = True) -> None:
        super().__init__()
        self.server = server
        self.clock = Clock()
        self.runner = asyncio.Runner()
        server.flush()
        self.client = server.client()
        self.engines = [self.runner.run(self._open(functions)) for _ in range(2)]
        self.pools = [self.runner.run(self._pools(engine)) for engine in self.engines]
        self.known: list[Known] = []
        self.seats = 1
        self.depth = 3
        self.memory = 0
        self.unit = 1
        self.opens_ms = 0
        self.model: LedgerPool | None = None

    async def _open(self, functions: bool) -> Engine:
        engine = Engine(servers(self.server.url, password=None, deadline_s=10, fsync_wait_s=2), deadline_s=10, now_ms=self.clock)
        await engine.start()
        if not functions:
            engine._functions = False
        return engine

    async def _pools(self, engine: Engine) -> Pools:
        return Pools(engine, lease_ms=LEASE_MS, learning_ms=LEARNING_MS)

    def teardown(self) -> None:
        for engine in self.engines:
            self.runner.run(engine.close())
        self.runner.close()
        self.client.close()

    # --- the rule, and what the ledger adds to it ------------------------------------------------------------------------------

    def fair(self, *, creates: bool) -> LedgerPool | None:
        """The model before a step: none where the server knows no pool; one without seats while a new pool hears who has some."""
        if self.model is None and creates:
            self.model = LedgerPool(0, depth=self.depth, lease_ms=LEASE_MS, memory_nanocredits=self.memory)
            self.opens_ms = self.clock.now_ms + LEARNING_MS
        if self.model is not None:
            self.model.seats = self.seats if self.clock.now_ms >= self.opens_ms else 0
        return self.model

    def model_enter(self, known: Known) -> Place:
        fair = self.fair(creates=True)
        assert fair is not None
        return fair.enter(known.claim, now_ms=self.clock.now_ms).place

    def model_leave(self, name: str, spent: int) -> None:
        fair = self.fair(creates=False)
        if fair is not None:
            fair.leave(name, spent, now_ms=self.clock.now_ms)

    # --- both at once ------------------------------------------------------------------------------------------------------------

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    async def _enter(self, known: Known) -> Place:
        try:
            place = await self.pools[known.worker].enter(
                POOL,
                known.claim.ticket,
                path=known.path,
                weights=(known.claim.root_weight, known.claim.account_weight),
                estimate_nanocredits=known.claim.estimate_nanocredits,
                seats=self.seats,
                depth=self.depth,
                priority=known.claim.priority,
                spare=known.claim.spare,
            )
        except QueueFull:
            return Place.REFUSED
        except Conflict:
            return Place.GONE
        if place.seated:
            known.seated = True
            return Place.SEATED
        return Place.WAITING

    @initialize(
        memory=st.sampled_from([0, 0, 500]),
        seats=st.sampled_from([1, 2, 3]),
        depth=st.sampled_from([1, 3, 20]),
        unit=st.sampled_from([1, 2**19, 2**26]),
    )
    def begin(self, memory: int, seats: int, depth: int, unit: int) -> None:
        """`unit`: small costs, or such that numbers grow so large that they are counted from a new base again and again."""
        self.memory, self.seats, self.depth, self.unit = memory, seats, depth, unit
        self.run(self.pools[0].configure(POOL, seats=seats, memory_nanocredits=memory))
        self.fair(creates=True)

    @rule(
        path=paths,
        weights=st.tuples(weights, weights),
        estimate=costs,
        priority=st.integers(-2, 2),
        spare=st.sampled_from([False, False, False, True]),
        worker=workers,
        twice=again,
    )
    def enter(self, path: Path, weights: tuple[int, int], estimate: int, priority: int, spare: bool, worker: int, twice: bool) -> None:
        """A new ticket."""
        claim = Claim(
            ticket=f"t{len(self.known)}",
            root=path[0],
            account=path[-1],
            estimate_nanocredits=estimate * self.unit,
            root_weight=weights[0],
            account_weight=weights[1],
            priority=priority,
            spare=spare,
        )
        known = Known(claim, path, worker)
        self.known.append(known)
        self.enter_known(known, twice=twice)

    def enter_known(self, known: Known, *, twice: bool = False) -> None:
        if twice:
            self.enter_known(known)
        mine = self.pools[known.worker]._tickets.get((POOL, known.claim.ticket))
        runs = mine is not None and mine.seated
        actual, expected = self.run(self._enter(known)), self.model_resume(known) if runs else self.model_enter(known)
        assert actual is (Place.SEATED if expected is Place.YIELDING else expected)
        if actual in (Place.REFUSED, Place.GONE):
            known.left = True

    def pick(self, n: int) -> Known:
        return self.known[-1 - n % len(self.known)]

    @precondition(lambda self: self.known)
    @rule(n=nth)
    def enter_late(self, n: int) -> None:
        """An enter comes once more, however late."""
        known = self.pick(n)
        left = known.left
        self.enter_known(known)
        known.left = known.left or left

    @rule(path=paths, worker=workers)
    def overtake(self, path: Path, worker: int) -> None:
        """A leave comes before its enter."""
        name = f"t{len(self.known)}"
        known = Known(Claim(ticket=name, root=path[0], account=path[-1], estimate_nanocredits=1), path, worker, left=True)
        self.known.append(known)
        self.run(self.pools[worker].leave(POOL, name, spent_nanocredits=None))
        self.model_leave(name, 0)
        self.enter_known(known)

    @precondition(lambda self: self.known)
    @rule(n=nth, more=costs, twice=again)
    def charge(self, n: int, more: int, twice: bool) -> None:
        known = self.pick(n)
        known.spent += more * self.unit
        for _ in range(1 + twice):
            goes_on = self.run(self.pools[known.worker].charge(POOL, known.claim.ticket, spent_nanocredits=known.spent))
            fair = self.fair(creates=False)
            place = fair.charge(known.claim.ticket, known.spent, now_ms=self.clock.now_ms).place if fair else Place.GONE
            assert goes_on is (place in (Place.SEATED, Place.WAITING))

    @precondition(lambda self: self.known)
    @rule(n=nth, part=st.sampled_from([0, 1, 2]), twice=again)
    def leave(self, n: int, part: int, twice: bool) -> None:
        """With nothing sent, with what was last said, or with more."""
        known = self.pick(n)
        spent = (None, known.spent, known.spent + 50)[part]
        for _ in range(1 + twice):
            self.run(self.pools[known.worker].leave(POOL, known.claim.ticket, spent_nanocredits=spent))
            self.model_leave(known.claim.ticket, spent or 0)
        known.left = True

    def seated(self) -> list[int]:
        """Which to `pick` for a ticket with a seat."""
        tickets = self.model.tickets if self.model else {}
        return [n for n, known in enumerate(reversed(self.known)) if (t := tickets.get(known.claim.ticket)) and t.is_seated]

    @rule(worker=workers, missing=st.sets(nth, max_size=3))
    def beat(self, worker: int, missing: set[int]) -> None:
        """A worker says what it has, but for some that it forgets; what is due is done, and what the server has lost is entered again."""
        mine = [known for i, known in enumerate(self.known) if known.worker == worker and not known.left and i not in missing]
        beats = self.run(self.pools[worker].beat({POOL: [known.claim.ticket for known in mine]}))
        fair = self.fair(creates=False)
        places = dict.fromkeys((known.claim.ticket for known in mine), Place.GONE)
        if fair is not None:
            places |= fair.heartbeat(places, now_ms=self.clock.now_ms).places
        for known in mine:
            if places[known.claim.ticket] is Place.GONE:
                places[known.claim.ticket] = self.model_enter_again(known)
        told = {
            "seated": {name for name, place in places.items() if place in (Place.SEATED, Place.YIELDING)},
            "yielding": {name for name, place in places.items() if place is Place.YIELDING},
            "unknown": {name for name, place in places.items() if place in (Place.GONE, Place.REFUSED)},
        }
        assert {kind: set(getattr(beats, kind)[POOL]) for kind in told} == told
        for known in mine:
            known.seated = known.seated or known.claim.ticket in told["seated"]

    def model_enter_again(self, known: Known) -> Place:
        return self.model_resume(known) if known.seated else self.model_enter(known)

    def model_resume(self, known: Known) -> Place:
        fair = self.fair(creates=True)
        assert fair is not None
        return fair.resume(
            known.claim, self.pools[known.worker]._tickets[POOL, known.claim.ticket].spent_nanocredits, now_ms=self.clock.now_ms
        ).place

    @rule(seats=seat_counts)
    def set_seats(self, seats: int) -> None:
        self.seats = seats
        self.run(self.pools[0].configure(POOL, seats=seats, memory_nanocredits=self.memory))
        fair = self.fair(creates=True)
        assert fair is not None
        fair.set_seats(fair.seats, now_ms=self.clock.now_ms)

    @rule(milliseconds=st.sampled_from([1, 500, 1250, 4000, 9999, 10_000]))
    def pass_time(self, milliseconds: int) -> None:
        self.clock.pass_s(milliseconds / 1000)

    @rule(really=st.integers(0, 4))
    def lose_everything(self, really: int) -> None:
        """The server forgets; what its new pool is told of memory comes with the next `configure`."""
        if really == 0:
            self.server.flush()
            self.model = None
            self.run(self.pools[1].configure(POOL, seats=self.seats, memory_nanocredits=self.memory))
            self.fair(creates=True)

    # --- what must hold after each step ------------------------------------------------------------------------------------------

    @invariant()
    def both_stand_alike(self) -> None:
        if self.model is None:
            return
        stored = read_pool(self.client, POOL)
        assert stored is not None
        fair = self.model
        waiting = [ticket for ticket in fair.tickets.values() if not ticket.is_seated]
        assert (stored.used, stored.told, stored.waiting + stored.spare_waiting) == (fair.used, fair._told, len(waiting))
        assert stored.callers == len({(ticket.spare, ticket.root, ticket.account) for ticket in waiting})
        present = {name: ticket for name, ticket in stored.tickets.items() if ticket.state != "ended"}
        assert present == {
            name: StoredTicket("seated" if t.is_seated else "waiting", t.cumulative_nanocredits, t.charged_nanocredits, t.is_told)
            for name, t in fair.tickets.items()
        }
        members, above_floor = {}, set()
        for spare, shares in fair.shares.items():
            for under, group in [("", shares.roots), *shares.accounts.items()]:
                for name, m in group.members.items():
                    field = f"{'+' if spare else ''}{under}/{name}"
                    members[field] = StoredMember(m.served - group.floor, m.waiting, m.seated)
                    if m.waiting or m.seated or m.served > group.floor:
                        above_floor.add(field)
        for field, member in members.items():
            if field in above_floor or field in stored.members:
                assert (field, stored.members.get(field)) == (field, member)
        assert stored.marks["q"] == len(waiting)
        assert stored.marks["w"] == len([member for member in members.values() if member.waiting])
        assert stored.marks["i"] == len([member for member in stored.members.values() if not member.waiting + member.seated])
        assert stored.marks["y"] == stored.spare_used - stored.told
        extra = [member for field, member in stored.members.items() if field not in members]
        assert all(member.waiting + member.seated == 0 for member in extra)

    @invariant()
    def nothing_idles(self) -> None:
        """A seat is free only while nobody waits, or while a new pool hears who has some."""
        if self.model is not None and self.model.used < self.model.seats:
            assert self.model.waiting == 0 or self.clock.now_ms < self.opens_ms + 1


CHECKS = settings(deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ledger_binaries())
def test_pools_and_the_rule_never_differ(ledger_servers: Callable[[str], LedgerServer], name: str) -> None:
    """Whatever is done, in whatever order, however often: the same tickets have seats, and everybody was served the same."""
    server = ledger_servers(name)
    run_state_machine_as_test(lambda: Comparison(server), settings=settings(CHECKS, max_examples=25, stateful_step_count=40))


def test_numbers_that_grow_too_large_are_counted_from_a_new_base(ledger_server: LedgerServer) -> None:
    """Two hundred of the dearest requests there can be, of members that wait, have seats and are away: the rule goes on as ever."""
    both = Comparison(ledger_server)
    both.begin(memory=0, seats=2, depth=20, unit=2**20)
    chance = random.Random(4)
    try:
        both.pass_time(LEARNING_MS)
        for n in range(200):
            path = tuple(AccountId(name) for name in chance.choice(PATHS))
            cost = chance.choice([2**17, 2**18, 2**19])
            both.enter(path=path, weights=(1, 1), estimate=cost, priority=0, spare=False, worker=0, twice=False)
            if n > 12:
                both.charge(n=chance.choice(both.seated()), more=cost, twice=False)
                both.leave(n=chance.choice(both.seated()), part=1, twice=False)
            both.both_stand_alike()
        stored = read_pool(both.client, POOL)
    finally:
        both.teardown()

    assert stored is not None
    assert stored.rebased > 0


def test_servers_without_functions_follow_the_rule_too(ledger_server: LedgerServer) -> None:
    """The verbs run as scripts where the server knows no functions."""
    checks = settings(CHECKS, max_examples=5, stateful_step_count=30)
    run_state_machine_as_test(lambda: Comparison(ledger_server, functions=False), settings=checks)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ledger_binaries())
def test_pools_and_the_rule_never_differ_for_long(ledger_servers: Callable[[str], LedgerServer], name: str) -> None:
    """The same for some minutes on every kind of server."""
    server = ledger_servers(name)
    run_state_machine_as_test(lambda: Comparison(server), settings=settings(CHECKS, max_examples=2000, stateful_step_count=60))
