"""The listener's open paths, its headers, and what it says when something is broken."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest

from proxy.domain import AccountId
from proxy.errors import LedgerUnavailable
from proxy.ledger import Store
from tests.server.admin.bench import SECRETS, Client, ClientOf, Health


async def test_health_needs_no_token_and_says_only_that_the_process_lives(client_of: ClientOf, health: Health) -> None:
    """Also while it is not ready."""
    health.reasons = ("the ledger does not answer",)
    reply = await client_of(None)("GET", "/healthz")
    assert (reply.status, reply.json) == (200, {"alive": True})


async def test_readiness_names_every_reason(client_of: ClientOf, health: Health) -> None:
    """200 when it can serve, 503 with reasons when it cannot."""
    reply = await client_of(None)("GET", "/readyz")
    assert (reply.status, reply.json) == (200, {"ready": True, "reasons": []})
    health.reasons = ("draining", "no worker is up")
    reply = await client_of(None)("GET", "/readyz?verbose")
    assert (reply.status, reply.json) == (503, {"ready": False, "reasons": ["draining", "no worker is up"]})


async def test_metrics_are_passed_on_as_they_are(client_of: ClientOf) -> None:
    """With their own content type."""
    reply = await client_of(None)("GET", "/metrics")
    assert (reply.status, reply.text) == (200, "compute_ledger_ledger_up 1\n")
    assert reply.headers["Content-Type"] == "text/plain; version=1.0.0"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_open_paths_take_get_and_head_alone(client_of: ClientOf, path: str) -> None:
    """Probes use HEAD, too."""
    assert (await client_of(None)("HEAD", path)).status == 200
    reply = await client_of(None)("POST", path)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


async def test_every_answer_has_an_id_and_is_not_kept(call: Client) -> None:
    """The id of a problem is the one in the header."""
    for path in ("/healthz", "/admin/v1/plans", "/admin/v1/nothing"):
        reply = await call("GET", path)
        assert len(reply.headers["X-Request-Id"]) == 36
        assert reply.headers["Cache-Control"] == "no-store"
        assert "aiohttp" not in reply.headers["Server"]
    assert reply.json["instance"] == f"urn:uuid:{reply.headers['X-Request-Id']}"


async def test_a_problem_has_the_members_of_rfc_9457(call: Client) -> None:
    """And a code, which is what programs read."""
    reply = await call("GET", "/admin/v1/accounts/nobody")
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json == {
        "type": "urn:compute-ledger:problem:account_not_found",
        "title": "Account not found",
        "status": 404,
        "detail": "there is no account 'nobody'",
        "instance": reply.json["instance"],
        "code": "account_not_found",
        "account": "nobody",
    }


async def test_a_ledger_that_is_away_is_503_and_recovers(call: Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Retry-After, and without a stack trace in the log."""

    async def away(*_: object, **__: object) -> None:
        raise LedgerUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(store.directory, "accounts", away)
        reply = await call("GET", "/admin/v1/accounts")
        assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "ledger_unavailable", "1")
    assert (await call("GET", "/admin/v1/accounts")).status == 200


async def test_a_bug_is_500_without_its_details(
    call: Client, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the rest under the same instance."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(store.directory, "accounts", broken)
    reply = await call("GET", "/admin/v1/accounts")
    assert (reply.status, reply.json["code"]) == (500, "internal_error")
    assert "secret detail" not in reply.text
    assert reply.json["instance"] in caplog.text


async def test_the_log_has_one_line_for_each_call_and_no_secret(call: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Who, which call, how it ended; never a token, a key or an id of the path."""
    caplog.set_level(logging.INFO)
    await call.done("POST", "/accounts", {"id": "user:ann", "labels": {"note": "private"}})
    key = (await call.done("POST", "/accounts/user:ann/keys"))["key"]
    await call("GET", "/admin/v1/accounts/user:ann?x=%0d%0aforged")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("proxy.server.admin")]
    assert [line.rpartition(" ")[0] for line in lines] == [
        "admin POST /admin/v1/accounts status=201 actor=owner-1",
        "admin POST /admin/v1/accounts/{id}/keys status=201 actor=owner-1",
        "admin GET /admin/v1/accounts/{id} status=400 actor=owner-1",
    ]
    for secret in (*SECRETS.values(), key, "private", "forged"):
        assert secret not in caplog.text


async def test_a_token_is_asked_for_before_a_body_is_read(address: str) -> None:
    """Whoever waits for `100 Continue` without a token gets 401 instead; with one, it is told to go on."""
    host, port = address.removeprefix("http://").split(":")
    head = "POST /admin/v1/accounts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\nExpect: 100-continue\r\n"
    for authorization, first in (("", b"HTTP/1.1 401"), (f"Authorization: Bearer {SECRETS['owner']}\r\n", b"HTTP/1.1 100")):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{head}{authorization}\r\n".encode())
        assert (await reader.readline()).startswith(first)
        if first.endswith(b"100"):
            writer.write(b'{"id":"a"}')
            await reader.readline()
            assert (await reader.readline()).startswith(b"HTTP/1.1 201")
        writer.close()


async def test_an_export_that_breaks_off_is_not_taken_for_the_whole(call: Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks, so that no client sees a clean end."""
    await call.done("POST", "/accounts", {"id": "user:ann"})
    path = (AccountId("user:ann"),)
    for n in range(255):
        await store.ledger.hold(path, f"h{n}", want_nanocredits=1, least_nanocredits=0)
        await store.ledger.void(path, f"h{n}")
    entries = store.journal.entries

    async def once(account_id: AccountId, *, after: str | None = None, limit: int = 100) -> Any:
        if after is not None:
            raise LedgerUnavailable
        return await entries(account_id, after=after, limit=limit)

    monkeypatch.setattr(store.journal, "entries", once)
    with pytest.raises(aiohttp.ClientError):
        await call("GET", "/admin/v1/accounts/user:ann/journal", headers={"Accept": "text/csv"})
