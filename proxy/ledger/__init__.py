"""The ledger: budgets on a Redis or Valkey server. The only folder that knows Redis.

Invariants, in words: at every level of a path, spent + held never passes limit + carried + grants; a hold ends once; every call can be
repeated; every change writes its journal entry in the same step, and folding the journal gives the balances (`journal.audit` proves it).
`lua/` has one verb per file; `engine` carries calls out, `budget` are the verbs, `directory` the names (`lookups` what is kept of them),
`embedded` the server of our own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from proxy import config
from proxy.ledger.auditing import Auditor
from proxy.ledger.budget import RedisLedger
from proxy.ledger.changes import Page
from proxy.ledger.connection import servers
from proxy.ledger.directory import Directory
from proxy.ledger.engine import FSYNC_WAIT_MS, Engine, Observe, field
from proxy.ledger.equality import EqualityLedger
from proxy.ledger.journal import Journal
from proxy.ledger.moves import Moves
from proxy.ledger.standings import Standings
from proxy.ledger.trimming import Trimmer

__all__ = ["Directory", "Journal", "Page", "RedisLedger", "Store", "open_ledger"]


@dataclass(frozen=True, slots=True)
class Store:
    """One process's view of the ledger."""

    ledger: RedisLedger
    directory: Directory
    journal: Journal
    auditor: Auditor
    trimmer: Trimmer
    engine: Engine
    moves: Moves
    """What this process has to tell the statistics of equality."""
    equality: EqualityLedger
    standings: Standings

    async def ping(self) -> None:
        """Raises LedgerUnavailable."""
        await self.engine.command("PING")

    async def check(self) -> list[str]:
        """What makes the server unsafe to keep budgets on; empty where nothing does. Raises LedgerUnavailable."""
        problems = []
        if any(
            field(text.decode(), "maxmemory_policy") not in (None, "noeviction") for text in await self.engine.everywhere("INFO", "memory")
        ):
            problems.append("the ledger server may evict keys: set maxmemory-policy noeviction, or balances would vanish")
        if any(field(text.decode(), "role") == "slave" for text in await self.engine.everywhere("INFO", "replication")):
            problems.append("the ledger server is a replica: connect to its primary")
        return problems


@contextlib.asynccontextmanager
async def open_ledger(
    section: config.LedgerSection,
    *,
    url: str | None = None,
    now_ms: Callable[[], int] | None = None,
    observe: Observe | None = None,
) -> AsyncIterator[Store]:
    """Connect to the ledger that the configuration names (`url` instead: the embedded server's).

    `now_ms` replaces the server's clock, in simulations and tests alone. Raises LedgerUnavailable, SetupError.
    """
    password = config.read_secret(env=section.password_env, file=section.password_file, what="[ledger] password")
    deadline_s = section.deadline_ms / 1000
    there = servers(url or section.url, password=password, deadline_s=deadline_s, fsync_wait_s=FSYNC_WAIT_MS / 1000)
    engine = Engine(there, deadline_s=deadline_s, now_ms=now_ms, **({"observe": observe} if observe else {}))
    try:
        await engine.start()
        directory = Directory(engine)
        await directory.start()
        moves = Moves()
        equality = EqualityLedger(engine, directory, moves)
        await equality.learn()
        ledger = RedisLedger(engine, directory, moves, hold_ttl_ms=section.hold_ttl_s * 1000)
        journal = Journal(engine, directory)
        auditor = Auditor(engine, directory, hold_ttl_ms=ledger.hold_ttl_ms)
        standings = Standings(engine, directory, moves)
        yield Store(ledger, directory, journal, auditor, Trimmer(engine, journal), engine, moves, equality, standings)
    finally:
        await engine.close()
