"""A town whose few heavy users crowd out the others: interventions decided and applied on plain numbers, tick by tick.

What can be served in a tick goes to those who ask in proportion to weight and demand, so whoever asks for more gets more; budgets end; what
is moved is moved between budgets and the commons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.policy.bounds import Bounds
from proxy.policy.interventions import Act, Look, Mode, State, decide
from proxy.policy.orders import NEUTRAL, POLICIES, Orders, PolicyName, Treatment, treat
from proxy.policy.scarcity import Demand
from proxy.policy.tallies import Tally

TICK_MS = 5_000
ALL_OFF: Mapping[PolicyName, Mode] = dict.fromkeys(POLICIES, "off")


@dataclass
class Person:
    demand: int
    """In a tick."""
    left: int
    weight: int = 1
    use: int = 0
    """What was debited."""
    work: int = 0
    """What was served."""
    asked: int = 0
    was_topped_up: bool = False


@dataclass
class Town:
    people: Sequence[Person]
    capacity: int
    bounds: Bounds
    modes: Mapping[PolicyName, Mode]
    commons: int = 0
    now_ms: int = 1_700_000_000_000
    state: State = field(default_factory=State)
    orders: Orders | None = None
    acts: list[Act] = field(default_factory=list)
    served: int = 0
    deficit: int = 0
    idle: int = 0
    """Capacity that was left while somebody who could pay wanted it: must stay 0."""

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick()

    def tick(self) -> None:
        self.now_ms += TICK_MS
        treatments = [self._treated(person) for person in self.people]
        for person, treatment in zip(self.people, treatments, strict=True):
            if person.left < person.demand and treatment.topup_nanocredits and not person.was_topped_up and self.commons:
                given = min(treatment.topup_nanocredits, self.commons)
                self.commons -= given
                person.left += given
                person.was_topped_up = True
        wants = [min(p.demand, p.left * 100 // t.price_percent) for p, t in zip(self.people, treatments, strict=True)]
        weights = [p.weight * t.weight_quarters * p.demand for p, t in zip(self.people, treatments, strict=True)]
        got = shared_out(self.capacity, [0 if t.is_spare else w for w, t in zip(wants, treatments, strict=True)], weights)
        rest = shared_out(self.capacity - sum(got), [w if t.is_spare else 0 for w, t in zip(wants, treatments, strict=True)], weights)
        waiting = 0
        for person, treatment, want, one, other in zip(self.people, treatments, wants, got, rest, strict=True):
            self._book(person, treatment, one + other)
            waiting += want > one + other
        self.idle += min(self.capacity - sum(got) - sum(rest), sum(wants) - sum(got) - sum(rest))
        self._decide(waiting)

    def _treated(self, person: Person) -> Treatment:
        return NEUTRAL if self.orders is None else treat(self.orders, use_nanocredits=person.use, weight=person.weight)

    def _book(self, person: Person, treatment: Treatment, work: int) -> None:
        debit = work * treatment.price_percent // 100
        tithe = min(person.left - debit, int(debit * treatment.tithe_share))
        person.left -= debit + tithe
        self.commons += tithe
        person.use += debit
        person.work += work
        person.asked += person.demand
        self.served += debit
        self.deficit += person.demand - work

    def _decide(self, waiting: int) -> None:
        tally = Tally()
        for person in self.people:
            tally.move(use_nanocredits=person.use, weight=person.weight, sign=1)
        denied = sum(1 for person in self.people if person.asked and not person.work)
        demand = Demand(0, self.served, self.deficit, waiting, seats=10, used=10 if waiting else 5)
        decision = decide(self.state, Look(self.now_ms, tally, demand, denied, self.commons), self.modes, self.bounds)
        self.state, self.orders = decision.state, decision.orders
        self.acts += decision.acts
        for act in decision.acts:
            if act.kind == "deal" and act.mode == "on":
                each = act.amount_nanocredits // len(self.people)
                self.commons -= each * len(self.people)
                for person in self.people:
                    person.left += each

    # --- what came of it -------------------------------------------------------------------------------------------------------------

    @property
    def credits(self) -> int:
        """All credits there are or were, which no policy may change."""
        return self.commons + sum(person.left + person.use for person in self.people)

    @property
    def work(self) -> int:
        return sum(person.work for person in self.people)

    def gini_of_work(self) -> float:
        """Of everybody's served work per weight, exactly."""
        shares = sorted((person.work / person.weight, person.weight) for person in self.people)
        weight, total, below, area = sum(w for _, w in shares), sum(x * w for x, w in shares), 0.0, 0.0
        for x, w in shares:
            area += w * (2 * below + x * w)
            below += x * w
        return 1 - area / (weight * total)

    def least_served(self) -> float:
        """The smallest share of his demand that anybody was served."""
        return min(person.work / person.asked for person in self.people if person.asked)


def shared_out(amount: int, wants: Sequence[int], weights: Sequence[int]) -> list[int]:
    """The amount in proportion to the weights, nobody more than he wants, nothing left over that somebody wants."""
    got = [0] * len(wants)
    while True:
        hungry = [i for i, want in enumerate(wants) if got[i] < want]
        left = amount - sum(got)
        if not hungry or left <= 0:
            return got
        total = sum(weights[i] for i in hungry)
        parts = [left * weights[i] // total for i in hungry]
        if not any(parts):
            for i in hungry[:left]:
                got[i] += 1
            continue
        for i, part in zip(hungry, parts, strict=True):
            got[i] = min(wants[i], got[i] + part)
