"""A ledger whose process dies where a test says: before a transfer, between what it takes and what it gives, or right after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from proxy.errors import LedgerUnavailable
from proxy.ledger import RedisLedger

When = Literal["before", "between", "after"]


class DyingLedger:
    """Passes everything on; the next transfer or collection dies where `dies` is set, and those whose numbers stand in `dies_at`."""

    def __init__(self, ledger: RedisLedger, dies: When | None = None, *, dies_at: Mapping[int, When] | None = None) -> None:
        self._ledger = ledger
        self.dies = dies
        self._dies_at = dies_at or {}
        self.transfers = 0

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._ledger, verb)

    async def transfer(self, *arguments: Any, **named: Any) -> None:
        await self._move("transfer", arguments, named)

    async def collect(self, *arguments: Any, **named: Any) -> int:
        return int(await self._move("collect", arguments, named))

    async def _move(self, verb: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self.transfers += 1
        when, self.dies = self.dies or self._dies_at.get(self.transfers), None
        if when == "before":
            raise LedgerUnavailable
        ledger = self._ledger if when != "between" else _Undelivered(self._ledger)
        answer = await getattr(RedisLedger, verb)(ledger, *arguments, **named)
        if when == "after":
            raise LedgerUnavailable
        return answer


class _Undelivered:
    """The same ledger in a process that does not live to deliver anything."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def _deliver(self, *arguments: object) -> None:
        raise LedgerUnavailable
