"""What all holds of one worker share: the ledger, the backlog, the ends under way, the rounds of debits, the allowance for outages.

With `on_failure = "allow"` requests run unheld while the ledger is away, up to a bound for each outage, and are charged afterwards. Must
not know what becomes of a single hold (`holding.py`), nor what anything costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from proxy import config
from proxy.domain import Ledger
from proxy.ledger.backlog import Backlog
from proxy.metrics import Metrics

log = logging.getLogger(__name__)

DEBITS_AT_ONCE_MAX = 256
TIDYING_MAX = 1000


class Debitable(Protocol):
    async def debit(self) -> None: ...


class Holds:
    """All holds of one worker, and what they share: the ledger, the backlog, the allowance for outages, the ends under way."""

    def __init__(self, ledger: Ledger, backlog: Backlog, metrics: Metrics, section: config.LedgerSection) -> None:
        self.ledger = ledger
        self.backlog = backlog
        self.metrics = metrics
        self.deadline_s = section.deadline_ms / 1000
        self.hold_ttl_s = section.hold_ttl_s
        self._debiting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.configure(section)

    def configure(self, section: config.LedgerSection) -> None:
        """Take over new settings, as far as they may change while it runs."""
        self._allow_max = section.allow_max if section.on_failure == "allow" else 0
        self._allowance = self._allow_max

    def in_background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that must finish even if the request that began it is cancelled; `finish` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    @property
    def has_time(self) -> bool:
        """Whether so little runs in the background that what is merely tidy may be added."""
        return len(self._tasks) < TIDYING_MAX

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("ending a hold failed: %s", type(error).__name__)

    async def finish(self) -> None:
        """Wait until every end that is under way has landed, in the ledger or in the backlog."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def tell_backlog(self) -> None:
        """Tell the ledger what could not be told in time, and adopt what dead processes left. For a periodic job."""
        await self.backlog.adopt()
        await self.backlog.tell(self.ledger)

    def debit(self, due: Sequence[Debitable]) -> None:
        """Tell the ledger what these have spent so far, in the background; while the last such round is under way, not yet."""
        if due and (self._debiting is None or self._debiting.done()):
            self._debiting = self.in_background(_debit_all(due))

    # --- running unheld while the ledger is away ---------------------------------------------------------------------------------

    @property
    def allows_unheld(self) -> bool:
        return self._allow_max > 0

    def allow(self, amount_nanocredits: int) -> bool:
        """Let something of this size pass unheld, if the bound for one outage allows it."""
        if amount_nanocredits > self._allowance:
            return False
        self._allowance -= amount_nanocredits
        self.metrics.passed_uncounted(amount_nanocredits)
        return True

    def ledger_answered(self) -> None:
        self._allowance = self._allow_max


async def _debit_all(due: Sequence[Debitable]) -> None:
    for first in range(0, len(due), DEBITS_AT_ONCE_MAX):
        await asyncio.gather(*(hold.debit() for hold in due[first : first + DEBITS_AT_ONCE_MAX]))
