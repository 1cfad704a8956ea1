"""The meter's decisions, as plain numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import Answer, Call, Piece, Price, Tier, Usage
from proxy.policy.pricing import cost_nanocredits, estimate_nanocredits
from proxy.server.estimating import estimate
from proxy.server.metering import NO_CHARGE, Charge, Meter

PRICE = Price("m", 0, input=1_000_000, output=4_000_000, cached_input=500_000)
"""A nanocredit for a token of input, four for one of output."""


def call(**members: Any) -> Call:
    defaults: dict[str, Any] = {
        "operation": "chat",
        "model": "m",
        "stream": True,
        "choices": 1,
        "output_tokens_max": None,
        "input_tokens_bound": 100,
        "input_tokens_counted": 30,
        "wants_usage": False,
    }
    return Call(**{**defaults, **members})


def meter(amount_nanocredits: int = 10_000, *, price: Price = PRICE, slice_tokens: int = 10, **members: Any) -> Meter:
    made = Meter(call(**members), price, slice_tokens=slice_tokens)
    made.begin()
    made.hold_is(amount_nanocredits)
    return made


def word(tokens: int = 1, data: bytes = b"w") -> Piece:
    return Piece(data, tokens)


# --- before it runs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "want_tokens", "least_tokens"),
    [
        ({"stream": True}, 10, 1),
        ({"stream": True, "output_tokens_max": 3}, 3, 1),
        ({"stream": True, "choices": 4}, 40, 1),
        ({"stream": False}, 1000, 1),
        ({"stream": False, "output_tokens_max": 50, "choices": 4}, 200, 4),
        ({"stream": False, "output_tokens_max": 0}, 0, 0),
        ({"stream": False, "output_tokens_max": 50, "choices": 4, "divisible": False}, 200, 200),
        ({"stream": True, "output_tokens_max": 50, "divisible": False}, 10, 1),
    ],
)
def test_estimates(members: dict[str, Any], want_tokens: int, least_tokens: int) -> None:
    """A stream wants a slice, a whole answer all that it may become; one token is the least (of each answer, if whole), or all of it."""
    made = estimate(call(**members), PRICE, slice_tokens=10, output_tokens_max=1000)
    assert made.want_nanocredits == 100 + 4 * want_tokens
    assert made.least_nanocredits == 100 + 4 * least_tokens


def test_maximum_is_lowered_only_where_less_was_granted() -> None:
    """Per choice, so that all choices together fit."""
    assert meter(100 + 40, choices=4, stream=False).lower_maximum(140) is None
    lowered = meter(100 + 43, choices=4, stream=False)
    assert lowered.lower_maximum(1000) == 2
    assert lowered.charge_whole(Answer(Usage(input=100, output=9), 0)).overrun_nanocredits == 4


# --- what may be forwarded -----------------------------------------------------------------------------------------------------------


def test_what_is_covered_passes_and_the_rest_waits() -> None:
    """Whole pieces only; what costs nothing passes as long as it does not stand behind something that waits."""
    made = meter(100 + 4 * 3)
    pieces = [word(0, b"role"), word(2, b"ab"), word(1, b"c"), word(1, b"d"), word(0, b"end")]
    data, waiting = made.take(pieces)
    assert (data, waiting) == (b"roleabc", pieces[3:])
    assert made.forwarded_tokens == 3
    made.hold_is(100 + 4 * 4)
    assert made.take(waiting) == (b"dend", ())


def test_end_marker_is_kept_back_with_all_that_follows_it() -> None:
    """It waits for the settlement, and costs what it holds."""
    made = meter()
    data, waiting = made.take([word(), Piece(b"usage", 0, Usage(5, output=1)), Piece(b"DONE", last=True), word(0, b"\n")])
    assert (data, waiting, made.last) == (b"wusage", (), b"DONE\n")


def test_asks_ahead_when_half_a_slice_is_left() -> None:
    """Early enough that nothing waits, and never beyond what the request itself allows."""
    made = meter(100 + 4 * 10)
    made.take([word(5)])
    assert not made.runs_low
    made.take([word(1)])
    assert made.runs_low
    assert made.next_slice() == 40
    bounded = meter(100 + 4 * 10, output_tokens_max=10)
    bounded.take([word(9)])
    assert not bounded.runs_low


@pytest.mark.parametrize("tokens", [1, 7, 500])
def test_extension_covers_what_waits(tokens: int) -> None:
    """However large the next piece is, what is asked for covers it, and a slice after it."""
    made = meter(100 + 4 * 3)
    made.take([word(3)])
    made.hold_is(made.amount_nanocredits + made.slice_for(tokens))
    assert made.covered_tokens == 3 + tokens + 10


# --- what it costs -------------------------------------------------------------------------------------------------------------------


def test_nothing_is_due_before_it_was_sent() -> None:
    """A request that never left costs nothing."""
    made = meter()
    made.call_off()
    assert made.charge(complete=False) == NO_CHARGE


def test_believable_usage_is_charged_exactly() -> None:
    """Cached input at its own rate."""
    made = meter()
    made.deltas = 1
    made.take([word(), Piece(b"", 0, Usage(input=60, cached_input=40, output=7))])
    assert made.charge(complete=True).spent_nanocredits == 60 + 20 + 28


def test_usage_in_the_middle_is_carried_on_by_counting() -> None:
    """A stream that ends early after it reported usage: that, and what was forwarded since."""
    made = meter()
    made.take([word(), Piece(b"", 0, Usage(input=50, output=1)), word(2), word(1)])
    made.deltas = 3
    assert made.charge(complete=False).spent_nanocredits == 50 + 4 * 4


def test_missing_usage_is_counted() -> None:
    """From the fair count of the input, not from its bound."""
    made = meter()
    made.take([word(), word(2)])
    assert made.charge(complete=True).flags == ("missing",)
    assert made.charge(complete=True).spent_nanocredits == 30 + 12
    made.usage_rejected = True
    assert made.charge(complete=True).flags == ("absurd",)


def test_refused_output_is_overrun() -> None:
    """What came and was not forwarded is booked, and not charged."""
    made = meter(100 + 4)
    _, waiting = made.take([word(), word(3), word(2)])
    made.refused = waiting
    charge = made.charge(complete=False)
    assert (charge.spent_nanocredits, charge.overrun_nanocredits) == (34, 20)


@pytest.mark.parametrize(
    ("output", "deltas", "maximum", "charged", "overrun"),
    [(5, 5, 5, 5, 0), (9, 5, 5, 5, 4), (2, 5, 5, 5, 0), (9, 8, 5, 8, 1), (9, 5, None, 9, 0)],
)
def test_maximum_caps_what_was_not_delivered(output: int, deltas: int, maximum: int | None, charged: int, overrun: int) -> None:
    """Billed beyond the request's maximum is overrun, but what was delivered is paid even if the upstream ignores the maximum."""
    made = meter(output_tokens_max=maximum)
    made.take([word() for _ in range(deltas)] + [Piece(b"", 0, Usage(input=10, output=output))])
    made.deltas = deltas
    charge = made.charge(complete=True)
    assert (charge.spent_nanocredits, charge.overrun_nanocredits) == (10 + 4 * charged, 4 * overrun)


def test_what_is_thought_unseen_must_be_covered_before_more_is_forwarded() -> None:
    """As soon as the upstream reports it; beyond the request's maximum it is charged to nobody, and so not waited for."""
    made = meter(100 + 4 * 50)
    made.take([Piece(b"a", 1, Usage(input=10, output=1, reasoning=70))])
    assert made.take([word(), word()]) == (b"w", [word()])
    assert made.slice_for(1) == 4 * (72 + 1 + 10 - 50)
    made.hold_is(100 + 4 * 51)
    assert made.take([word()]) == (b"w", ())
    bounded = meter(100 + 4 * 8, output_tokens_max=5)
    bounded.take([Piece(b"a", 1, Usage(input=10, output=1, reasoning=48))])
    assert bounded.take([word(), word()]) == (b"ww", ())


@pytest.mark.parametrize(
    ("usage", "counted", "maximum", "charged", "overrun"),
    [(500, 400, 1, 400, 100), (500, 900, 1, 500, 0), (9, 5, 7, 7, 2), (None, 6, 4, 4, 2), (None, 400, 1, 100, 300)],
)
def test_maximum_that_an_upstream_ignores_makes_no_answer_free(
    usage: int | None, counted: int, maximum: int, charged: int, overrun: int
) -> None:
    """Of a whole answer, or of a few long deltas, all that was delivered is paid; without usage, as few tokens as its bytes can be."""
    reported = None if usage is None else Usage(input=30, output=usage)
    whole = meter(output_tokens_max=maximum, stream=False).charge_whole(Answer(reported, counted))
    assert (whole.spent_nanocredits, whole.overrun_nanocredits) == (30 + 4 * charged, 4 * overrun)
    streamed = meter(output_tokens_max=maximum)
    streamed.take([word(counted), Piece(b"", 0, reported)])
    streamed.deltas = 1
    charge = streamed.charge(complete=True)
    assert (charge.spent_nanocredits, charge.overrun_nanocredits) == (30 + 4 * charged, 4 * overrun)


@pytest.mark.parametrize(
    ("reported", "counted", "charged"),
    [(1, 3200, 100), (99, 3201, 101), (100, 3200, 100), (800, 3200, 800), (0, 3200, 3200), (1, 32, 1), (1, 33, 2)],
)
def test_no_report_is_believed_below_what_the_longest_tokens_would_make(reported: int, counted: int, charged: int) -> None:
    """Of a whole answer and of a few long deltas alike: no common vocabulary has a token of more than 128 bytes, counted as 32."""
    usage = Usage(input=30, output=reported)
    charge = meter(stream=False).charge_whole(Answer(usage, counted))
    assert charge.usage.output_tokens == charged
    assert charge.flags == (("below_deltas",) if reported < charged else ())
    if reported:
        streamed = meter(20_000)
        streamed.take([word(counted), Piece(b"", 0, usage)])
        streamed.deltas = 1
        assert (streamed.charge(complete=True).usage, streamed.charge(complete=True).flags) == (charge.usage, charge.flags)


def test_what_an_answer_repeats_is_no_floor_under_its_output() -> None:
    """Its length says nothing of what was written, so the report is believed as long as there is one."""
    whole = meter(stream=False, shows_writing=False)
    assert whole.charge_whole(Answer(Usage(input=30, output=1), 3200)).usage.output_tokens == 1
    assert whole.charge_whole(Answer(Usage(input=30), 3200)).usage.output_tokens == 3200


def test_kinds_are_cut_from_what_nobody_saw() -> None:
    """Above the maximum, reasoning goes first, then audio, then text."""
    made = meter(output_tokens_max=5)
    charge = made.charge_whole(Answer(Usage(input=1, output=4, reasoning=3, audio_output=2), 0))
    assert charge.usage == Usage(input=1, output=4, reasoning=0, audio_output=1)


def test_estimate_rule_charges_the_hold() -> None:
    """With `missing_usage = "estimate"` an answer without usage costs what was held for it."""
    made = Meter(call(), PRICE, slice_tokens=10)
    made.missing_usage = "estimate"
    made.begin()
    made.hold_is(140)
    assert made.charge(complete=True).spent_nanocredits == 140
    assert made.charge_whole(Answer(None, 3)).spent_nanocredits == 140


def test_delta_of_several_tokens_is_debited_as_one() -> None:
    """Bytes may make more tokens of it than the upstream will bill, and a debit cannot be taken back."""
    made = meter()
    made.deltas = 1
    made.take([word(9)])
    assert made.certain_nanocredits() == 4
    made.take([Piece(b"", 0, Usage(output=1))])
    assert made.charge(complete=True).spent_nanocredits == 4


RATES = st.integers(0, 50_000_000)
PRICES = st.builds(
    Price, model=st.just("m"), effective_at_ms=st.just(0), input=RATES, output=RATES, cached_input=st.none() | RATES,
    reasoning=st.none() | RATES, audio_output=st.none() | RATES, request=st.integers(0, 1000),
    tiers=st.just(()) | st.tuples(st.builds(Tier, st.integers(0, 300), input=st.none() | RATES, output=st.none() | RATES)),
)  # fmt: skip
USAGES = st.builds(
    Usage, input=st.integers(0, 500), cached_input=st.integers(0, 500), output=st.integers(0, 200), reasoning=st.integers(0, 200),
    audio_output=st.integers(0, 50),
)  # fmt: skip


@given(PRICES, st.lists(st.integers(0, 9), max_size=40), st.none() | USAGES, st.none() | st.integers(1, 100))
def test_what_is_debited_meanwhile_is_never_too_much(price: Price, tokens: list[int], usage: Usage | None, maximum: int | None) -> None:
    """Whatever usage comes in the end, and wherever the stream ends, the cost is no less than what was debited on the way."""
    made = meter(10**15, price=price, output_tokens_max=maximum)
    certain = 0
    for count in tokens:
        made.deltas += 1 if count else 0
        made.take([word(count)])
        assert made.certain_nanocredits() >= certain
        certain = made.certain_nanocredits()
    if usage is not None:
        made.take([Piece(b"", 0, usage)])
    for complete in (True, False):
        assert made.charge(complete=complete).spent_nanocredits >= certain


@given(PRICES, st.integers(0, 10**6), st.lists(st.integers(0, 9), max_size=60), st.randoms(use_true_random=False))
def test_forwarded_never_passes_the_hold(price: Price, amount: int, tokens: list[int], random: Any) -> None:
    """However the pieces come, the estimate of what was forwarded fits the hold, and chunking changes neither that nor the cost."""
    pieces = [word(count) for count in tokens]
    whole, parts = meter(amount, price=price), meter(amount, price=price)
    whole.take(pieces)
    rest = list(pieces)
    while rest:
        at = random.randint(1, len(rest))
        if parts.take(rest[:at])[1]:
            break
        del rest[:at]
    assert parts.forwarded_tokens == whole.forwarded_tokens
    assert parts.charge(complete=False) == whole.charge(complete=False)
    if whole.forwarded_tokens:
        assert estimate_nanocredits(price, input_tokens=100, output_tokens=whole.forwarded_tokens) <= amount


@given(PRICES, USAGES, st.integers(1, 300))
def test_cap_splits_a_cost_without_losing_any(price: Price, usage: Usage, maximum: int) -> None:
    """What is charged and what is overrun are together what the upstream billed."""
    charge = meter(10**15, price=price, output_tokens_max=maximum, stream=False).charge_whole(Answer(usage, 0))
    assert charge.spent_nanocredits + charge.overrun_nanocredits == cost_nanocredits(price, usage)
    assert charge.usage.output_tokens <= max(maximum, 0) or charge.usage == usage


def test_the_journal_shows_what_was_counted() -> None:
    """Kinds that were not used are left out."""
    charge = Charge(1, 0, Usage(input=9, output=5))

    assert charge.counts == "input=9 output=5"
