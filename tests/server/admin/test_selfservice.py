"""What people see and do with their own key under `/ledger/v1/`."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from proxy.domain import AccountId, Limit, Plan, Price
from proxy.ledger import Store
from proxy.policy.tallies import WINDOWS
from tests.server.admin.bench import CREDIT, Client
from tests.server.admin.own_pages import Pages, serve
from tests.support.known_use import KnownUse, Person

ORG, ANN, BOB = AccountId("org"), AccountId("user:ann"), AccountId("user:bob")
GENEROUS = Plan("generous", (Limit(10 * CREDIT, "day"),), weight=2, models=("small", "gpt-*"), transfers=True)


@pytest.fixture
async def people(store: Store) -> dict[AccountId, str]:
    """ann (generous plan) and bob (everyone) in one organisation, each with a key."""
    directory = store.directory
    directory.configure(
        file_prices=(
            Price("small", 0, input=10**9, output=4 * 10**9),
            Price("gpt-*", 0, input=10**9, output=10**9),
            Price("gpt-*", 10**15, input=5, output=5),
            Price("later", 10**15, input=5, output=5),
            Price("other", 0, input=10**9, output=10**9),
        ),
        default_plan="everyone",
    )
    await directory.put_plan(GENEROUS, operation_id="p")
    await directory.create_account(ORG, limits=(Limit(100 * CREDIT, "month"),), operation_id="a0")
    await directory.create_account(ANN, parent=ORG, plan="generous", operation_id="a1")
    await directory.create_account(BOB, parent=ORG, operation_id="a2")
    keys = {}
    for account in (ANN, BOB):
        _, key = await directory.create_key(account, operation_id=f"k{account}")
        assert key is not None
        keys[account] = key
    return keys


@pytest.fixture
def use() -> KnownUse:
    """What the ledger says of everybody's use: nothing, unless a test has it say something."""
    return KnownUse()


@pytest.fixture
async def base(store: Store, people: dict[AccountId, str], use: KnownUse) -> AsyncIterator[str]:
    async with serve(store, use) as base:
        yield base


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def ann(base: str, people: dict[AccountId, str], session: aiohttp.ClientSession) -> Pages:
    return Pages(session, base, people[ANN])


@pytest.fixture
def bob(base: str, people: dict[AccountId, str], session: aiohttp.ClientSession) -> Pages:
    return Pages(session, base, people[BOB])


async def spend(store: Store, account: AccountId, hold_id: str, amount_nanocredits: int) -> None:
    path = (ORG, account)
    await store.ledger.hold(path, hold_id, want_nanocredits=amount_nanocredits, least_nanocredits=0)
    await store.ledger.settle(path, hold_id, spent_nanocredits=amount_nanocredits, memo="small")


async def test_the_account_is_the_callers_own(ann: Pages, bob: Pages, call: Client) -> None:
    """The same members as over the admin API; nobody can ask for another's."""
    reply = await ann("GET", "/ledger/v1/account")
    assert (reply.status, reply.headers["X-Request-Id"]) == (200, "request-7")
    assert reply.json == {**await call.done("GET", "/accounts/user:ann"), "place": dict.fromkeys(WINDOWS)}
    assert (reply.json["id"], reply.json["weight"], reply.json["available"]) == ("user:ann", 2, "10")
    assert (await bob("GET", "/ledger/v1/account")).json["id"] == "user:bob"
    reply = await ann("GET", "/ledger/v1/account?id=user:bob")
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")


async def test_the_account_tells_ones_own_place(ann: Pages, use: KnownUse) -> None:
    """Coarsely, by window, and of nobody else; an organisation's key, of which no use is known, has none; nor has anybody among few."""
    use.people = [Person("user:ann", 6 * CREDIT, weight=2), *(Person(f"user:{n}", n * CREDIT) for n in range(30))]
    place = (await ann("GET", "/ledger/v1/account")).json["place"]
    assert place == {window: {"of_average": "0.2", "percentile": [0, 20]} for window in WINDOWS}


async def test_nobody_is_placed_among_few(ann: Pages, use: KnownUse) -> None:
    """Nineteen people are too few, whoever asks."""
    use.people = [Person("user:ann", CREDIT), *(Person(f"user:{n}", CREDIT) for n in range(18))]
    assert (await ann("GET", "/ledger/v1/account")).json["place"] == dict.fromkeys(WINDOWS)


async def test_asking_again_for_ones_place_reads_no_window_again(ann: Pages, bob: Pages, use: KnownUse) -> None:
    """Places are told from states that may be some seconds old, whoever asks, and however many at once."""
    use.people = [Person("user:ann", CREDIT), Person("user:bob", CREDIT)]
    replies = await asyncio.gather(*(person("GET", "/ledger/v1/account") for person in (ann, bob, ann)))
    replies.append(await ann("GET", "/ledger/v1/account"))
    assert [reply.status for reply in replies] == [200] * 4
    assert use.asked == [(window, None) for window in WINDOWS]


async def test_the_journal_shows_the_caller_alone(ann: Pages, store: Store) -> None:
    """Newest first, in pages, and without what other members of the organisation did or what stands at the levels above."""
    for n in range(4):
        await spend(store, ANN, f"ann-{n}", CREDIT)
        await spend(store, BOB, f"bob-{n}", CREDIT)
    page = (await ann("GET", "/ledger/v1/journal?limit=3")).json
    assert [(entry["verb"], entry["id"]) for entry in page["items"]] == [("settle", "ann-3"), ("hold", "ann-3"), ("settle", "ann-2")]
    rest = (await ann("GET", f"/ledger/v1/journal?after={page['next']}")).json
    entries = page["items"] + rest["items"]
    assert (len(entries), rest["next"]) == (8, None)
    assert {posting["account"] for entry in entries for posting in entry["postings"]} == {"user:ann"}


async def test_the_journal_is_exported_as_csv(ann: Pages, store: Store) -> None:
    """Everything that the ledger knows of the caller, as a file."""
    for n in range(3):
        await spend(store, ANN, f"ann-{n}", CREDIT)
    reply = await ann("GET", "/ledger/v1/journal", headers={"Accept": "text/csv"})
    assert reply.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert {row["account"] for row in rows} == {"user:ann"}
    spent = [row["moved"] for row in rows if (row["from"], row["to"]) == ("held", "spent")]
    assert spent == ["1", "1", "1"]


async def test_prices_are_those_in_force(ann: Pages) -> None:
    """One row for each pattern; for a model, the row that would price it; none from the future."""
    page = (await ann("GET", "/ledger/v1/prices")).json
    assert [(price["model"], price["input"], price["output"]) for price in page["items"]] == [
        ("gpt-*", "1", "1"),
        ("other", "1", "1"),
        ("small", "1", "4"),
    ]
    assert [p["model"] for p in (await ann("GET", "/ledger/v1/prices?model=gpt-9")).json["items"]] == ["gpt-*"]
    assert (await ann("GET", "/ledger/v1/prices?model=later")).json["items"] == []


async def test_who_counts_in_units_sees_prices_in_credits_and_what_a_unit_is_worth(
    session: aiohttp.ClientSession, base: str, store: Store, call: Client
) -> None:
    """The account, its journal and estimates are in units; prices stay in credits, and the index by which they are divided stands there."""
    store.directory.configure(file_prices=(Price("small", 0, input=10**9, output=5 * 10**9, level="l"),), default_plan="everyone")
    await store.directory.put_plan(Plan("units", (Limit(CREDIT, "day"),), unit="l"), operation_id="units")
    cat = AccountId("user:cat")
    await store.directory.create_account(cat, plan="units", operation_id="cat")
    _, key = await store.directory.create_key(cat, operation_id="cat-key")
    assert key is not None
    pages = Pages(session, base, key)
    page = (await pages("GET", "/ledger/v1/prices")).json
    assert (page["unit"], page["index"], page["items"][0]["level"], page["items"][0]["output"]) == ("l", "2", "l", "5")
    account = (await pages("GET", "/ledger/v1/account")).json
    assert (account["unit"], account["available"]) == ("l", "1")
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 100}
    estimate = (await pages("POST", "/ledger/v1/estimate", {"path": "/v1/chat/completions", "body": body})).json
    tokens = estimate["tokens"]
    assert estimate["unit"] == "l"
    await store.directory.put_plan(Plan("units", (Limit(CREDIT, "day"),), unit="l", transfers=True), operation_id="giving")
    await store.directory.create_account(AccountId("user:dan"), plan="units", operation_id="dan")
    refused = await pages("POST", "/ledger/v1/transfers", {"to": "user:dan", "credits": "2"})
    told = refused.json["compute_ledger"]
    assert (refused.status, told["needed"], told["available"], told["unit"]) == (402, "2", "1", "l")
    assert refused.headers["X-Ledger-Unit"] == "l;index=2"
    assert Decimal(estimate["largest"]) == Decimal(tokens["input_bound"] + 5 * 100) / 2 / 10**6


async def test_who_counts_in_credits_sees_no_index(ann: Pages) -> None:
    """A credit is a credit."""
    page = (await ann("GET", "/ledger/v1/prices")).json
    assert (page["unit"], page["index"]) == ("credits", None)


async def test_an_estimate_says_what_a_request_may_cost_and_runs_nothing(ann: Pages, store: Store, call: Client) -> None:
    """Exactly: the input's bound and the maximum at the price for the largest; the counted input and one slice for the likely."""
    body = {"model": "small", "messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 500, "stream": True}
    reply = await ann("POST", "/ledger/v1/estimate", {"path": "/v1/chat/completions", "body": body})
    assert reply.status == 200, reply.text
    estimate = reply.json
    assert estimate["tokens"] == {"input_counted": 17, "input_bound": 64, "output_estimated": 100, "output_max": 500}
    assert estimate["largest"] == "0.002064"  # (64 * 1 + 500 * 4) / 10^6
    assert estimate["estimated"] == "0.000417"  # (17 * 1 + 100 * 4) / 10^6
    assert (estimate["model"], estimate["operation"], estimate["stream"]) == ("small", "chat", True)
    assert (estimate["available"], estimate["fits"], estimate["fits_largest"]) == ("10", True, True)
    assert (await ann("GET", "/ledger/v1/journal")).json["items"] == []
    assert (await ann("GET", "/ledger/v1/account")).json["held"] == "0"


async def test_an_estimate_says_whether_it_fits_now(ann: Pages, store: Store, call: Client) -> None:
    """Let in with what is left but cut before its maximum; not let in at all; not while the organisation is suspended."""
    asked = {"path": "/v1/completions", "body": {"model": "small", "prompt": "hi", "max_tokens": 1000, "stream": True}}

    async def fits(available: int) -> tuple[bool, bool]:
        await store.ledger.set_limits((ORG, ANN), f"l{available}", limits=(Limit(available, "day"),))
        estimate = (await ann("POST", "/ledger/v1/estimate", asked)).json
        return estimate["fits"], estimate["fits_largest"]

    largest = 4_000_000 + 22_000  # 1000 output tokens, and 2 bytes + 4 + 16 of input
    assert await fits(largest) == (True, True)
    assert await fits(largest - 1) == (True, False)
    assert await fits(26_000) == (True, False)
    assert await fits(25_999) == (False, False)
    await store.ledger.set_limits((ORG, ANN), "free", limits=())
    assert (await ann("POST", "/ledger/v1/estimate", asked)).json["available"] == "100"
    await call.done("PATCH", "/accounts/org", {"status": "suspended"})
    assert (await ann("POST", "/ledger/v1/estimate", asked)).json["fits"] is False


async def test_an_estimate_without_a_maximum_counts_the_operators(ann: Pages) -> None:
    """And every answer that is asked for; embeddings have no output."""
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}], "n": 3}
    reply = await ann("POST", "/ledger/v1/estimate", {"path": "/v1/chat/completions", "body": body})
    assert reply.json["tokens"]["output_max"] == 3000
    body = {"model": "gpt-x", "input": "hi"}
    reply = await ann("POST", "/ledger/v1/estimate", {"path": "/v1/embeddings", "body": body})
    assert (reply.json["tokens"]["output_max"], reply.json["estimated"]) == (0, "0.000001")


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"path": "/v1/chat/completions"}, 400, "invalid_request"),
        ({"path": 1, "body": {}}, 400, "invalid_request"),
        ({"path": "/v1/chat/completions", "body": []}, 400, "invalid_request"),
        ({"path": "/v1/chat/completions", "body": {}, "x": 1}, 400, "invalid_request"),
        ({"path": "/v1/chat/completions", "body": {"model": "small"}}, 400, "invalid_request"),
        ({"path": "/v1/vector_stores", "body": {"model": "small"}}, 404, "unknown_path"),
        ({"path": "/v1/models", "body": {"model": "small"}}, 405, "method_not_allowed"),
        ({"path": "//v1/chat/completions", "body": {"model": "small"}}, 400, "invalid_request"),
        ({"path": "/v1/completions", "body": {"model": "nowhere", "prompt": ""}}, 404, "model_not_found"),
        ({"path": "/v1/completions", "body": {"model": "other", "prompt": ""}}, 403, "model_not_allowed"),
    ],
)
async def test_an_estimate_is_refused_as_the_request_would_be(ann: Pages, asked: Any, status: int, code: str) -> None:
    """The same codes as admission has."""
    reply = await ann("POST", "/ledger/v1/estimate", asked)
    assert (reply.status, reply.json["error"]["code"]) == (status, code), reply.text


async def test_an_estimate_of_an_unpriced_model_is_refused(bob: Pages) -> None:
    """Nothing is free by accident, not even on paper."""
    asked = {"path": "/v1/completions", "body": {"model": "unpriced", "prompt": ""}}
    reply = await bob("POST", "/ledger/v1/estimate", asked)
    assert (reply.status, reply.json["error"]["code"]) == (403, "model_not_priced")


async def test_an_ambiguous_body_is_refused_inside_an_estimate_too(ann: Pages) -> None:
    """A member that stands twice could be read in two ways."""
    text = b'{"path":"/v1/completions","body":{"model":"small","model":"gpt-x","prompt":""}}'
    reply = await ann("POST", "/ledger/v1/estimate", data=text, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")


async def test_credits_can_be_given_away_where_the_plan_allows(ann: Pages, bob: Pages, call: Client) -> None:
    """From the caller's own account alone, once for each Idempotency-Key, and in the audit log."""
    gift = {"to": "user:bob", "credits": "2.5", "reason": "thanks"}
    for _ in range(2):
        reply = await ann("POST", "/ledger/v1/transfers", gift, headers={"Idempotency-Key": "g-1"})
        assert reply.status == 200, reply.text
        assert {name: reply.json[name] for name in ("from", "to", "credits", "reason")} == {**gift, "from": "user:ann"}
    assert (await ann("GET", "/ledger/v1/account")).json["given"] == "2.5"
    assert (await bob("GET", "/ledger/v1/account")).json["available"] == "7.5"
    event = (await call.done("GET", "/events"))["items"][0]
    assert (event["actor"], event["action"], event["subject"]) == ("account:user:ann", "transfer.create", "user:ann")
    reply = await ann("POST", "/ledger/v1/transfers", {**gift, "credits": 1}, headers={"Idempotency-Key": "g-1"})
    assert (reply.status, reply.json["error"]["code"]) == (409, "conflict")


async def test_what_would_leave_an_organisation_beyond_its_limit_is_refused(ann: Pages, store: Store) -> None:
    """With the organisation's name and what it has left; who gives sees its own part of what it gave, not the organisation's."""
    await store.directory.create_account(AccountId("user:eve"), operation_id="eve")
    await store.ledger.set_limits((ORG,), "limits", limits=(Limit(4 * CREDIT, "day"),))
    reply = await ann("POST", "/ledger/v1/transfers", {"to": "user:eve", "credits": 5})
    assert (reply.status, reply.json["error"]["code"]) == (402, "insufficient_quota")
    assert ("'org'" in reply.json["error"]["message"], reply.headers["X-Ledger-Remaining"]) == (True, "4")
    reply = await ann("POST", "/ledger/v1/transfers", {"to": "user:eve", "credits": 3})
    assert reply.status == 200, reply.text
    assert (await store.directory.account(ORG)).totals.given == 3 * CREDIT
    [entry] = [entry for entry in (await ann("GET", "/ledger/v1/journal")).json["items"] if entry["verb"] == "transfer"]
    assert {posting["account"] for posting in entry["postings"]} == {"user:ann"}


async def test_credits_cannot_be_given_away_where_the_plan_does_not_allow(bob: Pages, call: Client) -> None:
    """403, before anything else is looked at."""
    reply = await bob("POST", "/ledger/v1/transfers", {"to": "user:ann", "credits": 1})
    assert (reply.status, reply.json["error"]["code"]) == (403, "transfers_not_allowed")
    assert (await call.done("GET", "/accounts/user:bob"))["given"] == "0"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"to": "user:bob", "credits": 11}, 402, "insufficient_quota"),
        ({"to": "user:none", "credits": 1}, 404, "account_not_found"),
        ({"to": "user:ann", "credits": 1}, 400, "invalid_request"),
        ({"to": "user:bob", "credits": 0}, 400, "invalid_request"),
        ({"to": "user:bob", "credits": "-1"}, 400, "invalid_request"),
        ({"from": "user:bob", "to": "user:ann", "credits": 1}, 400, "invalid_request"),
        ({"to": "user:bob"}, 400, "invalid_request"),
    ],
)
async def test_a_transfer_that_cannot_be_is_refused(ann: Pages, body: Any, status: int, code: str) -> None:
    """In the shape that SDKs read, with the ledger's member beside it."""
    reply = await ann("POST", "/ledger/v1/transfers", body)
    assert (reply.status, reply.json["error"]["code"], reply.json["compute_ledger"]["code"]) == (status, code, code), reply.text
    assert reply.json["error"]["message"]
    assert reply.headers["X-Request-Id"] == "request-7"


async def test_what_there_is_not_is_not_found(ann: Pages) -> None:
    """Paths and methods."""
    for path in ("/ledger/v1", "/ledger/v1/accounts", "/ledger/v1/account/", "/ledger/v1/friends", "/ledger/v2/account"):
        reply = await ann("GET", path)
        assert (reply.status, reply.json["error"]["code"]) == (404, "unknown_path"), path
    reply = await ann("DELETE", "/ledger/v1/account")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")


async def test_without_a_key_nothing_is_shown(ann: Pages) -> None:
    """Identity comes first; self-service never sees a request without a caller."""
    reply = await ann("GET", "/ledger/v1/account", headers={"Authorization": "Bearer cl-unknown-unknown-unknown"})
    assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
