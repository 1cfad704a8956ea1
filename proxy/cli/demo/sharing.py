"""The chapter about scarce seats: a greedy caller beside modest ones, and what each gets while all of them want more than there is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.cli.demo.screen import BOLD, CYAN, GREEN, YELLOW, Screen
from proxy.cli.demo.seats import LOOK_S, Seats
from proxy.cli.demo.town import SCARCE_MODEL, SCARCE_SEATS, SCARCE_UPSTREAM, Person, Town, Unexpected

BUDGET: Final = "2"
ANSWER_WORDS: Final = 10
ANSWERS: Final = 100
"""How many are waited for; enough that shares show, in some ten seconds at the story's own pace."""
AWRY: Final = 0.12
"""By how much a share may be off: the first seats go to whoever comes first, and one request at a time never fills a queue."""
COLUMNS_BESIDE_BAR: Final = 62
BAR_CELLS_MIN: Final = 8


@dataclass(slots=True)
class Crowd:
    """Someone's requests: so many at a time, one after another."""

    person: Person
    at_once: int
    weight: int
    answers: int = 0
    waited_s: float = 0.0
    """In all, for a seat."""


class Sharing:
    """Who wants the scarce model, what they get, and how that is drawn."""

    def __init__(self, screen: Screen, town: Town) -> None:
        self._screen = screen
        self._town = town
        self._crowds: list[Crowd] = []
        self._seats = Seats(lambda: town.admin("GET", f"pools/{SCARCE_UPSTREAM}"), SCARCE_SEATS)
        self._enough = asyncio.Event()

    async def open(self) -> None:
        """The callers come: who asks for how much at once, with which weight."""
        for name, at_once, weight in (("greta", 32, 1), ("lena", 4, 1), ("rosa", 1, 1), ("paul", 4, 2)):
            person = await self._town.open(f"user:{name}", BUDGET, weight=weight)
            self._crowds.append(Crowd(person, at_once, weight))

    async def run(self) -> None:
        """All ask until enough is answered; what they have begun by then is still served, and no longer shown."""
        asking = [asyncio.ensure_future(self._press(crowd)) for crowd in self._crowds for _ in range(crowd.at_once)]
        tasks = [asyncio.ensure_future(self._look_on()), *asking]
        try:
            async with self._screen.moving(self._draw, refresh=self._seats.look):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        self._seats.check()
        for crowd in self._crowds:
            if abs(self.share(crowd) - self.entitlement(crowd)) > AWRY:
                raise Unexpected(f"{crowd.person.id} got {self.share(crowd):.0%} of a scarce pool instead of {self.entitlement(crowd):.0%}")

    @property
    def greedy(self) -> Crowd:
        return self._crowds[0]

    def first_come(self, crowd: Crowd) -> float:
        """The share that it would have by having asked for so much."""
        return crowd.at_once / sum(each.at_once for each in self._crowds)

    def entitlement(self, crowd: Crowd) -> float:
        return crowd.weight / sum(each.weight for each in self._crowds)

    def share(self, crowd: Crowd) -> float:
        return crowd.answers / max(1, sum(each.answers for each in self._crowds))

    async def _press(self, crowd: Crowd) -> None:
        while not self._enough.is_set():
            ending = await crowd.person.ask("Something small, please.", ANSWER_WORDS, model=SCARCE_MODEL)
            if ending.code is not None:
                raise Unexpected(f"{crowd.person.id} was told {ending.code}")
            if not self._enough.is_set():
                crowd.answers += 1
                crowd.waited_s += ending.waited_s
                if sum(each.answers for each in self._crowds) >= ANSWERS:
                    self._enough.set()

    async def _look_on(self) -> None:
        """Until enough is answered, whether anybody sees it drawn or not."""
        while not self._enough.is_set():
            await self._seats.look()
            await asyncio.sleep(LOOK_S)

    def _draw(self) -> Sequence[str]:
        screen = self._screen
        cells = max(BAR_CELLS_MIN, screen.width - COLUMNS_BESIDE_BAR)
        lines = [f"{'':16}at once  weight  {'':{cells}}  words  share   waits"]
        for crowd in self._crowds:
            share = self.share(crowd)
            bar = screen.bar([(share, "█", GREEN)], cells=cells)
            waits_s = crowd.waited_s / crowd.answers if crowd.answers else 0.0
            lines.append(
                f"  {crowd.person.id:<14}{crowd.at_once:7}{crowd.weight:8}  {bar}{crowd.answers * ANSWER_WORDS:7}"
                f"{screen.paint(f'{100 * share:5.0f} %', BOLD)}{waits_s:6.2f} s"
            )
        taken = screen.bar([(self._seats.used / SCARCE_SEATS, "█", YELLOW)], cells=SCARCE_SEATS)
        waiting = screen.paint(f"{self._seats.waiting} requests wait", CYAN)
        lines.append(f"  {'the seats':<14}{taken}  {self._seats.used} of {SCARCE_SEATS} taken, {waiting}")
        return lines
