"""Errors of the admin API as problem details (RFC 9457).

`code` is stable and the same as on the proxy listener; `errors` names the place of each mistake in what was sent; `hint` says
what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from proxy.dialects.protocol import utc_time
from proxy.domain import credits_from_nanocredits
from proxy.errors import STATUS_BY_CODE, Expected

CONTENT_TYPE = "application/problem+json"
ERRORS_MAX = 50
"""Mistakes that one answer names; a body can hold many more."""


class Mistake(BaseModel):
    """One mistake in what was sent."""

    place: str = Field(description="Where: a member such as limits[0].credits, ?name for the query, {name} for the path")
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="urn:compute-ledger:problem: and the code")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The request id, also in X-Request-Id")
    code: str
    hint: str | None = None
    errors: tuple[Mistake, ...] | None = None
    account: str | None = None
    limit: str | None = None
    needed: str | None = None
    available: str | None = None
    resets_at: str | None = None


class Mistakes(Exception):
    """What was sent does not fit its model: at least one mistake."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(f"{mistakes[0].place}: {mistakes[0].message}")
        self.mistakes = mistakes


def mistakes_of(error: ValidationError, *, prefix: str = "") -> Mistakes:
    """The mistakes that pydantic found, each with its place."""
    found = (
        Mistake(place=prefix + _place(detail["loc"], whole=not prefix), message=_message(detail))
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
    )
    return Mistakes(tuple(found))


def _place(location: Iterable[int | str], *, whole: bool) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in location)
    return "".join(parts).lstrip(".") or ("body" if whole else "")


def _message(detail: Mapping[str, Any]) -> str:
    if detail["type"] == "extra_forbidden":
        return "is not known here"
    if detail["type"] == "missing":
        return "is missing"
    return str(detail["msg"]).removeprefix("Value error, ")


def problem_of(error: Expected, *, instance: str) -> Problem:
    """The problem for an expected no or a broken dependency."""
    return Problem(
        type=f"urn:compute-ledger:problem:{error.code}",
        title=_title(error.code),
        status=error.status,
        detail=error.message,
        instance=instance,
        code=error.code,
        hint=error.hint,
        account=error.account,
        limit=error.limit,
        needed=_credits(error.needed_nanocredits),
        available=_credits(error.available_nanocredits),
        resets_at=None if error.resets_at_ms is None else utc_time(error.resets_at_ms),
    )


def problem_of_mistakes(error: Mistakes, *, instance: str) -> Problem:
    shown = tuple(error.mistakes[:ERRORS_MAX])
    first = str(error)
    others = len(error.mistakes) - 1
    return Problem(
        type="urn:compute-ledger:problem:invalid_request",
        title=_title("invalid_request"),
        status=STATUS_BY_CODE["invalid_request"],
        detail=first if not others else f"{first} (and {others} more)",
        instance=instance,
        code="invalid_request",
        errors=shown,
    )


def problem_of_bug(*, instance: str) -> Problem:
    """What is said when nothing expected this; the log has the rest, under the same instance."""
    return Problem(
        type="urn:compute-ledger:problem:internal_error",
        title="Internal error",
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        detail="something went wrong that should not; the log says what, under this instance",
        instance=instance,
        code="internal_error",
    )


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize().replace("api key", "API key")


def _credits(amount_nanocredits: int | None) -> str | None:
    return None if amount_nanocredits is None else credits_from_nanocredits(amount_nanocredits)
