"""The journal: reading it, folding it, and proving that it gives the balances.

An audit takes each account's balances at one instant together with how far the journal had come, folds the journal up to just there, and
compares; so it runs beside full traffic. It takes one tree of accounts after the other; what goes on in the background is in `auditing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection

from proxy.domain import AccountId, AuditReport, JournalEntry, OpenHold, Path
from proxy.ledger import keys, records
from proxy.ledger.changes import PAGE_MAX, Page
from proxy.ledger.checkpoints import Checkpoints, Folded, position
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.entries import read_entry, read_stored
from proxy.ledger.held import OpenHolds
from proxy.policy.conservation import broken_books

BATCH = 500


class Journal:
    """Reads histories and proves balances."""

    def __init__(self, engine: Engine, directory: Directory) -> None:
        self._engine = engine
        self._directory = directory
        self._checkpoints = Checkpoints(engine)
        self._open_holds = OpenHolds(engine)
        self._folded: dict[str, Folded] = {}
        self._auditing = asyncio.Lock()

    async def entries(self, account_id: AccountId, *, after: str | None = None, limit: int = 100) -> Page[JournalEntry]:
        """An account's history, newest first. Raises Refusal: account_not_found."""
        path = await self._directory.path(account_id)
        journal, count = keys.of_root(path[0], keys.JOURNAL), min(limit, PAGE_MAX)
        if len(path) == 1:  # the whole journal is the root's own
            rows = await self._engine.command("XREVRANGE", journal, "+" if after is None else f"({after}", "-", "COUNT", count)
            entries = tuple(read_entry(*row) for row in rows)
            return Page(entries, entries[-1].entry_id if len(entries) == count else None)
        index = keys.journal_index(path[0], account_id)
        gone, length = await self._engine.commands(("HGET", keys.of_root(path[0], keys.GONE), account_id), ("LLEN", index))
        gone = int(gone or 0)
        end = int(after) if after is not None else gone + length
        if end <= gone:
            return Page((), None)
        begin = max(gone, end - count)
        ids = await self._engine.command("LRANGE", index, begin - gone, end - gone - 1)
        rows = await self._engine.commands(*(("XRANGE", journal, entry, entry) for entry in reversed(ids)))
        return Page(tuple(read_entry(*row[0]) for row in rows if row), str(begin) if begin > gone else None)

    async def holds(self, account_id: AccountId, *, after: str | None = None, limit: int = 100) -> Page[OpenHold]:
        """The open holds that go through an account, the first to expire first. Raises Refusal: account_not_found."""
        path = await self._directory.path(account_id)
        start = int(after) if after is not None else 0
        found: list[OpenHold] = []
        while len(found) < limit:
            ids = await self._engine.command("ZRANGE", keys.of_root(path[0], keys.DEADLINES), start, start + BATCH - 1)
            for hold_id, hold in zip(ids, await self._open_holds.read(path[0], ids), strict=True):
                start += 1
                if hold is not None and account_id in hold.path:
                    found.append(hold)
                if len(found) == limit:
                    return Page(tuple(found), str(start))
                del hold_id
            if len(ids) < BATCH:
                break
        return Page(tuple(found), None)

    # --- the audit ---------------------------------------------------------------------------------------------------------------

    async def audit(self) -> AuditReport:
        """Prove conservation for every account; one audit at a time. Raises LedgerUnavailable."""
        async with self._auditing:
            return await self._audit()

    async def _audit(self) -> AuditReport:
        whole = AuditReport(0, 0, 0, ())
        async for path in self.paths():
            if len(path) == 1:
                whole = _together(whole, await self._audit_tree(path))
        return whole

    async def audit_tree(self, root: AccountId) -> AuditReport:
        """The same for an account without a parent, and all below it."""
        async with self._auditing:
            return await self._audit_tree((root,))

    async def _audit_tree(self, root: Path) -> AuditReport:
        """What was folded of it goes again: else an audit would keep all that everybody ever did."""
        accounts = expired = left = 0
        broken: list[str] = []
        busy = set[AccountId]()
        try:
            async for path in self.tree(root):
                reply = await self._directory.raw_snapshot(path)
                folded = await self._fold_to(path[0], reply[2].decode())
                balance, fields, grants = records.read_level(reply, len(path) - 1)
                stored = read_stored(balance, fields, grants)
                problems = broken_books(folded.fold, path[-1], stored)
                broken.extend(f"{path[-1]}: {problem}" for problem in problems)
                if not problems:
                    folded.fold.compact(path[-1], stored.sources)
                accounts += 1
                expired += stored.totals["expired"] + stored.totals["collected"]
                left += (await self._directory.left_in(reply, path) or 0) if len(path) == 1 and balance is not None else 0
                if balance is not None and (balance.running or balance.held):
                    busy.add(path[-1])
            holds, wrong = await self._open_holds.check(root[0], busy)
            entries = self._folded[root[0]].entries
        finally:
            self._folded.pop(root[0], None)
        lines = (*broken, *(f"{account}: {problem}" for account, problem in wrong))
        return AuditReport(accounts, entries, holds, lines, expired_nanocredits=expired, left_nanocredits=left)

    async def paths(self) -> AsyncIterator[Path]:
        """Every account, by its path, in the order of their ids."""
        after = "-"
        while ids := await self._engine.command("ZRANGEBYLEX", keys.ACCOUNTS, after, "+", "LIMIT", 0, BATCH):
            texts = await self._engine.commands(*(("GET", keys.path_of(raw.decode())) for raw in ids))
            for text in texts:
                yield records.decode_path(text)
            after = f"({ids[-1].decode()}"

    async def tree(self, path: Path) -> AsyncIterator[Path]:
        """An account and all below it, by their paths."""
        yield path
        after = "-"
        while ids := await self._engine.command("ZRANGEBYLEX", keys.children_of(path[-1]), after, "+", "LIMIT", 0, BATCH):
            for raw in ids:
                async for below in self.tree((*path, AccountId(raw.decode()))):
                    yield below
            after = f"({ids[-1].decode()}"

    async def sources_of(self, path: Path) -> Collection[str]:
        """The windows and grants that an account's balances name now."""
        reply = await self._directory.raw_snapshot(path)
        return read_stored(*records.read_level(reply, len(path) - 1)).sources

    async def _fold_to(self, root: str, upto: str) -> Folded:
        """Fold a root's journal up to and with an entry, from the last audit on; one that was folded further is begun again."""
        while True:
            folded = self._folded.get(root)
            if folded is None or position(upto) < position(folded.upto):
                folded = self._folded[root] = await self._checkpoints.read(root)
            began_at = folded.upto
            if began_at == upto:
                return folded
            await self.fold_on(root, folded, upto)
            if position(await self._checkpoints.upto(root)) <= position(began_at):
                return folded
            del self._folded[root]  # the journal was cut meanwhile, perhaps before it was read

    async def fold_on(self, root: str, folded: Folded, upto: str) -> None:
        """Fold what follows of a root's journal, up to and with an entry."""
        journal = keys.of_root(root, keys.JOURNAL)
        while position(folded.upto) < position(upto):
            rows = await self._engine.command("XRANGE", journal, f"({folded.upto}", upto, "COUNT", BATCH)
            if not rows:
                break
            for row in rows:
                folded.fold.add(read_entry(*row))
            folded.entries += len(rows)
            folded.upto = rows[-1][0].decode()


def _together(one: AuditReport, other: AuditReport) -> AuditReport:
    return AuditReport(
        one.accounts + other.accounts,
        one.entries + other.entries,
        one.open_holds + other.open_holds,
        one.broken + other.broken,
        expired_nanocredits=one.expired_nanocredits + other.expired_nanocredits,
        left_nanocredits=one.left_nanocredits + other.left_nanocredits,
    )
