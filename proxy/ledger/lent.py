"""A loan as a record: its terms, how far it was opened and repaid, and what was asked before. Pure; `loans` carries out."""

from __future__ import annotations

from typing import Literal

import msgspec

from proxy.domain import AccountId
from proxy.errors import Conflict

LoanState = Literal["offered", "opening", "open", "repaid", "declined"]


class Taking(msgspec.Struct, frozen=True):
    """A repayment that is under way."""

    step: int
    amount_nanocredits: int
    operation_id: str
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
    """The last operations that repaid something, and what they asked for, so that a repeat does not do it again."""

    @property
    def outstanding_nanocredits(self) -> int:
        return self.credits_nanocredits - self.repaid_nanocredits

    @property
    def is_over(self) -> bool:
        return self.state in ("repaid", "declined")

    @property
    def terms(self) -> tuple[object, ...]:
        """What stays as it was agreed."""
        return self.lender, self.borrower, self.credits_nanocredits, self.due_at_ms, self.reason, self.was_offered

    def has_done(self, operation_id: str, asked_nanocredits: int | None) -> bool:
        """Whether an operation has repaid something before. Raises Conflict where it asked for something else then."""
        under_way = () if self.taking is None else ((self.taking.operation_id, self.taking.asked_nanocredits),)
        if any(known == operation_id and asked != asked_nanocredits for known, asked in (*self.repayments, *under_way)):
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        return any(known == operation_id for known, _ in self.repayments)

    def turned(self, before: LoanState, after: LoanState) -> Loan:
        """The same in another state, where it is in the one before."""
        return msgspec.structs.replace(self, state=after) if self.state == before else self
