"""What expires and flows to the commons: how much, whose, when, and that it flows once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.config import LedgerSection
from proxy.domain import AccountId, Limit, Path, Plan
from proxy.errors import LedgerUnavailable
from proxy.ledger import Store, collecting, keys, open_ledger
from proxy.ledger.collecting import Collecting
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer

COMMONS = AccountId("fund")
DAY_S = 86_400
KEEP_DAYS = 10
FAR_MS = 2**42


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(ledger_server: LedgerServer, clock: Clock) -> AsyncIterator[Store]:
    """A commons, and a plan of 100 nanocredits a day whose rest flows there; after each test the books must balance."""
    async with open_ledger(LedgerSection(deadline_ms=20_000), url=ledger_server.url, now_ms=clock) as store:
        store.directory.configure(file_prices=(), default_plan="flows")
        await store.directory.put_plan(Plan("flows", (Limit(100, "day"),), expired_to_commons=True), operation_id="p1")
        await store.directory.put_plan(Plan("stays", (Limit(100, "day"),)), operation_id="p2")
        await store.directory.create_account(COMMONS, limits=(Limit(0, "ever"),), operation_id="c")
        yield store
        assert (await store.journal.audit()).broken == ()
        await store.trimmer.trim(before_ms=FAR_MS)
    async with open_ledger(LedgerSection(deadline_ms=20_000), url=ledger_server.url, now_ms=clock) as other:
        assert (await other.journal.audit()).broken == (), "and from what a cut journal keeps"


@pytest.fixture
def visits(store: Store) -> Collecting:
    return visiting(store)


def visiting(store: Store) -> Collecting:
    return Collecting(store.engine, store.directory, store.ledger, commons=lambda: COMMONS, keep_days=lambda: KEEP_DAYS)


async def opened(store: Store, name: str, *limits: Limit, plan: str | None = None) -> Path:
    account = await store.directory.create_account(AccountId(name), plan=plan, limits=limits or None, operation_id=name)
    return account.path


async def spend(store: Store, path: Path, amount: int, hold_id: str) -> None:
    await store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
    await store.ledger.settle(path, hold_id, spent_nanocredits=amount)


async def commons(store: Store) -> int:
    available = (await store.directory.account(COMMONS)).available_nanocredits
    assert available is not None
    return available


async def test_what_a_day_leaves_unused_flows_to_the_commons(store: Store, visits: Collecting, clock: Clock) -> None:
    """Of who used some, and of who was idle, whose windows nobody else turns; never what expired before the plan said so."""
    ann = await opened(store, "ann")
    await opened(store, "idle")
    await spend(store, ann, 30, "h1")
    clock.pass_s(DAY_S)
    await spend(store, ann, 10, "h2")
    assert await visits.visit() == 0, "the first visit only begins"
    for day in (1, 2, 3):
        clock.pass_s(DAY_S)
        assert await visits.visit() == (100 - 10 + 100 if day == 1 else 200)
    assert await commons(store) == 590
    totals = (await store.directory.account(AccountId("ann"))).totals
    assert (totals.spent, totals.expired, totals.given, totals.collected) == (40, 70, 290, 290)


async def test_accounts_are_visited_once_a_day(store: Store, visits: Collecting, clock: Clock) -> None:
    """However often it is asked, and by however many processes."""
    await opened(store, "ann")
    await visits.visit()
    clock.pass_s(DAY_S)
    other = visiting(store)
    assert [await visits.visit(), await other.visit(), await visits.visit()] == [100, 0, 0]
    assert await commons(store) == 100


async def test_only_plans_that_say_so_flow_and_no_agents(store: Store, visits: Collecting, clock: Clock) -> None:
    """An agent's cap is no budget of its own: what it leaves, its person has."""
    await opened(store, "quiet", plan="stays")
    await opened(store, "gone")
    await store.directory.create_account(
        AccountId("bot"), parent=AccountId("quiet"), plan="flows", limits=(Limit(50, "day"),), kind="agent", operation_id="bot"
    )
    await visits.visit()
    clock.pass_s(DAY_S)
    await store.directory.update_account(AccountId("gone"), status="suspended", operation_id="s")
    assert await visits.visit() == 0


async def test_of_several_limits_the_least_that_expired_flows(store: Store, visits: Collecting, clock: Clock) -> None:
    """Two limits are not two budgets: of 100 a day and 250 a week an idle person leaves 250 a week unused, not 950."""
    ann = await opened(store, "ann", Limit(100, "day"), Limit(250, "week"))
    await visits.visit()
    flowed = []
    for n in range(15):
        clock.pass_s(DAY_S)
        if n == 8:
            await spend(store, ann, 60, "h")
        flowed.append(await visits.visit())
    assert [amount for amount in flowed if amount] == [100, 250, 190]
    assert flowed.index(100) == 0, "the first week was nearly over"


async def test_what_grants_leave_flows_too(store: Store, visits: Collecting, clock: Clock) -> None:
    """A bonus that nobody used by its end is somebody else's dividend."""
    ann = await opened(store, "ann", Limit(0, "ever"))
    await visits.visit()
    await store.ledger.grant(ann, "g", credits_nanocredits=70, expires_at_ms=clock.now_ms + 3_600_000, reason="bonus")
    await spend(store, ann, 20, "h")
    clock.pass_s(DAY_S)
    assert await visits.visit() == 50


async def test_the_commons_keeps_what_flows_in_for_its_days(store: Store, visits: Collecting, clock: Clock) -> None:
    """All that came on one day is one grant, whose end is the same for all; then it expires for good."""
    for n in range(20):
        await opened(store, f"p{n}")
    await visits.visit()
    clock.pass_s(DAY_S)
    await visits.visit()
    (grant,) = (await store.directory.account(COMMONS)).grants
    day = clock.now_ms // (DAY_S * 1000)
    assert (grant.credits_nanocredits, grant.expires_at_ms) == (2000, (day + 1 + KEEP_DAYS) * DAY_S * 1000)


async def test_a_plan_that_begins_to_flow_gives_nothing_from_before(store: Store, visits: Collecting, clock: Clock) -> None:
    """Months of unused budgets do not flow at once; nor do they where the visits had stopped for long."""
    await opened(store, "ann", plan="stays")
    await opened(store, "other")
    for _ in range(3):
        clock.pass_s(DAY_S)
        await visits.visit()
    await store.directory.put_plan(Plan("stays", (Limit(100, "day"),), expired_to_commons=True), operation_id="p3")
    before = await commons(store)
    clock.pass_s(DAY_S)
    assert await visits.visit() == 100, "the other account's alone"
    clock.pass_s(60 * DAY_S)
    assert await visits.visit() == 0
    assert await commons(store) == 0, "and what it had is gone"
    assert before == 200


async def test_without_a_commons_everything_stays_where_it_is(store: Store, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """An account that nobody has opened yet is told of once; none at all costs nothing."""
    await opened(store, "ann")
    named: list[AccountId | None] = [AccountId("nobody"), None]
    missing = Collecting(store.engine, store.directory, store.ledger, commons=lambda: named[0], keep_days=lambda: KEEP_DAYS)
    for _ in range(3):
        clock.pass_s(DAY_S)
        assert await missing.visit() == 0
    assert [record.message for record in caplog.records] == ["what expires stays where it is: there is no account 'nobody'"]
    named.reverse()
    assert await missing.visit() == 0
    assert (await store.directory.account(AccountId("ann"))).totals.given == 0


async def test_visits_go_on_where_a_process_died(store: Store, visits: Collecting, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pages; who was visited twice gives once, and what was taken and not delivered arrives."""
    monkeypatch.setattr(collecting, "PAGE_ACCOUNTS", 4)
    for n in range(10):
        await opened(store, f"p{n}")
    for _ in range(4):
        await visits.visit()
    clock.pass_s(DAY_S)
    assert await visits.visit() == 300, "the commons is one of the four"

    async def lost(*arguments: object) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(store.ledger, "_deliver", lost)
    with pytest.raises(LedgerUnavailable):
        await visits.visit()
    monkeypatch.undo()
    monkeypatch.setattr(collecting, "PAGE_ACCOUNTS", 4)
    await store.engine.command("DEL", keys.lease("collecting"))  # it runs out by the server's own clock
    other = visiting(store)
    for _ in range(3):
        await other.visit()
    await store.ledger.expire_due()
    assert await commons(store) == 1000
