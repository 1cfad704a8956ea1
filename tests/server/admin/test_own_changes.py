"""Which calls of self-service count as changes, and whose they are."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.domain import AccountId
from proxy.ledger import Store
from tests.server.admin.own_pages import Pages, serve

ANN = AccountId("user:ann")
REFUSED = (429, "too_many_requests")


@pytest.fixture
async def ann(store: Store) -> AsyncIterator[Pages]:
    """A person who may change something twice a minute."""
    await store.directory.create_account(ANN, operation_id="a")
    _, key = await store.directory.create_key(ANN, operation_id="k")
    assert key is not None
    async with serve(store, writes_per_minute=2) as base, aiohttp.ClientSession() as session:
        yield Pages(session, base, key)


async def test_an_agents_changes_are_its_persons(ann: Pages) -> None:
    """What an agent asks for counts for the person, and the refusal names the person and when to try again."""
    agent = await ann.done("POST", "/agents", {"name": "a", "cap": "1"})
    mine = ann.with_key(agent["key"])
    await mine.done("POST", f"/agents/{agent['id']}/requests", {"cap": "2"})
    for caller in (mine, ann):
        reply = await caller("PATCH", f"/ledger/v1/agents/{agent['id']}", {"status": "suspended"})
        assert (reply.status, reply.json["compute_ledger"]["account"]) == (429, ANN)
        assert 0 < int(reply.headers["Retry-After"]) <= 30
    assert (await ann.done("GET", f"/agents/{agent['id']}"))["status"] == "active"


async def test_every_change_counts_and_no_reading_does(ann: Pages) -> None:
    """Whether it is made or refused; a path that is none is told so all the same."""
    assert (await ann.refused("POST", "/transfers", {"to": "x", "credits": "1"}))[1] == "transfers_not_allowed"
    assert (await ann.refused("DELETE", "/agents/none"))[0] == 404
    for method, path in (
        *(("POST", "/agents"), ("PATCH", "/agents"), ("PATCH", "/agents/a"), ("DELETE", "/agents/a"), ("POST", "/agents/a/keys")),
        *(("POST", "/agents/a/requests"), ("POST", "/requests/r/approve"), ("POST", "/requests/r/decline"), ("POST", "/transfers")),
        *(("POST", "/loans"), ("POST", "/loans/l/accept"), ("POST", "/loans/l/decline"), ("POST", "/loans/l/repay")),
        ("POST", "/loans/l/forgive"),
    ):
        assert await ann.refused(method, path, {}) == REFUSED, path
    for path in ("/account", "/journal", "/prices", "/agents", "/requests", "/loans"):
        await ann.done("GET", path)
    assert (await ann.refused("POST", "/estimate", {}))[0] == 400
    assert (await ann.refused("POST", "/nowhere", {}))[0] == 404
