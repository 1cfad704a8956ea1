"""How Gemini phrases errors: Google's error model (google.rpc.Status over HTTP), with gRPC's names for what went wrong."""

from __future__ import annotations

import math
from typing import Any

from proxy.dialects.protocol import ledger_member
from proxy.errors import Expected

_NAME_BY_STATUS = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    422: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_WORTH_RETRYING = (429, 503)


def error_members(refusal: Expected, *, status: int | None = None) -> dict[str, Any]:
    """The members of an error body, `error` first, by which clients know it in a stream; `status` stands in for the refusal's own."""
    status = status or refusal.status
    error: dict[str, Any] = {"code": status, "message": _message(refusal), "status": _name(status)}
    if refusal.retry_after_s is not None and status in _WORTH_RETRYING:
        error["details"] = [{"@type": _RETRY_INFO, "retryDelay": f"{math.ceil(refusal.retry_after_s)}s"}]
    return {"error": error, "compute_ledger": ledger_member(refusal)}


def _name(status: int) -> str:
    return _NAME_BY_STATUS.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")


def _message(refusal: Expected) -> str:
    return refusal.message if refusal.hint is None else f"{refusal.message} {refusal.hint}"
