"""The policies against inequality, each with its bounds."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from proxy.config.values import Amount, Section


class Intervention(Section):
    """One policy against inequality under scarcity: whether it acts, and in how many steps it reaches its full strength."""

    mode: Literal["off", "dry_run", "on"] = "dry_run"
    steps_max: int = Field(default=4, ge=1, le=16)


class FloorPolicy(Intervention):
    """Whoever is below a share of the average goes first, and is topped up from the commons where he is refused for want of budget."""

    of_average: float = Field(default=0.5, gt=0, le=1)
    boost_max: float = Field(default=4, ge=1, le=4)
    """How many times a weight counts at most."""


class CapPolicy(Intervention):
    """Whoever is above the level at which all could be served takes only the seats that nobody else wants."""

    of_average: float = Field(default=1, ge=1, le=100)
    """The level is never lower than so many times the average."""


class PricePolicy(Intervention):
    """A budget is debited more the further its use is above the average: 1 + kappa x (x / average - theta)^beta."""

    theta: float = Field(default=2, ge=1, le=100)
    kappa: float = Field(default=0.5, gt=0, le=10)
    beta: float = Field(default=1, ge=0.25, le=4)
    price_max: float = Field(default=4, ge=1, le=10)


class BrakePolicy(Intervention):
    """Where the topmost hundredth of the users has more than a share of all use, its weight counts less: share / what it has."""

    share_above: float = Field(default=0.2, gt=0, lt=1)
    weight_min: float = Field(default=0.25, ge=0.25, le=1)


class TithePolicy(Intervention):
    """Whoever is above so many times the average gives a share of what he spends on top, from what he has left, to the commons."""

    of_average: float = Field(default=2, ge=1, le=100)
    share: float = Field(default=0.1, gt=0, le=0.5)
    interval_s: float = Field(default=60, ge=1, le=3600)
    """What is due of a person is given so often, all of it in one transfer of each worker."""


class DividendPolicy(Intervention):
    """What the commons has beyond a reserve, or its strength's part of it, is dealt to everyone who is entitled, in equal parts."""

    reserve_credits: Amount = 0
    interval_s: float = Field(default=86_400, ge=60, le=31 * 86_400)


class Interventions(Section):
    """When the policies begin and end: under scarcity, and where use is unequal or people are refused. Shares are 0 to 1."""

    tick_s: float = Field(default=5, ge=0.1, le=60)
    step_s: float = Field(default=300, ge=0.1, le=86_400)
    """Each policy grows or eases by one step in so long."""
    sustained_s: float = Field(default=60, ge=0, le=86_400)
    """How long scarcity must last to count. What was refused is forgotten by half in as long, so it ends minutes after all is served."""
    scarcity_min: float = Field(default=0.1, gt=0, le=1)
    """The share of the demand that is not served, or of the requests that wait."""
    scarcity_release: float = Field(default=0.05, ge=0, lt=1)
    gini_above: float = Field(default=0.5, gt=0, le=1)
    gini_release: float = Field(default=0.4, ge=0, lt=1)
    denied_above: float = Field(default=0.1, gt=0, le=1)
    """The share of those who asked today that got nothing."""
    denied_release: float = Field(default=0.05, ge=0, lt=1)
    people_min: int = Field(default=20, ge=2, le=1_000_000)
    """Fewer users than this say nothing about Gini, fewer who asked nothing about the denied; then nothing acts."""
    floor: FloorPolicy = FloorPolicy()
    cap: CapPolicy = CapPolicy()
    progressive_price: PricePolicy = PricePolicy()
    brake: BrakePolicy = BrakePolicy()
    tithe: TithePolicy = TithePolicy()
    dividend: DividendPolicy = DividendPolicy()

    @model_validator(mode="after")
    def _check_bands(self) -> Self:
        for begins, ends in (("scarcity_min", "scarcity_release"), ("gini_above", "gini_release"), ("denied_above", "denied_release")):
            if getattr(self, ends) >= getattr(self, begins):
                raise ValueError(f"{ends} must be below {begins}, so that small changes switch nothing")
        return self
