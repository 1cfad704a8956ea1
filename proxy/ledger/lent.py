"""A loan as a record: its terms, how far it was opened and repaid, what was asked before, when it is looked at.

Pure; `loans` carries out, `loan_lists` finds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from proxy.domain import AccountId
from proxy.errors import Conflict

LoanState = Literal["offered", "opening", "open", "repaid", "forgiven", "declined"]

PARTS_MAX = 100
"""In so many parts a loan is repaid by hand; after them whole, or as it is asked for."""
HEAL_MS = 30_000
"""How long a step may be under way before somebody else finishes it."""
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
PATIENT_MS = 30 * DAY_MS
"""For so long after its due date a loan is asked for each hour; then each day."""


class Taking(msgspec.Struct, frozen=True):
    """A repayment that is under way."""

    step: int
    amount_nanocredits: int
    operation_id: str | None = None
    """None where the loan was asked for, and nobody repays it by hand."""
    asked_nanocredits: int | None = None
    """What the operation asks for: None for all that is outstanding."""


class Loan(msgspec.Struct, frozen=True):
    """A loan and how far it was repaid."""

    loan_id: str
    lender: AccountId
    borrower: AccountId
    credits_nanocredits: int
    due_at_ms: int
    reason: str
    created_at_ms: int
    state: LoanState
    was_offered: bool = False
    opening: str = "0"
    """The step by which the borrower gets, or got, the credits."""
    repaid_nanocredits: int = 0
    steps: int = 0
    taking: Taking | None = None
    repayments: tuple[tuple[str, int | None], ...] = ()
    """The operations that repaid something by hand, and what they asked for, so that a repeat does not do it again."""

    @property
    def outstanding_nanocredits(self) -> int:
        return self.credits_nanocredits - self.repaid_nanocredits

    @property
    def is_over(self) -> bool:
        return self.state in ("repaid", "forgiven", "declined")

    @property
    def terms(self) -> tuple[object, ...]:
        """What stays as it was agreed."""
        return self.lender, self.borrower, self.credits_nanocredits, self.due_at_ms, self.reason, self.was_offered

    def has_done(self, operation_id: str, asked_nanocredits: int | None) -> bool:
        """Whether an operation has repaid something before. Raises Conflict where it asked for something else then."""
        taking = self.taking
        under_way = () if taking is None or taking.operation_id is None else ((taking.operation_id, taking.asked_nanocredits),)
        if any(known == operation_id and asked != asked_nanocredits for known, asked in (*self.repayments, *under_way)):
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        return any(known == operation_id for known, _ in self.repayments)

    def check_part(self) -> None:
        """Raises Conflict where the loan was repaid in as many parts as it may be."""
        if len(self.repayments) >= PARTS_MAX:
            message = f"the loan {self.loan_id!r} has been repaid in {PARTS_MAX} parts"
            raise Conflict(message, hint="Repay all that is left, by leaving `credits` out, or wait until it is asked for.")

    def after(self, taking: Taking) -> Loan:
        """The same with a repayment made."""
        repaid = self.repaid_nanocredits + taking.amount_nanocredits
        by_hand = () if taking.operation_id is None else ((taking.operation_id, taking.asked_nanocredits),)
        return msgspec.structs.replace(
            self,
            taking=None,
            steps=taking.step,
            repaid_nanocredits=repaid,
            state="repaid" if repaid == self.credits_nanocredits else "open",
            repayments=(*self.repayments, *by_hand),
        )

    def turned(self, before: LoanState, after: LoanState) -> Loan:
        """The same in another state, where it is in the one before."""
        return msgspec.structs.replace(self, state=after) if self.state == before else self

    def next_look_ms(self, now_ms: int) -> int:
        """When it is looked at again: before it is due for whoever has died or been closed meanwhile, then because it is asked for."""
        if now_ms < self.due_at_ms:
            return min(self.due_at_ms, now_ms + (HEAL_MS if self.state == "opening" else HOUR_MS))
        return now_ms + (HOUR_MS if now_ms - self.due_at_ms < PATIENT_MS else DAY_MS)
