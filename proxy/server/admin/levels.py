"""Routes of the levels: what a unit of each costs, by which model, and how that has moved."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from proxy import domain
from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.errors import Refusal
from proxy.policy.levels import Levels, Step, blended_nanocredits, members, step_at
from proxy.server.admin.fields import CreditsText, MomentText
from proxy.server.admin.models import LevelsQuery, NoBody, NoQuery
from proxy.server.admin.routing import Ask, Desk, route
from proxy.server.admin.views import PageView, View, credits_or_none

STEPS_SHOWN_MAX = 1000
"""The latest."""


class StepView(View):
    """From then on, the index, and the model pattern whose row set it, which may be gone. Steps that lie ahead come from rows dated
    ahead, or from `rises_at`."""

    at: MomentText
    index: CreditsText
    model: str

    @classmethod
    def of(cls, step: Step) -> Self:
        return cls(at=utc_time(step.at_ms), index=credits(step.index_nanocredits), model=step.model)


class MemberView(View):
    """A model pattern whose row in force names the level. `blended`: a million tokens in the level's blend; null where it has no price."""

    model: str
    effective: MomentText
    blended: CreditsText | None

    @classmethod
    def of(cls, row: domain.Price, level: domain.Level) -> Self:
        return cls(model=row.model, effective=utc_time(row.effective_at_ms), blended=credits_or_none(blended_nanocredits(row, level)))


class LevelView(View):
    """A level: a unit of it is a million tokens, `input_parts` of input to `output_parts` of output, and costs `index` credits."""

    name: str
    index: CreditsText | None = Field(description="Null: no row in force has priced a model of it, so nobody can count in it yet")
    since: MomentText | None
    model: str | None = Field(description="The pattern whose row set the index")
    input_parts: int
    output_parts: int
    may_rise: bool
    rises_at: MomentText | None = Field(
        description="From then on, once, the index is what the rows in force say, also where that is higher"
    )
    deflation: float = Field(description="The factor by which the index is taken to fall in 365.25 days after the last known price")
    members: tuple[MemberView, ...]
    plans: tuple[str, ...] = Field(description="Whose accounts count in its units")
    steps: tuple[StepView, ...]

    @classmethod
    def of(cls, level: domain.Level, levels: Levels, *, plans: dict[str, domain.Plan], now_ms: int) -> Self:
        steps = levels.steps[level.name]
        step = step_at(steps, now_ms)
        return cls(
            name=level.name,
            index=None if step is None else credits(step.index_nanocredits),
            since=None if step is None else utc_time(step.at_ms),
            model=None if step is None else step.model,
            input_parts=level.input_parts,
            output_parts=level.output_parts,
            may_rise=level.may_rise,
            rises_at=None if level.rises_at_ms is None else utc_time(level.rises_at_ms),
            deflation=level.deflation,
            members=tuple(MemberView.of(row, level) for row in members(level, levels.rows, now_ms)),
            plans=tuple(sorted(plan.name for plan in plans.values() if plan.unit == level.name)),
            steps=tuple(StepView.of(step) for step in steps[-STEPS_SHOWN_MAX:]),
        )


class LevelPage(PageView[LevelView]):
    pass


@route("GET", "/levels", "viewer", answer=LevelPage, query=LevelsQuery)
async def list_levels(desk: Desk, ask: Ask[NoBody, LevelsQuery]) -> LevelPage:
    """List levels."""
    levels = desk.directory.levels
    names = [name for name in levels.by_name if ask.query.after is None or name > ask.query.after]
    shown = names[: ask.query.limit]
    following = shown[-1] if len(names) > len(shown) else None
    return LevelPage(items=tuple(_view(desk, levels.by_name[name]) for name in shown), next=following)


@route("GET", "/levels/{name}", "viewer", answer=LevelView, refusals=("not_found",))
async def show_level(desk: Desk, ask: Ask[NoBody, NoQuery]) -> LevelView:
    """Show a level."""
    level = desk.directory.levels.by_name.get(ask.ids["name"])
    if level is None:
        raise Refusal("not_found", f"there is no level {ask.ids['name']!r}", hint="a level begins with a price row that names it")
    return _view(desk, level)


def _view(desk: Desk, level: domain.Level) -> LevelView:
    return LevelView.of(level, desk.directory.levels, plans=desk.directory.plans(), now_ms=desk.directory.now_ms())


ROUTES = (list_levels, show_level)
