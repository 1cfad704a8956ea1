"""The audit log: who changed what, from what, to what, and why."""

from __future__ import annotations

import secrets

from proxy.domain import Event
from proxy.ledger import keys, records
from proxy.ledger.changes import PAGE_MAX, REMEMBERED_MS, Page
from proxy.ledger.engine import Engine


class AuditLog:
    """An append-only log beside the journal; one operation is recorded once."""

    _engine: Engine

    async def record_event(
        self,
        *,
        actor: str,
        action: str,
        subject: str,
        before: str = "",
        after: str = "",
        reason: str = "",
        operation_id: str | None = None,
    ) -> None:
        """Write one line of the audit log; one operation id is recorded once."""
        line = ("actor", actor, "action", action, "subject", subject, "before", before, "after", after, "reason", reason)
        mark = keys.event_mark(operation_id or secrets.token_hex(16))
        await self._engine.script("record", [mark, keys.EVENTS], [REMEMBERED_MS, *line], durable=True)

    async def events(self, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """The audit log, newest first."""
        count = min(limit, PAGE_MAX)
        rows = await self._engine.command("XREVRANGE", keys.EVENTS, "+" if after is None else f"({after}", "-", "COUNT", count)
        events = []
        for entry_id, flat in rows:
            text = {name: value.decode() for name, value in records.pairs(flat).items()}
            events.append(Event(entry_id.decode(), int(entry_id.split(b"-")[0]), **text))
        return Page(tuple(events), events[-1].event_id if len(events) == count else None)
