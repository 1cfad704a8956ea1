"""Routes of dividends: what the commons has, handed out to everybody who is entitled."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema

from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.ledger.shares import By, Dividend, DividendState
from proxy.server.admin import events
from proxy.server.admin.fields import CreditsText, GivenReason, Moment, MomentText, exact_nanocredits
from proxy.server.admin.models import Asked, CountCursor, NoBody, NoQuery, PageQuery
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.admin.views import PageView, View, time_or_none


def _amount_or_all(value: object) -> object:
    if value == "all":
        return value
    amount = exact_nanocredits(value)
    if amount <= 0:
        raise ValueError("must be more than 0")
    return amount


AmountOrAll = Annotated[
    int | Literal["all"],
    BeforeValidator(_amount_or_all),
    WithJsonSchema({"description": "Credits, or `all` that the commons has", "anyOf": [{"type": "string"}, {"type": "number"}]}),
]


class DividendCreate(Asked):
    credits: AmountOrAll
    by: By = Field(default="equal", description="To everybody alike, or by the accounts' weights")
    expires_at: Moment | None = Field(default=None, description="Default: when it would expire in the commons")
    reason: GivenReason


class DividendsQuery(PageQuery):
    after: CountCursor | None = None


class DividendView(View):
    """A dividend and how far it came; what was not paid stays in the commons."""

    dividend_id: str
    state: DividendState
    by: By
    credits: CreditsText | None = Field(description="What is divided; null until everybody is counted, where it is all")
    accounts: int = Field(description="Who is entitled, as far as they are counted")
    paid_accounts: int
    paid: CreditsText
    unpaid_accounts: int = Field(description="Whose share was nothing, or could not be taken or given")
    expires_at: MomentText | None
    declared_at: MomentText
    reason: str

    @classmethod
    def of(cls, dividend: Dividend) -> Self:
        amount = dividend.asked_nanocredits if dividend.state == "counting" else dividend.credits_nanocredits
        return cls(
            dividend_id=dividend.dividend_id,
            state=dividend.state,
            by=dividend.by,
            credits=None if amount is None else credits(amount),
            accounts=dividend.accounts,
            paid_accounts=dividend.paid_accounts,
            paid=credits(dividend.paid_nanocredits),
            unpaid_accounts=dividend.unpaid_accounts,
            expires_at=time_or_none(dividend.expires_at_ms),
            declared_at=utc_time(dividend.declared_at_ms),
            reason=dividend.reason,
        )


class DividendPage(PageView[DividendView]):
    pass


_REFUSALS = ("not_found", "account_not_found", "insufficient_quota", "conflict")


@route("POST", "/dividends", "operator", answer=DividendView, body=DividendCreate, status=201, refusals=_REFUSALS)
async def declare_dividend(desk: Desk, ask: Ask[DividendCreate, NoQuery]) -> DividendView:
    """Hand out credits of the commons to everybody who is entitled."""
    body = ask.body
    dividend = await desk.gives.dividends.declare(
        ask.author.operation_id.replace("op-", "dividend-", 1),
        credits_nanocredits=None if body.credits == "all" else body.credits,
        by=body.by,
        expires_at_ms=body.expires_at,
        reason=body.reason,
    )
    view = DividendView.of(dividend)
    after = {name: getattr(view, name) for name in ("credits", "by", "expires_at")}
    await events.record(desk.directory, ask.author, action="dividend.declare", subject=view.dividend_id, after=after, reason=body.reason)
    return view


@route("GET", "/dividends", "viewer", answer=DividendPage, query=DividendsQuery)
async def list_dividends(desk: Desk, ask: Ask[NoBody, DividendsQuery]) -> DividendPage:
    """List dividends, newest first."""
    page = await desk.gives.dividends.all(after=ask.query.after, limit=ask.query.limit)
    return DividendPage(items=tuple(DividendView.of(dividend) for dividend in page.items), next=page.next)


@route("GET", "/dividends/{id}", "viewer", answer=DividendView, refusals=("not_found",))
async def show_dividend(desk: Desk, ask: Ask[NoBody, NoQuery]) -> DividendView:
    """Show a dividend and how far it came."""
    return DividendView.of(await desk.gives.dividends.find(ask.ids["id"]))


ROUTES = (declare_dividend, list_dividends, show_dividend)
