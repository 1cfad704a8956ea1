"""The audit log's lines: who did what, to what, from what, to what, and why.

A line is written after its act and carries the act's operation id, so that a repeat with the same Idempotency-Key writes it
again only where it is missing: the process died in between, or the ledger did. Whoever gets a 503 repeats the request and both
are done. Lines hold settings and amounts, never keys or tokens.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from proxy import domain
from proxy.errors import LedgerUnavailable
from proxy.ledger import Directory
from proxy.server.admin.views import LimitView

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Author:
    """Who acts, and the ids of the act: the same for every repeat of a request with its Idempotency-Key."""

    name: str
    operation_id: str
    event_id: str
    """Of the act and all that was sent."""

    @property
    def may_repeat(self) -> bool:
        """Whether it came with an Idempotency-Key."""
        return self.event_id != self.operation_id

    @property
    def claim(self) -> tuple[str, str]:
        """An id of its own for the whole request, and what tells this request from another with the same Idempotency-Key."""
        return f"request:{self.operation_id}", self.event_id


async def record(
    directory: Directory,
    author: Author,
    *,
    action: str,
    subject: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    """Write one line of the audit log, once for each act. Raises LedgerUnavailable where it could not be written."""
    try:
        await directory.record_event(
            actor=author.name,
            action=action,
            subject=subject,
            before=_state(before),
            after=_state(after),
            reason=reason,
            operation_id=author.event_id,
        )
    except LedgerUnavailable as error:
        log.error("audit log: %s %s by %s is done (%s) but not recorded", action, subject, author.name, author.operation_id)
        raise LedgerUnavailable(
            "the change is made, but the ledger failed before it was in the audit log",
            hint="repeat the request with the same Idempotency-Key: nothing is done twice",
        ) from error


def settings(account: domain.Account) -> dict[str, Any]:
    """What an operator can set of an account; balances change by themselves and are in the journal."""
    limits = None if account.own_limits is None else [dump(LimitView.of(limit)) for limit in account.own_limits]
    return {
        "plan": account.plan,
        "weight": account.weight,
        "status": account.status,
        "labels": dict(account.labels),
        "limits": limits,
    }


def dump(view: BaseModel) -> dict[str, Any]:
    return view.model_dump(mode="json", by_alias=True)


def _state(members: dict[str, Any] | None) -> str:
    return "" if members is None else json.dumps(members, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
