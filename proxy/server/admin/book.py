"""Routes of the price book and the plans: rules that hold for everybody, so an owner's."""

from __future__ import annotations

from proxy import domain
from proxy.policy.pricing import matches
from proxy.server.admin import events
from proxy.server.admin.models import NoBody, NoQuery, PlanPut, PlansQuery, PriceCreate, PricesQuery
from proxy.server.admin.problems import Mistake, Mistakes
from proxy.server.admin.records import PlanPage, PlanView, PricePage, PriceView
from proxy.server.admin.routing import Ask, Desk, route


@route("GET", "/plans", "viewer", answer=PlanPage, query=PlansQuery)
async def list_plans(desk: Desk, ask: Ask[NoBody, PlansQuery]) -> PlanPage:
    """List plans."""
    plans = desk.directory.plans()
    names = sorted(name for name in plans if ask.query.after is None or name > ask.query.after)
    shown = names[: ask.query.limit]
    following = shown[-1] if len(names) > len(shown) else None
    return PlanPage(items=tuple(PlanView.of(plans[name]) for name in shown), next=following)


@route("GET", "/plans/{name}", "viewer", answer=PlanView, refusals=("not_found",))
async def show_plan(desk: Desk, ask: Ask[NoBody, NoQuery]) -> PlanView:
    """Show a plan."""
    return PlanView.of(desk.directory.plan(ask.ids["name"]))


@route("PUT", "/plans/{name}", "owner", answer=PlanView, body=PlanPut, refusals=("conflict", "units_differ"))
async def put_plan(desk: Desk, ask: Ask[PlanPut, NoQuery]) -> PlanView:
    """Set a plan; it applies to all its accounts within a second."""
    name = ask.ids["name"]
    before = desk.directory.plans().get(name)
    plan = ask.body.to_plan(name)
    await desk.directory.put_plan(plan, operation_id=ask.author.operation_id)
    view = PlanView.of(plan)
    await events.record(
        desk.directory,
        ask.author,
        action="plan.put",
        subject=name,
        before=None if before is None else events.dump(PlanView.of(before)),
        after=events.dump(view),
        reason=ask.body.reason,
    )
    return view


@route("GET", "/prices", "viewer", answer=PricePage, query=PricesQuery)
async def list_prices(desk: Desk, ask: Ask[NoBody, PricesQuery]) -> PricePage:
    """List the price book, all dates."""
    query = ask.query
    after = _position(query.after)
    rows = sorted(desk.directory.prices(), key=_key)
    fitting = [row for row in rows if query.model is None or matches(row.model, query.model)]
    left = [row for row in fitting if after is None or _key(row) > after]
    shown = left[: query.limit]
    following = f"{shown[-1].effective_at_ms}:{shown[-1].model}" if len(left) > len(shown) else None
    return PricePage(items=tuple(PriceView.of(row) for row in shown), next=following)


def _key(row: domain.Price) -> tuple[str, int]:
    return row.model, row.effective_at_ms


def _position(cursor: str | None) -> tuple[str, int] | None:
    if cursor is None:
        return None
    at, separator, model = cursor.partition(":")
    if not separator or not at.isascii() or not at.isdigit():
        raise Mistakes((Mistake(place="?after", message="is not the `next` of a page of prices"),))
    return model, int(at)


@route("POST", "/prices", "owner", answer=PriceView, body=PriceCreate, status=201, refusals=("conflict",))
async def add_price(desk: Desk, ask: Ask[PriceCreate, NoQuery]) -> PriceView:
    """Add a dated price; rows never change."""
    price = ask.body.to_price()
    await desk.directory.add_price(price, operation_id=ask.author.operation_id)
    view = PriceView.of(price)
    await events.record(
        desk.directory,
        ask.author,
        action="price.add",
        subject=price.model,
        after=events.dump(view),
        reason=ask.body.reason,
    )
    return view


ROUTES = (list_plans, show_plan, put_plan, list_prices, add_price)
