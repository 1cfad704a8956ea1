"""Where loans are listed: all of them, each account's, those of each that are not over, and those to be looked at.

A loan that is over goes by itself in time, its places in the first two lists do not: whoever reads there forgets them, and so does the job
that looks after loans, a few at a time. Must not know what becomes of a loan.
"""

from __future__ import annotations

from proxy.domain import AccountId
from proxy.errors import Conflict
from proxy.ledger import keys
from proxy.ledger.changes import PAGE_MAX, Page
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.lent import DAY_MS, HOUR_MS, Loan

UNFINISHED_MAX = 100
"""Loans that one account lends and borrows at a time; offers count for whoever makes them."""
KEPT_MS = 90 * DAY_MS
"""How long a loan that is over can be seen."""
READ_LEAST = 100
"""Places read together once loans have gone from among those that were asked for."""
READS_MAX = 20
"""So often a list is read for one page, which may then be short."""
TRIMMED_MAX = 20
"""Places in the list of all that are looked at together."""


class LoanLists:
    """One process's way to the lists."""

    def __init__(self, engine: Engine, documents: Documents[Loan]) -> None:
        self._engine = engine
        self._documents = documents
        self._trimmed = 0
        """How many of the oldest loans are still there, as far as the list of all was trimmed."""
        self._trims_at_ms = 0

    async def page(self, account_id: AccountId | None, *, after: str | None, limit: int) -> Page[Loan]:
        """What an account lends and borrows, or (None) what all do, the newest first; a page may be short, only `next` None is the end."""
        start, count = int(after or 0), min(limit, PAGE_MAX)
        index = keys.LOANS if account_id is None else keys.loans_of(account_id)
        found: list[Loan] = []
        for n in range(READS_MAX):
            asked = max(count - len(found), READ_LEAST if n else 1)
            raw = await self._engine.command("ZREVRANGE", index, start, start + asked - 1, "WITHSCORES")
            loans, kept = await self._read(index, raw)
            found += loans[: count - len(found)]
            at_end = len(raw) // 2 < asked
            if len(found) == count:
                places = kept.index(found[-1].loan_id) + 1
                return Page(tuple(found), None if at_end and places == len(kept) else str(start + places))
            if at_end:
                return Page(tuple(found), None)
            start += len(kept)
        return Page(tuple(found), str(start))

    async def trim(self) -> None:
        """Forget some of the loans that have gone in the list of all, from the oldest on; at its end, begin again an hour later."""
        now_ms = self._engine.now_ms()
        if now_ms < self._trims_at_ms:
            return
        old = ("-inf", now_ms - KEPT_MS, "WITHSCORES", "LIMIT", self._trimmed, TRIMMED_MAX)
        raw = await self._engine.command("ZRANGEBYSCORE", keys.LOANS, *old)
        _, kept = await self._read(keys.LOANS, raw)
        self._trimmed += len(kept)
        if len(raw) // 2 < TRIMMED_MAX:
            self._trimmed, self._trims_at_ms = 0, now_ms + HOUR_MS

    async def _read(self, index: str, raw: list[bytes]) -> tuple[list[Loan], list[str]]:
        """The loans at some places (each an id and when it began), and whose places they keep: all but those of loans that have gone.

        A loan goes after it was kept for `KEPT_MS`; a younger one that is not there was just refused, and may be made again.
        """
        began_ms = {loan_id.decode(): int(score) for loan_id, score in zip(raw[::2], raw[1::2], strict=True)}
        loans = await self._documents.read_all([keys.loan(loan_id) for loan_id in began_ms])
        there = {loan.loan_id for loan in loans}
        old_ms = self._engine.now_ms() - KEPT_MS
        gone = [loan_id for loan_id, at_ms in began_ms.items() if loan_id not in there and at_ms <= old_ms]
        if gone:
            await self._engine.command("ZREM", index, *gone)
        return loans, [loan_id for loan_id in began_ms if loan_id not in gone]

    async def check_room(self, account_id: AccountId) -> None:
        """Raises Conflict where an account has as many loans as it may."""
        if await self._engine.command("ZCARD", keys.unfinished_loans_of(account_id)) >= UNFINISHED_MAX:
            raise Conflict(f"account {account_id!r} has {UNFINISHED_MAX} loans that are not over", hint="Repay, decline or forgive some.")

    async def enter(self, loan: Loan) -> None:
        """A loan begins, or is offered."""
        for index in self._of(loan):
            await self._engine.command("ZADD", index, "NX", loan.created_at_ms, loan.loan_id)

    async def bind(self, loan: Loan) -> None:
        """It counts for its borrower, too."""
        await self._engine.command("ZADD", keys.unfinished_loans_of(loan.borrower), loan.created_at_ms, loan.loan_id)

    async def release(self, loan: Loan) -> None:
        """It is an offer again, and counts for its lender alone."""
        await self._engine.command("ZREM", keys.unfinished_loans_of(loan.borrower), loan.loan_id)

    async def finish(self, loan: Loan) -> None:
        """It is over: it counts for nobody, and is looked at no more."""
        unfinished = (keys.unfinished_loans_of(account) for account in (loan.lender, loan.borrower))
        await self._engine.commands(*(("ZREM", index, loan.loan_id) for index in (*unfinished, keys.LOANS_DUE)))

    async def leave(self, loan: Loan) -> None:
        """It never was."""
        await self._engine.commands(*(("ZREM", index, loan.loan_id) for index in (*self._of(loan), keys.LOANS_DUE)))

    def _of(self, loan: Loan) -> list[str]:
        both = (loan.lender, loan.borrower)
        bound = () if loan.is_over else (loan.lender,) if loan.state == "offered" else both
        return [keys.LOANS, *(keys.loans_of(account) for account in both), *(keys.unfinished_loans_of(account) for account in bound)]
