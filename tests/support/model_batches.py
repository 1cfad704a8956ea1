"""The records of files and batches as plain Python, for proxies without a ledger's server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxy.domain import Path
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger.batches import KEPT_MAX, KEPT_MS, OPEN_MAX, KeptBatch, KeptFile


class ModelBatches:
    """`BatchRecords` in memory, with a line to it that a test may cut (`down`)."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._files: dict[str, dict[str, KeptFile]] = {}
        self._batches: dict[str, dict[str, KeptBatch]] = {}
        self._open: dict[str, KeptBatch] = {}
        self._agents: dict[tuple[str, str], KeptBatch] = {}
        """Those under way, by whom their makers act for and their ids."""
        self._leases_ms: dict[str, int] = {}
        self.down: frozenset[str] = frozenset()
        """What fails, by name: before it is carried out, or (`begun`) half-way."""

    async def check_room(self, path: Path) -> None:
        for kept in (self._files.get(path[-1], {}), self._batches.get(path[-1], {})):
            if len(kept) >= KEPT_MAX:
                old = [name for name, record in kept.items() if record.at_ms < self._now_ms() - KEPT_MS]
                for name in old:
                    del kept[name]
                if not old:
                    raise Refusal("invalid_request", "too many files or batches")
        if len(self._open) >= OPEN_MAX:
            raise Refusal("invalid_request", "too many batches under way")

    async def keep_file(self, path: Path, file_id: str, file: KeptFile) -> None:
        self._check("keep_file")
        self._files.setdefault(path[-1], {})[file_id] = file

    async def file(self, path: Path, file_id: str) -> KeptFile | None:
        return self._files.get(path[-1], {}).get(file_id)

    async def drop_file(self, path: Path, file_id: str) -> None:
        self._files.get(path[-1], {}).pop(file_id, None)

    async def open(self, batch: KeptBatch) -> None:
        self._check("begin" if batch.batch_id else "open")
        if batch.batch_id:
            self._batches.setdefault(batch.path[-1], {})[batch.batch_id] = batch
            if batch.is_agents:
                self._agents[batch.person[-1], batch.batch_id] = batch
            self._check("begun")
        self._open[batch.hold_id] = batch

    async def batch(self, path: Path, batch_id: str) -> KeptBatch | None:
        return self._batches.get(path[-1], {}).get(batch_id) or self._agents.get((path[-1], batch_id))

    async def open_batches(self) -> list[KeptBatch]:
        return list(self._open.values())

    async def is_open(self, batch: KeptBatch) -> bool:
        return batch.hold_id in self._open

    async def end(self, batch: KeptBatch, result_file_ids: Iterable[str] = (), *, at_ms: int) -> bool:
        self._check("end")
        for file_id in result_file_ids:
            await self.keep_file(batch.path, file_id, KeptFile(batch.upstream, at_ms))
        if batch.is_agents:
            self._agents.pop((batch.person[-1], batch.batch_id), None)
        return self._open.pop(batch.hold_id, None) is not None

    async def lease(self, task: str, for_ms: int) -> bool:
        if self._leases_ms.get(task, 0) > self._now_ms():
            return False
        self._leases_ms[task] = self._now_ms() + for_ms
        return True

    def _check(self, name: str) -> None:
        if name in self.down:
            raise LedgerUnavailable
