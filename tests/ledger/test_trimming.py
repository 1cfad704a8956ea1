"""Journals that are cut: the books still balance, histories go as far back as what is left, and nobody is in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from proxy import config
from proxy.domain import AccountId, Limit, Path, Plan
from proxy.ledger import Store, keys, open_ledger
from proxy.ledger.checkpoints import Checkpoints, Folded
from tests.support.ledger_server import LedgerServer, ledger_binaries

ORG, ANN, BOB = AccountId("org:acme"), AccountId("user:ann"), AccountId("user:bob")
LIMIT = 1_000_000


@pytest.fixture(params=list(ledger_binaries()))
def server(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> LedgerServer:
    """Each kind of server, emptied."""
    server = ledger_servers(request.param)
    server.flush()
    return server


def opened(server: LedgerServer) -> contextlib.AbstractAsyncContextManager[Store]:
    return open_ledger(config.LedgerSection(url=server.url, deadline_ms=10_000))


@pytest.fixture
async def store(server: LedgerServer) -> AsyncIterator[Store]:
    """An organisation with two users, each with some history: requests, a gift, a grant that is used up."""
    async with opened(server) as store:
        await store.directory.put_plan(Plan("everyone", (Limit(LIMIT, "day"), Limit(5 * LIMIT, "ever"))), operation_id="plan")
        await store.directory.create_account(ORG, plan="everyone", operation_id="org")
        for name in (ANN, BOB):
            await store.directory.create_account(name, parent=ORG, plan="everyone", operation_id=name)
        await store.ledger.grant((ORG, ANN), "welcome", credits_nanocredits=50)
        await store.ledger.transfer((ORG, ANN), (ORG, BOB), "gift", credits_nanocredits=20)
        for n in range(12):
            await spend(store, (ORG, (ANN, BOB)[n % 2]), f"hold-{n}", 10 + n)
        yield store


async def spend(store: Store, path: Path, hold_id: str, amount: int) -> None:
    await store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
    await store.ledger.settle(path, hold_id, spent_nanocredits=amount)


async def cut(store: Store) -> int:
    """Cut all that there is so far."""
    return await store.trimmer.trim(before_ms=store.engine.now_ms() + 1000)


async def test_a_journal_is_not_cut_for_a_little(store: Store) -> None:
    """What is old enough waits until something is older by the slack; then all goes that is old enough."""
    first, *_, last = await store.engine.command("XRANGE", keys.of_root(ORG, keys.JOURNAL), "-", "+")
    begins_ms, before_ms = int(first[0].split(b"-")[0]), int(last[0].split(b"-")[0]) + 1000
    assert await store.trimmer.trim(before_ms=before_ms, slack_ms=before_ms - begins_ms) == 0
    assert await store.trimmer.trim(before_ms=before_ms, slack_ms=before_ms - begins_ms - 1) > 0
    assert await left_in(store) == 1


async def left_in(store: Store) -> int:
    return int(await store.engine.command("XLEN", keys.of_root(ORG, keys.JOURNAL)))


async def test_what_is_left_still_gives_the_balances(server: LedgerServer, store: Store) -> None:
    """After a cut the books balance for who was here and for who comes anew, and go on to, cut after cut."""
    whole = await store.journal.audit()
    accounts = [await store.directory.account(name) for name in (ORG, ANN, BOB)]
    assert await cut(store) == whole.entries - 1
    assert await left_in(store) == 1
    assert [await store.directory.account(name) for name in (ORG, ANN, BOB)] == accounts
    for n in range(3):
        async with opened(server) as other:
            assert (await other.journal.audit()).entries == (await store.journal.audit()).entries
            assert (await other.journal.audit()).broken == ()
        await spend(store, (ORG, ANN), f"later-{n}", 5)
        assert (await store.journal.audit()).broken == ()
        assert await cut(store) > 0
    assert (await store.journal.audit()).entries == whole.entries + 3 * 2


async def test_a_balance_that_was_tampered_with_is_found_after_a_cut(server: LedgerServer, store: Store) -> None:
    """A checkpoint proves as much as the entries did; and a root whose books are broken keeps all that it has."""
    await cut(store)
    await spend(store, (ORG, ANN), "later", 5)
    await store.engine.command("HINCRBY", keys.account(ORG, ANN), "expired", 1)
    before = await left_in(store)
    async with opened(server) as other:
        assert [line.partition(": ")[0] for line in (await other.journal.audit()).broken] == [ANN]
        assert await cut(other) == 0
    assert await left_in(store) == before


async def test_histories_go_back_as_far_as_what_is_left(store: Store) -> None:
    """Entries that are gone are in nobody's history, and a place in it from before the cut still stands for the same entry."""
    whole = (await store.journal.entries(ANN, limit=100)).items
    page = await store.journal.entries(ANN, limit=3)
    middle = whole[5].at_ms
    assert await store.trimmer.trim(before_ms=middle) > 0
    left = tuple(entry for entry in whole if entry.at_ms >= middle)
    assert (await store.journal.entries(ANN, limit=100)).items == left
    assert (await store.journal.entries(ANN, after=page.next, limit=2)).items == left[3:5]
    assert len((await store.journal.entries(ORG, limit=100)).items) == await left_in(store)


async def test_trimmers_at_once_cut_once(server: LedgerServer, store: Store) -> None:
    """Two processes that trim together while requests go on: no entry is folded twice, none is lost."""
    async with opened(server) as other:
        await other.directory.put_plan(Plan("everyone", (Limit(LIMIT, "day"), Limit(5 * LIMIT, "ever"))), operation_id="plan")
        for n in range(5):
            spends = (spend(store, (ORG, BOB), f"beside-{n}-{m}", 3) for m in range(20))
            await asyncio.gather(cut(store), cut(other), store.journal.audit(), other.journal.audit(), *spends)
            for one in (store, other):
                assert (await one.journal.audit()).broken == ()
    assert (await store.directory.account(BOB)).totals.spent == sum(10 + n for n in range(1, 12, 2)) + 300


async def test_a_trimmer_that_died_is_followed_by_another(store: Store) -> None:
    """A journal that was cut and an index that was not: the history leaves out what is gone, and the next cut tidies up."""
    checkpoints, journal = Checkpoints(store.engine), keys.of_root(ORG, keys.JOURNAL)
    newest = (await store.engine.command("XREVRANGE", journal, "+", "-", "COUNT", 2))[::-1]
    folded = Folded()
    await store.journal.fold_on(ORG, folded, newest[0][0].decode())
    assert await checkpoints.write(ORG, folded, before=Folded(), first_kept=newest[1][0].decode())
    assert not await checkpoints.write(ORG, Folded("1-1", 5), before=Folded(), first_kept="1-1")
    assert (await store.journal.audit()).broken == ()
    assert len((await store.journal.entries(BOB, limit=100)).items) == 1
    await spend(store, (ORG, BOB), "later", 5)
    await cut(store)
    assert await store.engine.command("LLEN", keys.journal_index(ORG, BOB)) == 1
    assert (await store.journal.audit()).broken == ()


async def test_a_trimmer_that_came_late_takes_nobodys_checkpoint_away(store: Store) -> None:
    """Two have folded up to the same entry, and one was overtaken: what it wrote goes by itself, what stands for the journal stays."""
    checkpoints, journal = Checkpoints(store.engine), keys.of_root(ORG, keys.JOURNAL)
    ids = [row[0].decode() for row in await store.engine.command("XRANGE", journal, "-", "+", "COUNT", 6)]
    early, late = Folded(), Folded()
    await store.journal.fold_on(ORG, early, ids[2])
    await store.journal.fold_on(ORG, late, ids[4])
    assert await checkpoints.write(ORG, early, before=Folded(), first_kept=ids[3])
    assert not await checkpoints.write(ORG, late, before=Folded(), first_kept=ids[5])
    then = await checkpoints.read(ORG)
    await store.journal.fold_on(ORG, then, ids[4])
    assert await checkpoints.write(ORG, then, before=await checkpoints.read(ORG), first_kept=ids[5])
    assert not await checkpoints.write(ORG, late, before=Folded(), first_kept=ids[5])
    hashes = await store.engine.command("KEYS", f"cl:{{{ORG}}}:k:*")
    lasting = [key for key in hashes if await store.engine.command("PTTL", key.decode()) < 0]
    assert (len(hashes), len(lasting)) == (4, 1)
    await store.engine.command("DEL", *(key.decode() for key in hashes if key not in lasting))
    assert (await Checkpoints(store.engine).read(ORG)).entries == 5
    assert (await store.journal.audit()).broken == ()


async def test_what_is_over_is_folded_together(ledger_servers: Callable[[str], LedgerServer]) -> None:
    """What an audit keeps, and what a checkpoint holds, grow with the limits of an account and not with its days."""
    server = ledger_servers(next(iter(ledger_binaries())))
    server.flush()
    now_ms = 1_795_348_800_000
    async with open_ledger(config.LedgerSection(url=server.url, deadline_ms=10_000), now_ms=lambda: now_ms) as store:
        await store.directory.put_plan(Plan("everyone", (Limit(LIMIT, "day"),)), operation_id="plan")
        account = await store.directory.create_account(ANN, plan="everyone", operation_id="ann")
        for day in range(30):
            await store.ledger.grant(account.path, f"g{day}", credits_nanocredits=5, expires_at_ms=now_ms + 1000)
            await spend(store, account.path, f"hold-{day}", LIMIT + 5)
            now_ms += 86_400_000
            assert (await store.journal.audit()).broken == ()
        assert await store.trimmer.trim(before_ms=2**42) > 0
        kept = (await Checkpoints(store.engine).read(ANN)).fold.accounts[ANN]
        assert len([source for source in kept if source.startswith("w:")]) == 2  # the present one, and all the others
