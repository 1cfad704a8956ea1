"""The chapter about inequality: a model that is scarce and dear, masters with a guild of their own beside a village, and a cap.

The curve and the figures are what the admin API tells of the whole town today; only who was served just now is counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.cli.curve import lorenz_lines
from proxy.cli.demo.screen import BOLD, GREEN, YELLOW, Screen
from proxy.cli.demo.seats import LOOK_S, Seats
from proxy.cli.demo.town import DEAR_MODEL, DEAR_SEATS, DEAR_UPSTREAM, Person, Town, Unexpected

VILLAGERS: Final = 20
MASTERS: Final = ("dora", "emil")
MASTER_AT_ONCE: Final = 6
BUDGET: Final = "100000"
ANSWER_WORDS: Final = 10
SEEN_S: Final = 1.5
"""How long ago "just now" was."""
CURVE_ROWS: Final = 8
CURVE_CELLS_MAX: Final = 44
LABEL_CELLS: Final = 17
BAR_CELLS: Final = 8
COLUMNS_BESIDE_CURVE: Final = 50
DRY_ANSWERS: Final = 45
"""How many are waited for before the cap, so that the village has come as well."""
FALL: Final = 0.15
"""By how much Gini's index is to fall before the cap has been seen to work; it must fall by a third of it in any case."""
PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """How it stood at the end of a part."""

    gini: float
    masters_share: float
    """Of what was served just then."""
    reason: str


class Levelling:
    """Masters and villagers, what they get, and how that is drawn."""

    def __init__(self, screen: Screen, town: Town) -> None:
        self._screen = screen
        self._town = town
        self._masters: list[Person] = []
        self._village: list[Person] = []
        self._served: deque[tuple[float, bool]] = deque()
        """When, and whether it was a master's."""
        self._answers = 0
        self._enough = asyncio.Event()
        self._equality: dict[str, Any] = {}
        self._cap: dict[str, Any] = {}
        self._seats = Seats(lambda: town.admin("GET", f"pools/{DEAR_UPSTREAM}"), DEAR_SEATS)
        self._looked_s = 0.0

    async def open(self) -> None:
        """Everybody comes."""
        for name in MASTERS:
            guild = await self._town.open(f"org:{name}", BUDGET)
            self._masters.append(await self._town.open(f"user:{name}", BUDGET, below=guild))
        village = await self._town.open("org:village", BUDGET)
        opening = (self._town.open(f"user:v{number}", BUDGET, below=village) for number in range(VILLAGERS))
        self._village += await asyncio.gather(*opening)

    @contextlib.asynccontextmanager
    async def pressing(self) -> AsyncIterator[None]:
        """All ask again and again as long as this lasts; what they have begun by then is still served."""
        people = [*itertools.chain.from_iterable([master] * MASTER_AT_ONCE for master in self._masters), *self._village]
        asking = [asyncio.ensure_future(self._press(person)) for person in people]
        try:
            yield
            self._enough.set()
            await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()

    async def as_it_is(self) -> Seen:
        """Show it until the cap would act and the village was served as well."""
        return await self._show(lambda: bool(self._cap.get("proposed") and self._cap["effect"]) and self._answers >= DRY_ANSWERS)

    async def with_cap(self) -> Seen:
        """Switch the cap on, and show it until it has been seen to work."""
        before = self._gini
        body = {"mode": "on", "reason": "agreed in the town's council"}
        await self._town.admin("PATCH", "interventions/cap", body)
        seen = await self._show(lambda: self._gini <= before - FALL)
        if seen.gini > before - FALL / 3:
            raise Unexpected(f"Gini's index went from {before:.2f} to {seen.gini:.2f} under the cap")
        return seen

    async def released(self) -> str:
        """What became of the cap once nothing was scarce any more."""
        began_s = time.monotonic()
        while (await self._town.admin("GET", "interventions/cap"))["strength"]:
            if time.monotonic() - began_s > PATIENCE_S:
                raise Unexpected("the cap did not end by itself")
            await asyncio.sleep(LOOK_S)
        return "ended by itself"

    @property
    def _gini(self) -> float:
        gini = self._equality.get("gini")
        return 0.0 if gini is None else (gini["low"] + gini["high"]) / 2

    @property
    def _masters_share(self) -> float:
        return sum(is_master for _, is_master in self._served) / max(1, len(self._served))

    async def _show(self, is_enough: Any) -> Seen:
        began_s = time.monotonic()
        async with self._screen.moving(self._draw, refresh=self._refresh):
            while not is_enough() and time.monotonic() - began_s < PATIENCE_S:
                await asyncio.sleep(LOOK_S)
                await self._refresh()
        self._seats.check()
        return Seen(self._gini, self._masters_share, self._cap["reason"])

    async def _press(self, person: Person) -> None:
        is_master = person in self._masters
        while not self._enough.is_set():
            ending = await person.ask("More flour, please.", ANSWER_WORDS, model=DEAR_MODEL)
            if ending.code is not None:
                raise Unexpected(f"{person.id} was told {ending.code}")
            self._answers += 1
            self._served.append((time.monotonic(), is_master))

    async def _refresh(self) -> None:
        now_s = time.monotonic()
        while self._served and now_s - self._served[0][0] > SEEN_S:
            self._served.popleft()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            admin = self._town.admin
            self._equality, self._cap, _ = await asyncio.gather(
                admin("GET", "equality?window=day"), admin("GET", "interventions/cap"), self._seats.look()
            )

    # --- drawing -------------------------------------------------------------------------------------------------------------------

    def _draw(self) -> Sequence[str]:
        screen, equality = self._screen, self._equality
        if not equality or equality["lorenz"] is None:
            return ["..."]
        cells = min(CURVE_CELLS_MAX, screen.width - COLUMNS_BESIDE_CURVE)
        curve = lorenz_lines(equality["lorenz"], cells=cells, rows=CURVE_ROWS, plain=screen.letter("█") != "█")
        width = len(curve[CURVE_ROWS])  # of the floor below it
        beside = itertools.chain(self._facts(), itertools.repeat(""))
        return [f"{line:<{width}}  {fact}".rstrip() for line, fact in zip(curve, beside, strict=False)]

    def _facts(self) -> list[str]:
        screen, equality, shares, cap, seats = self._screen, self._equality, self._equality["shares"], self._cap, self._seats
        state = screen.paint("acts", YELLOW) if cap["active"] else "would act" if cap["proposed"] else "rests"
        masters = self._masters_share
        bar = screen.bar([(masters, "█", YELLOW), (1 - masters if self._served else 0, "▒", GREEN)], cells=BAR_CELLS)
        return [
            self._fact("people who count", f"{equality['accounts']}"),
            self._fact("Gini", f"{equality['gini']['low']:.3f} to {equality['gini']['high']:.3f}"),
            self._fact("Jain", f"{equality['jain']:.2f}"),
            self._fact("top tenth has", f"{shares['top10']:.0%}"),
            self._fact("lower half has", f"{shares['bottom50']:.0%}"),
            f"{'served just now':<{LABEL_CELLS}}{bar} {masters:.0%} masters",
            self._fact("the seats", f"{seats.used} of {DEAR_SEATS}, {seats.waiting} wait"),
            f"{'the cap':<{LABEL_CELLS}}{state}",
        ]

    def _fact(self, name: str, figure: str) -> str:
        return f"{name:<{LABEL_CELLS}}{self._screen.paint(figure, BOLD)}"
