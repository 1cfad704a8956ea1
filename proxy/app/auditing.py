"""The parent's watch over the books: it goes on with the background audit each second, and shows how that stands.

One process audits at a time; all show what was found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from proxy.config import LedgerSection
from proxy.ledger import Store
from proxy.ledger.auditing import Audits
from proxy.metrics import Metrics
from proxy.policy.auditing import Pace, oldest_visit_ms
from proxy.processes.jobs import Job

log = logging.getLogger(__name__)

STEP_S: Final = 1.0
BROKEN_LINES_MAX: Final = 20


class AuditWatch:
    """Goes on with the audit, and keeps its gauges; while the ledger is away they stay as they are and grow old."""

    def __init__(self, store: Store, metrics: Metrics, section: Callable[[], LedgerSection]) -> None:
        self._store = store
        self._metrics = metrics
        self._section = section
        self._stands: Audits | None = None

    @property
    def job(self) -> Job:
        return Job("audit", STEP_S, self.step)

    async def step(self) -> None:
        """Visit what is due, unless another process does. Raises LedgerUnavailable."""
        section = self._section()
        pace = Pace(section.audit_interval_s, section.audit_walk_s, section.audit_visits_per_s)
        before, stands = self._stands, await self._store.auditor.go_on(pace)
        if stands is None:
            return
        self._stands = stands
        self._metrics.audited(broken=len(stands.broken), waiting=stands.waiting)
        if stands.last is not None:  # else not everybody was visited yet
            self._metrics.audit_figures_are(
                open_holds=stands.figures.open_holds,
                expired_nanocredits=stands.figures.expired_nanocredits,
                left_nanocredits=stands.figures.left_nanocredits if stands.figures.limited_roots else None,
            )
        known = {} if before is None else before.broken
        lines = [f"{account}: {line}" for account, found in stands.broken.items() if account not in known for line in found]
        for line in lines[:BROKEN_LINES_MAX]:
            log.error("the books do not balance: %s", line)

    def tell_age(self) -> None:
        """Say how old the oldest change is that was not audited, and the oldest visit."""
        stands, now_ms = self._stands, self._store.engine.now_ms()
        oldest_ms = None if stands is None else oldest_visit_ms(stands.now, stands.last)
        self._metrics.audit_age_is(
            -1.0 if stands is None else max(0, now_ms - stands.audited_ms) / 1000,
            oldest_visit_s=-1.0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
        )
