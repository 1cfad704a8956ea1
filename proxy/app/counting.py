"""The ledger with its credits counted where operators and people move them: granted, transferred, adjusted.

What requests spend is counted where holds end (`server.holding`). A repeat under the same id counts again, for only the ledger
knows that it is one; the exact figures are the ledger's own.
"""

from __future__ import annotations

from proxy.domain import Grant, Path, Settlement
from proxy.ledger import RedisLedger, Store
from proxy.metrics import Metrics


class CountingLedger(RedisLedger):
    """A process's way to the budgets that tells its metrics."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        super().__init__(store.engine, store.directory, store.moves, hold_ttl_ms=store.ledger.hold_ttl_ms)
        self._metrics = metrics

    async def grant(
        self,
        path: Path,
        grant_id: str,
        *,
        credits_nanocredits: int,
        priority: int = 0,
        effective_at_ms: int | None = None,
        expires_at_ms: int | None = None,
        reason: str = "",
    ) -> Grant:
        grant = await super().grant(
            path,
            grant_id,
            credits_nanocredits=credits_nanocredits,
            priority=priority,
            effective_at_ms=effective_at_ms,
            expires_at_ms=expires_at_ms,
            reason=reason,
        )
        self._metrics.credits_moved("granted", credits_nanocredits)
        return grant

    async def adjust(self, path: Path, operation_id: str, *, credits_nanocredits: int, reason: str = "") -> Settlement:
        settlement = await super().adjust(path, operation_id, credits_nanocredits=credits_nanocredits, reason=reason)
        self._metrics.credits_moved("adjusted", settlement.spent_nanocredits)
        self._metrics.credits_moved("overrun", settlement.overrun_nanocredits)
        return settlement

    async def collect(self, source: Path, target: Path, operation_id: str, *, expires_at_ms: int, reason: str = "", into: str = "") -> int:
        collected = await super().collect(source, target, operation_id, expires_at_ms=expires_at_ms, reason=reason, into=into)
        self._metrics.credits_moved("transferred", collected)
        return collected

    async def transfer(
        self,
        source: Path,
        target: Path,
        operation_id: str,
        *,
        credits_nanocredits: int,
        reason: str = "",
        into: str = "",
        expires_at_ms: int | None = None,
        comes_back: bool = False,
    ) -> None:
        await super().transfer(
            source,
            target,
            operation_id,
            credits_nanocredits=credits_nanocredits,
            reason=reason,
            into=into,
            expires_at_ms=expires_at_ms,
            comes_back=comes_back,
        )
        self._metrics.credits_moved("transferred", credits_nanocredits)
