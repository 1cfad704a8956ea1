"""Prices, levels, limits, plans and seed accounts: the rows that the ledger takes over."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from proxy import domain
from proxy.config.values import Amount, Identifier, LevelName, ModelPattern, Section, TimeZone, Window, milliseconds

PRICE_TIERS_MAX = 16
PRICED_ALONE = ("input", "output", "audio_input", "audio_output", "image", "character", "tool_use", "second", "megabyte")
"""Kinds of which a price row needs one, unless it prices the request; the others only go with them."""


class TokenRates(Section):
    """Credits per million tokens, by kind."""

    input: Amount | None = None
    output: Amount | None = None
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    audio_input: Amount | None = None
    reasoning: Amount | None = None
    audio_output: Amount | None = None


class PriceTier(TokenRates):
    above_input_tokens: int = Field(ge=1, le=100_000_000)


class PriceRow(TokenRates):
    model: ModelPattern
    effective: dt.date | dt.datetime = dt.date(1970, 1, 1)
    image: Amount | None = None
    character: Amount | None = None
    tool_use: Amount | None = None
    request: Amount = 0
    second: Amount | None = None
    megabyte: Amount | None = None
    batch_percent: int | None = Field(default=None, ge=1, le=100)
    """What a request of a batch costs of all these rates; without it, the model is not served in batches."""
    level: LevelName | None = None
    """The named class of capability that the model stands for."""
    tier: tuple[PriceTier, ...] = Field(default=(), max_length=PRICE_TIERS_MAX)
    """Other rates, for requests whose whole input is longer; the last tier that a request exceeds counts for all of its tokens."""

    @model_validator(mode="after")
    def _check_priced(self) -> Self:
        check_priced(self.to_price())
        return self

    def to_price(self, source: Literal["file", "api"] = "file") -> domain.Price:
        row = self.model_dump(exclude={"effective", "tier"})
        tiers = tuple(domain.Tier(**tier.model_dump()) for tier in self.tier)
        return domain.Price(effective_at_ms=milliseconds(self.effective), source=source, tiers=tiers, **row)


def check_priced(price: domain.Price) -> None:
    """Raises ValueError where a row prices nothing that a request could need, or where its tiers are in no order or price nothing."""
    if not price.request and all(getattr(price, kind) is None for kind in PRICED_ALONE):
        raise ValueError(f"prices nothing; give at least one of request, {', '.join(PRICED_ALONE)}")
    above = 0
    for tier in price.tiers:
        if tier.above_input_tokens <= above:
            raise ValueError("the tiers must rise, each above_input_tokens beyond the one before it")
        above = tier.above_input_tokens
        if tier == domain.Tier(above):
            raise ValueError(f"the tier above {above} input tokens prices nothing")


class LevelRow(Section):
    """How the index of a level is found; a level that rows name and that has no section has these defaults."""

    name: LevelName
    input_parts: int = Field(default=3, ge=0, le=1_000_000)
    """Of a blended token: so many parts input to `output_parts` parts output."""
    output_parts: int = Field(default=1, ge=0, le=1_000_000)
    may_rise: bool = False
    deflation: float = Field(default=10.0, ge=1, le=1_000_000, allow_inf_nan=False)
    """By what factor its index is taken to fall in 365.25 days, after the last price that is known; 1: not at all."""
    rises_at: dt.date | dt.datetime | None = None
    """From then on, once, its index is what the rows in force say then, also where that is higher: the cure for a mistaken row."""

    @model_validator(mode="after")
    def _check_blend(self) -> Self:
        if not self.input_parts + self.output_parts:
            raise ValueError("input_parts and output_parts are both 0, so that there is nothing to price")
        return self

    def to_level(self) -> domain.Level:
        members = dict(self)
        rises_at = members.pop("rises_at")
        return domain.Level(**members, rises_at_ms=None if rises_at is None else milliseconds(rises_at))


class LimitRow(Section):
    credits: Amount
    window: Window = "day"
    time_zone: TimeZone = "UTC"
    rollover: Literal["none", "capped", "full"] = "none"
    rollover_max: Amount | None = None

    @model_validator(mode="after")
    def _check_rollover(self) -> Self:
        if (self.rollover == "capped") != (self.rollover_max is not None):
            raise ValueError('rollover_max belongs to rollover = "capped", which needs it')
        if self.window == "ever" and self.rollover != "none":
            raise ValueError('a limit for window = "ever" has nothing to roll over')
        return self

    def to_limit(self) -> domain.Limit:
        return domain.Limit(self.credits, self.window, self.time_zone, self.rollover, self.rollover_max or 0)


def unique_limits(rows: tuple[LimitRow, ...]) -> tuple[LimitRow, ...]:
    """The rows as given; ValueError where two share a window, for then the smaller alone would count."""
    keys = [row.to_limit().key for row in rows]
    if len(set(keys)) != len(keys):
        raise ValueError(f"two limits share the window {max(keys, key=keys.count)}; keep the smaller one")
    return rows


LimitRows = Annotated[tuple[LimitRow, ...], Field(max_length=8), AfterValidator(unique_limits)]
RequestCount = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of a minute, or of a moment."""


class PlanRow(Section):
    name: Identifier
    weight: int = Field(default=1, ge=1, le=1_000_000)
    limits: LimitRows = ()
    models: tuple[ModelPattern, ...] = ("*",)
    transfers: bool = False
    loans: bool = False
    expired_to_commons: bool = False
    scavenge: bool = False
    requests_per_minute: RequestCount | None = None
    concurrent_requests: RequestCount | None = None
    unit: Identifier = domain.CREDITS
    """What its amounts count: credits, or units of the level of this name."""

    def to_plan(self) -> domain.Plan:
        limits = tuple(row.to_limit() for row in self.limits)
        return domain.Plan(**(dict(self) | {"limits": limits}))


class AccountRow(Section):
    id: Identifier
    parent: Identifier | None = None
    plan: Identifier | None = None
    weight: int | None = Field(default=None, ge=1, le=1_000_000)
    limits: LimitRows | None = None
    labels: dict[Identifier, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict, max_length=32)
    key_env: str | None = None
    """An API key of the operator's own making for this account, from the environment."""
