"""Routes that tell what happened and what is going on: journal, holds, audit log, audit."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from proxy import domain
from proxy.dialects.protocol import utc_time
from proxy.domain import AccountId, credits_from_nanocredits
from proxy.ledger import Page
from proxy.server.admin.models import PAGE_ITEMS, PAGE_ITEMS_MAX, EventsQuery, HoldsQuery, JournalQuery, NoBody, NoQuery
from proxy.server.admin.records import AuditView, EntryPage, EntryView, EventPage, EventView, HoldPage, HoldView
from proxy.server.admin.routing import Ask, Desk, Export, route

CSV_COLUMNS = ("entry_id", "at", "verb", "id", "path", "credits", "memo", "account", "source", "from", "to", "moved")

Shown = Callable[[domain.Posting], bool]
ReadPage = Callable[[str | None, int], Awaitable[Page[domain.JournalEntry]]]


@route("GET", "/accounts/{id}/journal", "viewer", answer=EntryPage, query=JournalQuery, refusals=("account_not_found",), csv=True)
async def journal(desk: Desk, ask: Ask[NoBody, JournalQuery]) -> EntryPage | Export:
    """An account's journal, newest first; Accept: text/csv exports it."""
    return await journal_answer(desk, AccountId(ask.ids["id"]), ask.query, wants_csv=ask.wants_csv, shown=lambda posting: True)


async def journal_answer(desk: Desk, account_id: AccountId, query: JournalQuery, *, wants_csv: bool, shown: Shown) -> EntryPage | Export:
    """An account's journal, newest first, with the postings that may be shown; as CSV all of it unless a limit is given."""

    async def read(after: str | None, limit: int) -> Page[domain.JournalEntry]:
        return await desk.journal.entries(account_id, after=after, limit=limit)

    if wants_csv:
        first = await read(query.after, min(query.limit or PAGE_ITEMS_MAX, PAGE_ITEMS_MAX))
        chunks = _csv(first, read, everything=query.limit is None, shown=shown)
        return Export(f"journal-{re.sub(r'[^A-Za-z0-9._-]', '_', account_id)}.csv", "text/csv; charset=utf-8", chunks)
    page = await read(query.after, query.limit or PAGE_ITEMS)
    items = tuple(EntryView.of(entry, postings=[p for p in entry.postings if shown(p)]) for entry in page.items)
    return EntryPage(items=items, next=page.next)


async def _csv(page: Page[domain.JournalEntry], read: ReadPage, *, everything: bool, shown: Shown) -> AsyncIterator[bytes]:
    yield _rows([CSV_COLUMNS])
    while True:
        yield _rows([row for entry in page.items for row in _entry_rows(entry, shown)])
        if page.next is None or not everything:
            return
        page = await read(page.next, PAGE_ITEMS_MAX)


def _entry_rows(entry: domain.JournalEntry, shown: Shown) -> list[tuple[str, ...]]:
    """One row for each posting; an entry without any still has its row."""
    head = (
        entry.entry_id,
        utc_time(entry.at_ms),
        entry.verb,
        entry.id,
        " > ".join(entry.path),
        credits_from_nanocredits(entry.amount_nanocredits),
        inert(entry.memo),
    )
    moves: list[tuple[str, ...]] = [
        (p.account, p.source, p.origin, p.target, credits_from_nanocredits(p.amount_nanocredits)) for p in entry.postings if shown(p)
    ]
    return [head + move for move in moves or [("",) * 5]]


def inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _rows(rows: list[tuple[str, ...]]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


@route("GET", "/accounts/{id}/holds", "viewer", answer=HoldPage, query=HoldsQuery, refusals=("account_not_found",))
async def holds(desk: Desk, ask: Ask[NoBody, HoldsQuery]) -> HoldPage:
    """An account's open holds."""
    page = await desk.journal.holds(AccountId(ask.ids["id"]), after=ask.query.after, limit=ask.query.limit)
    return HoldPage(items=tuple(HoldView.of(hold) for hold in page.items), next=page.next)


@route("GET", "/events", "viewer", answer=EventPage, query=EventsQuery)
async def list_events(desk: Desk, ask: Ask[NoBody, EventsQuery]) -> EventPage:
    """The audit log, newest first."""
    page = await desk.directory.events(after=ask.query.after, limit=ask.query.limit)
    return EventPage(items=tuple(EventView.of(event) for event in page.items), next=page.next)


@route("POST", "/audit", "operator", answer=AuditView)
async def audit(desk: Desk, ask: Ask[NoBody, NoQuery]) -> AuditView:
    """Prove conservation on the live ledger."""
    return AuditView.of(await desk.journal.audit())


ROUTES = (journal, holds, audit, list_events)
