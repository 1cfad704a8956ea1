"""The two kinds of expected error: a refusal is the caller's answer, a failure is a dependency that broke.

Every code that a caller can meet stands here once, with its HTTP status (the contract's table). How a dialect phrases it is the
dialect's business; which headers go with it is decided in `server/answers.py`.
"""

from __future__ import annotations

from typing import Final

STATUS_BY_CODE: Final[dict[str, int]] = {
    "invalid_request": 400,
    "invalid_api_key": 401,
    "insufficient_quota": 402,
    "request_exceeds_budget": 402,
    "account_suspended": 403,
    "model_not_allowed": 403,
    "model_not_priced": 403,
    "transfers_not_allowed": 403,
    "forbidden": 403,
    "unknown_path": 404,
    "model_not_found": 404,
    "account_not_found": 404,
    "grant_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "request_too_large": 413,
    "unsupported_encoding": 415,
    "adjustment_exceeds_spent": 422,
    "units_differ": 422,
    "budget_in_flight": 429,
    "queue_full": 429,
    "queue_timeout": 429,
    "too_many_requests": 429,
    "internal_error": 500,
    "upstream_error": 502,
    "ledger_unavailable": 503,
    "draining": 503,
    "upstream_timeout": 504,
}

BUDGET_CODES: Final = frozenset({"insufficient_quota", "request_exceeds_budget"})
"""The budget does not pay for it, whoever waits."""


class Expected(Exception):
    """An outcome that a caller is told about: a code, a sentence, and what helps to act on it.

    `message` says what happened; `hint` says what to do. `account`, `limit`, `needed`, `available` (nanocredits) and `resets_at_ms` are
    set as far as they apply. Whoever knows that the amounts are not in credits says so by `counts_in`.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        account: str | None = None,
        limit: str | None = None,
        needed_nanocredits: int | None = None,
        available_nanocredits: int | None = None,
        resets_at_ms: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS_BY_CODE[code]
        self.message = message
        self.hint = hint
        self.account = account
        self.limit = limit
        self.needed_nanocredits = needed_nanocredits
        self.available_nanocredits = available_nanocredits
        self.resets_at_ms = resets_at_ms
        self.retry_after_s = retry_after_s
        self.unit: str | None = None
        """The level in whose units the amounts are; None where they are in credits, or where there are none."""
        self.worth_nanocredits: int | None = None
        """What one of the units is worth, as far as it is known."""

    def counts_in(self, unit: str, worth_nanocredits: int | None) -> None:
        """Say that the amounts, if there are any, are in units of a level."""
        if self.needed_nanocredits is not None or self.available_nanocredits is not None:
            self.unit, self.worth_nanocredits = unit, worth_nanocredits


class Refusal(Expected):
    """An expected no: nothing broke, and the answer would be the same for anyone in the caller's place."""


class Conflict(Refusal):
    """The same id came again with other arguments; nothing was changed."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__("conflict", message, hint=hint)


class Failure(Expected):
    """A dependency broke."""


class LedgerUnavailable(Failure):
    """The ledger did not answer within the deadline, or answered that it cannot."""

    def __init__(self, message: str = "the ledger does not answer", *, hint: str | None = None) -> None:
        super().__init__("ledger_unavailable", message, hint=hint, retry_after_s=1.0)


class UpstreamError(Failure):
    """The upstream failed before the first byte of an answer."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__("upstream_error", message, hint=hint)


class UpstreamTimeout(Failure):
    """The upstream stayed silent beyond its time."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__("upstream_timeout", message, hint=hint)


class SetupError(Exception):
    """The program cannot start as it is configured; the message is the one line an operator reads."""
