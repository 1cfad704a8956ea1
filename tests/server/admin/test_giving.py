"""Lending and giving, as people with their own keys and operators see them."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from proxy.domain import AccountId, Limit, Plan
from proxy.ledger import Store
from tests.server.admin.bench import COMMONS, CREDIT, Client, giving_of
from tests.server.admin.own_pages import Pages, person, serve

ANN, BOB = AccountId("user:ann"), AccountId("user:bob")
FAR = (dt.datetime.now(dt.UTC) + dt.timedelta(days=300)).strftime("%Y-%m-%dT00:00:00Z")


@pytest.fixture
async def base(store: Store) -> AsyncIterator[str]:
    async with serve(store) as base:
        yield base


@pytest.fixture
async def ann(store: Store, base: str, session: aiohttp.ClientSession) -> Pages:
    """A person with 10 credits a day who may lend, though not give away."""
    await store.directory.put_plan(Plan("lender", (Limit(10 * CREDIT, "day"),), loans=True), operation_id="p1")
    return await person(store, base, session, ANN, plan="lender")


@pytest.fixture
async def bob(store: Store, base: str, session: aiohttp.ClientSession) -> Pages:
    """A person with 5 credits a day who may neither."""
    return await person(store, base, session, BOB, plan="everyone")


async def test_a_loan_from_offer_to_repayment(ann: Pages, bob: Pages, store: Store, call: Client) -> None:
    """Offered by one, accepted and repaid by the other, seen by both and by the operator; each step is in the audit log."""
    asked = {"to": "user:bob", "credits": "4", "due_at": FAR, "reason": "big job"}
    loan = await ann.done("POST", "/loans", asked, key="once")
    assert await ann.done("POST", "/loans", asked, key="once") == loan
    assert (loan["state"], loan["from"], loan["to"], loan["due_at"]) == ("offered", "user:ann", "user:bob", FAR)
    place = f"/loans/{loan['loan_id']}"
    assert await ann.refused("POST", f"{place}/accept") == (403, "forbidden")
    accepted = await bob.done("POST", f"{place}/accept", {"reason": "thanks"})
    assert (accepted["state"], accepted["outstanding"]) == ("open", "4")
    assert (await bob.done("GET", "/account"))["available"] == "9"
    assert (await ann.done("GET", "/account"))["available"] == "6"
    for _ in range(2):
        part = await bob.done("POST", f"{place}/repay", {"credits": "1.5"}, key="part")
    assert (part["repaid"], part["outstanding"]) == ("1.5", "2.5")
    for pages in (ann, bob):
        assert (await pages.done("GET", "/loans"))["items"] == [part]
        assert await pages.done("GET", place) == part
    assert (await call.done("GET", "/loans?account=user:ann"))["items"] == [part]
    assert await call.done("GET", place) == part
    assert (await bob.done("POST", f"{place}/repay"))["state"] == "repaid"
    actions = [event["action"] for event in (await call.done("GET", "/events"))["items"]]
    assert actions[:4] == ["loan.repay", "loan.repay", "loan.accept", "loan.offer"]
    assert (await store.journal.audit()).broken == ()


async def test_who_may_not_lend(ann: Pages, bob: Pages) -> None:
    """Neither whose plan does not let it, nor an agent; and nobody to an agent, to itself, or for the past."""
    terms = {"credits": "1", "due_at": FAR}
    assert await bob.refused("POST", "/loans", {"to": "user:ann", **terms}) == (403, "transfers_not_allowed")
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "5"})
    assert await ann.with_key(agent["key"]).refused("POST", "/loans", {"to": "user:bob", **terms}) == (403, "transfers_not_allowed")
    assert await ann.refused("POST", "/loans", {"to": agent["id"], **terms}) == (400, "invalid_request")
    assert await ann.refused("POST", "/loans", {"to": "user:ann", **terms}) == (400, "invalid_request")
    assert await ann.refused("POST", "/loans", {"to": "nobody", **terms}) == (404, "account_not_found")
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC).isoformat()
    assert await ann.refused("POST", "/loans", {"to": "user:bob", "credits": "1", "due_at": past}) == (400, "invalid_request")


async def test_a_loan_is_nobody_elses(ann: Pages, bob: Pages, store: Store, base: str, session: aiohttp.ClientSession) -> None:
    """Others are not told that there is one."""
    loan = await ann.done("POST", "/loans", {"to": "user:bob", "credits": "1", "due_at": FAR})
    eve = await person(store, base, session, AccountId("user:eve"), plan="everyone")
    for verb in ("accept", "decline", "repay"):
        assert await eve.refused("POST", f"/loans/{loan['loan_id']}/{verb}") == (404, "not_found")
    assert (await eve.done("GET", "/loans"))["items"] == []
    assert (await bob.done("POST", f"/loans/{loan['loan_id']}/decline"))["state"] == "declined"


async def test_an_operators_loan_begins_at_once(ann: Pages, bob: Pages, call: Client) -> None:
    """Once for each Idempotency-Key; where the lender has too little it is refused and none."""
    body = {"from": "user:ann", "to": "user:bob", "credits": "3", "due_at": FAR, "reason": "deadline"}
    first = await call.done("POST", "/loans", body, key="k")
    assert await call.done("POST", "/loans", body, key="k") == first
    assert (first["state"], first["outstanding"]) == ("open", "3")
    reply = await call("POST", "/admin/v1/loans", {**body, "credits": "8"})
    assert (reply.status, reply.json["code"]) == (402, "insufficient_quota")
    reply = await call("POST", "/admin/v1/loans", {**body, "credits": "2"}, key="k")
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    assert [loan["loan_id"] for loan in (await call.done("GET", "/loans"))["items"]] == [first["loan_id"]]


async def test_a_persons_loan_is_due_within_a_year(ann: Pages, bob: Pages, call: Client) -> None:
    """Lending for good would be giving, which its plan does not let it; an operator's loan may last as long as it will."""
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(days=367)).isoformat()
    terms = {"to": "user:bob", "credits": "1"}
    for due_at in (later, "9999-12-31T23:59:59Z"):
        reply = await ann("POST", "/ledger/v1/loans", {**terms, "due_at": due_at})
        assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")
        assert "within 366 days" in reply.text
    assert (await ann.done("GET", "/loans"))["items"] == []
    made = await call.done("POST", "/loans", {**terms, "from": "user:ann", "due_at": "9999-12-31T23:59:59Z", "reason": "lasting"})
    assert made["state"] == "open"


@pytest.mark.parametrize("who", ["the lender", "an operator"])
async def test_a_loan_is_forgiven_by_its_lender_or_an_operator(ann: Pages, bob: Pages, store: Store, call: Client, who: str) -> None:
    """Not by its borrower; both see it, as often as it is asked for it is done once, and it is in the audit log."""
    loan = await ann.done("POST", "/loans", {"to": "user:bob", "credits": "4", "due_at": FAR})
    place = f"/loans/{loan['loan_id']}"
    assert (await call("POST", f"/admin/v1{place}/forgive", {"reason": "x"})).status == 409
    await bob.done("POST", f"{place}/accept")
    await bob.done("POST", f"{place}/repay", {"credits": "1"})
    assert await bob.refused("POST", f"{place}/forgive") == (403, "forbidden")
    assert (await call("POST", "/admin/v1/loans/nothing/forgive", {"reason": "x"})).status == 404
    forgive, name = (ann.done, "account:user:ann") if who == "the lender" else (call.done, "owner-1")
    if who == "the lender":
        assert await ann.refused("POST", f"{place}/forgive") == (403, "transfers_not_allowed"), "it would be a gift"
        plan = replace(store.directory.plan("lender"), transfers=True)
        await store.directory.put_plan(plan, operation_id="generous")
    for _ in range(2):
        forgiven = await forgive("POST", f"{place}/forgive", {"reason": "never mind"}, key="k")
    assert (forgiven["state"], forgiven["repaid"], forgiven["outstanding"]) == ("forgiven", "1", "0")
    for pages in (ann, bob, call):
        assert (await pages.done("GET", "/loans"))["items"] == [forgiven]
    assert (await bob.done("GET", "/account"))["available"] == "8"
    events = [event for event in (await call.done("GET", "/events"))["items"] if event["action"] == "loan.forgive"]
    assert [(event["subject"], event["actor"], event["reason"]) for event in events] == [(loan["loan_id"], name, "never mind")]
    assert await bob.refused("POST", f"{place}/repay") == (409, "conflict")
    assert (await store.journal.audit()).broken == ()


async def test_gifts_to_the_commons_are_merged(ann: Pages, bob: Pages, store: Store, call: Client) -> None:
    """By the word for it, whatever its id is; of a thousand gifts that expire together it has one grant."""
    await store.directory.create_account(AccountId(COMMONS), limits=(), operation_id="c")
    for plan, name in (("lender", "ann"), ("everyone", "bob")):
        await store.directory.put_plan(Plan(plan, (Limit(10 * CREDIT, "day"),), transfers=True), operation_id=f"p{name}")
    for _ in range(3):
        given = await ann.done("POST", "/transfers", {"to": "commons", "credits": "1"})
        assert given["to"] == COMMONS
        await bob.done("POST", "/transfers", {"to": COMMONS, "credits": "2"})
    (grant,) = (await call.done("GET", f"/accounts/{COMMONS}"))["grants"]
    assert (grant["credits"], grant["remaining"]) == ("9", "9")
    await call.done("POST", "/transfers", {"from": "commons", "to": "user:bob", "credits": "9", "reason": "back"})
    assert (await bob.done("GET", "/account"))["available"] == "13"
    assert (await store.journal.audit()).broken == ()


async def test_an_operator_hands_out_what_the_commons_has(ann: Pages, bob: Pages, store: Store, call: Client) -> None:
    """Declared once for each Idempotency-Key, seen while it goes on, and in the audit log; without a commons there is none."""
    body = {"credits": "all", "reason": "new year"}
    reply = await call("POST", "/admin/v1/dividends", body)
    assert (reply.status, reply.json["code"]) == (404, "account_not_found")
    await store.directory.create_account(AccountId(COMMONS), limits=(), operation_id="c")
    await store.ledger.grant((AccountId(COMMONS),), "g", credits_nanocredits=9 * CREDIT, reason="tithes")
    for wrong in ("0", "-1", "some", 10, None):
        assert (await call("POST", "/admin/v1/dividends", {**body, "credits": wrong})).status in (400, 402)
    declared = await call.done("POST", "/dividends", body, key="k")
    assert await call.done("POST", "/dividends", body, key="k") == declared
    assert (declared["state"], declared["credits"], declared["by"]) == ("counting", None, "equal")
    dividends = giving_of(store).dividends
    while await dividends.step():
        pass
    done = await call.done("GET", f"/dividends/{declared['dividend_id']}")
    assert (done["state"], done["credits"], done["accounts"], done["paid"]) == ("done", "9", 2, "9")
    assert (await call.done("GET", "/dividends"))["items"] == [done]
    assert (await bob.done("GET", "/account"))["available"] == "9.5"
    event = (await call.done("GET", "/events"))["items"][0]
    assert (event["action"], event["subject"], event["reason"]) == ("dividend.declare", declared["dividend_id"], "new year")


async def test_no_gift_raises_an_agents_cap(ann: Pages, store: Store, call: Client) -> None:
    """Neither its person's nor an operator's: what an agent may spend, its person decides."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "5"})
    reply = await call("POST", "/admin/v1/transfers", {"from": "user:ann", "to": agent["id"], "credits": "1", "reason": "x"})
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
