"""Dividends from the commons: who gets how much, once, whatever dies in between; what cannot be divided stays."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.config import LedgerSection
from proxy.domain import AccountId, Limit, Plan
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import Directory, RedisLedger, Store, dividends, keys, open_ledger
from proxy.ledger.counted import Counted
from proxy.ledger.dividends import Dividends
from proxy.ledger.moves import Moves
from proxy.ledger.shares import CountedPage, Dividend
from tests.support.dying_engine import DyingEngine
from tests.support.dying_ledger import DyingLedger, When
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
    """With what it got, although it is lighter, or closed, by the time that the next process comes to it."""
    for name in ("ann", "bob"):
        await opened(store, name, weight=2)
    await declare(handing, 400, by="weight")
    await handing.step()
    await dies(store, "after")
    await store.directory.update_account(AccountId("ann"), weight=1, operation_id="lighter")
    await store.directory.update_account(AccountId("ann"), status="closed", operation_id="closed")
    done = await all_of_it(handed_out_by(store, store.ledger))
    assert (done.state, done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == ("done", 2, 400, 0)
    assert await granted(store, "ann", "bob") == [200, 200]


async def test_what_was_counted_is_paid(store: Store, handing: Dividends) -> None:
    """Whoever becomes heavier, or is active again, only after it was counted, takes nothing from those that were."""
    for name in ("ann", "bob", "cat"):
        await opened(store, name, weight=2)
    await store.directory.update_account(AccountId("cat"), status="suspended", operation_id="s")
    await declare(handing, 400, by="weight")
    await handing.step()
    await store.directory.update_account(AccountId("ann"), weight=4, operation_id="w")
    await store.directory.update_account(AccountId("cat"), status="active", operation_id="r")
    done = await all_of_it(handing)
    assert (done.accounts, done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == (2, 2, 400, 0)
    assert await granted(store, "ann", "bob", "cat") == [200, 200, 0]


async def test_the_share_of_who_is_suspended_waits_there_and_that_of_who_is_closed_stays(store: Store, handing: Dividends) -> None:
    """Both were counted; the one may come back, the other cannot."""
    for name in ("ann", "bob", "cat", "dan"):
        await opened(store, name)
    await declare(handing)
    await handing.step()
    await store.directory.update_account(AccountId("ann"), status="suspended", operation_id="s")
    await store.directory.update_account(AccountId("bob"), status="closed", operation_id="c2")
    done = await all_of_it(handing)
    assert (done.accounts, done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == (4, 3, 750, 1)
    await store.directory.update_account(AccountId("ann"), status="active", operation_id="r")
    assert await available(store, "ann", "cat", "dan") == [250, 250, 250]
    assert await granted(store, "bob") == [0]


async def test_it_waits_while_the_commons_is_not_active(
    store: Store, handing: Dividends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody's share is forgone meanwhile; that it waits is told once."""
    monkeypatch.setattr(dividends, "PAGE_ACCOUNTS", 2)
    names = [f"p{n}" for n in range(6)]
    for name in names:
        await opened(store, name)
    await declare(handing, 600)
    while (await handing.find("d1")).paid_accounts == 0:
        await handing.step()
    await store.directory.update_account(COMMONS, status="suspended", operation_id="s")
    for _ in range(3):
        assert not await handing.step()
    (told,) = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    assert told == "dividend d1 waits: account 'fund' is suspended; resume it, or close it to end the dividend"
    await store.directory.update_account(COMMONS, status="active", operation_id="r")
    done = await all_of_it(handing)
    assert (done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == (6, 600, 0)
    assert await granted(store, *names) == [100] * 6


async def test_who_was_paid_before_the_commons_was_suspended_is_not_paid_again(store: Store, handing: Dividends, clock: Clock) -> None:
    """However long it waits in the midst of a page: longer than the ledger knows that somebody was paid."""
    await store.ledger.grant((COMMONS,), "g2", credits_nanocredits=3000, reason="lasting")
    names = ("ann", "bob", "cat")
    for name in names:
        await opened(store, name)
    await declare(handing, 3000)
    await handing.step()
    await dies(store, "after")
    await store.directory.update_account(COMMONS, status="suspended", operation_id="s")
    handing = handed_out_by(store, store.ledger)
    assert not await all_paid(handing)
    assert (await handing.find("d1")).paid_accounts == 1
    await forget_payments(store, clock, *names)
    await store.directory.update_account(COMMONS, status="active", operation_id="r")
    done = await all_of_it(handing)
    assert (done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == (3, 3000, 0)
    assert await granted(store, *names) == [1000] * 3


async def test_nobody_is_paid_after_it_was_forgotten_who_was(store: Store, handing: Dividends, clock: Clock) -> None:
    """Where everything stood still for a week in the midst of a page, the rest of it stays in the commons."""
    await store.ledger.grant((COMMONS,), "g2", credits_nanocredits=3000, reason="lasting")
    for name in ("ann", "bob"):
        await opened(store, name)
    await declare(handing, 3000)
    await handing.step()
    await dies(store, "after")
    await forget_payments(store, clock, "ann", "bob")
    done = await all_of_it(handed_out_by(store, store.ledger))
    assert (done.state, done.paid_accounts, done.unpaid_accounts) == ("done", 0, 2)
    assert await granted(store, "ann", "bob") == [1500, 0]


async def test_what_would_have_expired_before_it_is_paid_stays(store: Store, handing: Dividends, clock: Clock) -> None:
    """Nobody is given what nobody can use any more; who was paid in time counts as paid."""
    for name in ("ann", "bob"):
        await opened(store, name)
    await declare(handing, expires_at_ms=clock.now_ms + HOUR_MS)
    await handing.step()
    await dies(store, "after")
    clock.pass_s(3600)
    done = await all_of_it(handed_out_by(store, store.ledger))
    assert (done.paid_accounts, done.paid_nanocredits, done.unpaid_accounts) == (1, 500, 1)
    assert await granted(store, "ann", "bob") == [500, 0]
    assert (await store.directory.account(COMMONS)).totals.given == 500


async def test_a_closed_commons_ends_it(store: Store, handing: Dividends) -> None:
    """It pays nobody any more, and no other dividend waits for it."""
    await opened(store, "ann")
    await declare(handing)
    await handing.step()
    await store.directory.update_account(COMMONS, status="closed", operation_id="s")
    done = await all_of_it(handing)
    assert (done.state, done.accounts, done.paid_accounts, done.unpaid_accounts) == ("done", 1, 0, 1)
    assert not await handing.step()


async def test_who_declared_it_pays_it(store: Store, handing: Dividends) -> None:
    """Also where another account is the commons by then: else who was paid before a process died would be paid by both."""
    for name in ("ann", "bob", "other"):
        await opened(store, name)
    await store.directory.update_account(AccountId("other"), status="suspended", operation_id="s")
    await declare(handing)
    await handing.step()
    await dies(store, "after")
    ledger = store.ledger
    done = await all_of_it(Dividends(store.engine, store.directory, ledger, commons=lambda: AccountId("other")))
    assert (done.paid_accounts, done.paid_nanocredits) == (2, 1000)
    assert await granted(store, "ann", "bob") == [500, 500]


async def test_wherever_a_process_dies_everybody_is_paid_what_was_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies at each of its calls in turn, and the next one goes on, with other weights; then all is paid, told and tidied up."""
    monkeypatch.setattr(dividends, "PAGE_ACCOUNTS", 2)
    monkeypatch.setattr(dividends, "AT_ONCE", 1)
    await store.ledger.grant((COMMONS,), "g2", credits_nanocredits=100_000, reason="lasting")
    for name in ("ann", "zed"):
        await opened(store, name)
    engine = DyingEngine(store.engine)
    directory: Any = Directory(engine)
    await directory.start()
    directory.configure(file_prices=(), default_plan="poor")
    doomed = Dividends(engine, directory, RedisLedger(engine, directory, Moves(), hold_ttl_ms=60_000), commons=lambda: COMMONS)
    heir, had = handed_out_by(store, store.ledger), [0, 0]
    for calls in range(1, 1000):
        terms = {"dividend_id": f"d{calls}", "by": "weight"}
        await store.engine.command("DEL", keys.lease("dividends"))
        engine.dies_in(calls)
        is_counted = True
        try:
            await declare(doomed, 40, **terms)
            await all_paid(doomed)
        except LedgerUnavailable:
            declared = await declare(heir, 40, **terms)
            is_counted = declared.state != "counting"
            await store.engine.command("DEL", keys.lease("dividends"))
            await store.directory.update_account(AccountId("ann"), weight=3, operation_id=f"heavy{calls}")
            await all_paid(heir)
            await store.directory.update_account(AccountId("ann"), weight=1, operation_id=f"light{calls}")
        done = await heir.find(terms["dividend_id"])
        got = [now - before for now, before in zip(await granted(store, "ann", "zed"), had, strict=True)]
        had = await granted(store, "ann", "zed")
        assert (done.state, done.accounts, done.paid_accounts, done.unpaid_accounts) == ("done", 2, 2, 0), calls
        assert got in ([[20, 20]] if is_counted else [[20, 20], [30, 10]]), calls
        assert done.paid_nanocredits == 40
        assert [await store.engine.command("EXISTS", keys.counted(done.dividend_id, n)) for n in range(done.pages)] == [0] * done.pages
        assert await store.engine.command("ZCARD", keys.OPEN_DIVIDENDS) == 0
        if engine.lives:
            break
    assert 50 < calls < 999


async def test_a_million_that_are_counted_take_tens_of_megabytes(store: Store) -> None:
    """For as long as a dividend is paid, and for a year where nobody goes on with it; a page is written once."""
    counted = Counted(store.engine)
    people = tuple((AccountId(f"user:{uuid.UUID(int=n * 2**96 // 7 % 2**128)}"), 1 + n % 5) for n in range(dividends.PAGE_ACCOUNTS))
    page = CountedPage(people, people[-1][0])
    assert await counted.note("d1", 0, page) == page
    assert await counted.note("d1", 0, CountedPage((), None)) == page
    assert await store.engine.command("MEMORY", "USAGE", keys.counted("d1", 0)) < 30 * len(people)
    assert await store.engine.command("PTTL", keys.counted("d1", 0)) > 300 * 86_400_000


async def dies(store: Store, when: When) -> None:
    """A process dies at its first payment, the first of several, and its lease has run out."""
    await store.engine.command("DEL", keys.lease("dividends"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dividends, "AT_ONCE", 1)
        with pytest.raises(LedgerUnavailable):
            await handed_out_by(store, DyingLedger(store.ledger, when)).step()
    await store.engine.command("DEL", keys.lease("dividends"))


async def all_paid(handing: Dividends) -> bool:
    """Whether everything could be handed out."""
    while await handing.step():
        pass
    return (await handing.find("d1")).state == "done"


async def granted(store: Store, *names: str) -> list[int]:
    return [(await store.directory.account(AccountId(name))).totals.granted for name in names]


async def forget_payments(store: Store, clock: Clock, *names: str) -> None:
    """What the server's own clock does in a week."""
    clock.pass_s(8 * 86_400)
    for name in names:
        await store.engine.command("DEL", keys.operation(COMMONS, f"dividend:d1:{name}"), keys.operation(name, f"dividend:d1:{name}:0"))
