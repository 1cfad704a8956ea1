"""The metrics of interventions: which are active or proposed, how far they go, and what they did."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

from proxy.metrics.definition import Definition, Rows, credits
from proxy.policy.interventions import AT_REST, State
from proxy.policy.orders import POLICIES, PolicyName
from proxy.policy.reach import Reach

_POLICY: Final = ("policy",)
GAUGES: Final = (
    Definition("intervention_active", "gauge", "1 while a policy acts on callers.", _POLICY),
    Definition("intervention_proposed", "gauge", "1 while a dry run shows that a policy would act.", _POLICY),
    Definition("intervention_people", "gauge", "People that a policy treats, or as a dry run would.", _POLICY),
    credits("intervention_daily_credits", "gauge", "About what a policy moves in a day, or as a dry run would.", _POLICY),
    Definition("intervention_strength", "gauge", "How far a policy goes, or would go: 0 at rest, 1 at its full strength.", _POLICY),
)
ACTS: Final = Definition(
    "intervention_acts_total",
    "counter",
    "Steps of a policy (start, grow, ease, stop, rescale, deal, deal_refused; of a dry run would_deal), and requests that it applied to,"
    " or as a dry run would_apply to; top_up and give.",
    ("policy", "act"),
)
DEFINITIONS: Final = (*GAUGES, ACTS)


def rows_of(
    state: State,
    *,
    acting: Container[PolicyName],
    proposed: Container[PolicyName],
    steps_max: Mapping[PolicyName, int],
    worth_credits: float = 1.0,
) -> Mapping[str, Rows]:
    """The gauges' values, one for each policy whatever its mode. `worth_credits` is what one of what amounts count is worth."""
    rows: dict[str, Rows] = {definition.name: {} for definition in GAUGES}
    for name in POLICIES:
        policy, reach = state.policies.get(name, AT_REST), state.reaches.get(name, Reach())
        is_meant = name in acting or name in proposed
        rows["intervention_people"][(name,)] = float(reach.people * is_meant)
        rows["intervention_daily_credits"][(name,)] = float(reach.daily_nanocredits * is_meant * worth_credits)
        rows["intervention_active"][(name,)] = float(name in acting)
        rows["intervention_proposed"][(name,)] = float(name in proposed)
        rows["intervention_strength"][(name,)] = policy.strength / steps_max[name]
    return rows
