"""Proofs: what audits have folded of a tree's journal is kept with the tree, an account a field, so that a visit reads only what is new.

A visit folds what follows, takes the balances of whoever was touched, folds up to just there, and compares. What is kept moves on in one
step with the names of those who are still to be compared, so that a visit may end anywhere and nobody is forgotten. Its cost, and what it
keeps in memory, are bounded, however long the journal and however large the tree. Must not know when is visited whom.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proxy.domain import AccountId, JournalEntry, Path
from proxy.ledger import keys, records
from proxy.ledger.checkpoints import BATCH, LEFT_MS, Checkpoints, position
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.entries import read_entry, read_stored
from proxy.ledger.held import OpenHolds
from proxy.policy.auditing import Figures
from proxy.policy.conservation import Fold, broken_books

READ_MAX = 20 * BATCH
"""Entries that one visit reads before it leaves the rest to the next."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What is folded of an account, and what it was found to have."""

    sources: dict[str, dict[str, int]] = {}
    expired: int = 0
    left: int = 0
    holds: int = 0
    limited: int = 0

    @property
    def figures(self) -> Figures:
        return Figures(self.expired, self.left, self.holds, self.limited)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode
_sources = msgspec.msgpack.Decoder(dict[str, dict[str, int]]).decode


@dataclass(slots=True)
class Visit:
    """What one visit found."""

    compared: set[AccountId] = field(default_factory=set)
    broken: dict[AccountId, tuple[str, ...]] = field(default_factory=dict)
    figures: dict[AccountId, tuple[Figures, Figures]] = field(default_factory=dict)
    """What accounts were found to have the time before, and now."""
    read: int = 0
    """Entries and holds."""
    waits_since_ms: int | None = None
    """Since when somebody of the tree waits to be compared; None where nobody does."""


@dataclass(slots=True)
class _Work:
    """A visit under way, at the end of what it could read of the journal."""

    root: AccountId
    there: str
    """The place from which on it was read, as stored."""
    upto: str
    count: int
    """Entries up to there."""
    entries: list[JournalEntry]
    kept: dict[str, bytes | None] = field(default_factory=dict)
    fold: Fold = field(default_factory=Fold)

    @property
    def place(self) -> str:
        return f"{self.upto} {self.count}"


class Proofs:
    """One process's way to prove the books of trees. All raise LedgerUnavailable."""

    def __init__(self, engine: Engine, directory: Directory) -> None:
        self._engine = engine
        self._directory = directory
        self._checkpoints = Checkpoints(engine)
        self._open_holds = OpenHolds(engine)

    async def visit(self, root: AccountId, *, most: int, accounts: Collection[AccountId] = ()) -> Visit:
        """Fold a tree's journal to its end, and compare the books of so many: these accounts, then who was touched, the longest ago first.
        Raises Refusal where an account cannot be read."""
        visit = Visit()
        while True:
            work = await self._read_on(root)
            visit.read += len(work.entries)
            if len(work.entries) < BATCH:
                return await self._compare(work, visit, most=most, accounts=accounts)
            await self._load(work, ())
            touched = {entry.path[-1]: entry.at_ms for entry in reversed(work.entries)}
            is_done = await self._keep(work, waiting=touched, compared=())
            if visit.read >= READ_MAX or not is_done:
                visit.waits_since_ms = min(touched.values())
                return visit

    # --- reading -----------------------------------------------------------------------------------------------------------------------

    async def _read_on(self, root: AccountId) -> _Work:
        """What follows in the journal after what is folded, from the checkpoint on where the journal was cut beyond that."""
        journal, proof = keys.of_root(root, keys.JOURNAL), keys.of_root(root, keys.PROOF)
        while True:
            there = (await self._engine.command("HGET", proof, "") or b"").decode()
            upto, _, count = (there or "0-0 0").partition(" ")
            rows = await self._engine.command("XRANGE", journal, f"({upto}", "+", "COUNT", BATCH)
            if position(await self._checkpoints.upto(root)) > position(upto):
                await self._begin_at_checkpoint(root, there)
                continue
            entries = [read_entry(*row) for row in rows]
            return _Work(root, there, entries[-1].entry_id if entries else upto, int(count) + len(entries), entries)

    async def _begin_at_checkpoint(self, root: AccountId, there: str) -> None:
        """Begin anew at the checkpoint, copied piece by piece, unless another process was here meanwhile."""
        pointer = await self._checkpoints.pointer(root)
        upto, count, mark = pointer
        copied, cursor = keys.beginning_proof(root, secrets.token_hex(8)), "0"
        await self._engine.command("HSET", copied, "", f"{upto} {count}")
        await self._engine.command("PEXPIRE", copied, LEFT_MS)
        while count:
            raw, flat = await self._engine.command("HSCAN", keys.checkpoint_at(root, upto, mark), cursor, "COUNT", BATCH)
            rows = [word for n in range(0, len(flat), 2) for word in (flat[n], _encode(Kept(_sources(flat[n + 1]))))]
            if rows:
                await self._engine.command("HSET", copied, *rows)
            cursor = raw.decode()
            if cursor == "0":
                break
        if await self._checkpoints.pointer(root) == pointer:  # else the one that was copied may have been half gone
            await self._engine.script("begin_proof", [keys.of_root(root, keys.PROOF), copied], [there])

    async def _load(self, work: _Work, accounts: Collection[AccountId]) -> None:
        """Read what is folded of these accounts and of whoever the entries name, and fold the entries."""
        names = sorted({*accounts, *(posting.account for entry in work.entries for posting in entry.postings)})
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            rows = await self._engine.command("HMGET", keys.of_root(work.root, keys.PROOF), *batch)
            for name, packed in zip(batch, rows, strict=True):
                work.kept[name] = packed
                for source, places in (_decode(packed).sources if packed else {}).items():
                    work.fold.accounts[name][source].update(places)
        for entry in work.entries:
            work.fold.add(entry)

    async def _follow(self, work: _Work, upto: str) -> list[JournalEntry]:
        """What came into the journal since it was read, up to and with an entry."""
        found: list[JournalEntry] = []
        last = work.upto
        while position(last) < position(upto):
            rows = await self._engine.command("XRANGE", keys.of_root(work.root, keys.JOURNAL), f"({last}", upto, "COUNT", BATCH)
            if not rows:
                break
            found += (read_entry(*row) for row in rows)
            last = found[-1].entry_id
        return found

    # --- comparing ---------------------------------------------------------------------------------------------------------------------

    async def _compare(self, work: _Work, visit: Visit, *, most: int, accounts: Collection[AccountId]) -> Visit:
        unproved = keys.of_root(work.root, keys.UNPROVED)
        flat = await self._engine.command("ZRANGE", unproved, 0, most, "WITHSCORES")
        waiting = {AccountId(flat[n].decode()): int(float(flat[n + 1])) for n in range(0, len(flat), 2)}
        touched: dict[AccountId, int] = {entry.path[-1]: entry.at_ms for entry in reversed(work.entries)}
        chosen = list(dict.fromkeys((*accounts, *waiting, *touched)))[: max(most, len(accounts))]
        paths = [await self._directory.path(account) for account in chosen]
        await self._load(work, {account for path in paths for account in path})
        replies = await asyncio.gather(*(self._directory.raw_snapshot(path) for path in paths))
        latest = max((reply[2].decode() for reply in replies), key=position, default=work.upto)
        further = await self._follow(work, latest)
        visit.read += len(further)
        found: dict[AccountId, Figures] = {}
        busy = set[AccountId]()
        for path, reply in zip(paths, replies, strict=True):
            for n, account in enumerate(path):
                if account not in found:
                    found[account] = self._compare_level(work, visit, further, reply, n, path, busy)
                    if n == 0:
                        left = await self._directory.left_in(reply, path[:1])
                        found[account] += Figures(left_nanocredits=left or 0, limited_roots=int(left is not None))
        visit.compared |= found.keys()
        if paths and (busy or not accounts or work.root in accounts):
            count, wrong = await self._open_holds.check(work.root, busy)
            visit.read += count
            found[work.root] += Figures(open_holds=count)
            for account, problem in wrong:
                visit.broken[account] = (*visit.broken.get(account, ()), problem)
        elif paths:
            found[work.root] += Figures(open_holds=self._kept(work, work.root).holds)
        visit.figures = {account: (self._kept(work, account).figures, figures) for account, figures in found.items()}
        left_over = {account: at_ms for account, at_ms in (touched | waiting).items() if account not in visit.compared}
        if not await self._keep(work, waiting=left_over, compared=chosen, found=found):
            return Visit(read=visit.read, waits_since_ms=min((touched | waiting).values(), default=None))
        visit.waits_since_ms = min(left_over.values(), default=None)
        return visit

    def _compare_level(
        self, work: _Work, visit: Visit, further: list[JournalEntry], reply: list[Any], n: int, path: Path, busy: set[AccountId]
    ) -> Figures:
        """Compare one account of a snapshot with its fold up to there; what has expired of it."""
        account, upto = path[n], position(reply[2].decode())
        own = Fold()
        own.accounts[account] = copy.deepcopy(work.fold.accounts[account])
        for entry in further:
            if position(entry.entry_id) <= upto:
                own.add_of(account, entry)
        balance, fields, grants = records.read_level(reply, n)
        stored = read_stored(balance, fields, grants)
        if problems := broken_books(own, account, stored):
            visit.broken[account] = tuple(problems)
        else:
            work.fold.compact(account, stored.sources)
        if balance is not None and (balance.held or balance.running):
            busy.add(account)
        return Figures(expired_nanocredits=stored.totals["expired"] + stored.totals["collected"])

    def _kept(self, work: _Work, account: str) -> Kept:
        packed = work.kept.get(account)
        return _decode(packed) if packed else Kept()

    async def _keep(
        self,
        work: _Work,
        *,
        waiting: dict[AccountId, int],
        compared: Collection[AccountId],
        found: dict[AccountId, Figures] | None = None,
    ) -> bool:
        """Write what is folded now, who waits, and who was compared; False where another process was faster, and nothing is written."""
        fields: list[str | bytes] = []
        for account, before in work.kept.items():
            figures = found[AccountId(account)] if found and account in found else self._kept(work, account).figures
            sources = {
                source: {place: amount for place, amount in places.items() if amount}
                for source, places in work.fold.accounts[account].items()
            }
            kept = Kept(
                {source: places for source, places in sources.items() if places},
                figures.expired_nanocredits,
                figures.left_nanocredits,
                figures.open_holds,
                figures.limited_roots,
            )
            if (packed := _encode(kept)) != before:
                fields += (account, packed)
        if not fields and not waiting and not compared and work.there == work.place:
            return True
        names = [word for account, at_ms in waiting.items() for word in (at_ms, account)]
        where = [keys.of_root(work.root, keys.PROOF), keys.of_root(work.root, keys.UNPROVED)]
        values = [work.there, work.place, len(fields) // 2, *fields, len(waiting), *names, *compared]
        return bool(await self._engine.script("prove", where, values) == 1)
