"""How processes hear of each other's changes, and how one request is done once.

Every change is announced on a stream, which `refresh` follows. What a process keeps in memory is believed only while refreshes succeed, so
that a revoked key stops everywhere within a second even when the ledger falters; but for callers where the operator lets requests go on
without the ledger.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from proxy.errors import Conflict, LedgerUnavailable
from proxy.ledger import keys, records
from proxy.ledger.engine import Engine

REMEMBERED_MS = 7 * 86_400_000
"""How long an operation id is remembered."""
FRESH_S = 0.9
"""How old the last successful refresh may be for what is kept to be believed."""
CHANGES_KEPT = 10_000
CHANGES_READ = 1_000
PAGE_MAX = 1_000
_DONE = "done "

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and what to pass as `after` for the next part (None at the end)."""

    items: tuple[T, ...]
    next: str | None


def digest(*arguments: object) -> str:
    """What tells the arguments of one call from another's."""
    return hashlib.sha1(records.encode(arguments), usedforsecurity=False).hexdigest()


class Changes:
    """The stream of changes, as one process follows it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last_change = "0-0"
        self._fresh_until_s = 0.0
        self._is_away = False
        """Whether the server did not answer the last refresh."""
        self.believes_longer = False
        """Whether callers that are kept are believed while the server is away (`on_failure = "allow"`)."""
        self.generation = 0
        """Grows whenever anything kept may have changed."""
        self.announced: Callable[[str, str], None] = lambda _kind, _name: None
        """Called with what this process itself has changed."""

    @property
    def _is_fresh(self) -> bool:
        return time.monotonic() < self._fresh_until_s

    async def start(self) -> None:
        """Follow changes from now on. Raises LedgerUnavailable."""
        last = await self._engine.command("XREVRANGE", keys.CHANGES, "+", "-", "COUNT", 1)
        self._last_change = last[0][0].decode() if last else "0-0"
        await self._forget_all()
        self._fresh_until_s = time.monotonic() + FRESH_S

    async def refresh(self) -> None:
        """Follow what has changed since the last time; once it is done all of that counts, also what somebody else has begun to follow.

        Raises LedgerUnavailable; then the next time follows it again.
        """
        began_s = time.monotonic()
        try:
            reply = await self._engine.command("XREAD", "COUNT", CHANGES_READ, "STREAMS", keys.CHANGES, self._last_change)
        except LedgerUnavailable:
            self._is_away = True
            raise
        self._is_away = False
        changes = reply[0][1] if reply else []
        if changes:
            self.generation += 1
            if len(changes) == CHANGES_READ or any(fields[1] in (b"plan", b"price") for _, fields in changes):
                await self._forget_all()
            for _, fields in changes:
                self._forget(fields[1].decode(), fields[3].decode())
            self._last_change = changes[-1][0].decode()  # last, so that nobody takes for done what is still being read
        self._fresh_until_s = began_s + FRESH_S

    async def _announce(self, kind: str, name: str) -> None:
        await self._engine.command("XADD", keys.CHANGES, "MAXLEN", "~", CHANGES_KEPT, "*", "k", kind, "n", name)
        self.announced(kind, name)
        await self.refresh()

    async def _forget_all(self) -> None:
        """Plans or prices have changed, or more than could be read: what is kept is read again."""
        raise AssertionError("a Directory says what it keeps")

    def _forget(self, kind: str, name: str) -> None:
        """One key or account has changed."""
        raise AssertionError("a Directory says what it keeps")

    async def claim(self, operation_id: str, fingerprint: str) -> bool:
        """Take an id for one act, told by its fingerprint; whether the act is known to be done (see `done`).

        Raises Conflict where the id was taken for another act.
        """
        key = keys.claim(operation_id)
        await self._engine.command("SET", key, fingerprint, "NX", "PX", REMEMBERED_MS)
        held = (await self._engine.command("GET", key) or b"").decode()
        if held.removeprefix(_DONE) != fingerprint:
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        return held.startswith(_DONE)

    async def done(self, operation_id: str, fingerprint: str) -> None:
        """Note that the act of a claimed id is done, so that a late repeat does not do it again."""
        await self._engine.command("SET", keys.claim(operation_id), _DONE + fingerprint, "PX", REMEMBERED_MS)
