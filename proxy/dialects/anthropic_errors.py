"""How Anthropic phrases errors: the body of a refused request, which is also the error event in a stream."""

from __future__ import annotations

from typing import Any

from proxy.dialects.protocol import ledger_member
from proxy.errors import Expected

_TYPE_BY_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_members(refusal: Expected, status: int) -> dict[str, Any]:
    """The members of an error. Its message holds the hint as well, for it is all that clients show; `error_code` is ours."""
    message = refusal.message if refusal.hint is None else f"{refusal.message} {refusal.hint}"
    error = {"type": error_type(status), "message": message, "details": {"error_code": refusal.code}}
    return {"type": "error", "error": error, "compute_ledger": ledger_member(refusal)}


def error_type(status: int) -> str:
    """Anthropic's own kind of error for a status."""
    return _TYPE_BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")
