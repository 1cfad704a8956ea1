"""The indices of equality against another library's and against the people themselves; what of groups and of oneself may be told."""

from __future__ import annotations

import itertools
import math
import secrets
import sys
from collections.abc import Callable, Mapping

import inequalipy
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from proxy.policy.equality import GROUP_MIN, Group, Indices, WindowState, indices, measure, standing
from proxy.policy.lorenz import GINI_WIDTH_MAX, Interval
from proxy.policy.tallies import Population, Tally
from tests.support.known_use import group_of

PEOPLE = 100_000
Numbers = NDArray[np.int64]
Sample = Callable[[np.random.Generator], tuple[Numbers, Numbers]]
"""Use in nanocredits, and weights."""


def _alike(use: NDArray[np.float64]) -> tuple[Numbers, Numbers]:
    return use.astype(np.int64), np.ones(len(use), dtype=np.int64)


def _many_zeros(random: np.random.Generator) -> tuple[Numbers, Numbers]:
    return _alike(np.where(random.random(PEOPLE) < 0.3, 0.0, random.lognormal(20, 1.5, PEOPLE)))


def _weighted(random: np.random.Generator) -> tuple[Numbers, Numbers]:
    weights = random.integers(1, 50, PEOPLE)
    return (random.lognormal(18, 1, PEOPLE) * weights).astype(np.int64), weights


SAMPLES: Mapping[str, Sample] = {
    "lognormal": lambda random: _alike(random.lognormal(20, 2, PEOPLE)),
    "pareto": lambda random: _alike(1e9 * (1 + random.pareto(1.2, PEOPLE))),
    "many zeros": _many_zeros,
    "near-equal": lambda random: _alike(1e9 * (1 + 0.005 * random.standard_normal(PEOPLE))),
    "equal": lambda random: _alike(np.full(PEOPLE, 123_456_789.0)),
    "one has all": lambda random: _alike(np.where(np.arange(PEOPLE) == 7, 1e12, 0.0)),
    "weighted": _weighted,
}
WIDTHS = {"near-equal": 0.003, "equal": 0.0001, "lognormal": 0.0005, "pareto": 0.001, "many zeros": 0.0005, "weighted": 0.001}
"""How narrow the interval of each is at least; none may reach GINI_WIDTH_MAX."""


def measured(group: Group) -> Indices:
    found = indices(group)
    assert found is not None
    return found


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> tuple[str, Numbers, Numbers]:
    """A new sample in every run; its seed is printed where a test fails."""
    seed = secrets.randbits(32)
    sys.stderr.write(f"{request.param}: seed {seed}\n")
    return (request.param, *SAMPLES[request.param](np.random.default_rng(seed)))


def test_indices_of_a_hundred_thousand_people_are_what_others_compute(sample: tuple[str, Numbers, Numbers]) -> None:
    """Gini lies in its interval, as narrow as stated, and each point of Lorenz's curve in its own; Atkinson, Jain and Theil are exact."""
    name, use, weights = sample
    found = measured(group_of(use.tolist(), weights.tolist()))
    x = use / weights

    gini = float(inequalipy.gini(x, weights=weights))
    assert found.gini.low <= gini <= found.gini.high
    assert found.gini.high - found.gini.low <= min(GINI_WIDTH_MAX, WIDTHS.get(name, 1.0))

    average = use.sum() / weights.sum()
    if name != "weighted":  # its Atkinson takes no weights
        assert found.atkinson == pytest.approx(inequalipy.atkinson.index(x.tolist()), abs=1e-9)
    assert found.atkinson == pytest.approx(1 - ((weights * np.sqrt(x)).sum() / weights.sum()) ** 2 / average, abs=1e-9)
    assert found.jain == pytest.approx(average**2 / ((weights * x**2).sum() / weights.sum()), abs=1e-9)
    assert found.theil == pytest.approx(direct_theil(use, weights), abs=1e-9)

    order = np.argsort(x, kind="stable")
    population = np.concatenate(([0.0], np.cumsum(weights[order]) / weights.sum()))
    share = np.concatenate(([0.0], np.cumsum(use[order], dtype=float) / use.sum()))

    def lorenz(at: float) -> float:
        return float(np.interp(at, population, share))

    for at, interval in found.lorenz:
        assert interval.low - 1e-12 <= lorenz(at) <= interval.high + 1e-12, at
    for interval, true in (
        (found.top1, 1 - lorenz(0.99)),
        (found.top10, 1 - lorenz(0.9)),
        (found.bottom50, lorenz(0.5)),
        (found.bottom40, lorenz(0.4)),
    ):
        assert interval.low - 1e-12 <= true <= interval.high + 1e-12
        assert interval.high - interval.low <= GINI_WIDTH_MAX


def direct_theil(use: Numbers, weights: Numbers) -> float:
    """By its definition, person by person."""
    average = use.sum() / weights.sum()
    some = use > 0
    return float((use[some] / use.sum() * np.log(use[some] / weights[some] / average)).sum())


@given(st.lists(st.integers(1, 10**7), min_size=GROUP_MIN, max_size=60), st.lists(st.integers(10**9, 10**15), max_size=5))
@example([1000] * GROUP_MIN, [816873705408461, 622790902813781, 873552957957730])  # of one octave: rounding leaves 1e+14 of their squares
def test_whoever_has_gone_leaves_nothing_behind(uses: list[int], gone: list[int]) -> None:
    """However much larger their use was: every figure of those who are left is what it would be without them, and so is what is hidden."""
    tally = Tally()
    for use in gone:
        tally.move(use_nanocredits=use, weight=1, sign=1)
    for use in uses:
        tally.move(use_nanocredits=use, weight=1, sign=1)
    for use in gone:
        tally.move(use_nanocredits=use, weight=1, sign=-1)
    left, fresh = Group(Population(len(uses), len(uses)), tally.sound()), group_of(uses)
    after, anew = measured(left), measured(fresh)
    true = float(inequalipy.gini(np.array(uses, dtype=float)))
    assert after.gini.low <= true <= after.gini.high
    for name in ("jain", "theil", "atkinson"):
        assert getattr(after, name) == pytest.approx(getattr(anew, name), rel=1e-9, abs=1e-9)
    assert shown({"all": left}) == shown({"all": fresh})


def test_theil_within_and_between_groups_add_up_to_theil(sample: tuple[str, Numbers, Numbers]) -> None:
    """To 1e-9, whatever the groups; suppressed ones count as one."""
    _, use, weights = sample
    parts = [(use[a:b], weights[a:b]) for a, b in itertools.pairwise((0, 3, 5_000, 20_000, len(use)))]
    groups = {str(n): group_of(u.tolist(), w.tolist()) for n, (u, w) in enumerate(parts)}
    found = measure(state_of(group_of(use.tolist(), weights.tolist()), groups))
    assert found.indices is not None
    assert found.theil_within + found.theil_between == pytest.approx(found.indices.theil, abs=1e-9)
    apart = {int(group.name) for group in found.groups}
    together = [np.concatenate([part[of] for n, part in enumerate(parts) if n not in apart]) for of in (0, 1)]
    told = [*(parts[n] for n in apart), (together[0], together[1])]
    within = sum(u.sum() / use.sum() * direct_theil(u, w) for u, w in told if u.sum())
    assert found.theil_within == pytest.approx(within, abs=1e-9)


def state_of(total: Group, groups: Mapping[str, Group] | None = None, *, denied_people: int = 0, **rest: object) -> WindowState:
    return WindowState("day", 0, 86_400_000, total, groups or {}, denied_people, **rest)


PERSON = st.tuples(st.integers(0, 2**40), st.integers(1, 100))


@given(st.lists(PERSON, min_size=1, max_size=30).filter(lambda people: any(use for use, _ in people)), st.sampled_from([2, 7, 1000]))
def test_another_unit_changes_no_index(people: list[tuple[int, int]], factor: int) -> None:
    """Exact indices stay to 1e-9; the intervals of both units hold the same true figure, so they overlap."""
    use, weights = [use for use, _ in people], [weight for _, weight in people]
    before = measured(group_of(use, weights))
    after = measured(group_of([nanocredits * factor for nanocredits in use], weights))
    for name in ("jain", "theil", "atkinson"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-9)
    for name in ("gini", "top1", "top10", "bottom50", "bottom40"):
        assert overlap(getattr(before, name), getattr(after, name)), name
    doubled = measured(group_of([nanocredits * 2 for nanocredits in use], weights))
    assert doubled.gini.low == pytest.approx(before.gini.low, abs=1e-9)
    assert doubled.gini.high == pytest.approx(before.gini.high, abs=1e-9)


def overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high + 1e-12 and other.low <= one.high + 1e-12


@given(st.lists(PERSON, min_size=1, max_size=30).filter(lambda people: any(use for use, _ in people)), st.integers(0, 30))
def test_time_alone_changes_no_index(people: list[tuple[int, int]], half_lives: int) -> None:
    """Where nobody uses anything all use ages alike, and how equal it is stays as it was."""
    group = group_of([use for use, _ in people], [weight for _, weight in people])
    before, after = measured(group), measured(Group(group.population, group.tally.aged(half_lives)))
    for name in ("jain", "theil", "atkinson"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-9)
    assert after.gini.low == pytest.approx(before.gini.low, abs=1e-9)
    assert after.gini.high == pytest.approx(before.gini.high, abs=1e-9)


@given(st.lists(PERSON, min_size=1, max_size=12).filter(lambda people: any(use for use, _ in people)))
def test_an_interval_holds_the_figure_however_few_they_are(people: list[tuple[int, int]]) -> None:
    """Every small population: Gini by its definition, over all pairs."""
    found = measured(group_of([use for use, _ in people], [weight for _, weight in people]))
    weight = sum(weight for _, weight in people)
    average = sum(use for use, _ in people) / weight
    pairs = sum(e * f * abs(a / e - b / f) for a, e in people for b, f in people)
    assert found.gini.low <= pairs / (2 * weight**2 * average) <= found.gini.high
    assert found.gini.high - found.gini.low <= GINI_WIDTH_MAX + 1e-11
    assert found.jain <= 1
    assert min(found.theil, found.atkinson) >= 0


def test_equal_use_is_told_as_equal() -> None:
    """By weight: whoever weighs thrice has used thrice as much."""
    found = measured(group_of([10, 20, 30] * 10, [1, 2, 3] * 10))
    assert found.gini.high < 1e-4
    assert (found.jain, found.theil, found.atkinson) == (pytest.approx(1), pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert found.p90_of_p10 is not None
    assert found.p90_of_p10.low <= 1 <= found.p90_of_p10.high


def test_where_nobody_has_used_anything_there_is_no_index() -> None:
    """Everyone is counted, and nothing is divided."""
    found = measure(state_of(group_of([0] * 30), denied_people=4))
    assert (found.people, found.active, found.idle, found.denied) == (30, 0, 26, 4)
    assert found.indices is None
    assert (found.theil_within, found.theil_between, found.served_nanocredits) == (0, 0, 0)


def test_people_without_use_are_told_apart_by_whether_they_were_denied() -> None:
    """Active, idle and denied are everybody; demand is what was served and what was not."""
    state = state_of(group_of([0] * 5 + [7] * 20), denied_people=2, deficit_nanocredits={"queue_timeout": 30, "insufficient_quota": 5})
    found = measure(state)
    assert (found.people, found.active, found.idle, found.denied) == (25, 20, 3, 2)
    assert (found.served_nanocredits, found.deficit_nanocredits, found.demand_nanocredits) == (140, 35, 175)


def test_a_population_told_too_small_never_counts_anybody_twice() -> None:
    """Use may be told before the account that used it is: then all who have used something are entitled."""
    group = group_of([10] * 30)
    found = measure(state_of(Group(Population(10, 10), group.tally), denied_people=3))
    assert (found.people, found.active, found.idle, found.denied) == (30, 30, 0, 0)
    assert found.indices is not None
    assert found.indices.gini.high < 1e-4


# --- what may be told ------------------------------------------------------------------------------------------------------------


def shown(groups: Mapping[str, Group], *, group_min: int = GROUP_MIN) -> tuple[list[str], int]:
    total = Group(sum((group.population for group in groups.values()), Population()), Tally())
    for group in groups.values():
        total.tally.add(group.tally)
    found = measure(state_of(total, groups), group_min=group_min)
    return sorted(group.name for group in found.groups), found.groups_suppressed


def test_groups_of_few_people_are_suppressed() -> None:
    """Twenty people are enough, nineteen are not, idle ones counted."""
    groups = {"a": group_of([5] * 20), "b": group_of([0] * 10 + [5] * 10), "c": group_of([5] * 19), "d": group_of([5] * 3)}
    assert shown(groups) == (["a", "b"], 2)
    assert shown(groups, group_min=3) == (["a", "b", "c", "d"], 0)


def test_a_group_that_one_person_dominates_is_suppressed() -> None:
    """More than half of the use is one person's, wherever it stands among the buckets; half is not more than half."""
    even = group_of([3] * 40)
    small = group_of([5] * 5)
    dominated = group_of([1000] + [10] * 60)
    half = group_of([1000] + [50] * 20)
    heavy = group_of([60_000, *[500] * 100], [1000, *[1] * 100])  # its use per weight is far below the others'
    assert shown({"even": even, "small": small, "dominated": dominated, "half": half}) == (["even", "half"], 2)
    assert shown({"even": even, "small": small, "heavy": heavy}) == (["even"], 2)


def test_a_group_of_people_who_all_weigh_much_is_not_taken_for_dominated() -> None:
    """All use is in one bucket, and the sums rule out that it is one person's."""
    assert shown({"paid": group_of([5_000] * 25, [100] * 25), "free": group_of([5] * 25)}) == (["free", "paid"], 0)


def test_what_cannot_be_ruled_out_is_suppressed() -> None:
    """Two of one bucket have all the use: by the buckets, one of them may have more than half."""
    assert shown({"a": group_of([1000, 1001] + [1] * 30, [7, 7] + [1] * 30), "b": group_of([5] * 5), "c": group_of([5] * 30)}) == (["c"], 2)


def test_one_suppressed_group_takes_the_next_smallest_along() -> None:
    """Else it would be what the others leave of the whole."""
    groups = {"a": group_of([5] * 100), "b": group_of([5] * 40), "c": group_of([5] * 3)}
    assert shown(groups) == (["a"], 2)
    assert shown({"a": groups["a"], "c": groups["c"]}) == ([], 2)
    assert shown({"c": groups["c"]}) == ([], 1)


def test_the_suppressed_are_not_what_the_others_leave_of_the_whole() -> None:
    """Of two people together as little is told as of a group of two, also by leaving them out."""
    groups = {"a": group_of([5] * 100), "b": group_of([5] * 40), "c": group_of([5]), "d": group_of([7])}
    assert shown(groups) == (["a"], 3)
    assert shown(groups | {"e": group_of([5] * 18)}) == (["a", "b"], 3)


def test_no_index_of_all_groups_tells_suppressed_ones_apart() -> None:
    """Two towns differ only in which of two suppressed groups used what: Theil's parts, which are exact, are the same in both."""
    told = []
    for uses, others in (([50], [5] * 30), ([5], [50] + [5] * 29)):
        groups = {"a": group_of([5] * 50), "one": group_of(uses), "rest": group_of(others)}
        total = Group(Population(81, 81), Tally())
        for group in groups.values():
            total.tally.add(group.tally)
        found = measure(state_of(total, groups))
        assert [group.name for group in found.groups] == ["a"]
        told.append((found.theil_within, found.theil_between))
    assert told[0] == pytest.approx(told[1], abs=1e-12)


def test_the_largest_groups_are_shown_and_the_others_counted() -> None:
    """An answer stays bounded however many groups there are."""
    groups = {f"g{n:03}": group_of([n + 1] * 20) for n in range(130)}
    total = Group(Population(2600, 2600), Tally())
    for group in groups.values():
        total.tally.add(group.tally)
    found = measure(state_of(total, groups))
    assert [group.name for group in found.groups] == [f"g{n:03}" for n in range(129, 29, -1)]
    assert (found.groups_left_out, found.groups_suppressed) == (30, 0)
    assert found.groups[0].people_share == pytest.approx(1 / 130)
    assert found.groups[0].use_share == pytest.approx(130 / (130 * 131 / 2))


# --- one's own place ---------------------------------------------------------------------------------------------------------------


@given(st.lists(PERSON, min_size=GROUP_MIN, max_size=60).filter(lambda people: any(use for use, _ in people)), st.data())
def test_a_person_stands_where_it_is_told(people: list[tuple[int, int]], data: st.DataObject) -> None:
    """Its true rank is in the part of the people that it is told, in whole tenths; its share of the average is right to one place."""
    group = group_of([use for use, _ in people], [weight for _, weight in people])
    use, weight = data.draw(st.sampled_from(people))
    place = standing(group, use_nanocredits=use, weight=weight)
    if place is None:
        most, active = max(use for use, _ in people), sum(use > 0 for use, _ in people)
        assume(active >= GROUP_MIN and most < sum(use for use, _ in people) / 4)  # else it may be that too much would be told
    assert place is not None
    low, high = place.percentile
    assert low % 10 == high % 10 == 0
    assert 0 <= low < high <= 100
    below = sum(other / e < use / weight for other, e in people)
    not_above = sum(other / e <= use / weight for other, e in people)
    assert low <= 100 * not_above / len(people)
    assert 100 * below / len(people) <= high
    average = sum(use for use, _ in people) / sum(weight for _, weight in people)
    assert math.isclose(place.of_average, min(10.0, use / weight / average), abs_tol=0.0501)


def test_nobody_is_told_its_place_among_too_few() -> None:
    """Nor where nothing was used: there is no average to be a share of; nor where its own use would tell another's, because few have any
    or one may have more than half; and how many times the average it has it is not told beyond ten."""
    assert standing(group_of([5] * 19), use_nanocredits=5, weight=1) is None
    assert standing(group_of([0] * 40 + [5] * 19), use_nanocredits=5, weight=1) is None
    assert standing(group_of([1000] + [10] * 60), use_nanocredits=10, weight=1) is None
    largest = standing(group_of([400, 400] + [1] * 500), use_nanocredits=400, weight=1)
    assert largest is not None
    assert largest.of_average == 10
    assert standing(group_of([0] * 40), use_nanocredits=0, weight=1) is None
    idle = standing(group_of([0] * 20 + [5] * 20), use_nanocredits=0, weight=1)
    assert idle is not None
    assert (idle.of_average, idle.percentile) == (0, (0, 50))
    busiest = standing(group_of([0] * 20 + [5] * 20), use_nanocredits=5, weight=1)
    assert busiest is not None
    assert (busiest.of_average, busiest.percentile) == (2.0, (50, 100))
