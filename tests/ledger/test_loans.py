"""Loans on a real ledger and a clock that tests turn: how they come back, from where, and how long what comes back lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.config import LedgerSection
from proxy.domain import AccountId, Ledger, Limit, Plan
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import Store, keys, open_ledger
from proxy.ledger.lent import Loan
from proxy.ledger.loans import UNFINISHED_MAX, Loans
from proxy.ledger.transfers import GRANTS_MAX
from tests.support.dying_ledger import DyingLedger, When
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer

ANN, BOB = AccountId("ann"), AccountId("bob")
DAY_S, HOUR_S = 86_400, 3600


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(ledger_server: LedgerServer, clock: Clock) -> AsyncIterator[Store]:
    """ann and bob with 100 nanocredits a day each; after each test the books must balance."""
    async with open_ledger(LedgerSection(deadline_ms=20_000), url=ledger_server.url, now_ms=clock) as store:
        store.directory.configure(file_prices=(), default_plan="everyone")
        await store.directory.put_plan(Plan("everyone", (Limit(100, "day"),)), operation_id="p")
        for name in (ANN, BOB):
            await store.directory.create_account(name, operation_id=name)
        yield store
        assert (await store.journal.audit()).broken == ()


@pytest.fixture
def loans(store: Store) -> Loans:
    return Loans(store.engine, store.directory, store.ledger)


async def lend(loans: Loans, clock: Clock, amount: int = 60, *, due_s: int = DAY_S, loan_id: str = "l1", accepted: bool = True) -> Loan:
    due_at_ms = clock.now_ms + due_s * 1000
    return await loans.offer(loan_id, ANN, BOB, credits_nanocredits=amount, due_at_ms=due_at_ms, reason="lunch", accepted=accepted)


async def available(store: Store, name: AccountId) -> int:
    amount = (await store.directory.account(name)).available_nanocredits
    assert amount is not None
    return amount


async def spend(store: Store, name: AccountId, amount: int, hold_id: str) -> None:
    await store.ledger.hold((name,), hold_id, want_nanocredits=amount, least_nanocredits=amount)
    await store.ledger.settle((name,), hold_id, spent_nanocredits=amount)


async def pass_to_due(loans: Loans, clock: Clock, seconds: float = DAY_S) -> None:
    clock.pass_s(seconds)
    await loans.look()


async def test_a_loan_comes_back_by_itself(store: Store, loans: Loans, clock: Clock) -> None:
    """Until it is due the borrower has it; then it is gone again, and every step stands in both journals as a loan's."""
    assert (await lend(loans, clock)).state == "open"
    assert (await available(store, ANN), await available(store, BOB)) == (40, 160)
    await loans.look()
    assert (await loans.find("l1")).repaid_nanocredits == 0
    await pass_to_due(loans, clock)
    assert (await loans.find("l1")).state == "repaid"
    assert (await available(store, ANN), await available(store, BOB)) == (160, 40)
    for name, verb in ((ANN, "transfer"), (BOB, "grant")):
        (entry, *_) = [entry for entry in (await store.journal.entries(name)).items if entry.verb == verb]
        assert entry.memo.startswith("loan l1: ")


async def test_a_loan_makes_nothing_last_longer(store: Store, loans: Loans, clock: Clock) -> None:
    """Lent from a day's limit it expires with that day, and what is repaid from a day's limit expires with that one."""
    await lend(loans, clock)
    (lent,) = (await store.directory.account(BOB)).grants
    assert lent.expires_at_ms == (await store.directory.account(ANN)).limits[0].resets_at_ms
    await pass_to_due(loans, clock)
    repaid = (await store.directory.account(ANN)).grants[0]
    assert repaid.expires_at_ms == (await store.directory.account(BOB)).limits[0].resets_at_ms
    clock.pass_s(DAY_S)
    assert await available(store, ANN) == 100


async def test_what_is_lacking_is_asked_for_again_each_hour(store: Store, loans: Loans, clock: Clock) -> None:
    """First what is there, then what comes; nothing is taken that is held or spent, and never more than is outstanding."""
    await lend(loans, clock, 60)
    clock.pass_s(DAY_S)
    await spend(store, BOB, 70, "h1")
    await loans.look()
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits, await available(store, BOB)) == ("open", 30, 0)
    await store.ledger.grant((BOB,), "g", credits_nanocredits=10, reason="bonus")
    await loans.look()
    assert (await loans.find("l1")).repaid_nanocredits == 30, "not before the hour is over"
    await pass_to_due(loans, clock, HOUR_S)
    assert (await loans.find("l1")).repaid_nanocredits == 40
    await pass_to_due(loans, clock, DAY_S)
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits, await available(store, BOB)) == ("repaid", 60, 80)


async def test_a_loan_that_is_long_overdue_is_asked_for_each_day(store: Store, loans: Loans, clock: Clock) -> None:
    """It is never forgotten, and costs less and less to remember."""
    await lend(loans, clock)
    await store.ledger.set_limits((BOB,), "none", limits=(Limit(0, "ever"),))
    clock.pass_s(32 * DAY_S)
    assert await loans.look() == 1
    await pass_to_due(loans, clock, 2 * HOUR_S)
    assert await loans.look() == 0
    await store.ledger.set_limits((BOB,), "some", limits=(Limit(100, "ever"),))
    await pass_to_due(loans, clock)
    assert (await loans.find("l1")).state == "repaid"


async def test_a_loan_is_repaid_early_once(store: Store, loans: Loans, clock: Clock) -> None:
    """In parts or whole; a repeat pays nothing more, the same id for another amount is a conflict, more than is outstanding is refused."""
    loan = await lend(loans, clock)
    for _ in range(2):
        loan = await loans.repay(await loans.find("l1"), 25, operation_id="r1")
    assert (loan.repaid_nanocredits, await available(store, BOB)) == (25, 135)
    for asked in (24, None):
        with pytest.raises(Conflict):
            await loans.repay(loan, asked, operation_id="r1")
    with pytest.raises(Refusal):
        await loans.repay(loan, 36, operation_id="r2")
    loan = await loans.repay(loan, None, operation_id="r3")
    assert (loan.state, loan.repaid_nanocredits) == ("repaid", 60)
    assert await loans.repay(loan, None, operation_id="r3") == loan
    await pass_to_due(loans, clock)
    assert await available(store, BOB) == 100


async def test_nobody_is_lent_anything_unasked(store: Store, loans: Loans, clock: Clock) -> None:
    """An offer moves nothing until it is accepted; declined, taken back or too old it moves nothing at all."""
    offered = await lend(loans, clock, accepted=False)
    assert (offered.state, await available(store, BOB)) == ("offered", 100)
    assert (await loans.accept(offered)).state == "open"
    assert (await loans.accept(await loans.find("l1"))).state == "open"
    assert await available(store, BOB) == 160
    with pytest.raises(Conflict):
        await loans.decline(await loans.find("l1"))
    other = await lend(loans, clock, 10, loan_id="l2", accepted=False)
    assert (await loans.decline(other)).state == "declined"
    with pytest.raises(Conflict):
        await loans.accept(other)
    await lend(loans, clock, 10, loan_id="l3", accepted=False)
    await pass_to_due(loans, clock)
    assert (await loans.find("l3")).state == "declined"


async def test_an_offer_that_the_lender_can_no_longer_keep_stands(store: Store, loans: Loans, clock: Clock) -> None:
    """The borrower is told, nothing moves, and it can be accepted once the lender has the credits again."""
    offered = await lend(loans, clock, due_s=3 * DAY_S, accepted=False)
    await spend(store, ANN, 50, "h")
    with pytest.raises(Refusal) as refused:
        await loans.accept(offered)
    assert refused.value.code == "insufficient_quota"
    assert (await loans.find("l1")).state == "offered"
    clock.pass_s(DAY_S)
    assert (await loans.accept(await loans.find("l1"))).state == "open"


async def test_a_loan_leaves_an_organisation_and_comes_back_to_it(store: Store, loans: Loans, clock: Clock) -> None:
    """The lender's lacks it meanwhile; of the borrower's no more is taken than it has left, and the rest once it has that."""
    for name, parent, limit in (("org", None, 70), ("lee", "org", 100), ("other", None, 50), ("kim", "other", 100)):
        above = None if parent is None else AccountId(parent)
        await store.directory.create_account(AccountId(name), parent=above, limits=(Limit(limit, "day"),), operation_id=name)
    org, lee, other, kim = (AccountId(name) for name in ("org", "lee", "other", "kim"))
    due = {"due_at_ms": clock.now_ms + 7_200_000, "reason": "", "accepted": True}
    with pytest.raises(Refusal) as refused:
        await loans.offer("l0", lee, kim, credits_nanocredits=71, **due)
    assert (refused.value.account, refused.value.available_nanocredits) == (org, 70)
    await loans.offer("l1", lee, kim, credits_nanocredits=60, **due)
    assert (await available(store, org), await available(store, kim)) == (10, 50)
    await store.ledger.hold((other, kim), "h", want_nanocredits=20, least_nanocredits=20)
    await store.ledger.settle((other, kim), "h", spent_nanocredits=20)
    clock.pass_s(7_200)
    await loans.look()
    assert ((await loans.find("l1")).outstanding_nanocredits, await available(store, org), await available(store, other)) == (30, 40, 0)
    clock.pass_s(DAY_S)
    await loans.look()
    assert ((await loans.find("l1")).state, await available(store, org), await available(store, other)) == ("repaid", 100, 20)


async def test_an_operators_loan_that_cannot_be_is_none(store: Store, loans: Loans, clock: Clock) -> None:
    """It leaves nothing behind, and the same request may be made again."""
    with pytest.raises(Refusal):
        await lend(loans, clock, 101)
    with pytest.raises(Refusal):
        await loans.find("l1")
    assert (await loans.of_account(ANN, after=None, limit=9)).items == ()
    await store.ledger.grant((ANN,), "g", credits_nanocredits=10, reason="bonus")
    assert (await lend(loans, clock, 101)).state == "open"


@pytest.mark.parametrize("when", ["before", "between", "after"])
@pytest.mark.parametrize("step", ["open", "repay", "due"])
async def test_a_process_may_die_at_any_step(store: Store, loans: Loans, clock: Clock, step: str, when: When) -> None:
    """Another one goes on where it was: lent once, repaid once, nothing lost, nothing made twice."""
    dying = Loans(store.engine, store.directory, DyingLedger(store.ledger, when))
    if step == "open":
        with pytest.raises(LedgerUnavailable):
            await lend(dying, clock)
        await store.ledger.expire_due()
        await pass_to_due(loans, clock, 40)
        assert ((await loans.find("l1")).state, await available(store, ANN), await available(store, BOB)) == ("open", 40, 160)
    loan = await lend(loans, clock) if step != "open" else await loans.find("l1")
    if step == "repay":
        with pytest.raises(LedgerUnavailable):
            await dying.repay(loan, 25, operation_id="r1")
        await store.ledger.expire_due()
        await pass_to_due(loans, clock, 40)
        assert (await loans.find("l1")).repaid_nanocredits == 25
        assert (await loans.repay(await loans.find("l1"), 25, operation_id="r1")).repaid_nanocredits == 25
        assert await available(store, BOB) == 135
    clock.pass_s(DAY_S)
    if step == "due":
        with pytest.raises(LedgerUnavailable):
            await dying.look()
        await store.ledger.expire_due()
    await pass_to_due(loans, clock, 40)
    await store.ledger.expire_due()
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits) == ("repaid", 60)
    given = [(await store.directory.account(name)).totals.given for name in (ANN, BOB)]
    assert given == [60, 60]
    assert sum([(await store.directory.account(name)).totals.granted for name in (ANN, BOB)]) == 120


async def test_loans_of_one_account_are_bounded(store: Store, loans: Loans, clock: Clock) -> None:
    """Those that are over do not count, nor what one is merely offered; both sides see theirs, the newest first, in pages."""
    for n in range(UNFINISHED_MAX):
        await lend(loans, clock, 1, loan_id=f"l{n}", accepted=False)
        clock.pass_s(0.001)
    with pytest.raises(Conflict):
        await lend(loans, clock, 1, loan_id="more", accepted=False)
    due_at_ms = clock.now_ms + DAY_S * 1000
    await loans.offer("back", BOB, ANN, credits_nanocredits=1, due_at_ms=due_at_ms, reason="", accepted=False)
    await loans.decline(await loans.find("back"))
    await loans.decline(await loans.find("l0"))
    await lend(loans, clock, 1, loan_id="more", accepted=False)
    page = await loans.of_account(BOB, after=None, limit=2)
    assert [loan.loan_id for loan in page.items] == ["more", "back"]
    page = await loans.of_account(ANN, after=page.next, limit=1)
    assert [loan.loan_id for loan in page.items] == [f"l{UNFINISHED_MAX - 1}"]


async def test_a_borrower_without_room_cannot_keep_what_it_does_not_owe(store: Store, loans: Loans, clock: Clock) -> None:
    """Lent from a limit and from a grant it arrives in two parts, and the borrower has room for one: it is lent all the same."""
    await store.ledger.grant((ANN,), "bonus", credits_nanocredits=50)
    for n in range(GRANTS_MAX - 1):
        await store.ledger.grant((BOB,), f"g{n}", credits_nanocredits=1)
    loan = await loans.accept(await lend(loans, clock, 120, accepted=False))
    assert (loan.state, await available(store, BOB)) == ("open", 100 + GRANTS_MAX - 1 + 120)
    with pytest.raises(Conflict):
        await loans.decline(loan)


class _Meanwhile:
    """A ledger on which another process acts before the first call of a verb is made."""

    def __init__(self, ledger: Ledger, verb: str, act: Callable[[], Awaitable[object]]) -> None:
        self._ledger, self._verb, self._act = ledger, verb, act
        self._has_acted = False

    def __getattr__(self, verb: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            if verb == self._verb and not self._has_acted:
                self._has_acted = True
                await self._act()
            return await getattr(self._ledger, verb)(*arguments, **named)

        return call


@pytest.mark.parametrize("is_accepted", [False, True], ids=["an offer", "an operator's"])
async def test_what_one_process_is_refused_and_another_makes_is_made(store: Store, loans: Loans, clock: Clock, is_accepted: bool) -> None:
    """Right after the refusal the lender has enough, and another process opens the loan: the borrower owes what it got, once."""
    offered = None if is_accepted else await lend(loans, clock, accepted=False)

    async def open_it(loans: Loans) -> Loan:
        return await lend(loans, clock) if offered is None else await loans.accept(offered)

    async def meanwhile() -> None:
        await store.ledger.adjust((ANN,), "back", credits_nanocredits=-50)
        await open_it(loans)

    await spend(store, ANN, 50, "h")
    racing = Loans(store.engine, store.directory, _Meanwhile(store.ledger, "forgo", meanwhile))
    assert (await open_it(racing)).state == "open"
    assert ((await loans.find("l1")).state, await available(store, ANN), await available(store, BOB)) == ("open", 40, 160)


async def test_what_was_refused_once_is_made_by_nobody_who_comes_late(store: Store, loans: Loans, clock: Clock) -> None:
    """A process that was held up tries after another was refused and has said so: nothing moves but by a new acceptance."""
    offered = await lend(loans, clock, accepted=False)
    await spend(store, ANN, 50, "h")

    async def meanwhile() -> None:
        with pytest.raises(Refusal):
            await loans.accept(offered)
        await store.ledger.adjust((ANN,), "back", credits_nanocredits=-50)

    late = Loans(store.engine, store.directory, _Meanwhile(store.ledger, "transfer", meanwhile))
    with pytest.raises(Conflict):
        await late.accept(offered)
    assert ((await loans.find("l1")).state, await available(store, BOB)) == ("offered", 100)
    assert (await loans.accept(await loans.find("l1"))).state == "open"
    assert await available(store, BOB) == 160


async def test_a_repayment_that_was_refused_is_no_hindrance_to_another(store: Store, loans: Loans, clock: Clock) -> None:
    """Refused here and made there it counts once; after that any other amount can be repaid."""
    loan = await lend(loans, clock)
    await spend(store, BOB, 150, "h")

    async def meanwhile() -> None:
        await store.ledger.grant((BOB,), "bonus", credits_nanocredits=100)
        dying = Loans(store.engine, store.directory, DyingLedger(store.ledger, "after"))
        noted = await loans.find("l1")
        with pytest.raises(LedgerUnavailable):
            await dying.repay(noted, 30, operation_id="r1")

    racing = Loans(store.engine, store.directory, _Meanwhile(store.ledger, "forgo", meanwhile))
    assert (await racing.repay(loan, 30, operation_id="r1")).repaid_nanocredits == 30
    assert (await loans.repay(await loans.find("l1"), 20, operation_id="r2")).repaid_nanocredits == 50
    assert await available(store, BOB) == 60


async def test_small_gifts_keep_no_repayment_away(store: Store, loans: Loans, clock: Clock) -> None:
    """The lender has as many grants as it can be given: the loan still comes back, and what comes together is one grant."""
    await lend(loans, clock, 60)
    for n in range(GRANTS_MAX):
        await store.ledger.grant((ANN,), f"g{n}", credits_nanocredits=1)
    with pytest.raises(Refusal):
        await store.ledger.transfer((BOB,), (ANN,), "gift", credits_nanocredits=1)
    for amount in (20, 10):
        await loans.repay(await loans.find("l1"), amount, operation_id=f"r{amount}")
    assert len([grant for grant in (await store.directory.account(ANN)).grants if grant.grant_id.startswith("loan:")]) == 1
    await pass_to_due(loans, clock)
    assert (await loans.find("l1")).state == "repaid"


async def test_an_offer_stands_until_it_would_be_due_though_its_opener_died(store: Store, loans: Loans, clock: Clock) -> None:
    """Before it had opened the loan, or right after it was refused: somebody looks at it soon, and leaves it as it is."""
    offered = await lend(loans, clock, due_s=3 * DAY_S, accepted=False)
    await store.engine.command("ZADD", keys.LOANS_DUE, clock.now_ms, offered.loan_id)
    await loans.look()
    assert (await loans.find("l1")).state == "offered"
    dying = Loans(store.engine, store.directory, DyingLedger(store.ledger, "before"))
    with pytest.raises(LedgerUnavailable):
        await dying.accept(offered)
    await pass_to_due(loans, clock, 40)
    assert ((await loans.find("l1")).state, await available(store, BOB)) == ("open", 160)
    await pass_to_due(loans, clock, 3 * DAY_S)
    assert (await loans.find("l1")).state == "repaid"
