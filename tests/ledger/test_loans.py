"""Loans on a real ledger and a clock that tests turn: how they come back, from where, and how long what comes back lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.config import LedgerSection
from proxy.domain import AccountId, Ledger, Limit, Plan
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import Store, keys, open_ledger
from proxy.ledger.lent import PARTS_MAX, Loan
from proxy.ledger.loan_lists import KEPT_MS, READ_LEAST, TRIMMED_MAX, UNFINISHED_MAX
from proxy.ledger.loans import Loans
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


async def close(store: Store, *names: str) -> None:
    for name in names:
        await store.directory.update_account(AccountId(name), status="closed", operation_id=f"close {name}")


async def is_listed(store: Store, loan: Loan) -> list[bool]:
    """Whether it still counts for its lender, for its borrower, and is looked at."""
    lists = (keys.unfinished_loans_of(loan.lender), keys.unfinished_loans_of(loan.borrower), keys.LOANS_DUE)
    return [await store.engine.command("ZSCORE", name, loan.loan_id) is not None for name in lists]


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


@pytest.mark.parametrize("due_s", [HOUR_S, 300 * DAY_S], ids=["due", "not due"])
async def test_who_is_closed_gives_back_what_it_has_left_and_is_forgiven_the_rest(
    store: Store, loans: Loans, clock: Clock, due_s: int
) -> None:
    """At the next look, within an hour: it will spend nothing more, and gets nothing more. The lender's slot is free again."""
    loan = await lend(loans, clock, due_s=due_s)
    await spend(store, BOB, 110, "h")
    await close(store, BOB)
    await pass_to_due(loans, clock, HOUR_S)
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits) == ("forgiven", 50)
    assert (await available(store, ANN), await available(store, BOB)) == (90, 0)
    assert await is_listed(store, loan) == [False, False, False]
    assert (await loans.of_account(ANN, after=None, limit=9)).items == (loan,)
    await pass_to_due(loans, clock, due_s + DAY_S)
    assert await loans.find("l1") == loan
    with pytest.raises(Conflict):
        await loans.repay(loan, None, operation_id="late")


async def test_who_is_closed_and_has_it_all_repays_all(store: Store, loans: Loans, clock: Clock) -> None:
    """Nothing is left to forgive."""
    await lend(loans, clock)
    await close(store, BOB)
    await pass_to_due(loans, clock, HOUR_S)
    assert ((await loans.find("l1")).state, await available(store, ANN)) == ("repaid", 100)


async def test_who_is_suspended_owes_what_it_owes(store: Store, loans: Loans, clock: Clock) -> None:
    """It may be resumed, so nothing is taken or forgiven; then it is asked for, or it is closed after all."""
    await lend(loans, clock, 40)
    await lend(loans, clock, 10, loan_id="l2", due_s=300 * DAY_S)
    await store.directory.update_account(BOB, status="suspended", operation_id="s")
    await pass_to_due(loans, clock)
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits, await is_listed(store, loan)) == ("open", 0, [True, True, True])
    await store.directory.update_account(BOB, status="active", operation_id="r")
    await pass_to_due(loans, clock, HOUR_S)
    assert [(await loans.find(name)).state for name in ("l1", "l2")] == ["repaid", "open"]
    await store.directory.update_account(BOB, status="suspended", operation_id="s2")
    await close(store, BOB)
    await pass_to_due(loans, clock, HOUR_S)
    assert (await loans.find("l2")).state == "repaid"


async def test_what_who_is_closed_still_has_is_not_forgiven_while_its_organisation_lacks(store: Store, loans: Loans, clock: Clock) -> None:
    """Its organisation's day is used up by others: nothing can come back by now, but tomorrow."""
    await store.directory.create_account(AccountId("org"), limits=(Limit(100, "day"),), operation_id="org")
    kim, lee = AccountId("kim"), AccountId("lee")
    for name in (kim, lee):
        await store.directory.create_account(name, parent=AccountId("org"), limits=(Limit(500, "ever"),), operation_id=name)
    due_at_ms = clock.now_ms + 90 * DAY_S * 1000
    await loans.offer("l1", ANN, kim, credits_nanocredits=60, due_at_ms=due_at_ms, reason="", accepted=True)
    left = await available(store, AccountId("org"))
    await store.ledger.hold((AccountId("org"), lee), "h", want_nanocredits=left, least_nanocredits=left)
    await store.ledger.settle((AccountId("org"), lee), "h", spent_nanocredits=left)
    await close(store, kim)
    await pass_to_due(loans, clock, HOUR_S)
    assert ((await loans.find("l1")).state, (await loans.find("l1")).repaid_nanocredits) == ("open", 0)
    await pass_to_due(loans, clock, DAY_S)
    assert (await loans.find("l1")).state == "repaid"


async def test_who_stands_below_a_closed_organisation_is_closed_too(store: Store, loans: Loans, clock: Clock) -> None:
    """Also where it is suspended itself: what the organisation has left bounds what comes back, the rest is forgiven."""
    await store.directory.create_account(AccountId("org"), limits=(Limit(50, "day"),), operation_id="org")
    for name in ("kim", "lee"):
        await store.directory.create_account(AccountId(name), parent=AccountId("org"), operation_id=name)
    kim, lee = AccountId("kim"), AccountId("lee")
    terms = {"due_at_ms": clock.now_ms + 90 * DAY_S * 1000, "reason": "", "accepted": True}
    for borrower, amount in ((kim, 30), (lee, 25)):
        await loans.offer(f"to {borrower}", ANN, borrower, credits_nanocredits=amount, **terms)
    await store.directory.update_account(lee, status="suspended", operation_id="s")
    await close(store, "org")
    await pass_to_due(loans, clock, HOUR_S)
    found = [await loans.find(f"to {name}") for name in (kim, lee)]
    assert [(loan.state, loan.repaid_nanocredits) for loan in found] == [("repaid", 30), ("forgiven", 20)]
    with pytest.raises(Conflict, match="'org' is closed"):
        await loans.offer("more", ANN, kim, credits_nanocredits=1, **terms)


async def test_what_still_runs_of_who_is_closed_is_waited_for(store: Store, loans: Loans, clock: Clock) -> None:
    """What it leaves goes back before anything is forgiven."""
    await lend(loans, clock, due_s=300 * DAY_S)
    await store.ledger.hold((BOB,), "runs", want_nanocredits=130, least_nanocredits=130)
    await close(store, BOB)
    await pass_to_due(loans, clock, HOUR_S)
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits) == ("open", 30)
    await store.ledger.settle((BOB,), "runs", spent_nanocredits=110)
    await pass_to_due(loans, clock, HOUR_S)
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits, await available(store, BOB)) == ("forgiven", 50, 0)


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_who_looks_at_the_closed_may_die(store: Store, loans: Loans, clock: Clock, when: When) -> None:
    """Whoever looks next goes on: what is left comes back once, and the rest is forgiven."""
    await lend(loans, clock, due_s=300 * DAY_S)
    await spend(store, BOB, 110, "h")
    await close(store, BOB)
    clock.pass_s(HOUR_S)
    with pytest.raises(LedgerUnavailable):
        await Loans(store.engine, store.directory, DyingLedger(store.ledger, when)).look()
    await store.ledger.expire_due()
    await pass_to_due(loans, clock, 40)
    await store.ledger.expire_due()
    loan = await loans.find("l1")
    assert (loan.state, loan.repaid_nanocredits, await available(store, ANN)) == ("forgiven", 50, 90)
    assert (await store.directory.account(BOB)).totals.given == 50


@pytest.mark.parametrize("closed", [ANN, BOB], ids=["the lender", "the borrower"])
async def test_an_offer_to_or_by_who_is_closed_is_over(store: Store, loans: Loans, clock: Clock, closed: AccountId) -> None:
    """Nobody accepts it, and at the next look, long before it would be due, it counts as declined."""
    offered = await lend(loans, clock, due_s=300 * DAY_S, accepted=False)
    await close(store, closed)
    with pytest.raises(Conflict, match="is closed"):
        await loans.accept(offered)
    assert ((await loans.find("l1")).state, await is_listed(store, offered)) == ("offered", [True, False, True])
    await pass_to_due(loans, clock, HOUR_S)
    assert ((await loans.find("l1")).state, await is_listed(store, offered)) == ("declined", [False, False, False])
    assert await available(store, BOB if closed == ANN else ANN) == 100


async def test_what_comes_back_to_a_closed_lender_restores_its_organisation(store: Store, loans: Loans, clock: Clock) -> None:
    """The lender's own part lies in its account, where nobody spends it."""
    await store.directory.create_account(AccountId("org"), limits=(Limit(70, "ever"),), operation_id="org")
    lee = (await store.directory.create_account(AccountId("lee"), parent=AccountId("org"), operation_id="lee")).id
    terms = {"credits_nanocredits": 60, "due_at_ms": clock.now_ms + 7_200_000, "reason": "", "accepted": True}
    await loans.offer("l1", lee, BOB, **terms)
    await close(store, lee)
    await pass_to_due(loans, clock, 7_200)
    assert ((await loans.find("l1")).state, await available(store, AccountId("org"))) == ("repaid", 70)
    assert (await store.directory.account(lee)).totals.granted == 60


async def test_a_loan_is_forgiven(store: Store, loans: Loans, clock: Clock) -> None:
    """The borrower keeps what is outstanding, and it is asked for no more; again is no change, and what is not open is no such thing."""
    offered = await lend(loans, clock, accepted=False)
    with pytest.raises(Conflict):
        await loans.forgive(offered)
    opened = await loans.accept(offered)
    loan = await loans.forgive(await loans.repay(opened, 20, operation_id="r"))
    assert (loan.state, loan.outstanding_nanocredits, await is_listed(store, loan)) == ("forgiven", 40, [False, False, False])
    assert await loans.forgive(loan) == await loans.forgive(opened) == loan
    assert await loans.repay(loan, 20, operation_id="r") == loan, "a repeat of what was done is no new repayment"
    for refused in (loans.accept(loan), loans.decline(loan), loans.repay(loan, 1, operation_id="s")):
        with pytest.raises(Conflict, match="is forgiven"):
            await refused
    await pass_to_due(loans, clock, HOUR_S)
    assert (await available(store, ANN), await available(store, BOB)) == (60, 140)
    await lend(loans, clock, 10, loan_id="l2")
    repaid = await loans.repay(await loans.find("l2"), None, operation_id="all")
    with pytest.raises(Conflict, match="is repaid"):
        await loans.forgive(repaid)


@pytest.mark.parametrize(("when", "is_refused"), [("before", False), ("before", True), ("between", False), ("after", False)])
async def test_a_repayment_under_way_is_finished_before_the_rest_is_forgiven(
    store: Store, loans: Loans, clock: Clock, when: When, is_refused: bool
) -> None:
    """Made or refused, whoever died with it; nothing is taken after that."""
    loan = await lend(loans, clock)
    dying = Loans(store.engine, store.directory, DyingLedger(store.ledger, when))
    with pytest.raises(LedgerUnavailable):
        await dying.repay(loan, 25, operation_id="r")
    if is_refused:
        await spend(store, BOB, 150, "h")
    for old in (loan, await loans.find("l1")):
        forgiven = await loans.forgive(old)
        repaid = 0 if is_refused else 25
        assert (forgiven.state, forgiven.repaid_nanocredits) == ("forgiven", repaid)
    await store.ledger.expire_due()
    await pass_to_due(loans, clock, 40)
    assert await available(store, ANN) == 40 + repaid


@pytest.mark.parametrize("how", ["by hand", "at the due date"])
async def test_a_loan_is_repaid_in_so_many_parts(store: Store, loans: Loans, clock: Clock, how: str) -> None:
    """Each is remembered, so that no repeat, however late, pays again; after them it is repaid whole, or asked for."""
    await store.ledger.grant((ANN,), "bonus", credits_nanocredits=100)
    await lend(loans, clock, 120)

    async def repay(amount: int | None, operation_id: str) -> Loan:
        return await loans.repay(await loans.find("l1"), amount, operation_id=operation_id)

    for n in range(PARTS_MAX):
        await repay(1, f"r{n}")
    for n in range(PARTS_MAX):
        assert (await repay(1, f"r{n}")).repaid_nanocredits == PARTS_MAX
    with pytest.raises(Conflict):
        await repay(2, "r0")
    with pytest.raises(Conflict, match=f"in {PARTS_MAX} parts") as refused:
        await repay(1, "one more")
    assert "all that is left" in (refused.value.hint or "")
    if how == "by hand":
        await repay(None, "all")
    else:
        await pass_to_due(loans, clock)
    for operation_id in ("r0", f"r{PARTS_MAX - 1}"):
        loan = await repay(1, operation_id)
        assert (loan.state, loan.repaid_nanocredits) == ("repaid", 120)


async def test_what_is_asked_for_takes_no_part_away(store: Store, loans: Loans, clock: Clock) -> None:
    """A loan that was asked for ever so often is repaid by hand as if it had not been, and remembers no more for it."""
    await lend(loans, clock, 60, due_s=1)
    await store.ledger.set_limits((BOB,), "none", limits=(Limit(0, "ever"),))
    await spend(store, BOB, 60, "h")
    for n in range(20):
        await store.ledger.grant((BOB,), f"g{n}", credits_nanocredits=1)
        await pass_to_due(loans, clock, HOUR_S)
    loan = await loans.find("l1")
    assert (loan.repaid_nanocredits, loan.repayments) == (20, ())


async def decline_many(loans: Loans, clock: Clock, count: int) -> None:
    """So many offers, each declined before the next."""
    for n in range(count):
        await lend(loans, clock, 1, loan_id=f"gone{n}", accepted=False)
        await loans.decline(await loans.find(f"gone{n}"))
        clock.pass_s(0.001)


async def let_go(store: Store, count: int) -> None:
    """As the server does once they have been over for long."""
    await store.engine.commands(*(("DEL", keys.loan(f"gone{n}")) for n in range(count)))


async def test_a_page_of_loans_is_full_though_many_have_gone(store: Store, loans: Loans, clock: Clock) -> None:
    """Whoever reads where they stood forgets them, and reads on to the end; one that may be under way keeps its place."""
    await lend(loans, clock, 1, loan_id="first", due_s=900 * DAY_S)
    clock.pass_s(1)
    count = READ_LEAST + 20
    await decline_many(loans, clock, count)
    await let_go(store, count)
    page = await loans.of_account(ANN, after=None, limit=5)
    assert ([loan.loan_id for loan in page.items], page.next) == (["first"], None)
    assert await store.engine.command("ZCARD", keys.loans_of(ANN)) == count + 1, "they might have been refused just now"
    clock.pass_s(KEPT_MS // 1000)
    for n in range(3):
        await lend(loans, clock, 1, loan_id=f"new{n}", due_s=900 * DAY_S)
        clock.pass_s(1)
    await store.engine.command("ZADD", keys.loans_of(ANN), clock.now_ms - 1, "young")
    page = await loans.of_account(ANN, after=None, limit=2)
    assert [loan.loan_id for loan in page.items] == ["new2", "new1"]
    page = await loans.of_account(ANN, after=page.next, limit=2)
    assert [loan.loan_id for loan in page.items] == ["new0", "first"]
    assert page.next is None
    assert await store.engine.command("ZCARD", keys.loans_of(ANN)) == 5
    assert len((await loans.of_account(BOB, after=None, limit=1000)).items) == 4
    assert await store.engine.command("ZCARD", keys.loans_of(BOB)) == 4


async def test_the_list_of_all_loans_forgets_those_that_have_gone(store: Store, loans: Loans, clock: Clock) -> None:
    """A few at each look, past those that are still there; at its end it rests for an hour."""
    await lend(loans, clock, 1, loan_id="first", due_s=900 * DAY_S)
    clock.pass_s(1)
    count = 2 * TRIMMED_MAX + 5
    await decline_many(loans, clock, count)
    await let_go(store, count)
    await loans.look()
    assert await store.engine.command("ZCARD", keys.LOANS) == count + 1
    clock.pass_s(KEPT_MS // 1000 + HOUR_S)
    counts = []
    for _ in range(4):
        await loans.look()
        counts.append(await store.engine.command("ZCARD", keys.LOANS))
    assert counts == [count + 2 - TRIMMED_MAX, count + 2 - 2 * TRIMMED_MAX, 1, 1]
