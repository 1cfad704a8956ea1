"""People's own agents, under `/ledger/v1/agents` and `/ledger/v1/requests`: opened, capped, paused, closed with the person's key.

An agent is managed by the person it acts for. Its own key only asks: for a higher cap, which the person alone grants. Where the person lets
it, it opens agents of its own, whose use its own cap covers; those it may pause, lower and close, and undo nothing that the person did.
What an account may not manage it is not told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.domain import Account, AccountId, Path
from proxy.errors import Conflict, Refusal
from proxy.ledger import Directory
from proxy.ledger.agents import Agents, Raise
from proxy.policy.caps import exceeds
from proxy.server.admin import events
from proxy.server.admin.events import Author
from proxy.server.admin.models import NoQuery, ReasonQuery, limits_of
from proxy.server.admin.routing import Desk
from proxy.server.admin.views import NewKeyView
from proxy.server.agent_models import (
    AgentCreate,
    AgentPage,
    AgentPatch,
    AgentsQuery,
    AgentView,
    AllAgentsPatch,
    AllAgentsView,
    NewAgentView,
    RaiseAnswer,
    RaiseCreate,
    RaisePage,
    RaiseView,
)
from proxy.server.own_calls import PREFIX, Asking, OwnCall

ASK_HINT = f"Ask for it: POST {PREFIX}/agents/<id>/requests; the person that it acts for answers."


@dataclass(slots=True)
class OwnAgents:
    """The calls on agents, for a table of calls."""

    desk: Desk
    agents: Agents
    agents_max: Callable[[], int]
    calls: tuple[OwnCall, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = (
            OwnCall("POST", "/agents", self.open, status=201),
            OwnCall("GET", "/agents", self.list_all),
            OwnCall("PATCH", "/agents", self.change_all),
            OwnCall("GET", "/agents/{id}", self.show),
            OwnCall("PATCH", "/agents/{id}", self.change),
            OwnCall("DELETE", "/agents/{id}", self.close),
            OwnCall("POST", "/agents/{id}/keys", self.renew_key, status=201),
            OwnCall("POST", "/agents/{id}/requests", self.ask, status=201),
            OwnCall("GET", "/requests", self.list_requests),
            OwnCall("POST", "/requests/{request_id}/approve", self.approve),
            OwnCall("POST", "/requests/{request_id}/decline", self.decline),
        )

    @property
    def _directory(self) -> Directory:
        return self.desk.directory

    # --- one agent -----------------------------------------------------------------------------------------------------------------

    async def open(self, asking: Asking) -> NewAgentView:
        """Open an agent of the caller's own, with a key that is shown this once."""
        body, author = await asking.body(AgentCreate)
        chain = await self._active_chain(asking.caller.path)
        if len(chain) > 1 and (body.may_open_agents or not await self.agents.may_open(chain[0], chain[-1])):
            raise Refusal("forbidden", "Only the person that an agent acts for lets it open agents.", hint="It can set may_open_agents.")
        account = await self.agents.open(
            chain,
            body.name or author.operation_id.removeprefix("op-")[:16],
            limits=limits_of(body.all_limits()),
            labels=body.labels,
            operation_id=author.operation_id,
            agents_max=self.agents_max(),
        )
        if body.may_open_agents:
            await self.agents.let_open(chain[0], account.id, True, operation_id=author.operation_id)
        key, plain = await self._directory.create_key(account.id, operation_id=author.operation_id)
        await self._record(author, "agent.open", account, after=events.settings(account), reason=body.reason)
        return NewAgentView(**dict(await self._view(account.path)), key_id=key.key_id, key=plain)

    async def show(self, asking: Asking) -> AgentView:
        asking.query(NoQuery)
        return await self._view(await self._seen(asking))

    async def change(self, asking: Asking) -> AgentView:
        """Change an agent's cap, status or labels, at once."""
        body, author = await asking.body(AgentPatch)
        path = await self._managed(asking)
        before = await self._directory.account(path[-1])
        if before.status == "closed":
            raise Conflict(f"agent {path[-1]!r} is closed, and stays so", hint="Open another.")
        if asking.caller.person:
            _check_lesser(before, body)
        if body.status is not None or body.labels is not None:
            await self._directory.update_account(path[-1], operation_id=author.operation_id, status=body.status, labels=body.labels)
        if (limits := body.given_limits()) is not None:
            await self.desk.ledger.set_limits(path, f"{author.operation_id}:limits", limits=limits_of(limits))
        if body.may_open_agents is not None:
            person = (await self.agents.chain(path))[0]
            await self.agents.let_open(person, path[-1], body.may_open_agents, operation_id=author.operation_id)
        after = await self._directory.account(path[-1])
        await self._record(author, "agent.change", after, before=events.settings(before), after=events.settings(after), reason=body.reason)
        return await self._view(path)

    async def close(self, asking: Asking) -> AgentView:
        """Close an agent for good; its keys end."""
        query = asking.query(ReasonQuery)
        author, path = await asking.author(query), await self._managed(asking)
        before = await self._directory.account(path[-1])
        after = await self.agents.close(path, operation_id=author.operation_id)
        await self._record(author, "agent.close", after, before=events.settings(before), after=events.settings(after), reason=query.reason)
        return await self._view(path)

    async def renew_key(self, asking: Asking) -> NewKeyView:
        """A new key of an agent, shown this once; those before it end."""
        body, author = await asking.body(RaiseAnswer)
        path = await self._managed(asking)
        account = await self._directory.account(path[-1])
        if account.status == "closed":
            raise Conflict(f"agent {path[-1]!r} is closed, and stays so")
        key, plain = await self._directory.create_key(path[-1], operation_id=author.operation_id)
        await self.agents.revoke_keys(path[-1], but=key.key_id, operation_id=author.operation_id)
        await self._record(author, "agent.renew_key", account, after={"key_id": key.key_id}, reason=body.reason)
        return NewKeyView(key_id=key.key_id, key=plain)

    # --- all of them ---------------------------------------------------------------------------------------------------------------

    async def list_all(self, asking: Asking) -> AgentPage:
        """The caller's open agents, those of its agents among them."""
        query = asking.query(AgentsQuery)
        page = await self.agents.all(await self.agents.chain(asking.caller.path), after=query.after, limit=query.limit)
        views = await asyncio.gather(*(self._listed(agent) for agent in page.items))
        return AgentPage(items=tuple(view for view in views if view is not None), next=page.next)

    async def _listed(self, agent: AccountId) -> AgentView | None:
        """An agent in a list; None where it is just being opened."""
        try:
            return await self._view(await self._directory.path(agent))
        except Refusal:
            return None

    async def change_all(self, asking: Asking) -> AllAgentsView:
        """Pause all agents of the caller in one step, let them go on, or cap what all of them spend together."""
        body, author = await asking.body(AllAgentsPatch)
        person = asking.caller.account
        if asking.caller.person:
            raise Refusal("forbidden", "An agent cannot change all agents of the person it acts for.")
        if body.status is not None:
            await self.agents.turn_all(person, body.status, operation_id=author.operation_id)
        if body.limits is not None:
            path = await self.agents.switch_path(person)
            await self.desk.ledger.set_limits(path, f"{author.operation_id}:limits", limits=limits_of(body.limits))
        switch = await self.agents.switch(person)
        assert switch is not None, "it was opened above"
        await self._record(author, "agents.change", switch, after=events.settings(switch), reason=body.reason)
        return AllAgentsView.of(switch, open_agents=await self.agents.count(person))

    # --- requests for a higher cap ---------------------------------------------------------------------------------------------------

    async def ask(self, asking: Asking) -> RaiseView:
        """Ask for other limits; only an agent itself can."""
        body, author = await asking.body(RaiseCreate)
        if asking.ids["id"] != asking.caller.account or not asking.caller.person:
            raise Refusal("forbidden", "Only an agent asks, and for itself.", hint=f"PATCH {PREFIX}/agents/<id> changes its cap at once.")
        chain = await self.agents.chain(asking.caller.path)
        limits = limits_of(body.all_limits())
        asked = await self.agents.ask(chain, limits, reason=body.reason, operation_id=author.operation_id)
        view = RaiseView.of(asked)
        await events.record(self._directory, author, action="raise.ask", subject=asked.agent, after=events.dump(view), reason=body.reason)
        return view

    async def list_requests(self, asking: Asking) -> RaisePage:
        """What waits for a person's answer; to an agent, what it asked for last."""
        query = asking.query(AgentsQuery)
        if asking.caller.person:
            last = await self.agents.raise_of(asking.caller.account)
            return RaisePage(items=() if last is None else (RaiseView.of(last),), next=None)
        page = await self.agents.pending(asking.caller.account, after=query.after, limit=query.limit)
        return RaisePage(items=tuple(RaiseView.of(asked) for asked in page.items), next=page.next)

    async def approve(self, asking: Asking) -> RaiseView:
        """Give an agent what it asked for; only the person itself can."""
        body, author = await asking.body(RaiseAnswer)
        asked = await self._asked(asking)
        path = await self._directory.path(asked.agent)
        before = await self._directory.account(asked.agent)
        answered = await self.agents.answer(asked, "approved", answered_by=asking.caller.account)
        await self.desk.ledger.set_limits(path, f"approve:{asked.request_id}", limits=asked.limits)
        after = await self._directory.account(asked.agent)
        await self._record(author, "raise.approve", after, before=events.settings(before), after=events.settings(after), reason=body.reason)
        return RaiseView.of(answered)

    async def decline(self, asking: Asking) -> RaiseView:
        body, author = await asking.body(RaiseAnswer)
        answered = await self.agents.answer(await self._asked(asking), "declined", answered_by=asking.caller.account)
        view = RaiseView.of(answered)
        await events.record(
            self._directory, author, action="raise.decline", subject=answered.agent, after=events.dump(view), reason=body.reason
        )
        return view

    async def _asked(self, asking: Asking) -> Raise:
        """The request that is answered. Raises Refusal: not_found, forbidden."""
        if asking.caller.person:
            raise Refusal("forbidden", "Only the person that an agent acts for answers its requests.")
        return await self.agents.find_raise(asking.caller.account, asking.ids["request_id"])

    # --- who may -----------------------------------------------------------------------------------------------------------------

    async def _seen(self, asking: Asking) -> Path:
        """The path of an agent that the caller manages, or is. Raises Refusal: account_not_found."""
        agent, caller = AccountId(asking.ids["id"]), asking.caller
        if agent == caller.account and caller.person:
            return caller.path
        path = await self._directory.path(agent)
        chain = await self.agents.chain(path)
        if caller.account not in chain[:-1] or agent == f"{chain[0]}:agents":
            raise Refusal("account_not_found", f"there is no account {agent!r}", account=agent)
        return path

    async def _managed(self, asking: Asking) -> Path:
        """The path of an agent that the caller manages. Raises Refusal: account_not_found, forbidden."""
        path = await self._seen(asking)
        if path[-1] == asking.caller.account:
            raise Refusal("forbidden", "An agent cannot change itself.", hint=ASK_HINT)
        return path

    async def _active_chain(self, path: Path) -> Path:
        """The end of a path from its person on. Raises Refusal: account_suspended where anyone on the path is not active."""
        await self._directory.check_active(path)
        return await self.agents.chain(path)

    async def _view(self, path: Path) -> AgentView:
        _, levels = await self._directory.snapshot(path)
        amounts = [level.available_nanocredits for level in levels if level.available_nanocredits is not None]
        person = (await self.agents.chain(path))[0]
        stopped = _stopped(levels)
        return AgentView.of_agent(
            levels[-1],
            available_nanocredits=min(amounts) if amounts else None,
            stopped_by=None if stopped is None else stopped.id,
            may_open_agents=await self.agents.may_open(person, path[-1]),
        )

    async def _record(
        self,
        author: Author,
        action: str,
        account: Account,
        *,
        before: dict[str, object] | None = None,
        after: dict[str, object],
        reason: str,
    ) -> None:
        await events.record(self._directory, author, action=action, subject=account.id, before=before, after=after, reason=reason)


def _check_lesser(before: Account, body: AgentPatch) -> None:
    """Raises Refusal: forbidden, where one agent would let another do more: that is for their person, who may have taken it away."""
    limits = body.given_limits()
    raised = limits is not None and exceeds(limits_of(limits), before.own_limits or ())
    if raised or body.status == "active" or body.may_open_agents:
        message = "An agent can pause, lower and close what it opened; anything more is for the person it acts for."
        raise Refusal("forbidden", message, account=before.id)


def _stopped(levels: tuple[Account, ...]) -> Account | None:
    """The first account from the root that is not active."""
    return next((level for level in levels if level.status != "active"), None)
