"""When policies against inequality begin, grow, ease and end: one step at a time, within bounds, and never without scarcity.

A policy grows only while something is scarce and, together with it, use is unequal among those who used something or too many of those who
asked got nothing; it eases where scarcity is over or both figures are low again, and stays as it is in the band between. Strength moves by
one step in `step_s`, from 0 to `steps_max`, so that what began also ends by itself; all of it ends at once where too few have used anything
to say that use is unequal, and where nobody has looked for so long that orders count no more. Everything follows from the arguments: same
looks, same acts. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from proxy.domain import CREDITS
from proxy.policy.bounds import Bounds, Steps
from proxy.policy.orders import ORDERS_VALID_MS, POLICIES, WEIGHT_UNIT, Orders, PolicyName
from proxy.policy.reach import Crowd, Reach, reaches
from proxy.policy.scarcity import Demand, Scarcity, watch
from proxy.policy.tallies import Tally
from proxy.policy.water_filling import average_nanocredits, level_nanocredits, top_edge_nanocredits, users

Mode = Literal["off", "dry_run", "on"]
ActKind = Literal["start", "grow", "ease", "stop", "rescale", "deal", "deal_refused"]
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
    entitled_people: int = 0
    utilisation: float | None = None
    unit: str = CREDITS
    """What everybody counts in that was looked at."""


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
    asked: int = 0
    """The users, and those who asked and got nothing."""
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
    steps_max: int = 0
    """What its strength is a part of; 0: not noted."""


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
    proposed_at_ms: int = 0
    """When a dry run would have dealt one last."""
    refused_at_ms: int = 0
    """When one could not be dealt last."""
    reaches: Mapping[PolicyName, Reach] = field(default_factory=dict)
    """How far the orders reach, of each policy that is in force or proposed."""
    unit: str = CREDITS
    """What those count in whom all this is about."""


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
    """What is dealt, or could not be."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a look."""

    state: State
    orders: Orders
    acts: tuple[Act, ...]


def decide(before: State, look: Look, modes: Mapping[PolicyName, Mode], bounds: Bounds) -> Decision:
    """The next state, the orders that are in force until the next look, and what has changed."""
    look = replace(look, uses=look.uses.sound())
    unseen_ms = look.now_ms - before.scarcity.looked_at_ms
    has_looked = before.scarcity.looked_at_ms > 0
    is_stale = has_looked and abs(unseen_ms) > ORDERS_VALID_MS  # what was seen then says nothing of now
    are_others = has_looked and look.unit != before.unit  # nor what was seen of other people
    scarcity = watch(UNSEEN if is_stale or are_others else before.scarcity, look.demand, now_ms=look.now_ms, bounds=bounds)
    figures = _figures(look, scarcity)
    pressure = _pressure(scarcity, figures, bounds)
    policies: dict[PolicyName, PolicyState] = {}
    acts: list[Act] = []
    for name in POLICIES:
        was = before.policies.get(name, AT_REST)
        why_anew = f"its mode became {modes[name]}" if was.mode != modes[name] else ""
        if are_others:
            why_anew = f"most people count in {look.unit} by now"
        if is_stale:
            why_anew = f"nobody has looked for {abs(unseen_ms) // 60_000} minutes"
        if why_anew:
            if was.strength:
                acts.append(Act(name, "stop", was.mode, was.strength, 0, why_anew, was.figures, figures))
            was = PolicyState(mode=modes[name])
        own_pressure = _brake_pressure(pressure, figures, bounds) if name == "brake" else pressure
        policies[name], act = _step(name, was, own_pressure, figures, look.now_ms, bounds)
        if act is not None:
            acts.append(act)
    state = State(
        scarcity,
        policies,
        figures,
        dealt_at_ms=min(before.dealt_at_ms, look.now_ms),  # a clock may step back
        proposed_at_ms=min(before.proposed_at_ms, look.now_ms),
        refused_at_ms=min(before.refused_at_ms, look.now_ms),
        unit=look.unit,
    )
    dealt = None if pressure.way < 0 else _deal(state, look, bounds)
    if dealt is not None:
        is_dry = dealt.mode == "dry_run"
        state = replace(state, proposed_at_ms=look.now_ms) if is_dry else replace(state, dealt_at_ms=look.now_ms)
        acts.append(dealt)
    orders = _draw(state, look, bounds)
    crowd = Crowd(look.uses, look.denied_people, look.entitled_people)
    reached = reaches(orders, crowd, dividend_interval_s=bounds.dividend.interval_s)
    return Decision(replace(state, reaches=reached), orders, tuple(acts))


def without_deal(state: State, before: State) -> State:
    """What a decision leaves where the dividend that it dealt was refused: it is tried again once a step's time is over."""
    return replace(state, dealt_at_ms=min(before.dealt_at_ms, state.dealt_at_ms), refused_at_ms=state.dealt_at_ms)


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
        asked=asked,
        average_nanocredits=average_nanocredits(look.uses),
        utilisation=look.utilisation,
    )


# --- which way, and how far ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pressure:
    """Whether a policy should grow (1), stay (0) or ease (-1), and why."""

    way: Literal[1, 0, -1]
    reason: str
    is_sudden: bool = False
    """It ends at once, not by steps."""


def _pressure(scarcity: Scarcity, figures: Figures, bounds: Bounds) -> _Pressure:
    """Gini is judged where enough have used something, the share of the denied where enough have asked."""
    has_users, has_asked = figures.users >= bounds.people_min, figures.asked >= bounds.people_min
    are_denied, are_served = figures.denied_share > bounds.denied_above, figures.denied_share < bounds.denied_release
    if not has_users and (not has_asked or are_served):
        return _Pressure(-1, f"{figures.users} users are too few to say anything of equality", is_sudden=True)
    if not scarcity.is_scarce:
        return _Pressure(-1, f"nothing is scarce: {figures.scarcity:.0%} of the demand waits or is refused")
    spread = f"Gini is {figures.gini_low:.2f}" if has_users else f"{figures.users} users are too few for Gini"
    said = f"{figures.scarcity:.0%} of the demand waits or is refused, {spread}, {figures.denied_share:.0%} of those who asked got nothing"
    if (has_users and figures.gini_low > bounds.gini_above) or are_denied:
        return _Pressure(1, said)
    if are_served and figures.gini_low < bounds.gini_release:
        return _Pressure(-1, said)
    return _Pressure(0, said)


def _brake_pressure(pressure: _Pressure, figures: Figures, bounds: Bounds) -> _Pressure:
    """The brake is for the top alone, so it also asks how much the top has."""
    if pressure.way < 0:
        return pressure
    if figures.users < bounds.people_min:
        return _Pressure(-1, f"{figures.users} users are too few to speak of a top", is_sudden=True)
    said = f"{pressure.reason}; the topmost 1% of the users have {figures.top1_share:.0%}"
    if figures.top1_share > bounds.brake.share_above:
        return _Pressure(pressure.way, said)
    return _Pressure(-1 if figures.top1_share < BRAKE_RELEASE * bounds.brake.share_above else 0, said)


def _step(
    name: PolicyName, was: PolicyState, pressure: _Pressure, figures: Figures, now_ms: int, bounds: Bounds
) -> tuple[PolicyState, Act | None]:
    most = _of(name, bounds).steps_max
    stepped_at_ms = min(was.stepped_at_ms, now_ms)  # a clock may step back
    strength, reason, is_rescaled = min(was.strength, most), pressure.reason, False
    if was.mode == "off" or (pressure.is_sudden and was.strength):
        strength = 0
    elif was.strength and was.steps_max and was.steps_max != most:
        strength, is_rescaled = was.strength * most // was.steps_max, True  # rounded down: a change of its steps strengthens nothing
        reason = f"its steps became {most} instead of {was.steps_max}"
    elif now_ms - stepped_at_ms >= bounds.step_s * 1000:
        strength = max(0, min(strength + pressure.way, most))
    if strength == was.strength and not is_rescaled:
        return replace(was, stepped_at_ms=stepped_at_ms, steps_max=most), None
    kind: ActKind = ("grow" if was.strength else "start") if strength > was.strength else ("ease" if strength else "stop")
    if is_rescaled and strength:
        kind = "rescale"
    since_ms = (was.since_ms if was.strength else now_ms) if strength else None
    before = was.figures if was.strength else figures
    act = Act(name, kind, was.mode, was.strength, strength, reason, before, figures)
    return PolicyState(was.mode, strength, now_ms, since_ms, reason, figures, most), act


def _of(name: PolicyName, bounds: Bounds) -> Steps:
    own: Steps = getattr(bounds, name)
    return own


def _deal(state: State, look: Look, bounds: Bounds) -> Act | None:
    """A dividend, where one is due. What a dry run would have dealt was not dealt, so it delays no other."""
    policy, section = state.policies["dividend"], bounds.dividend
    amount = _dividend_nanocredits(policy, look, bounds)
    last_ms = state.dealt_at_ms if policy.mode == "on" else max(state.dealt_at_ms, state.proposed_at_ms)
    is_due = look.now_ms - last_ms >= section.interval_s * 1000 and look.now_ms - state.refused_at_ms >= bounds.step_s * 1000
    if not is_due or amount <= 0:
        return None
    return Act("dividend", "deal", policy.mode, policy.strength, policy.strength, policy.reason, policy.figures, state.figures, amount)


def _dividend_nanocredits(policy: PolicyState, look: Look, bounds: Bounds) -> int:
    """The strength's part of what the commons has beyond its reserve."""
    section = bounds.dividend
    return max(0, (look.commons_nanocredits - section.reserve_credits) * policy.strength // section.steps_max)


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
        unit=look.unit,
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
        brake_quarters=math.ceil(WEIGHT_UNIT * braked - 1e-9),  # never below its bound
        tithe_nanocredits=tithe.of_average * average,
        tithe_share=part["tithe"] * tithe.share,
        dividend_nanocredits=_dividend_nanocredits(state.policies["dividend"], look, bounds),
    )


def _in_mode(state: State, mode: Mode) -> tuple[PolicyName, ...]:
    return tuple(name for name, policy in state.policies.items() if policy.mode == mode and policy.strength)
