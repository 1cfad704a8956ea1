"""What is asked and answered about equality: windows, groups, recounts, and a person's own place. See `views.py` for the rules of views."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.policy.equality import Drift, Equality, GroupShown, Indices, Recount, Standing
from proxy.policy.lorenz import Interval
from proxy.policy.tallies import WindowName
from proxy.server.admin.fields import CreditsText, Identifier, MomentText
from proxy.server.admin.models import Asked
from proxy.server.admin.views import AccountView, View, time_or_none


class EqualityQuery(Asked):
    window: WindowName = "day"
    group: Identifier | None = Field(default=None, description="plan, organisation, or a label of the configuration's [equality] labels")
    unit: Identifier | None = Field(default=None, description="credits, or a level; else what most people count in")


class IntervalView(View):
    """The true figure lies from `low` to `high`."""

    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> Self:
        return cls(low=interval.low, high=interval.high)


class SharesView(View):
    """Shares of all use; top1: of the 1 % of people with the most use per weight."""

    top1: float
    top10: float
    bottom50: float
    bottom40: float


class TheilView(View):
    """Theil's index in two: inside the groups, and between their averages. Without groups all of it is inside."""

    within: float
    between: float


class ZeroView(View):
    """People without use: idle ones never asked in vain, denied ones got nothing of what they asked for."""

    idle: int
    denied: int


class GroupView(View):
    """A group that may be told of; indices are null where it has no use."""

    name: str = Field(description="Empty: everyone in none of these groups")
    accounts: int
    accounts_share: float
    use_share: float
    gini: IntervalView | None
    jain: float | None
    theil: float | None
    atkinson: float | None

    @classmethod
    def of(cls, group: GroupShown) -> Self:
        indices = group.indices
        return cls(
            name=group.name,
            accounts=group.people,
            accounts_share=group.people_share,
            use_share=group.use_share,
            gini=IntervalView.of(indices.gini) if indices else None,
            jain=indices.jain if indices else None,
            theil=indices.theil if indices else None,
            atkinson=indices.atkinson if indices else None,
        )


class EqualityView(View):
    """How equally a window's use per weight is spread over everyone who is entitled; indices are null while nobody has used anything."""

    window: WindowName
    group: str | None
    unit: str = Field(description="What all amounts count; the figures are of those who count in it")
    people_by_unit: dict[str, int] = Field(description="Everyone who counts, by what they count in")
    starts_at: MomentText
    resets_at: MomentText | None = Field(description="Null: the half-life has no end")
    accounts: int
    active: int
    gini: IntervalView | None
    jain: float | None
    theil: TheilView | None
    atkinson: float | None
    lorenz: tuple[tuple[float, float], ...] | None = Field(description="Shares of all use that the lowest shares of the population have")
    lorenz_error: float | None = Field(description="No point of the curve, and none of `shares`, is further off than this")
    shares: SharesView | None
    p90_p10: IntervalView | None = Field(description="Null also where a tenth of the people have no use")
    zero: ZeroView
    demand: CreditsText
    served: CreditsText
    deficit: CreditsText
    deficit_reasons: dict[str, CreditsText]
    least_served: float | None = Field(description="The smallest share of its demand that anybody was served")
    utilisation: float | None = Field(description="Seat-time taken of the seat-time there was; null where no pool has seats")
    drift: float | None = Field(description="By how much of all use the last recount corrected this window")
    groups: tuple[GroupView, ...] = Field(description="The largest use first")
    groups_left_out: int
    groups_suppressed: int = Field(
        description="Too few people, or one who may have more than half of the use; and what would give such ones away"
    )

    @classmethod
    def of(cls, found: Equality, group: str | None) -> Self:
        state, indices = found.state, found.indices
        return cls(
            window=state.window,
            group=group,
            unit=state.unit,
            people_by_unit=dict(sorted(state.people_by_unit.items())),
            starts_at=utc_time(state.starts_at_ms),
            resets_at=time_or_none(state.resets_at_ms),
            accounts=found.people,
            active=found.active,
            gini=IntervalView.of(indices.gini) if indices else None,
            jain=indices.jain if indices else None,
            theil=TheilView(within=found.theil_within, between=found.theil_between) if indices else None,
            atkinson=indices.atkinson if indices else None,
            lorenz=tuple((population, share.middle) for population, share in indices.lorenz) if indices else None,
            lorenz_error=_error(indices) if indices else None,
            shares=_shares(indices) if indices else None,
            p90_p10=IntervalView.of(indices.p90_of_p10) if indices and indices.p90_of_p10 else None,
            zero=ZeroView(idle=found.idle, denied=found.denied),
            demand=credits(found.demand_nanocredits),
            served=credits(found.served_nanocredits),
            deficit=credits(found.deficit_nanocredits),
            deficit_reasons={reason: credits(amount) for reason, amount in sorted(state.deficit_nanocredits.items())},
            least_served=found.least_served_of_demand,
            utilisation=state.utilisation,
            drift=state.drift,
            groups=tuple(GroupView.of(shown) for shown in found.groups),
            groups_left_out=found.groups_left_out,
            groups_suppressed=found.groups_suppressed,
        )


def _shares(indices: Indices) -> SharesView:
    return SharesView(
        top1=indices.top1.middle,
        top10=indices.top10.middle,
        bottom50=indices.bottom50.middle,
        bottom40=indices.bottom40.middle,
    )


def _error(indices: Indices) -> float:
    intervals = [share for _, share in indices.lorenz] + [indices.top1, indices.top10, indices.bottom50, indices.bottom40]
    return max(interval.high - interval.low for interval in intervals) / 2


# --- recounts ------------------------------------------------------------------------------------------------------------------


class DriftView(View):
    """How far a window had been told wrong: people in the wrong place, use, and that use as a share of all use."""

    window: WindowName
    people: int
    use: CreditsText
    of_use: float

    @classmethod
    def of(cls, drift: Drift) -> Self:
        return cls(window=drift.window, people=drift.people, use=credits(round(drift.use_nanocredits)), of_use=drift.of_use)


class RecountView(View):
    """A recount; while it is `running` the other members are null, and the same call waits for it again."""

    running: bool
    accounts: int | None
    took_ms: int | None
    drifts: tuple[DriftView, ...] | None

    @classmethod
    def of(cls, recount: Recount | None) -> Self:
        if recount is None:
            return cls(running=True, accounts=None, took_ms=None, drifts=None)
        drifts = tuple(DriftView.of(drift) for drift in recount.drifts)
        return cls(running=False, accounts=recount.accounts, took_ms=recount.took_ms, drifts=drifts)


# --- one's own place -----------------------------------------------------------------------------------------------------------


class PlaceView(View):
    """Where a person stands: its use per weight over the average, and between which percentages of all people, from the least use up."""

    of_average: str = Field(examples=["1.4"], description="At most 10, which means 10 or more")
    percentile: tuple[int, int] = Field(examples=[(60, 70)])

    @classmethod
    def of(cls, standing: Standing) -> Self:
        return cls(of_average=str(standing.of_average), percentile=standing.percentile)


class OwnAccountView(AccountView):
    """An account as its own caller sees it."""

    place: dict[WindowName, PlaceView | None] = Field(
        default_factory=dict, description="By window; null where too few people are counted to say"
    )
