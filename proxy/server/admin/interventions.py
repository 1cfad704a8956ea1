"""Routes of interventions: how the policies against inequality stand, why, what they do or would do, and their modes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema

from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits
from proxy.errors import Refusal
from proxy.policy.effects import effect
from proxy.policy.interventions import Figures, Mode, PolicyState
from proxy.policy.orders import POLICIES, Orders, PolicyName
from proxy.policy.reach import Reach
from proxy.server.admin import events
from proxy.server.admin.fields import CreditsText, MomentText, Reason
from proxy.server.admin.models import Asked, NoBody, NoQuery
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.admin.views import View
from proxy.server.interventions import Control, Standing

SHARE = 4
"""Decimal places of shares."""
NOBODY = Reach()


class PolicyPatch(Asked):
    mode: Annotated[
        Mode | None,
        WithJsonSchema({"anyOf": [{"type": "string", "enum": ["off", "dry_run", "on"]}, {"type": "null"}]}),
    ] = Field(description="From the next look on, whatever the configuration says; null: as that says")
    reason: Reason = ""


class FiguresView(View):
    """What is decided by. Whoever used nothing counts only where he was refused."""

    scarcity: float = Field(description="Share of the demand that is not served, or of the requests that wait")
    gini: float = Field(description="The least that today's Gini coefficient of the users can be")
    denied: float = Field(description="Of those who asked today, the share that got nothing")
    top1: float = Field(description="The least that the topmost hundredth of the users has of all use")
    users: int
    average: CreditsText = Field(description="Use per weight of all users")
    utilisation: float | None = Field(description="Seat-time taken of the seat-time there was today; null where there are no seats")

    @classmethod
    def of(cls, figures: Figures) -> Self:
        return cls(
            scarcity=round(figures.scarcity, SHARE),
            gini=round(figures.gini_low, SHARE),
            denied=round(figures.denied_share, SHARE),
            top1=round(figures.top1_share, SHARE),
            users=figures.users,
            average=credits_from_nanocredits(round(figures.average_nanocredits)),
            utilisation=None if figures.utilisation is None else round(figures.utilisation, SHARE),
        )


class PolicyView(View):
    """One policy: at strength 0 it does nothing."""

    policy: Literal["floor", "cap", "progressive_price", "brake", "tithe", "dividend"]
    mode: Literal["off", "dry_run", "on"]
    set_by: Literal["configuration", "operator"]
    strength: int
    strength_max: int
    active: bool = Field(description="It acts on callers")
    proposed: bool = Field(description="It is a dry run, and would act")
    since: MomentText | None
    reason: str = Field(description="Why its strength moved last")
    effect: str = Field(description="What it does, or would do")
    people: int = Field(description="Whom it treats now, or would")
    unit: str = Field(description="What amounts count, and those whom it treats")
    credits_per_day: CreditsText = Field(description="About what it moves, or would, by the use of the day so far; 0 where it moves none")
    figures: FiguresView = Field(description="When its strength moved last")

    @classmethod
    def of(cls, name: PolicyName, standing: Standing) -> Self:
        published, mode = standing.published, standing.modes[name]
        policy = published.state.policies.get(name, PolicyState())
        orders = published.orders or Orders(0, 0)
        is_meant = standing.acts(name) or standing.is_proposed(name)
        reach = published.state.reaches.get(name, NOBODY) if is_meant else NOBODY
        return cls(
            policy=name,
            mode=mode,
            set_by="operator" if name in published.modes else "configuration",
            strength=policy.strength,
            strength_max=standing.steps_max[name],
            active=standing.acts(name),
            proposed=standing.is_proposed(name),
            since=None if policy.since_ms is None else utc_time(policy.since_ms),
            reason=policy.reason,
            effect=effect(orders, name) if is_meant else "",
            people=reach.people,
            unit=orders.unit,
            credits_per_day=credits_from_nanocredits(reach.daily_nanocredits),
            figures=FiguresView.of(policy.figures),
        )


class InterventionsView(View):
    """All policies, and what there was to see at the last look."""

    items: tuple[PolicyView, ...]
    next: None = None
    looked_at: MomentText | None = Field(description="Null before the first look")
    scarce: bool
    figures: FiguresView


@route("GET", "/interventions", "viewer", answer=InterventionsView)
async def list_interventions(desk: Desk, ask: Ask[NoBody, NoQuery]) -> InterventionsView:
    """List the policies against inequality, and what they are decided by."""
    standing = await _control(desk).standing()
    state = standing.published.state
    return InterventionsView(
        items=tuple(PolicyView.of(name, standing) for name in POLICIES),
        looked_at=utc_time(state.scarcity.looked_at_ms) if state.scarcity.looked_at_ms else None,
        scarce=state.scarcity.is_scarce,
        figures=FiguresView.of(state.figures),
    )


@route("GET", "/interventions/{policy}", "viewer", answer=PolicyView, refusals=("not_found",))
async def show_intervention(desk: Desk, ask: Ask[NoBody, NoQuery]) -> PolicyView:
    """Show a policy."""
    return PolicyView.of(_named(ask.ids["policy"]), await _control(desk).standing())


@route("PATCH", "/interventions/{policy}", "owner", answer=PolicyView, body=PolicyPatch, refusals=("not_found", "conflict"))
async def change_intervention(desk: Desk, ask: Ask[PolicyPatch, NoQuery]) -> PolicyView:
    """Change a policy's mode at run time; it begins anew from strength 0."""
    name, control = _named(ask.ids["policy"]), _control(desk)
    before = (await control.standing()).modes[name]
    if not await desk.directory.claim(*ask.author.claim):
        await control.set_mode(name, ask.body.mode)
        await desk.directory.done(*ask.author.claim)
    standing = await control.standing()
    await events.record(
        desk.directory,
        ask.author,
        action="intervention.change",
        subject=name,
        before={"mode": before},
        after={"mode": standing.modes[name]},
        reason=ask.body.reason,
    )
    return PolicyView.of(name, standing)


def _named(name: str) -> PolicyName:
    for policy in POLICIES:
        if policy == name:
            return policy
    raise Refusal("not_found", f"there is no policy {name!r}", hint=f"there are {', '.join(POLICIES)}")


def _control(desk: Desk) -> Control:
    assert desk.interventions is not None, "whoever has these routes has it"
    return desk.interventions


ROUTES = (list_interventions, show_intervention, change_intervention)
