"""How a worker notes what people were denied: in what each of them counts, for so is their use."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.app.use import noting_denials
from proxy.config import LedgerSection
from proxy.domain import AccountId, Caller, Limit, Path, Plan, Price
from proxy.ledger import Store, open_ledger
from tests.support.ledger_server import LedgerServer

CREDIT = 1_000_000_000


@pytest.fixture
async def store(ledger_server: LedgerServer) -> AsyncIterator[Store]:
    async with open_ledger(LedgerSection(deadline_ms=20_000), url=ledger_server.url) as store:
        rows = (Price("m", 0, input=CREDIT // 4, output=CREDIT // 4, level="small"),)
        store.directory.configure(file_prices=rows, default_plan=None)
        yield store


@pytest.mark.parametrize(("unit", "noted"), [("credits", 3 * CREDIT), ("small", 12 * CREDIT), ("unheard-of", 3 * CREDIT)])
async def test_a_denial_is_noted_in_what_the_account_counts(store: Store, monkeypatch: pytest.MonkeyPatch, unit: str, noted: int) -> None:
    """Three credits are twelve units at an index of a quarter."""
    told: list[tuple[Path, str, int, str]] = []
    monkeypatch.setattr(type(store.equality.denials), "note", lambda _, *what, unit: told.append((*what, unit)))
    path = (AccountId("org"), AccountId("ann"))
    caller = Caller(path[-1], path, Plan("p", (Limit(CREDIT, "day"),), unit=unit), "key")
    noting_denials(store)(caller, "queue_full", 3 * CREDIT)
    assert told == [(path, "queue_full", noted, unit)]
