"""What the admin API and self-service answer of plans, prices, pools and the history; see `views.py` for the rest and the rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, JsonValue

from proxy import domain
from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.policy.price_row import KINDS
from proxy.policy.pricing import TOKEN_KINDS
from proxy.server.admin.fields import CreditsText, MomentText
from proxy.server.admin.views import LimitView, PageView, View, credits_or_none

# --- the price book and the plans ---------------------------------------------------------------------------------------------


class PlanView(View):
    name: str
    weight: int
    limits: tuple[LimitView, ...]
    models: tuple[str, ...]
    transfers: bool
    loans: bool
    expired_to_commons: bool
    scavenge: bool
    requests_per_minute: int | None
    concurrent_requests: int | None
    unit: str

    @classmethod
    def of(cls, plan: domain.Plan) -> Self:
        return cls(
            name=plan.name,
            weight=plan.weight,
            limits=tuple(LimitView.of(limit) for limit in plan.limits),
            models=plan.models,
            transfers=plan.transfers,
            loans=plan.loans,
            expired_to_commons=plan.expired_to_commons,
            scavenge=plan.scavenge,
            requests_per_minute=plan.requests_per_minute,
            concurrent_requests=plan.concurrent_requests,
            unit=plan.unit,
        )


class PlanPage(PageView[PlanView]):
    pass


class TokenRatesView(View):
    """Credits per million tokens, by kind. Null: not priced apart."""

    input: CreditsText | None
    output: CreditsText | None
    cached_input: CreditsText | None
    cache_write: CreditsText | None
    cache_write_1h: CreditsText | None
    audio_input: CreditsText | None
    reasoning: CreditsText | None
    audio_output: CreditsText | None


class DatedView(View):
    """What a row is known by."""

    model: str
    effective: MomentText


class TierView(TokenRatesView):
    """Other rates for requests with a longer input. Null: as in the row itself."""

    above_input_tokens: int

    @classmethod
    def of(cls, tier: domain.Tier) -> Self:
        return cls(above_input_tokens=tier.above_input_tokens, **_rates(tier, TOKEN_KINDS))


class PriceView(TokenRatesView, DatedView):
    """A dated row: credits per million tokens by kind, and for each piece of the units. Null: not priced apart."""

    image: CreditsText | None
    character: CreditsText | None
    tool_use: CreditsText | None
    request: CreditsText
    second: CreditsText | None
    megabyte: CreditsText | None
    batch_percent: int | None
    level: str | None
    tiers: tuple[TierView, ...]
    source: Literal["file", "api"]

    @classmethod
    def of(cls, price: domain.Price) -> Self:
        return cls(
            model=price.model,
            effective=utc_time(price.effective_at_ms),
            request=credits(price.request),
            batch_percent=price.batch_percent,
            level=price.level,
            tiers=tuple(TierView.of(tier) for tier in price.tiers),
            source=price.source,
            **_rates(price, KINDS),
        )


def _rates(row: domain.Price | domain.Tier, kinds: Sequence[str]) -> dict[str, str | None]:
    return {kind: credits_or_none(getattr(row, kind)) for kind in kinds}


class PricePage(PageView[PriceView]):
    pass


# --- pools --------------------------------------------------------------------------------------------------------------------


class PoolView(View):
    """How the seats of an upstream stand."""

    name: str
    seats: int
    used: int = Field(description="With spare ones; above `seats` only after there were more, or after an outage")
    backlog: int = Field(description="Requests with a budget that wait for a seat")
    callers_waiting: int = Field(description="Accounts with a request that waits")
    lag: CreditsText = Field(description="By how much service per weight those who wait differ: organisations, or one's accounts")
    served: CreditsText = Field(description="What all requests with a seat have cost")
    spare_used: int = Field(description="Seats taken by accounts whose budget is used up")
    spare_waiting: int = Field(description="Requests that wait and take only seats that nobody else wants")
    draining: bool

    @classmethod
    def of(cls, state: domain.PoolState) -> Self:
        return cls(
            name=state.name,
            seats=state.seats,
            used=state.used,
            backlog=state.waiting,
            callers_waiting=state.callers_waiting,
            lag=credits(state.lag_nanocredits),
            served=credits(state.served_nanocredits),
            spare_used=state.spare_used,
            spare_waiting=state.spare_waiting,
            draining=state.draining,
        )


class PoolPage(PageView[PoolView]):
    pass


# --- what happened ------------------------------------------------------------------------------------------------------------


class PostingView(View):
    account: str
    source: str
    origin: str = Field(serialization_alias="from")
    target: str = Field(serialization_alias="to")
    credits: CreditsText


class EntryView(View):
    entry_id: str
    at: MomentText
    verb: str
    id: str
    path: tuple[str, ...]
    credits: CreditsText
    memo: str
    postings: tuple[PostingView, ...]

    @classmethod
    def of(cls, entry: domain.JournalEntry, *, postings: Sequence[domain.Posting] | None = None) -> Self:
        """The view of an entry, with all its postings or only those given."""
        shown = entry.postings if postings is None else postings
        return cls(
            entry_id=entry.entry_id,
            at=utc_time(entry.at_ms),
            verb=entry.verb,
            id=entry.id,
            path=entry.path,
            credits=credits(entry.amount_nanocredits),
            memo=entry.memo,
            postings=tuple(
                PostingView(
                    account=posting.account,
                    source=posting.source,
                    origin=posting.origin,
                    target=posting.target,
                    credits=credits(posting.amount_nanocredits),
                )
                for posting in shown
            ),
        )


class EntryPage(PageView[EntryView]):
    pass


class HoldView(View):
    hold_id: str
    path: tuple[str, ...]
    credits: CreditsText
    spent: CreditsText
    created_at: MomentText
    expires_at: MomentText

    @classmethod
    def of(cls, hold: domain.OpenHold) -> Self:
        return cls(
            hold_id=hold.hold_id,
            path=hold.path,
            credits=credits(hold.amount_nanocredits),
            spent=credits(hold.spent_nanocredits),
            created_at=utc_time(hold.created_at_ms),
            expires_at=utc_time(hold.expires_at_ms),
        )


class HoldPage(PageView[HoldView]):
    pass


class EventView(View):
    event_id: str
    at: MomentText
    actor: str
    action: str
    subject: str
    before: JsonValue
    after: JsonValue
    reason: str

    @classmethod
    def of(cls, event: domain.Event) -> Self:
        return cls(
            event_id=event.event_id,
            at=utc_time(event.at_ms),
            actor=event.actor,
            action=event.action,
            subject=event.subject,
            before=_read(event.before),
            after=_read(event.after),
            reason=event.reason,
        )


def _read(state: str) -> JsonValue:
    if not state:
        return None
    try:
        read: JsonValue = json.loads(state)
    except ValueError:
        return state
    return read


class EventPage(PageView[EventView]):
    pass


class AuditView(View):
    """What the audit checked; `broken` names each account whose books do not balance."""

    accounts: int
    entries: int
    open_holds: int
    balanced: bool
    broken: tuple[str, ...]

    @classmethod
    def of(cls, report: domain.AuditReport) -> Self:
        return cls(
            accounts=report.accounts,
            entries=report.entries,
            open_holds=report.open_holds,
            balanced=not report.broken,
            broken=report.broken,
        )
