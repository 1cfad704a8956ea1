"""Batches from their beginning to their settlement: their holds are kept alive, and once they have ended their output is counted.

Everything here may be repeated, by any worker: a hold is settled by its id, and the same output costs the same. Must not know who asks
for a batch; that is `batching`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from proxy.dialects import DIALECTS, openai_batches
from proxy.dialects.ndjson import LineSplitter
from proxy.domain import NO_USAGE, USAGE_KINDS, Answer, Call, Path, Usage
from proxy.errors import Failure, Refusal, UpstreamError
from proxy.ledger.batches import BatchInput, BatchRecords, KeptBatch
from proxy.policy.pricing import BatchBill
from proxy.policy.raised_price import raised_amount
from proxy.policy.units import nominal_nanocredits, note_of
from proxy.server import fetching
from proxy.server.admission import Admission
from proxy.server.holds import DEBITS_AT_ONCE_MAX, Holds
from proxy.server.metering import Charge, Flag
from proxy.server.upstream import Endpoint

log = logging.getLogger(__name__)

LOOK_MS = 5_000
"""How often all open batches are gone through."""
ASK_MS = 60_000
"""How often the upstream is asked for the state of one."""
ASKED_AT_ONCE_MAX = 4
ASKED_MAX = 64
"""In one round; the next goes on."""
LOST_MS = 120_000
"""When it is certain that nobody waits for the answer to a batch's creation any more."""
GIVE_UP_MS = 8 * 86_400_000
"""When a batch that has not ended is settled at its bound; the longest window that providers offer is a week."""
GONE_STATUSES = frozenset({404, 410})
LINE_MAX_BYTES = 16 * 2**20
PAGE_SIZE = 100
PAGES_MAX = 20
OPERATIONS = {o.path: o for o in DIALECTS["openai"].operations if o.path in openai_batches.URLS}


class Tally:
    """What the requests of a batch used, by the lines of its output."""

    def __init__(self, asked: BatchInput) -> None:
        self.call = Call(
            operation=OPERATIONS[asked.url].name,
            model=asked.model,
            stream=False,
            choices=1,
            output_tokens_max=None,
            input_tokens_bound=0,
            input_tokens_counted=-(-asked.input_tokens_counted // asked.lines),
        )
        self.usage = NO_USAGE
        self.flags: set[Flag] = set()
        self._bill = BatchBill(asked.price)
        self._lines_left = asked.lines

    @property
    def is_full(self) -> bool:
        """Whether every request has its line; what an upstream writes beyond that stands for nothing."""
        return self._lines_left == 0

    @property
    def cost_nanocredits(self) -> int:
        return self._bill.nanocredits

    def add(self, answer: Answer | None) -> None:
        """One more line. Where its usage is missing, its input counts as the average of all."""
        if self.is_full:
            return
        self._lines_left -= 1
        if answer is None:
            return
        usage = answer.usage
        if usage is None:
            self.flags.add("absurd" if answer.usage_rejected else "missing")
            usage = Usage(input=self.call.input_tokens_counted, output=answer.output_tokens_counted)
        self._bill.add(usage)
        self.usage = Usage(**{kind: getattr(self.usage, kind) + getattr(usage, kind) for kind in USAGE_KINDS})


Answered = TypeVar("Answered")


class _Gone(Exception):
    """The upstream has no such output, and never will again."""


class BatchSettler:
    """Looks after the open batches: `keep_alive` and `look` are to be called again and again."""

    def __init__(
        self,
        records: BatchRecords,
        holds: Holds,
        *,
        admission: Callable[[], Admission],
        owe: Callable[[Path, float, int], None],
        now_ms: Callable[[], int],
    ) -> None:
        """`owe` hears of whom a batch was, which share of its cost is due to the commons, and what it has cost."""
        self._owe = owe
        self._records = records
        self._holds = holds
        self._admission = admission
        self._now_ms = now_ms
        self._asked_ms: dict[str, int] = {}
        """When this worker asked for what is still open; so that most need no lease to be found asked for already."""
        self._finding = asyncio.Lock()
        self._settling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- again and again ---------------------------------------------------------------------------------------------------------

    async def keep_alive(self) -> None:
        """Keep the holds of all open batches, unless another worker has just done so. Every second or so."""
        if not await self._records.lease("batches-alive", self._holds.hold_ttl_s * 1000 // 4):
            return
        batches = await self._records.open_batches()
        for first in range(0, len(batches), DEBITS_AT_ONCE_MAX):
            debits = (self._holds.ledger.debit(b.path, b.hold_id, spent_nanocredits=0) for b in batches[first : first + DEBITS_AT_ONCE_MAX])
            await asyncio.gather(*map(_unless_refused, debits))

    async def look(self) -> None:
        """Ask the upstreams how their batches are, and settle what has ended, unless another worker does. Every few seconds."""
        if not await self._records.lease("batches", LOOK_MS):
            return
        batches = await self._records.open_batches()
        random.shuffle(batches)  # so that none waits for ever behind others
        self._asked_ms = {b.hold_id: asked_ms for b in batches if (asked_ms := self._asked_ms.get(b.hold_id)) is not None}
        due: list[KeptBatch] = []
        for batch in batches:
            if len(due) < ASKED_MAX and await self._is_due(batch):
                due.append(batch)
        gate = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

        async def ask(batch: KeptBatch) -> None:
            async with gate:
                await self._look_after(batch)

        await asyncio.gather(*map(ask, due))

    async def _is_due(self, batch: KeptBatch) -> bool:
        """Whether its upstream may be asked now; at most once a minute, whichever worker asks."""
        now_ms = self._now_ms()
        if now_ms - self._asked_ms.get(batch.hold_id, 0) < ASK_MS or (not batch.batch_id and self._age_ms(batch) < LOST_MS):
            return False
        if not await self._records.lease(f"batch:{batch.hold_id}", ASK_MS):
            return False
        self._asked_ms[batch.hold_id] = now_ms
        return True

    async def _look_after(self, batch: KeptBatch) -> None:
        try:
            endpoint = self._admission().endpoint(batch.upstream)
            if not batch.batch_id:
                async with self._finding:  # one by one, so that two do not find the same
                    found = await self._find(batch, endpoint)
                if found is None:
                    return
                batch = found
            answer = await fetching.fetch(endpoint, "GET", f"/v1/batches/{batch.batch_id}")
            state = openai_batches.read_batch(answer.meaning) if answer.status == 200 else None
            if state is not None and state.has_ended:
                await self.settle(batch, endpoint, state)
                return
        except Failure as failure:
            log.debug("batch %s is not settled yet: %s", batch.batch_id, failure.message)
        if self._age_ms(batch) > GIVE_UP_MS:
            await self._settle_at_bound(batch, "it never ended")

    async def _find(self, batch: KeptBatch, endpoint: Endpoint) -> KeptBatch | None:
        """A batch whose creation nobody heard the answer of: as the upstream lists it; where it does not, the hold is returned.

        A file has one owner, so that all batches of it are that owner's. Raises UpstreamError, UpstreamTimeout.
        """
        after = ""
        for _ in range(PAGES_MAX):
            answer = await fetching.fetch(endpoint, "GET", "/v1/batches", query=f"?limit={PAGE_SIZE}{after}")
            page = openai_batches.read_batches(answer.meaning) if answer.status == 200 else None
            if page is None:
                raise UpstreamError(f"The upstream {endpoint.name} does not list its batches.")
            listed, has_more = page
            for state in listed:
                if state.input_file_id == batch.input_file_id and await self._is_nobodys(batch, state.id):
                    found = msgspec.structs.replace(batch, batch_id=state.id)
                    await self._records.open(found)
                    return found
            if not has_more or not listed:
                break
            after = f"&after={listed[-1].id}"
        await self.call_off(batch)
        return None

    async def _is_nobodys(self, batch: KeptBatch, batch_id: str) -> bool:
        """Whether this may be the batch that was asked for, since no other is known by the id."""
        known = await self._records.batch(batch.path, batch_id)
        return known is None or known.hold_id == batch.hold_id

    def _age_ms(self, batch: KeptBatch) -> int:
        return self._now_ms() - batch.at_ms

    # --- ends --------------------------------------------------------------------------------------------------------------------

    async def call_off(self, batch: KeptBatch) -> None:
        """Return the hold of a batch that never began."""
        await _unless_refused(self._holds.ledger.void(batch.path, batch.hold_id))
        await self._records.end(batch, at_ms=self._now_ms())

    async def settle(self, batch: KeptBatch, endpoint: Endpoint, state: openai_batches.Batch) -> None:
        """Settle a batch that has ended, by its output, unless that is done. Raises UpstreamError, UpstreamTimeout, LedgerUnavailable."""
        lock = self._settling.setdefault(batch.hold_id, asyncio.Lock())
        async with lock:  # whoever else asks waits, for an output may be large
            if await self._records.is_open(batch):
                await self._settle(batch, endpoint, state)

    async def _settle(self, batch: KeptBatch, endpoint: Endpoint, state: openai_batches.Batch) -> None:
        tally = Tally(batch.input)
        try:
            if state.has_run and not state.result_file_ids:
                raise _Gone
            for file_id in state.result_file_ids:
                await _count(endpoint, file_id, tally)
        except _Gone:
            await self._settle_at_bound(batch, "its output is gone", state)
            return
        cost, bound = tally.cost_nanocredits, batch.input.bound_nanocredits
        flags: tuple[Flag, ...] = ("above_maximum",) if cost > bound else ()
        spent, overrun = (raised_amount(amount, batch.price_percent) for amount in (min(cost, bound), max(0, cost - bound)))
        charge = Charge(spent, overrun, tally.usage, (*sorted(tally.flags), *flags))
        await self._end(batch, charge, state.result_file_ids)

    async def _settle_at_bound(self, batch: KeptBatch, why: str, state: openai_batches.Batch | None = None) -> None:
        log.warning("batch %s at %s is settled at its bound: %s", batch.batch_id or "(unnamed)", batch.upstream, why)
        charge = Charge(batch.bound_nanocredits, 0, NO_USAGE, ("missing",))
        await self._end(batch, charge, state.result_file_ids if state is not None else ())

    async def _end(self, batch: KeptBatch, charge: Charge, result_file_ids: tuple[str, ...]) -> None:
        """Settle, then give the results to the owner. Of several that do so at once, one counts it."""
        spent, overrun = charge.spent_nanocredits, charge.overrun_nanocredits
        price = batch.price
        counted = f"{batch.input.model} batch={batch.batch_id} lines={batch.input.lines}"
        memo = " ".join(filter(None, (counted, charge.counts, note_of(price))))
        settle = self._holds.ledger.settle(batch.path, batch.hold_id, spent_nanocredits=spent, overrun_nanocredits=overrun, memo=memo)
        settlement = await _unless_refused(settle)
        if await self._records.end(batch, result_file_ids, at_ms=self._now_ms()) and settlement is not None:
            metrics = self._holds.metrics
            metrics.usage_charged(model=batch.input.model, usage=charge.usage)
            for flag in charge.flags:
                metrics.usage_flagged(flag)
            metrics.credits_moved("debited", nominal_nanocredits(price, settlement.spent_nanocredits))
            metrics.credits_moved("overrun", nominal_nanocredits(price, settlement.overrun_nanocredits))
            if batch.tithe_share:
                self._owe(batch.person, batch.tithe_share, settlement.spent_nanocredits)


async def _count(endpoint: Endpoint, file_id: str, tally: Tally) -> None:
    """Add the lines of a file as they come. Raises _Gone, UpstreamError, UpstreamTimeout."""
    splitter = LineSplitter(LINE_MAX_BYTES)
    async with fetching.opened(endpoint, f"/v1/files/{file_id}/content") as reply:
        if reply.status in GONE_STATUSES:
            raise _Gone
        if reply.status >= 400:
            raise UpstreamError(f"The upstream {endpoint.name} does not give the output of a batch.")
        too_long_bytes = 0
        chunk = b"-"
        while chunk and not tally.is_full:
            chunk = await fetching.next_chunk(endpoint, reply)
            meaning = fetching.meaning_of(reply, chunk)
            for line in splitter.feed(meaning) if chunk else splitter.close():
                if line.opaque:  # a part of a line that is too long to keep: it counts by its bytes
                    too_long_bytes += len(line.raw)
                    if line.raw.endswith(b"\n"):
                        tally.add(Answer(None, openai_batches.output_tokens_of(tally.call, too_long_bytes)))
                        too_long_bytes = 0
                elif line.data is not None:
                    tally.add(openai_batches.read_output_line(tally.call, line.data))
        if too_long_bytes:
            tally.add(Answer(None, openai_batches.output_tokens_of(tally.call, too_long_bytes)))


async def _unless_refused(act: Awaitable[Answered]) -> Answered | None:
    """What the ledger answers; None where it refuses, which it would again."""
    try:
        return await act
    except Refusal as refusal:
        log.error("the ledger refuses the hold of a batch: %s", refusal.message)
        return None
