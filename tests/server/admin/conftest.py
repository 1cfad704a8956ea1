"""A real admin listener on a real ledger for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.ledger import Store
from tests.server.admin.bench import Client, ClientOf, Health, listen, open_store
from tests.support.ledger_server import LedgerServer


@pytest.fixture
async def store(ledger_server: LedgerServer) -> AsyncIterator[Store]:
    async with open_store(ledger_server) as store:
        yield store


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def address(store: Store, health: Health) -> AsyncIterator[str]:
    async with listen(store, health) as base:
        yield base


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def client_of(address: str) -> AsyncIterator[ClientOf]:
    """A client for each role, or (None) without a token."""
    async with aiohttp.ClientSession() as session:
        yield lambda role: Client(session, address, role)


@pytest.fixture
def call(client_of: ClientOf) -> Client:
    """An owner's client."""
    return client_of("owner")
