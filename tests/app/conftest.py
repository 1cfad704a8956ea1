"""A view of a real, empty ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.ledger import Store
from tests.server.admin.bench import open_store
from tests.support.ledger_server import LedgerServer


@pytest.fixture
async def store(ledger_server: LedgerServer) -> AsyncIterator[Store]:
    async with open_store(ledger_server) as store:
        yield store
