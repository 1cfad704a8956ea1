"""The values that cross the boundary: how amounts, times, identifiers and texts are read from JSON and written to it.

Amounts are exact: JSON numbers arrive here as `Decimal`, never as floats. Knows nothing of routes or of the ledger.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from proxy import config, domain

AMOUNT_DIGITS_MAX = 28
"""As many as Python's decimals multiply without rounding; the ledger's range needs 16."""
MOMENT_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
_AMOUNT = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_MOMENT = re.compile(MOMENT_PATTERN)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def exact_nanocredits(value: object) -> int:
    """The integer for an amount as JSON carries it: a plain decimal string, or a number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise ValueError('must be an amount of credits: a decimal string such as "12.5", or a number')
    if isinstance(value, str) and not _AMOUNT.fullmatch(value):
        raise ValueError('must be an amount of credits: a decimal string such as "12.5"')
    amount = Decimal(value)
    if amount.is_zero():
        return 0
    if len(amount.as_tuple().digits) > AMOUNT_DIGITS_MAX:
        raise ValueError(f"has more than {AMOUNT_DIGITS_MAX} digits")
    if amount.adjusted() < -9:
        raise ValueError("has more than 9 decimal places")
    if amount.adjusted() > AMOUNT_DIGITS_MAX:
        raise ValueError("is beyond the ledger's range")
    return domain.nanocredits_from_credits(amount)


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must not be 0")
    return value


def milliseconds_from_moment(value: object) -> int:
    """Milliseconds since 1970 for an RFC 3339 time with its offset, cut to whole milliseconds. Raises ValueError."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise ValueError('must be an RFC 3339 time with an offset, such as "2026-11-22T12:00:00Z"')
    try:
        moment = dt.datetime.fromisoformat(value.upper())
        since = moment.astimezone(dt.UTC) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is not a time that exists: {error}") from error
    if since < dt.timedelta(0):
        raise ValueError("must not be before 1970")
    return since // dt.timedelta(milliseconds=1)


def _day_or_moment(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return milliseconds_from_moment(f"{value}T00:00:00Z")
    return milliseconds_from_moment(value)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not contain line breaks or control characters")
    return value


def _identifier(value: str) -> str:
    if not re.fullmatch(domain.IDENTIFIER_PATTERN, value):
        raise ValueError("must be 1 to 128 letters, digits or . _ : @ - and start with a letter or digit")
    return value


def _amount_schema(description: str, *, minimum: str) -> WithJsonSchema:
    schema: dict[str, Any] = {
        "description": f"{description}, exact to 9 places",
        "anyOf": [{"type": "string", "pattern": f"^{minimum}[0-9]+(\\.[0-9]+)?$"}, {"type": "number"}],
        "examples": ["12.5"],
    }
    return WithJsonSchema(schema, mode="validation")


_signed = _amount_schema("Credits, negative to give back", minimum="-?")
_unsigned = _amount_schema("Credits", minimum="")

Amount = Annotated[int, BeforeValidator(exact_nanocredits), AfterValidator(_not_negative), _unsigned]
PositiveAmount = Annotated[int, BeforeValidator(exact_nanocredits), AfterValidator(_positive), _unsigned]
SignedAmount = Annotated[int, BeforeValidator(exact_nanocredits), AfterValidator(_not_zero), _signed]

Moment = Annotated[
    int,
    BeforeValidator(milliseconds_from_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-22T12:00:00Z"]}, mode="validation"),
]
DayOrMoment = Annotated[
    int,
    BeforeValidator(_day_or_moment),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}, mode="validation"),
]

_identifier_schema = WithJsonSchema({"type": "string", "pattern": f"^{domain.IDENTIFIER_PATTERN}$"})
Identifier = Annotated[str, AfterValidator(_identifier), _identifier_schema]
LevelName = Annotated[Identifier, AfterValidator(config.level_name)]
Unit = Annotated[Identifier, Field(description="What amounts count: credits, or units of the level of this name")]
Reason = Annotated[str, Field(max_length=512), AfterValidator(_printable)]
GivenReason = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_printable)]
LabelText = Annotated[str, Field(max_length=256), AfterValidator(_printable)]
Labels = Annotated[dict[Identifier, LabelText], Field(max_length=32)]
Weight = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
RequestCount = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
ModelPattern = Annotated[config.ModelPattern, Field(description="A model's exact name, or a prefix with one trailing *")]

CreditsText = Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]{1,9})?$", description="Credits, exact", examples=["12.5"])]
MomentText = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T12:00:00Z"])]
