"""What agents' keys, repeated requests and processes that die in between cannot do to a person's agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from proxy.domain import AccountId
from proxy.ledger import Store, keys
from proxy.ledger.agents import OPENING_MS
from tests.server.admin.bench import CREDIT, Client
from tests.server.admin.own_pages import Pages, person, serve

ANN = AccountId("user:ann")
AGENTS_MAX = 4


@pytest.fixture
async def base(store: Store) -> AsyncIterator[str]:
    async with serve(store, agents_max=lambda: AGENTS_MAX) as base:
        yield base


@pytest.fixture
async def ann(store: Store, base: str, session: aiohttp.ClientSession) -> Pages:
    return await person(store, base, session, ANN)


@pytest.mark.parametrize("after", ["0", "user:ann", "user:ann:agent:", "user:ann:agent:a", "user:ann:agent:x"])
async def test_an_agent_is_told_of_no_agent_but_its_own_wherever_a_page_begins(ann: Pages, after: str) -> None:
    """Its siblings, their caps and labels are their person's to know; the person itself may begin anywhere."""
    for name in ("a", "z"):
        await ann.done("POST", "/agents", {"name": name, "cap": "1", "labels": {"job": "secret"}})
    x = await ann.done("POST", "/agents", {"name": "x", "cap": "1", "may_open_agents": True})
    mine = ann.with_key(x["key"])
    own = await mine.done("POST", "/agents", {"name": "own", "cap": "1"})
    assert [item["id"] for item in (await mine.done("GET", f"/agents?after={after}"))["items"]] == [own["id"]]
    everything = [f"user:ann:agent:{name}" for name in ("a", "x", "x:agent:own", "z")]
    assert [item["id"] for item in (await ann.done("GET", f"/agents?after={after}"))["items"]] == [i for i in everything if i > after]


@pytest.mark.parametrize(
    ("method", "path", "first", "other"),
    [
        ("POST", "/agents", {"name": "b", "cap": "1"}, {"name": "b", "cap": "1", "may_open_agents": True}),
        ("PATCH", "/agents", {"status": "suspended"}, {"limits": [{"credits": "3", "window": "day"}]}),
        ("PATCH", "/agents/user:ann:agent:a", {"labels": {"job": "code"}}, {"cap": "5"}),
        ("POST", "/agents/user:ann:agent:a/keys", {}, {"reason": "other"}),
    ],
)
async def test_an_idempotency_key_that_was_used_for_something_else_changes_nothing(
    ann: Pages, method: str, path: str, first: dict[str, Any], other: dict[str, Any]
) -> None:
    """A conflict, as at the admin API; the same again is the same."""
    await ann.done("POST", "/agents", {"name": "a", "cap": "1"})
    await ann.done(method, path, first, key="k")
    before = (await ann.done("GET", "/agents"))["items"]
    reply = await ann(method, f"/ledger/v1{path}", other, headers={"Idempotency-Key": "k"})
    assert (reply.status, reply.json["error"]["code"]) == (409, "conflict")
    await ann.done(method, path, first, key="k")
    assert (await ann.done("GET", "/agents"))["items"] == before


async def test_whoever_closes_an_agent_closes_what_it_opened(ann: Pages, store: Store, call: Client) -> None:
    """The operator as well as the person; none of them is listed, counted or believed any more, nor does its request wait."""
    for close in ("the person", "the operator"):
        opened = await ann.done("POST", "/agents", {"name": close.split()[1], "cap": "1", "may_open_agents": True})
        mine = ann.with_key(opened["key"])
        own = [await mine.done("POST", "/agents", {"name": name, "cap": "1"}) for name in ("b", "c")]
        await ann.with_key(own[0]["key"]).done("POST", f"/agents/{own[0]['id']}/requests", {"cap": "2"})
        if close == "the person":
            await ann.done("DELETE", f"/agents/{opened['id']}")
        else:
            await call.done("PATCH", f"/accounts/{opened['id']}", {"status": "closed"})
        assert (await ann.done("GET", "/agents"))["items"] == (await ann.done("GET", "/requests"))["items"] == []
        assert (await ann.done("PATCH", "/agents", {"status": "active"}))["open_agents"] == 0
        for item in (opened, *own):
            assert (await store.directory.account(AccountId(item["id"]))).status == "closed"
            assert await ann.with_key(item["key"]).refused("GET", "/account") == (401, "invalid_api_key")


async def test_a_request_whose_asking_broke_off_is_seen_once_it_is_repeated(ann: Pages, store: Store) -> None:
    """The process died after it had written the request down, and before it was listed."""
    agent = await ann.done("POST", "/agents", {"name": "a", "cap": "1"})
    mine, asked = ann.with_key(agent["key"]), {"cap": "2", "reason": "more"}
    request = await mine.done("POST", f"/agents/{agent['id']}/requests", asked, key="k")
    await store.engine.command("DEL", keys.raises_of(ANN))
    await store.engine.command("DEL", keys.raise_of(AccountId(agent["id"])))
    assert (await ann.done("GET", "/requests"))["items"] == []
    assert (await mine.done("POST", f"/agents/{agent['id']}/requests", asked, key="k"))["request_id"] == request["request_id"]
    assert [item["request_id"] for item in (await ann.done("GET", "/requests"))["items"]] == [request["request_id"]]
    assert (await ann.done("POST", f"/requests/{request['request_id']}/approve"))["state"] == "approved"
    await mine.done("POST", f"/agents/{agent['id']}/requests", asked, key="k")
    assert (await ann.done("GET", "/requests"))["items"] == []


async def test_an_agent_whose_opening_broke_off_takes_nobodys_place(ann: Pages, store: Store) -> None:
    """The process died between the list and the account; whoever repeats it opens it, and it counts again."""
    for n in range(AGENTS_MAX):
        await store.engine.command("ZADD", keys.agents_of(ANN), 0, f"user:ann:agent:ghost{n}")
    for n in range(AGENTS_MAX):
        await ann.done("POST", "/agents", {"name": f"ghost{n}" if n < 2 else f"a{n}", "cap": "1"})
    assert await ann.refused("POST", "/agents", {"name": "more", "cap": "1"}) == (409, "conflict")
    assert [item["id"][-6:] for item in (await ann.done("GET", "/agents"))["items"]] == ["ent:a2", "ent:a3", "ghost0", "ghost1"]


async def test_openings_at_once_are_no_more_than_there_is_room_for(ann: Pages, store: Store) -> None:
    """None takes another that is under way for one that broke off; what did break off counts again only after longer than any can take."""
    for n in range(AGENTS_MAX - 1):
        await ann.done("POST", "/agents", {"name": f"x{n}", "cap": "1"})
    replies = await asyncio.gather(*(ann("POST", "/ledger/v1/agents", {"name": f"a{n}", "cap": "1"}) for n in range(20)))
    opened = [reply.status for reply in replies if reply.status != 409]
    assert opened in ([], [201]), opened
    assert len((await ann.done("GET", "/agents"))["items"]) == AGENTS_MAX - 1 + len(opened)
    if opened:
        await ann.done("DELETE", f"/agents/{(await ann.done('GET', '/agents'))['items'][0]['id']}")
    ghost, opening = "user:ann:agent:ghost", keys.agents_being_opened_by(ANN)
    await store.engine.command("ZADD", keys.agents_of(ANN), 0, ghost)
    await store.engine.command("ZADD", opening, store.engine.now_ms(), ghost)
    assert await ann.refused("POST", "/agents", {"name": "more", "cap": "1"}) == (409, "conflict")
    await store.engine.command("ZADD", opening, store.engine.now_ms() - OPENING_MS, ghost)
    await ann.done("POST", "/agents", {"name": "more", "cap": "1"})


async def test_a_person_whose_id_leaves_no_room_for_a_name_is_told_so(store: Store, base: str, session: aiohttp.ClientSession) -> None:
    """There is no shorter name to take."""
    for length, hint in ((124, "an account with a shorter id"), (110, "Take a shorter name")):
        pages = await person(store, base, session, "u" * length)
        reply = await pages("POST", "/ledger/v1/agents", {"name": "a-name-of-its-own", "cap": "1"})
        assert (reply.status, hint in reply.text) == (400, True), reply.text


async def test_what_an_agent_cannot_do_it_cannot_do_by_any_call(ann: Pages, store: Store) -> None:
    """With its own key: its cap, its pause, its right to open agents, its request and its siblings stay its person's."""
    x = await ann.done("POST", "/agents", {"name": "x", "cap": "1"})
    sibling = await ann.done("POST", "/agents", {"name": "y", "cap": "1"})
    mine = ann.with_key(x["key"])
    request = await mine.done("POST", f"/agents/{x['id']}/requests", {"cap": "2"})
    calls = [
        ("POST", "/agents", {"name": "z", "cap": "1"}),
        ("PATCH", "/agents", {"status": "active"}),
        *(("PATCH", f"/agents/{agent}", body) for agent in (x["id"], sibling["id"]) for body in ({"cap": "9"}, {"may_open_agents": True})),
        *(("DELETE", f"/agents/{agent}", None) for agent in (x["id"], sibling["id"])),
        ("POST", f"/agents/{x['id']}/keys", {}),
        ("POST", f"/agents/{sibling['id']}/requests", {"cap": "2"}),
        ("POST", f"/requests/{request['request_id']}/approve", {}),
        ("POST", "/transfers", {"to": "user:ann", "credits": "1"}),
        ("GET", f"/agents/{sibling['id']}", None),
    ]
    for method, path, body in calls:
        status, _ = await mine.refused(method, path, body)
        assert status in (403, 404), (method, path)
    account = await store.directory.account(AccountId(x["id"]))
    assert (account.status, account.own_limits and account.own_limits[0].credits_nanocredits) == ("active", CREDIT)
