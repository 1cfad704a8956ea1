"""Budgets on a real cluster: trees on every node, keys that move while they are used, a primary that dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from proxy import config
from proxy.domain import AccountId, Limit, Path, Plan
from proxy.errors import LedgerUnavailable, SetupError
from proxy.ledger import Store, keys, open_ledger
from proxy.ledger.connection import servers
from proxy.ledger.giving import giving_on
from proxy.ledger.pools import Pools
from proxy.ledger.recount import Pace, Recounter
from tests.support.ledger_bench import Clock
from tests.support.ledger_cluster import LedgerCluster, Node, running_cluster
from tests.support.ledger_server import ledger_binaries
from tests.support.use_counting import open_world

TREES = 24
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCluster]:
    """One cluster for all tests that leave it whole."""
    with running_cluster(next(iter(ledger_binaries().values())), tmp_path_factory.mktemp("cl")) as running:
        yield running


@pytest.fixture
async def store(cluster: LedgerCluster) -> AsyncIterator[Store]:
    """A process's view of the emptied cluster, with a plan."""
    cluster.flush()
    async with open_ledger(config.LedgerSection(url=cluster.url, deadline_ms=5_000)) as store:
        await store.directory.put_plan(Plan("everyone", (Limit(LIMIT, "ever"),)), operation_id="plan")
        yield store


async def open_trees(store: Store) -> list[Path]:
    """So many organisations with a user each that every node has some."""
    paths = []
    for n in range(TREES):
        root = await store.directory.create_account(AccountId(f"org:{n}"), plan="everyone", operation_id=f"root-{n}")
        user = await store.directory.create_account(AccountId(f"user:{n}"), parent=root.id, plan="everyone", operation_id=f"user-{n}")
        paths.append(user.path)
    return paths


async def spend(store: Store, path: Path, hold_id: str, amount: int) -> None:
    await store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
    await store.ledger.settle(path, hold_id, spent_nanocredits=amount)


def owners(cluster: LedgerCluster, paths: list[Path]) -> set[int]:
    return {cluster.owner_of(slot_of(path)).port for path in paths}


def slot_of(path: Path) -> int:
    return int(key_slot(keys.balance(path[0], path[0]).encode()))


async def test_trees_on_every_node_are_debited_and_balance(cluster: LedgerCluster, store: Store) -> None:
    """Holds, settles and transfers between trees of all nodes: exact amounts, balanced books, no problem reported."""
    assert await store.check() == []
    paths = await open_trees(store)
    assert len(owners(cluster, paths)) == 3
    await asyncio.gather(*(spend(store, path, f"hold-{n}", 100 + n) for n, path in enumerate(paths)))
    for n, path in enumerate(paths):
        target = paths[(n + 1) % TREES]
        await store.ledger.transfer(path[:1], target, f"gift-{n}", credits_nanocredits=10, reason="a gift")
    for n, path in enumerate(paths):
        user = await store.directory.account(path[-1])
        assert (user.totals.spent, user.totals.held, user.totals.granted) == (100 + n, 0, 10)
    report = await store.journal.audit()
    assert (report.broken, report.accounts, report.open_holds) == ((), 2 * TREES, 0)


async def test_credits_are_lent_handed_out_and_capped_across_nodes(cluster: LedgerCluster, store: Store) -> None:
    """Loans, dividends and agents keep what they note beside the trees, on whichever node that is."""
    paths = await open_trees(store)
    giving = giving_on(store.engine, store.directory, store.ledger, commons=lambda: config.Commons(account="org:0"))
    due_at_ms = store.engine.now_ms() + 3_600_000
    terms = {"credits_nanocredits": 7, "due_at_ms": due_at_ms, "reason": "", "accepted": True}
    for n in range(4):
        loan = await giving.loans.offer(f"loan-{n}", paths[n][-1], paths[n + 1][-1], **terms)
        assert (await giving.loans.repay(loan, None, operation_id=f"repay-{n}")).state == "repaid"
    await giving.agents.open(paths[5][1:], "coder", limits=(Limit(3, "ever"),), labels={}, operation_id="agent", agents_max=5)
    assert await giving.agents.count(paths[5][-1]) == 1
    await giving.dividends.declare("d", credits_nanocredits=TREES, by="equal", expires_at_ms=None, reason="")
    while await giving.dividends.step():
        pass
    dividend = await giving.dividends.find("d")
    assert (dividend.accounts, dividend.paid_nanocredits) == (TREES, TREES)
    assert (await store.journal.audit()).broken == ()


async def test_use_is_counted_on_a_cluster_whatever_the_roots_are(cluster: LedgerCluster) -> None:
    """Three processes, people under many roots on all nodes: the tallies are what the balances say, and a recount finds a lost flush."""
    async with open_world(cluster, Clock(), processes=3) as world:
        for n in range(12):
            await world.account(f"org{n}")
            await world.account(f"person{n}", parent=f"org{n}")
            for process in range(3):
                await world.spend(f"person{n}", 1_000 * (n + 1), by=process)
        await world.flush()
        await world.check()
        await world.spend("ann", 7, by=1)
        world.stores[1].moves.pending.take(10)
        store = world.stores[0]
        done = await Recounter(store.engine, store.equality, Pace(batch=7, pause_s=0.0, settle_s=0.2)).run()
        assert {drift.use_nanocredits for drift in done.drifts if drift.window != "half_life"} == {7}
        await world.check()


async def test_no_overspend_on_a_cluster(store: Store) -> None:
    """200 requests at once on a budget for 37 admit exactly 37."""
    [path, *_] = await open_trees(store)
    await store.ledger.set_limits(path, "narrow", limits=(Limit(37, "ever"),))
    asked = (store.ledger.hold(path, f"one-{n}", want_nanocredits=1, least_nanocredits=1) for n in range(200))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 37


async def test_seats_are_handed_over_on_a_cluster(store: Store) -> None:
    """A pool's seats live on one node; whoever waits elsewhere hears of its turn, and overdue holds are swept on every node."""
    paths = await open_trees(store)
    pools = Pools(store.engine, learning_ms=0)
    heard = asyncio.Event()
    async with pools.listen(lambda pool, ticket: heard.set()):
        await asyncio.wait_for(pools.subscribed.wait(), 10)
        entered = {"weights": (1, 1), "estimate_nanocredits": 5, "seats": 1, "depth": 4}
        assert (await pools.enter("p", "first", path=paths[0], **entered)).seated
        assert not (await pools.enter("p", "second", path=paths[1], **entered)).seated
        await pools.leave("p", "first", spent_nanocredits=5)
        await asyncio.wait_for(heard.wait(), 10)
    assert await store.ledger.expire_due() == 0


async def move_slot(cluster: LedgerCluster, slot: int, source: Node, target: Node) -> AsyncIterator[str]:
    """Move a slot as an operator's tool does, pausing where the keys stand on both sides."""
    with source.client() as giver, target.client() as taker:
        source_id, target_id = source.node_id, target.node_id
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        names = giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        if names:
            giver.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names)
        yield "moved, not told"
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


async def test_keys_that_move_are_followed(cluster: LedgerCluster, store: Store) -> None:
    """While a tree's slot moves to another node, what runs is settled there and what begins waits; each is charged once."""
    [path, *_] = await open_trees(store)
    slot = slot_of(path)
    source = cluster.owner_of(slot)
    target = next(node for node in cluster.primaries if node.port != source.port)
    await store.ledger.hold(path, "before", want_nanocredits=50, least_nanocredits=50)
    async for _ in move_slot(cluster, slot, source, target):
        await store.ledger.settle(path, "before", spent_nanocredits=40)  # answered by ASK
        begun = asyncio.ensure_future(spend(store, path, "between", 7))  # answered by TRYAGAIN, for its hold is on neither node
    await begun
    await spend(store, path, "after", 3)  # answered by MOVED
    assert (await store.directory.account(path[-1])).totals.spent == 50
    assert (await store.journal.audit()).broken == ()


async def test_a_primary_that_dies_is_replaced(tmp_path_factory: pytest.TempPathFactory) -> None:
    """While the primary is gone its trees answer that the ledger is away, others go on; the replica takes over and the books balance."""
    binary = next(iter(ledger_binaries().values()))
    with running_cluster(binary, tmp_path_factory.mktemp("cl")) as cluster:
        async with open_ledger(config.LedgerSection(url=cluster.url, deadline_ms=500)) as store:
            await store.directory.put_plan(Plan("everyone", (Limit(LIMIT, "ever"),)), operation_id="plan")
            paths = await open_trees(store)
            doomed = cluster.primaries[0]
            [hit, *_] = [path for path in paths if cluster.owner_of(slot_of(path)) is doomed]
            [other, *_] = [path for path in paths if cluster.owner_of(slot_of(path)) is not doomed]
            await spend(store, hit, "before", 11)
            with doomed.client() as client:
                client.wait(1, 5_000)
            doomed.process.kill()
            with pytest.raises(LedgerUnavailable):
                await spend(store, hit, "during", 5)
            await spend(store, other, "meanwhile", 5)
            async with asyncio.timeout(30):
                while True:
                    try:
                        await spend(store, hit, "during", 5)  # by the same id: whether the first try landed does not matter
                        break
                    except LedgerUnavailable:
                        continue
            assert (await store.directory.account(hit[-1])).totals.spent == 16
            assert (await store.journal.audit()).broken == ()


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://host", "redis+cluster://a:1,b/", "redis+cluster://a:1/0"])
def test_a_cluster_is_named_by_its_nodes(url: str) -> None:
    """What names no node with its port, or a database, which a cluster has none of, is told at once."""
    with pytest.raises(SetupError, match=r"redis\+cluster://host:port"):
        servers(url, password=None, deadline_s=1, fsync_wait_s=1)


async def test_a_cluster_that_is_away_is_waited_for_by_whoever_starts() -> None:
    """No node answers: the ledger is unavailable, within the deadline."""
    section = config.LedgerSection(url="redis+cluster://127.0.0.1:1,127.0.0.1:2", deadline_ms=200)
    with pytest.raises(LedgerUnavailable):
        async with open_ledger(section):
            raise AssertionError("nobody answered")
