"""Cuts journals: what is older than it must be kept goes, once a checkpoint stands for it.

A root whose books do not balance keeps everything, so that whoever looks into it finds all there is. Several processes may trim at once;
a trimmer that dies leaves entries in the indexes that lead nowhere, and the next one takes them out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from proxy.domain import AccountId, Path
from proxy.ledger import keys
from proxy.ledger.checkpoints import BATCH, Checkpoints, Folded, position
from proxy.ledger.engine import Engine
from proxy.ledger.journal import Journal

PAUSE_S: Final = 0.004
"""After each tree that is cut, which takes the server 0.3 ms: so cutting takes no more than some twentieth of it."""


class Trimmer:
    """One process's way to shorter journals."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._checkpoints = Checkpoints(engine)

    async def trim(self, *, before_ms: int, slack_ms: int = 0) -> int:
        """Cut from every journal what is older than an instant; how many entries went. One with nothing that is older by the slack waits:
        to cut costs by trees, hardly by entries. Raises LedgerUnavailable."""
        gone = 0
        async for root in self._with_older(before_ms - slack_ms):
            if not (await self._journal.audit_tree(root)).broken:
                gone += await self._trim_root(root, [path async for path in self._journal.tree((root,))], before_ms)
            await asyncio.sleep(PAUSE_S)
        return gone

    async def _with_older(self, before_ms: int) -> AsyncIterator[AccountId]:
        """The roots whose journals begin before an instant; their beginnings are read many at a time."""
        roots: list[AccountId] = []
        async for path in self._journal.paths():
            if len(path) == 1:
                roots.append(path[0])
            if len(roots) == BATCH:
                for root in await self._older(roots, before_ms):
                    yield root
                roots = []
        for root in await self._older(roots, before_ms):
            yield root

    async def _older(self, roots: list[AccountId], before_ms: int) -> list[AccountId]:
        rows = await self._engine.commands(*(("XRANGE", keys.of_root(root, keys.JOURNAL), "-", "+", "COUNT", 1) for root in roots))
        return [root for root, first in zip(roots, rows, strict=True) if first and position(first[0][0].decode())[0] < before_ms]

    async def _trim_root(self, root: str, paths: list[Path], before_ms: int) -> int:
        before = await self._checkpoints.read(root)
        folded = await self._checkpoints.read(root)
        journal = keys.of_root(root, keys.JOURNAL)
        last = await self._engine.command("XREVRANGE", journal, f"({before_ms}-0", "-", "COUNT", 2)
        newest = await self._engine.command("XREVRANGE", journal, "+", "-", "COUNT", 1)
        # The newest entry stays: by its id an audit knows how far the journal had come.
        rows = [row for row in last if row[0] != newest[0][0]]
        if not rows:
            return 0
        await self._journal.fold_on(root, folded, rows[0][0].decode())
        for path in paths:
            folded.fold.compact(path[-1], await self._journal.sources_of(path))
        following = await self._engine.command("XRANGE", journal, f"({folded.upto}", "+", "COUNT", 1)
        if not following or not await self._checkpoints.write(root, folded, before=before, first_kept=following[0][0].decode()):
            return 0
        for path in paths:
            if len(path) > 1:
                await self._trim_index(root, path[-1], folded)
        return folded.entries - before.entries

    async def _trim_index(self, root: str, account: str, folded: Folded) -> None:
        index, counts = keys.journal_index(root, account), keys.of_root(root, keys.GONE)
        while True:
            gone = int(await self._engine.command("HGET", counts, account) or 0)
            ids = await self._engine.command("LRANGE", index, 0, BATCH - 1)
            old = sum(1 for entry in ids if position(entry.decode()) <= position(folded.upto))
            if not old:
                return
            await self._engine.script("cut_index", [index, counts], [account, gone, old])
