"""What a value in the file may be: amounts, identifiers, addresses, patterns, windows. A value that is none is told why."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from proxy import domain

Dialect = Literal["openai", "anthropic", "gemini", "ollama", "cohere", "vllm", "llamacpp", "tgi", "sglang", "tei", "kserve"]
LEDGER_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
WINDOW_SECONDS_MAX = 366 * 86_400


def _nanocredits(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError('give an amount of credits as a decimal string, such as "12.5"')
    return domain.nanocredits_from_credits(str(value))


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _window(value: str) -> str:
    if value in ("hour", "day", "week", "month", "ever"):
        return value
    seconds = re.fullmatch(r"([1-9][0-9]{0,8})s", value)
    if seconds is None or int(seconds.group(1)) > WINDOW_SECONDS_MAX:
        raise ValueError('must be hour, day, week, month, ever, or a number of seconds such as "18000s"')
    return value


def _time_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'{value!r} is not an IANA time zone, such as "Europe/Berlin"') from error
    return value


def _pattern(value: str) -> str:
    if not value or "*" in value[:-1] or len(value) > 256 or not value.isprintable():
        raise ValueError("must be a model's exact name, or a prefix with one trailing *")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("must be http(s)://host[:port][/path], without user, query or fragment")
    return value.rstrip("/")


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return value


Nanocredits = Annotated[int, BeforeValidator(_nanocredits)]
Amount = Annotated[int, BeforeValidator(_nanocredits), AfterValidator(_not_negative)]
Identifier = Annotated[str, Field(pattern=f"^{domain.IDENTIFIER_PATTERN}$")]
ModelPattern = Annotated[str, AfterValidator(_pattern)]
Address = Annotated[str, AfterValidator(_address)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Window = Annotated[str, AfterValidator(_window)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]


def _opaque_path(value: str) -> str:
    plain = re.fullmatch(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~:@!$&'()+,=-]+)+(?:/\*)?", value)
    if plain is None or len(value) > 512 or value.startswith("/ledger/"):
        raise ValueError("must be a plain absolute path outside /ledger/, exact or with a trailing /*")
    return value


def _model_name(value: str) -> str:
    if not value or "*" in value or len(value) > 256 or not value.isprintable():
        raise ValueError("must be a model's exact name")
    return value


OpaquePath = Annotated[str, AfterValidator(_opaque_path)]
ModelName = Annotated[str, AfterValidator(_model_name)]


def level_name(value: str) -> str:
    """A level's name as it is; ValueError where it would be taken for the unit that is none of a level."""
    if value == domain.CREDITS:
        raise ValueError(f"no level may be called {domain.CREDITS}")
    return value


LevelName = Annotated[Identifier, AfterValidator(level_name)]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=False)


def milliseconds(moment: dt.date | dt.datetime) -> int:
    """Milliseconds since 1970; a date, or a time without a zone, counts in UTC."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day, tzinfo=dt.UTC)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)
