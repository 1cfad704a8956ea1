"""People's own loans, under `/ledger/v1/loans`: offered, accepted, repaid or forgiven with one's own key.

A loan obliges the borrower, so it begins only when the borrower accepts it. Whose plan lets it give credits away, or lend them, may lend;
anybody but an agent may borrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from proxy.errors import Refusal
from proxy.ledger.giving import Giving
from proxy.ledger.lent import Loan
from proxy.server.admin import events
from proxy.server.admin.events import Author
from proxy.server.admin.models import NoQuery
from proxy.server.admin.routing import Desk
from proxy.server.lending_models import LoanAnswer, LoanPage, LoansQuery, LoanView, OwnLoanCreate, Repayment
from proxy.server.own_calls import Asking, OwnCall


@dataclass(slots=True)
class OwnLoans:
    """The calls on loans, for a table of calls."""

    desk: Desk
    giving: Giving
    days_max: Callable[[], int]
    """In how many days a loan that is offered must be due."""
    calls: tuple[OwnCall, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = (
            OwnCall("POST", "/loans", self.offer, status=201),
            OwnCall("GET", "/loans", self.list_all),
            OwnCall("GET", "/loans/{loan_id}", self.show),
            OwnCall("POST", "/loans/{loan_id}/accept", self.accept),
            OwnCall("POST", "/loans/{loan_id}/decline", self.decline),
            OwnCall("POST", "/loans/{loan_id}/repay", self.repay),
            OwnCall("POST", "/loans/{loan_id}/forgive", self.forgive),
        )

    async def offer(self, asking: Asking) -> LoanView:
        """Offer a loan; nothing moves before it is accepted."""
        caller = asking.caller
        if caller.person or not (caller.plan.transfers or caller.plan.loans):
            who = "Agents" if caller.person else f"Accounts of the plan {caller.plan.name!r}"
            raise Refusal("transfers_not_allowed", f"{who} cannot lend credits.", hint="Ask whoever runs this proxy.")
        body, author = await asking.body(OwnLoanCreate)
        loan = await self.giving.loans.offer(
            loan_id_of(author),
            caller.account,
            self.giving.account_named(body.target),
            credits_nanocredits=body.credits,
            due_at_ms=body.due_at,
            reason=body.reason,
            accepted=False,
            days_max=self.days_max(),
        )
        return await record(self.desk, author, "loan.offer", loan, reason=body.reason)

    async def list_all(self, asking: Asking) -> LoanPage:
        """What the caller lends and borrows, the newest first."""
        query = asking.query(LoansQuery)
        page = await self.giving.loans.of_account(asking.caller.account, after=query.after, limit=query.limit)
        return LoanPage(items=tuple(LoanView.of(loan) for loan in page.items), next=page.next)

    async def show(self, asking: Asking) -> LoanView:
        asking.query(NoQuery)
        return LoanView.of(await self._own(asking))

    async def accept(self, asking: Asking) -> LoanView:
        """Accept what the caller was offered; it has the credits at once."""
        body, author = await asking.body(LoanAnswer)
        loan = await self._own(asking, only="borrower")
        return await record(self.desk, author, "loan.accept", await self.giving.loans.accept(loan), reason=body.reason)

    async def decline(self, asking: Asking) -> LoanView:
        """Decline what the caller was offered, or take back what it offered."""
        body, author = await asking.body(LoanAnswer)
        loan = await self.giving.loans.decline(await self._own(asking))
        return await record(self.desk, author, "loan.decline", loan, reason=body.reason)

    async def repay(self, asking: Asking) -> LoanView:
        """Pay back what the caller borrowed, before it is asked for."""
        body, author = await asking.body(Repayment)
        loan = await self._own(asking, only="borrower")
        loan = await self.giving.loans.repay(loan, body.credits, operation_id=author.operation_id)
        return await record(self.desk, author, "loan.repay", loan, reason=body.reason)

    async def forgive(self, asking: Asking) -> LoanView:
        """Leave the borrower what is outstanding of a loan that the caller has made."""
        body, author = await asking.body(LoanAnswer)
        loan = await self._own(asking, only="lender")
        if not asking.caller.plan.transfers:  # else lending would be a way to give for those who cannot
            message = f"Accounts of the plan {asking.caller.plan.name!r} cannot give credits away, also by forgiving a loan."
            raise Refusal("transfers_not_allowed", message, hint="Ask whoever runs this proxy, who can forgive it.")
        loan = await self.giving.loans.forgive(loan)
        return await record(self.desk, author, "loan.forgive", loan, reason=body.reason)

    async def _own(self, asking: Asking, *, only: Literal["lender", "borrower"] | None = None) -> Loan:
        """A loan that the caller lends or borrows. Raises Refusal: not_found, forbidden."""
        loan = await self.giving.loans.find(asking.ids["loan_id"], of=asking.caller.account)
        if only is not None and asking.caller.account != (loan.lender if only == "lender" else loan.borrower):
            raise Refusal("forbidden", f"Only the {only} can do that.")
        return loan


def loan_id_of(author: Author) -> str:
    """The id of the loan that a request makes: the same for every repeat of it."""
    return author.operation_id.replace("op-", "loan-", 1)


async def record(desk: Desk, author: Author, action: str, loan: Loan, *, reason: str) -> LoanView:
    """Say in the audit log what was done with a loan; the loan as it is shown."""
    view = LoanView.of(loan)
    await events.record(desk.directory, author, action=action, subject=loan.loan_id, after=events.dump(view), reason=reason)
    return view
