"""What expires flows to the commons, where a plan says so: once a day every account of such a plan is visited.

A visit turns windows that are over, so that what idle people leave unused flows, too; of windows shorter than a day that nobody opened
only the last one counts. Visits go page by page in the order of ids, and how far they came is noted, so that any process goes on where
another stopped; a visit that is made twice gives once. Must not know how much anybody has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from proxy.domain import AccountId, Ledger, Path
from proxy.errors import Refusal
from proxy.ledger import keys, records
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.leases import Lease

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
PAGE_ACCOUNTS = 500
AT_ONCE = 16
"""Visits under way at a time."""


class Round(msgspec.Struct, frozen=True):
    """How far the visits of one day came; `after` is the last account that was visited."""

    day: int
    after: str = ""
    is_done: bool = False


class Collecting:
    """One process's visits."""

    def __init__(
        self,
        engine: Engine,
        directory: Directory,
        ledger: Ledger,
        *,
        commons: Callable[[], AccountId | None],
        keep_days: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._ledger = ledger
        self._commons = commons
        self._keep_days = keep_days
        self._misses_commons = False
        self._rounds = Documents(engine, Round)
        self._lease = Lease(engine, "collecting")

    async def visit(self) -> int:
        """Visit the next page of accounts, unless all were visited today or another process is at it; how much was collected."""
        commons = self._commons()
        plans = {name for name, plan in self._directory.plans().items() if plan.expired_to_commons}
        if commons is None or not plans:
            return 0
        target = await self._path_of(commons)
        if target is None:
            return 0
        before = await self._rounds.read(keys.COLLECTING)
        day = self._engine.now_ms() // DAY_MS
        now = before if before is not None and before.day >= day else Round(day)
        if now.is_done or not await self._lease.held():
            return 0
        start = f"({now.after}" if now.after else "-"
        page = await self._engine.command("ZRANGEBYLEX", keys.ACCOUNTS, start, "+", "LIMIT", 0, PAGE_ACCOUNTS)
        paths = await self._due([AccountId(raw.decode()) for raw in page if raw.decode() != commons], plans)
        collected = await self._collect_all(paths, target, day=now.day)
        last = page[-1].decode() if page else now.after
        await self._rounds.swap(keys.COLLECTING, before, Round(now.day, last, len(page) < PAGE_ACCOUNTS))
        return collected

    async def _path_of(self, commons: AccountId) -> Path | None:
        """The path of the commons; None, and a word in the log, where nobody has opened it yet."""
        try:
            path = await self._directory.path(commons)
        except Refusal as refusal:
            if not self._misses_commons:
                log.warning("what expires stays where it is: %s", refusal.message)
            self._misses_commons = True
            return None
        self._misses_commons = False
        return path

    async def _due(self, accounts: list[AccountId], plans: set[str]) -> list[Path]:
        """The paths of those accounts that have such a plan, are active, and are no agents: their person's limit is what expires."""
        texts = await self._engine.commands(*(("GET", keys.path_of(account)) for account in accounts))
        paths = [records.decode_path(text) for text in texts if text is not None]
        fields = ("plan", "status", "kind")
        rows = await self._engine.commands(*(("HMGET", keys.account(path[0], path[-1]), *fields) for path in paths))
        return [
            path
            for path, (plan, status, kind) in zip(paths, rows, strict=True)
            if plan is not None and plan.decode() in plans and status == b"active" and records.kind_of(kind) == "account"
        ]

    async def _collect_all(self, paths: list[Path], target: Path, *, day: int) -> int:
        gate = asyncio.Semaphore(AT_ONCE)
        expires_at_ms = (day + 1 + self._keep_days()) * DAY_MS

        async def collect(path: Path) -> int:
            async with gate:
                try:
                    return await self._ledger.collect(
                        path, target, f"collect:{path[-1]}:{day}", expires_at_ms=expires_at_ms, reason="expired", into="commons"
                    )
                except Refusal as refusal:
                    if refusal.code == "account_suspended":  # a level above; of the others it is known
                        return 0
                    log.warning("what expired in an account is not collected: %s", refusal.message)
                    return 0

        return sum(await asyncio.gather(*(collect(path) for path in paths)))
