"""The parent's watch over equality: measured every few seconds, so that a scrape only reads what was measured last."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from proxy.metrics import Metrics
from proxy.metrics.equality import rows_of
from proxy.policy.tallies import WINDOWS
from proxy.processes.jobs import Job
from proxy.server.equality import PLAN, EqualityFigures

MEASURE_S: Final = 5.0


class EqualityWatch:
    """Keeps the gauges of equality; while the ledger is away they stay as they are and grow old."""

    def __init__(self, figures: EqualityFigures, metrics: Metrics, plans: Callable[[], Collection[str]]) -> None:
        self.figures = figures
        self._metrics = metrics
        self._plans = plans
        self._measured_s: float | None = None

    @property
    def job(self) -> Job:
        return Job("measuring equality", MEASURE_S, self.measure)

    async def measure(self) -> None:
        """Take all windows anew, by plan. Raises LedgerUnavailable."""
        found = [await self.figures.of(window, PLAN) for window in WINDOWS]
        self._metrics.equality_is(rows_of(found, plans=self._plans()))
        self._measured_s = time.monotonic()

    def tell_age(self) -> None:
        """Say how old the gauges are."""
        self._metrics.equality_age_is(-1.0 if self._measured_s is None else time.monotonic() - self._measured_s)
