"""The meter: the only place where a request's money is decided. Numbers in, decisions out; nothing here waits.

What may be forwarded: pieces whose output, together with the bound of the input, the hold covers. What it cost: the usage that the upstream
reports, where it can be believed; else what was forwarded. `holding.py` carries the decisions out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from proxy.domain import CREDITS, NO_USAGE, Answer, Call, Piece, Price, Usage, counted_in
from proxy.frozen import dataclass
from proxy.policy.pricing import affordable_output_tokens, cost_nanocredits, least_output_rate
from proxy.policy.units import nominal_nanocredits
from proxy.server import estimating
from proxy.server.estimating import bound_nanocredits, slice_size, units_for

Flag = Literal["missing", "absurd", "below_deltas", "above_maximum"]

_NOTHING_LEFT: Sequence[Piece] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request cost: `spent` is the caller's, `overrun` is what the upstream computed beyond what the caller may be charged for."""

    spent_nanocredits: int
    overrun_nanocredits: int
    usage: Usage
    """What `spent` was calculated from."""
    flags: tuple[Flag, ...] = ()

    @property
    def counts(self) -> str:
        """What was counted, for the journal: `input=9 output=5`."""
        return " ".join([f"{kind}={count}" for kind, count in counted_in(self.usage)])

    def in_credits(self, price: Price) -> Charge:
        """The same where it was counted at this price, in credits whatever that counts in: seats are shared by work."""
        if price.unit == CREDITS and price.raised_percent == 100:
            return self
        spent, overrun = (nominal_nanocredits(price, amount) for amount in (self.spent_nanocredits, self.overrun_nanocredits))
        return replace(self, spent_nanocredits=spent, overrun_nanocredits=overrun)


NO_CHARGE = Charge(0, 0, NO_USAGE)
TOKENS_COUNTED_IN_ONE_MAX = 4
"""As how many a long token of 16 bytes is counted."""
TOKENS_COUNTED_IN_LONGEST = 32
"""As how many the longest is counted that a common vocabulary has: 128 bytes, a run of blanks (cl100k, o200k, Llama 3, Qwen)."""


class Meter:
    """What one request has been held for, what of its answer was forwarded, and what it costs in the end."""

    __slots__ = (
        *(
            "_began_s",
            "_begun",
            "_call",
            "_covered_ms",
            "_ended_s",
            "_price",
            "_slice_tokens",
            "_reported_tokens",
            "_tokens_since_usage",
            "_usage",
        ),
        *("amount_nanocredits", "covered_tokens", "deltas", "forwarded_tokens", "last", "missing_usage", "output_tokens_max"),
        *("refused", "usage_rejected"),
    )

    def __init__(self, call: Call, price: Price, *, slice_tokens: int) -> None:
        self._call = call
        self._price = price
        self._slice_tokens = slice_size(call, slice_tokens) * call.choices
        self.missing_usage: Literal["count", "estimate"] = "count"
        """As the upstream has it that serves the request."""
        self._begun = False
        self._began_s = 0.0
        self._ended_s: float | None = None
        self._covered_ms = estimating.SLICE_MS
        """How much of the upstream's time is to be covered, where that is paid for."""
        self._usage: Usage | None = None
        self._tokens_since_usage = 0
        self._reported_tokens = 0
        """Output by the upstream's own word so far: more than was forwarded where it thinks unseen."""
        self.amount_nanocredits = 0
        self.covered_tokens = 0
        """Output tokens, over all choices, that the hold covers beside the input."""
        self.forwarded_tokens = 0
        self.refused: Sequence[Piece] = ()
        """What arrived and was not forwarded, because nothing covered it."""
        self.output_tokens_max = call.output_tokens_max
        """Per choice, as it was forwarded; None where the request names none."""
        self.deltas = 0
        self.usage_rejected = False
        self.last: bytes | None = None
        """The end marker, once it has come; it waits for the settlement."""

    def begin(self) -> None:
        """The upstream has the request; from now on it costs something, however it ends."""
        self._begun = True
        if self._call.timed:
            self._began_s, self._ended_s = time.monotonic(), None

    def stop_time(self) -> None:
        """The upstream has sent all; what follows is not its time."""
        self._ended_s = time.monotonic()

    @property
    def price(self) -> Price:
        """What it counts by, from its hold to its end."""
        return self._price

    @property
    def is_timed(self) -> bool:
        return self._call.timed

    @property
    def elapsed_ms(self) -> int:
        """The upstream's time so far, where that is paid for."""
        if not self._begun or not self._call.timed:
            return 0
        return round(((time.monotonic() if self._ended_s is None else self._ended_s) - self._began_s) * 1000)

    def keep_time(self) -> bool:
        """Whether the hold covers the time so far; asks for half a slice more than has passed. To be called again and again."""
        elapsed_ms = self.elapsed_ms
        if elapsed_ms + estimating.SLICE_MS // 2 > self._covered_ms:
            self._covered_ms = elapsed_ms + estimating.SLICE_MS
            self.hold_is(self.amount_nanocredits)
        return (
            bound_nanocredits(self._call, self._price, output_tokens=self.forwarded_tokens, units=units_for(self._call, elapsed_ms))
            <= self.amount_nanocredits
        )

    def call_off(self) -> None:
        """The upstream failed before anything could be forwarded, so nothing is due."""
        self._begun = False

    # --- what is held ----------------------------------------------------------------------------------------------------------

    def hold_is(self, amount_nanocredits: int) -> None:
        """The hold is so large now."""
        self.amount_nanocredits = amount_nanocredits
        call = self._call
        covered = affordable_output_tokens(
            self._price,
            input_tokens=call.input_tokens_bound,
            amount_nanocredits=amount_nanocredits,
            units=units_for(call, self._covered_ms),
            measure=call.measure,
        )
        self.covered_tokens = max(0, covered - call.unseen_tokens)

    def hold_is_lost(self) -> None:
        """The hold is no longer open: what was forwarded stays forwarded, nothing more is covered."""
        self.covered_tokens = self.forwarded_tokens

    def lower_maximum(self, wanted_nanocredits: int) -> int | None:
        """For an answer that cannot be cut: the maximum per choice that the hold pays; None where it pays all that was wanted."""
        if self.amount_nanocredits >= wanted_nanocredits:
            return None
        self.output_tokens_max = max(1, self.covered_tokens // self._call.choices)
        return self.output_tokens_max

    @property
    def runs_low(self) -> bool:
        """Whether less than half a slice is left, so that it is time to ask for the next; never beyond the request's own maximum."""
        covered = self.covered_tokens
        if 2 * (covered - (self._computed_tokens if self._reported_tokens else self.forwarded_tokens)) >= self._slice_tokens:
            return False
        return self.output_tokens_max is None or covered < self.output_tokens_max * self._call.choices

    def next_slice(self) -> int:
        """Nanocredits to ask for so that another slice is covered."""
        return self._lacking(max(self.covered_tokens, self._computed_tokens) + self._slice_tokens)

    def slice_for(self, tokens: int) -> int:
        """Nanocredits to ask for so that the next so many tokens are covered, and a slice after them."""
        return self._lacking(self._computed_tokens + tokens + self._slice_tokens)

    def covers(self, tokens: int) -> bool:
        """Whether so much more may be forwarded: it is covered, and so is what the upstream says that it has computed by now."""
        if self.forwarded_tokens + tokens > self.covered_tokens:
            return False
        return self._usage is None or self._computed_tokens + tokens <= self.covered_tokens or self._pays(self._usage, tokens)

    def _pays(self, usage: Usage, tokens: int) -> bool:
        """Whether the hold pays so many tokens beyond what was reported, at the rates of what it is and not at the dearest."""
        usage = replace(usage, output=usage.output + self._tokens_since_usage + tokens)
        return cost_nanocredits(self._price, usage) <= self.amount_nanocredits

    @property
    def _computed_tokens(self) -> int:
        """Output so far: what was forwarded, or more where the upstream reports more, as it does of what it thinks unseen."""
        reported = self._reported_tokens + self._tokens_since_usage
        if self.output_tokens_max is not None:
            reported = min(reported, self.output_tokens_max * self._call.choices)  # beyond that nothing is charged but what is forwarded
        return max(self.forwarded_tokens, reported)

    def _lacking(self, output_tokens: int) -> int:
        call = self._call
        needed = bound_nanocredits(call, self._price, output_tokens=output_tokens, units=units_for(call, self._covered_ms))
        return max(1, needed - self.amount_nanocredits)

    # --- what is forwarded -----------------------------------------------------------------------------------------------------

    def take(self, pieces: Sequence[Piece]) -> tuple[bytes, Sequence[Piece]]:
        """The bytes that may be forwarded now, counted as forwarded, and the pieces that nothing covers yet."""
        ready: list[bytes] = []
        for place, piece in enumerate(pieces):
            tokens = piece.output_tokens
            if tokens:
                if self.forwarded_tokens + tokens > self.covered_tokens or (self._reported_tokens and not self.covers(tokens)):
                    return b"".join(ready), pieces[place:]
                self.forwarded_tokens += tokens
                self._tokens_since_usage += tokens
            if piece.usage is not None:
                self._usage = piece.usage
                self._reported_tokens = piece.usage.output_tokens
                self._tokens_since_usage = 0
            if self.last is not None:
                self.last += piece.data
            elif piece.last:
                self.last = piece.data
            else:
                ready.append(piece.data)
        return ready[0] if len(ready) == 1 else b"".join(ready), _NOTHING_LEFT

    # --- what it costs ---------------------------------------------------------------------------------------------------------

    def certain_nanocredits(self) -> int:
        """What the request will cost at least, whatever usage is reported in the end: what may be debited while it runs.

        The input is not in it, because only the upstream knows how much of it was cached.
        """
        if self._call.measure == "bytes":
            return min(self.amount_nanocredits, cost_nanocredits(self._price, self._counted(self.forwarded_tokens))) if self._begun else 0
        if self.forwarded_tokens == 0:
            return 0
        tokens = min(self.deltas, self.forwarded_tokens)
        certain = -(-tokens * least_output_rate(self._price) // 1_000_000)
        return min(self.amount_nanocredits, self._price.request + certain)

    def charge(self, *, complete: bool) -> Charge:
        """What a streamed answer costs, as far as it came; `complete` when the upstream itself ended it."""
        if not self._begun:
            return NO_CHARGE
        least = max(min(self.deltas, self.forwarded_tokens), self._least_in(self.forwarded_tokens)) if self._call.measure == "output" else 0
        usage = self._usage
        if usage is not None and not complete:
            usage = replace(usage, output=usage.output + self._tokens_since_usage)
        charge = self._charged(usage, delivered_tokens=self.forwarded_tokens, least=least, reportable=complete)
        if refused_tokens := sum(piece.output_tokens for piece in self.refused):
            counted, refused = self._counted(self.forwarded_tokens), self._counted(self.forwarded_tokens + refused_tokens)
            overrun = cost_nanocredits(self._price, refused) - cost_nanocredits(self._price, counted)
            charge = replace(charge, overrun_nanocredits=charge.overrun_nanocredits + overrun)
        return charge

    def charge_whole(self, answer: Answer) -> Charge:
        """What an answer costs that came as a whole."""
        self.usage_rejected = answer.usage_rejected
        delivered_tokens = answer.output_tokens_counted
        # No output cannot be believed of an answer that has some; of how many tokens it was, its bytes are then the best that is known.
        is_denied = answer.usage is not None and answer.usage.output_tokens == 0
        least = delivered_tokens if is_denied else self._least_in(delivered_tokens)
        return self._charged(answer.usage, delivered_tokens=delivered_tokens, least=least, reportable=True)

    def _least_in(self, counted_tokens: int) -> int:
        """How many tokens there are at least in what was counted as so many."""
        return -(-counted_tokens // TOKENS_COUNTED_IN_LONGEST) if self._call.measure == "output" and self._call.shows_writing else 0

    def _counted(self, output: int) -> Usage:
        """What is charged where no usage comes, for so much output in the call's measure."""
        call = self._call
        if call.measure == "output":
            return replace(call.units, input=call.input_tokens_counted, output=output)
        units = units_for(call, self.elapsed_ms)
        return replace(units, input=call.input_tokens_counted, bytes=units.bytes + output)

    def _charged(self, usage: Usage | None, *, delivered_tokens: int, least: int, reportable: bool) -> Charge:
        flags: list[Flag] = []
        is_reported = usage is not None
        if usage is None:
            if reportable and self._call.reports_usage:
                flags.append("absurd" if self.usage_rejected else "missing")
            if self.missing_usage == "estimate":
                return Charge(self.amount_nanocredits, 0, NO_USAGE, tuple(flags))
            usage = self._counted(delivered_tokens)
        elif reportable and self.usage_rejected:
            flags.append("absurd")
        if usage.output_tokens < least:
            flags.append("below_deltas")
            usage = replace(usage, output=usage.output + least - usage.output_tokens)
        allowed = usage
        if self.output_tokens_max is not None:
            # What was delivered is paid, even beyond the maximum: else a maximum that an upstream ignores would make its answers free.
            # Where nobody but us has counted, long tokens may keep a text within a maximum that its bytes exceed.
            surely_tokens = delivered_tokens if is_reported else max(least, -(-delivered_tokens // TOKENS_COUNTED_IN_ONE_MAX))
            most = max(self.output_tokens_max * self._call.choices, surely_tokens)
            if usage.output_tokens > most:
                flags.append("above_maximum")
                allowed = _with_output_at_most(usage, most)
        spent = cost_nanocredits(self._price, allowed)
        overrun = 0 if allowed is usage else cost_nanocredits(self._price, usage) - spent
        return Charge(spent, overrun, allowed, tuple(flags))


def _with_output_at_most(usage: Usage, most: int) -> Usage:
    """The same usage with its output cut to so many tokens: first what nobody saw, then what was heard, then what was read."""
    excess = usage.output_tokens - most
    reasoning = max(0, usage.reasoning - excess)
    excess -= usage.reasoning - reasoning
    audio_output = max(0, usage.audio_output - excess)
    excess -= usage.audio_output - audio_output
    return replace(usage, reasoning=reasoning, audio_output=audio_output, output=usage.output - excess)
