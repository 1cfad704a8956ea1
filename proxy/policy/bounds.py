"""The bounds that interventions keep to, as plain numbers; the configuration says what each is by default. Shares are 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """In how many steps a policy reaches its full strength."""

    steps_max: int


@dataclass(frozen=True, slots=True)
class FloorBounds(Steps):
    of_average: float
    """The floor at full strength, of the average use per weight."""
    boost_max: float
    """How many times the weight of somebody below it counts at most."""


@dataclass(frozen=True, slots=True)
class CapBounds(Steps):
    of_average: float
    """The cap is never lower than so many times the average."""


@dataclass(frozen=True, slots=True)
class PriceBounds(Steps):
    theta: float
    """Up to so many times the average a price is what it is."""
    kappa: float
    beta: float
    price_max: float
    """Times the price."""


@dataclass(frozen=True, slots=True)
class BrakeBounds(Steps):
    share_above: float
    """Of all use, what the topmost hundredth of the users may have."""
    weight_min: float


@dataclass(frozen=True, slots=True)
class TitheBounds(Steps):
    of_average: float
    """Only whoever is above so many times the average gives."""
    share: float
    """Of what he spends, on top of it."""


@dataclass(frozen=True, slots=True)
class DividendBounds(Steps):
    reserve_credits: int
    """Nanocredits that stay in the commons."""
    interval_s: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """When policies grow and ease, and how far each goes."""

    step_s: float
    sustained_s: float
    scarcity_min: float
    scarcity_release: float
    gini_above: float
    gini_release: float
    denied_above: float
    denied_release: float
    people_min: int
    floor: FloorBounds
    cap: CapBounds
    progressive_price: PriceBounds
    brake: BrakeBounds
    tithe: TitheBounds
    dividend: DividendBounds
