"""Every mutation may be repeated with its Idempotency-Key: done once, answered alike, recorded once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.errors import LedgerUnavailable
from proxy.ledger import Store
from tests.server.admin.bench import Client, ClientOf

ANN = "/accounts/user:ann"
GRANT_PATH = ANN + "/grants/{grant_id}"

MUTATIONS: list[tuple[str, str, Any]] = [
    ("POST", "/accounts", {"id": "user:new", "labels": {"a": "1"}}),
    ("PATCH", ANN, {"weight": 2, "limits": [{"credits": 3}], "reason": "x"}),
    ("PATCH", ANN, {"limits": None}),
    ("PATCH", ANN, {"status": "closed"}),
    ("POST", f"{ANN}/grants", {"credits": 2, "reason": "x"}),
    ("DELETE", GRANT_PATH, None),
    ("POST", f"{ANN}/adjustments", {"credits": "0.5", "reason": "x"}),
    ("POST", "/transfers", {"from": "user:ann", "to": "user:bob", "credits": 1, "reason": "x"}),
    ("PUT", "/plans/gold", {"weight": 3}),
    ("POST", "/prices", {"model": "m", "effective": "2026-01-01", "input": 1}),
]


@pytest.fixture
async def grant_id(call: Client) -> str:
    for name in ("user:ann", "user:bob"):
        await call.done("POST", "/accounts", {"id": name})
    return str((await call.done("POST", f"{ANN}/grants", {"credits": 7, "reason": "gift"}))["grant_id"])


async def balances(call: Client) -> Any:
    """Everything that a mutation could have changed, but for the time of windows that move on."""
    accounts = (await call.done("GET", "/accounts"))["items"]
    return accounts, (await call.done("GET", "/plans"))["items"], (await call.done("GET", "/prices"))["items"]


@pytest.mark.parametrize(("method", "path", "body"), MUTATIONS)
async def test_a_repeat_changes_nothing_and_is_answered_alike(call: Client, grant_id: str, method: str, path: str, body: Any) -> None:
    """Also when repeats arrive at the same time; one line in the audit log."""
    path = "/admin/v1" + path.format(grant_id=grant_id)
    before = len((await call.done("GET", "/events"))["items"])
    replies = await asyncio.gather(*(call(method, path, body, key="k-1") for _ in range(3)))
    state = await balances(call)
    replies.append(await call(method, path, body, key="k-1"))
    assert {reply.status for reply in replies} <= {200, 201}, [reply.text for reply in replies]
    assert len({reply.text for reply in replies}) == 1
    assert await balances(call) == state
    assert len((await call.done("GET", "/events"))["items"]) == before + 1


async def test_a_key_that_is_created_again_is_the_same_key_without_its_secret(call: Client, grant_id: str) -> None:
    """The secret is nowhere to be read from, so a repeat cannot show it."""
    first = await call.done("POST", f"{ANN}/keys", {}, key="k-1")
    again = await call.done("POST", f"{ANN}/keys", {}, key="k-1")
    assert again == {"key_id": first["key_id"], "key": None}
    assert len((await call.done("GET", f"{ANN}/keys"))["items"]) == 1


async def test_without_a_key_each_request_counts(call: Client, grant_id: str) -> None:
    """Two grants are two grants."""
    for _ in range(2):
        await call.done("POST", f"{ANN}/grants", {"credits": 1, "reason": "x"})
    assert (await call.done("GET", ANN))["granted"] == "9"


@pytest.mark.parametrize(
    ("method", "path", "body", "other"),
    [
        ("POST", "/accounts", {"id": "user:new"}, {"id": "user:new", "weight": 2}),
        ("PATCH", ANN, {"weight": 2}, {"weight": 3}),
        ("PATCH", ANN, {"limits": [{"credits": 1}]}, {"limits": [{"credits": 2}]}),
        ("POST", f"{ANN}/grants", {"credits": 1, "reason": "x"}, {"credits": 2, "reason": "x"}),
        ("POST", f"{ANN}/adjustments", {"credits": 1, "reason": "x"}, {"credits": 2, "reason": "x"}),
        (
            "POST",
            "/transfers",
            {"from": "user:ann", "to": "user:bob", "credits": 1, "reason": "x"},
            {"from": "user:ann", "to": "user:bob", "credits": 2, "reason": "x"},
        ),
    ],
)
async def test_the_same_key_with_another_body_is_a_conflict(
    call: Client, grant_id: str, method: str, path: str, body: Any, other: Any
) -> None:
    """Nothing is changed by the second."""
    await call.done(method, path, body, key="k-1")
    state = await balances(call)
    reply = await call(method, f"/admin/v1{path}", other, key="k-1")
    assert (reply.status, reply.json["code"]) == (409, "conflict"), reply.text
    assert await balances(call) == state


async def test_a_key_belongs_to_its_token_and_its_path(call: Client, client_of: ClientOf, grant_id: str) -> None:
    """Two people, or two paths, may use the same key without knowing of each other."""
    grant = {"credits": 1, "reason": "x"}
    await call.done("POST", f"{ANN}/grants", grant, key="k-1")
    await client_of("operator").done("POST", f"{ANN}/grants", grant, key="k-1")
    await call.done("POST", "/accounts/user:bob/grants", grant, key="k-1")
    await call.done("POST", f"{ANN}/adjustments", grant, key="k-1")
    await call.done("POST", "/accounts/user%3Aann/grants", grant, key='"k-1"')
    await call.done("POST", "/transfers", {"from": "user:ann", "to": "user:bob", **grant}, key="k-1")
    assert (await call.done("GET", ANN))["granted"] == "9"
    ann, bob = await call.done("GET", ANN), await call.done("GET", "/accounts/user:bob")
    assert (ann["adjusted"], ann["given"], bob["granted"]) == ("1", "1", "2")


async def test_what_was_done_but_not_recorded_is_recorded_by_a_repeat(
    call: Client, grant_id: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger fails between an act and its line in the audit log: the answer says so, and a repeat completes it."""
    record = store.directory.record_event

    async def fail(**_: Any) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(store.directory, "record_event", fail)
    body = {"credits": 2, "reason": "x"}
    reply = await call("POST", f"/admin/v1{ANN}/grants", body, key="k-1")
    assert (reply.status, reply.json["code"]) == (503, "ledger_unavailable")
    assert "audit log" in reply.json["detail"]
    assert reply.headers["Retry-After"] == "1"
    assert (await call.done("GET", ANN))["granted"] == "9"
    monkeypatch.setattr(store.directory, "record_event", record)
    before = len((await call.done("GET", "/events"))["items"])
    await call.done("POST", f"{ANN}/grants", body, key="k-1")
    assert (await call.done("GET", ANN))["granted"] == "9"
    assert len((await call.done("GET", "/events"))["items"]) == before + 1


async def test_an_act_under_a_key_taken_by_mistake_is_still_recorded(call: Client, grant_id: str) -> None:
    """Whatever is done stands in the audit log, even where the ledger cannot tell that the key was used before."""
    await call.done("PUT", "/plans/gold", {"weight": 3}, key="k-1")
    reply = await call("PUT", "/admin/v1/plans/gold", {"weight": 4}, key="k-1")
    events = (await call.done("GET", "/events"))["items"]
    plan = await call.done("GET", "/plans/gold")
    assert plan["weight"] == events[0]["after"]["weight"] == (4 if reply.status == 200 else 3)
