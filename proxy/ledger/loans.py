"""Loans: credits that one account gives another and gets back by themselves at a due date.

Every step is a transfer whose id is drawn from the loan, noted before it is made: whoever finds a step that nobody finished makes it again,
so a process may die anywhere. A step that was refused is never made: its id is forgone, and the next try has another. What is lent and
what is repaid keep the expiry that they have where they are taken: a loan makes nothing last longer. At the due date what the borrower
has left at every level that it leaves goes back, the rest is asked for again and again; what comes back does so at all levels at which it
was taken. Nobody is lent anything without having accepted it, unless an operator says so.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

import msgspec

from proxy.domain import AccountId, Ledger
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys
from proxy.ledger.changes import PAGE_MAX, Page
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.lent import Loan, LoanState, Taking
from proxy.ledger.people import left_to_give
from proxy.policy.paths import levels_left

log = logging.getLogger(__name__)

UNFINISHED_MAX = 100
"""Loans that one account lends and borrows at a time; offers count for whoever makes them."""
DUE_MAX = 100
"""Loans that one look asks for; the next goes on."""
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
PATIENT_MS = 30 * DAY_MS
"""For so long after its due date a loan is asked for each hour; then each day."""
KEPT_MS = 90 * DAY_MS
"""How long a loan that is over can be seen."""
HEAL_MS = 30_000
"""How long a step may be under way before somebody else finishes it."""
CHANGE_TRIES = 8
REPAYMENTS_REMEMBERED = 32


class _Changed(Exception):
    """Another process has changed the loan meanwhile."""


class Loans:
    """The loans of all accounts."""

    def __init__(self, engine: Engine, directory: Directory, ledger: Ledger) -> None:
        self._engine = engine
        self._directory = directory
        self._ledger = ledger
        self._documents = Documents(engine, Loan)

    # --- reading -------------------------------------------------------------------------------------------------------------------

    async def find(self, loan_id: str, *, of: AccountId | None = None) -> Loan:
        """A loan, one that an account lends or borrows where that is given. Raises Refusal: not_found."""
        loan = await self._documents.read(keys.loan(loan_id))
        if loan is None or (of is not None and of not in (loan.lender, loan.borrower)):
            raise Refusal("not_found", f"there is no loan {loan_id!r}")
        return loan

    async def of_account(self, account_id: AccountId | None, *, after: str | None, limit: int) -> Page[Loan]:
        """What an account lends and borrows, or (None) what all do, the newest first."""
        start, count = int(after or 0), min(limit, PAGE_MAX)
        index = keys.LOANS if account_id is None else keys.loans_of(account_id)
        ids = [raw.decode() for raw in await self._engine.command("ZREVRANGE", index, start, start + count - 1)]
        found = await self._documents.read_all([keys.loan(loan_id) for loan_id in ids])
        return Page(tuple(found), str(start + count) if len(ids) == count else None)

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
    ) -> Loan:
        """Offer a loan, or (`accepted`) make it at once. Raises Refusal; Conflict where the id is another loan's."""
        state: LoanState = "opening" if accepted else "offered"
        now_ms = self._engine.now_ms()
        terms = (loan_id, lender, borrower, credits_nanocredits, due_at_ms, reason)
        loan = Loan(*terms, created_at_ms=now_ms, state=state, was_offered=not accepted, opening=_new_step())
        there = await self._documents.read(keys.loan(loan_id))
        if there is None:
            await self._check_new(loan)
            if not await self._documents.swap(keys.loan(loan_id), None, loan):
                there = await self.find(loan_id)
        if there is not None and there.terms != loan.terms:
            raise Conflict("the id was used before with other arguments")
        loan = there or loan
        await self._engine.command("ZADD", keys.LOANS_DUE, "NX", now_ms + HEAL_MS if accepted else due_at_ms, loan_id)
        for index in self._indices(loan):
            await self._engine.command("ZADD", index, "NX", loan.created_at_ms, loan_id)
        return await self._open(loan) if loan.state == "opening" else loan

    async def _check_new(self, loan: Loan) -> None:
        """Raises Refusal: account_not_found, invalid_request, conflict."""
        if loan.lender == loan.borrower:
            raise Refusal("invalid_request", "an account cannot lend to itself")
        if loan.due_at_ms <= self._engine.now_ms():
            raise Refusal("invalid_request", "a loan must be due in the future")
        for account_id in (loan.lender, loan.borrower):
            account = await self._directory.account(account_id)
            if account.kind == "agent":
                message = f"{account_id!r} is an agent: it has a cap on its person's credits, none of its own"
                raise Refusal("invalid_request", message, account=account_id)
            if account.status == "closed":
                raise Conflict(f"account {account_id!r} is closed")
        await self._check_room(loan.lender)
        if loan.state == "opening":
            await self._check_room(loan.borrower)

    async def _check_room(self, account_id: AccountId) -> None:
        """Raises Conflict where an account has as many loans as it may."""
        if await self._engine.command("ZCARD", keys.unfinished_loans_of(account_id)) >= UNFINISHED_MAX:
            raise Conflict(f"account {account_id!r} has {UNFINISHED_MAX} loans that are not over", hint="Repay or decline some.")

    async def accept(self, loan: Loan) -> Loan:
        """The borrower accepts what it was offered, and has it. Raises Conflict, Refusal where the lender cannot lend it any more."""

        def accepted(loan: Loan) -> Loan:
            if loan.is_over:
                raise Conflict(f"the loan {loan.loan_id!r} is {loan.state}")
            return msgspec.structs.replace(loan, state="opening", opening=_new_step()) if loan.state == "offered" else loan

        if loan.state == "offered" and loan.due_at_ms <= self._engine.now_ms():
            raise Conflict("the offer is over: the loan would be due already")
        if loan.state == "offered":
            await self._check_room(loan.borrower)
        await self._engine.command("ZADD", keys.LOANS_DUE, "LT", self._engine.now_ms() + HEAL_MS, loan.loan_id)
        loan = await self._change(loan.loan_id, accepted)
        await self._engine.command("ZADD", keys.unfinished_loans_of(loan.borrower), loan.created_at_ms, loan.loan_id)
        return await self._open(loan)

    async def decline(self, loan: Loan) -> Loan:
        """An offer is declined, or taken back. Raises Conflict where it was accepted before."""

        def declined(loan: Loan) -> Loan:
            if loan.state not in ("offered", "declined"):
                raise Conflict(f"the loan {loan.loan_id!r} is {loan.state}", hint="Repay it instead.")
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
                    await self._engine.command("ZADD", keys.LOANS_DUE, loan.due_at_ms, loan.loan_id)
                    await self._engine.command("ZREM", keys.unfinished_loans_of(loan.borrower), loan.loan_id)
            elif await self._documents.swap(keys.loan(loan.loan_id), loan, None):
                await self._engine.commands(*(("ZREM", index, loan.loan_id) for index in (*self._indices(loan), keys.LOANS_DUE)))
            raise
        loan = await self._change(loan.loan_id, lambda now: now.turned("opening", "open"))
        await self._engine.command("ZADD", keys.LOANS_DUE, loan.due_at_ms, loan.loan_id)
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
            try:
                amount = amount_nanocredits or loan.outstanding_nanocredits
                loan = await self._take(loan, Taking(loan.steps + 1, amount, operation_id, amount_nanocredits))
            except _Changed:
                loan = await self.find(loan.loan_id)
        raise LedgerUnavailable("the loan changes faster than it can be repaid")

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
        repaid = loan.repaid_nanocredits + taking.amount_nanocredits
        after = msgspec.structs.replace(
            loan,
            taking=None,
            steps=taking.step,
            repaid_nanocredits=repaid,
            state="repaid" if repaid == loan.credits_nanocredits else "open",
            repayments=(*loan.repayments[1 - REPAYMENTS_REMEMBERED :], (taking.operation_id, taking.asked_nanocredits)),
        )
        if not await self._documents.swap(key, loan, after, keep_ms=KEPT_MS if after.is_over else 0):
            raise _Changed
        if after.is_over:
            await self._finish(after)
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
        """Look at the loans that are due, and finish what nobody did; how many were looked at."""
        due = await self._engine.command("ZRANGEBYSCORE", keys.LOANS_DUE, "-inf", self._engine.now_ms(), "LIMIT", 0, DUE_MAX)
        for loan_id in (raw.decode() for raw in due):
            loan = await self._documents.read(keys.loan(loan_id))
            if loan is None or loan.is_over:
                if loan is not None:
                    await self._finish(loan)
                await self._engine.command("ZREM", keys.LOANS_DUE, loan_id)
                continue
            try:
                await self._look_at(loan)
            except (Refusal, _Changed) as refusal:
                log.debug("loan %s waits: %s", loan_id, refusal)
            await self._engine.command("ZADD", keys.LOANS_DUE, "XX", "GT", self._next_look_ms(loan), loan_id)
        return len(due)

    async def _look_at(self, loan: Loan) -> None:
        if loan.state == "offered":
            if loan.due_at_ms <= self._engine.now_ms():  # else whoever was about to open it died
                await self.decline(loan)
        elif loan.state == "opening":
            await self._open(loan)
        elif loan.taking is not None:
            await self._take(loan, loan.taking)
        elif loan.due_at_ms <= self._engine.now_ms():
            borrower, lender = await self._directory.path(loan.borrower), await self._directory.path(loan.lender)
            _, levels = await self._directory.snapshot(borrower)
            leaves = levels[-len(levels_left(borrower, lender, comes_back=True)) :]
            amount = min(loan.outstanding_nanocredits, left_to_give(leaves, self._engine.now_ms()))
            if amount > 0:
                await self._take(loan, Taking(loan.steps + 1, amount, f"due:{loan.steps + 1}"))

    def _next_look_ms(self, loan: Loan) -> int:
        now_ms = self._engine.now_ms()
        if now_ms < loan.due_at_ms:
            return min(loan.due_at_ms, now_ms + HEAL_MS) if loan.state == "opening" else loan.due_at_ms
        return now_ms + (HOUR_MS if now_ms - loan.due_at_ms < PATIENT_MS else DAY_MS)

    async def _change(self, loan_id: str, change: Callable[[Loan], Loan]) -> Loan:
        """The loan as changed; again where another process was faster. Raises what `change` raises; LedgerUnavailable."""
        for _ in range(CHANGE_TRIES):
            before = await self.find(loan_id)
            after = change(before)
            if before == after or await self._documents.swap(keys.loan(loan_id), before, after, keep_ms=KEPT_MS if after.is_over else 0):
                if after.is_over:
                    await self._finish(after)
                return after
        raise LedgerUnavailable("the loan changes faster than it can be read")

    async def _finish(self, loan: Loan) -> None:
        await self._engine.commands(
            ("ZREM", keys.unfinished_loans_of(loan.lender), loan.loan_id),
            ("ZREM", keys.unfinished_loans_of(loan.borrower), loan.loan_id),
            ("ZREM", keys.LOANS_DUE, loan.loan_id),
        )

    def _indices(self, loan: Loan) -> list[str]:
        both = (loan.lender, loan.borrower)
        bound = () if loan.is_over else (loan.lender,) if loan.state == "offered" else both
        return [keys.LOANS, *(keys.loans_of(account) for account in both), *(keys.unfinished_loans_of(account) for account in bound)]


def _new_step() -> str:
    return f"open-{secrets.token_hex(8)}"
