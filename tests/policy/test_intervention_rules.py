"""Interventions: what begins them, what ends them, and that each moves its figures the right way at no cost of work."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.app.intervening import bounds_of
from proxy.config import Interventions
from proxy.policy.bounds import Bounds
from proxy.policy.interventions import Act, Decision, Look, Mode, State, decide, without_deal
from proxy.policy.orders import ORDERS_VALID_MS, POLICIES, PolicyName, treat
from proxy.policy.scarcity import Demand
from proxy.policy.tallies import Tally
from tests.support.unequal_town import ALL_OFF, Person, Town

QUICK = bounds_of(Interventions.model_validate({"step_s": 10, "sustained_s": 10, "brake": {"share_above": 0.04}}))
ALL_ON: Mapping[PolicyName, Mode] = dict.fromkeys(POLICIES, "on")


def only(policy: PolicyName, mode: Mode = "on") -> Mapping[PolicyName, Mode]:
    return {**ALL_OFF, policy: mode}


def crowded(modes: Mapping[PolicyName, Mode], *, capacity: int = 9_000, commons: int = 0) -> Town:
    """Five people who ask for forty times as much as ninety others, and five without any budget."""
    people = [Person(4_000, 60_000) for _ in range(5)] + [Person(100, 60_000) for _ in range(90)] + [Person(100, 0) for _ in range(5)]
    return Town(people, capacity, QUICK, modes, commons)


def tally_of(*uses: int) -> Tally:
    tally = Tally()
    for use in uses:
        tally.move(use_nanocredits=use, weight=1, sign=1)
    return tally


UNEQUAL = tally_of(*[100] * 90, *[10_000] * 10)
EQUAL = tally_of(*range(1_000, 1_100))
FEW = tally_of(*[500] * 20)


def look(second: float, *, uses: Tally = UNEQUAL, served: float = 0, deficit: float = 0, denied: int = 0, **more: int) -> Look:
    return Look(round(second * 1000), uses, Demand(0, served, deficit, **more), denied)


def watched(looks: list[Look], modes: Mapping[PolicyName, Mode] = ALL_ON, bounds: Bounds = QUICK) -> list[Decision]:
    state, decisions = State(), []
    for one in looks:
        decisions.append(decide(state, one, modes, bounds))
        state = decisions[-1].state
    return decisions


def strengths(decisions: list[Decision], policy: PolicyName = "floor") -> list[int]:
    return [decision.state.policies[policy].strength for decision in decisions]


# --- what begins and ends them --------------------------------------------------------------------------------------------------------


def scarce(ticks: int, *, share: float = 0.5, start: int = 0, uses: Tally = UNEQUAL, denied: int = 0) -> list[Look]:
    """Looks five seconds apart in which this share of the demand is not served."""
    total = 1_000_000
    return [
        look(5 * i, uses=uses, served=total * i * (1 - share), deficit=total * i * share, denied=denied)
        for i in range(start, start + ticks)
    ]


def test_inequality_alone_begins_nothing() -> None:
    """However unequal use is: where all that is asked for is served, nobody has less for it."""
    assert not any(decision.acts for decision in watched(scarce(100, share=0.0, denied=50)))


def test_scarcity_alone_begins_nothing() -> None:
    """Where all have about the same, there is nothing to even out."""
    assert not any(decision.acts for decision in watched(scarce(100, uses=EQUAL)))


def test_scarcity_with_inequality_begins_step_by_step() -> None:
    """After it has lasted, and by one step in each step's time, up to the maximum and no further."""
    found = strengths(watched(scarce(20)))
    assert found[:3] == [0, 0, 0]
    assert found[-1] == QUICK.floor.steps_max
    assert all(b - a in (0, 1) for a, b in itertools.pairwise(found))
    assert [len(list(run)) for value, run in itertools.groupby(found) if 0 < value < 4] == [2, 2, 2]


def test_scarcity_with_many_denied_begins_as_well() -> None:
    """Who was refused has no use, so he is in no tally; he is counted by himself."""
    assert strengths(watched(scarce(20, uses=EQUAL, denied=30)))[-1] == 4


def test_requests_that_wait_are_scarcity_too() -> None:
    """Though nothing has been refused yet, and whatever other pools there are."""
    waiting = [look(5 * i, served=1e6 * i, waiting=3, seats=20, used=10) for i in range(20)]
    assert strengths(watched(waiting))[-1] == 4


def test_what_was_seen_of_other_people_says_nothing_of_these() -> None:
    """Once most people count in another unit all begins anew: neither is their whole day demand of a moment, nor do they have what strength
    others had."""
    calm = [look(5 * i, served=1e6 + 10_000 * i, uses=EQUAL) for i in range(20)]
    others = [replace(look(5 * i, served=2e6 + 10_000 * (i - 20), deficit=2e6), unit="general") for i in range(20, 120)]
    assert not any(decision.acts for decision in watched([*calm, *others]))
    strong = watched(scarce(40))[-1].state
    after = decide(strong, replace(look(200, deficit=1), unit="general"), ALL_ON, QUICK)
    assert {policy.strength for policy in after.state.policies.values()} == {0}
    assert (after.orders.on, after.orders.unit) == ((), "general")
    assert {(act.kind, act.reason) for act in after.acts} == {("stop", "most people count in general by now")}


def test_a_short_shortage_begins_nothing() -> None:
    """One bad tick is no scarcity."""
    quiet = [look(5 * i, served=1_000_000 * i, deficit=300_000 * (i >= 50)) for i in range(100)]
    assert not any(decision.acts for decision in watched(quiet))


def test_those_who_want_nothing_change_nothing() -> None:
    """Voluntary zeros are not in the tally and not among the denied: a thousand of them more make no use unequal."""
    decisions = watched(scarce(30, uses=EQUAL, denied=0))
    assert decisions[-1].state.figures.gini_low < 0.05
    assert not any(decision.acts for decision in decisions)


def test_too_few_users_begin_nothing() -> None:
    """Of a handful of people no index says anything."""
    assert not any(decision.acts for decision in watched(scarce(100, uses=tally_of(1, 1, 1, 1, 10**9))))


def test_it_ends_by_itself() -> None:
    """Once nothing is scarce any more, strength goes back to 0, by steps, and every act says what it was by."""
    total = 20 * 1_000_000
    after = [look(5 * (20 + i), served=total / 2 + 1_000_000 * i, deficit=total / 2) for i in range(100)]
    decisions = watched(scarce(20) + after)
    found = strengths(decisions)
    assert max(found) == 4
    assert found[-1] == 0
    assert [act.kind for d in decisions for act in d.acts if act.policy == "floor"] == (
        ["start", "grow", "grow", "grow", "ease", "ease", "ease", "stop"]
    )
    assert all(act.reason for d in decisions for act in d.acts)


def test_it_ends_where_nobody_asks() -> None:
    """Scarcity is not remembered for longer than it lasts."""
    silent = [replace(scarce(20)[-1], now_ms=5_000 * (20 + i)) for i in range(60)]
    assert strengths(watched(scarce(20) + silent))[-1] == 0


def test_a_new_day_ends_them() -> None:
    """Nobody has used anything yet, so nothing is unequal."""
    fresh = [replace(one, demand=replace(one.demand, window_starts_at_ms=86_400_000), uses=Tally()) for one in scarce(30, start=20)]
    assert strengths(watched(scarce(20) + fresh))[-1] == 0


def tomorrow(last: Look, uses: Tally, *, denied: int = 0) -> Look:
    """The next look, in which a day has begun."""
    return replace(last, now_ms=last.now_ms + 5_000, uses=uses, demand=Demand(86_400_000, 1, 1), denied_people=denied)


@pytest.mark.parametrize("mode", ["on", "dry_run"])
def test_a_new_day_with_a_few_users_ends_them_at_once(mode: Mode) -> None:
    """Whoever is first in the morning is not at the top of anything: all are released, and no line is drawn until enough have come."""
    looks = scarce(20)
    strong = watched(looks, dict.fromkeys(POLICIES, mode))[-1]
    assert strong.orders.on or strong.orders.proposed
    early = tally_of(*[100] * 9, 10_000)
    released = decide(strong.state, tomorrow(looks[-1], early), dict.fromkeys(POLICIES, mode), QUICK)
    assert released.state.scarcity.is_scarce
    assert (released.orders.on, released.orders.proposed) == ((), ())
    assert {(act.kind, act.strength) for act in released.acts} == {("stop", 0)}
    assert all("10 users are too few" in act.reason for act in released.acts)
    assert treat(released.orders, use_nanocredits=10_000, weight=1).applied == ()


def test_few_users_among_many_denied_are_reason_enough() -> None:
    """Ten have all and five hundred nothing: Gini of the ten says nothing, that of the others says enough; only of a top nobody speaks."""
    decisions = watched(scarce(20, uses=tally_of(*[100] * 9, 10_000), denied=500))
    assert strengths(decisions)[-1] == 4
    assert strengths(decisions, "brake")[-1] == 0
    assert "10 users are too few for Gini, 98% of those who asked got nothing" in decisions[-1].state.policies["cap"].reason
    few = watched(scarce(100, uses=tally_of(*[10_000] * 10), denied=9))
    assert not any(decision.acts for decision in few), "nineteen who asked are too few for either"


def test_what_was_seen_before_a_long_stop_counts_no_more() -> None:
    """Where nobody has looked for longer than orders are valid, all of it ends, is told so, and nothing is dealt."""
    looks = scarce(20, start=20_000)
    strong = watched([replace(one, commons_nanocredits=10**9) for one in looks])[-1]
    was = {name for name, policy in strong.state.policies.items() if policy.strength}
    later = replace(looks[-1], now_ms=looks[-1].now_ms + ORDERS_VALID_MS, commons_nanocredits=10**9)
    assert decide(strong.state, later, ALL_ON, QUICK).state.policies["cap"].strength == 4, "not a moment earlier"
    later = replace(later, now_ms=later.now_ms + 2 * 86_400_000, demand=Demand(3 * 86_400_000, 10**9, 0))
    begun_anew = decide(strong.state, later, ALL_ON, QUICK)
    assert begun_anew.orders.on == ()
    assert not begun_anew.state.scarcity.is_scarce
    assert {(act.policy, act.kind, act.strength) for act in begun_anew.acts} == {(name, "stop", 0) for name in was}
    assert all(act.reason.startswith("nobody has looked for 288") for act in begun_anew.acts)


# --- dividends ----------------------------------------------------------------------------------------------------------------------------


def rich(looks: list[Look], commons: int = 1_000_000) -> list[Look]:
    """The same looks, late enough for a dividend to be due."""
    return [replace(one, now_ms=one.now_ms + 10**9, commons_nanocredits=commons) for one in looks]


def deals(decisions: list[Decision]) -> list[Act]:
    return [act for decision in decisions for act in decision.acts if act.kind == "deal"]


def test_nothing_is_dealt_while_a_policy_eases() -> None:
    """A dividend is for those who lack something: once nothing is scarce it waits, though its strength is not yet gone."""
    total = 8 * 1_000_000
    after = [look(5 * (8 + i), served=total / 2 + 1e6 * i, deficit=total / 2) for i in range(100)]
    decisions = watched(rich(scarce(8), commons=0) + rich(after, commons=0))
    easing = next(n for n, decision in enumerate(decisions) if any(act.kind == "ease" for act in decision.acts))
    before, one = decisions[easing].state, replace(rich(after)[easing - 8], commons_nanocredits=1_000_000)
    assert before.policies["dividend"].strength > 0
    assert deals([decide(before, one, ALL_ON, QUICK)]) == []
    assert len(deals(watched(rich(scarce(8))))) == 1


def test_off_and_on_again_deals_no_second_dividend() -> None:
    """Within an interval there is one, whatever happens to the mode; what a dry run would have dealt counts for dry runs alone."""
    looks = rich(scarce(60))
    state, found = State(), []
    modes: list[Mode] = ["dry_run"] * 20 + ["on"] * 15 + ["off"] * 5 + ["on"] * 20
    for one, mode in zip(looks, modes, strict=True):
        decision = decide(state, one, only("dividend", mode), QUICK)
        state = decision.state
        found += [(act.mode, act.kind) for act in decision.acts if act.kind == "deal"]
    assert found == [("dry_run", "deal"), ("on", "deal")]


def test_a_dividend_that_was_refused_is_tried_again_after_a_steps_time() -> None:
    """Not an interval later, and not at each look."""
    looks, state, dealt_s = rich(scarce(30)), State(), []
    for one in looks:
        decision = decide(state, one, only("dividend"), QUICK)
        is_dealt = bool(deals([decision]))
        state = without_deal(decision.state, state) if is_dealt else decision.state
        dealt_s += [one.now_ms // 1000] if is_dealt else []
    assert len(dealt_s) > 5
    assert {b - a for a, b in itertools.pairwise(dealt_s)} == {QUICK.step_s}
    assert state.dealt_at_ms == 0


# --- bounds and modes that change ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "strength", "after", "expected"), [(16, 6, 4, 1), (16, 3, 4, 0), (4, 2, 16, 8), (3, 2, 2, 1)])
def test_other_steps_strengthen_nothing(before: int, strength: int, after: int, expected: int) -> None:
    """The part of its full strength stays, rounded down, and the change is an act."""
    first, second = (replace(QUICK, cap=replace(QUICK.cap, steps_max=most)) for most in (before, after))
    looks = scarce(40)
    decisions = watched(looks, only("cap"), first)
    place = strengths(decisions, "cap").index(strength)
    changed = decide(decisions[place].state, looks[place + 1], only("cap"), second)
    (act,) = changed.acts
    assert (act.kind, act.strength_before, act.strength) == ("rescale" if expected else "stop", strength, expected)
    assert act.reason == f"its steps became {after} instead of {before}"
    assert changed.state.policies["cap"].strength == expected
    again = decide(changed.state, replace(looks[place + 1], now_ms=looks[place + 1].now_ms + 1), only("cap"), second)
    assert again.acts == ()


@pytest.mark.parametrize(("used", "waiting", "is_raised"), [(6, 0, False), (9, 0, False), (10, 0, True), (6, 1, True)])
def test_no_price_is_raised_while_a_seat_is_idle(used: int, waiting: int, is_raised: bool) -> None:
    """Whoever would take a seat that nobody else wants pays what it costs."""
    strong = watched(scarce(20))[-1]
    one = scarce(21)[-1]
    one = replace(one, demand=replace(one.demand, seats=10, used=used, waiting=waiting))
    assert (decide(strong.state, one, ALL_ON, QUICK).orders.price_kappa > 0) == is_raised


def test_the_brake_is_never_below_its_least_weight() -> None:
    """Weights are lowered by whole quarters; where the bound leaves none of them, nobody counts less and nobody is told so."""
    for weight_min, quarters in ((0.25, 1), (0.5, 2), (0.7, 3), (0.75, 3), (0.8, 4)):
        bounds = replace(QUICK, brake=replace(QUICK.brake, weight_min=weight_min, share_above=0.001))
        orders = watched(scarce(20), only("brake"), bounds)[-1].orders
        assert (orders.on, orders.brake_quarters) == (("brake",), quarters)
        assert treat(orders, use_nanocredits=10**9, weight=1).applied == (("brake",) if quarters < 4 else ())


def test_a_mode_that_changes_begins_from_nothing() -> None:
    """What was a dry run does not take effect at full strength at once."""
    first = watched(scarce(20), only("cap", "dry_run"))[-1]
    switched = decide(first.state, scarce(21)[-1], only("cap"), QUICK)
    assert first.orders.proposed == ("cap",)
    assert [(act.kind, act.mode, act.strength) for act in switched.acts] == [("stop", "dry_run", 0), ("start", "on", 1)]
    off = decide(switched.state, scarce(22)[-1], ALL_OFF, QUICK)
    assert (off.orders.on, off.orders.proposed) == ((), ())


@pytest.mark.parametrize("seed", range(5))
def test_noise_in_the_band_makes_nothing_swing(seed: int) -> None:
    """Figures that jump about between the two bounds change at most what they had changed before."""
    rng = random.Random(seed)
    looks, served, deficit = scarce(8), 4_000_000.0, 4_000_000.0
    for i in range(8, 400):
        share = rng.uniform(QUICK.scarcity_release, QUICK.scarcity_min)
        served, deficit = served + 1e6 * (1 - share), deficit + 1e6 * share
        heavy = rng.randint(960, 1280)  # a Gini coefficient from 0.41 to 0.49
        looks.append(look(5 * i, uses=tally_of(*[100] * 90, *[heavy] * 10), served=served, deficit=deficit))
    decisions = watched(looks)
    assert all(QUICK.gini_release < d.state.figures.gini_low < QUICK.gini_above for d in decisions[8:])
    assert set(strengths(decisions)[7:]) == {3}


@pytest.mark.parametrize("seed", range(10))
def test_at_most_one_step_in_a_steps_time(seed: int) -> None:
    """Whatever is seen: no strength moves by more than one, nor twice within `step_s`, nor beyond its bounds."""
    rng = random.Random(seed)
    looks, served, deficit, at_s = [], 0.0, 0.0, 0.0
    for _ in range(300):
        at_s += rng.choice([0, 1, 5, 30])
        served, deficit = served + rng.choice([0, 1e6]), deficit + rng.choice([0, 0, 2e6])
        looks.append(look(at_s, uses=rng.choice([EQUAL, UNEQUAL, FEW]), served=served, deficit=deficit, denied=rng.choice([0, 40])))
    decisions = watched(looks)
    for policy in POLICIES:
        found = strengths(decisions, policy)
        assert all(0 <= s <= 4 for s in found)
        moved_s = [one.now_ms / 1000 for one, (a, b) in zip(looks[1:], itertools.pairwise(found), strict=True) if a != b]
        assert all(abs(a - b) <= 1 for a, b in itertools.pairwise(found))
        assert all(b - a >= QUICK.step_s for a, b in itertools.pairwise(moved_s))


@given(st.integers(0, 2**50), st.integers(0, 2**50), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_same_looks_make_the_same_decisions(served: int, deficit: int, denied: int, waiting: int) -> None:
    """Everything follows from the arguments, and nothing is out of bounds."""
    looks = [look(5 * i, served=served * i, deficit=deficit * i, denied=denied, waiting=waiting, seats=3, used=3) for i in range(8)]
    assert watched(looks) == watched(looks)
    orders = watched(looks)[-1].orders
    assert 1 <= orders.brake_quarters <= 4 <= orders.boost_quarters <= 16
    assert orders.floor_nanocredits <= orders.average_nanocredits <= (orders.cap_nanocredits or orders.average_nanocredits)


# --- what each does --------------------------------------------------------------------------------------------------------------------


def ran(modes: Mapping[PolicyName, Mode], *, ticks: int = 40, capacity: int = 9_000, commons: int = 0) -> Town:
    town = crowded(modes, capacity=capacity, commons=commons)
    credits = town.credits
    town.run(ticks)
    assert town.credits == credits, "credits are moved, never made or lost"
    assert town.idle == 0, "nothing is withheld that somebody wants and can pay"
    return town


@pytest.mark.parametrize("policy", ["floor", "cap", "brake", "progressive_price"])
def test_it_makes_work_more_equal_and_serves_as_much(policy: PolicyName) -> None:
    """Against the same town without it: less unequal, nobody's share of his demand smaller than the least before, no less work."""
    plain, town = ran(ALL_OFF), ran(only(policy))
    assert any(act.kind == "start" for act in town.acts)
    assert town.gini_of_work() < plain.gini_of_work() - 0.02
    assert town.least_served() >= plain.least_served()
    assert town.work >= 0.99 * plain.work


def test_a_dry_run_changes_nothing() -> None:
    """It shows that it would, and every figure is the one of a town without it."""
    plain, town = ran(ALL_OFF, commons=10**6), ran(dict.fromkeys(POLICIES, "dry_run"), commons=10**6)
    assert {act.policy for act in town.acts} == set(POLICIES)
    assert town.orders is not None
    assert set(town.orders.proposed) == set(POLICIES)
    assert [(p.use, p.work, p.left) for p in town.people] == [(p.use, p.work, p.left) for p in plain.people]


def test_the_floor_tops_up_who_was_denied() -> None:
    """From the commons, once, up to the floor; without it they get nothing all day."""
    plain, town = ran(ALL_OFF, commons=10**6), ran(only("floor"), commons=10**6)
    assert [p.work for p in plain.people[-5:]] == [0] * 5
    assert all(p.was_topped_up and p.work > 0 for p in town.people[-5:])
    assert not any(p.was_topped_up for p in town.people[:-5])


def test_a_tithe_fills_the_commons_and_a_dividend_empties_it() -> None:
    """Those far above the average give, by and by; what is given comes to everyone."""
    town = ran(only("tithe"))
    assert 0 < town.commons <= 0.1 * sum(p.use for p in town.people[:5])
    assert all(p.left + p.use == 60_000 for p in town.people[5:95])
    dealt = ran({**ALL_OFF, "tithe": "on", "dividend": "on"}, commons=10**6)
    assert all(p.work > 0 for p in dealt.people[-5:])
    assert sum(act.kind == "deal" for act in dealt.acts) == 1


def test_nothing_is_withheld_while_there_is_enough() -> None:
    """A cap and a raised price that were in force end with the scarcity, and the heaviest are served in full meanwhile."""
    town = crowded({**ALL_OFF, "cap": "on"})
    town.run(20)
    town.capacity = 10**6
    before = [p.work for p in town.people[:5]]
    town.tick()
    assert [p.work - b for p, b in zip(town.people[:5], before, strict=True)] == [
        min(4_000, p.left + p.work - b) for p, b in zip(town.people[:5], before, strict=True)
    ]


def test_all_together_stay_within_their_bounds_and_end() -> None:
    """Every policy at once: more equal than without, as much work, and all at rest again once demand is over."""
    plain, town = ran(ALL_OFF, commons=10**6), ran(ALL_ON, commons=10**6)
    assert town.gini_of_work() < plain.gini_of_work() - 0.05
    assert town.work >= 0.99 * plain.work
    for person in town.people:
        person.demand = 0
    town.run(60)
    assert all(policy.strength == 0 for policy in town.state.policies.values())
