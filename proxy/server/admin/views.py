"""What the admin API and self-service answer of accounts and their credits: pydantic models made from the nouns of `domain`.

Amounts are decimal strings in credits, times are RFC 3339 in UTC. No view has room for a secret but `NewKeyView`, which shows
an API key the one time it is shown. The price book and the history are in `records.py`.
"""

from __future__ import annotations

from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

from proxy import domain
from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits as credits
from proxy.server.admin.fields import CreditsText, MomentText

Item = TypeVar("Item", bound=BaseModel)


class View(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class Document(RootModel[dict[str, JsonValue]]):
    """An OpenAPI 3.1 document."""


def time_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else utc_time(at_ms)


def credits_or_none(amount_nanocredits: int | None) -> str | None:
    return None if amount_nanocredits is None else credits(amount_nanocredits)


class PageView(View, Generic[Item]):
    """A page of a list; `next` is the `after` of the page that follows, null on the last."""

    items: tuple[Item, ...]
    next: str | None


# --- accounts -----------------------------------------------------------------------------------------------------------------


class LimitView(View):
    """A limit as it is set."""

    credits: CreditsText
    window: str
    time_zone: str
    rollover: domain.Rollover
    rollover_max: CreditsText | None

    @classmethod
    def of(cls, limit: domain.Limit) -> Self:
        return cls(**_limit_members(limit))


def _limit_members(limit: domain.Limit) -> dict[str, Any]:
    return {
        "credits": credits(limit.credits_nanocredits),
        "window": limit.window,
        "time_zone": limit.time_zone,
        "rollover": limit.rollover,
        "rollover_max": credits(limit.rollover_max_nanocredits) if limit.rollover == "capped" else None,
    }


class LimitStateView(LimitView):
    """A limit and what it paid and keeps in its present window; remaining = credits + carried - spent - held, at least 0."""

    carried: CreditsText
    spent: CreditsText
    held: CreditsText
    remaining: CreditsText
    starts_at: MomentText
    resets_at: MomentText | None

    @classmethod
    def of_state(cls, state: domain.LimitState) -> Self:
        return cls(
            **_limit_members(state.limit),
            carried=credits(state.carried_nanocredits),
            spent=credits(state.spent_nanocredits),
            held=credits(state.held_nanocredits),
            remaining=credits(state.remaining_nanocredits),
            starts_at=utc_time(state.starts_at_ms),
            resets_at=time_or_none(state.resets_at_ms),
        )


class GrantView(View):
    grant_id: str
    credits: CreditsText
    remaining: CreditsText
    held: CreditsText
    spent: CreditsText
    priority: int
    effective_at: MomentText
    expires_at: MomentText | None
    created_at: MomentText
    reason: str

    @classmethod
    def of(cls, grant: domain.Grant) -> Self:
        return cls(
            grant_id=grant.grant_id,
            credits=credits(grant.credits_nanocredits),
            remaining=credits(grant.remaining_nanocredits),
            held=credits(grant.held_nanocredits),
            spent=credits(grant.spent_nanocredits),
            priority=grant.priority,
            effective_at=utc_time(max(grant.effective_at_ms, grant.created_at_ms)),
            expires_at=time_or_none(grant.expires_at_ms),
            created_at=utc_time(grant.created_at_ms),
            reason=grant.reason,
        )


class AccountView(View):
    """An account: its settings, its limits in their present windows, its grants, and its totals since it began.

    `available` is what could be spent now, every level of the path considered; null where no level has a limit.
    """

    id: str
    path: tuple[str, ...]
    plan: str
    unit: str = Field(description="What all its amounts count: credits, or units of the level of this name")
    weight: int
    status: domain.AccountStatus
    kind: domain.AccountKind = Field(description="An agent acts for the account above it, whose use its own is")
    labels: dict[str, str]
    own_limits: bool = Field(description="Whether its limits are its own, instead of its plan's")
    limits: tuple[LimitStateView, ...]
    grants: tuple[GrantView, ...]
    requests_per_minute: int | None = Field(description="That may begin; null: as many as come. This and the next are its plan's")
    concurrent_requests: int | None = Field(description="That may run at a time; null: as many as come")
    running_requests: int = Field(description="That run now, those of the accounts below it among them")
    spent: CreditsText
    held: CreditsText
    available: CreditsText | None
    granted: CreditsText
    expired: CreditsText
    given: CreditsText
    revoked: CreditsText
    adjusted: CreditsText
    overrun: CreditsText
    created_at: MomentText
    version: int

    @classmethod
    def of(cls, account: domain.Account) -> Self:
        totals = account.totals
        return cls(
            id=account.id,
            path=account.path,
            plan=account.plan,
            unit=account.unit,
            weight=account.weight,
            status=account.status,
            kind=account.kind,
            labels=dict(account.labels),
            own_limits=account.own_limits is not None,
            limits=tuple(LimitStateView.of_state(state) for state in account.limits),
            grants=tuple(GrantView.of(grant) for grant in account.grants),
            requests_per_minute=account.requests_per_minute,
            concurrent_requests=account.concurrent_requests,
            running_requests=account.running_requests,
            spent=credits(totals.spent),
            held=credits(totals.held),
            available=credits_or_none(account.available_nanocredits),
            granted=credits(totals.granted),
            expired=credits(totals.expired),
            given=credits(totals.given),
            revoked=credits(totals.revoked),
            adjusted=credits(totals.adjusted),
            overrun=credits(totals.overrun),
            created_at=utc_time(account.created_at_ms),
            version=account.version,
        )


class AccountPage(PageView[AccountView]):
    pass


class KeyView(View):
    key_id: str
    account: str
    created_at: MomentText
    revoked_at: MomentText | None

    @classmethod
    def of(cls, key: domain.ApiKey) -> Self:
        return cls(
            key_id=key.key_id,
            account=key.account,
            created_at=utc_time(key.created_at_ms),
            revoked_at=time_or_none(key.revoked_at_ms),
        )


class NewKeyView(View):
    key_id: str
    key: str | None = Field(description="Shown once: null when the same Idempotency-Key asks again")


class KeyPage(PageView[KeyView]):
    pass


class GrantPage(PageView[GrantView]):
    pass


# --- credits that move --------------------------------------------------------------------------------------------------------


class AdjustmentView(View):
    id: str
    account: str
    spent: CreditsText = Field(description="What the totals of spent changed by, at every level of the path")
    overrun: CreditsText = Field(description="What a charge could not be paid")
    reason: str


class TransferView(View):
    id: str
    source: str = Field(serialization_alias="from")
    target: str = Field(serialization_alias="to")
    credits: CreditsText
    reason: str
