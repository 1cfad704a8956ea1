"""The gauges of how equal use is, and their values for a measured window.

Of people only sums and shares are shown; of groups only plans, by names from the configuration, and only those that are not suppressed.
Figures that are not to be had (nobody has used anything, no pool has seats) are left out: absent is not 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from proxy.metrics.definition import Definition, Rows, credits
from proxy.policy.equality import Equality, Indices

PLANS_MAX: Final = 100
UNITS_MAX: Final = 20

_WINDOW: Final = ("window",)
DEFINITIONS: Final = (
    Definition("gini", "gauge", "Gini's index of use per weight: it lies from `low` to `high`.", ("window", "bound")),
    Definition("jain", "gauge", "Jain's index of use per weight: 1 where all have the same, 1/n where one has all.", _WINDOW),
    Definition("theil", "gauge", "Theil's index of use per weight, `within` plans and `between` them.", ("window", "part")),
    Definition("atkinson", "gauge", "Atkinson's index of use per weight, at 1/2.", _WINDOW),
    Definition("lorenz", "gauge", "Share of all use that this lowest part of the population has.", ("window", "population")),
    Definition("usage_share", "gauge", "Share of all use of top1, top10, bottom50, bottom40 (percent of people).", ("window", "group")),
    Definition("accounts", "gauge", "People: entitled, and of these active, idle, or denied all they asked for.", ("window", "state")),
    Definition("least_served_ratio", "gauge", "The smallest share of its demand that anybody was served.", _WINDOW),
    Definition("utilisation", "gauge", "Seat-time taken of the seat-time there was.", _WINDOW),
    credits("window_demand_credits", "gauge", "Work that was asked for: as served, else as estimated.", _WINDOW),
    credits("window_served_credits", "gauge", "Work that was served.", _WINDOW),
    credits("window_deficit_credits", "gauge", "Work that was asked for and not served, as estimated.", _WINDOW),
    Definition("group_gini", "gauge", "Gini's index inside a plan: it lies from `low` to `high`.", ("window", "plan", "bound")),
    Definition("group_use_share", "gauge", "Share of all use that a plan's people have.", ("window", "plan")),
    Definition("group_people_share", "gauge", "Share of all people that a plan's are.", ("window", "plan")),
    Definition("groups_suppressed", "gauge", "Plans with too few people, or too much of one, to be told of.", _WINDOW),
    Definition("equality_drift", "gauge", "By how much of all use the last recount corrected a window, at most."),
    Definition("equality_people", "gauge", "Everyone who counts in the figures of equality: with or without use."),
    Definition("equality_unit_people", "gauge", "Everyone by what they count in; the figures are of the unit that most do.", ("unit",)),
    Definition("equality_age_seconds", "gauge", "Time since the figures of equality were last taken; -1 before the first."),
)


def rows_of(windows: Collection[Equality], *, plans: Collection[str]) -> Mapping[str, Rows]:
    """The values of all gauges but the age's, for windows measured by plan; of `plans`, the configured names, at most 100 count."""
    rows: defaultdict[str, Rows] = defaultdict(dict)
    named = frozenset(sorted(plans)[:PLANS_MAX])
    for found in windows:
        _add_window(rows, found)
        for group in found.groups:
            if group.name not in named:
                continue
            labels = (found.state.window, group.name)
            rows["group_use_share"][labels] = group.use_share
            rows["group_people_share"][labels] = group.people_share
            if group.indices is not None:
                rows["group_gini"][*labels, "low"] = group.indices.gini.low
                rows["group_gini"][*labels, "high"] = group.indices.gini.high
    drifts = [found.state.drift for found in windows if found.state.drift is not None]
    if drifts:
        rows["equality_drift"][()] = max(drifts)
    if windows:
        rows["equality_people"][()] = max(found.people for found in windows)
        for found in windows:
            for unit, people in sorted(found.state.people_by_unit.items())[:UNITS_MAX]:
                rows["equality_unit_people"][(unit,)] = max(people, rows["equality_unit_people"].get((unit,), 0))
    return rows


def _add_window(rows: Mapping[str, Rows], found: Equality) -> None:
    window = found.state.window
    for state, people in (("entitled", found.people), ("active", found.active), ("idle", found.idle), ("denied", found.denied)):
        rows["accounts"][window, state] = people
    rows["window_demand_credits"][(window,)] = found.demand_nanocredits
    rows["window_served_credits"][(window,)] = found.served_nanocredits
    rows["window_deficit_credits"][(window,)] = found.deficit_nanocredits
    rows["groups_suppressed"][(window,)] = found.groups_suppressed
    for name, ratio in (("least_served_ratio", found.least_served_of_demand), ("utilisation", found.state.utilisation)):
        if ratio is not None:
            rows[name][(window,)] = ratio
    if found.indices is not None:
        rows["theil"][window, "within"] = found.theil_within
        rows["theil"][window, "between"] = found.theil_between
        _add_indices(rows, window, found.indices)


def _add_indices(rows: Mapping[str, Rows], window: str, indices: Indices) -> None:
    rows["gini"][window, "low"] = indices.gini.low
    rows["gini"][window, "high"] = indices.gini.high
    rows["jain"][(window,)] = indices.jain
    rows["atkinson"][(window,)] = indices.atkinson
    rows["lorenz"][window, "0"] = 0.0
    for population, share in indices.lorenz:
        rows["lorenz"][window, f"{population:g}"] = share.middle
    for group in ("top1", "top10", "bottom50", "bottom40"):
        rows["usage_share"][window, group] = getattr(indices, group).middle
