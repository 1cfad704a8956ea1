"""Looks after what nobody else will: holds whose time is over, transfers that have not arrived.

Roots with something open stand in a list, by when to look at them, so that a sweep costs by what is open, not by how many accounts exist.
Several processes may sweep at once; every step can be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from struct import Struct

from proxy.domain import AccountId
from proxy.errors import Refusal
from proxy.ledger import balances, keys, records
from proxy.ledger.engine import Engine
from proxy.ledger.verbs import Verbs

log = logging.getLogger(__name__)

EXPIRED_MS = 7 * 86_400_000
"""How long an expired hold waits for its late settle."""
_NUMBERS = Struct("<2d").pack(EXPIRED_MS, 0)
ROOTS_MAX = 200
HOLDS_MAX = 500
"""Roots, and holds of one root, that one sweep looks at; the next goes on."""

Deliver = Callable[[str, str, list[str]], Awaitable[None]]
"""Delivers a transfer: root, operation id, what its outbox says. Raises Refusal where it must wait."""


class Sweeper:
    """Sweeps the roots that have something open."""

    def __init__(self, engine: Engine, verbs: Verbs, *, hold_ttl_ms: int) -> None:
        self._engine = engine
        self._verbs = verbs
        self._hold_ttl_ms = hold_ttl_ms
        self.charged_nanocredits = 0
        """What the holds that ended here had spent."""

    async def sweep(self, deliver: Deliver) -> int:
        """Look at every root that is due; how many holds ended."""
        ended = 0
        for marks in (keys.SWEPT_ROOTS, keys.OPEN_ROOTS):
            due = await self._engine.command("ZRANGEBYSCORE", marks, "-inf", self._engine.now_ms(), "LIMIT", 0, ROOTS_MAX)
            for root in (raw.decode() for raw in due):
                ended += await self._sweep(root, deliver)
        await self._engine.command("ZREMRANGEBYSCORE", keys.ACTIVE_ROOTS, "-inf", self._engine.now_ms() - self._hold_ttl_ms)
        return ended

    async def _sweep(self, root: str, deliver: Deliver) -> int:
        """Look at one root. Until that is done it stands among the swept ones, so that a sweeper may die at any point."""
        await self._engine.command("ZADD", keys.SWEPT_ROOTS, self._engine.now_ms() + self._hold_ttl_ms, root)
        await self._engine.command("ZREM", keys.OPEN_ROOTS, root)
        ended = await self.expire_root(root)
        await self._redeliver(root, deliver)
        again_ms = await self._next_look_ms(root)
        if again_ms is not None:
            await self._engine.command("ZADD", keys.OPEN_ROOTS, "LT", again_ms, root)
        await self._engine.command("ZREM", keys.SWEPT_ROOTS, root)
        return ended

    async def expire_root(self, root: str) -> int:
        """End the overdue holds of one root, charged as last recorded; how many."""
        due = await self._engine.command(
            "ZRANGEBYSCORE", keys.of_root(root, keys.DEADLINES), "-inf", self._engine.now_ms(), "LIMIT", 0, HOLDS_MAX
        )
        ended = 0
        for hold_id in (raw.decode() for raw in due):
            packed = await self._engine.command("GET", keys.hold(root, hold_id))
            path = records.path_of(balances.read_hold(packed).path) if packed is not None else (AccountId(root),)
            reply = await self._verbs.on_hold("expire", path, hold_id, _NUMBERS)
            if reply[0] == "OK":
                ended += 1
                self.charged_nanocredits += reply[3]
        return ended

    async def _redeliver(self, root: str, deliver: Deliver) -> None:
        outbox = records.pairs(await self._engine.command("HGETALL", keys.of_root(root, keys.OUTBOX)))
        for operation_id, text in outbox.items():
            try:
                await deliver(root, operation_id, records.decode_strings(text))
            except Refusal as refusal:  # it waits in the outbox; others must not
                log.warning("transfer %s stays in transit: %s", operation_id, refusal.message)

    async def _next_look_ms(self, root: str) -> int | None:
        """When to look again: when the next hold may be overdue; None where nothing is open, nor opened unseen (see `Verbs`)."""
        first, in_transit = await self._engine.commands(
            ("ZRANGE", keys.of_root(root, keys.DEADLINES), 0, 0, "WITHSCORES"), ("HLEN", keys.of_root(root, keys.OUTBOX))
        )
        if first:
            return int(float(first[1]))
        if in_transit:
            return self._engine.now_ms() + 1000
        active_ms = await self._engine.command("ZSCORE", keys.ACTIVE_ROOTS, root)
        until_ms = int(float(active_ms)) + self._hold_ttl_ms if active_ms is not None else 0
        return until_ms if until_ms > self._engine.now_ms() else None
