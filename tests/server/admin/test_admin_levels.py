"""Levels over the admin API: what a unit costs, how that has moved, and that what counts in units never meets what counts in credits."""

from __future__ import annotations

from typing import Any

from proxy.domain import Level, Price
from proxy.ledger import Store
from tests.server.admin.bench import CREDIT, EVERYONE, Client

DAY_MS = 86_400_000
AHEAD = "2099-01-01"
IN_UNITS = {"unit": "small", "limits": [{"credits": "2"}]}


async def price(call: Client, model: str, effective: str, rate: str, level: str | None = "small") -> Any:
    """A row that costs the same for input and output."""
    body = {"model": model, "effective": effective, "input": rate, "output": rate, **({} if level is None else {"level": level})}
    return await call.done("POST", "/prices", body)


async def test_a_level_shows_its_index_its_members_and_its_history(call: Client) -> None:
    """What is yet to come among it; and which plans count in it."""
    await price(call, "a", "2025-01-01", "3")
    await price(call, "b", "2026-01-01", "0.5")
    await price(call, "a", AHEAD, "0.05")
    await price(call, "c", "2026-02-01", "7", level="large")
    await call.done("PUT", "/plans/units", IN_UNITS)
    level = await call.done("GET", "/levels/small")
    assert level == {
        "name": "small",
        "index": "0.5",
        "since": "2026-01-01T00:00:00Z",
        "model": "b",
        "input_parts": 3,
        "output_parts": 1,
        "may_rise": False,
        "rises_at": None,
        "deflation": 10.0,
        "members": [
            {"model": "b", "effective": "2026-01-01T00:00:00Z", "blended": "0.5"},
            {"model": "a", "effective": "2025-01-01T00:00:00Z", "blended": "3"},
        ],
        "plans": ["units"],
        "steps": [
            {"at": "2025-01-01T00:00:00Z", "index": "3", "model": "a"},
            {"at": "2026-01-01T00:00:00Z", "index": "0.5", "model": "b"},
            {"at": f"{AHEAD}T00:00:00Z", "index": "0.05", "model": "a"},
        ],
    }
    page = await call.done("GET", "/levels")
    assert [(item["name"], item["index"]) for item in page["items"]] == [("large", "7"), ("small", "0.5")]
    first = await call.done("GET", "/levels?limit=1")
    assert first["next"] == "large"
    assert (await call.done("GET", "/levels?limit=1&after=large"))["items"] == page["items"][1:]


async def test_a_level_of_the_configuration_has_its_own_blend_and_may_have_no_index(call: Client, store: Store) -> None:
    """One that no row in force prices a model of says so."""
    rows = (Price("e", 0, input=2 * CREDIT, level="embedding"), Price("later", 4 * 10**12, input=CREDIT, output=CREDIT, level="later"))
    levels = (Level("embedding", output_parts=0, deflation=2.5),)
    store.directory.configure(file_prices=rows, default_plan="everyone", file_levels=levels)
    level = await call.done("GET", "/levels/embedding")
    assert (level["index"], level["output_parts"], level["deflation"], level["plans"]) == ("2", 0, 2.5, [])
    later = await call.done("GET", "/levels/later")
    assert (later["index"], later["since"], later["model"], later["members"], len(later["steps"])) == (None, None, None, [], 1)
    reply = await call("GET", "/admin/v1/levels/none")
    assert (reply.status, reply.json["code"]) == (404, "not_found")


async def test_plans_and_accounts_say_what_they_count_in(call: Client) -> None:
    """A plan keeps its unit, and so does an account; refused changes change nothing."""
    assert (await call.done("PUT", "/plans/units", IN_UNITS))["unit"] == "small"
    account = await call.done("POST", "/accounts", {"id": "user:ann", "plan": "units"})
    assert (account["unit"], account["available"]) == ("small", "2")
    assert (await call.done("POST", "/accounts", {"id": "user:bob"}))["unit"] == "credits"
    refused = [
        ("PUT", "/plans/units", {"limits": [{"credits": "7"}]}),
        ("PUT", f"/plans/{EVERYONE.name}", IN_UNITS),
        ("PATCH", "/accounts/user:ann", {"plan": EVERYONE.name, "weight": 9}),
        ("PATCH", "/accounts/user:bob", {"plan": "units"}),
        ("POST", "/accounts", {"id": "user:eve", "parent": "user:bob", "plan": "units"}),
        ("POST", "/accounts", {"id": "user:eve", "parent": "user:ann"}),
        ("POST", "/transfers", {"from": "user:ann", "to": "user:bob", "credits": "1", "reason": "gift"}),
        ("POST", "/transfers", {"from": "user:bob", "to": "user:ann", "credits": "1", "reason": "gift"}),
    ]
    for method, path, body in refused:
        reply = await call(method, f"/admin/v1{path}", body)
        assert (reply.status, reply.json["code"]) == (422, "units_differ"), (method, path, reply.text)
        assert "units of level 'small'" in reply.json["detail"]
    assert await call.done("GET", "/accounts/user:ann") == account
    assert (await call("GET", "/admin/v1/accounts/user:eve")).status == 404


async def test_credits_is_no_level(call: Client) -> None:
    """The word means the unit that is none of a level."""
    body = {"model": "a", "effective": "2026-01-01", "input": "1", "output": "1", "level": "credits"}
    reply = await call("POST", "/admin/v1/prices", body)
    assert (reply.status, reply.json["errors"][0]["place"]) == (400, "level")
