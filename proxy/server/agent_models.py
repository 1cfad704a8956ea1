"""What the calls on agents read and answer."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from proxy import config, domain
from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.ledger.agents import Raise, RaiseState
from proxy.server.admin.fields import CreditsText, Labels, MomentText, PositiveAmount, Reason
from proxy.server.admin.models import Asked, IdentifierCursor, LimitBodies, LimitBody, PageQuery, left_out
from proxy.server.admin.views import LimitStateView, LimitView, PageView, View, credits_or_none

AgentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
"""Without a colon, so that an agent's id can be taken apart in one way only."""
AgentStatus = Literal["active", "suspended"]


class Capped(Asked):
    """A cap: limits as everywhere, or so many credits in all."""

    limits: Annotated[LimitBodies, Field(min_length=1)] | None = left_out()
    cap: PositiveAmount | None = left_out("Credits in all: the same as one limit for the window ever")

    @model_validator(mode="after")
    def _check_cap(self) -> Self:
        if self.limits is not None and self.cap is not None:
            raise ValueError("give limits or cap, not both")
        config.unique_limits(self.limits or ())
        return self

    def given_limits(self) -> tuple[LimitBody, ...] | None:
        """The limits that were given, in either way; None where none were."""
        if self.cap is not None:
            return (LimitBody.model_validate({"credits": credits(self.cap), "window": "ever"}),)
        return self.limits


class CapRequired(Capped):
    @model_validator(mode="after")
    def _check_given(self) -> Self:
        if self.given_limits() is None:
            raise ValueError("give limits or cap: every agent has one")
        return self

    def all_limits(self) -> tuple[LimitBody, ...]:
        return self.given_limits() or ()


class AgentCreate(CapRequired):
    name: AgentName | None = Field(default=None, description="The end of its id; one is made where it is left out")
    labels: Labels = Field(default_factory=dict)
    may_open_agents: Annotated[bool, Field(strict=True)] = False
    reason: Reason = ""


class AgentPatch(Capped):
    """Members that are absent stay as they are."""

    status: AgentStatus | None = left_out()
    labels: Labels | None = left_out("All of them; what is left out is removed")
    may_open_agents: Annotated[bool, Field(strict=True)] | None = left_out()
    reason: Reason = ""

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if not self.model_fields_set - {"reason"}:
            raise ValueError("changes nothing; give at least one of limits, cap, status, labels, may_open_agents")
        return self


class AllAgentsPatch(Asked):
    """What holds for all agents together; `"limits": []` takes their common cap away."""

    limits: LimitBodies | None = left_out()
    status: AgentStatus | None = left_out()
    reason: Reason = ""

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        config.unique_limits(self.limits or ())
        if self.limits is None and self.status is None:
            raise ValueError("changes nothing; give limits or status")
        return self


class RaiseCreate(CapRequired):
    reason: Reason = ""


class RaiseAnswer(Asked):
    reason: Reason = ""


class AgentsQuery(PageQuery):
    after: IdentifierCursor | None = None


class AgentView(View):
    """An agent. `stopped_by`: the account on its path, itself included, that is not active; null while it may act."""

    id: str
    path: tuple[str, ...]
    status: domain.AccountStatus
    stopped_by: str | None
    labels: dict[str, str]
    limits: tuple[LimitStateView, ...]
    spent: CreditsText
    held: CreditsText
    available: CreditsText | None
    may_open_agents: bool
    created_at: MomentText

    @classmethod
    def of_agent(
        cls, account: domain.Account, *, available_nanocredits: int | None, stopped_by: str | None, may_open_agents: bool
    ) -> AgentView:
        return AgentView(
            id=account.id,
            path=account.path,
            status=account.status,
            stopped_by=stopped_by,
            labels=dict(account.labels),
            limits=tuple(LimitStateView.of_state(state) for state in account.limits),
            spent=credits(account.totals.spent),
            held=credits(account.totals.held),
            available=credits_or_none(available_nanocredits),
            may_open_agents=may_open_agents,
            created_at=utc_time(account.created_at_ms),
        )


class NewAgentView(AgentView):
    key_id: str
    key: str | None = Field(description="Shown once: null when the same Idempotency-Key asks again")


class AgentPage(PageView[AgentView]):
    pass


class AllAgentsView(View):
    """What holds for all agents of a person together."""

    id: str
    status: domain.AccountStatus
    limits: tuple[LimitStateView, ...]
    open_agents: int
    spent: CreditsText
    held: CreditsText

    @classmethod
    def of(cls, switch: domain.Account, *, open_agents: int) -> Self:
        return cls(
            id=switch.id,
            status=switch.status,
            limits=tuple(LimitStateView.of_state(state) for state in switch.limits),
            open_agents=open_agents,
            spent=credits(switch.totals.spent),
            held=credits(switch.totals.held),
        )


class RaiseView(View):
    """A request of an agent for other limits."""

    request_id: str
    agent: str
    person: str
    limits: tuple[LimitView, ...]
    state: RaiseState
    reason: str
    at: MomentText
    answered_by: str | None

    @classmethod
    def of(cls, asked: Raise) -> Self:
        return cls(
            request_id=asked.request_id,
            agent=asked.agent,
            person=asked.person,
            limits=tuple(LimitView.of(limit) for limit in asked.limits),
            state=asked.state,
            reason=asked.reason,
            at=utc_time(asked.at_ms),
            answered_by=asked.answered_by or None,
        )


class RaisePage(PageView[RaiseView]):
    pass
