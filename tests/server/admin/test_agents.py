"""Agents under a person's control: opened, capped, paused, closed; what their own keys can and cannot."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.domain import AccountId, Limit, Path, Plan
from proxy.errors import Refusal
from proxy.ledger import Store
from tests.server.admin.bench import CREDIT, Client
from tests.server.admin.own_pages import Pages, person, serve

ORG, ANN, BOB = AccountId("org"), AccountId("user:ann"), AccountId("user:bob")
AGENTS_MAX = 5
DAY = [{"credits": "2", "window": "day"}]


@pytest.fixture
async def base(store: Store) -> AsyncIterator[str]:
    async with serve(store, agents_max=lambda: AGENTS_MAX) as base:
        yield base


@pytest.fixture
async def ann(store: Store, base: str, session: aiohttp.ClientSession) -> Pages:
    """A person with 5 credits a day."""
    await store.directory.create_account(ORG, limits=(), operation_id="org")
    return await person(store, base, session, ANN, parent=ORG)


@pytest.fixture
async def bob(store: Store, ann: Pages, base: str, session: aiohttp.ClientSession) -> Pages:
    return await person(store, base, session, BOB, parent=ORG)


async def spend(store: Store, agent: str, credits: int, hold_id: str = "h") -> None:
    path = await store.directory.path(AccountId(agent))
    amount = credits * CREDIT
    await store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
    await store.ledger.settle(path, hold_id, spent_nanocredits=amount)


async def test_a_person_opens_an_agent_with_a_cap_and_a_key_of_its_own(ann: Pages, store: Store, call: Client) -> None:
    """Its use counts against its cap, the person's limit and everything above; the key is shown once; it stands in the audit log."""
    asked = {"name": "coder", "cap": "3", "labels": {"job": "code"}, "reason": "reviews"}
    opened = await ann.done("POST", "/agents", asked, key="once")
    assert opened["id"] == "user:ann:agent:coder"
    assert opened["path"] == ["org", "user:ann", "user:ann:agents", "user:ann:agent:coder"]
    assert [(limit["credits"], limit["window"]) for limit in opened["limits"]] == [("3", "ever")]
    assert (opened["available"], opened["labels"], opened["stopped_by"]) == ("3", {"job": "code"}, None)
    again = await ann.done("POST", "/agents", asked, key="once")
    assert (again["key_id"], again["key"]) == (opened["key_id"], None)

    own = await ann.with_key(opened["key"]).done("GET", "/account")
    assert (own["id"], own["kind"]) == (opened["id"], "agent")
    await spend(store, opened["id"], 3)
    assert [(await store.directory.account(account)).totals.spent for account in (ORG, ANN)] == [3 * CREDIT] * 2
    assert (await ann.done("GET", "/agents/user:ann:agent:coder"))["available"] == "0"
    with pytest.raises(Refusal) as refused:
        await spend(store, opened["id"], 1, "h2")
    assert refused.value.account == opened["id"]
    event = (await call.done("GET", "/events"))["items"][0]
    assert (event["actor"], event["action"], event["subject"]) == ("account:user:ann", "agent.open", opened["id"])
    assert event["reason"] == "reviews"


async def test_all_agents_together_spend_no_more_than_their_person_has(ann: Pages, store: Store) -> None:
    """Caps may add up to more than the person's limit; the limit holds."""
    for name in ("a", "b"):
        await ann.done("POST", "/agents", {"name": name, "limits": [{"credits": "4", "window": "day"}]})
    await spend(store, "user:ann:agent:a", 4)
    with pytest.raises(Refusal) as refused:
        await spend(store, "user:ann:agent:b", 2, "h2")
    assert (refused.value.account, refused.value.code) == (ANN, "insufficient_quota")


async def test_an_agent_is_known_as_its_persons_where_seats_and_models_are_shared(ann: Pages, store: Store) -> None:
    """A thousand agents wait for seats as one person, by that person's weight, and have the plan that the person has now."""
    opened = await ann.done("POST", "/agents", {"name": "coder", "cap": 1})
    await store.directory.put_plan(Plan("narrow", (Limit(CREDIT, "day"),), weight=7, models=("small",)), operation_id="p")
    await store.directory.update_account(ANN, plan="narrow", operation_id="u")
    caller = await store.directory.caller(_digest(opened["key"]))
    assert caller is not None
    assert (caller.person, caller.plan.models, caller.weights[1]) == ((ORG, ANN), ("small",), 7)
    person = await store.directory.caller(_digest(ann.key))
    assert person is not None
    assert person.person == ()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def test_an_agent_is_paused_and_goes_on_at_once(ann: Pages, store: Store) -> None:
    """The very next request is refused; a stream that runs gets nothing more when it asks for its next slice."""
    path = await opened(ann, store, "coder")
    await store.ledger.hold(path, "stream", want_nanocredits=CREDIT, least_nanocredits=CREDIT)
    paused = await ann.done("PATCH", "/agents/user:ann:agent:coder", {"status": "suspended", "reason": "too eager"})
    assert (paused["status"], paused["stopped_by"]) == ("suspended", path[-1])
    with pytest.raises(Refusal, match="suspended"):
        await spend(store, path[-1], 1)
    more = await store.ledger.extend(path, "stream", sequence=1, spent_nanocredits=CREDIT, want_nanocredits=CREDIT)
    assert more is not None
    assert more.amount_nanocredits == CREDIT
    await ann.done("PATCH", "/agents/user:ann:agent:coder", {"status": "active"})
    more = await store.ledger.extend(path, "stream", sequence=2, spent_nanocredits=CREDIT, want_nanocredits=CREDIT)
    assert more is not None
    assert more.amount_nanocredits == 2 * CREDIT


async def opened(pages: Pages, store: Store, name: str, cap: str = "3") -> Path:
    agent = await pages.done("POST", "/agents", {"name": name, "cap": cap})
    return await store.directory.path(AccountId(agent["id"]))


async def test_all_agents_of_a_person_are_paused_in_one_step(ann: Pages, bob: Pages, store: Store) -> None:
    """However many there are it is one write; the person goes on, and so do the agents of others."""
    paths = [await opened(ann, store, name) for name in ("a", "b")]
    others = await opened(bob, store, "a")
    answer = await ann.done("PATCH", "/agents", {"status": "suspended"})
    assert (answer["status"], answer["open_agents"]) == ("suspended", 2)
    for path in paths:
        with pytest.raises(Refusal, match="suspended"):
            await spend(store, path[-1], 1)
    await spend(store, others[-1], 1)
    await spend(store, ANN, 1, "own")
    items = (await ann.done("GET", "/agents"))["items"]
    assert [(item["status"], item["stopped_by"]) for item in items] == [("active", "user:ann:agents")] * 2
    await ann.done("PATCH", "/agents", {"status": "active", "limits": [{"credits": "1", "window": "day"}]})
    await spend(store, paths[0][-1], 1, "h1")
    with pytest.raises(Refusal) as refused:
        await spend(store, paths[1][-1], 1, "h2")
    assert refused.value.account == "user:ann:agents"


async def test_agents_stop_with_their_person(ann: Pages, store: Store, call: Client) -> None:
    """Nothing has to be done to each of them."""
    path = await opened(ann, store, "coder")
    await call.done("PATCH", "/accounts/user:ann", {"status": "suspended"})
    with pytest.raises(Refusal) as refused:
        await spend(store, path[-1], 1)
    assert (refused.value.code, refused.value.account) == ("account_suspended", ANN)
    assert await ann.refused("POST", "/agents", {"cap": 1}) == (403, "account_suspended")


async def test_a_cap_is_raised_by_the_person_and_asked_for_by_the_agent(ann: Pages, store: Store, call: Client) -> None:
    """The agent's key can neither raise nor approve; what was approved holds at once, and again is no change."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "1"})
    mine = ann.with_key(agent["key"])
    place = f"/agents/{agent['id']}"
    assert await mine.refused("PATCH", place, {"cap": "9"}) == (403, "forbidden")
    assert await mine.refused("PATCH", "/agents", {"status": "active"}) == (403, "forbidden")
    assert await ann.refused("POST", f"{place}/requests", {"cap": "9"}) == (403, "forbidden")
    asked = await mine.done("POST", f"{place}/requests", {"cap": "9", "reason": "long job"}, key="r1")
    assert await mine.done("POST", f"{place}/requests", {"cap": "9", "reason": "long job"}, key="r1") == asked
    assert (asked["state"], asked["limits"][0]["credits"], asked["person"]) == ("pending", "9", "user:ann")
    for verb in ("approve", "decline"):
        assert await mine.refused("POST", f"/requests/{asked['request_id']}/{verb}") == (403, "forbidden")
    assert (await mine.done("GET", place))["limits"][0]["credits"] == "1"

    assert (await ann.done("GET", "/requests"))["items"] == [asked]
    assert (await call.done("GET", "/accounts/user:ann/requests"))["items"] == [asked]
    for _ in range(2):
        answered = await ann.done("POST", f"/requests/{asked['request_id']}/approve", {"reason": "fine"})
        assert (answered["state"], answered["answered_by"]) == ("approved", "user:ann")
    assert await ann.refused("POST", f"/requests/{asked['request_id']}/decline") == (409, "conflict")
    assert (await ann.done("GET", place))["limits"][0]["credits"] == "9"
    assert (await ann.done("GET", "/requests"))["items"] == []
    assert (await mine.done("GET", "/requests"))["items"][0]["state"] == "approved"
    assert "raise.approve" in {event["action"] for event in (await call.done("GET", "/events"))["items"]}


async def test_what_is_approved_is_what_was_seen(ann: Pages) -> None:
    """An agent that asks again replaces its request; the person's yes to the earlier one gives nothing."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "1"})
    mine, place = ann.with_key(agent["key"]), f"/agents/{agent['id']}"
    modest = await mine.done("POST", f"{place}/requests", {"cap": "2"})
    greedy = await mine.done("POST", f"{place}/requests", {"cap": "4000"})
    assert await ann.refused("POST", f"/requests/{modest['request_id']}/approve") == (409, "conflict")
    assert (await ann.done("GET", place))["limits"][0]["credits"] == "1"
    assert [item["request_id"] for item in (await ann.done("GET", "/requests"))["items"]] == [greedy["request_id"]]
    await ann.done("POST", f"/requests/{greedy['request_id']}/decline")
    assert (await ann.done("GET", place))["limits"][0]["credits"] == "1"


async def test_nobody_touches_another_persons_agents(ann: Pages, bob: Pages) -> None:
    """They are not even told that there are any; nor is an agent told of its siblings, or lets it touch its person."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "1"})
    sibling = await ann.done("POST", "/agents", {"name": "writer", "cap": "1"})
    asked = await ann.with_key(agent["key"]).done("POST", f"/agents/{agent['id']}/requests", {"cap": "2"})
    for stranger in (bob, ann.with_key(sibling["key"])):
        for method, body in (("GET", None), ("PATCH", {"cap": "9"}), ("DELETE", None)):
            assert await stranger.refused(method, f"/agents/{agent['id']}", body) == (404, "account_not_found")
    assert await bob.refused("POST", f"/requests/{asked['request_id']}/approve") == (404, "not_found")
    for name in ("user:ann", "user:ann:agents", "org"):
        assert await ann.with_key(agent["key"]).refused("PATCH", f"/agents/{name}", {"cap": "9"}) == (404, "account_not_found")
    assert await ann.refused("PATCH", "/agents/user:ann:agents", {"cap": "9"}) == (404, "account_not_found")
    assert (await bob.done("GET", "/agents"))["items"] == []


async def test_an_agent_opens_agents_only_where_its_person_lets_it_and_within_its_cap(ann: Pages, store: Store) -> None:
    """They hang below it, so that their use is its own; the person sees and closes them, too."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "2"})
    mine = ann.with_key(agent["key"])
    assert await mine.refused("POST", "/agents", {"name": "sub", "cap": "50"}) == (403, "forbidden")
    await ann.done("PATCH", f"/agents/{agent['id']}", {"may_open_agents": True})
    sub = await mine.done("POST", "/agents", {"name": "sub", "cap": "50"})
    assert (sub["path"][-2:], sub["available"]) == ([agent["id"], f"{agent['id']}:agent:sub"], "2")
    assert await ann.with_key(sub["key"]).refused("POST", "/agents", {"cap": 1}) == (403, "forbidden")
    assert [item["id"] for item in (await mine.done("GET", "/agents"))["items"]] == [sub["id"]]
    assert [item["id"] for item in (await ann.done("GET", "/agents"))["items"]] == [agent["id"], sub["id"]]
    await spend(store, sub["id"], 2)
    with pytest.raises(Refusal) as refused:
        await spend(store, sub["id"], 1, "h2")
    assert refused.value.account == agent["id"]
    assert (await ann.done("DELETE", f"/agents/{sub['id']}"))["status"] == "closed"


async def test_an_agent_undoes_nothing_that_its_person_did(ann: Pages) -> None:
    """What it opened it may pause, lower and close; it can neither resume nor raise it, nor let it open more."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "2", "may_open_agents": True})
    mine = ann.with_key(agent["key"])
    assert await mine.refused("POST", "/agents", {"name": "sub", "cap": "1", "may_open_agents": True}) == (403, "forbidden")
    sub = await mine.done("POST", "/agents", {"name": "sub", "cap": "1"})
    place = f"/agents/{sub['id']}"
    assert (await mine.done("PATCH", place, {"cap": "0.5"}))["limits"][0]["credits"] == "0.5"
    await ann.done("PATCH", place, {"status": "suspended"})
    for more in ({"status": "active"}, {"cap": "0.6"}, {"limits": DAY}, {"may_open_agents": True}):
        assert await mine.refused("PATCH", place, more) == (403, "forbidden"), more
    assert (await mine.done("PATCH", place, {"labels": {"job": "none"}}))["status"] == "suspended"
    assert (await mine.done("DELETE", place))["status"] == "closed"


async def test_a_closed_agent_is_over(ann: Pages, store: Store) -> None:
    """Its keys are no keys any more, its name is not given again, and it no longer counts among the open ones."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "1"})
    mine = ann.with_key(agent["key"])
    await mine.done("POST", f"/agents/{agent['id']}/requests", {"cap": "2"})
    for _ in range(2):
        assert (await ann.done("DELETE", f"/agents/{agent['id']}?reason=done"))["status"] == "closed"
    assert await mine.refused("GET", "/account") == (401, "invalid_api_key")
    assert (await ann.done("GET", "/agents"))["items"] == []
    assert (await ann.done("GET", "/requests"))["items"] == []
    assert await ann.refused("POST", "/agents", {"name": "coder", "cap": "1"}) == (409, "conflict")
    assert await ann.refused("PATCH", f"/agents/{agent['id']}", {"status": "active"}) == (409, "conflict")


async def test_a_new_key_of_an_agent_ends_the_one_before(ann: Pages) -> None:
    """So that a key that leaked is of no use."""
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "1"})
    renewed = await ann.done("POST", f"/agents/{agent['id']}/keys", key="n")
    assert (await ann.done("POST", f"/agents/{agent['id']}/keys", key="n"))["key"] is None
    assert await ann.with_key(agent["key"]).refused("GET", "/account") == (401, "invalid_api_key")
    assert (await ann.with_key(renewed["key"]).done("GET", "/account"))["id"] == agent["id"]
    latest = await ann.done("POST", f"/agents/{agent['id']}/keys", key="m")
    assert (await ann.done("POST", f"/agents/{agent['id']}/keys", key="n"))["key"] is None
    assert (await ann.with_key(latest["key"]).done("GET", "/account"))["id"] == agent["id"]
    assert await ann.with_key(renewed["key"]).refused("GET", "/account") == (401, "invalid_api_key")


async def test_a_person_has_no_more_agents_than_the_operator_lets(ann: Pages) -> None:
    """Those of agents count, closed ones do not; lists come in pages."""
    for n in range(AGENTS_MAX):
        await ann.done("POST", "/agents", {"name": f"a{n}", "cap": "1"})
    assert await ann.refused("POST", "/agents", {"name": "more", "cap": "1"}) == (409, "conflict")
    page = await ann.done("GET", "/agents?limit=3")
    rest = await ann.done("GET", f"/agents?limit=3&after={page['next']}")
    assert [item["id"][-2:] for item in page["items"] + rest["items"]] == [f"a{n}" for n in range(AGENTS_MAX)]
    assert rest["next"] is None
    await ann.done("DELETE", "/agents/user:ann:agent:a0")
    await ann.done("POST", "/agents", {"name": "more", "cap": "1"})


async def test_a_name_that_is_anothers_is_not_taken(ann: Pages, call: Client) -> None:
    """Ids are made below the opener's own, and what stands there already stays as it is."""
    await call.done("POST", "/accounts", {"id": "user:ann:agent:coder", "parent": "org"})
    assert await ann.refused("POST", "/agents", {"name": "coder", "cap": "1"}) == (409, "conflict")
    assert await ann.refused("POST", "/agents", {"name": "x:agent:y", "cap": "1"}) == (400, "invalid_request")
    assert (await call.done("GET", "/accounts/user:ann:agent:coder"))["path"] == ["org", "user:ann:agent:coder"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a"},
        {"cap": "1", "limits": DAY},
        {"limits": []},
        {"cap": "0"},
        {"cap": "-1"},
        {"limits": DAY + DAY},
        {"id": "x", "cap": 1},
    ],
)
async def test_an_agent_without_one_clear_cap_is_refused(ann: Pages, body: dict[str, object]) -> None:
    """Every agent has a cap, given in one way."""
    assert await ann.refused("POST", "/agents", body) == (400, "invalid_request")
    assert (await ann.done("GET", "/agents"))["items"] == []


async def test_agents_cannot_give_credits_away(ann: Pages, store: Store, call: Client) -> None:
    """What they have is a cap on their person's budget, not a budget of its own that could be handed on."""
    await store.directory.put_plan(Plan("generous", (Limit(10 * CREDIT, "day"),), transfers=True), operation_id="p")
    await store.directory.update_account(ANN, plan="generous", operation_id="u")
    agent = await ann.done("POST", "/agents", {"name": "coder", "cap": "5"})
    gift = {"to": "user:ann", "credits": "5"}
    assert await ann.with_key(agent["key"]).refused("POST", "/transfers", gift) == (403, "transfers_not_allowed")
    assert (await call.done("GET", "/accounts/user:ann"))["available"] == "10"


async def test_a_late_repeat_undoes_nothing(ann: Pages) -> None:
    """Not what was forbidden since, and nothing of an agent that was closed since."""
    asked = {"name": "coder", "cap": "1", "may_open_agents": True}
    agent = await ann.done("POST", "/agents", asked, key="k")
    place = f"/agents/{agent['id']}"
    assert not (await ann.done("PATCH", place, {"may_open_agents": False}))["may_open_agents"]
    assert not (await ann.done("POST", "/agents", asked, key="k"))["may_open_agents"]
    await ann.done("DELETE", place)
    await ann.done("POST", "/agents", asked, key="k")
    assert (await ann.done("GET", "/agents"))["items"] == []
