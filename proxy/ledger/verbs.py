"""Runs a verb on a path: with the levels as the scripts take them, again where they have changed, common refusals translated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.domain import Path
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys, records
from proxy.ledger.changes import REMEMBERED_MS, digest
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Command, Engine

STALE_TRIES = 4
"""How often a call is made again because an account or a window changed under it."""
CACHED_PATHS_MAX = 50_000

_CHECKED = frozenset({"hold", "extend", "settle", "adjust", "transfer"})
"""Verbs that take credits, and so must see every account's latest settings."""
_OPENING = frozenset({"hold", "transfer"})
"""Verbs that leave something open, which a sweeper must find if nobody else ends it."""

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Levels:
    """A path as the scripts take it, packed once, and how long it may be sent."""

    keys: list[str]
    checked: msgspec.Raw
    unchecked: msgspec.Raw
    until_ms: int
    generation: int


class Verbs:
    """One process's way to run verbs."""

    def __init__(self, engine: Engine, directory: Directory, *, hold_ttl_ms: int) -> None:
        self._engine = engine
        self._directory = directory
        self._hold_ttl_ms = hold_ttl_ms
        self._levels: dict[Path, Levels] = {}

    async def on_hold(self, verb: str, path: Path, hold_id: str, arguments: dict[str, Any]) -> list[Any]:
        """A verb on a hold. Raises Conflict, Refusal: account_not_found, account_suspended; LedgerUnavailable."""
        reply = await self.run(verb, path, keys.of_hold(path[0], hold_id), arguments)
        if reply[0] == "CONFLICT":
            raise Conflict(f"the hold {hold_id!r} was used before with other arguments")
        return reply

    async def operate(self, verb: str, path: Path, operation_id: str, arguments: dict[str, Any]) -> list[Any]:
        """A verb with an operation id, durable before it is answered. Raises as `on_hold`."""
        asked = {"id": operation_id, "digest": digest(verb, path, arguments), "keep_ms": REMEMBERED_MS, **arguments}
        reply = await self.run(verb, path, keys.of_operation(path[0], operation_id), asked, durable=True)
        if reply[0] == "CONFLICT":
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        return reply

    async def run(self, verb: str, path: Path, head: list[str], arguments: dict[str, Any], *, durable: bool = False) -> list[Any]:
        """One verb, made again with fresh levels where an account or a window has changed since they were read."""
        mark = self._mark(path[0]) if verb in _OPENING else ()
        for attempt in range(STALE_TRIES):
            levels = await self._levels_of(path, anew=attempt > 0)
            arguments["levels"] = levels.checked if verb in _CHECKED else levels.unchecked
            reply = await self._engine.run(verb, head + levels.keys, arguments, then=mark, durable=durable)
            if reply[0] not in ("STALE_ACCOUNT", "STALE_WINDOW"):
                break
        if reply[0] in ("STALE_ACCOUNT", "STALE_WINDOW"):
            raise LedgerUnavailable("the account changes faster than it can be read")
        if reply[0] == "UNKNOWN":
            raise Refusal("account_not_found", f"there is no account {path[reply[2]]!r}", account=path[reply[2]])
        if reply[0] == "SUSPENDED":
            account = path[reply[2]]
            raise Refusal("account_suspended", f"account {account!r} is {reply[3].decode()}", account=account)
        return reply

    def _mark(self, root: str) -> Command:
        """The command that notes, right behind a call, that this root has something open for the sweeper to look at.

        A sweeper takes the mark away before it looks, so whichever comes first, either it sees what the call opened or the mark stays.
        """
        return ("ZADD", keys.OPEN_ROOTS, "NX", self._engine.now_ms() + self._hold_ttl_ms, root)

    async def _levels_of(self, path: Path, *, anew: bool) -> Levels:
        levels = self._levels.get(path)
        now_ms = self._engine.now_ms()
        if levels is not None and not anew and levels.generation == self._directory.generation and now_ms < levels.until_ms:
            return levels
        generation = self._directory.generation  # from before the reading: what changes meanwhile is read again
        checked: list[list[Any]] = []
        until_ms = records.NEVER_MS
        for account in path:
            settings = await self._directory.settings(account, anew=anew)
            limits, limits_until_ms = records.limit_rows(await self._directory.limits_of(settings), now_ms)
            until_ms = min(until_ms, limits_until_ms)
            checked.append([account, settings.version, limits])
        unchecked = [[account, -1, limits] for account, _, limits in checked]
        raw = msgspec.Raw(_pack(checked)), msgspec.Raw(_pack(unchecked))
        levels = Levels(keys.levels(path), *raw, until_ms, generation)
        if len(self._levels) >= CACHED_PATHS_MAX:
            self._levels.clear()
        self._levels[path] = levels
        return levels
