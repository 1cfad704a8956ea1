"""How Ollama phrases errors: the body of a refused request, and the same as a line in a stream."""

from __future__ import annotations

from typing import Any

from proxy.dialects.protocol import ledger_member
from proxy.errors import Expected


def error_members(refusal: Expected) -> dict[str, Any]:
    """The members of an error body, `error` and `compute_ledger`; clients show nothing but the text, so the code is in it."""
    return {"error": f"{refusal.code}: {refusal.message}", "compute_ledger": ledger_member(refusal)}
