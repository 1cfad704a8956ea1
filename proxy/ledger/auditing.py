"""The background audit: it visits trees in which something has changed, the longest waiting first, and walks slowly through the whole book.

One process at a time is at it, and any goes on where another stopped: a tree that is visited stands apart until that is done, the place of
the walk is noted, and what was folded is kept with each tree (`proofs`). How fast it goes is decided in `policy/auditing`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from proxy.domain import AccountId, Path
from proxy.errors import Refusal
from proxy.ledger import keys, records
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.leases import Lease
from proxy.ledger.proofs import Proofs, Visit
from proxy.policy.auditing import Allowance, Figures, Pace, Round, accounts_due, begins_anew, walked_per_s

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Visits under way at a time."""
COMPARED_MAX: Final = 100
"""Accounts that one visit of a changed tree compares; the next goes on."""
BROKEN_MAX: Final = 200
"""Accounts that are named as broken; with more, these are enough to begin with."""


class Audits(msgspec.Struct, frozen=True):
    """How the audit stands. `now` and `last` are rounds through the whole book."""

    now: Round
    last: Round | None = None
    figures: Figures = Figures()
    """Of all accounts, each as of its last visit."""
    broken: dict[str, tuple[str, ...]] = {}
    audited_ms: int = 0
    """Up to when all changes are audited."""
    waiting: int = 0
    """Trees that changed since."""
    looked_again_ms: int = 0
    """When those that are broken were visited last."""


class Auditor:
    """One process's part in it."""

    def __init__(self, engine: Engine, directory: Directory, *, hold_ttl_ms: int) -> None:
        self._engine = engine
        self._proofs = Proofs(engine, directory)
        self._documents = Documents(engine, Audits)
        self._lease = Lease(engine, "audit")
        self._hold_ttl_ms = hold_ttl_ms
        self._allowance = Allowance()

    async def go_on(self, pace: Pace) -> Audits | None:
        """Visit what is due now, unless another process is at it; how the audit stands (None: nobody has begun). To be called each second.
        Raises LedgerUnavailable."""
        before = await self._documents.read(keys.AUDITS)
        if not await self._lease.held():
            return before
        now_ms = self._engine.now_ms()
        accounts = int(await self._engine.command("ZCARD", keys.ACCOUNTS))
        stands = before if before is not None else Audits(Round(now_ms))
        if begins_anew(stands.now, now_ms=now_ms, pace=pace):
            stands = msgspec.structs.replace(stands, now=Round(now_ms), last=stands.now)
        self._allowance.refill(now_ms / 1000, per_s=pace.visits_per_s - walked_per_s(accounts, stands.last, pace))
        stands = await self._walk(stands, accounts, pace)
        stands = await self._look_again(stands, pace)
        stands = await self._follow(stands, pace)
        return stands if await self._documents.swap(keys.AUDITS, before, stands) else before

    # --- the whole book ----------------------------------------------------------------------------------------------------------------

    async def _walk(self, stands: Audits, accounts: int, pace: Pace) -> Audits:
        """Go on with the round."""
        now_ms, now = self._engine.now_ms(), stands.now
        due = 0 if now.ended_ms else accounts_due(now, stands.last, accounts=accounts, now_ms=now_ms, pace=pace)
        if not due:
            return stands
        start = f"({now.after}" if now.after else "-"
        page = [raw.decode() for raw in await self._engine.command("ZRANGEBYLEX", keys.ACCOUNTS, start, "+", "LIMIT", 0, due)]
        trees: dict[AccountId, list[AccountId]] = {}
        for path in await self._paths(page):
            trees.setdefault(path[0], []).append(path[-1])
        visits = await self._visit_all([(root, names) for root, names in trees.items()])
        latest = {account: after for visit in visits for account, (_, after) in visit.figures.items()}
        stands = self._with(stands, visits, walking=frozenset(page))
        now = stands.now.on(page, now_ms=now_ms, accounts=accounts, is_last=len(page) < due)
        whole = now.figures
        for account in page:
            whole += latest.get(AccountId(account), Figures())
        now = Round(now.began_ms, now.after, now.accounts, now.ended_ms, whole, now.trail)
        if not now.ended_ms:
            return msgspec.structs.replace(stands, now=now)
        # What a process that died had not told yet is told now.
        return msgspec.structs.replace(stands, now=now, last=stands.last or now, figures=whole)

    async def _look_again(self, stands: Audits, pace: Pace) -> Audits:
        """Visit those that are broken: they may be mended."""
        now_ms = self._engine.now_ms()
        if not stands.broken or now_ms - stands.looked_again_ms < pace.interval_s * 1000:
            return stands
        paths = await self._paths(list(stands.broken))
        visits = await self._visit_all([(path[0], [path[-1]]) for path in paths])
        return msgspec.structs.replace(self._with(stands, visits), looked_again_ms=now_ms)

    async def _paths(self, accounts: list[str]) -> list[Path]:
        texts = await self._engine.commands(*(("GET", keys.path_of(account)) for account in accounts))
        return [records.decode_path(text) for text in texts if text is not None]

    async def _visit_all(self, trees: list[tuple[AccountId, list[AccountId]]]) -> list[Visit]:
        """Visit these accounts, however much of their trees' journals there is to fold before."""
        found: list[Visit] = []
        for start in range(0, len(trees), AT_ONCE):
            batch = trees[start : start + AT_ONCE]
            found += await asyncio.gather(*(self._visit(root, accounts) for root, accounts in batch))
        return found

    async def _visit(self, root: AccountId, accounts: list[AccountId] | None) -> Visit:
        while True:
            try:
                if accounts is None:
                    visit = await self._proofs.visit(root, most=COMPARED_MAX)
                else:
                    visit = await self._proofs.visit(root, most=len(accounts), accounts=accounts)
            except Refusal as refusal:
                log.warning("the books of %s cannot be audited: %s", root, refusal.message)
                return Visit(broken={root: (refusal.message,)})
            self._allowance.spend(visits=0 if accounts else max(1, len(visit.compared)), read=visit.read)
            if accounts is None or visit.compared or not await self._lease.held():
                return visit

    # --- what has changed --------------------------------------------------------------------------------------------------------------

    async def _follow(self, stands: Audits, pace: Pace) -> Audits:
        """Visit the trees that changed an interval ago or earlier, and first those with which somebody did not come to an end."""
        for marks, until in ((keys.AUDITED_ROOTS, "+inf"), (keys.TOUCHED_ROOTS, self._engine.now_ms() - round(pace.interval_s * 1000))):
            while self._allowance.left > 0:
                flat = await self._engine.command("ZRANGEBYSCORE", marks, "-inf", until, "WITHSCORES", "LIMIT", 0, AT_ONCE)
                due = [(AccountId(flat[n].decode()), int(float(flat[n + 1]))) for n in range(0, len(flat), 2)]
                if not due or not await self._lease.held():
                    break
                stands = self._with(stands, await asyncio.gather(*(self._look_at(root, since_ms) for root, since_ms in due)))
        now_ms = self._engine.now_ms()
        waiting = await self._engine.commands(*(("ZCARD", marks) for marks in (keys.AUDITED_ROOTS, keys.TOUCHED_ROOTS)))
        oldest = await self._engine.commands(*(("ZRANGE", marks, 0, 0, "WITHSCORES") for marks in (keys.AUDITED_ROOTS, keys.TOUCHED_ROOTS)))
        audited_ms = min([now_ms, *(int(float(first[1])) for first in oldest if first)])
        return msgspec.structs.replace(stands, audited_ms=audited_ms, waiting=sum(waiting))

    async def _look_at(self, root: AccountId, since_ms: int) -> Visit:
        """Visit a changed tree. Its mark goes before and comes back where it may change on (see `Verbs`); meanwhile it stands apart."""
        began_ms = self._engine.now_ms()
        await self._engine.command("ZADD", keys.AUDITED_ROOTS, since_ms, root)
        await self._engine.command("ZREM", keys.TOUCHED_ROOTS, root)
        visit = await self._visit(root, None)
        again_ms = visit.waits_since_ms
        if again_ms is None and await self._may_change(root, began_ms):
            again_ms = began_ms
        if again_ms is not None:
            await self._engine.command("ZADD", keys.TOUCHED_ROOTS, "LT", again_ms, root)
        await self._engine.command("ZREM", keys.AUDITED_ROOTS, root)
        return visit

    async def _may_change(self, root: AccountId, now_ms: int) -> bool:
        """Whether something may change without being announced: something is open, or it was announced a moment ago."""
        active_ms, holds, in_transit = await self._engine.commands(
            ("ZSCORE", keys.ACTIVE_ROOTS, root),
            ("ZCARD", keys.of_root(root, keys.DEADLINES)),
            ("HLEN", keys.of_root(root, keys.OUTBOX)),
        )
        return bool(holds or in_transit or (active_ms is not None and int(float(active_ms)) + self._hold_ttl_ms > now_ms))

    # --- what was found ----------------------------------------------------------------------------------------------------------------

    def _with(self, stands: Audits, visits: list[Visit], *, walking: frozenset[str] = frozenset()) -> Audits:
        """Take over what visits found; who was visited in this round before is corrected in its sum, too. `walking`: whom it visits now."""
        figures, of_round, broken = stands.figures, stands.now.figures, dict(stands.broken)
        for visit in visits:
            for account, (before, after) in visit.figures.items():
                figures += after - before
                if account <= stands.now.after and account not in walking:
                    of_round += after - before
            for account in visit.compared:
                broken.pop(account, None)
            for account, lines in visit.broken.items():
                if account in broken or len(broken) < BROKEN_MAX:
                    broken[account] = lines
        now = stands.now
        now = Round(now.began_ms, now.after, now.accounts, now.ended_ms, of_round, now.trail)
        return msgspec.structs.replace(stands, now=now, figures=figures, broken=broken)
