"""Routes of loans: an operator's begin at once, and everybody's are seen, and forgiven where need be."""

from __future__ import annotations

from proxy.domain import AccountId
from proxy.server.admin.models import NoBody, NoQuery
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.lending import loan_id_of, record
from proxy.server.lending_models import AccountLoansQuery, LoanCreate, LoanForgive, LoanPage, LoanView

_REFUSALS = ("account_not_found", "insufficient_quota", "account_suspended", "conflict")


@route("POST", "/loans", "operator", answer=LoanView, body=LoanCreate, status=201, refusals=_REFUSALS)
async def create_loan(desk: Desk, ask: Ask[LoanCreate, NoQuery]) -> LoanView:
    """Lend credits of one account to another; they come back at the due date."""
    body, giving = ask.body, desk.gives
    loan = await giving.loans.offer(
        loan_id_of(ask.author),
        giving.account_named(body.source),
        giving.account_named(body.target),
        credits_nanocredits=body.credits,
        due_at_ms=body.due_at,
        reason=body.reason,
        accepted=True,
    )
    return await record(desk, ask.author, "loan.create", loan, reason=body.reason)


@route("GET", "/loans", "viewer", answer=LoanPage, query=AccountLoansQuery)
async def list_loans(desk: Desk, ask: Ask[NoBody, AccountLoansQuery]) -> LoanPage:
    """List loans, newest first."""
    query = ask.query
    account = None if query.account is None else AccountId(query.account)
    page = await desk.gives.loans.of_account(account, after=query.after, limit=query.limit)
    return LoanPage(items=tuple(LoanView.of(loan) for loan in page.items), next=page.next)


@route("GET", "/loans/{id}", "viewer", answer=LoanView, refusals=("not_found",))
async def show_loan(desk: Desk, ask: Ask[NoBody, NoQuery]) -> LoanView:
    """Show a loan."""
    return LoanView.of(await desk.gives.loans.find(ask.ids["id"]))


@route("POST", "/loans/{id}/forgive", "operator", answer=LoanView, body=LoanForgive, refusals=("not_found", "conflict"))
async def forgive_loan(desk: Desk, ask: Ask[LoanForgive, NoQuery]) -> LoanView:
    """Leave a loan's borrower what is outstanding: it is asked for no more."""
    loans = desk.gives.loans
    loan = await loans.forgive(await loans.find(ask.ids["id"]))
    return await record(desk, ask.author, "loan.forgive", loan, reason=ask.body.reason)


ROUTES = (create_loan, list_loans, show_loan, forgive_loan)
