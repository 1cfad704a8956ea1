"""Seats shared by two workers on one ledger server: handed over, renewed, taken back; what is lost is found again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from proxy.domain import AccountId, Place, PoolState
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys
from proxy.ledger.connection import servers
from proxy.ledger.engine import Engine
from proxy.ledger.pools import BEAT_MS, LEARNING_MS, LEASE_MS, Pools, QueueFull
from proxy.policy.adaptive_seats import Found, Move, moved
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer
from tests.support.pool_records import read_pool

POOL = "gpu"
PROMPTLY_S = 10.0
"""No test waits so long, unless it fails."""


@dataclass
class Worker:
    """A worker's pools, and what it was told."""

    pools: Pools
    clock: Clock
    seats: int = 1
    seated: set[str] = field(default_factory=set)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter(
        self, ticket: str, account: str = "ann", *, cost: int = 100, depth: int = 10, spare: bool = False, priority: int = 0
    ) -> Place:
        return await self.enter_in(POOL, ticket, account, cost=cost, depth=depth, spare=spare, priority=priority)

    async def enter_in(
        self, pool: str, ticket: str, account: str = "ann", *, cost: int = 100, depth: int = 10, spare: bool = False, priority: int = 0
    ) -> Place:
        return await self.pools.enter(
            pool,
            ticket,
            path=(AccountId("org"), AccountId(account)),
            weights=(1, 1),
            estimate_nanocredits=cost,
            seats=self.seats,
            depth=depth,
            priority=priority,
            spare=spare,
        )

    async def leave(self, ticket: str, spent: int | None = 100) -> None:
        await self.pools.leave(POOL, ticket, spent_nanocredits=spent)

    async def beat(self, *tickets: str) -> tuple[str, ...]:
        """Who of them has a seat."""
        return tuple((await self.pools.beat({POOL: tickets})).seated[POOL])

    async def state(self) -> PoolState:
        return (await self.pools.states([POOL]))[0]

    def hear(self, pool: str, ticket: str) -> None:
        assert pool == POOL
        self.seated.add(ticket)
        self.told.set()


@contextlib.asynccontextmanager
async def worker(server: LedgerServer, clock: Clock | None, *, learning_ms: int) -> AsyncIterator[Worker]:
    engine = Engine(servers(server.url, password=None, deadline_s=5, fsync_wait_s=2), deadline_s=5, now_ms=clock)
    try:
        await engine.start()
        yield Worker(Pools(engine, learning_ms=learning_ms), clock or Clock())
    finally:
        await engine.close()


@pytest.fixture
async def two(ledger_server: LedgerServer) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers and a pool of one seat, which is past its learning; the clock stands still."""
    clock = Clock()
    async with worker(ledger_server, clock, learning_ms=LEARNING_MS) as one, worker(ledger_server, clock, learning_ms=LEARNING_MS) as other:
        await one.pools.configure(POOL, seats=1)
        clock.pass_s(LEARNING_MS / 1000)
        yield one, other


# --- hand-over -------------------------------------------------------------------------------------------------------------------


async def test_weights_may_be_in_quarters(two: tuple[Worker, Worker]) -> None:
    """Of the greatest weight there is, up to sixteen: so they come while interventions change any."""
    one, _ = two
    path, greatest = (AccountId("org"), AccountId("ann")), 16_000_000
    for ticket, weights in (("t1", (greatest, 1)), ("t2", (1, greatest))):
        await one.pools.enter(POOL, ticket, path=path, weights=weights, estimate_nanocredits=1, seats=1, depth=1)
    for ticket, weights in (("t3", (greatest + 1, 1)), ("t4", (1, greatest + 1))):
        with pytest.raises(LedgerUnavailable, match=r"ARGUMENT [78]"):
            await one.pools.enter(POOL, ticket, path=path, weights=weights, estimate_nanocredits=1, seats=1, depth=1)


async def test_a_seat_is_handed_over_by_a_message(two: tuple[Worker, Worker]) -> None:
    """The worker of the next ticket hears at once, though it asks for nothing."""
    one, other = two
    async with other.pools.listen(other.hear), asyncio.timeout(PROMPTLY_S):
        await other.pools.subscribed.wait()
        assert (await one.enter("a")).seated
        assert await other.enter("b") == Place(False)
        await one.leave("a")
        await other.told.wait()

    assert other.seated == {"b"}


async def test_a_lost_message_costs_one_beat(two: tuple[Worker, Worker]) -> None:
    """Who did not hear of its seat is told when it beats."""
    one, other = two
    await one.enter("a")
    await other.enter("b")
    assert await other.beat("b") == ()
    await one.leave("a")

    assert await other.beat("b") == ("b",)


async def test_a_lost_subscription_is_taken_up_again(two: tuple[Worker, Worker], ledger_server: LedgerServer) -> None:
    """A worker whose connection is cut hears of later seats."""
    one, other = two
    async with other.pools.listen(other.hear), asyncio.timeout(PROMPTLY_S):
        await other.pools.subscribed.wait()
        await one.enter("a")
        await other.enter("b")
        with ledger_server.client() as client:
            client.client_kill_filter(_type="pubsub")
        while other.pools.subscribed.is_set():
            await other.state()
        await other.pools.subscribed.wait()
        await one.leave("a")
        await other.told.wait()

    assert other.seated == {"b"}


async def test_accounts_take_turns_though_one_asks_for_more(two: tuple[Worker, Worker]) -> None:
    """Ten requests of one account do not go before the one of another."""
    one, other = two
    await one.enter("first")
    for n in range(10):
        await one.enter(f"greedy-{n}", "greedy")
    waits = await other.enter("modest", "bob")
    await one.leave("first")
    await one.leave("greedy-0")

    assert waits == Place(False, 0, 0)
    assert await other.beat("modest") == ("modest",)


async def test_a_place_tells_who_is_ahead_and_by_how_much(two: tuple[Worker, Worker]) -> None:
    """Tickets of one's own with the same priority go first, and so do others until they were served as much."""
    one, _ = two
    await one.enter("a", "ann", cost=1000)
    await one.enter("b", "bob")

    assert await one.enter("c", "ann") == Place(False, 0, 1000)
    assert (await one.enter("d", "ann")).ahead == 1
    assert (await one.enter("e", "ann", priority=1)).ahead == 0


# --- leases ----------------------------------------------------------------------------------------------------------------------


async def test_a_killed_workers_seats_are_given_on_when_its_lease_ends(two: tuple[Worker, Worker]) -> None:
    """Its seat, and its place in the queue, go to those who are still there."""
    one, other = two
    await one.enter("a", "ann")
    await one.enter("b", "ann")
    await other.enter("c", "bob")
    for _ in range(LEASE_MS // BEAT_MS - 1):
        other.clock.pass_s(BEAT_MS / 1000)
        assert await other.beat("c") == ()
    other.clock.pass_s(BEAT_MS / 1000)

    assert await other.beat("c") == ("c",)
    state = await other.state()
    assert (state.used, state.waiting) == (1, 0)


async def test_a_crashed_worker_with_hundreds_of_tickets_delays_nobody(two: tuple[Worker, Worker]) -> None:
    """The first beat after its leases end gives all its seats and places away, in calls that each do a bounded part of it."""
    one, other = two
    await one.pools.configure(POOL, seats=250)
    for n in range(500):
        await one.enter(f"dead-{n}", "ann", depth=500)
    other.clock.pass_s(LEASE_MS / 2000)
    mine = [f"mine-{n}" for n in range(250)]
    for name in mine:
        await other.enter(name, "bob", depth=500)
    assert await other.beat(*mine) == ()
    other.clock.pass_s(LEASE_MS / 2000)

    assert await other.beat(*mine) == tuple(mine)
    state = await other.state()
    assert (state.used, state.waiting) == (250, 0)


async def test_what_a_crash_left_ends_where_nobody_asks(two: tuple[Worker, Worker]) -> None:
    """A worker that has nothing in the pool beats for it, too: so the seats do not look taken until somebody wants one."""
    one, other = two
    await one.enter("a")
    await one.enter("b")
    other.clock.pass_s(LEASE_MS / 1000)
    assert (await other.state()).used == 1
    await other.beat()

    state = await other.state()
    assert (state.used, state.waiting) == (0, 0)


async def test_beats_keep_seats_and_places(two: tuple[Worker, Worker]) -> None:
    """What is heard of within a lease stays, however long."""
    one, _ = two
    await one.enter("a")
    await one.enter("b")
    for _ in range(5):
        one.clock.pass_s(LEASE_MS / 1000 - 0.001)
        assert await one.beat("a", "b") == ("a",)


async def test_a_worker_that_was_away_takes_its_seat_back(two: tuple[Worker, Worker]) -> None:
    """Its request runs, whatever the pool thinks: so the seat is counted again, and none is given until there is room."""
    one, other = two
    await one.enter("a")
    await other.enter("b", "bob")
    other.clock.pass_s(LEASE_MS / 2000)
    await other.beat("b")
    other.clock.pass_s(LEASE_MS / 2000)
    assert await other.beat("b") == ("b",)
    assert not await one.pools.charge(POOL, "a", spent_nanocredits=10)

    assert await one.beat("a") == ("a",)
    assert (await one.state()).used == 2
    await other.leave("b")
    assert not (await other.enter("c")).seated


async def test_a_ticket_of_nobody_is_unknown(two: tuple[Worker, Worker]) -> None:
    """A beat says which tickets the pool does not know, and this worker neither."""
    one, _ = two
    await one.enter("a")

    beats = await one.pools.beat({POOL: ["a", "stranger"], "elsewhere": ["stranger"]})
    assert beats.unknown == {POOL: ("stranger",), "elsewhere": ("stranger",)}


# --- repeats, and what comes late ------------------------------------------------------------------------------------------------


async def test_a_ticket_that_has_left_cannot_enter(two: tuple[Worker, Worker]) -> None:
    """Neither one that had a seat, nor one whose leave came first: no seat stays behind."""
    one, other = two
    await one.enter("a")
    await one.leave("a")
    await other.leave("b", None)
    for ticket in "ab":
        with pytest.raises(Conflict):
            await other.enter(ticket)

    assert (await one.state()).used == 0


async def test_a_ticket_may_come_again_in_the_step_that_forgets_it(two: tuple[Worker, Worker]) -> None:
    """Its end is forgotten after a lease, among the first of many, just when it enters once more."""
    one, other = two
    await other.enter("gone soon")
    for n in range(15):
        await one.leave(f"t{n}", None)
    one.clock.pass_s(LEASE_MS / 1000)

    assert (await one.enter("t0")).seated
    assert await one.beat("t0") == ("t0",)
    await one.leave("t0")
    assert (await one.state()).used == 0


async def test_an_account_has_so_many_places(two: tuple[Worker, Worker]) -> None:
    """One too many is refused and told how far behind others are; another account still has its own places."""
    one, _ = two
    await one.enter("a", "ann", cost=5000)
    await one.enter("b", "ann", depth=1)
    await one.enter("c", "bob", depth=1)
    with pytest.raises(QueueFull) as caught:
        await one.enter("d", "ann", depth=1)

    assert (caught.value.code, caught.value.lag_nanocredits) == ("queue_full", 5000)
    assert (await one.state()).waiting == 2


# --- spare tickets, draining, changes --------------------------------------------------------------------------------------------


async def test_spare_tickets_yield_to_those_with_a_budget(two: tuple[Worker, Worker]) -> None:
    """They take a seat that nobody wants, are told to stop when somebody does, and are not told when only spare ones wait."""
    one, other = two
    assert (await one.enter("spare", "broke", spare=True)).seated
    await one.enter("spare too", "broke", spare=True)
    assert await one.pools.charge(POOL, "spare", spent_nanocredits=1)
    await other.enter("paid")

    assert not await one.pools.charge(POOL, "spare", spent_nanocredits=2)
    assert (await one.pools.beat({POOL: ["spare", "spare too"]})).yielding == {POOL: ("spare",)}
    await one.leave("spare", 2)
    assert await other.beat("paid") == ("paid",)
    state = await one.state()
    assert (state.spare_used, state.spare_waiting, state.served_nanocredits) == (0, 1, 2)


async def test_a_draining_pool_lets_nobody_in(two: tuple[Worker, Worker]) -> None:
    """Who has a seat keeps it, who waits goes on waiting, and all goes on when it drains no more."""
    one, other = two
    await one.enter("a")
    await other.enter("b")
    await one.pools.configure(POOL, draining=True)
    with pytest.raises(Refusal) as caught:
        await one.enter("c")
    assert caught.value.code == "draining"
    await one.leave("a")
    assert await other.beat("b") == ()
    assert (await one.state()).draining

    await one.pools.configure(POOL, draining=False)
    assert await other.beat("b") == ("b",)


async def test_seats_can_be_added_and_taken_away(two: tuple[Worker, Worker]) -> None:
    """Those that are added are given away at once; who has one that is taken away keeps it."""
    one, _ = two
    await one.enter("a")
    await one.enter("b")
    await one.pools.configure(POOL, seats=2)
    assert set(await one.beat("a", "b")) == {"a", "b"}
    await one.pools.configure(POOL, seats=1)
    await one.enter("c")
    await one.leave("a")

    assert await one.beat("b", "c") == ("b",)


async def test_seats_that_adapt_are_cut_once_for_one_no_and_those_added_are_given_away(two: tuple[Worker, Worker]) -> None:
    """Two workers that hear the same no cut the seats once."""
    one, other = two
    assert await one.pools.adapt("nowhere", Move(time.monotonic(), is_no=True), least=1, most=100) is None
    await one.pools.configure(POOL, seats=40)
    one.clock.pass_s(3600)
    sent_s = time.monotonic()
    both = [await mine.pools.adapt(POOL, Move(sent_s, is_no=True), least=4, most=100) for mine in (one, other)]
    assert [adapted and adapted.seats for adapted in both] == [39, 39]
    await one.pools.configure(POOL, seats=1)
    await one.enter("a")
    await other.enter("b")
    one.clock.pass_s(3600)

    adapted = await one.pools.adapt(POOL, Move(time.monotonic(), back_to=2), least=1, most=2)
    assert adapted is not None
    assert adapted.seats == 2
    assert adapted.cut_s <= sent_s - 3599
    assert await other.beat("b") == ("b",)


@pytest.mark.parametrize("seed", range(3))
async def test_seats_adapt_as_the_rule_says(two: tuple[Worker, Worker], seed: int) -> None:
    """Whatever moves come, in whatever order, the server makes of them what `moved` does."""
    one, _ = two
    rng, seats = random.Random(seed), 16
    await one.pools.configure(POOL, seats=seats)
    found = Found(seats)
    for _ in range(400):
        one.clock.pass_s(rng.randint(1, 4))
        age_s = rng.choice((0.5, 1.5, 2.5, 6.5))  # and seconds between moves: halves stay apart from them
        kind = rng.choice(({"answers": 8}, {"answers": 60}, {"answers": 900}, {"is_no": True}, {"is_no": True, "answers": 6}))
        kind = rng.choice((kind, kind, {"percent": rng.randint(35, 99)}, {"back_to": rng.randint(1, 60)}))
        move = Move(time.monotonic() - age_s, **kind)
        now_ms = one.clock.now_ms
        adapted = await one.pools.adapt(POOL, move, least=2, most=50)
        # Milliseconds pass in this process, too, so a move may be a little older than it says; no cut is as near as that.
        found = moved(found, move, least=2, most=50, now_ms=now_ms, sent_ms=now_ms - round(age_s * 1000))
        assert adapted is not None
        assert adapted.seats == found.seats


async def test_a_pool_that_nobody_knows_stands_at_zero(two: tuple[Worker, Worker]) -> None:
    """States come in the order asked, also of pools that were never used."""
    one, _ = two
    states = await one.pools.states(["other", POOL])

    assert [(state.name, state.seats) for state in states] == [("other", 0), (POOL, 1)]


# --- a server that loses everything ------------------------------------------------------------------------------------------------


async def test_a_lost_server_gives_no_seat_twice(two: tuple[Worker, Worker], ledger_server: LedgerServer) -> None:
    """A new pool gives none until every worker had the time to say which seats it has; the queue is there again as well."""
    one, other = two
    await one.pools.configure(POOL, seats=2)
    await one.enter("a", "ann")
    await other.enter("b", "bob")
    await other.enter("c", "bob")
    ledger_server.flush()
    one.seats = 2
    assert not (await one.enter("new", "ann")).seated
    one.clock.pass_s(BEAT_MS / 2000)
    assert await one.beat("a", "new") == ("a",)
    one.clock.pass_s(BEAT_MS / 2000)
    assert await other.beat("b", "c") == ("b",)

    one.clock.pass_s(BEAT_MS / 1000)
    assert await one.beat("a", "new") == ("a",)
    state = await one.state()
    assert (state.used, state.waiting) == (2, 2)


async def test_a_pool_that_never_was_gives_seats_at_once(two: tuple[Worker, Worker]) -> None:
    """On a server that has lost nothing for a while nobody can have a seat of a pool that is not there."""
    one, _ = two
    await one.pools.learn_age()
    assert not (await one.enter_in("too early", "a")).seated
    one.clock.pass_s(LEARNING_MS / 1000)

    assert (await one.enter_in("new", "a")).seated


async def test_a_ledger_that_begins_gives_seats_at_once(two: tuple[Worker, Worker]) -> None:
    """Nobody can have used a server of our own that began without data, so there is nothing to wait for."""
    one, other = two
    await one.pools.learn_age(is_first=True)
    await other.pools.learn_age()

    assert (await other.enter_in("new", "a")).seated


@pytest.mark.parametrize("who", ["knew it", "is new itself"])
async def test_a_lost_pool_is_not_taken_for_a_new_one(two: tuple[Worker, Worker], ledger_server: LedgerServer, who: str) -> None:
    """Neither by a worker that knows that it was there, nor by one that comes to a server which has just lost everything."""
    one, other = two
    await one.pools.learn_age()
    one.clock.pass_s(LEARNING_MS / 1000)
    assert (await one.enter_in("new", "a")).seated
    ledger_server.flush()
    asks = one if who == "knew it" else other
    if asks is other:
        await other.pools.learn_age()

    assert not (await asks.enter_in("new", "b")).seated
    assert (await one.pools.beat({"new": ["a"]})).seated == {"new": ("a",)}
    one.clock.pass_s(LEARNING_MS / 1000)
    assert (await asks.pools.beat({"new": ["b"]})).seated == {"new": ()}


async def test_workers_know_which_they_are_among_how_many(two: tuple[Worker, Worker]) -> None:
    """Those that listen count, each once; one that does not is thought to come after them."""
    one, other = two
    async with one.pools.listen(one.hear), other.pools.listen(other.hear), asyncio.timeout(PROMPTLY_S):
        await asyncio.gather(one.pools.subscribed.wait(), other.pools.subscribed.wait())
        assert sorted([await one.pools.number_among_workers(), await other.pools.number_among_workers()]) == [(0, 2), (1, 2)]
    while await one.pools.number_among_workers() != (0, 1):  # noqa: ASYNC110 - the server sees the connections end when it does
        await asyncio.sleep(0.001)


async def test_a_seat_that_a_worker_gave_by_itself_is_told_with_the_next_beat(two: tuple[Worker, Worker]) -> None:
    """It counts as taken from then on, whether or not there was one: the request runs."""
    one, other = two
    await one.enter("a")
    await other.enter("b")
    other.pools.took(POOL, "b")

    assert await other.beat("b") == ("b",)
    assert (await one.state()).used == 2


async def test_a_replica_that_lagged_behind_is_told_who_has_a_seat(two: tuple[Worker, Worker], ledger_server: LedgerServer) -> None:
    """It takes over without having heard of the last seat that was given: the beat of who has it says so."""
    one, other = two
    await one.enter("a", "ann")
    await other.enter("b", "bob")
    with ledger_server.client() as client:
        before = {name: client.dump(name) for name in client.scan_iter()}
        await one.leave("a")
        assert await other.beat("b") == ("b",)
        client.delete(*client.scan_iter())
        for name, dumped in before.items():
            client.restore(name, 0, dumped)

    assert await other.beat("b") == ("b",)
    assert (await one.state()).used == 2
    one.clock.pass_s(LEASE_MS / 2000)
    await other.beat("b")
    one.clock.pass_s(LEASE_MS / 2000)
    assert await other.beat("b") == ("b",)
    state = await one.state()
    assert (state.used, state.waiting) == (1, 0)


async def test_what_is_over_is_forgotten(two: tuple[Worker, Worker], ledger_server: LedgerServer) -> None:
    """Thousands of accounts and tickets that came and went leave next to nothing behind, though the pool is never without requests."""
    one, other = two
    await one.pools.configure(POOL, seats=41)
    await one.enter("stays", "stays")
    for n in range(0, 2000, 40):
        names = [(f"t{m}", f"u{m}") for m in range(n, n + 40)]
        await asyncio.gather(*(other.enter(*name) for name in names))
        await asyncio.gather(*(other.leave(ticket) for ticket, _ in names))
        await one.enter(f"more-{n}", "stays", cost=200)
        await one.leave(f"more-{n}", 200)
        one.clock.pass_s(1)
        await one.beat("stays")
    with ledger_server.client() as client:
        pool = read_pool(client, POOL)
        sizes = [
            client.zcard(keys.of_pool(POOL, "order")),
            client.zcard(keys.of_pool(POOL, "leases")),
            client.llen(keys.of_pool(POOL, "ended")),
        ]

    assert pool is not None
    assert len(pool.tickets) < 15 * 41
    assert len(pool.members) < 150
    assert sizes[0] < 150
    assert sizes[1] == 1
    assert sizes[2] < 15 * 41


# --- many at once ------------------------------------------------------------------------------------------------------------------


async def test_two_workers_never_use_more_seats_than_there_are(ledger_server: LedgerServer) -> None:
    """Sixty requests of six accounts race for three seats through two workers: all are served, three at a time at most."""
    running, most, done = 0, 0, 0

    async def request(mine: Worker, waiting: dict[str, asyncio.Event], ticket: str, account: str) -> None:
        nonlocal running, most, done
        seat = waiting.setdefault(ticket, asyncio.Event())
        if (await mine.enter(ticket, account, depth=100)).seated:
            seat.set()
        await seat.wait()
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        done += 1
        await mine.leave(ticket)

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(PROMPTLY_S))
        workers = [await stack.enter_async_context(worker(ledger_server, None, learning_ms=0)) for _ in range(2)]
        await workers[0].pools.configure(POOL, seats=3)
        waiting: list[dict[str, asyncio.Event]] = [{}, {}]
        hears: list[Callable[[str, str], None]] = [lambda _, ticket, mine=mine: mine[ticket].set() for mine in waiting]
        for mine, hear in zip(workers, hears, strict=True):
            await stack.enter_async_context(mine.pools.listen(hear))
            await mine.pools.subscribed.wait()
        async with asyncio.TaskGroup() as group:
            for n in range(60):
                group.create_task(request(workers[n % 2], waiting[n % 2], f"t{n}", f"u{n % 6}"))
        state = await workers[0].state()

    assert (most, done) == (3, 60)
    assert (state.used, state.waiting, state.served_nanocredits) == (0, 0, 6000)
