"""Loans: credits that one account gives another and gets back by themselves at a due date.

Every step is a transfer whose id is drawn from the loan, noted before it is made: whoever finds a step that nobody finished makes it again,
so a process may die anywhere. A step that was refused is never made: its id is forgone, and the next try has another. What is lent and
what is repaid keep the expiry that they have where they are taken: a loan makes nothing last longer. At the due date what the borrower
has left at every level that it leaves goes back, the rest is asked for again and again; what comes back does so at all levels at which it
was taken. Whoever is closed gives back at once what it has left, and is forgiven the rest. Nobody is lent anything without having accepted
it, unless an operator says so.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

import msgspec

from proxy.domain import Account, AccountId, Ledger
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys
from proxy.ledger.changes import Page
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.lent import DAY_MS, HEAL_MS, Loan, LoanState, Taking
from proxy.ledger.loan_lists import KEPT_MS, LoanLists
from proxy.ledger.people import left_to_give
from proxy.policy.paths import levels_left

log = logging.getLogger(__name__)

DUE_MAX = 100
"""Loans that one look asks for; the next goes on."""
CHANGE_TRIES = 8


class _Changed(Exception):
    """Another process has changed the loan meanwhile."""


class Loans:
    """The loans of all accounts."""

    def __init__(self, engine: Engine, directory: Directory, ledger: Ledger) -> None:
        self._engine = engine
        self._directory = directory
        self._ledger = ledger
        self._documents = Documents(engine, Loan)
        self._lists = LoanLists(engine, self._documents)

    # --- reading -------------------------------------------------------------------------------------------------------------------

    async def find(self, loan_id: str, *, of: AccountId | None = None) -> Loan:
        """A loan, one that an account lends or borrows where that is given. Raises Refusal: not_found."""
        loan = await self._documents.read(keys.loan(loan_id))
        if loan is None or (of is not None and of not in (loan.lender, loan.borrower)):
            raise Refusal("not_found", f"there is no loan {loan_id!r}")
        return loan

    async def of_account(self, account_id: AccountId | None, *, after: str | None, limit: int) -> Page[Loan]:
        """What an account lends and borrows, or (None) what all do, the newest first."""
        return await self._lists.page(account_id, after=after, limit=limit)

    # --- how it begins ---------------------------------------------------------------------------------------------------------------

    async def offer(
        self,
        loan_id: str,
        lender: AccountId,
        borrower: AccountId,
        *,
        credits_nanocredits: int,
        due_at_ms: int,
        reason: str,
        accepted: bool,
        days_max: int | None = None,
    ) -> Loan:
        """Offer a loan, or (`accepted`) make it at once; `days_max`: in so many days it must be due.

        Raises Refusal; Conflict where the id is another loan's.
        """
        state: LoanState = "opening" if accepted else "offered"
        now_ms = self._engine.now_ms()
        terms = (loan_id, lender, borrower, credits_nanocredits, due_at_ms, reason)
        loan = Loan(*terms, created_at_ms=now_ms, state=state, was_offered=not accepted, opening=_new_step())
        there = await self._documents.read(keys.loan(loan_id))
        if there is None:
            await self._check_new(loan, days_max)
            if not await self._documents.swap(keys.loan(loan_id), None, loan):
                there = await self.find(loan_id)
        if there is not None and there.terms != loan.terms:
            raise Conflict("the id was used before with other arguments")
        loan = there or loan
        await self._engine.command("ZADD", keys.LOANS_DUE, "NX", loan.next_look_ms(now_ms), loan_id)
        await self._lists.enter(loan)
        return await self._open(loan) if loan.state == "opening" else loan

    async def _check_new(self, loan: Loan, days_max: int | None) -> None:
        """Raises Refusal: account_not_found, invalid_request, conflict."""
        if loan.lender == loan.borrower:
            raise Refusal("invalid_request", "an account cannot lend to itself")
        if loan.due_at_ms <= self._engine.now_ms():
            raise Refusal("invalid_request", "a loan must be due in the future")
        if days_max is not None and loan.due_at_ms - self._engine.now_ms() > days_max * DAY_MS:
            message = f"a loan must be due within {days_max} days"
            raise Refusal("invalid_request", message, hint="Name an earlier due date, or ask whoever runs this proxy.")
        for account_id in (loan.lender, loan.borrower):
            levels = await self._levels(account_id)
            if levels[-1].kind == "agent":
                message = f"{account_id!r} is an agent: it has a cap on its person's credits, none of its own"
                raise Refusal("invalid_request", message, account=account_id)
            if closed := _closed_on(levels):
                raise Conflict(f"account {closed!r} is closed")
        await self._lists.check_room(loan.lender)
        if loan.state == "opening":
            await self._lists.check_room(loan.borrower)

    async def _levels(self, account_id: AccountId) -> tuple[Account, ...]:
        """An account and all above it, as of now, root first. Raises Refusal: account_not_found."""
        return (await self._directory.snapshot(await self._directory.path(account_id)))[1]

    async def _closed_side(self, loan: Loan) -> AccountId | None:
        """Who is closed of the lender, the borrower, and those above them."""
        return _closed_on((*await self._levels(loan.lender), *await self._levels(loan.borrower)))

    async def accept(self, loan: Loan) -> Loan:
        """The borrower accepts what it was offered, and has it.

        Raises Conflict where it is over, or an account of it is closed; Refusal where the lender cannot lend it any more.
        """

        def accepted(loan: Loan) -> Loan:
            if loan.is_over:
                raise Conflict(f"the loan {loan.loan_id!r} is {loan.state}")
            return msgspec.structs.replace(loan, state="opening", opening=_new_step()) if loan.state == "offered" else loan

        if loan.state == "offered" and loan.due_at_ms <= self._engine.now_ms():
            raise Conflict("the offer is over: the loan would be due already")
        if loan.state == "offered":
            if closed := await self._closed_side(loan):
                raise Conflict(f"account {closed!r} is closed: this offer cannot be accepted any more", hint="Decline it.")
            await self._lists.check_room(loan.borrower)
        await self._engine.command("ZADD", keys.LOANS_DUE, "LT", self._engine.now_ms() + HEAL_MS, loan.loan_id)
        loan = await self._change(loan.loan_id, accepted)
        await self._lists.bind(loan)
        return await self._open(loan)

    async def decline(self, loan: Loan) -> Loan:
        """An offer is declined, or taken back. Raises Conflict where it was accepted before."""

        def declined(loan: Loan) -> Loan:
            if loan.state not in ("offered", "declined"):
                raise Conflict(f"the loan {loan.loan_id!r} is {loan.state}", hint=None if loan.is_over else "Repay or forgive it instead.")
            return msgspec.structs.replace(loan, state="declined")

        return await self._change(loan.loan_id, declined)

    async def _open(self, loan: Loan) -> Loan:
        """Give the borrower its credits; where the lender has none, the offer stands again, or an operator's loan is none."""
        if loan.state != "opening":
            return loan
        try:
            await self._move(loan, loan.credits_nanocredits, step=loan.opening, memo=loan.reason)
        except Refusal:
            if loan.was_offered:
                now = await self._change(loan.loan_id, lambda now: now.turned("opening", "offered") if now.opening == loan.opening else now)
                if now.state == "offered":  # else somebody accepts it again
                    await self._look_later(now)
                    await self._lists.release(loan)
            elif await self._documents.swap(keys.loan(loan.loan_id), loan, None):
                await self._lists.leave(loan)
            raise
        loan = await self._change(loan.loan_id, lambda now: now.turned("opening", "open"))
        await self._look_later(loan)
        return loan

    # --- how it comes back -----------------------------------------------------------------------------------------------------------

    async def repay(self, loan: Loan, amount_nanocredits: int | None, *, operation_id: str) -> Loan:
        """Pay back so much, or (None) all that is outstanding, before it is asked for; a repeat pays nothing more.

        Raises Conflict where the loan is not open, or the id has asked for something else; Refusal: insufficient_quota, invalid_request.
        """
        for _ in range(CHANGE_TRIES):
            if loan.has_done(operation_id, amount_nanocredits) or (loan.state == "repaid" and amount_nanocredits is None):
                return loan
            if loan.state != "open":
                raise Conflict(f"the loan {loan.loan_id!r} is {loan.state}")
            if amount_nanocredits is not None and amount_nanocredits > loan.outstanding_nanocredits:
                raise Refusal("invalid_request", "that is more than is outstanding", available_nanocredits=loan.outstanding_nanocredits)
            if amount_nanocredits is not None and loan.taking is None:
                loan.check_part()
            try:
                amount = amount_nanocredits or loan.outstanding_nanocredits
                loan = await self._take(loan, Taking(loan.steps + 1, amount, operation_id, amount_nanocredits))
            except _Changed:
                loan = await self.find(loan.loan_id)
        raise LedgerUnavailable("the loan changes faster than it can be repaid")

    async def forgive(self, loan: Loan) -> Loan:
        """The borrower keeps what is outstanding, once a repayment that is under way is made or refused; again is no change.

        Raises Conflict where the loan is not open.
        """
        for _ in range(CHANGE_TRIES):
            if loan.state == "forgiven":
                return loan
            if loan.state != "open":
                hint = "Decline it instead." if loan.state == "offered" else None
                raise Conflict(f"the loan {loan.loan_id!r} is {loan.state}", hint=hint)
            try:
                if loan.taking is not None:
                    loan = await self._take(loan, loan.taking)
                    continue
                forgiven = msgspec.structs.replace(loan, state="forgiven")
                if await self._documents.swap(keys.loan(loan.loan_id), loan, forgiven, keep_ms=KEPT_MS):
                    await self._lists.finish(forgiven)
                    return forgiven
            except (_Changed, Refusal) as reason:
                log.debug("loan %s: %s", loan.loan_id, reason)
            loan = await self.find(loan.loan_id)
        raise LedgerUnavailable("the loan changes faster than it can be forgiven")

    async def _take(self, loan: Loan, asked: Taking) -> Loan:
        """Make the step that is under way, or this one. Raises _Changed, Refusal."""
        key, taking = keys.loan(loan.loan_id), loan.taking
        if taking is None:
            taking = asked
            noted = msgspec.structs.replace(loan, taking=taking)
            await self._engine.command("ZADD", keys.LOANS_DUE, "LT", self._engine.now_ms() + HEAL_MS, loan.loan_id)
            if not await self._documents.swap(key, loan, noted):
                raise _Changed
            loan = noted
        try:
            await self._move(loan, taking.amount_nanocredits, step=str(taking.step), memo="repayment", comes_back=True)
        except Refusal:
            refused = msgspec.structs.replace(loan, taking=None, steps=taking.step)
            if not await self._documents.swap(key, loan, refused):
                raise _Changed from None
            if taking.operation_id != asked.operation_id:  # it was another's, which learns of it by itself
                return refused
            raise
        after = loan.after(taking)
        if not await self._documents.swap(key, loan, after, keep_ms=KEPT_MS if after.is_over else 0):
            raise _Changed
        if after.is_over:
            await self._lists.finish(after)
        return after

    async def _move(self, loan: Loan, amount_nanocredits: int, *, step: str, memo: str, comes_back: bool = False) -> None:
        """Make a step, to the borrower or back, unless it was made. Raises Refusal where it cannot be made, and then it never is."""
        reason = f"loan {loan.loan_id}: {memo}" if memo else f"loan {loan.loan_id}"
        giver, taker = (loan.borrower, loan.lender) if comes_back else (loan.lender, loan.borrower)
        source, target = await self._directory.path(giver), await self._directory.path(taker)
        operation_id = f"loan:{loan.loan_id}:{step}"
        try:
            await self._ledger.transfer(
                *(source, target, operation_id),
                credits_nanocredits=amount_nanocredits,
                reason=reason,
                into="loan",
                comes_back=comes_back,
            )
        except Refusal:
            if await self._ledger.forgo(source, operation_id):
                raise

    # --- looking after them ------------------------------------------------------------------------------------------------------------

    async def look(self) -> int:
        """Look at the loans whose time it is, and finish what nobody did; how many were looked at."""
        await self._lists.trim()
        due = await self._engine.command("ZRANGEBYSCORE", keys.LOANS_DUE, "-inf", self._engine.now_ms(), "LIMIT", 0, DUE_MAX)
        for loan_id in (raw.decode() for raw in due):
            loan = await self._documents.read(keys.loan(loan_id))
            if loan is None or loan.is_over:
                if loan is not None:
                    await self._lists.finish(loan)
                await self._engine.command("ZREM", keys.LOANS_DUE, loan_id)
                continue
            try:
                await self._look_at(loan)
            except (Refusal, _Changed) as refusal:
                log.debug("loan %s waits: %s", loan_id, refusal)
            await self._engine.command("ZADD", keys.LOANS_DUE, "XX", "GT", loan.next_look_ms(self._engine.now_ms()), loan_id)
        return len(due)

    async def _look_at(self, loan: Loan) -> None:
        is_due = loan.due_at_ms <= self._engine.now_ms()
        if loan.state == "offered":
            if is_due or await self._closed_side(loan):
                await self.decline(loan)
        elif loan.state == "opening":
            await self._open(loan)
        else:
            if loan.taking is not None:
                loan = await self._take(loan, loan.taking)
            levels = await self._levels(loan.borrower)
            is_closed = _closed_on(levels) is not None
            owed = loan.outstanding_nanocredits
            if loan.state == "open" and (is_due or is_closed):
                loan = await self._ask_for(loan, levels)
            has_left = left_to_give(levels[-1:], self._engine.now_ms()) > owed - loan.outstanding_nanocredits and _are_active_above(levels)
            # What still runs may leave something, and whoever is above may have something again.
            if loan.state == "open" and is_closed and not levels[-1].totals.held and not has_left:
                await self.forgive(loan)
                log.info("loan %s: %d of it are forgiven, for its borrower is closed", loan.loan_id, loan.outstanding_nanocredits)

    async def _ask_for(self, loan: Loan, levels: tuple[Account, ...]) -> Loan:
        """Take back what the borrower, whose levels these are, has left, as far as it owes that. Raises _Changed, Refusal."""
        borrower, lender = levels[-1].path, await self._directory.path(loan.lender)
        leaves = levels[-len(levels_left(borrower, lender, comes_back=True)) :]
        amount = min(loan.outstanding_nanocredits, left_to_give(leaves, self._engine.now_ms()))
        return loan if amount <= 0 else await self._take(loan, Taking(loan.steps + 1, amount))

    async def _look_later(self, loan: Loan) -> None:
        """A step is made: there is time until the loan is looked at again."""
        await self._engine.command("ZADD", keys.LOANS_DUE, loan.next_look_ms(self._engine.now_ms()), loan.loan_id)

    async def _change(self, loan_id: str, change: Callable[[Loan], Loan]) -> Loan:
        """The loan as changed; again where another process was faster. Raises what `change` raises; LedgerUnavailable."""
        for _ in range(CHANGE_TRIES):
            before = await self.find(loan_id)
            after = change(before)
            if before == after or await self._documents.swap(keys.loan(loan_id), before, after, keep_ms=KEPT_MS if after.is_over else 0):
                if after.is_over:
                    await self._lists.finish(after)
                return after
        raise LedgerUnavailable("the loan changes faster than it can be read")


def _closed_on(levels: tuple[Account, ...]) -> AccountId | None:
    """Who of a path is closed, and so nobody below spends anything any more."""
    return next((level.id for level in levels if level.status == "closed"), None)


def _are_active_above(levels: tuple[Account, ...]) -> bool:
    """Whether those who stand above the last of a path, if anybody does, go on."""
    return all(level.status != "closed" for level in levels[:-1])


def _new_step() -> str:
    return f"open-{secrets.token_hex(8)}"
