"""How single values are read and written at the boundary."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import AMOUNT_MAX_NANOCREDITS, credits_from_nanocredits
from proxy.errors import Refusal
from proxy.server.admin.body import parse_object
from proxy.server.admin.fields import exact_nanocredits, milliseconds_from_moment
from proxy.server.admin.history import inert


@given(st.integers(-AMOUNT_MAX_NANOCREDITS, AMOUNT_MAX_NANOCREDITS))
def test_an_amount_is_read_exactly_as_text_and_as_number(amount: int) -> None:
    """What is written as credits is read as the same nanocredits, through JSON and back."""
    text = credits_from_nanocredits(amount)
    if abs(amount) // 10**9 < AMOUNT_MAX_NANOCREDITS // 10**9:
        assert exact_nanocredits(text) == amount
        assert exact_nanocredits(parse_object(f'{{"credits":{text}}}'.encode())["credits"]) == amount


@pytest.mark.parametrize("text", ["1e-9999999", "1e9999999", "0." + "1" * 30, "1e-10", "1.00000000000000000000000000000000001"])
def test_a_number_that_is_no_whole_nanocredit_is_refused(text: str) -> None:
    """Neither rounded nor taken for 0."""
    with pytest.raises((ValueError, Refusal)):
        exact_nanocredits(parse_object(f'{{"credits":{text}}}'.encode())["credits"])


@pytest.mark.parametrize(("text", "amount"), [("1E3", 10**12), ("0.5e-8", 5), ("-0", 0), ("0e5", 0), ("1.50000000000", 1_500_000_000)])
def test_a_number_may_be_written_in_any_way_that_json_has(text: str, amount: int) -> None:
    """Exponents and trailing zeros change nothing."""
    assert exact_nanocredits(parse_object(f'{{"credits":{text}}}'.encode())["credits"]) == amount


def test_floats_are_no_amounts() -> None:
    """Nothing that was rounded before can come in."""
    for value in (0.1, float("nan"), Decimal("NaN"), Decimal("Infinity")):
        with pytest.raises(ValueError):  # noqa: PT011 - the message differs
            exact_nanocredits(value)


def test_times_are_read_to_the_millisecond() -> None:
    """With any offset, lower case and a space as RFC 3339 allows."""
    assert milliseconds_from_moment("1970-01-01T00:00:00Z") == 0
    assert milliseconds_from_moment("1970-01-01 01:00:00.0019z") == 3_600_001
    assert milliseconds_from_moment("1970-01-01t01:30:00.5+01:00") == 1_800_500


@pytest.mark.parametrize(("text", "cell"), [("=1", "'=1"), ("+1", "'+1"), ("-1", "'-1"), ("@x", "'@x"), ("a=1", "a=1"), ("", "")])
def test_a_cell_is_never_a_formula(text: str, cell: str) -> None:
    """OWASP's list of what spreadsheets take for the start of one."""
    assert inert(text) == cell
