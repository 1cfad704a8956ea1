"""Dividends: credits of the commons handed out to everybody who is entitled, alike or by weight.

First everybody is counted, page by page in the order of their ids, and each page is noted with the weights of then; then exactly these are
paid, so that whatever becomes of an account meanwhile, nobody who was counted goes without, and nobody else has a part. How far it came
is noted after each page, and each payment has an id of its own, so that any process goes on where another stopped and nobody is paid
twice. What cannot be divided, or taken, stays in the commons.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from proxy.domain import AccountId, Ledger, Path
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys
from proxy.ledger.changes import PAGE_MAX, REMEMBERED_MS, Page
from proxy.ledger.counted import Counted
from proxy.ledger.directory import Directory
from proxy.ledger.documents import Documents
from proxy.ledger.engine import Engine
from proxy.ledger.leases import Lease
from proxy.ledger.people import People, left_to_give
from proxy.ledger.shares import By, CountedPage, Dividend

log = logging.getLogger(__name__)

PAGE_ACCOUNTS = 500
AT_ONCE = 8
"""Payments under way at a time."""
OPEN_MAX = 10
"""Dividends that are not finished; they are paid one after the other."""
KEPT_MS = 3 * 366 * 86_400_000
"""How long a finished one can be seen."""
PAID_WITHIN_MS = REMEMBERED_MS - 86_400_000
"""How long after the payment of a page began somebody on it may be paid: as long as it is known who was, and a day less."""


class Dividends:
    """All dividends; one process's way to hand them out."""

    def __init__(self, engine: Engine, directory: Directory, ledger: Ledger, *, commons: Callable[[], AccountId | None]) -> None:
        self._engine = engine
        self._directory = directory
        self._ledger = ledger
        self._commons = commons
        self._documents = Documents(engine, Dividend)
        self._people = People(engine, directory)
        self._counted = Counted(engine)
        self._lease = Lease(engine, "dividends")
        self._waits_for = ""

    async def declare(
        self, dividend_id: str, *, credits_nanocredits: int | None, by: By, expires_at_ms: int | None, reason: str
    ) -> Dividend:
        """Begin to hand out so much, or (None) all that the commons has. Raises Refusal: not_found, insufficient_quota; Conflict."""
        there = await self._documents.read(keys.dividend(dividend_id))
        commons = self._named() if there is None else there.commons
        asked = Dividend(dividend_id, credits_nanocredits, by, expires_at_ms, reason, self._engine.now_ms(), commons)
        if there is None:
            await self._check_new(asked)
            if not await self._documents.swap(keys.dividend(dividend_id), None, asked):
                there = await self.find(dividend_id)
        if there is not None and there.terms != asked.terms:
            raise Conflict("the id was used before with other arguments")
        declared = there or asked
        await self._engine.command("ZADD", keys.DIVIDENDS, "NX", declared.declared_at_ms, dividend_id)
        if declared.state != "done":
            await self._engine.command("ZADD", keys.OPEN_DIVIDENDS, "NX", declared.declared_at_ms, dividend_id)
        return declared

    async def _check_new(self, asked: Dividend) -> None:
        source = await self._directory.path(asked.commons)
        if asked.expires_at_ms is not None and asked.expires_at_ms <= asked.declared_at_ms:
            raise Refusal("invalid_request", "a dividend must expire in the future")
        has = await self._left(source)
        if asked.asked_nanocredits is not None and asked.asked_nanocredits > has:
            message = f"the commons {source[-1]!r} has less than that"
            raise Refusal("insufficient_quota", message, account=source[-1], available_nanocredits=has)
        if await self._engine.command("ZCARD", keys.OPEN_DIVIDENDS) >= OPEN_MAX:
            raise Conflict(f"{OPEN_MAX} dividends are not finished yet", hint="Wait for one of them.")

    def _named(self) -> AccountId:
        commons = self._commons()
        if commons is None:
            raise Refusal("not_found", "there is no commons", hint="name its account in [commons]")
        return commons

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
        dividend_id = open_ids[0].decode()
        dividend = await self._documents.read(keys.dividend(dividend_id))
        if dividend is not None and dividend.state != "done":
            try:
                self._named()
                source = await self._directory.path(dividend.commons)
            except Refusal as refusal:  # whoever declared it had a commons
                return self._wait(dividend, refusal.message)
            return await (self._count if dividend.state == "counting" else self._pay)(dividend, source)
        if dividend is not None:
            await self._counted.drop(dividend_id, dividend.pages - 1)
        await self._engine.command("ZREM", keys.OPEN_DIVIDENDS, dividend_id)
        return True

    def _wait(self, dividend: Dividend, why: str) -> bool:
        """Nothing is to be done for now, which is told once."""
        told = f"dividend {dividend.dividend_id} waits: {why}"
        if told != self._waits_for:
            log.warning("%s", told)
        self._waits_for = told
        return False

    async def _swap(self, before: Dividend, after: Dividend) -> bool:
        """Note how far a dividend came; False where another process was at it, too."""
        self._waits_for = ""
        keep_ms = KEPT_MS if after.state == "done" else 0
        return await self._documents.swap(keys.dividend(before.dividend_id), before, after, keep_ms=keep_ms)

    # --- counting --------------------------------------------------------------------------------------------------------------------

    async def _count(self, dividend: Dividend, source: Path) -> bool:
        """Count one page, unless a process has noted it that died before it noted how far it came."""
        page = await self._counted.note(dividend.dividend_id, dividend.pages, await self._entitled(dividend, source))
        counted = dividend.counted(page)
        if page.last is None:
            counted = counted.divided(await self._left(source))
        await self._swap(dividend, counted)
        return True

    async def _entitled(self, dividend: Dividend, source: Path) -> CountedPage:
        """Who of the next page is entitled: who was there when it was declared, and counts in what the commons counts in."""
        people, last = await self._people.page(after=dividend.after, limit=PAGE_ACCOUNTS)
        unit = (await self._directory.plan_of(await self._directory.settings(source[-1]))).unit
        plans = self._directory.plans()
        entitled = tuple(
            (person.path[-1], person.weight)
            for person in people
            if person.path[-1] != source[-1] and person.created_at_ms <= dividend.declared_at_ms and plans[person.plan].unit == unit
        )
        return CountedPage(entitled, last)

    # --- paying ----------------------------------------------------------------------------------------------------------------------

    async def _pay(self, dividend: Dividend, source: Path) -> bool:
        """Pay one page. That its payment begins is noted first: who was paid is known for some days alone."""
        _, levels = await self._directory.snapshot(source)
        is_closed = any(level.status == "closed" for level in levels)
        if not dividend.began_at_ms:
            if not is_closed and (inactive := [level.id for level in levels if level.status != "active"]):
                return self._wait(dividend, f"account {inactive[0]!r} is suspended; resume it, or close it to end the dividend")
            begun = dividend.begun(self._engine.now_ms())
            if not await self._swap(dividend, begun):
                return True
            dividend = begun
        if dividend.paid_pages:
            await self._counted.drop(dividend.dividend_id, dividend.paid_pages - 1)
        page = await self._counted.read(dividend.dividend_id, dividend.paid_pages)
        people = page.people if page is not None else ()
        if page is None:
            log.warning("dividend %s: a page of those that were counted is lost, and they get nothing", dividend.dividend_id)
        got = await self._pay_people(dividend, source, people, stays=is_closed or self._is_over(dividend))
        waits = len(dividend.dealt) + len(got) < len(people)
        await self._swap(dividend, dividend.paid(got, waits=waits))
        return not waits

    def _is_over(self, dividend: Dividend) -> bool:
        """Whether what is not paid yet stays in the commons: it would have expired, or might be paid for a second time."""
        now_ms = self._engine.now_ms()
        has_expired = dividend.expires_at_ms is not None and dividend.expires_at_ms <= now_ms
        return has_expired or now_ms - dividend.began_at_ms > PAID_WITHIN_MS

    async def _pay_people(
        self, dividend: Dividend, source: Path, people: tuple[tuple[AccountId, int], ...], *, stays: bool
    ) -> dict[int, int]:
        """What those on a page have got that were not dealt with, by their places; without those that wait for the commons."""
        paths = await self._people.open_paths([account for account, _ in people])
        places = [n for n in range(len(people)) if n not in dividend.dealt]
        got = dict[int, int]()
        for first in range(0, len(places), AT_ONCE):  # not all together, so that nobody goes on where the ledger is away
            some = places[first : first + AT_ONCE]
            calls = (self._transfer(dividend, source, *people[n], None if stays else paths[n]) for n in some)
            amounts = await asyncio.gather(*calls)
            got.update({n: amount for n, amount in zip(some, amounts, strict=True) if amount is not None})
        return got

    async def _transfer(self, dividend: Dividend, source: Path, account: AccountId, weight: int, target: Path | None) -> int | None:
        """What somebody has got, now or by a try that died; None where it waits, because the commons is not active.

        Where it cannot be paid (None as the target: shall not) it never is, also by whoever tries at the same time.
        """
        operation_id, share = f"dividend:{dividend.dividend_id}:{account}", dividend.share_nanocredits(weight)
        if not share:
            return 0
        if target is not None:
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
                if refusal.code == "account_suspended":  # the giver alone can be: what a suspended account is given waits there
                    return None
                log.warning("dividend %s: an account gets nothing: %s", dividend.dividend_id, refusal.message)
            else:
                return share
        return 0 if await self._ledger.forgo(source, operation_id) else share
