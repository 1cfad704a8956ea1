"""The metrics of interventions: which are active or proposed, how far they go, and what they did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.metrics.definition import Definition, Rows
from proxy.policy.interventions import PolicyState
from proxy.policy.orders import POLICIES, PolicyName

_POLICY: Final = ("policy",)
GAUGES: Final = (
    Definition("intervention_active", "gauge", "1 while a policy acts on callers.", _POLICY),
    Definition("intervention_proposed", "gauge", "1 while a dry run shows that a policy would act.", _POLICY),
    Definition("intervention_strength", "gauge", "How far a policy goes, or would go: 0 at rest, 1 at its full strength.", _POLICY),
)
ACTS: Final = Definition(
    "intervention_acts_total",
    "counter",
    "Steps of a policy (start, grow, ease, stop, deal), and requests that it applied to, or as a dry run would_apply to; top_up and give.",
    ("policy", "act"),
)
DEFINITIONS: Final = (*GAUGES, ACTS)


def rows_of(policies: Mapping[PolicyName, PolicyState], *, steps_max: Mapping[PolicyName, int]) -> Mapping[str, Rows]:
    """The gauges' values, one for each policy whatever its mode."""
    rows: dict[str, Rows] = {definition.name: {} for definition in GAUGES}
    for name in POLICIES:
        policy = policies.get(name, PolicyState())
        rows["intervention_active"][(name,)] = float(policy.mode == "on" and policy.strength > 0)
        rows["intervention_proposed"][(name,)] = float(policy.mode == "dry_run" and policy.strength > 0)
        rows["intervention_strength"][(name,)] = policy.strength / steps_max[name]
    return rows
