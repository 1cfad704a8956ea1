"""How Cohere phrases errors: the body of a refused request. In streams it has no error event, and clients would raise at none."""

from __future__ import annotations

from typing import Any

from proxy.dialects.protocol import ledger_member
from proxy.errors import Expected


def error_members(refusal: Expected) -> dict[str, Any]:
    """The members of an error body, `message` and `compute_ledger`."""
    return {"message": refusal.message, "compute_ledger": ledger_member(refusal)}
