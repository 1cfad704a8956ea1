"""Routes of accounts and their API keys."""

from __future__ import annotations

from proxy import domain
from proxy.domain import AccountId
from proxy.errors import Conflict
from proxy.server.admin import events
from proxy.server.admin.models import (
    AccountCreate,
    AccountPatch,
    AccountsQuery,
    KeyCreate,
    NoBody,
    NoQuery,
    ReasonQuery,
    limits_of,
)
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.admin.views import AccountPage, AccountView, KeyPage, KeyView, NewKeyView


@route(
    "POST",
    "/accounts",
    "operator",
    answer=AccountView,
    body=AccountCreate,
    status=201,
    refusals=("account_not_found", "not_found", "conflict", "units_differ"),
)
async def create_account(desk: Desk, ask: Ask[AccountCreate, NoQuery]) -> AccountView:
    """Create an account."""
    body = ask.body
    account = await desk.directory.create_account(
        AccountId(body.id),
        parent=None if body.parent is None else AccountId(body.parent),
        plan=body.plan,
        weight=body.weight,
        limits=None if body.limits is None else limits_of(body.limits),
        labels=body.labels,
        operation_id=ask.author.operation_id,
    )
    after = {"parent": body.parent, **events.settings(account)}
    await events.record(
        desk.directory,
        ask.author,
        action="account.create",
        subject=body.id,
        after=after,
        reason=body.reason,
    )
    return AccountView.of(account)


@route("GET", "/accounts", "viewer", answer=AccountPage, query=AccountsQuery)
async def list_accounts(desk: Desk, ask: Ask[NoBody, AccountsQuery]) -> AccountPage:
    """List accounts."""
    query = ask.query
    page = await desk.directory.accounts(
        parent=None if query.parent is None else AccountId(query.parent),
        plan=query.plan,
        status=query.status,
        after=query.after,
        limit=query.limit,
    )
    return AccountPage(items=tuple(AccountView.of(account) for account in page.items), next=page.next)


@route("GET", "/accounts/{id}", "viewer", answer=AccountView, refusals=("account_not_found",))
async def show_account(desk: Desk, ask: Ask[NoBody, NoQuery]) -> AccountView:
    """Show an account."""
    return AccountView.of(await desk.directory.account(AccountId(ask.ids["id"])))


@route(
    "PATCH",
    "/accounts/{id}",
    "operator",
    answer=AccountView,
    body=AccountPatch,
    refusals=("account_not_found", "not_found", "conflict", "units_differ"),
)
async def change_account(desk: Desk, ask: Ask[AccountPatch, NoQuery]) -> AccountView:
    """Change an account: plan, weight, limits, status, labels."""
    body, account_id = ask.body, AccountId(ask.ids["id"])
    before = await desk.directory.account(account_id)
    if body.model_fields_set - {"limits", "reason"}:
        await desk.directory.update_account(
            account_id,
            operation_id=ask.author.operation_id,
            plan=body.plan,
            weight=body.weight,
            status=body.status,
            labels=body.labels,
        )
        if before.kind == "agent" and body.status == "closed" and desk.giving is not None:
            await desk.giving.agents.close(before.path, operation_id=f"{ask.author.operation_id}:agent")
    else:
        refuse_closed(before)
    if "limits" in body.model_fields_set:
        limits = None if body.limits is None else limits_of(body.limits)
        await desk.ledger.set_limits(before.path, f"{ask.author.operation_id}:limits", limits=limits)
    after = await desk.directory.account(account_id)
    await events.record(
        desk.directory,
        ask.author,
        action="account.change",
        subject=account_id,
        before=events.settings(before),
        after=events.settings(after),
        reason=body.reason,
    )
    return AccountView.of(after)


@route(
    "POST",
    "/accounts/{id}/keys",
    "operator",
    answer=NewKeyView,
    body=KeyCreate,
    status=201,
    refusals=("account_not_found", "conflict"),
)
async def create_key(desk: Desk, ask: Ask[KeyCreate, NoQuery]) -> NewKeyView:
    """Create an API key; it is shown this once."""
    account_id = AccountId(ask.ids["id"])
    refuse_closed(await desk.directory.account(account_id))
    key, plain = await desk.directory.create_key(account_id, operation_id=ask.author.operation_id)
    await events.record(
        desk.directory,
        ask.author,
        action="key.create",
        subject=account_id,
        after={"key_id": key.key_id},
        reason=ask.body.reason,
    )
    return NewKeyView(key_id=key.key_id, key=plain)


@route("GET", "/accounts/{id}/keys", "viewer", answer=KeyPage, refusals=("account_not_found",))
async def list_keys(desk: Desk, ask: Ask[NoBody, NoQuery]) -> KeyPage:
    """List an account's API keys."""
    keys = await desk.directory.keys(AccountId(ask.ids["id"]))
    return KeyPage(items=tuple(KeyView.of(key) for key in keys), next=None)


@route("DELETE", "/keys/{key_id}", "operator", answer=KeyView, query=ReasonQuery, refusals=("not_found",))
async def revoke_key(desk: Desk, ask: Ask[NoBody, ReasonQuery]) -> KeyView:
    """Revoke an API key; it stops within a second, everywhere."""
    key = await desk.directory.revoke_key(ask.ids["key_id"], operation_id=ask.author.operation_id)
    await events.record(
        desk.directory,
        ask.author,
        action="key.revoke",
        subject=key.account,
        before={"key_id": key.key_id},
        reason=ask.query.reason,
    )
    return KeyView.of(key)


def refuse_closed(account: domain.Account) -> None:
    """Raise Refusal: conflict where nothing may be added to an account any more."""
    if account.status == "closed":
        raise Conflict(f"account {account.id} is closed", hint="closed is final: nothing can be added to it")


ROUTES = (create_account, list_accounts, show_account, change_account, create_key, list_keys, revoke_key)
