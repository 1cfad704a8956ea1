"""Routes of equality: how equally use is spread, and counting it anew."""

from __future__ import annotations

from proxy.server.admin import events
from proxy.server.admin.equality_views import EqualityQuery, EqualityView, RecountView
from proxy.server.admin.models import NoBody, NoQuery
from proxy.server.admin.problems import Mistake, Mistakes
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.equality import EqualityFigures


@route("GET", "/equality", "viewer", answer=EqualityView, query=EqualityQuery)
async def equality(desk: Desk, ask: Ask[NoBody, EqualityQuery]) -> EqualityView:
    """Show how equally the use of a window is spread over people."""
    figures, group = _figures(desk), ask.query.group
    if group is not None and group not in figures.dimensions:
        raise Mistakes((Mistake(place="?group", message=f"must be one of {', '.join(figures.dimensions)}"),))
    found, unit = await figures.of(ask.query.window, group, ask.query.unit), ask.query.unit
    if unit is not None and not figures.may_be_told(found):
        units = ", ".join(sorted(found.state.people_by_unit)) or "none yet"
        message = f"too few people count in {unit!r} to be told of, or one of them may have more than half of its use; there are {units}"
        raise Mistakes((Mistake(place="?unit", message=message),))
    return EqualityView.of(found, group)


@route("POST", "/equality/recount", "operator", answer=RecountView)
async def recount(desk: Desk, ask: Ask[NoBody, NoQuery]) -> RecountView:
    """Count all use anew, and tell how far the figures had drifted; a long recount goes on while the answer says so."""
    shown = RecountView.of(await _figures(desk).recount())
    if not shown.running:
        after = shown.model_dump(exclude={"running"})
        await events.record(desk.directory, ask.author, action="equality.recount", subject="equality", after=after)
    return shown


def _figures(desk: Desk) -> EqualityFigures:
    assert desk.equality is not None, "whoever has these routes has the figures"
    return desk.equality


ROUTES = (equality, recount)
