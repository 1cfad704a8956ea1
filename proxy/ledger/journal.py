"""The journal: reading it, folding it, and proving that it gives the balances.

An audit takes each account's balances at one instant together with how far the journal had come, folds the journal up to just there, and
compares; so it runs beside full traffic. What is folded is kept, so that the next audit reads only what is new.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from typing import Any

from proxy.domain import AccountId, AuditReport, JournalEntry, OpenHold, Path, Posting
from proxy.ledger import balances, keys, records
from proxy.ledger.changes import PAGE_MAX, Page
from proxy.ledger.checkpoints import Checkpoints, Folded, position
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.policy.conservation import Stored, broken_books

BATCH = 500


class Journal:
    """Reads histories and proves balances."""

    def __init__(self, engine: Engine, directory: Directory) -> None:
        self._engine = engine
        self._directory = directory
        self._checkpoints = Checkpoints(engine)
        self._folded: dict[str, Folded] = {}
        self._auditing = asyncio.Lock()

    async def entries(self, account_id: AccountId, *, after: str | None = None, limit: int = 100) -> Page[JournalEntry]:
        """An account's history, newest first. Raises Refusal: account_not_found."""
        path = await self._directory.path(account_id)
        journal, count = keys.of_root(path[0], keys.JOURNAL), min(limit, PAGE_MAX)
        if len(path) == 1:  # the whole journal is the root's own
            rows = await self._engine.command("XREVRANGE", journal, "+" if after is None else f"({after}", "-", "COUNT", count)
            entries = tuple(_entry(*row) for row in rows)
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
        return Page(tuple(_entry(*row[0]) for row in rows if row), str(begin) if begin > gone else None)

    async def holds(self, account_id: AccountId, *, after: str | None = None, limit: int = 100) -> Page[OpenHold]:
        """The open holds that go through an account, the first to expire first. Raises Refusal: account_not_found."""
        path = await self._directory.path(account_id)
        start = int(after) if after is not None else 0
        found: list[OpenHold] = []
        while len(found) < limit:
            ids = await self._engine.command("ZRANGE", keys.of_root(path[0], keys.DEADLINES), start, start + BATCH - 1)
            for hold_id, hold in zip(ids, await self._read_holds(path[0], ids), strict=True):
                start += 1
                if hold is not None and account_id in hold.path:
                    found.append(hold)
                if len(found) == limit:
                    return Page(tuple(found), str(start))
                del hold_id
            if len(ids) < BATCH:
                break
        return Page(tuple(found), None)

    async def _read_holds(self, root: str, ids: list[bytes]) -> list[OpenHold | None]:
        rows = await self._engine.commands(*(("GET", keys.hold(root, raw.decode())) for raw in ids))
        found: list[OpenHold | None] = []
        for raw, packed in zip(ids, rows, strict=True):
            hold = balances.read_hold(packed) if packed is not None else None
            is_open = hold is not None and hold.state == "open"
            found.append(_open_hold(raw.decode(), hold) if hold is not None and is_open else None)
        return found

    # --- the audit ---------------------------------------------------------------------------------------------------------------

    async def audit(self) -> AuditReport:
        """Prove conservation for every account; one audit at a time. Raises LedgerUnavailable."""
        async with self._auditing:
            return await self._audit()

    async def _audit(self) -> AuditReport:
        accounts = entries = open_holds = expired = left = 0
        broken: list[str] = []
        busy: dict[str, set[AccountId]] = {}
        async for path in self.paths():
            accounts += 1
            busy.setdefault(path[0], set())
            problems, totals, running, root_left = await self._audit_account(path)
            broken.extend(problems)
            expired += totals["expired"] + totals["collected"]
            left += root_left
            if running:
                busy[path[0]].add(path[-1])
        for root in sorted(busy):
            holds, problem = await self._audit_holds(root, busy[root])
            open_holds += holds
            broken.extend(problem)
            entries += self._folded[root].entries
        return AuditReport(accounts, entries, open_holds, tuple(broken), expired_nanocredits=expired, left_nanocredits=left)

    async def paths(self) -> AsyncIterator[Path]:
        """Every account, by its path, in the order of their ids."""
        after = "-"
        while ids := await self._engine.command("ZRANGEBYLEX", keys.ACCOUNTS, after, "+", "LIMIT", 0, BATCH):
            texts = await self._engine.commands(*(("GET", keys.path_of(raw.decode())) for raw in ids))
            for text in texts:
                yield records.decode_path(text)
            after = f"({ids[-1].decode()}"

    async def _audit_account(self, path: Path) -> tuple[list[str], Mapping[str, int], int, int]:
        """What is broken, the totals, the requests that run, and what is left to spend where nobody stands above."""
        reply = await self._directory.raw_snapshot(path)
        folded = await self._fold_to(path[0], reply[2].decode())
        balance, fields, grants = records.read_level(reply, len(path) - 1)
        stored = _stored(balance, fields, grants)
        running = 0 if balance is None else balance.running
        problems = broken_books(folded.fold, path[-1], stored)
        if not problems:
            folded.fold.compact(path[-1], stored.sources)
        left = await self._left(reply, path) if len(path) == 1 and balance is not None else 0
        return [f"{path[-1]}: {problem}" for problem in problems], stored.totals, running, left

    async def _left(self, reply: list[Any], path: Path) -> int:
        (account,) = await self._directory.levels_in(reply, path)
        return account.available_nanocredits or 0 if account.status == "active" else 0

    async def sources_of(self, path: Path) -> Collection[str]:
        """The windows and grants that an account's balances name now."""
        reply = await self._directory.raw_snapshot(path)
        return _stored(*records.read_level(reply, len(path) - 1)).sources

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
                folded.fold.add(_entry(*row))
            folded.entries += len(rows)
            folded.upto = rows[-1][0].decode()

    async def _audit_holds(self, root: str, busy: set[AccountId]) -> tuple[int, list[str]]:
        """Compare what the accounts hold and run with the open holds, at a moment at which nothing moved. `busy`: who ran any just now."""
        journal, deadlines = keys.of_root(root, keys.JOURNAL), keys.of_root(root, keys.DEADLINES)
        count, miscounted = 0, list[str]()
        for _ in range(5):
            miscounted.clear()
            before = await self._engine.command("XREVRANGE", journal, "+", "-", "COUNT", 1)
            ids = await self._engine.command("ZRANGE", deadlines, 0, -1)
            count, held, running = len(ids), Counter[AccountId](), Counter[AccountId]()
            for start in range(0, count, BATCH):
                for hold in filter(None, await self._read_holds(root, ids[start : start + BATCH])):
                    running.update(hold.path)
                    held.update(dict.fromkeys(hold.path, hold.amount_nanocredits - hold.spent_nanocredits))
            counts = await self._running(root, busy | running.keys())
            after = await self._engine.command("XREVRANGE", journal, "+", "-", "COUNT", 1)
            if before != after:
                continue
            folded = await self._fold_to(root, after[0][0].decode() if after else "0-0")
            keeps = folded.fold.held_by_account()
            if wrong := sorted(a for a in keeps.keys() | held.keys() if keeps.get(a, 0) != held.get(AccountId(a), 0)):
                return count, [f"{a}: holds {keeps.get(a, 0)}, its open holds keep {held[AccountId(a)]} (nanocredits)" for a in wrong]
            miscounted += [f"{a}: counts {n} running requests, has {running[a]} open holds" for a, n in counts.items() if n != running[a]]
            if not miscounted:  # else it may be a hold of nothing, which leaves no trace in the journal
                break
        return count, miscounted

    async def _running(self, root: str, accounts: set[AccountId]) -> dict[AccountId, int]:
        """How many running requests each account counts."""
        found: dict[AccountId, int] = {}
        ids = sorted(accounts)
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            rows = await self._engine.commands(*(("GET", keys.balance(root, account)) for account in batch))
            found.update((account, balances.read_balance(packed).running) for account, packed in zip(batch, rows, strict=True) if packed)
        return found


def _open_hold(hold_id: str, hold: balances.StoredHold) -> OpenHold:
    return OpenHold(hold_id, records.path_of(hold.path), hold.amount, hold.spent, hold.created, hold.deadline)


_PLACES = {
    "w": "world",
    "l": "left",
    "h": "held",
    "s": "spent",
    "e": "expired",
    "g": "given",
    "r": "revoked",
    "c": "carried",
    "b": "brought",
    "o": "overrun",
    "d": "lowered",
}
"""The places that a posting names, by their letter in the journal's text (see `lua/prelude.lua`)."""


def _entry(entry_id: bytes, flat: list[bytes]) -> JournalEntry:
    fields = {name: value.decode() for name, value in records.pairs(flat).items()}
    path = tuple(AccountId(part) for part in fields["p"].split(" "))
    text, _, memo = fields["t"].partition("\n")
    head, *lines = text.split(";")
    verb, _, amount = head.partition(" ")
    postings = tuple(_postings(path, lines))
    entry = entry_id.decode()
    return JournalEntry(
        entry_id=entry,
        at_ms=position(entry)[0],
        verb=verb,
        id=fields["i"],
        path=path,
        amount_nanocredits=int(amount) if amount else postings[0].amount_nanocredits,
        memo=memo,
        postings=postings,
    )


def _postings(path: Path, lines: list[str]) -> Iterator[Posting]:
    """What an entry says: an amount that is not written is that of the posting before, a source that is not, the level's last."""
    amount = 0
    sources: dict[int, str] = {}
    for line in lines:
        level = int(line[0])
        figure, _, source = line[3:].partition(" ")
        amount = int(figure) if figure else amount
        sources[level] = source or sources[level]
        yield Posting(path[level], sources[level], _PLACES[line[1]], _PLACES[line[2]], amount)


def _stored(balance: balances.StoredBalance | None, fields: dict[str, bytes], grants: dict[str, bytes]) -> Stored:
    if balance is None:
        return Stored(totals=dict.fromkeys(records.TOTALS, 0), windows={}, grants={})
    present = {f"{key}#{window.index}": window for key, window in balance.windows.items()}
    past = {name[2:]: balances.read_window(packed) for name, packed in fields.items() if name.startswith("w:")}
    windows = {name: (window.credits + window.carried, window.spent, window.held) for name, window in (present | past).items()}
    places = {}
    for grant_id, text in grants.items():
        parts = text.decode().split(" ", 12)
        _, _, _, _, credits_, spent, held, left, expired, given, revoked = (int(part) for part in parts[:11])
        places[grant_id] = {
            "credits": credits_,
            "spent": spent,
            "held": held,
            "left": left,
            "expired": expired,
            "given": given,
            "revoked": revoked,
        }
    return Stored(totals=records.totals(fields, balance), windows=windows, grants=places)
