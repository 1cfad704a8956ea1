"""Interventions as the configuration wants them: its bounds as plain numbers, its modes by policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy import config
from proxy.policy.bounds import Bounds, BrakeBounds, CapBounds, DividendBounds, FloorBounds, PriceBounds, TitheBounds
from proxy.policy.interventions import Mode
from proxy.policy.orders import POLICIES, PolicyName


def bounds_of(section: config.Interventions) -> Bounds:
    """What `[intervention]` and its tables allow."""
    return Bounds(
        **section.model_dump(exclude={"tick_s", *POLICIES}),
        floor=FloorBounds(**_own(section.floor)),
        cap=CapBounds(**_own(section.cap)),
        progressive_price=PriceBounds(**_own(section.progressive_price)),
        brake=BrakeBounds(**_own(section.brake)),
        tithe=TitheBounds(**_own(section.tithe, "interval_s")),
        dividend=DividendBounds(**_own(section.dividend)),
    )


def _own(section: config.Intervention, *but: str) -> dict[str, Any]:
    return section.model_dump(exclude={"mode", *but})


def modes_of(section: config.Interventions) -> Mapping[PolicyName, Mode]:
    """The mode of each policy, as the file has it."""
    return {name: getattr(section, name).mode for name in POLICIES}


def steps_max_of(section: config.Interventions) -> Mapping[PolicyName, int]:
    """In how many steps each policy reaches its full strength."""
    return {name: getattr(section, name).steps_max for name in POLICIES}
