"""Tasks that one process does at a time: it holds a lease while it is at them, and another takes over once that has run out."""

from __future__ import annotations

import secrets

from proxy.ledger import keys
from proxy.ledger.engine import Engine

LEASE_MS = 10_000


class Lease:
    """One process's hold on a task."""

    def __init__(self, engine: Engine, task: str) -> None:
        self._engine = engine
        self._key = keys.lease(task)
        self._name = secrets.token_hex(8)

    async def held(self) -> bool:
        """Whether the task is this process's for the next seconds, because no other has it."""
        if await self._engine.command("SET", self._key, self._name, "NX", "PX", LEASE_MS) is not None:
            return True
        if await self._engine.command("GET", self._key) != self._name.encode():
            return False
        return bool(await self._engine.command("PEXPIRE", self._key, LEASE_MS))
