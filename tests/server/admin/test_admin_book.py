"""Plans and prices over the admin API."""

from __future__ import annotations

from proxy.domain import Tier
from proxy.ledger import Store, records
from tests.server.admin.bench import CREDIT, Client

RULES = {"loans": False, "expired_to_commons": False, "scavenge": False, "unit": "credits"}


async def test_a_plan_is_put_whole_and_applies_to_its_accounts(call: Client) -> None:
    """What is left out of a PUT takes its default; a change reaches accounts at once."""
    await call.done("POST", "/accounts", {"id": "user:ann"})
    plan = {
        "limits": [{"credits": "1.5", "window": "week", "time_zone": "Asia/Tokyo", "rollover": "capped", "rollover_max": 3}],
        "weight": 4,
        "models": ["gpt-*", "llama3"],
        "transfers": True,
        "requests_per_minute": 60,
        "concurrent_requests": 7,
    }
    written = await call.done("PUT", "/plans/everyone", {**plan, "reason": "less for all"})
    assert written == await call.done("GET", "/plans/everyone")
    (limit,) = written.pop("limits")
    assert limit == {"credits": "1.5", "window": "week", "time_zone": "Asia/Tokyo", "rollover": "capped", "rollover_max": "3"}
    del plan["limits"]
    assert written == {"name": "everyone", **plan, **RULES}
    account = await call.done("GET", "/accounts/user:ann")
    assert (account["available"], account["weight"]) == ("1.5", 4)
    empty = await call.done("PUT", "/plans/everyone", {})
    rates = {"requests_per_minute": None, "concurrent_requests": None}
    assert empty == {"name": "everyone", "limits": [], "weight": 1, "models": ["*"], "transfers": False, **RULES, **rates}


async def test_plans_are_listed_by_name_in_pages(call: Client) -> None:
    """Every plan once."""
    for name in ("c", "a", "b"):
        await call.done("PUT", f"/plans/{name}", {})
    first = await call.done("GET", "/plans?limit=3")
    assert ([plan["name"] for plan in first["items"]], first["next"]) == (["a", "b", "c"], "c")
    rest = await call.done("GET", "/plans?limit=3&after=c")
    assert ([plan["name"] for plan in rest["items"]], rest["next"]) == (["everyone"], None)
    reply = await call("GET", "/admin/v1/plans/none")
    assert (reply.status, reply.json["code"]) == (404, "not_found")


async def test_a_price_is_added_and_never_changed(call: Client) -> None:
    """The same row again is no change; other values from the same date are a conflict."""
    row = {"model": "gpt-4o-mini", "effective": "2025-01-01", "input": "0.15", "cached_input": 0.075, "output": "0.6", "level": "L3"}
    price = await call.done("POST", "/prices", row)
    assert {name: price[name] for name in row} == {**row, "effective": "2025-01-01T00:00:00Z", "cached_input": "0.075"}
    assert (price["source"], price["request"], price["image"]) == ("api", "0", None)
    assert await call.done("POST", "/prices", {**row, "reason": "again"}) == price
    reply = await call("POST", "/admin/v1/prices", {**row, "input": "0.16"})
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    later = await call.done("POST", "/prices", {**row, "input": "0.16", "effective": "2026-01-01T00:00:00+02:00"})
    assert later["effective"] == "2025-12-31T22:00:00Z"


async def test_a_price_has_tiers_and_units(call: Client, store: Store) -> None:
    """Shown as they were given, and kept so in the ledger."""
    tiers = [{"above_input_tokens": 200_000, "input": "2.5", "output": "15"}, {"above_input_tokens": 500_000, "cache_write_1h": "9"}]
    units = {"character": "0.000015", "tool_use": "0.01", "second": "0.0001", "megabyte": "2", "cache_write_1h": "6"}
    row = {"model": "gemini", "effective": "2026-01-01", "input": "1.25", "output": "10", **units, "tiers": tiers}
    price = await call.done("POST", "/prices", row)
    assert {name: price[name] for name in units} == units
    assert [{name: value for name, value in tier.items() if value is not None} for tier in price["tiers"]] == tiers
    assert price in (await call.done("GET", "/prices"))["items"]
    [stored] = [price for price in store.directory.prices() if price.model == "gemini"]
    assert stored.tiers[1] == Tier(500_000, cache_write_1h=9 * CREDIT)
    assert records.decode_price(records.encode(stored)) == stored
    reply = await call("POST", "/admin/v1/prices", {**row, "tiers": tiers[:1]})
    assert (reply.status, reply.json["code"]) == (409, "conflict")


async def test_a_price_says_what_batches_cost(call: Client, store: Store) -> None:
    """In percent of the row, as a whole number; a row without it says null."""
    row = {"model": "tiny", "effective": "2026-01-01", "input": "1", "output": "2"}
    assert (await call.done("POST", "/prices", {**row, "batch_percent": 50}))["batch_percent"] == 50
    [stored] = [price for price in store.directory.prices() if price.model == "tiny"]
    assert (stored.batch_percent, records.decode_price(records.encode(stored))) == (50, stored)
    assert (await call.done("POST", "/prices", {**row, "model": "other"}))["batch_percent"] is None
    for odd in (0, 101, "50", 0.5):
        reply = await call("POST", "/admin/v1/prices", {**row, "model": "odd", "batch_percent": odd})
        assert reply.status == 400, odd


async def test_prices_are_listed_in_pages_and_by_model(call: Client) -> None:
    """All dates of all patterns, each once; `model` keeps the patterns that it falls under."""
    for model, day in (("b", 1), ("a*", 2), ("a*", 1), ("x:y/z", 1)):
        await call.done("POST", "/prices", {"model": model, "effective": f"2026-01-0{day}", "request": "0.5"})
    seen = []
    query = ""
    while True:
        page = await call.done("GET", f"/prices?limit=2{query}")
        seen += [(price["model"], price["effective"][:10]) for price in page["items"]]
        if page["next"] is None:
            break
        query = f"&after={page['next'].replace('*', '%2A')}"
    expected = [("*", "1970-01-01"), ("a*", "2026-01-01"), ("a*", "2026-01-02"), ("b", "2026-01-01"), ("x:y/z", "2026-01-01")]
    assert seen == expected
    page = await call.done("GET", "/prices?model=abc")
    assert [price["model"] for price in page["items"]] == ["*", "a*", "a*"]
    reply = await call("GET", "/admin/v1/prices?after=nonsense")
    assert (reply.status, reply.json["errors"][0]["place"]) == (400, "?after")
