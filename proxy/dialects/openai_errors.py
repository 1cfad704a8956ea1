"""How OpenAI phrases errors: the body of a refused request and the members that an error event in a stream holds."""

from __future__ import annotations

from typing import Any

from proxy.dialects.protocol import ledger_member
from proxy.errors import Expected

_TYPE_BY_STATUS = {402: "insufficient_quota", 429: "rate_limit_error"}


def error_members(refusal: Expected) -> dict[str, Any]:
    """The members of an error body, `error` and `compute_ledger`."""
    error = {"message": refusal.message, "type": error_type(refusal), "param": None, "code": refusal.code}
    return {"error": error, "compute_ledger": ledger_member(refusal)}


def error_type(refusal: Expected) -> str:
    """OpenAI's own kind of error: `insufficient_quota`, `rate_limit_error`, `server_error`, else `invalid_request_error`."""
    if refusal.status >= 500:
        return "server_error"
    return _TYPE_BY_STATUS.get(refusal.status, "invalid_request_error")
