"""Routes that move credits: grants, adjustments, transfers."""

from __future__ import annotations

from proxy.domain import AccountId, credits_from_nanocredits
from proxy.errors import Refusal
from proxy.server.admin import events
from proxy.server.admin.accounts import refuse_closed
from proxy.server.admin.events import Author
from proxy.server.admin.models import AdjustmentCreate, GrantCreate, NoBody, NoQuery, ReasonQuery, TransferCreate
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.admin.views import AdjustmentView, GrantPage, GrantView, TransferView


@route(
    "POST",
    "/accounts/{id}/grants",
    "operator",
    answer=GrantView,
    body=GrantCreate,
    status=201,
    refusals=("account_not_found", "conflict"),
)
async def create_grant(desk: Desk, ask: Ask[GrantCreate, NoQuery]) -> GrantView:
    """Grant credits once."""
    body = ask.body
    account = await desk.directory.account(AccountId(ask.ids["id"]))
    refuse_closed(account)
    grant = await desk.ledger.grant(
        account.path,
        ask.author.operation_id.replace("op-", "grant-", 1),
        credits_nanocredits=body.credits,
        priority=body.priority,
        effective_at_ms=body.effective_at,
        expires_at_ms=body.expires_at,
        reason=body.reason,
    )
    view = GrantView.of(grant)
    after = {name: getattr(view, name) for name in ("grant_id", "credits", "priority", "effective_at", "expires_at")}
    await events.record(
        desk.directory,
        ask.author,
        action="grant.create",
        subject=account.id,
        after=after,
        reason=body.reason,
    )
    return view


@route("GET", "/accounts/{id}/grants", "viewer", answer=GrantPage, refusals=("account_not_found",))
async def list_grants(desk: Desk, ask: Ask[NoBody, NoQuery]) -> GrantPage:
    """List an account's live grants."""
    account = await desk.directory.account(AccountId(ask.ids["id"]))
    return GrantPage(items=tuple(GrantView.of(grant) for grant in account.grants), next=None)


@route(
    "DELETE",
    "/accounts/{id}/grants/{grant_id}",
    "operator",
    answer=GrantView,
    query=ReasonQuery,
    refusals=("account_not_found", "grant_not_found", "conflict"),
)
async def revoke_grant(desk: Desk, ask: Ask[NoBody, ReasonQuery]) -> GrantView:
    """Take back what a grant has left."""
    path = await desk.directory.path(AccountId(ask.ids["id"]))
    grant = await desk.ledger.revoke(path, ask.ids["grant_id"], operation_id=ask.author.operation_id, reason=ask.query.reason)
    await events.record(
        desk.directory,
        ask.author,
        action="grant.revoke",
        subject=path[-1],
        before={"grant_id": grant.grant_id, "credits": credits_from_nanocredits(grant.credits_nanocredits)},
        reason=ask.query.reason,
    )
    return GrantView.of(grant)


@route(
    "POST",
    "/accounts/{id}/adjustments",
    "operator",
    answer=AdjustmentView,
    body=AdjustmentCreate,
    status=201,
    refusals=("account_not_found", "adjustment_exceeds_spent", "account_suspended", "conflict"),
)
async def adjust(desk: Desk, ask: Ask[AdjustmentCreate, NoQuery]) -> AdjustmentView:
    """Correct what was spent: negative gives back."""
    body = ask.body
    path = await desk.directory.path(AccountId(ask.ids["id"]))
    settlement = await desk.ledger.adjust(path, ask.author.operation_id, credits_nanocredits=body.credits, reason=body.reason)
    view = AdjustmentView(
        id=ask.author.operation_id,
        account=path[-1],
        spent=credits_from_nanocredits(settlement.spent_nanocredits),
        overrun=credits_from_nanocredits(settlement.overrun_nanocredits),
        reason=body.reason,
    )
    await events.record(
        desk.directory,
        ask.author,
        action="account.adjust",
        subject=path[-1],
        after={"spent": view.spent, "overrun": view.overrun},
        reason=body.reason,
    )
    return view


@route(
    "POST",
    "/transfers",
    "operator",
    answer=TransferView,
    body=TransferCreate,
    status=201,
    refusals=("account_not_found", "insufficient_quota", "account_suspended", "conflict", "units_differ"),
)
async def transfer(desk: Desk, ask: Ask[TransferCreate, NoQuery]) -> TransferView:
    """Give credits of one account to another."""
    body = ask.body
    return await carry_over(
        desk,
        source=AccountId(body.source),
        target=AccountId(body.target),
        credits_nanocredits=body.credits,
        reason=body.reason,
        author=ask.author,
    )


async def carry_over(
    desk: Desk, *, source: AccountId, target: AccountId, credits_nanocredits: int, reason: str, author: Author
) -> TransferView:
    """Give credits from one account to another, and say so in the audit log; for the admin API and for self-service.

    `source` and `target` are ids, or the word for the commons.
    """
    source, target = desk.gives.account_named(source), desk.gives.account_named(target)
    if source == target:
        raise Refusal("invalid_request", "an account cannot give credits to itself")
    source_path = await desk.directory.path(source)
    receiver = await desk.directory.account(target)
    refuse_closed(receiver)
    if receiver.kind == "agent":
        raise Refusal("invalid_request", f"{target!r} is an agent, whose cap no gift raises; give to the person that it acts for")
    await desk.ledger.transfer(
        source_path,
        receiver.path,
        author.operation_id,
        credits_nanocredits=credits_nanocredits,
        reason=reason,
        into=desk.gives.merges_into(target),
    )
    view = TransferView(
        id=author.operation_id, source=source, target=target, credits=credits_from_nanocredits(credits_nanocredits), reason=reason
    )
    await events.record(
        desk.directory,
        author,
        action="transfer.create",
        subject=source,
        after={"to": target, "credits": view.credits},
        reason=reason,
    )
    return view


ROUTES = (create_grant, list_grants, revoke_grant, adjust, transfer)
