"""Dividends from the commons: who gets how much, once, whatever dies in between; what cannot be divided stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.config import LedgerSection
from proxy.domain import AccountId, Limit, Plan
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import Store, dividends, keys, open_ledger
from proxy.ledger.dividends import Dividend, Dividends
from tests.support.dying_ledger import DyingLedger
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer

COMMONS = AccountId("fund")
HOUR_MS = 3_600_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(ledger_server: LedgerServer, clock: Clock) -> AsyncIterator[Store]:
    """A commons with 1000 nanocredits, and a plan that gives nothing by itself; after each test the books must balance."""
    async with open_ledger(LedgerSection(deadline_ms=20_000), url=ledger_server.url, now_ms=clock) as store:
        store.directory.configure(file_prices=(), default_plan="poor")
        await store.directory.put_plan(Plan("poor", (Limit(0, "ever"),)), operation_id="p")
        await store.directory.create_account(COMMONS, limits=(), operation_id="c")
        expires_at_ms = clock.now_ms + 10 * HOUR_MS
        await store.ledger.grant((COMMONS,), "g", credits_nanocredits=1000, expires_at_ms=expires_at_ms, reason="tithes")
        yield store
        assert (await store.journal.audit()).broken == ()


@pytest.fixture
def handing(store: Store) -> Dividends:
    return handed_out_by(store, store.ledger)


def handed_out_by(store: Store, ledger: Any) -> Dividends:
    return Dividends(store.engine, store.directory, ledger, commons=lambda: COMMONS)


async def opened(store: Store, name: str, **settings: Any) -> None:
    parent = settings.pop("parent", None)
    await store.directory.create_account(
        AccountId(name), parent=None if parent is None else AccountId(parent), operation_id=name, **settings
    )


async def declare(handing: Dividends, amount: int | None = 1000, **terms: Any) -> Dividend:
    named = {"by": "equal", "expires_at_ms": None, "reason": "shares", **terms}
    return await handing.declare(named.pop("dividend_id", "d1"), credits_nanocredits=amount, **named)


async def all_of_it(handing: Dividends) -> Dividend:
    while await handing.step():
        pass
    return await handing.find("d1")


async def available(store: Store, *names: str) -> list[int | None]:
    return [(await store.directory.account(AccountId(name))).available_nanocredits for name in names]


async def test_everybody_gets_the_same_and_the_rest_stays(store: Store, handing: Dividends) -> None:
    """Rounded down; it expires when it would have in the commons, and says whose it was."""
    for n in range(7):
        await opened(store, f"p{n}", weight=1 + n)
    assert (await declare(handing)).state == "counting"
    done = await all_of_it(handing)
    assert (done.state, done.accounts, done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == ("done", 7, 7, 994, 0)
    assert await available(store, *(f"p{n}" for n in range(7))) == [142] * 7
    (grant,) = (await store.directory.account(AccountId("p0"))).grants
    (kept,) = (await store.directory.account(COMMONS)).grants
    assert (grant.expires_at_ms, grant.reason) == (kept.expires_at_ms, "dividend d1")
    assert kept.remaining_nanocredits == 6


async def test_by_weight_and_with_an_end_of_its_own(store: Store, handing: Dividends, clock: Clock) -> None:
    """The heavier gets more; what is said to end earlier ends then, and nothing is made to last longer."""
    await opened(store, "light", weight=1)
    await opened(store, "heavy", weight=3)
    ends_at_ms = clock.now_ms + HOUR_MS
    await declare(handing, None, by="weight", expires_at_ms=ends_at_ms)
    await all_of_it(handing)
    assert await available(store, "light", "heavy") == [250, 750]
    assert [(await store.directory.account(AccountId("heavy"))).grants[0].expires_at_ms] == [ends_at_ms]
    await store.ledger.grant((COMMONS,), "g2", credits_nanocredits=10, expires_at_ms=clock.now_ms + 2 * HOUR_MS, reason="more")
    await declare(handing, 10, dividend_id="d2", expires_at_ms=clock.now_ms + 50 * HOUR_MS)
    await all_of_it(handing)
    assert max(g.expires_at_ms or 0 for g in (await store.directory.account(AccountId("heavy"))).grants) == clock.now_ms + 2 * HOUR_MS


async def test_who_is_entitled(store: Store, handing: Dividends, clock: Clock) -> None:
    """People: not who stands for people below it, not agents, not who is suspended or closed, not who came later."""
    await opened(store, "org")
    for name in ("ann", "bob", "out", "shut"):
        await opened(store, name, parent="org")
    await opened(store, "ann:agents", parent="ann", kind="agent", limits=())
    await opened(store, "bot", parent="ann:agents", kind="agent", limits=(Limit(50, "ever"),))
    await opened(store, "helper", parent="bob", kind="agent", limits=(Limit(50, "ever"),))
    await store.directory.update_account(AccountId("out"), status="suspended", operation_id="s1")
    await store.directory.update_account(AccountId("shut"), status="closed", operation_id="s2")
    await declare(handing)
    clock.pass_s(1)
    await opened(store, "late")
    done = await all_of_it(handing)
    assert (done.accounts, done.paid_accounts) == (2, 2)
    grants = {name: (await store.directory.account(AccountId(name))).totals.granted for name in ("ann", "bob", "org", "bot", "late", "out")}
    assert grants == {"ann": 500, "bob": 500, "org": 0, "bot": 0, "late": 0, "out": 0}


async def test_nothing_is_handed_out_that_is_not_there(store: Store, handing: Dividends) -> None:
    """More than the commons has is refused; what it has lost until everybody is counted is not divided; the same id is one dividend."""
    await opened(store, "ann")
    with pytest.raises(Refusal) as refused:
        await declare(handing, 1001)
    assert (refused.value.code, refused.value.available_nanocredits) == ("insufficient_quota", 1000)
    await declare(handing)
    assert (await declare(handing)).dividend_id == "d1"
    with pytest.raises(Conflict):
        await declare(handing, 999)
    await store.ledger.transfer((COMMONS,), (AccountId("ann"),), "t", credits_nanocredits=300)
    done = await all_of_it(handing)
    assert (done.credits_nanocredits, done.paid_nanocredits) == (700, 700)
    assert [item.dividend_id for item in (await handing.all(after=None, limit=5)).items] == ["d1"]


async def test_shares_that_are_nothing_leave_everything_where_it_is(store: Store, handing: Dividends) -> None:
    """Fewer nanocredits than people: there is nothing to hand out."""
    for n in range(3):
        await opened(store, f"p{n}")
    await declare(handing, 2)
    done = await all_of_it(handing)
    assert (done.paid_accounts, done.unpaid_accounts, done.paid_nanocredits) == (0, 3, 0)


async def test_whatever_dies_everybody_is_paid_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, one payment at a time, and processes that die: the next goes on, until all have their share."""
    monkeypatch.setattr(dividends, "PAGE_ACCOUNTS", 3)
    monkeypatch.setattr(dividends, "AT_ONCE", 1)
    for n in range(10):
        await opened(store, f"p{n}")
    ledger = DyingLedger(store.ledger, dies_at={2: "before", 6: "between", 11: "after"})
    handing = handed_out_by(store, ledger)
    await declare(handing)
    for _ in range(60):
        try:
            if not await handing.step():
                break
        except LedgerUnavailable:
            handing = handed_out_by(store, ledger)
            await store.engine.command("DEL", keys.lease("dividends"))  # it runs out by the server's own clock
    done = await handing.find("d1")
    await store.ledger.expire_due()
    assert (done.state, done.paid_accounts, done.paid_nanocredits) == ("done", 10, 1000)
    assert await available(store, *(f"p{n}" for n in range(10))) == [100] * 10
    assert ledger.transfers > 10
    assert (await store.directory.account(COMMONS)).totals.given == 1000


async def test_who_was_paid_before_a_process_died_counts_as_paid(store: Store, handing: Dividends) -> None:
    """Although its weight, and so its share, is another by the time that the next process comes to it."""
    for name in ("ann", "bob"):
        await opened(store, name, weight=2)
    await declare(handing, 400, by="weight")
    await handing.step()
    await store.engine.command("DEL", keys.lease("dividends"))
    with pytest.raises(LedgerUnavailable):
        await handed_out_by(store, DyingLedger(store.ledger, "after")).step()
    await store.engine.command("DEL", keys.lease("dividends"))
    await store.directory.update_account(AccountId("ann"), weight=1, operation_id="lighter")
    done = await all_of_it(handed_out_by(store, store.ledger))
    assert (done.state, done.paid_accounts, done.unpaid_accounts) == ("done", 2, 0)
    assert await available(store, "ann", "bob") == [200, 200]
