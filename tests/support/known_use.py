"""People whose use is known, and what a ledger that knew them would tell: for tests of what is shown of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.domain import CREDITS, AccountId, Path
from proxy.policy.equality import Drift, Group, Recount, Uses, WindowState
from proxy.policy.tallies import WINDOWS, Population, Tally, WindowName

DAY_MS = 86_400_000


def group_of(use: Sequence[int], weights: Sequence[int] | None = None) -> Group:
    """All of these people, counted one by one."""
    each = [1] * len(use) if weights is None else weights
    tally = Tally()
    for nanocredits, weight in zip(use, each, strict=True):
        tally.move(use_nanocredits=nanocredits, weight=weight, sign=1)
    return Group(Population(len(use), sum(each)), tally.sound())


@dataclass(frozen=True, slots=True)
class Person:
    id: str
    use_nanocredits: int
    weight: int = 1
    groups: Mapping[str, str] = field(default_factory=dict)
    denied: bool = False
    unit: str = CREDITS


@dataclass(slots=True)
class KnownUse:
    """The same use in every window."""

    people: list[Person] = field(default_factory=list)
    deficit_nanocredits: dict[str, int] = field(default_factory=dict)
    least_served_of_demand: float | None = None
    utilisation: float | None = None
    drift: float | None = None
    recounts: int = 0
    asked: list[tuple[WindowName, str | None]] = field(default_factory=list)

    async def state(self, window: WindowName, group: str | None = None, unit: str | None = None) -> WindowState:
        self.asked.append((window, group))
        by_unit = Counter(person.unit for person in self.people)
        unit = unit or next((name for name, _ in by_unit.most_common(1)), CREDITS)
        people = [person for person in self.people if person.unit == unit]
        await asyncio.sleep(0)  # as a ledger's answer takes a while, so that others come in between
        names = {person.groups.get(group, "") for person in people} if group is not None else set()
        return WindowState(
            window=window,
            starts_at_ms=20_000 * DAY_MS,
            resets_at_ms=None if window == "half_life" else 20_001 * DAY_MS,
            total=_group(people),
            groups={name: _group([p for p in people if group is not None and p.groups.get(group, "") == name]) for name in names},
            denied_people=sum(person.denied for person in people),
            deficit_nanocredits=self.deficit_nanocredits,
            least_served_of_demand=self.least_served_of_demand,
            utilisation=self.utilisation,
            drift=self.drift,
            unit=unit,
            people_by_unit=by_unit,
        )

    async def standing(self, path: Path) -> Uses | None:
        found = next((person for person in self.people if AccountId(person.id) in path), None)
        return None if found is None else Uses(found.weight, dict.fromkeys(WINDOWS, found.use_nanocredits), found.unit)

    async def recount(self) -> Recount:
        self.recounts += 1
        return Recount(len(self.people), 12, tuple(Drift(window, 1, 5.0, 0.001) for window in WINDOWS))


def _group(people: Sequence[Person]) -> Group:
    return group_of([person.use_nanocredits for person in people], [person.weight for person in people])
