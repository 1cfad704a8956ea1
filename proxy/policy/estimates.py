"""What a request will probably cost: nine in ten of the caller's own recent ones with this model did not cost more.

Charging a good estimate when a request is seated is what keeps shares even between corrections. Owns the recent costs, a bounded number;
knows nothing of prices or of pools. Not for holds: those must cover the worst case.
"""

from __future__ import annotations

from collections import deque
from typing import Final

RECENT: Final = 32
"""Enough that the 90th percentile is not the maximum, few enough to follow a change of habit."""

PAIRS_MAX: Final = 10_000
"""Accounts and models remembered; the one unused for longest goes first."""


class Estimates:
    """Recent costs by account and model, of one process: an estimate may differ between processes, a charge never does."""

    def __init__(self, *, recent: int = RECENT, pairs_max: int = PAIRS_MAX) -> None:
        self._recent = recent
        self._pairs_max = pairs_max
        self._costs: dict[tuple[str, str], deque[int]] = {}

    def observe(self, account: str, model: str, cost_nanocredits: int) -> None:
        """Remember what a request did cost."""
        costs = self._costs.pop((account, model), None)
        if costs is None:
            costs = deque(maxlen=self._recent)
            if len(self._costs) >= self._pairs_max:
                del self._costs[next(iter(self._costs))]
        costs.append(cost_nanocredits)
        self._costs[account, model] = costs

    def estimate(self, account: str, model: str, *, least_nanocredits: int, most_nanocredits: int) -> int:
        """The 90th percentile (nearest rank) of the recent costs, within what this request can cost; without history, the most."""
        costs = self._costs.get((account, model))
        if not costs:
            return most_nanocredits
        rank = -(-9 * len(costs) // 10)
        return min(max(sorted(costs)[rank - 1], least_nanocredits), most_nanocredits)
