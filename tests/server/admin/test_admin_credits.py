"""Grants, adjustments and transfers over the admin API."""

from __future__ import annotations

import pytest

from tests.server.admin.bench import Client

ANN = "/accounts/user:ann"


@pytest.fixture(autouse=True)
async def people(call: Client) -> None:
    """Two accounts with 5 credits a day each."""
    for name in ("user:ann", "user:bob"):
        await call.done("POST", "/accounts", {"id": name})


async def test_a_grant_adds_to_what_is_available(call: Client) -> None:
    """All its members come back as they were sent, and it stands in the account."""
    sent = {
        "credits": "20.000000001",
        "priority": -3,
        "effective_at": "2027-01-01T00:00:00+01:00",
        "expires_at": "2027-02-01T12:30:00.25Z",
        "reason": "bonus",
    }
    grant = await call.done("POST", f"{ANN}/grants", sent)
    assert (grant["credits"], grant["remaining"], grant["held"], grant["spent"]) == ("20.000000001", "20.000000001", "0", "0")
    assert (grant["priority"], grant["reason"]) == (-3, "bonus")
    assert (grant["effective_at"], grant["expires_at"]) == ("2026-12-31T23:00:00Z", "2027-02-01T12:30:00.250Z")
    now = await call.done("POST", f"{ANN}/grants", {"credits": 1.25, "reason": "now"})
    assert (now["effective_at"], now["expires_at"]) == (now["created_at"], None)
    account = await call.done("GET", ANN)
    assert (account["available"], account["granted"]) == ("6.25", "21.250000001")
    assert account["grants"] == (await call.done("GET", f"{ANN}/grants"))["items"] == [grant, now]


async def test_a_revoked_grant_gives_back_what_it_has_left(call: Client) -> None:
    """Nothing of it can be spent any more; an unknown one is not found."""
    grant = await call.done("POST", f"{ANN}/grants", {"credits": 20, "reason": "bonus"})
    revoked = await call.done("DELETE", f"{ANN}/grants/{grant['grant_id']}?reason=mistake")
    assert (revoked["grant_id"], revoked["remaining"]) == (grant["grant_id"], "0")
    account = await call.done("GET", ANN)
    assert (account["available"], account["revoked"]) == ("5", "20")
    for path in (f"{ANN}/grants/none", f"/accounts/user:bob/grants/{grant['grant_id']}"):
        reply = await call("DELETE", f"/admin/v1{path}")
        assert (reply.status, reply.json["code"]) == (404, "grant_not_found")


async def test_a_grant_that_is_over_is_refused(call: Client) -> None:
    """An end in the past would grant nothing."""
    reply = await call("POST", f"/admin/v1{ANN}/grants", {"credits": 1, "reason": "x", "expires_at": "2020-01-01T00:00:00Z"})
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_an_adjustment_corrects_what_was_spent(call: Client) -> None:
    """Charges and gives back; what cannot be paid is overrun, and no more comes back than was spent."""
    charged = await call.done("POST", f"{ANN}/adjustments", {"credits": "1.5", "reason": "forgotten"})
    assert (charged["account"], charged["spent"], charged["overrun"], charged["reason"]) == ("user:ann", "1.5", "0", "forgotten")
    assert (await call.done("POST", f"{ANN}/adjustments", {"credits": -0.25, "reason": "too much"}))["spent"] == "-0.25"
    account = await call.done("GET", ANN)
    assert (account["spent"], account["adjusted"], account["available"]) == ("1.25", "1.25", "3.75")
    assert (await call.done("POST", f"{ANN}/adjustments", {"credits": 100, "reason": "much"}))["overrun"] == "96.25"
    reply = await call("POST", f"/admin/v1{ANN}/adjustments", {"credits": "-5.000000001", "reason": "more than all"})
    assert (reply.status, reply.json["code"]) == (422, "adjustment_exceeds_spent")


async def test_a_transfer_moves_credits_from_one_account_to_another(call: Client) -> None:
    """The giver has less, the receiver more, and what came from a limit expires with its window."""
    moved = await call.done("POST", "/transfers", {"from": "user:ann", "to": "user:bob", "credits": "2.5", "reason": "lunch"})
    assert {name: moved[name] for name in ("from", "to", "credits", "reason")} == {
        "from": "user:ann", "to": "user:bob", "credits": "2.5", "reason": "lunch",
    }  # fmt: skip
    ann, bob = await call.done("GET", ANN), await call.done("GET", "/accounts/user:bob")
    assert (ann["available"], ann["given"], ann["spent"]) == ("2.5", "2.5", "0")
    assert (bob["available"], bob["granted"]) == ("7.5", "2.5")
    assert (bob["grants"][0]["reason"], bob["grants"][0]["expires_at"]) == ("lunch", ann["limits"][0]["resets_at"])
    assert (await call.done("POST", "/audit"))["balanced"] is True


async def test_a_transfer_out_of_an_organisation_counts_there(call: Client) -> None:
    """It is told who lacks what, shown what it has given, and has the entry in its journal; within it nothing is counted above."""
    await call.done("POST", "/accounts", {"id": "org", "limits": [{"credits": "3", "window": "day"}]})
    for name in ("user:cid", "user:dan"):
        await call.done("POST", "/accounts", {"id": name, "parent": "org", "limits": [{"credits": "2", "window": "day"}]})
    await call.done("POST", "/transfers", {"from": "user:cid", "to": "user:dan", "credits": "1", "reason": "within"})
    assert (await call.done("GET", "/accounts/org"))["given"] == "0"
    await call.done("POST", "/transfers", {"from": "user:dan", "to": "user:bob", "credits": "2.5", "reason": "beyond"})
    shown = await call.done("GET", "/accounts/org")
    assert (shown["given"], shown["available"]) == ("2.5", "0.5")
    [entry] = [entry for entry in (await call.done("GET", "/accounts/org/journal"))["items"] if entry["memo"] == "beyond"]
    assert (entry["path"], entry["credits"]) == (["org", "user:dan"], "2.5")
    assert {posting["account"] for posting in entry["postings"] if posting["to"] == "given"} == {"org", "user:dan"}
    asked = {"from": "user:cid", "to": "user:bob", "credits": 1, "reason": "x"}
    reply = await call("POST", "/admin/v1/transfers", asked)
    assert (reply.status, reply.json["code"]) == (402, "insufficient_quota")
    assert (reply.json["account"], reply.json["needed"], reply.json["available"]) == ("org", "1", "0.5")
    assert (await call.done("POST", "/audit"))["balanced"] is True


async def test_a_transfer_that_cannot_be_is_refused(call: Client) -> None:
    """Too much, to oneself, from or to nobody: nothing moves."""
    asked = {"from": "user:ann", "to": "user:bob", "credits": 1, "reason": "x"}
    for change, status, code in (
        ({"credits": "5.000000001"}, 402, "insufficient_quota"),
        ({"to": "user:ann"}, 400, "invalid_request"),
        ({"to": "user:none"}, 404, "account_not_found"),
        ({"from": "user:none"}, 404, "account_not_found"),
    ):
        reply = await call("POST", "/admin/v1/transfers", {**asked, **change})
        assert (reply.status, reply.json["code"]) == (status, code), change
    reply = await call("POST", "/admin/v1/transfers", {**asked, "credits": 6})
    assert (reply.json["account"], reply.json["needed"], reply.json["available"]) == ("user:ann", "6", "5")
    assert (await call.done("GET", ANN))["available"] == "5"
