"""The background audit: it finds what is wrong where something changes soon, elsewhere within a round, and forgets nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from proxy import config
from proxy.domain import AccountId, Limit, Path, Plan
from proxy.ledger import Store, keys, open_ledger
from proxy.ledger.auditing import Audits
from proxy.policy.auditing import Pace, oldest_visit_ms
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer, ledger_binaries

ORG, ANN, BOB = AccountId("org:acme"), AccountId("user:ann"), AccountId("user:bob")
LIMIT = 1_000_000
DAY_MS = 86_400_000
PACE = Pace(interval_s=60, walk_s=3600, visits_per_s=20)
SLOW = Pace(interval_s=60, walk_s=3600, visits_per_s=4)


@pytest.fixture(params=list(ledger_binaries()))
def server(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> LedgerServer:
    server = ledger_servers(request.param)
    server.flush()
    return server


@pytest.fixture
def clock() -> Clock:
    """It starts at a noon to come, so that no day turns; entries of journals bear the server's own time, which must not be later."""
    return Clock((int(time.time() * 1000) // DAY_MS + 1) * DAY_MS + DAY_MS // 2)


def opened(server: LedgerServer, clock: Clock) -> contextlib.AbstractAsyncContextManager[Store]:
    return open_ledger(config.LedgerSection(url=server.url, deadline_ms=10_000), now_ms=clock)


@pytest.fixture
async def store(server: LedgerServer, clock: Clock) -> AsyncIterator[Store]:
    """An organisation with two users, each with some history."""
    async with opened(server, clock) as store:
        await store.directory.put_plan(Plan("everyone", (Limit(LIMIT, "day"),)), operation_id="plan")
        await store.directory.create_account(ORG, plan="everyone", operation_id="org")
        for name in (ANN, BOB):
            await store.directory.create_account(name, parent=ORG, plan="everyone", operation_id=name)
            await spend(store, (ORG, name), f"first-{name}", 100)
        yield store


async def spend(store: Store, path: Path, hold_id: str, amount: int) -> None:
    await store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
    await store.ledger.settle(path, hold_id, spent_nanocredits=amount)


async def people(store: Store, count: int) -> list[Path]:
    """So many people of their own, who have all spent something."""
    paths = [(AccountId(f"user:{n:04}"),) for n in range(count)]
    for path in paths:
        await store.directory.create_account(path[0], plan="everyone", operation_id=path[0])
        await spend(store, path, f"first-{path[0]}", 10)
    return paths


async def go_on(store: Store, clock: Clock, seconds: int, pace: Pace = PACE) -> Audits:
    """Let so many seconds pass, with a step of the audit in each."""
    stands = None
    for _ in range(seconds):
        clock.pass_s(1)
        stands = await store.auditor.go_on(pace)
    assert stands is not None
    return stands


async def tamper(store: Store, path: Path) -> None:
    """Change a total behind the journal's back."""
    await store.engine.command("HINCRBY", keys.account(path[0], path[-1]), "expired", 1)


async def at_the_beginning_of_a_round(store: Store, clock: Clock) -> None:
    """Of a book that takes five minutes to walk: whoever comes late in the order of ids is now visited for changes alone."""
    await people(store, 300)
    stands = await go_on(store, clock, 310, SLOW)
    while stands.last is None or stands.waiting or stands.now.accounts > 5:
        stands = await go_on(store, clock, 1, SLOW)
    assert stands.broken == {}


async def test_a_wrong_balance_in_a_touched_account_is_found_after_the_interval(store: Store, clock: Clock) -> None:
    """The walk is elsewhere; but who spends is visited within a minute or so, and stands as broken until mended."""
    await at_the_beginning_of_a_round(store, clock)
    await tamper(store, (ORG, BOB))
    assert (await go_on(store, clock, 70, SLOW)).broken == {}, "nobody has touched it"
    await spend(store, (ORG, BOB), "again", 5)
    stands = await go_on(store, clock, 63, SLOW)
    assert set(stands.broken) == {BOB}
    assert stands.broken[BOB][0].startswith("expired: ")
    await store.engine.command("HINCRBY", keys.account(ORG, BOB), "expired", -1)
    assert (await go_on(store, clock, 62, SLOW)).broken == {}


async def test_what_goes_on_unannounced_is_audited_as_long_as_it_is_open(store: Store, clock: Clock) -> None:
    """A request that runs for minutes is announced once; its end is audited nevertheless."""
    await at_the_beginning_of_a_round(store, clock)
    await store.ledger.hold((ORG, BOB), "long", want_nanocredits=50, least_nanocredits=50)
    for n in range(3):
        await go_on(store, clock, 40, SLOW)
        await store.ledger.debit((ORG, BOB), "long", spent_nanocredits=n)
    await tamper(store, (ORG, BOB))
    await store.ledger.void((ORG, BOB), "long")
    assert set((await go_on(store, clock, 63, SLOW)).broken) == {BOB}


async def test_a_change_right_after_a_visit_is_audited_though_it_was_announced_before(store: Store, clock: Clock) -> None:
    """A process announces a tree once in half a minute; what it changes until then stands under the same mark."""
    await at_the_beginning_of_a_round(store, clock)
    await spend(store, (ORG, BOB), "first", 5)
    await go_on(store, clock, 45, SLOW)
    await spend(store, (ORG, BOB), "announced", 5)
    await go_on(store, clock, 18, SLOW)  # visited a moment ago
    await tamper(store, (ORG, BOB))
    await spend(store, (ORG, BOB), "not announced", 5)
    assert set((await go_on(store, clock, 63, SLOW)).broken) == {BOB}


async def test_a_wrong_balance_that_nobody_touches_is_found_within_a_round(store: Store, clock: Clock) -> None:
    """The walk comes to everybody within its period, here five minutes; what was found in the tree before proves as much as its journal."""
    paths = await people(store, 300)
    pace = Pace(interval_s=10, walk_s=300, visits_per_s=4)
    stands = await go_on(store, clock, 200, pace)
    assert stands.last is not None
    assert stands.broken == {}
    await go_on(store, clock, 70, pace)
    await tamper(store, paths[150])
    assert set((await go_on(store, clock, 305, pace)).broken) == {paths[150][0]}
    oldest_ms = oldest_visit_ms((stands := await go_on(store, clock, 1, pace)).now, stands.last)
    assert oldest_ms is not None
    assert 0 <= clock.now_ms - oldest_ms <= 310_000


async def test_what_changes_faster_than_is_visited_waits_its_turn_and_is_not_forgotten(store: Store, clock: Clock) -> None:
    """Everybody changes at once: so many a second are visited, who waits longest first, and the age of the audit says so meanwhile."""
    paths = await people(store, 200)
    pace = Pace(interval_s=5, walk_s=100_000, visits_per_s=4)
    await go_on(store, clock, 400, pace)
    for n, path in enumerate(paths):
        clock.now_ms += 10
        await spend(store, path, f"again-{n}", 5)
    for path in (paths[0], paths[-1]):
        await tamper(store, path)
    stands = await go_on(store, clock, 15, pace)
    assert set(stands.broken) == {paths[0][0]}, "who waits longest comes first"
    assert stands.waiting > 100
    assert clock.now_ms - stands.audited_ms > 10_000
    stands = await go_on(store, clock, 140, pace)
    assert set(stands.broken) == {paths[0][0], paths[-1][0]}
    assert stands.waiting < 20


async def test_another_goes_on_where_one_died(server: LedgerServer, store: Store, clock: Clock) -> None:
    """One process audits at a time; another that takes over after its lease repeats nothing and leaves nothing out."""
    await people(store, 40)
    pace = Pace(interval_s=60, walk_s=3600, visits_per_s=4)
    first = await go_on(store, clock, 5, pace)
    async with opened(server, clock) as other:
        assert (await other.auditor.go_on(pace)) == first
        await store.engine.command("DEL", keys.lease("audit"))
        await store.engine.command("ZADD", keys.AUDITED_ROOTS, clock.now_ms - 1, ORG)  # it died in a visit
        await tamper(other, (ORG, ANN))
        await store.engine.command("ZADD", keys.of_root(ORG, keys.UNPROVED), clock.now_ms - 1, ANN)
        second = await go_on(other, clock, 1, pace)
        assert set(second.broken) == {ANN}
        assert second.now.accounts > first.now.accounts
        assert second.now.began_ms == first.now.began_ms


async def test_the_figures_are_those_of_a_whole_audit(store: Store, clock: Clock) -> None:
    """What has expired, what is left and what is open, after a round and after changes, as if all were visited at once."""
    paths = await people(store, 30)
    await go_on(store, clock, 100)
    await store.ledger.hold(paths[3], "open", want_nanocredits=50, least_nanocredits=50)
    await store.ledger.grant(paths[4], "gift", credits_nanocredits=70)
    await store.ledger.transfer(paths[5], (ORG, ANN), "to-ann", credits_nanocredits=30)
    stands = await go_on(store, clock, 125)
    whole = await store.journal.audit()
    found = stands.figures
    assert (found.open_holds, found.left_nanocredits) == (whole.open_holds, whole.left_nanocredits)
    assert found.expired_nanocredits == whole.expired_nanocredits
    assert (whole.broken, stands.broken) == ((), {})


async def test_what_leaves_an_organisation_and_comes_back_is_proved_at_every_level(store: Store, clock: Clock) -> None:
    """Charged above the giver, collected there, restored there: the books balance, and an amount that is missing there is found."""
    eve, org, later = (await people(store, 1))[0], (ORG,), clock.now_ms + 9 * DAY_MS
    ann, bob = (ORG, ANN), (ORG, BOB)
    await go_on(store, clock, 70)
    await store.ledger.grant(ann, "bonus", credits_nanocredits=40)
    await store.ledger.transfer(ann, eve, "lent", credits_nanocredits=300)
    await store.ledger.transfer(eve, ann, "back", credits_nanocredits=200, comes_back=True)
    await store.ledger.transfer(bob, org, "up", credits_nanocredits=30)
    await store.ledger.collect(bob, eve, "c1", expires_at_ms=later)
    clock.pass_s(DAY_MS // 1000)
    assert await store.ledger.collect(bob, eve, "c2", expires_at_ms=later) == LIMIT - 300
    totals = (await store.directory.account(ORG)).totals
    assert (totals.given, totals.granted, totals.collected) == (330 + LIMIT - 300, 230, LIMIT - 300)
    assert ((await go_on(store, clock, 130)).broken, (await store.journal.audit()).broken) == ({}, ())
    await store.engine.command("HINCRBY", keys.account(ORG, ORG), "given", -1)
    await store.ledger.transfer(ann, eve, "again", credits_nanocredits=1)
    stands = await go_on(store, clock, 63)
    assert (set(stands.broken), stands.broken[ORG][0].partition(":")[0]) == ({ORG}, "given")


async def test_a_hold_that_an_account_does_not_know_of_is_found(store: Store, clock: Clock) -> None:
    """What accounts hold and run is compared with the open holds, too."""
    await go_on(store, clock, 70)
    await store.ledger.hold((ORG, ANN), "open", want_nanocredits=50, least_nanocredits=50)
    await store.engine.command("DEL", keys.hold(ORG, "open"))
    assert set((await go_on(store, clock, 63)).broken) == {ORG, ANN}


async def test_a_journal_that_was_cut_beyond_what_is_folded_is_proved_from_its_checkpoint(store: Store, clock: Clock) -> None:
    """An audit that slept while journals were cut goes on from the checkpoint, and finds as much as before."""
    await go_on(store, clock, 70)
    for n in range(5):
        await spend(store, (ORG, ANN), f"unseen-{n}", 5)
    assert await store.trimmer.trim(before_ms=2**42) > 0
    await spend(store, (ORG, BOB), "later", 5)
    assert (await go_on(store, clock, 130)).broken == {}
    await tamper(store, (ORG, ANN))
    assert set((await go_on(store, clock, 63)).broken) == {ANN}


async def test_a_long_journal_and_a_large_tree_are_audited_piece_by_piece(store: Store, clock: Clock) -> None:
    """More entries than are read at a time, of more accounts than are compared at a time: nobody is left out."""
    names = [AccountId(f"user:{n:04}") for n in range(250)]
    for name in names:
        await store.directory.create_account(name, parent=ORG, plan="everyone", operation_id=name)
        await spend(store, (ORG, name), f"a-{name}", 5)
        await spend(store, (ORG, name), f"b-{name}", 5)
    pace = Pace(interval_s=20, walk_s=1_000_000, visits_per_s=20)
    stands = await go_on(store, clock, 100, pace)
    while stands.last is None or stands.now.accounts > 5:
        stands = await go_on(store, clock, 1, pace)
    for name in names:
        await spend(store, (ORG, name), f"c-{name}", 5)
        await spend(store, (ORG, name), f"d-{name}", 5)
        await spend(store, (ORG, name), f"e-{name}", 5)
    await tamper(store, (ORG, names[-1]))
    stands = await go_on(store, clock, 42, pace)
    assert stands.now.after < names[-10], "the walk was not there yet"
    assert set(stands.broken) == {names[-1]}
