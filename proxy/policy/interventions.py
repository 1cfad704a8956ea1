"""When policies against inequality begin, grow, ease and end: one step at a time, within bounds, and never without scarcity.

A policy grows only while something is scarce and, together with it, use is unequal among those who used something or too many of those who
asked got nothing; it eases where scarcity is over or both figures are low again, and stays as it is in the band between. Strength moves by
one step in `step_s`, from 0 to `steps_max`, so that what began also ends by itself. Everything follows from the arguments: same looks, same
acts. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from proxy.policy.bounds import Bounds, Steps
from proxy.policy.orders import POLICIES, WEIGHT_UNIT, Orders, PolicyName
from proxy.policy.scarcity import Demand, Scarcity, watch
from proxy.policy.tallies import Tally
from proxy.policy.water_filling import average_nanocredits, level_nanocredits, top_edge_nanocredits, users

Mode = Literal["off", "dry_run", "on"]
ActKind = Literal["start", "grow", "ease", "stop", "deal"]
TOP_SHARE: Final = 0.01
BRAKE_RELEASE: Final = 0.9
"""The brake is let go where the top has less than this part of the share at which it is pulled."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to see at one instant."""

    now_ms: int
    uses: Tally
    """Of the day, by the person."""
    demand: Demand
    denied_people: int = 0
    """Who asked today and got nothing at all."""
    commons_nanocredits: int = 0
    """What the commons could give now."""
    utilisation: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a decision was made by; also what is recorded beside an act, so that its effect can be seen afterwards."""

    scarcity: float = 0.0
    gini_low: float = 0.0
    """The least that the Gini coefficient of those who used something can be."""
    denied_share: float = 0.0
    """Of those who asked, those who got nothing."""
    top1_share: float = 0.0
    """The least that the topmost hundredth of the users has of all use."""
    users: int = 0
    average_nanocredits: float = 0.0
    utilisation: float | None = None


NO_FIGURES: Final = Figures()


@dataclass(frozen=True, slots=True)
class PolicyState:
    """How far a policy goes at present. At strength 0 it does nothing."""

    mode: Mode = "off"
    strength: int = 0
    stepped_at_ms: int = 0
    since_ms: int | None = None
    """When its strength left 0."""
    reason: str = ""
    """Of its last step."""
    figures: Figures = NO_FIGURES
    """When it last moved, so that what came of it can be seen."""


AT_REST: Final = PolicyState()
UNSEEN: Final = Scarcity()


@dataclass(frozen=True, slots=True)
class State:
    """All that one look leaves for the next."""

    scarcity: Scarcity = UNSEEN
    policies: Mapping[PolicyName, PolicyState] = field(default_factory=dict)
    figures: Figures = NO_FIGURES
    dealt_at_ms: int = 0
    """When a dividend was dealt last."""


@dataclass(frozen=True, slots=True)
class Act:
    """One step of one policy, and why; in a dry run, what would have been done."""

    policy: PolicyName
    kind: ActKind
    mode: Mode
    strength_before: int
    strength: int
    reason: str
    before: Figures
    """Of the step before this one; of a first step, what it is taken by."""
    after: Figures
    amount_nanocredits: int = 0
    """What is dealt."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a look."""

    state: State
    orders: Orders
    acts: tuple[Act, ...]


def decide(before: State, look: Look, modes: Mapping[PolicyName, Mode], bounds: Bounds) -> Decision:
    """The next state, the orders that are in force until the next look, and what has changed."""
    look = replace(look, uses=look.uses.sound())
    scarcity = watch(before.scarcity, look.demand, now_ms=look.now_ms, bounds=bounds)
    figures = _figures(look, scarcity)
    pressure = _pressure(scarcity, figures, bounds)
    policies: dict[PolicyName, PolicyState] = {}
    acts: list[Act] = []
    for name in POLICIES:
        was = before.policies.get(name, AT_REST)
        if was.mode != modes[name]:
            if was.strength:
                reason_to_stop = f"its mode became {modes[name]}"
                acts.append(Act(name, "stop", was.mode, was.strength, 0, reason_to_stop, was.figures, figures))
            was = PolicyState(mode=modes[name])
        own_pressure = _brake_pressure(pressure, figures, bounds) if name == "brake" else pressure
        policies[name], act = _step(name, was, own_pressure, figures, look.now_ms, bounds)
        if act is not None:
            acts.append(act)
    is_new = before.policies.get("dividend", AT_REST).mode != modes["dividend"]  # what a dry run would have dealt was not dealt
    state = State(scarcity, policies, figures, 0 if is_new else min(before.dealt_at_ms, look.now_ms))
    dealt = _deal(state, look, bounds)
    if dealt is not None:
        state = replace(state, dealt_at_ms=look.now_ms)
        acts.append(dealt)
    return Decision(state, _draw(state, look, bounds), tuple(acts))


def _figures(look: Look, scarcity: Scarcity) -> Figures:
    """The figures that decide."""
    curve, people = users(look.uses), look.uses.people
    asked = people + look.denied_people
    return Figures(
        scarcity=scarcity.share,
        gini_low=0.0 if curve is None else curve.gini().low,
        denied_share=look.denied_people / asked if asked else 0.0,
        top1_share=0.0 if curve is None else curve.share_above(1 - TOP_SHARE).low,
        users=people,
        average_nanocredits=average_nanocredits(look.uses),
        utilisation=look.utilisation,
    )


# --- which way, and how far ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pressure:
    """Whether a policy should grow (1), stay (0) or ease (-1), and why."""

    way: Literal[1, 0, -1]
    reason: str


def _pressure(scarcity: Scarcity, figures: Figures, bounds: Bounds) -> _Pressure:
    if not scarcity.is_scarce:
        return _Pressure(-1, f"nothing is scarce: {figures.scarcity:.0%} of the demand waits or is refused")
    if figures.users < bounds.people_min:
        return _Pressure(-1, f"{figures.users} users are too few to say anything of equality")
    demand = f"{figures.scarcity:.0%} of the demand waits or is refused"
    said = f"{demand}, Gini is {figures.gini_low:.2f}, {figures.denied_share:.0%} of those who asked got nothing"
    if figures.gini_low > bounds.gini_above or figures.denied_share > bounds.denied_above:
        return _Pressure(1, said)
    if figures.gini_low < bounds.gini_release and figures.denied_share < bounds.denied_release:
        return _Pressure(-1, said)
    return _Pressure(0, said)


def _brake_pressure(pressure: _Pressure, figures: Figures, bounds: Bounds) -> _Pressure:
    """The brake is for the top alone, so it also asks how much the top has."""
    if pressure.way < 0:
        return pressure
    said = f"{pressure.reason}; the topmost 1% of the users have {figures.top1_share:.0%}"
    if figures.top1_share > bounds.brake.share_above:
        return _Pressure(pressure.way, said)
    return _Pressure(-1 if figures.top1_share < BRAKE_RELEASE * bounds.brake.share_above else 0, said)


def _step(
    name: PolicyName, was: PolicyState, pressure: _Pressure, figures: Figures, now_ms: int, bounds: Bounds
) -> tuple[PolicyState, Act | None]:
    most = 0 if was.mode == "off" else _of(name, bounds).steps_max
    stepped_at_ms = min(was.stepped_at_ms, now_ms)  # a clock may step back
    strength = min(was.strength, most)
    if now_ms - stepped_at_ms >= bounds.step_s * 1000:
        strength = max(0, min(strength + pressure.way, most))
    if strength == was.strength:
        return replace(was, stepped_at_ms=stepped_at_ms), None
    kind: ActKind = ("grow" if was.strength else "start") if strength > was.strength else ("ease" if strength else "stop")
    since_ms = (was.since_ms if was.strength else now_ms) if strength else None
    before = was.figures if was.strength else figures
    act = Act(name, kind, was.mode, was.strength, strength, pressure.reason, before, figures)
    return PolicyState(was.mode, strength, now_ms, since_ms, pressure.reason, figures), act


def _of(name: PolicyName, bounds: Bounds) -> Steps:
    own: Steps = getattr(bounds, name)
    return own


def _deal(state: State, look: Look, bounds: Bounds) -> Act | None:
    """A dividend, where one is due: the strength's part of what the commons has beyond its reserve."""
    policy, section = state.policies["dividend"], bounds.dividend
    if not policy.strength or look.now_ms - state.dealt_at_ms < section.interval_s * 1000:
        return None
    amount = (look.commons_nanocredits - section.reserve_credits) * policy.strength // section.steps_max
    if amount <= 0:
        return None
    return Act("dividend", "deal", policy.mode, policy.strength, policy.strength, policy.reason, policy.figures, state.figures, amount)


# --- the lines ---------------------------------------------------------------------------------------------------------------------


def _draw(state: State, look: Look, bounds: Bounds) -> Orders:
    """The lines that follow from the present strengths, each between doing nothing and its bound."""
    part = {name: policy.strength / _of(name, bounds).steps_max for name, policy in state.policies.items()}
    floor, cap, price, brake, tithe = bounds.floor, bounds.cap, bounds.progressive_price, bounds.brake, bounds.tithe
    average, top1_share = state.figures.average_nanocredits, state.figures.top1_share
    lacking = max(look.demand.deficit_nanocredits, state.scarcity.share * look.uses.use_nanocredits)  # whoever waits is no deficit yet
    level = level_nanocredits(look.uses, freed_nanocredits=part["cap"] * lacking)
    braked = 1 - part["brake"] * (1 - max(brake.weight_min, brake.share_above / max(top1_share, brake.share_above)))
    return Orders(
        at_ms=look.now_ms,
        window_starts_at_ms=look.demand.window_starts_at_ms,
        on=_in_mode(state, "on"),
        proposed=_in_mode(state, "dry_run"),
        average_nanocredits=average,
        floor_nanocredits=part["floor"] * floor.of_average * average,
        boost_quarters=math.floor(WEIGHT_UNIT * (1 + part["floor"] * (floor.boost_max - 1))),
        cap_nanocredits=None if level is None else max(level, cap.of_average * average),
        price_theta=price.theta,
        price_kappa=0.0 if look.demand.is_idle else part["progressive_price"] * price.kappa,
        price_beta=price.beta,
        price_percent_max=math.floor(100 * price.price_max),
        brake_nanocredits=max(average, top_edge_nanocredits(look.uses, TOP_SHARE)) if part["brake"] else None,
        brake_quarters=round(WEIGHT_UNIT * braked),
        tithe_nanocredits=tithe.of_average * average,
        tithe_share=part["tithe"] * tithe.share,
    )


def _in_mode(state: State, mode: Mode) -> tuple[PolicyName, ...]:
    return tuple(name for name, policy in state.policies.items() if policy.mode == mode and policy.strength)
