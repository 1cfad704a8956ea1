"""What the ledger's client does when the link or the server fails: every call once, or a clear no within the deadline."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy import config
from proxy.domain import AccountId, Limit, Plan
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger import Store, open_ledger
from proxy.ledger.changes import FRESH_S
from tests.support.faulty_link import FaultyLink, faulty_link
from tests.support.ledger_server import LedgerServer, ledger_binaries, running

ANN = (AccountId("org:acme"), AccountId("ann"))
DEADLINE_S = 1.0


@pytest.fixture
async def link(ledger_server: LedgerServer, tmp_path: Path) -> AsyncIterator[FaultyLink]:
    async with faulty_link(ledger_server, tmp_path) as link:
        yield link


@pytest.fixture
async def store(link: FaultyLink) -> AsyncIterator[Store]:
    section = config.LedgerSection(url=link.url, deadline_ms=round(DEADLINE_S * 1000))
    async with open_ledger(section) as store:
        await prepare(store)
        yield store


async def prepare(store: Store) -> None:
    await store.directory.put_plan(Plan("everyone", (Limit(1_000, "day"),)), operation_id="plan")
    await store.directory.create_account(ANN[0], plan="everyone", operation_id="open-org")
    await store.directory.create_account(ANN[1], parent=ANN[0], plan="everyone", operation_id="open-ann")


async def hold(store: Store, hold_id: str, amount: int = 100) -> int:
    held = await store.ledger.hold(ANN, hold_id, want_nanocredits=amount, least_nanocredits=amount)
    return held.amount_nanocredits


async def spent_and_held(store: Store) -> tuple[int, int]:
    totals = (await store.directory.account(ANN[1])).totals
    return totals.spent, totals.held


async def test_a_call_whose_answer_is_lost_is_carried_out_once(store: Store, link: FaultyLink) -> None:
    """Hold, debit, extend, settle, adjust and grant, each losing its first two answers after the server has done it."""

    async def losing(call: object) -> object:
        link.answers_to_lose = 2
        return await call

    assert await losing(hold(store, "h")) == 100
    await losing(store.ledger.debit(ANN, "h", spent_nanocredits=10))
    await losing(store.ledger.extend(ANN, "h", sequence=1, spent_nanocredits=20, want_nanocredits=50))
    assert await spent_and_held(store) == (20, 130)
    await losing(store.ledger.settle(ANN, "h", spent_nanocredits=120))
    await losing(store.ledger.adjust(ANN, "a", credits_nanocredits=-20))
    await losing(store.ledger.grant(ANN, "g", credits_nanocredits=7))

    assert link.lost == 12
    assert await spent_and_held(store) == (100, 0)
    assert (await store.directory.account(ANN[1])).totals.granted == 7
    assert (await store.journal.audit()).broken == ()


async def test_a_call_cut_at_any_byte_is_carried_out_once(store: Store, link: FaultyLink) -> None:
    """The connection breaks after n bytes of the request, for many n: nothing is lost and nothing happens twice."""
    cuts = range(0, 640, 13)
    for n in cuts:
        link.bytes_of_request = n
        assert await hold(store, f"h{n}", 10) == 10
        await store.ledger.settle(ANN, f"h{n}", spent_nanocredits=1)

    assert await spent_and_held(store) == (len(cuts), 0)
    assert (await store.journal.audit()).broken == ()


async def test_a_silent_server_is_a_failure_within_the_deadline_and_recovers_by_itself(store: Store, link: FaultyLink) -> None:
    """No answer: LedgerUnavailable in about the deadline; once answers come again, calls work without help."""
    link.stalled = True
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        await hold(store, "silent")
    assert time.monotonic() - began < 2 * DEADLINE_S

    link.stalled = False
    assert await hold(store, "later") == 100
    await store.ledger.settle(ANN, "later", spent_nanocredits=3)
    await store.ledger.void(ANN, "silent")
    assert await spent_and_held(store) == (3, 0)


@pytest.mark.parametrize("allowed", [True, False])
async def test_callers_are_believed_in_an_outage_where_that_is_allowed(store: Store, link: FaultyLink, allowed: bool) -> None:
    """Those that the process knows, for as long as the ledger is away; what was revoked meanwhile is known as soon as it is back."""
    directory = store.directory
    directory.believes_longer = allowed
    record, key = await directory.create_key(ANN[1], operation_id="key")
    assert key is not None
    digest = hashlib.sha256(key.encode()).hexdigest()
    kept = await directory.caller(digest)
    assert kept is not None
    link.stalled = True
    with pytest.raises(LedgerUnavailable):
        await directory.refresh()
    await asyncio.sleep(FRESH_S)  # the promise: for so long what is kept is believed anyhow
    with pytest.raises(LedgerUnavailable):
        await directory.caller("unknown")
    if allowed:
        assert await directory.caller(digest) == kept
    else:
        with pytest.raises(LedgerUnavailable):
            await directory.caller(digest)
    link.stalled = False
    async with open_ledger(config.LedgerSection(url=link.url)) as other:
        await other.directory.revoke_key(record.key_id, operation_id="revoke")
    await directory.refresh()
    assert await directory.caller(digest) is None


async def test_a_cancelled_call_does_not_shift_the_answers_of_others(store: Store) -> None:
    """A caller that gives up leaves the connection in step: everyone else gets their own answer."""
    amounts = range(1, 41)
    calls = [asyncio.ensure_future(hold(store, f"h{amount}", amount)) for amount in amounts]
    await asyncio.sleep(0)  # Let every call be sent.
    for call in calls[::3]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)

    kept = [answer for n, answer in enumerate(answers) if n % 3]
    assert kept == [amount for n, amount in enumerate(amounts) if n % 3]


async def test_scripts_and_functions_that_vanish_are_loaded_again(store: Store, ledger_server: LedgerServer) -> None:
    """FUNCTION FLUSH and SCRIPT FLUSH at any moment cost nobody an error."""

    async def request(n: int) -> None:
        await hold(store, f"h{n}", 1)
        await store.ledger.settle(ANN, f"h{n}", spent_nanocredits=1)

    with ledger_server.client() as client:
        for n in range(40):
            client.function_flush()
            client.script_flush()
            await asyncio.gather(*(request(4 * n + k) for k in range(4)))

    assert await spent_and_held(store) == (160, 0)


async def test_a_server_without_functions_runs_scripts(ledger_server: LedgerServer) -> None:
    """Where FUNCTION is forbidden the same verbs run as scripts, with the same results."""
    with ledger_server.client() as client:
        client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-function")
    url = ledger_server.url.replace("unix://", "unix://plain:secret@")
    async with open_ledger(config.LedgerSection(url=url)) as store:
        await prepare(store)
        assert await hold(store, "h") == 100
        await store.ledger.settle(ANN, "h", spent_nanocredits=42)
        with pytest.raises(Refusal):
            await hold(store, "more", 959)

        assert await spent_and_held(store) == (42, 0)
        assert (await store.journal.audit()).broken == ()


async def test_the_end_of_a_hold_lands_when_the_server_is_full(store: Store, ledger_server: LedgerServer) -> None:
    """At maxmemory a new hold is a failure, while a settle still goes through."""
    await hold(store, "h")
    with ledger_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(LedgerUnavailable, match="OOM"):
                await hold(store, "more")
            await store.ledger.settle(ANN, "h", spent_nanocredits=60)
        finally:
            client.config_set("maxmemory", 0)

    assert await spent_and_held(store) == (60, 0)


async def test_a_foreign_key_under_our_prefix_changes_nothing(store: Store, ledger_server: LedgerServer) -> None:
    """Where a key has the wrong type the call fails before the first write."""
    with ledger_server.client() as client:
        [journal] = client.keys("cl:{org:acme}:j") or [b"cl:{org:acme}:j"]
        client.delete(journal)
        client.set(journal, "foreign")
        with pytest.raises(LedgerUnavailable, match="WRONGTYPE"):
            await hold(store, "h")
        client.delete(journal)

    assert await spent_and_held(store) == (0, 0)
    assert await hold(store, "h") == 100


async def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    """The server goes away and comes back: failures in between, then everything works on the same connection object."""
    name, binary = next(iter(ledger_binaries().items()))
    with running(name, binary, tmp_path) as server:
        async with open_ledger(config.LedgerSection(url=server.url, deadline_ms=500)) as store:
            await prepare(store)
            with server.client() as client:
                client.shutdown(nosave=True)
            with pytest.raises(LedgerUnavailable):
                await hold(store, "h")
            with running(name, binary, tmp_path):
                await store.engine.learn_servers()
                await prepare(store)
                assert await hold(store, "h2") == 100


async def test_a_server_that_may_evict_is_unsafe(store: Store, ledger_server: LedgerServer) -> None:
    """An eviction policy would let balances vanish: the check says so."""
    assert await store.check() == []
    with ledger_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            [problem] = await store.check()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert "noeviction" in problem


async def test_a_revoked_key_is_forgotten_by_every_process_at_its_next_refresh(store: Store, link: FaultyLink) -> None:
    """Two processes have the key cached; after the revocation each refuses it as soon as it has refreshed."""
    import hashlib

    async with open_ledger(config.LedgerSection(url=link.url)) as other:
        key, plain = await store.directory.create_key(ANN[1], operation_id="key")
        assert plain is not None
        digest = hashlib.sha256(plain.encode()).hexdigest()
        for process in (store, other):
            caller = await process.directory.caller(digest)
            assert caller is not None
            assert caller.path == ANN
        await store.directory.revoke_key(key.key_id, operation_id="revoke")
        await other.directory.refresh()

        assert await store.directory.caller(digest) is None
        assert await other.directory.caller(digest) is None


async def test_what_time_has_ended_is_known_afterwards(ledger_server: LedgerServer) -> None:
    """What expired holds had spent, and what has expired in all accounts: for the metrics."""
    clock = [1_795_348_800_000]
    async with open_ledger(config.LedgerSection(url=ledger_server.url), now_ms=lambda: clock[0]) as store:
        await prepare(store)
        await hold(store, "h", 100)
        await store.ledger.debit(ANN, "h", spent_nanocredits=30)
        clock[0] += 2 * 86_400_000
        assert await store.ledger.expire_due() == 1
        assert (store.ledger.take_expired_charges(), store.ledger.take_expired_charges()) == (30, 0)

        await hold(store, "next", 1)
        assert (await store.journal.audit()).expired_nanocredits == 2 * 970
