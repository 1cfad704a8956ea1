"""How fair a record is: the widest gap against its bound, the published average difference, work done, and what the worst off got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.policy.shares import SCALE, gap_bound
from proxy.simulation.fair_share.policies import FairShare
from proxy.simulation.fair_share.run import Record
from proxy.simulation.fair_share.workloads import Members, Workload

WINDOW_S: Final = 60
WARM_UP_S: Final = 30


@dataclass(frozen=True, slots=True)
class Bound:
    """What the pool promised in a run, and what came of it, in units of cost per weight."""

    charged_gap: float
    charged_gap_bound: float
    """2U: for what two are charged over an interval in which both wait."""
    service_gap: int
    service_gap_bound: float
    """2(U + D·c/w): for what they are served, some of which is charged before it is delivered."""
    at_once_gap: float
    at_once_bound: float
    """U: at any one time."""

    @property
    def holds(self) -> bool:
        return (
            self.charged_gap <= self.charged_gap_bound
            and self.service_gap <= self.service_gap_bound
            and self.at_once_gap <= self.at_once_bound
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """A row of the table."""

    gap: int
    average_difference: float
    tokens_per_s: float
    least_of_demand: float
    """The worst off client's service over what it asked for."""
    least_of_due: float
    """The same over what an ideal server, dividing every second by weight among all who want something, would have given it."""
    jain: float
    """Jain's index of service over due: 1 where all got the same part of what was due to them."""
    busy: float
    """The part of the seats' time that worked."""
    idle_s: float
    waits_s: Mapping[str, float]
    """Mean, by client."""
    bound: Bound | None


def figures_of(record: Record, *, ideal: Mapping[str, float]) -> Figures:
    """Measure a record; `ideal` is what was due to each client (`ideal_service`)."""
    served = {name: total[-1] for name, total in record.service.items()}
    of_due = [served[name] / due for name, due in ideal.items() if due]
    return Figures(
        gap=record.gap,
        average_difference=average_difference(record),
        tokens_per_s=record.tokens / record.workload.seconds,
        least_of_demand=min(served[name] / total[-1] for name, total in record.demand.items() if total[-1]),
        least_of_due=min(of_due),
        jain=jain(of_due),
        busy=record.busy_s / (record.server.seats * record.workload.seconds),
        idle_s=record.idle_s,
        waits_s={name: sum(waits) / len(waits) if waits else 0.0 for name, waits in record.waits_s.items()},
        bound=bound_of(record),
    )


def bound_of(record: Record) -> Bound | None:
    """The bound for what the pool knew of this run's requests; None where another policy ruled."""
    policy = record.policy
    if not isinstance(policy, FairShare):
        return None
    groups = record.workload.groups.values()
    weight = min(member.weight for members in groups for member in members.values())  # organisations weigh, too
    at_once = gap_bound(
        seats=record.server.seats,
        estimate_nanocredits=policy.largest_estimate,
        overrun_nanocredits=policy.largest_overrun,
        refund_nanocredits=policy.largest_refund,
        weight=weight,
        memory_nanocredits=policy.memory,
    )
    undelivered = record.server.seats * policy.largest_estimate / weight
    return Bound(
        charged_gap=policy.widest_over_time / SCALE,
        charged_gap_bound=2 * at_once / SCALE,
        service_gap=record.gap,
        service_gap_bound=2 * (at_once / SCALE + undelivered),
        at_once_gap=policy.widest / SCALE,
        at_once_bound=at_once / SCALE,
    )


def average_difference(record: Record) -> float:
    """The published measure: per second, over windows of a minute, how far each client's rate of service is below the best served one's
    or from its own demand, whichever is nearer, summed over clients and averaged over time. Rates are per weight;
    where there are organisations, those are compared with each other, and the clients inside each."""
    half = WINDOW_S // 2
    groups = record.workload.groups.values()
    differences = []
    for middle in range(WARM_UP_S, record.workload.seconds - half + 1):

        def rate(series: Mapping[str, Sequence[int]], member: Members, middle: int = middle) -> float:
            grown = sum(series[name][middle + half] - series[name][middle - half] for name in member.clients)
            return grown / WINDOW_S / member.weight

        for members in groups:
            rates = [(rate(record.service, member), rate(record.demand, member)) for member in members.values()]
            best = max(service for service, _ in rates)
            differences.append(sum(min(best - service, abs(demand - service)) for service, demand in rates))
    return sum(differences) * len(groups) / len(differences)


def ideal_service(record: Record) -> dict[str, float]:
    """What was due to each client: the work of this record, second by second, divided without grains: by weight among organisations
    that still want something, then among their accounts."""
    clients = record.workload.clients
    given = dict.fromkeys((client.name for client in clients), 0.0)
    for second in range(1, record.workload.seconds + 1):
        work = sum(total[second] - total[second - 1] for total in record.service.values())
        wanted = {client.name: record.demand[client.name][second] - given[client.name] for client in clients}
        for name, part in _divide(record.workload, wanted, work).items():
            given[name] += part
    return given


def _divide(workload: Workload, wanted: Mapping[str, float], work: float) -> dict[str, float]:
    groups = workload.groups
    parts = _water_fill(groups[""], wanted, work)
    for root, members in groups.items():
        if root:
            parts |= _water_fill(members, wanted, parts.pop(root))
    return parts


def _water_fill(members: Mapping[str, Members], wanted: Mapping[str, float], work: float) -> dict[str, float]:
    """Divide work by weight; what one does not want goes to the others (max-min)."""
    needs = {name: sum(wanted[client] for client in member.clients) for name, member in members.items()}
    parts: dict[str, float] = {}
    left = work
    by_need = sorted(members, key=lambda name: needs[name] / members[name].weight)
    for index, name in enumerate(by_need):
        level = left / sum(members[other].weight for other in by_need[index:])
        parts[name] = min(needs[name], level * members[name].weight)
        left -= parts[name]
    return parts


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: 1 where all are equal, 1/n where one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
