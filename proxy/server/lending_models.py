"""What the calls on loans read and answer, for people and for operators."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.ledger.lent import Loan, LoanState
from proxy.server.admin.fields import CreditsText, GivenReason, Identifier, Moment, MomentText, PositiveAmount, Reason
from proxy.server.admin.models import Asked, CountCursor, PageQuery
from proxy.server.admin.views import PageView, View


class OwnLoanCreate(Asked):
    """Self-service: the lender is always the caller's own account, and the borrower must accept."""

    target: Identifier = Field(alias="to")
    credits: PositiveAmount
    due_at: Moment
    reason: Reason = ""


class LoanCreate(Asked):
    source: Identifier = Field(alias="from")
    target: Identifier = Field(alias="to")
    credits: PositiveAmount
    due_at: Moment
    reason: GivenReason


class LoanAnswer(Asked):
    reason: Reason = ""


class LoanForgive(Asked):
    reason: GivenReason


class Repayment(Asked):
    credits: PositiveAmount | None = Field(default=None, description="Default: all that is outstanding")
    reason: Reason = ""


class LoansQuery(PageQuery):
    after: CountCursor | None = None


class AccountLoansQuery(LoansQuery):
    account: Identifier | None = Field(default=None, description="Only what this account lends and borrows")


class LoanView(View):
    loan_id: str
    lender: str = Field(serialization_alias="from")
    borrower: str = Field(serialization_alias="to")
    credits: CreditsText
    repaid: CreditsText
    outstanding: CreditsText = Field(description="What the borrower has still to give back")
    state: LoanState
    due_at: MomentText
    created_at: MomentText
    reason: str

    @classmethod
    def of(cls, loan: Loan) -> Self:
        return cls(
            loan_id=loan.loan_id,
            lender=loan.lender,
            borrower=loan.borrower,
            credits=credits(loan.credits_nanocredits),
            repaid=credits(loan.repaid_nanocredits),
            outstanding=credits(loan.outstanding_nanocredits if loan.state == "open" else 0),
            state=loan.state,
            due_at=utc_time(loan.due_at_ms),
            created_at=utc_time(loan.created_at_ms),
            reason=loan.reason,
        )


class LoanPage(PageView[LoanView]):
    pass
