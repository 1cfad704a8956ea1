"""What orders mean, in sentences for people. Pure."""

from __future__ import annotations

from functools import partial

from proxy.domain import CREDITS, NANOCREDITS_PER_CREDIT
from proxy.policy.orders import WEIGHT_UNIT, Orders, PolicyName


def effect(orders: Orders, policy: PolicyName) -> str:
    """What a policy does by these orders, or would do in a dry run; empty where it does nothing."""
    if policy not in (*orders.on, *orders.proposed):
        return ""
    told = partial(_told, orders.unit)
    match policy:
        case "floor":
            return (
                f"whoever used less than {told(orders.floor_nanocredits)} per weight today counts {_times(orders.boost_quarters)}"
                " where requests wait, and is topped up to it from the commons when refused for want of budget"
            )
        case "cap":
            if orders.cap_nanocredits is None:
                return "nobody needs to make room"
            return f"whoever used more than {told(orders.cap_nanocredits)} per weight today takes only seats that nobody else wants"
        case "progressive_price":
            if not orders.price_kappa:
                return "prices are what they are while seats are idle"
            return (
                f"a price grows with use from {orders.price_theta:g} times the average ({told(orders.average_nanocredits)} per weight)"
                f" on, by {orders.price_kappa:.0%} at one time the average beyond that and by"
                f" {orders.price_kappa * 2**orders.price_beta:.0%} at two, up to {orders.price_percent_max / 100:g} times"
            )
        case "brake":
            if orders.brake_quarters == WEIGHT_UNIT:
                return "nobody counts less: weights are lowered by whole quarters, and this is less than one"
            return f"whoever used {told(orders.brake_nanocredits or 0)} per weight or more today counts {_times(orders.brake_quarters)}"
        case "tithe":
            return (
                f"whoever used more than {told(orders.tithe_nanocredits)} per weight today gives the commons"
                f" {orders.tithe_share:.1%} of what is spent on top"
            )
        case "dividend":
            if not orders.dividend_nanocredits:
                return "the commons has nothing beyond its reserve to deal"
            return f"{told(orders.dividend_nanocredits)} of the commons are dealt to everyone who is entitled, in equal parts, when due"


def _told(unit: str, amount_nanocredits: float) -> str:
    number = f"{amount_nanocredits / NANOCREDITS_PER_CREDIT:.4g}"
    return f"{number} credits" if unit == CREDITS else f"{number} units of {unit}"


def _times(quarters: int) -> str:
    return f"{quarters / WEIGHT_UNIT:g} times"
