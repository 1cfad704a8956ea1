"""The seats of an upstream as the story looks at them: whoever says that none stayed empty has looked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from proxy.cli.demo.town import Unexpected

LOOK_S: Final = 0.2
EMPTY_LOOKS_MAX: Final = 3
"""So many looks one after the other may not find a seat empty while somebody waits."""


class Seats:
    """How the seats stand; `ask` gives the admin API's view of their pool."""

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Any]]], seats: int) -> None:
        self._ask = ask
        self._seats = seats
        self._looked_s = 0.0
        self._empty_looks = 0
        self._stayed_empty = False
        self.used = 0
        self.waiting = 0

    async def look(self) -> None:
        """Look again, if it is time."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self.found(await self._ask())

    def found(self, pool: dict[str, Any]) -> None:
        """Take in what a look has found."""
        self.used, self.waiting = pool["used"], pool["backlog"] + pool["spare_waiting"]
        self._empty_looks = self._empty_looks + 1 if self.used < self._seats and self.waiting else 0
        self._stayed_empty |= self._empty_looks >= EMPTY_LOOKS_MAX

    def check(self) -> None:
        """See that no seat has stayed empty while somebody waited. Raises Unexpected."""
        if self._stayed_empty:
            raise Unexpected("a seat stayed empty while somebody waited for one")
