"""Accounts and keys over the admin API."""

from __future__ import annotations

import asyncio
import hashlib
import time

from proxy.domain import AccountId
from proxy.ledger import Store
from tests.server.admin.bench import CREDIT, Client, ClientOf

ANN = "/accounts/user:ann"


async def test_an_account_has_exactly_the_members_of_the_contract(call: Client) -> None:
    """The contract's members stand there, with amounts as decimal strings and times in UTC."""
    await call.done("POST", "/accounts", {"id": "org:acme"})
    account = await call.done("POST", "/accounts", {"id": "user:ann", "parent": "org:acme", "labels": {"city": "Berlin"}})
    (limit,) = account.pop("limits")
    assert {name: limit[name] for name in ("credits", "window", "time_zone", "rollover", "spent", "held", "remaining")} == {
        "credits": "5", "window": "day", "time_zone": "UTC", "rollover": "none", "spent": "0", "held": "0", "remaining": "5",
    }  # fmt: skip
    assert limit["starts_at"].endswith("T00:00:00Z")
    assert limit["resets_at"].endswith("T00:00:00Z")
    created_at = account.pop("created_at")
    assert created_at.endswith("Z")
    assert account == {
        "id": "user:ann", "path": ["org:acme", "user:ann"], "plan": "everyone", "weight": 1, "status": "active", "kind": "account",
        "labels": {"city": "Berlin"}, "own_limits": False, "grants": [], "spent": "0", "held": "0", "available": "5",
        "granted": "0", "expired": "0", "given": "0", "revoked": "0", "adjusted": "0", "overrun": "0", "version": 1,
        "requests_per_minute": None, "concurrent_requests": None, "running_requests": 0, "unit": "credits",
    }  # fmt: skip
    again = await call.done("GET", ANN)
    assert (again["id"], again["created_at"]) == ("user:ann", created_at)


async def test_available_is_what_the_whole_path_leaves(call: Client, store: Store) -> None:
    """The tightest level counts; null means that no level has a limit."""
    await call.done("POST", "/accounts", {"id": "org", "limits": [{"credits": 2, "window": "month"}]})
    await call.done("POST", "/accounts", {"id": "ann", "parent": "org"})
    assert (await call.done("GET", "/accounts/ann"))["available"] == "2"
    path = (AccountId("org"), AccountId("ann"))
    await store.ledger.hold(path, "h", want_nanocredits=CREDIT // 2, least_nanocredits=0)
    await store.ledger.debit(path, "h", spent_nanocredits=CREDIT // 8)
    account = await call.done("GET", "/accounts/ann")
    assert (account["available"], account["held"], account["spent"]) == ("1.5", "0.375", "0.125")
    assert account["limits"][0]["remaining"] == "4.5"
    free = await call.done("POST", "/accounts", {"id": "free", "limits": []})
    assert (free["available"], free["limits"]) == (None, [])


async def test_an_account_shows_the_rates_of_its_plan_and_what_runs(call: Client, store: Store) -> None:
    """Also where its limits of credits are its own; what runs below it runs in it."""
    await call.done("PUT", "/plans/everyone", {"requests_per_minute": 60, "concurrent_requests": 7})
    await call.done("POST", "/accounts", {"id": "org", "limits": [{"credits": 2, "window": "month"}]})
    await call.done("POST", "/accounts", {"id": "ann", "parent": "org"})
    await store.ledger.hold((AccountId("org"), AccountId("ann")), "h", want_nanocredits=1, least_nanocredits=0)
    account = await call.done("GET", "/accounts/org")
    assert [account[name] for name in ("requests_per_minute", "concurrent_requests", "running_requests")] == [60, 7, 1]


async def test_limits_may_be_the_accounts_own_or_the_plans_again(call: Client) -> None:
    """`limits` replaces, null returns to the plan's, and a change applies at once."""
    own = [
        {"credits": "0.000000001", "window": "month", "time_zone": "Europe/Berlin", "rollover": "full"},
        {"credits": 3, "window": "18000s", "rollover": "capped", "rollover_max": "4.5"},
        {"credits": "7", "window": "ever"},
    ]
    account = await call.done("POST", "/accounts", {"id": "user:ann", "limits": own})
    first, second, third = account["limits"]
    assert account["own_limits"] is True
    assert (first["credits"], first["time_zone"], first["rollover"], first["rollover_max"]) == (
        "0.000000001",
        "Europe/Berlin",
        "full",
        None,
    )
    assert (second["window"], second["rollover_max"]) == ("18000s", "4.5")
    assert third["resets_at"] is None
    account = await call.done("PATCH", ANN, {"limits": None})
    assert (account["own_limits"], [limit["credits"] for limit in account["limits"]]) == (False, ["5"])
    account = await call.done("PATCH", ANN, {"limits": []})
    assert (account["own_limits"], account["available"]) == (True, None)


async def test_what_a_patch_does_not_name_stays(call: Client) -> None:
    """Each member by itself, then all of them at once."""
    await call.done("PUT", "/plans/gold", {"weight": 9})
    before = await call.done("POST", "/accounts", {"id": "user:ann", "weight": 2, "labels": {"a": "1"}})
    for change in ({"weight": 3}, {"labels": {"b": "2"}}, {"status": "suspended"}, {"plan": "gold"}):
        after = await call.done("PATCH", ANN, change)
        changed = {name for name in ("plan", "weight", "status", "labels") if after[name] != before[name]}
        assert changed == set(change)
        before = after
    whole = {"plan": "everyone", "weight": 1, "status": "active", "labels": {}, "limits": [{"credits": 1, "window": "hour"}]}
    after = await call.done("PATCH", ANN, {**whole, "reason": "all of it"})
    assert {name: after[name] for name in ("plan", "weight", "status", "labels")} == {
        name: whole[name] for name in ("plan", "weight", "status", "labels")
    }


async def test_closed_is_final(call: Client) -> None:
    """A closed account is shown, but nothing of it can be changed and nothing added to it."""
    for account in ("user:ann", "user:bob"):
        await call.done("POST", "/accounts", {"id": account})
    await call.done("PATCH", ANN, {"status": "closed", "reason": "left"})
    for method, path, body in (
        ("PATCH", ANN, {"status": "active"}),
        ("PATCH", ANN, {"status": "suspended"}),
        ("PATCH", ANN, {"weight": 2}),
        ("PATCH", ANN, {"limits": [{"credits": 100}]}),
        ("POST", f"{ANN}/keys", {}),
        ("POST", f"{ANN}/grants", {"credits": 1, "reason": "x"}),
        ("POST", "/transfers", {"from": "user:bob", "to": "user:ann", "credits": 1, "reason": "x"}),
    ):
        reply = await call(method, f"/admin/v1{path}", body)
        assert (reply.status, reply.json["code"]) == (409, "conflict"), (method, path, reply.text)
    account = await call.done("GET", ANN)
    assert (account["status"], account["own_limits"], account["grants"]) == ("closed", False, [])
    assert (await call.done("PATCH", ANN, {"status": "closed"}))["status"] == "closed"


async def test_an_account_is_created_once(call: Client) -> None:
    """The same settings again are no change; other settings are a conflict."""
    body = {"id": "user:ann", "weight": 2, "labels": {"a": "1"}}
    first = await call.done("POST", "/accounts", body)
    assert await call.done("POST", "/accounts", body) == first
    for other in ({"weight": 3}, {"labels": {}}, {"limits": []}, {"parent": "user:bob"}):
        await call.done("POST", "/accounts", {"id": "user:bob"})
        reply = await call("POST", "/admin/v1/accounts", {**body, **other})
        assert (reply.status, reply.json["code"]) == (409, "conflict"), other


async def test_a_missing_parent_or_plan_is_named(call: Client) -> None:
    """404 says which of them there is not."""
    reply = await call("POST", "/admin/v1/accounts", {"id": "user:ann", "parent": "org:none"})
    assert (reply.status, reply.json["code"], reply.json["account"]) == (404, "account_not_found", "org:none")
    reply = await call("POST", "/admin/v1/accounts", {"id": "user:ann", "plan": "none"})
    assert (reply.status, reply.json["code"]) == (404, "not_found")
    assert "none" in reply.json["detail"]


async def test_lists_come_in_pages_without_gap_or_repeat(call: Client, store: Store) -> None:
    """Over 250 accounts, by pages of several sizes, each once and in order; an account that is added meanwhile disturbs nothing."""
    names = [f"user:{n:03}" for n in range(257)]
    await asyncio.gather(*(store.directory.create_account(AccountId(name), operation_id=f"op-{name}") for name in names))
    for size in (100, 257, 500):
        seen: list[str] = []
        after = ""
        while True:
            page = await call.done("GET", f"/accounts?limit={size}&after={after}")
            assert len(page["items"]) <= size
            seen += [account["id"] for account in page["items"]]
            if page["next"] is None:
                break
            after = page["next"]
            await call.done("POST", "/accounts", {"id": f"a-first-{size}"})
        assert [name for name in seen if name.startswith("user:")] == names
        assert len(set(seen)) == len(seen)
    default = await call.done("GET", "/accounts")
    assert (len(default["items"]), default["next"]) == (100, default["items"][-1]["id"])


async def test_lists_are_filtered(call: Client) -> None:
    """By parent, plan and status, alone and together."""
    await call.done("PUT", "/plans/gold", {})
    await call.done("POST", "/accounts", {"id": "org"})
    for name, plan in (("a", "everyone"), ("b", "gold"), ("c", "gold")):
        await call.done("POST", "/accounts", {"id": name, "parent": "org", "plan": plan})
    await call.done("PATCH", "/accounts/c", {"status": "suspended"})

    async def ids(query: str) -> list[str]:
        return [account["id"] for account in (await call.done("GET", f"/accounts?{query}"))["items"]]

    assert await ids("parent=org") == ["a", "b", "c"]
    assert await ids("plan=gold") == ["b", "c"]
    assert await ids("plan=gold&status=active&parent=org") == ["b"]
    assert await ids("status=closed") == []
    assert await ids("parent=nobody") == []


async def test_an_id_in_the_path_is_decoded_once(call: Client) -> None:
    """`user%3Aann` is `user:ann`; what is encoded twice is no identifier."""
    await call.done("POST", "/accounts", {"id": "user:ann"})
    assert (await call.done("GET", "/accounts/user%3Aann"))["id"] == "user:ann"
    assert (await call.done("GET", "/accounts/%75ser:ann"))["id"] == "user:ann"
    for path in ("user%253Aann", "user%2Fann", "%2e%2e", "..", "a%00", "user:ann%0a", "%ff", "a b", "x" * 129):
        reply = await call("GET", f"/admin/v1/accounts/{path.replace(' ', '%20')}")
        assert reply.status == 400, (path, reply.text)
        assert reply.json["errors"][0]["place"] == "{id}", (path, reply.text)


async def test_a_key_is_shown_once_and_a_revoked_one_stops(call: Client, client_of: ClientOf, store: Store) -> None:
    """The key is nowhere but in the answer that created it, and stands for nobody once it is revoked."""
    await call.done("POST", "/accounts", {"id": "user:ann"})
    made = await call.done("POST", f"{ANN}/keys", {"reason": "laptop"})
    key, digest = made["key"], hashlib.sha256(made["key"].encode()).hexdigest()
    assert key.startswith("cl-")
    assert len(key) == 46
    assert (await store.directory.caller(digest)).account == "user:ann"
    for path in (f"{ANN}/keys", ANN, "/accounts", "/events", f"{ANN}/journal"):
        reply = await client_of("viewer")("GET", f"/admin/v1{path}")
        assert key not in reply.text
        assert digest not in reply.text
    (listed,) = (await call.done("GET", f"{ANN}/keys"))["items"]
    assert (listed["key_id"], listed["account"], listed["revoked_at"]) == (made["key_id"], "user:ann", None)

    began = time.monotonic()
    revoked = await call.done("DELETE", f"/keys/{made['key_id']}?reason=lost%20laptop")
    assert revoked["revoked_at"].endswith("Z")
    assert await store.directory.caller(digest) is None
    assert time.monotonic() - began < 1
    (listed,) = (await call.done("GET", f"{ANN}/keys"))["items"]
    assert listed["revoked_at"] == revoked["revoked_at"]
    assert (await call.done("DELETE", f"/keys/{made['key_id']}"))["revoked_at"] == revoked["revoked_at"]
    reply = await call("DELETE", "/admin/v1/keys/key_unknown")
    assert (reply.status, reply.json["code"]) == (404, "not_found")
