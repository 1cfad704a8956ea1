"""The parent's watch over equality: measured every few seconds, so that a scrape only reads what was measured last."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection
from typing import Final

from proxy.metrics import Metrics
from proxy.metrics.equality import rows_of
from proxy.policy.equality import Equality
from proxy.policy.tallies import WINDOWS, WindowName
from proxy.processes.jobs import Job
from proxy.server.equality import PLAN, EqualityFigures

MEASURE_S: Final = 5.0
FASTEST: Final[WindowName] = "day"
"""Measured every time; of the others, which change more slowly, one after the other."""


class EqualityWatch:
    """Keeps the gauges of equality; while the ledger is away they stay as they are and grow old."""

    def __init__(self, figures: EqualityFigures, metrics: Metrics, plans: Callable[[], Collection[str]]) -> None:
        self.figures = figures
        self._metrics = metrics
        self._plans = plans
        self._found: dict[WindowName, Equality] = {}
        self._measured_s: dict[WindowName, float] = {}
        self._others = itertools.cycle(window for window in WINDOWS if window != FASTEST)

    @property
    def job(self) -> Job:
        return Job("measuring equality", MEASURE_S, self.measure)

    async def measure(self) -> None:
        """Take windows anew, by plan: the day and one other, and whatever was never taken. Raises LedgerUnavailable."""
        due = {FASTEST, next(self._others), *(window for window in WINDOWS if window not in self._found)}
        for window in due:
            self._found[window] = await self.figures.of(window, PLAN)
            self._measured_s[window] = time.monotonic()
        self._metrics.equality_is(rows_of(self._found.values(), plans=self._plans()))

    def tell_age(self) -> None:
        """Say how old the oldest of the gauges are."""
        oldest_s = min(self._measured_s.get(window, 0.0) for window in WINDOWS)
        self._metrics.equality_age_is(time.monotonic() - oldest_s if oldest_s else -1.0)
