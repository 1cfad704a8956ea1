"""The one life of a hold: reserved, kept alive, extended, and ended exactly once, whatever becomes of the request.

Its end runs shielded from cancellation; one that the ledger does not take in time goes to the backlog. What may be forwarded and what it
costs the meter decides; what holds have in common stands in `holds.py`. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Literal, Protocol, Self, TypeVar

from proxy.domain import Path, Price, RequestRate, Settlement, Tightest
from proxy.errors import BUDGET_CODES, LedgerUnavailable, Refusal
from proxy.ledger.backlog import Record
from proxy.policy.units import name_unit, nominal_nanocredits, note_of
from proxy.server.estimating import Estimate
from proxy.server.holds import Holds
from proxy.server.metering import NO_CHARGE, Charge

log = logging.getLogger(__name__)

DEBIT_INTERVAL_S = 0.5


class Metered(Protocol):
    """What a hold needs to know of what it stands for, in nanocredits, or in nanounits of what its price counts in."""

    @property
    def price(self) -> Price: ...

    @property
    def is_timed(self) -> bool: ...

    @property
    def runs_low(self) -> bool: ...

    def charge(self, *, complete: bool) -> Charge: ...

    def certain_nanocredits(self) -> int: ...

    def hold_is(self, amount_nanocredits: int) -> None: ...

    def hold_is_lost(self) -> None: ...

    def next_slice(self) -> int: ...

    def slice_for(self, tokens: int) -> int: ...

    def covers(self, tokens: int) -> bool: ...

    def keep_time(self) -> bool: ...


AnyMeter = TypeVar("AnyMeter", bound=Metered)


class Reservation(Generic[AnyMeter]):
    """Credits reserved for one request. Enter it to reserve; `settle` it, or leave it and what the meter says is due is settled.

    The journal shows the model beside it, and the index where the account counts in units of a level; metrics count credits in any case.
    """

    __slots__ = (
        *("_debited_nanocredits", "_ended", "_estimate", "_extending", "_heard_s", "_held_nanocredits", "_holds", "_lost"),
        *("_pending", "_refused", "_sequence", "_told_s", "_unheld"),
        *("amount_nanocredits", "hold_id", "meter", "model", "on_end", "otherwise", "path", "rate", "tightest"),
    )

    def __init__(self, holds: Holds, path: Path, hold_id: str, estimate: Estimate, meter: AnyMeter, *, model: str) -> None:
        self._holds = holds
        self._estimate = estimate
        self.path = path
        self.hold_id = hold_id
        self.meter = meter
        self.model = model
        self.amount_nanocredits = 0
        """What the request may cost by now: what the ledger holds for it, or what an outage's allowance lets pass."""
        self.tightest: Tightest | None = None
        self.rate: RequestRate | None = None
        self._held_nanocredits = 0
        """As the ledger last said."""
        self._debited_nanocredits = 0
        self._told_s = self._heard_s = 0.0
        """When a call to the ledger was last made, and when the last one was made that it answered."""
        self._sequence = 0
        self._pending: tuple[int, int] | None = None
        """An extension whose answer is not known: its sequence and what was wanted."""
        self._extending: asyncio.Task[None] | None = None
        self._refused = False
        """The last extension gave less than was wanted, so the budget is about to end."""
        self._lost = False
        """The hold is no longer open, so nothing more may be forwarded on it."""
        self._unheld = False
        self._ended = False
        self.on_end: Callable[[Charge | None], None] = lambda charge: None
        """Called when the hold ends, before the ledger is told, with what it cost; None where nothing was sent."""

        self.otherwise: Callable[[Refusal], Awaitable[Path | None]] | None = None
        """Who else may pay where the budget does not: another path, the same one where it has got more meanwhile, or None."""

    # --- beginning ---------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Reserve. Raises what `Ledger.hold` does; LedgerUnavailable."""
        holds, wanted = self._holds, self._estimate
        holds.backlog.check_room()
        began_s = time.monotonic()
        try:
            hold = await holds.ledger.hold(
                self.path, self.hold_id, want_nanocredits=wanted.want_nanocredits, least_nanocredits=wanted.least_nanocredits
            )
        except Refusal as refusal:
            name_unit(refusal, self.meter.price)
            path = None if self.otherwise is None or refusal.code not in BUDGET_CODES else await self.otherwise(refusal)
            if path is None:
                raise
            self.path, self.otherwise = path, None
            try:
                return await self.__aenter__()
            except Refusal:  # what the other lacks is not the caller's to know, nor to mend
                raise refusal from None
        except LedgerUnavailable:
            self._void_later()
            if not holds.allow(self._in_credits(wanted.want_nanocredits)):
                raise
            self._unheld = True
            self._grown(wanted.want_nanocredits, None)
        except asyncio.CancelledError:
            self._void_later()
            raise
        else:
            holds.ledger_answered()
            self._held_nanocredits = hold.amount_nanocredits
            self._grown(hold.amount_nanocredits, hold.tightest)
            self.rate = hold.rate
        self._told_s = self._heard_s = began_s
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._ended:
            charge = self.meter.charge(complete=False)
            self._ended = True
            await asyncio.shield(self._holds.in_background(self._end(charge)))

    def _grown(self, amount_nanocredits: int, tightest: Tightest | None) -> None:
        self._holds.metrics.held_changed(self._in_credits(amount_nanocredits) - self._in_credits(self.amount_nanocredits))
        self.amount_nanocredits = amount_nanocredits
        self.tightest = tightest
        self.meter.hold_is(amount_nanocredits)

    def _in_credits(self, amount: int) -> int:
        return nominal_nanocredits(self.meter.price, amount)

    def certain_in_credits(self) -> int:
        """What the request will cost at least, in credits whatever the account counts in."""
        return self._in_credits(self.meter.certain_nanocredits())

    @property
    def ended(self) -> bool:
        """Whether it has been settled or voided."""
        return self._ended

    # --- while it runs -----------------------------------------------------------------------------------------------------------

    def extend_ahead(self) -> None:
        """Ask for the next slice without waiting, unless that is under way already or the budget is known to be about to end."""
        if self._extending is None and not self._refused and not self._lost:
            self._extend(self.meter.next_slice())

    async def cover(self, tokens: int) -> bool:
        """Wait until the hold covers the next so many tokens; False when it cannot. Raises LedgerUnavailable."""
        if self._extending is not None:
            await asyncio.shield(self._extending)
            if self.meter.covers(tokens):
                return True
        for _ in range(2):  # the first may only repeat a smaller one, whose answer was lost
            if self._lost:
                raise LedgerUnavailable("the hold of this request ran out while the ledger was away")
            await asyncio.shield(self._extend(self.meter.slice_for(tokens)))
            if self.meter.covers(tokens):
                return True
            if self._pending is not None:
                raise LedgerUnavailable
            if self._refused:
                return False
        return False

    def _extend(self, want_nanocredits: int) -> asyncio.Task[None]:
        self._extending = self._holds.in_background(self._ask_for(want_nanocredits))
        return self._extending

    async def _ask_for(self, want_nanocredits: int) -> None:
        try:
            if self._unheld:
                self._extend_unheld(want_nanocredits)
            else:
                await self._extend_held(want_nanocredits)
        finally:
            self._extending = None

    async def _extend_held(self, want_nanocredits: int) -> None:
        if self._pending is None:
            self._sequence += 1
            self._pending = (self._sequence, want_nanocredits)
        sequence, want = self._pending  # an extension whose answer was lost is asked for again before any other
        spent = self.meter.certain_nanocredits()
        self._told_s = began_s = time.monotonic()
        try:
            hold = await self._holds.ledger.extend(
                self.path, self.hold_id, sequence=sequence, spent_nanocredits=spent, want_nanocredits=want
            )
        except LedgerUnavailable:
            self._extend_unheld(want)
            return
        self._holds.ledger_answered()
        self._pending = None
        if hold is None:
            self._lose()
            return
        self._heard_s = began_s
        self._debited(spent)
        self._refused = hold.amount_nanocredits - self._held_nanocredits < want
        self._held_nanocredits = hold.amount_nanocredits
        self._grown(hold.amount_nanocredits, hold.tightest)

    def _extend_unheld(self, want_nanocredits: int) -> None:
        if not self._ended and self._holds.allow(self._in_credits(want_nanocredits)):
            self._pending = None
            self._grown(self.amount_nanocredits + want_nanocredits, None)

    def keep_time(self) -> Refusal | None:
        """For a request whose time is paid: see that the hold covers it, some way ahead; the refusal that ends it where it cannot."""
        is_covered = self.meter.keep_time()
        if self.meter.runs_low:
            self.extend_ahead()
        return None if is_covered or self._extending is not None else self.used_up()

    def left_after(self, held_nanocredits: int, charge: Charge) -> Tightest | None:
        """The tightest limit once a hold of this size has ended so; what others did meanwhile is not in it."""
        tightest = self.tightest
        if tightest is None:
            return None
        left = tightest.remaining_nanocredits + held_nanocredits - charge.spent_nanocredits
        return Tightest(
            tightest.account, tightest.limit_key, tightest.credits_nanocredits, max(0, left), tightest.resets_at_ms, tightest.window_s
        )

    def used_up(self) -> Refusal:
        """The refusal with which a stream is cut."""
        tightest = self.tightest
        if tightest is None:
            return Refusal("insufficient_quota", "The budget is used up.")
        refusal = Refusal(
            "insufficient_quota",
            f"The budget of {tightest.account} is used up.",
            account=tightest.account,
            limit=tightest.limit_key,
            available_nanocredits=tightest.remaining_nanocredits,
            resets_at_ms=tightest.resets_at_ms,
        )
        name_unit(refusal, self.meter.price)
        return refusal

    def is_due_for_debit(self, now_s: float) -> bool:
        """Whether the ledger should hear of it: something is newly spent, or it has heard nothing for so long that the hold might expire.

        A hold that may have expired already covers nothing more.
        """
        if self._ended or self._lost or self._unheld or now_s - self._told_s < DEBIT_INTERVAL_S:
            return False
        silent_s = now_s - self._heard_s
        if silent_s >= self._holds.hold_ttl_s and not self._holds.allows_unheld:
            self._lose()
            return False
        return silent_s >= self._holds.hold_ttl_s / 3 or self.meter.certain_nanocredits() > self._debited_nanocredits

    async def debit(self) -> None:
        """Record what is certainly spent so far, and keep the hold alive; a ledger that does not answer is asked again later."""
        spent = self.meter.certain_nanocredits()
        self._told_s = began_s = time.monotonic()
        try:
            is_open = await self._holds.ledger.debit(self.path, self.hold_id, spent_nanocredits=spent)
        except LedgerUnavailable:
            return
        if is_open:
            self._heard_s = began_s
            self._debited(spent)
        elif not self._ended:
            self._lose()

    def _lose(self) -> None:
        self._lost = True
        self.meter.hold_is_lost()

    def _debited(self, spent_nanocredits: int) -> None:
        if spent_nanocredits > self._debited_nanocredits and not self._ended:
            self._holds.metrics.held_changed(self._in_credits(self._debited_nanocredits) - self._in_credits(spent_nanocredits))
            self._debited_nanocredits = spent_nanocredits

    # --- ending ------------------------------------------------------------------------------------------------------------------

    async def settle(self, charge: Charge) -> Settlement | None:
        """End the hold at its cost; None when the ledger is away and the backlog keeps it."""
        assert not self._ended, "a hold ends once"
        self._ended = True
        try:
            return await self._end(charge)
        except asyncio.CancelledError:
            self._holds.in_background(self._end(charge))
            raise

    async def _end(self, charge: Charge) -> Settlement | None:
        """Settle or void; the same again changes nothing."""
        holds, spent, overrun = self._holds, charge.spent_nanocredits, charge.overrun_nanocredits
        self.on_end(None if charge is NO_CHARGE else charge)
        memo = " ".join(filter(None, (self.model, charge.counts, note_of(self.meter.price))))
        settlement: Settlement | None = None
        try:
            if self._unheld:
                if spent:
                    await self._keep("charge", charge, memo)
            elif spent or overrun:
                settlement = await holds.ledger.settle(
                    self.path, self.hold_id, spent_nanocredits=spent, overrun_nanocredits=overrun, memo=memo
                )
            else:
                settlement = await holds.ledger.void(self.path, self.hold_id)
        except LedgerUnavailable:
            await self._keep("settle" if spent or overrun else "void", charge, memo)
        except Refusal as refusal:  # it cannot end in another way than it did
            log.error("the end of hold %s was refused: %s", self.hold_id, refusal.message)
        self._count_end(settlement, charge)
        return settlement

    async def _keep(self, verb: Literal["settle", "void", "charge"], charge: Charge, memo: str) -> None:
        record = Record(verb, self.path, self.hold_id, charge.spent_nanocredits, charge.overrun_nanocredits, memo)
        await self._holds.backlog.add(record)

    def _count_end(self, settlement: Settlement | None, charge: Charge) -> None:
        metrics = self._holds.metrics
        metrics.usage_charged(model=self.model, usage=charge.usage)
        for flag in charge.flags:
            metrics.usage_flagged(flag)
        metrics.held_changed(self._in_credits(self._debited_nanocredits) - self._in_credits(self.amount_nanocredits))
        self.amount_nanocredits = self._debited_nanocredits = 0
        spent = charge.spent_nanocredits if settlement is None else settlement.spent_nanocredits
        overrun = charge.overrun_nanocredits if settlement is None else settlement.overrun_nanocredits
        if spent:
            metrics.credits_moved("debited", self._in_credits(spent))
        if overrun:
            metrics.credits_moved("overrun", self._in_credits(overrun))

    def _void_later(self) -> None:
        if self._holds.has_time:
            self._holds.in_background(self._void_unknown())

    async def _void_unknown(self) -> None:
        """Void a hold whose making was not answered, twice: it may land only after the first void. What is left of it expires."""
        for pause_s in (0.0, self._holds.deadline_s):
            await asyncio.sleep(pause_s)
            with contextlib.suppress(LedgerUnavailable):
                await self._holds.ledger.void(self.path, self.hold_id)
