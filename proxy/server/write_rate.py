"""How often people may change something by self-service: each change leaves records behind, so that it is bounded for each person.

A person's agents act for it, so that what they change counts with it. The rule is the ledger's, exact over all processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.domain import Caller, Path
from proxy.errors import Refusal
from proxy.metrics import Metrics


class Writes(Protocol):
    """What the ledger offers here."""

    async def count_write(self, person: Path, *, per_minute: int) -> None:
        """Raises Refusal: too_many_requests; LedgerUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class WriteRate:
    """The rate of everybody's changes."""

    writes: Writes
    per_minute: Callable[[], int]
    metrics: Metrics

    async def count(self, caller: Caller) -> None:
        """Count one change by a caller, or refuse it. Raises Refusal: too_many_requests; LedgerUnavailable."""
        try:
            await self.writes.count_write(caller.person or caller.path, per_minute=self.per_minute())
        except Refusal:
            self.metrics.write_refused()
            raise
