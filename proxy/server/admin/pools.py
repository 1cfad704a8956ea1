"""Routes of pools: the seats of upstreams that serve only so many requests at a time."""

from __future__ import annotations

from proxy.server.admin import events
from proxy.server.admin.models import NoBody, NoQuery, PoolPatch
from proxy.server.admin.records import PoolPage, PoolView
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.pools import UpstreamPools


@route("GET", "/pools", "viewer", answer=PoolPage)
async def list_pools(desk: Desk, ask: Ask[NoBody, NoQuery]) -> PoolPage:
    """List pools, in the configuration's order."""
    return PoolPage(items=tuple(PoolView.of(state) for state in await _pools(desk).all()), next=None)


@route("GET", "/pools/{name}", "viewer", answer=PoolView, refusals=("not_found",))
async def show_pool(desk: Desk, ask: Ask[NoBody, NoQuery]) -> PoolView:
    """Show a pool."""
    return PoolView.of(await _pools(desk).one(ask.ids["name"]))


@route("PATCH", "/pools/{name}", "operator", answer=PoolView, body=PoolPatch, refusals=("not_found", "conflict"))
async def change_pool(desk: Desk, ask: Ask[PoolPatch, NoQuery]) -> PoolView:
    """Drain a pool, or open it again; what runs goes on."""
    name, draining = ask.ids["name"], ask.body.draining
    before = await _pools(desk).one(name)
    if not await desk.directory.claim(*ask.author.claim):
        await _pools(desk).drain(name, draining)
        await desk.directory.done(*ask.author.claim)
    await events.record(
        desk.directory,
        ask.author,
        action="pool.change",
        subject=name,
        before={"draining": before.draining},
        after={"draining": draining},
        reason=ask.body.reason,
    )
    return PoolView.of(await _pools(desk).one(name))


def _pools(desk: Desk) -> UpstreamPools:
    assert desk.pools is not None, "whoever has these routes has the pools"
    return desk.pools


ROUTES = (list_pools, show_pool, change_pool)
