"""The meter of a conversation over a socket: money alone, for what was said so far and may be said by the next answer.

Where the meter of one answer counts tokens ahead, this one is told what is due and what may be due, and compares that with the hold.
"""

from __future__ import annotations

from proxy.domain import NO_USAGE, Price, Usage
from proxy.policy.pricing import cost_nanocredits, estimate_nanocredits
from proxy.server.estimating import Estimate
from proxy.server.metering import NO_CHARGE, Charge

INPUT_SLICES = 4
"""How many slices of input are held ahead for one of output: a conversation hears more than it says."""


class ConversationMeter:
    """What one conversation has been held for and what it costs."""

    __slots__ = ("_ahead_nanocredits", "_begun", "_price", "_usage", "amount_nanocredits", "is_lost", "slice_nanocredits", "usage_rejected")

    is_timed = False

    def __init__(self, price: Price, *, slice_tokens: int) -> None:
        self._price = price
        self._begun = False
        self._usage = NO_USAGE
        self._ahead_nanocredits = 0
        self.slice_nanocredits = estimate_nanocredits(price, input_tokens=INPUT_SLICES * slice_tokens, output_tokens=slice_tokens)
        self.amount_nanocredits = 0
        self.is_lost = False
        self.usage_rejected = False

    @property
    def price(self) -> Price:
        """What it counts by, from its hold to its end."""
        return self._price

    def begin(self) -> None:
        """The upstream has the request; from now on it costs something, however it ends."""
        self._begun = True

    def estimate(self, ahead: Usage) -> Estimate:
        """What to hold before it begins: what its first answer may cost at least, and a slice."""
        least = self._bound(ahead)
        return Estimate(want_nanocredits=least + self.slice_nanocredits, least_nanocredits=least)

    def hold_is(self, amount_nanocredits: int) -> None:
        """The hold is so large now."""
        self.amount_nanocredits = amount_nanocredits

    def hold_is_lost(self) -> None:
        """The hold is no longer open: nothing more is covered."""
        self.is_lost = True

    def see(self, now: Usage, ahead: Usage) -> None:
        """So much is due if it ended now, and so much may be due by the next token."""
        self._usage = now
        self._ahead_nanocredits = self._bound(ahead)

    def _bound(self, ahead: Usage) -> int:
        """The most that a usage can cost, whichever kinds its input turns out to be."""
        counted = cost_nanocredits(self._price, ahead)
        return max(counted, estimate_nanocredits(self._price, input_tokens=ahead.input_tokens, output_tokens=ahead.output_tokens))

    # --- what a hold asks --------------------------------------------------------------------------------------------------------

    @property
    def runs_low(self) -> bool:
        """Whether less than half a slice is left."""
        return 2 * (self.amount_nanocredits - self._ahead_nanocredits) < self.slice_nanocredits

    def next_slice(self) -> int:
        """Nanocredits to ask for so that another slice is covered."""
        return max(1, self._ahead_nanocredits + self.slice_nanocredits - self.amount_nanocredits)

    def slice_for(self, tokens: int) -> int:
        """The same: what is ahead is in it."""
        return self.next_slice()

    def covers(self, tokens: int) -> bool:
        """Whether the hold covers what may be due."""
        return not self.is_lost and self._ahead_nanocredits <= self.amount_nanocredits

    def keep_time(self) -> bool:
        """Time is not paid for."""
        return True

    def certain_nanocredits(self) -> int:
        """What is due already, whatever follows."""
        return min(self.amount_nanocredits, cost_nanocredits(self._price, self._usage)) if self._begun else 0

    def charge(self, *, complete: bool) -> Charge:
        """What it cost."""
        if not self._begun:
            return NO_CHARGE
        return Charge(cost_nanocredits(self._price, self._usage), 0, self._usage, ("absurd",) if self.usage_rejected else ())
