"""What interventions mean for one caller: the lines that are drawn for everyone, and how somebody with so much use is treated.

Orders are made once for all, published, and applied by every worker at admission; what is a dry run is only counted. Every effect has a
bound, and none falls on somebody who is on the right side of its line. x is use per weight in the day's window, in nanocredits. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from proxy.domain import CREDITS

PolicyName = Literal["floor", "cap", "progressive_price", "brake", "tithe", "dividend"]
POLICIES: Final[tuple[PolicyName, ...]] = ("floor", "cap", "progressive_price", "brake", "tithe", "dividend")
ON_SEATS: Final[frozenset[PolicyName]] = frozenset({"cap", "brake"})
"""Those that act on who is seated next, and on nothing else."""

WEIGHT_UNIT: Final = 4
"""A weight counts in quarters while orders are in force: down to one of them, up to sixteen."""

ORDERS_VALID_MS: Final = 240_000
"""Orders that nobody has renewed for so long are in force no more: some looks may fail, but nothing outlives its reasons."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The lines, at one instant. A policy that is neither `on` nor `proposed` does nothing, whatever its line."""

    at_ms: int
    window_starts_at_ms: int
    """Of the day whose use counts."""
    on: tuple[PolicyName, ...] = ()
    proposed: tuple[PolicyName, ...] = ()
    """Dry runs: what they would do is counted and not done."""
    average_nanocredits: float = 0.0
    """x of all who used something."""
    floor_nanocredits: float = 0.0
    """Below this, a weight counts `boost_quarters`, and what is missing may be given from the commons."""
    boost_quarters: int = WEIGHT_UNIT
    cap_nanocredits: float | None = None
    """Above this, only seats that nobody else wants; None: there is nobody to make room for."""
    price_theta: float = 1.0
    price_kappa: float = 0.0
    price_beta: float = 1.0
    price_percent_max: int = 100
    brake_nanocredits: float | None = None
    """From this on, a weight counts `brake_quarters`."""
    brake_quarters: int = WEIGHT_UNIT
    tithe_nanocredits: float = 0.0
    """Above this, `tithe_share` of what is spent goes to the commons on top."""
    tithe_share: float = 0.0
    dividend_nanocredits: int = 0
    """What would be dealt of the commons now, if a dividend were due."""
    unit: str = CREDITS
    """What the lines count. They say nothing of anybody who counts in another unit."""

    def are_valid(self, now_ms: int) -> bool:
        """Whether they were renewed lately enough to count; long before their time, by a clock that was put back since, they do not."""
        return abs(now_ms - self.at_ms) <= ORDERS_VALID_MS


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a caller is treated. Whoever is below the floor is above no other line, so nothing ever pulls both ways."""

    weight_quarters: int = WEIGHT_UNIT
    is_spare: bool = False
    """It takes only seats that nobody else wants."""
    price_percent: int = 100
    tithe_share: float = 0.0
    topup_nanocredits: int = 0
    """What it may be given once in this window, should it be refused for want of budget."""
    applied: tuple[PolicyName, ...] = ()
    proposed: tuple[PolicyName, ...] = ()
    """What dry runs would have applied."""


NEUTRAL: Final = Treatment()


def treat(orders: Orders, *, use_nanocredits: float, weight: int) -> Treatment:
    """How somebody who used so much in the orders' window is treated."""
    x = use_nanocredits / weight
    percent = price_percent(orders, x)
    meant: dict[PolicyName, bool] = {
        "floor": x < orders.floor_nanocredits,
        "cap": orders.cap_nanocredits is not None and x > orders.cap_nanocredits,
        "progressive_price": percent > 100,
        "brake": orders.brake_nanocredits is not None and orders.brake_quarters < WEIGHT_UNIT and x >= orders.brake_nanocredits,
        "tithe": orders.tithe_share > 0 and x > orders.tithe_nanocredits,
    }
    applied = tuple(name for name in orders.on if meant.get(name))
    proposed = tuple(name for name in orders.proposed if meant.get(name))
    if not applied:
        return Treatment(proposed=proposed) if proposed else NEUTRAL
    quarters = WEIGHT_UNIT
    if "floor" in applied:
        quarters = orders.boost_quarters
    elif "brake" in applied:
        quarters = orders.brake_quarters
    return Treatment(
        weight_quarters=quarters,
        is_spare="cap" in applied,
        price_percent=percent if "progressive_price" in applied else 100,
        tithe_share=orders.tithe_share if "tithe" in applied else 0.0,
        topup_nanocredits=int(orders.floor_nanocredits * weight - max(0.0, use_nanocredits)) if "floor" in applied else 0,
        applied=applied,
        proposed=proposed,
    )


def without_seat(treatment: Treatment) -> Treatment:
    """The same for what takes no seat, as a batch: it neither waits nor makes anybody wait, so cap, brake and weights are nothing to it.
    It is charged, tithed and topped up like everything else."""
    if not (treatment.applied or treatment.proposed):
        return treatment
    applied, proposed = (tuple(name for name in names if name not in ON_SEATS) for names in (treatment.applied, treatment.proposed))
    return replace(treatment, weight_quarters=WEIGHT_UNIT, is_spare=False, applied=applied, proposed=proposed)


def price_percent(orders: Orders, x: float) -> int:
    """What a budget is debited of each price, in percent, rounded down: 100 up to theta times the average, then rising to its maximum."""
    if orders.average_nanocredits <= 0 or orders.price_kappa <= 0:
        return 100
    beyond = x / orders.average_nanocredits - orders.price_theta
    if beyond <= 0:
        return 100
    try:
        percent = 100 * (1 + orders.price_kappa * beyond**orders.price_beta)
    except OverflowError:
        return orders.price_percent_max
    return int(min(percent, orders.price_percent_max))
