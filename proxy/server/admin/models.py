"""What the admin API and self-service read: one pydantic model per request body and per query.

Unknown members are refused, and values are taken as they are: a boolean is no number, a number is no text. The OpenAPI document
is generated from these same models. Answers are in `views.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from proxy import config, domain
from proxy.server.admin.fields import (
    Amount,
    DayOrMoment,
    GivenReason,
    Identifier,
    Labels,
    LevelName,
    ModelPattern,
    Moment,
    PositiveAmount,
    Reason,
    RequestCount,
    SignedAmount,
    Unit,
    Weight,
)

PAGE_ITEMS = 100
PAGE_ITEMS_MAX = 500


class Asked(BaseModel):
    """A body or a query that a client sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- queries ------------------------------------------------------------------------------------------------------------------


def _count(value: object) -> object:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 9):
            raise ValueError("must be a whole number")
        return int(value)
    return value


PageSize = Annotated[int, BeforeValidator(_count), Field(ge=1, le=PAGE_ITEMS_MAX)]
_CURSOR = "`next` of the page before"
Cursor = Annotated[str, Field(max_length=512, pattern=r"^[!-~]*$", description=_CURSOR)]
IdentifierCursor = Annotated[Identifier, Field(description=_CURSOR)]
CountCursor = Annotated[str, Field(pattern=r"^[0-9]{1,15}$", description=_CURSOR)]
EventCursor = Annotated[str, Field(pattern=r"^[0-9]{1,15}-[0-9]{1,15}$", description=_CURSOR)]


class NoQuery(Asked):
    pass


class PageQuery(Asked):
    limit: PageSize = PAGE_ITEMS


class AccountsQuery(PageQuery):
    after: IdentifierCursor | None = None
    parent: Identifier | None = None
    plan: Identifier | None = None
    status: domain.AccountStatus | None = None


class PlansQuery(PageQuery):
    after: IdentifierCursor | None = None


class LevelsQuery(PageQuery):
    after: IdentifierCursor | None = None


class PricesQuery(PageQuery):
    after: Cursor | None = None
    model: Annotated[str, Field(max_length=256)] | None = Field(default=None, description="Only rows that match this model")


class JournalQuery(Asked):
    limit: PageSize | None = Field(default=None, description=f"Default: {PAGE_ITEMS} as JSON, everything as CSV")
    after: CountCursor | None = None


class HoldsQuery(PageQuery):
    after: CountCursor | None = None


class EventsQuery(PageQuery):
    after: EventCursor | None = None


class ReasonQuery(Asked):
    reason: Reason = Field(default="", description="Why; it stands in the audit log")


class ModelQuery(Asked):
    model: Annotated[str, Field(max_length=256)] | None = None


# --- bodies -------------------------------------------------------------------------------------------------------------------


class NoBody(Asked):
    pass


class LimitBody(config.LimitRow):
    """Credits for each window: hour, day, week, month (by the time zone's calendar), ever, or `<N>s` from the first use on."""

    credits: Amount
    rollover_max: Amount | None = None


LimitBodies = Annotated[
    tuple[LimitBody, ...],
    Field(max_length=8, description="At most one for each window and time zone"),
]


def limits_of(bodies: tuple[LimitBody, ...]) -> tuple[domain.Limit, ...]:
    return tuple(body.to_limit() for body in bodies)


class AccountCreate(Asked):
    id: Identifier
    parent: Identifier | None = None
    plan: Identifier | None = Field(default=None, description="Default: the first plan of the configuration")
    weight: Weight | None = Field(default=None, description="Default: the plan's")
    limits: LimitBodies | None = Field(default=None, description="Instead of the plan's")
    labels: Labels = Field(default_factory=dict)
    reason: Reason = ""

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        config.unique_limits(self.limits or ())
        return self


def left_out(description: str | None = None) -> Any:
    """A member that may be left out and is then None, though null itself is not taken."""
    return Field(default=None, description=description, json_schema_extra=lambda schema: schema.pop("default", None) and None)


class AccountPatch(Asked):
    """Members that are absent stay as they are; `"limits": null` gives the plan's limits again."""

    plan: Identifier = left_out()
    weight: Weight = left_out()
    limits: LimitBodies | None = left_out()
    status: domain.AccountStatus = left_out("closed is final")
    labels: Labels = left_out("All of them; what is left out is removed")
    reason: Reason = ""

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        config.unique_limits(self.limits or ())
        if not self.model_fields_set - {"reason"}:
            raise ValueError("changes nothing; give at least one of plan, weight, limits, status, labels")
        return self


class KeyCreate(Asked):
    reason: Reason = ""


class GrantCreate(Asked):
    credits: PositiveAmount
    priority: Annotated[int, Field(strict=True, ge=-1_000_000, le=1_000_000)] = Field(default=0, description="Lower: spent earlier")
    effective_at: Moment | None = Field(default=None, description="Default: now")
    expires_at: Moment | None = Field(default=None, description="Default: never")
    reason: GivenReason

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.effective_at is not None and self.expires_at is not None and self.expires_at <= self.effective_at:
            raise ValueError("expires_at must be later than effective_at")
        return self


class AdjustmentCreate(Asked):
    credits: SignedAmount
    reason: GivenReason


class TransferCreate(Asked):
    source: Identifier = Field(alias="from")
    target: Identifier = Field(alias="to")
    credits: PositiveAmount
    reason: GivenReason


class OwnTransferCreate(Asked):
    """Self-service: the giver is always the caller's own account."""

    target: Identifier = Field(alias="to")
    credits: PositiveAmount
    reason: Reason = ""


class PlanPut(Asked):
    """A whole plan: members that are absent take their defaults."""

    limits: LimitBodies = ()
    weight: Weight = 1
    models: Annotated[tuple[ModelPattern, ...], Field(min_length=1, max_length=256)] = ("*",)
    transfers: Annotated[bool, Field(strict=True)] = Field(default=False, description="May accounts give credits away?")
    loans: Annotated[bool, Field(strict=True)] = Field(default=False, description="May accounts lend credits?")
    expired_to_commons: Annotated[bool, Field(strict=True)] = Field(default=False, description="Does what expires go to the commons?")
    scavenge: Annotated[bool, Field(strict=True)] = Field(default=False, description="May accounts without budget use spare seats?")
    requests_per_minute: RequestCount | None = Field(default=None, description="That each account may begin; null: as many as come")
    concurrent_requests: RequestCount | None = Field(default=None, description="That each account may run at a time; null: as many as come")
    unit: Unit = domain.CREDITS
    reason: Reason = ""

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        config.unique_limits(self.limits)
        return self

    def to_plan(self, name: str) -> domain.Plan:
        return domain.Plan(
            name,
            limits_of(self.limits),
            weight=self.weight,
            models=self.models,
            transfers=self.transfers,
            loans=self.loans,
            expired_to_commons=self.expired_to_commons,
            scavenge=self.scavenge,
            requests_per_minute=self.requests_per_minute,
            concurrent_requests=self.concurrent_requests,
            unit=self.unit,
        )


class TokenRates(Asked):
    """Credits per million tokens, by kind."""

    input: Amount | None = None
    output: Amount | None = None
    cached_input: Amount | None = Field(default=None, description="Default: as input")
    cache_write: Amount | None = Field(default=None, description="Default: as input")
    cache_write_1h: Amount | None = Field(default=None, description="Default: as cache_write")
    audio_input: Amount | None = Field(default=None, description="Default: as input")
    reasoning: Amount | None = Field(default=None, description="Default: as output")
    audio_output: Amount | None = Field(default=None, description="Default: as output")


class TierBody(TokenRates):
    """Other rates for all tokens of a request whose whole input is longer; what is left out costs what it does in the row."""

    above_input_tokens: Annotated[int, Field(strict=True, ge=1, le=100_000_000)]


class PriceCreate(TokenRates):
    """One dated row, credits per million tokens by kind, or for each piece; rows never change, a later one takes their place."""

    model: ModelPattern
    effective: DayOrMoment = Field(description="From when on it applies")
    image: Amount | None = Field(default=None, description="For each image")
    character: Amount | None = Field(default=None, description="For each character of input")
    tool_use: Amount | None = Field(default=None, description="For each use of one of the upstream's own tools, or search unit")
    request: Amount = Field(default=0, description="For each request")
    second: Amount | None = Field(default=None, description="For each second")
    megabyte: Amount | None = Field(default=None, description="For each megabyte, of 10^6 bytes")
    batch_percent: Annotated[int, Field(strict=True, ge=1, le=100)] | None = Field(
        default=None, description="What a request of a batch costs of all these; without it, there are no batches of the model"
    )
    level: LevelName | None = Field(default=None, description="The class of capability that the model stands for")
    tiers: Annotated[
        tuple[TierBody, ...],
        Field(max_length=config.PRICE_TIERS_MAX, description="By above_input_tokens, rising; the last that a request exceeds counts"),
    ] = ()
    reason: Reason = ""

    @model_validator(mode="after")
    def _check_priced(self) -> Self:
        config.check_priced(self.to_price())
        return self

    def to_price(self) -> domain.Price:
        row = self.model_dump(exclude={"effective", "reason", "tiers"})
        tiers = tuple(domain.Tier(**tier.model_dump()) for tier in self.tiers)
        return domain.Price(effective_at_ms=self.effective, source="api", tiers=tiers, **row)


class PoolPatch(Asked):
    draining: Annotated[bool, Field(strict=True)] = Field(
        description="Give no more seats and let no more requests wait, until it is false again"
    )
    reason: Reason = ""
