"""What a request may cost before it has run: what to hold for it, by the bound of its input and the slice of its output. Pure."""

from __future__ import annotations

from dataclasses import replace

from proxy.domain import Call, Price, Usage
from proxy.frozen import dataclass
from proxy.policy.pricing import estimate_nanocredits

SLICE_BYTES = 2**18
"""The slice of a stream that is measured in bytes."""
SLICE_MS = 5_000
"""The slice of the upstream's time, where that is paid for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What to hold before a request runs."""

    want_nanocredits: int
    least_nanocredits: int


def slice_size(call: Call, slice_tokens: int) -> int:
    """How much of one answer a stream's hold covers ahead, in the call's measure."""
    return slice_tokens if call.measure == "output" else SLICE_BYTES


def estimate(call: Call, price: Price, *, slice_tokens: int, output_tokens_max: int) -> Estimate:
    """The bound of the input and, of output: a slice for a stream; else all that the request may write, for it cannot be cut.

    `output_tokens_max` stands in where the request names no maximum. `least` covers one output token (of each answer, unless streamed), or
    all of it where no maximum in the request could make it shorter.
    """
    if call.stream:
        size = slice_size(call, slice_tokens)
        per_choice = size if call.output_tokens_max is None else min(size, call.output_tokens_max)
    else:
        per_choice = output_tokens_max if call.output_tokens_max is None else call.output_tokens_max
    least = min(1, per_choice) if call.stream else (min(1, per_choice) if call.divisible else per_choice) * call.choices
    units = units_for(call, SLICE_MS)
    return Estimate(
        want_nanocredits=bound_nanocredits(call, price, output_tokens=per_choice * call.choices, units=units),
        least_nanocredits=bound_nanocredits(call, price, output_tokens=least, units=units),
    )


def bound_nanocredits(call: Call, price: Price, *, output_tokens: int, units: Usage | None = None) -> int:
    """What a request may cost if its output, over all choices, is of this size and what comes unseen beside it as large as it may be.

    `units` where those are no longer the call's own.
    """
    return estimate_nanocredits(
        price,
        input_tokens=call.input_tokens_bound,
        output_tokens=output_tokens + call.unseen_tokens,
        units=call.units if units is None else units,
        measure=call.measure,
    )


def units_for(call: Call, elapsed_ms: int) -> Usage:
    """The call's units with so much of the upstream's time."""
    return replace(call.units, milliseconds=elapsed_ms) if call.timed else call.units
