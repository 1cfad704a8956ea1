"""Dividends: credits of the commons handed out to everybody who is entitled, alike or by weight.

First everybody is counted, then each is paid, page by page in the order of their ids; how far it came is noted after each page, and each
payment has an id of its own, so that any process goes on where another stopped and nobody is paid twice. Who joins after a dividend was
declared has no part in it. What cannot be divided, or taken, stays in the commons.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from proxy.domain import AccountId, Ledger, Path, Plan
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys
from proxy.ledger.changes import PAGE_MAX, Page
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.leases import Lease
from proxy.ledger.people import People, Person, left_to_give

log = logging.getLogger(__name__)

PAGE_ACCOUNTS = 500
AT_ONCE = 8
"""Payments under way at a time."""
OPEN_MAX = 10
"""Dividends that are not finished; they are paid one after the other."""
KEPT_MS = 3 * 366 * 86_400_000
"""How long a finished one can be seen."""

By = Literal["equal", "weight"]
DividendState = Literal["counting", "paying", "done"]


class Dividend(msgspec.Struct, frozen=True):
    """A dividend, and how far it came. `after` is the last account that was looked at in its present state."""

    dividend_id: str
    asked_nanocredits: int | None
    """None: all that the commons has once everybody is counted."""
    by: By
    expires_at_ms: int | None
    reason: str
    declared_at_ms: int
    state: DividendState = "counting"
    after: str = ""
    accounts: int = 0
    """Who is entitled."""
    weight: int = 0
    """Of all of them together."""
    credits_nanocredits: int = 0
    """What is divided among them; known once they are counted."""
    paid_accounts: int = 0
    paid_nanocredits: int = 0
    unpaid_accounts: int = 0
    """Whose share was nothing, or could not be taken or given."""

    def share_nanocredits(self, weight: int) -> int:
        """What somebody of a weight gets, rounded down."""
        if self.by == "equal":
            return self.credits_nanocredits // max(1, self.accounts)
        return self.credits_nanocredits * weight // max(1, self.weight)


class Dividends:
    """All dividends; one process's way to hand them out."""

    def __init__(self, engine: Engine, directory: Directory, ledger: Ledger, *, commons: Callable[[], AccountId | None]) -> None:
        self._engine = engine
        self._directory = directory
        self._ledger = ledger
        self._commons = commons
        self._documents = Documents(engine, Dividend)
        self._people = People(engine, directory)
        self._lease = Lease(engine, "dividends")

    async def declare(
        self, dividend_id: str, *, credits_nanocredits: int | None, by: By, expires_at_ms: int | None, reason: str
    ) -> Dividend:
        """Begin to hand out so much, or (None) all that the commons has. Raises Refusal: not_found, insufficient_quota; Conflict."""
        now_ms = self._engine.now_ms()
        asked = Dividend(dividend_id, credits_nanocredits, by, expires_at_ms, reason, now_ms)
        there = await self._documents.read(keys.dividend(dividend_id))
        if there is None:
            await self._check_new(asked)
            if not await self._documents.swap(keys.dividend(dividend_id), None, asked):
                there = await self.find(dividend_id)
        if there is not None and _terms(there) != _terms(asked):
            raise Conflict("the id was used before with other arguments")
        declared = there or asked
        await self._engine.command("ZADD", keys.DIVIDENDS, "NX", declared.declared_at_ms, dividend_id)
        if declared.state != "done":
            await self._engine.command("ZADD", keys.OPEN_DIVIDENDS, "NX", declared.declared_at_ms, dividend_id)
        return declared

    async def _check_new(self, asked: Dividend) -> None:
        source = await self._source()
        if asked.expires_at_ms is not None and asked.expires_at_ms <= asked.declared_at_ms:
            raise Refusal("invalid_request", "a dividend must expire in the future")
        has = await self._left(source)
        if asked.asked_nanocredits is not None and asked.asked_nanocredits > has:
            message = f"the commons {source[-1]!r} has less than that"
            raise Refusal("insufficient_quota", message, account=source[-1], available_nanocredits=has)
        if await self._engine.command("ZCARD", keys.OPEN_DIVIDENDS) >= OPEN_MAX:
            raise Conflict(f"{OPEN_MAX} dividends are not finished yet", hint="Wait for one of them.")

    async def _source(self) -> Path:
        commons = self._commons()
        if commons is None:
            raise Refusal("not_found", "there is no commons", hint="name its account in [commons]")
        return await self._directory.path(commons)

    async def _left(self, source: Path) -> int:
        """At its own level: which levels above it credits leave, each receiver decides."""
        _, levels = await self._directory.snapshot(source)
        return left_to_give(levels[-1:], self._engine.now_ms())

    async def find(self, dividend_id: str) -> Dividend:
        """A dividend and how far it came. Raises Refusal: not_found."""
        dividend = await self._documents.read(keys.dividend(dividend_id))
        if dividend is None:
            raise Refusal("not_found", f"there is no dividend {dividend_id!r}")
        return dividend

    async def all(self, *, after: str | None, limit: int) -> Page[Dividend]:
        """All dividends, the newest first."""
        start, count = int(after or 0), min(limit, PAGE_MAX)
        ids = await self._engine.command("ZREVRANGE", keys.DIVIDENDS, start, start + count - 1)
        found = await self._documents.read_all([keys.dividend(raw.decode()) for raw in ids])
        return Page(tuple(found), str(start + count) if len(ids) == count else None)

    # --- handing out -----------------------------------------------------------------------------------------------------------------

    async def step(self) -> bool:
        """Go on with the oldest that is not finished, by one page; whether there was one to go on with."""
        open_ids = await self._engine.command("ZRANGE", keys.OPEN_DIVIDENDS, 0, 0)
        if not open_ids or not await self._lease.held():
            return False
        key = keys.dividend(open_ids[0].decode())
        before = await self._documents.read(key)
        after = None
        if before is not None and before.state != "done":
            try:
                source = await self._source()
            except Refusal as refusal:  # whoever declared it had a commons
                log.warning("dividend %s waits: %s", before.dividend_id, refusal.message)
                return False
            after = await (self._count if before.state == "counting" else self._pay)(before, source)
            if not await self._documents.swap(key, before, after, keep_ms=KEPT_MS if after.state == "done" else 0):
                return True  # another process was at it, too
        if after is None or after.state == "done":
            await self._engine.command("ZREM", keys.OPEN_DIVIDENDS, open_ids[0])
        return True

    async def _entitled(self, dividend: Dividend, source: Path) -> tuple[list[Person], str | None]:
        """Who of the next page is entitled: who was there when it was declared, and counts in what the commons counts in."""
        people, last = await self._people.page(after=dividend.after, limit=PAGE_ACCOUNTS)
        unit = (await self._plan(source)).unit
        plans = self._directory.plans()
        entitled = [
            person
            for person in people
            if person.path[-1] != source[-1] and person.created_at_ms <= dividend.declared_at_ms and plans[person.plan].unit == unit
        ]
        return entitled, last

    async def _plan(self, path: Path) -> Plan:
        return await self._directory.plan_of(await self._directory.settings(path[-1]))

    async def _count(self, dividend: Dividend, source: Path) -> Dividend:
        entitled, last = await self._entitled(dividend, source)
        counted = msgspec.structs.replace(
            dividend,
            after=last or "",
            accounts=dividend.accounts + len(entitled),
            weight=dividend.weight + sum(person.weight for person in entitled),
        )
        if last is not None:
            return counted
        has = await self._left(source)
        amount = has if dividend.asked_nanocredits is None else min(has, dividend.asked_nanocredits)
        return msgspec.structs.replace(counted, state="paying", credits_nanocredits=amount)

    async def _pay(self, dividend: Dividend, source: Path) -> Dividend:
        entitled, last = await self._entitled(dividend, source)
        left, shares = dividend.credits_nanocredits - dividend.paid_nanocredits, list[tuple[Person, int]]()
        for person in entitled:
            share = dividend.share_nanocredits(person.weight)
            if 0 < share <= left:
                shares.append((person, share))
                left -= share
        gate = asyncio.Semaphore(AT_ONCE)

        async def pay(person: Person, share: int) -> int:
            async with gate:
                return share if await self._transfer(dividend, source, person.path, share) else 0

        paid = await asyncio.gather(*(pay(person, share) for person, share in shares))
        count = sum(1 for amount in paid if amount)
        return msgspec.structs.replace(
            dividend,
            after=last or "",
            state="paying" if last is not None else "done",
            paid_accounts=dividend.paid_accounts + count,
            paid_nanocredits=dividend.paid_nanocredits + sum(paid),
            unpaid_accounts=dividend.unpaid_accounts + len(entitled) - count,
        )

    async def _transfer(self, dividend: Dividend, source: Path, target: Path, share: int) -> bool:
        """Pay somebody, unless it was paid; where it cannot be it never is, also by whoever tries at the same time."""
        operation_id = f"dividend:{dividend.dividend_id}:{target[-1]}"
        try:
            await self._ledger.transfer(
                source,
                target,
                operation_id,
                credits_nanocredits=share,
                reason=f"dividend {dividend.dividend_id}",
                into="dividend",
                expires_at_ms=dividend.expires_at_ms,
            )
        except Refusal as refusal:
            if not await self._ledger.forgo(source, operation_id):
                return True  # by a try that died, with the weight of then
            log.warning("dividend %s: an account gets nothing: %s", dividend.dividend_id, refusal.message)
            return False
        return True


def _terms(dividend: Dividend) -> tuple[object, ...]:
    return dividend.asked_nanocredits, dividend.by, dividend.expires_at_ms, dividend.reason
