"""Routes of agents: what they ask their people for. Agents themselves are accounts, and listed as such."""

from __future__ import annotations

from proxy.domain import AccountId
from proxy.server.admin.models import NoBody
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.agent_models import AgentsQuery, RaisePage, RaiseView


@route("GET", "/accounts/{id}/requests", "viewer", answer=RaisePage, query=AgentsQuery, refusals=("account_not_found",))
async def list_requests(desk: Desk, ask: Ask[NoBody, AgentsQuery]) -> RaisePage:
    """List what a person's agents ask for and nobody has answered."""
    person = (await desk.directory.path(AccountId(ask.ids["id"])))[-1]
    page = await desk.gives.agents.pending(person, after=ask.query.after, limit=ask.query.limit)
    return RaisePage(items=tuple(RaiseView.of(asked) for asked in page.items), next=page.next)


ROUTES = (list_requests,)
