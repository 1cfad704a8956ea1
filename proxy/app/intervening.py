"""Interventions as the configuration wants them: its bounds as plain numbers, its modes by policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy import config
from proxy.policy.bounds import Bounds, BrakeBounds, CapBounds, DividendBounds, FloorBounds, PriceBounds, TitheBounds
from proxy.policy.interventions import Mode
from proxy.policy.orders import POLICIES, PolicyName

OF_THE_COMMONS: Final[frozenset[PolicyName]] = frozenset({"tithe", "dividend"})
"""Policies that are nothing without an account of the commons."""


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


def modes_in(settings: config.Config, set_by_operators: Mapping[PolicyName, Mode]) -> Mapping[PolicyName, Mode]:
    """The mode of each policy: as set at run time, else as the file has it; off where it needs a commons and there is none."""
    modes: dict[PolicyName, Mode] = {**modes_of(settings.intervention), **set_by_operators}
    if settings.commons.account is None:
        modes |= {name: "off" for name in OF_THE_COMMONS if modes[name] == "on"}
    return modes


def steps_max_of(section: config.Interventions) -> Mapping[PolicyName, int]:
    """In how many steps each policy reaches its full strength."""
    return {name: getattr(section, name).steps_max for name in POLICIES}
