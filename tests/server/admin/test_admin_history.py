"""Journal, holds, audit log and audit over the admin API."""

from __future__ import annotations

import csv
import io

import pytest

from proxy.domain import AccountId
from proxy.ledger import Store
from tests.server.admin.bench import CREDIT, Client

ANN = "/accounts/user:ann"
PATH = (AccountId("org"), AccountId("user:ann"))


@pytest.fixture(autouse=True)
async def people(call: Client) -> None:
    await call.done("POST", "/accounts", {"id": "org"})
    await call.done("POST", "/accounts", {"id": "user:ann", "parent": "org"})


async def spend(store: Store, hold_id: str, amount_nanocredits: int) -> None:
    await store.ledger.hold(PATH, hold_id, want_nanocredits=amount_nanocredits, least_nanocredits=0)
    await store.ledger.settle(PATH, hold_id, spent_nanocredits=amount_nanocredits, memo=f"memo {hold_id}")


async def test_the_journal_is_newest_first_in_pages(call: Client, store: Store) -> None:
    """Every entry once, each with postings that say what moved where."""
    for n in range(6):
        await spend(store, f"h{n}", CREDIT // 10)
    whole = (await call.done("GET", f"{ANN}/journal"))["items"]
    assert [(entry["verb"], entry["id"]) for entry in whole[:2]] == [("settle", "h5"), ("hold", "h5")]
    assert (whole[0]["path"], whole[0]["memo"]) == (["org", "user:ann"], "memo h5")
    spent = [(p["account"], p["from"], p["to"], p["credits"]) for p in whole[0]["postings"] if p["to"] == "spent"]
    assert spent == [("org", "held", "spent", "0.1"), ("user:ann", "held", "spent", "0.1")]
    paged = []
    query = ""
    while True:
        page = await call.done("GET", f"{ANN}/journal?limit=5{query}")
        paged += page["items"]
        if page["next"] is None:
            break
        query = f"&after={page['next']}"
    assert paged == whole
    assert len(whole) == 12


async def test_the_journal_is_exported_as_csv(call: Client, store: Store) -> None:
    """All of it, whatever a page holds; one row for each posting, and no cell that a spreadsheet would run."""
    await call.done("POST", f"{ANN}/grants", {"credits": 1, "reason": "=HYPERLINK(1,2)"})
    for n in range(260):
        await spend(store, f"h{n}", 1)
    reply = await call("GET", f"/admin/v1{ANN}/journal", headers={"Accept": "text/csv"})
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="journal-user_ann.csv"'
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert len({row["entry_id"] for row in rows}) == 521
    assert (rows[0]["id"], rows[-1]["verb"]) == ("h259", "grant")
    assert rows[-1]["memo"] == "'=HYPERLINK(1,2)"
    assert {row["path"] for row in rows} == {"org > user:ann", "user:ann"}
    reply = await call("GET", f"/admin/v1{ANN}/journal?limit=3", headers={"Accept": "text/csv, */*"})
    assert len({row["entry_id"] for row in csv.DictReader(io.StringIO(reply.text))}) == 3
    assert (
        "json" in (await call("GET", f"/admin/v1{ANN}/journal", headers={"Accept": "application/json, text/csv"})).headers["Content-Type"]
    )


async def test_open_holds_are_listed_and_ended_ones_are_not(call: Client, store: Store) -> None:
    """With what they reserve, what they spent, and when they expire."""
    await store.ledger.hold(PATH, "open", want_nanocredits=CREDIT, least_nanocredits=0)
    await store.ledger.debit(PATH, "open", spent_nanocredits=CREDIT // 4)
    await spend(store, "ended", 5)
    for account in ("org", "user:ann"):
        (hold,) = (await call.done("GET", f"/accounts/{account}/holds"))["items"]
        assert (hold["hold_id"], hold["path"], hold["credits"], hold["spent"]) == ("open", ["org", "user:ann"], "1", "0.25")
        assert hold["expires_at"] > hold["created_at"]


async def test_unknown_accounts_have_no_history(call: Client) -> None:
    """404, not an empty list."""
    for what in ("journal", "holds", "keys", "grants"):
        reply = await call("GET", f"/admin/v1/accounts/nobody/{what}")
        assert (reply.status, reply.json["code"], reply.json["account"]) == (404, "account_not_found", "nobody")


async def test_every_mutation_is_in_the_audit_log(call: Client) -> None:
    """Who, what, on what, from what, to what, and why; newest first."""
    await call.done("PATCH", ANN, {"weight": 3, "limits": [{"credits": 1}], "reason": "promoted"})
    key = await call.done("POST", f"{ANN}/keys", {"reason": "laptop"})
    grant = await call.done("POST", f"{ANN}/grants", {"credits": 2, "reason": "bonus"})
    await call.done("POST", f"{ANN}/adjustments", {"credits": "0.5", "reason": "correction"})
    await call.done("POST", "/transfers", {"from": "user:ann", "to": "org", "credits": "0.25", "reason": "tax"})
    await call.done("DELETE", f"{ANN}/grants/{grant['grant_id']}?reason=undone")
    await call.done("DELETE", f"/keys/{key['key_id']}?reason=lost")
    await call.done("PUT", "/plans/everyone", {"weight": 2, "reason": "new year"})
    await call.done("POST", "/prices", {"model": "m", "effective": "2026-01-01", "request": 1, "reason": "list"})
    events = (await call.done("GET", "/events"))["items"]
    told = [(event["action"], event["subject"], event["reason"]) for event in reversed(events)]
    assert told == [
        ("account.create", "org", ""),
        ("account.create", "user:ann", ""),
        ("account.change", "user:ann", "promoted"),
        ("key.create", "user:ann", "laptop"),
        ("grant.create", "user:ann", "bonus"),
        ("account.adjust", "user:ann", "correction"),
        ("transfer.create", "user:ann", "tax"),
        ("grant.revoke", "user:ann", "undone"),
        ("key.revoke", "user:ann", "lost"),
        ("plan.put", "everyone", "new year"),
        ("price.add", "m", "list"),
    ]
    assert {event["actor"] for event in events} == {"owner-1"}
    change = events[-3]
    assert (change["before"]["weight"], change["before"]["limits"]) == (1, None)
    assert (change["after"]["weight"], change["after"]["limits"][0]["credits"]) == (3, "1")
    assert (events[1]["before"]["weight"], events[1]["after"]["weight"]) == (1, 2)
    first = await call.done("GET", "/events?limit=4")
    rest = await call.done("GET", f"/events?limit=100&after={first['next']}")
    assert first["items"] + rest["items"] == events


async def test_the_audit_proves_conservation_and_finds_what_is_broken(call: Client, store: Store) -> None:
    """After real use the books balance; an account whose balance was tampered with is named."""
    await spend(store, "h", CREDIT)
    report = await call.done("POST", "/audit")
    assert (report["balanced"], report["accounts"], report["broken"]) == (True, 2, [])
    await store.engine.command("HINCRBY", "cl:{org}:a:user:ann", "overrun", 1)
    report = await call.done("POST", "/audit")
    assert report["balanced"] is False
    assert "user:ann" in report["broken"][0]
