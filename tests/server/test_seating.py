"""Scarce seats, through the whole proxy: who goes next, what waiting costs, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import pairwise
from typing import Any

import pytest

from proxy.domain import AccountId, AccountStatus, Caller, Limit, Plan
from tests.server.conftest import Start
from tests.support import openai_answers
from tests.support.proxied import ACCOUNT, KEY, RATE_INPUT, RATE_OUTPUT, Proxied, chat
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

USAGE = openai_answers.usage(10, 5)
COST = (10 * RATE_INPUT + 5 * RATE_OUTPUT) // 1_000_000
ANSWER = openai_answers.chat("hi", usage=USAGE)
ONE_SEAT = {"seats": 1, "queue_timeout_s": 5}


async def people(proxied: Proxied, *names: str, weights: tuple[int, ...] = ()) -> dict[str, str]:
    """More accounts, each with a key and plenty of budget; their keys."""
    keys = {}
    for number, name in enumerate(names):
        account = AccountId(name)
        plan = Plan("everyone", (Limit(1_000_000, "day"),))
        await proxied.model.create_account(
            account, parent=None, plan="everyone", weight=None, limits=plan.limits, labels={}, operation_id=f"open-{name}"
        )
        keys[name] = f"cl-{name:x<43}"
        weight = weights[number] if weights else 1
        proxied.book.add(keys[name], Caller(account, (account,), plan, f"key-{name}", (weight, weight)))
    return keys


async def ask(proxied: Proxied, key: str = KEY, **options: Any) -> tuple[int, dict[str, str], bytes]:
    async with proxied.post(json=chat(max_tokens=10), key=key, **options) as answer:
        return answer.status, dict(answer.headers), await answer.read()


async def until_waiting(proxied: Proxied, count: int) -> None:
    async def waiting() -> bool:
        return proxied.pools.pool("up").waiting == count

    await proxied.until(waiting)


@pytest.mark.parametrize(
    ("status", "ledger", "answered"), [("active", "there", 200), ("suspended", "there", 403), ("suspended", "away", 200)]
)
async def test_whoever_has_waited_is_looked_at_again_where_an_account_has_changed(
    upstream: ScriptedUpstream, start: Start, status: AccountStatus, ledger: str, answered: int
) -> None:
    """Who was paused meanwhile is refused, at no cost; while the ledger is away what has a hold goes on inside it."""
    async with start(upstream=ONE_SEAT) as proxied:
        keys = await people(proxied, "waiting")
        first = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        second = asyncio.create_task(ask(proxied, keys["waiting"]))
        await until_waiting(proxied, 1)
        proxied.book.generation += 1
        await proxied.model.update_account(AccountId("waiting"), operation_id="p", status=status)
        proxied.book.is_away = ledger == "away"
        await exchange.answer(ANSWER)
        if answered == 200:
            await (await upstream.next_request()).answer(ANSWER)
        assert ((await first)[0], (await second)[0]) == (200, answered)


async def test_a_request_waits_for_its_seat(upstream: ScriptedUpstream, start: Start) -> None:
    """The upstream never serves more than it has seats; the answer tells how long the request waited."""
    async with start(upstream=ONE_SEAT) as proxied:
        first = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        second = asyncio.create_task(ask(proxied))
        await until_waiting(proxied, 1)
        assert len(upstream.received) == 1
        await exchange.answer(ANSWER)
        await (await upstream.next_request()).answer(ANSWER)
        _, headers, _ = await first
        assert int(headers["X-Ledger-Queue-Ms"]) < 1000
        status, headers, body = await second
        assert (status, body) == (200, ANSWER)
        assert int(headers["X-Ledger-Queue-Ms"]) >= 0
        assert (await proxied.until_settled()).spent == 2 * COST
        assert proxied.pools.pool("up").used == 0
        assert proxied.counted("served_credits_total", "up") == proxied.counted("demand_credits_total", "up") == 2 * COST


async def test_hold_and_seat_are_asked_for_together(upstream: ScriptedUpstream, start: Start) -> None:
    """Neither waits for the other: with the hold held up, the seat is there already."""
    async with start(upstream=ONE_SEAT) as proxied:
        proxied.ledger.gates["hold"] = asyncio.Event()
        asking = asyncio.create_task(ask(proxied))

        async def seated() -> bool:
            return "up" in proxied.pools._pools and proxied.pools.pool("up").used == 1

        await proxied.until(seated)
        proxied.ledger.gates["hold"].set()
        await (await upstream.next_request()).answer(ANSWER)
        await asking


async def test_the_one_served_least_goes_next(upstream: ScriptedUpstream, start: Start) -> None:
    """A modest caller's first request goes before the tenth of a greedy one, although it came last."""
    order: list[str] = []

    async def serve(exchange: Exchange) -> None:
        order.append(exchange.headers["X-Who"])
        await exchange.answer(ANSWER)

    async with start(upstream=ONE_SEAT) as proxied:
        keys = await people(proxied, "modest")
        held = asyncio.create_task(ask(proxied, headers={"X-Who": "greedy"}))
        exchange = await upstream.next_request()
        greedy = [asyncio.create_task(ask(proxied, headers={"X-Who": "greedy"})) for _ in range(10)]
        await until_waiting(proxied, 10)
        modest = asyncio.create_task(ask(proxied, keys["modest"], headers={"X-Who": "modest"}))
        await until_waiting(proxied, 11)
        upstream.automatic = serve
        await exchange.answer(ANSWER)
        await asyncio.gather(held, modest, *greedy)
        assert order.index("modest") == 0


async def test_agents_wait_for_seats_as_their_person(upstream: ScriptedUpstream, start: Start) -> None:
    """Ten agents with a request each go after somebody else's first one, just as ten requests of their person would."""
    order: list[str] = []

    async def serve(exchange: Exchange) -> None:
        order.append(exchange.headers["X-Who"])
        await exchange.answer(ANSWER)

    async with start(upstream=ONE_SEAT) as proxied:
        agents = [f"agent{number}" for number in range(10)]
        keys = await people(proxied, "person", "modest", *agents)
        for caller in list(proxied.book.callers.values()):
            if caller.account in agents:
                proxied.book.add(keys[caller.account], dataclasses.replace(caller, person=(AccountId("person"),)))
        held = asyncio.create_task(ask(proxied, keys["person"], headers={"X-Who": "person"}))
        exchange = await upstream.next_request()
        others = [asyncio.create_task(ask(proxied, keys[agent], headers={"X-Who": agent})) for agent in agents]
        await until_waiting(proxied, 10)
        modest = asyncio.create_task(ask(proxied, keys["modest"], headers={"X-Who": "modest"}))
        await until_waiting(proxied, 11)
        upstream.automatic = serve
        await exchange.answer(ANSWER)
        await asyncio.gather(held, modest, *others)
        assert order.index("modest") == 0


async def test_shares_follow_weights(upstream: ScriptedUpstream, start: Start) -> None:
    """Of two that always wait, the one with three times the weight is served three times as often."""
    served: dict[str, int] = {"light": 0, "heavy": 0}

    async def serve(exchange: Exchange) -> None:
        served[exchange.headers["X-Who"]] += 1
        await exchange.answer(ANSWER)

    upstream.automatic = serve
    async with start(upstream=ONE_SEAT | {"queue_depth_per_account": 100}) as proxied:
        keys = await people(proxied, "light", "heavy", weights=(1, 3))

        async def press(name: str) -> None:
            while sum(served.values()) < 200:
                await ask(proxied, keys[name], headers={"X-Who": name})

        await asyncio.gather(*(press(name) for name in keys for _ in range(8)))
        assert 2.6 < served["heavy"] / served["light"] < 3.4


async def test_ones_own_requests_go_by_priority_then_in_order(upstream: ScriptedUpstream, start: Start) -> None:
    """`x-ledger-priority` orders a caller's own queue and nobody else's."""
    order: list[str] = []

    async def serve(exchange: Exchange) -> None:
        order.append(exchange.headers["X-Who"])
        await exchange.answer(ANSWER)

    async with start(upstream=ONE_SEAT) as proxied:
        held = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        waiting = []
        for number, (name, priority) in enumerate([("a", "0"), ("b", "-3"), ("c", "7"), ("d", "0")], 1):
            waiting.append(asyncio.create_task(ask(proxied, headers={"X-Who": name, "x-ledger-priority": priority})))
            await until_waiting(proxied, number)
        upstream.automatic = serve
        await exchange.answer(ANSWER)
        await asyncio.gather(held, *waiting)
        assert order == ["c", "a", "d", "b"]
        assert "x-ledger-priority" not in upstream.received[-1].headers


@pytest.mark.parametrize("priority", ["10", "1.5", "high", ""])
async def test_a_priority_must_be_a_small_number(start: Start, priority: str) -> None:
    """Anything else is told as wrong, not taken for none."""
    async with start(upstream=ONE_SEAT) as proxied:
        assert (await ask(proxied, headers={"x-ledger-priority": priority}))[0] == 400


async def test_a_full_queue_and_a_long_wait_are_refused(upstream: ScriptedUpstream, start: Start) -> None:
    """With when to try again; the hold is returned, nothing is charged, and the deficit says why, and whose it is."""
    denied: list[tuple[Any, ...]] = []
    async with start(upstream=ONE_SEAT | {"queue_depth_per_account": 1, "queue_timeout_s": 0.5}) as proxied:
        proxied.proxy.seating.denied = lambda *what: denied.append(what)
        running = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        waiting = asyncio.create_task(ask(proxied))
        await until_waiting(proxied, 1)
        status, headers, body = await ask(proxied)
        assert (status, b"queue_full" in body, int(headers["Retry-After"]) >= 1) == (429, True, True)
        status, headers, body = await waiting
        assert (status, b"queue_timeout" in body, int(headers["retry-after-ms"]) >= 1000) == (429, True, True)
        await exchange.answer(ANSWER)
        await running
        assert (await proxied.until_settled()).spent == COST
        assert proxied.pools.pool("up").waiting == proxied.pools.pool("up").used == 0
        assert proxied.counted("deficit_credits_total", "up", "queue_full") > 0
        assert proxied.counted("deficit_credits_total", "up", "queue_timeout") > 0
        assert [(caller.account, code) for caller, code, _ in denied] == [(ACCOUNT, "queue_full"), (ACCOUNT, "queue_timeout")]
        assert all(amount_nanocredits > 0 for *_, amount_nanocredits in denied)


async def test_leaving_the_queue_owes_nothing(upstream: ScriptedUpstream, start: Start) -> None:
    """A client that hangs up while it waits: its hold is returned, and the next in the queue moves up."""
    async with start(upstream=ONE_SEAT) as proxied:
        running = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        leaving = asyncio.create_task(ask(proxied))
        await until_waiting(proxied, 1)
        leaving.cancel()
        await until_waiting(proxied, 0)
        await exchange.answer(ANSWER)
        await running
        assert (await proxied.until_settled()).spent == COST
        assert len(upstream.received) == 1
        assert proxied.outcomes() == {"complete": 1, "client_gone": 1}


async def test_a_lost_message_costs_at_most_a_beat(upstream: ScriptedUpstream, start: Start) -> None:
    """Whoever was not told of its seat hears of it by the next heartbeat."""
    async with start(upstream=ONE_SEAT) as proxied:
        proxied.pools.loses_messages = True
        running = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        waiting = asyncio.create_task(ask(proxied))
        await until_waiting(proxied, 1)
        await exchange.answer(ANSWER)
        await (await upstream.next_request()).answer(ANSWER)
        assert [status for status, _, _ in await asyncio.gather(running, waiting)] == [200, 200]


async def test_a_budget_that_is_spent_leaves_no_seat_behind(upstream: ScriptedUpstream, start: Start) -> None:
    """The hold is refused while the seat is granted: it is given back."""
    async with start(upstream=ONE_SEAT, credits_nanocredits=1) as proxied:
        assert (await ask(proxied))[0] == 402

        async def free() -> bool:
            return proxied.pools.pool("up").used == 0

        await proxied.until(free)
        assert proxied.counted("deficit_credits_total", "up", "budget") > 0


async def test_a_full_pool_overflows_to_the_next_upstream(upstream: ScriptedUpstream, start: Start) -> None:
    """Where another upstream serves the model, whoever waited in vain is sent there, on the same hold."""
    sections = [
        {"name": "small", "base_url": upstream.base_url, "seats": 1, "queue_timeout_s": 0.02},
        {"name": "large", "base_url": upstream.base_url},
    ]
    async with start(upstreams=sections) as proxied:
        running = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        second = asyncio.create_task(ask(proxied))
        await (await upstream.next_request()).answer(ANSWER)
        assert (await second)[0] == 200
        await exchange.answer(ANSWER)
        await running
        assert (await proxied.until_settled()).spent == 2 * COST
        assert (await proxied.account(ACCOUNT)).totals.held == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_waiting_is_bounded_neither_by_the_answers_limits_nor_by_the_hold(
    upstream: ScriptedUpstream, start: Start, stream: bool
) -> None:
    """The upstream's own time begins when it is asked; the hold of a request that waits is kept alive."""
    async with start(upstream=ONE_SEAT | {"first_byte_timeout_s": 0.3}) as proxied:
        running = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()

        async def wait() -> int:
            async with proxied.post(json=chat(stream=stream)) as answer:
                await answer.read()
                return int(answer.status)

        waiting = asyncio.create_task(wait())
        await until_waiting(proxied, 1)
        await exchange.start(200, {"Content-Type": "application/json"})
        for part in (ANSWER[:10], ANSWER[10:20]):
            await exchange.send(part)
            await asyncio.sleep(0.25)  # longer, together, than the silence that is allowed before an answer
        upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
        await exchange.send(ANSWER[20:])
        await exchange.finish()
        assert await waiting == 200
        await running


async def test_automatic_seats_shrink_when_the_upstream_says_no(upstream: ScriptedUpstream, start: Start) -> None:
    """From 16 down by its refusals, never below the lower bound; each refusal passes to its caller."""
    upstream.automatic = lambda exchange: exchange.answer(openai_answers.error("busy"), status=429)
    async with start(upstream={"seats": "auto", "seats_min": 4}) as proxied:
        seats = [16]
        while seats[-1] > 4:
            assert (await ask(proxied))[0] == 429
            seats.append(proxied.pools.pool("up").seats)
        # Of requests within one millisecond the later ones may be taken for older than the cut.
        assert [now for before, now in pairwise(seats) if now != before] == [15, 10, 7, 4]
        assert (await ask(proxied))[0] == 429
        assert proxied.pools.pool("up").seats == 4


async def test_automatic_seats_grow_while_somebody_waits(upstream: ScriptedUpstream, start: Start) -> None:
    """One more after eight answers, or as many as there are seats; up to the upper bound."""
    upstream.automatic = lambda exchange: exchange.answer(ANSWER)
    async with start(upstream={"seats": "auto", "seats_min": 2, "seats_max": 3}) as proxied:
        await proxied.pools.configure("up", seats=2)

        async def press() -> None:
            while proxied.pools.pool("up").seats < 3:
                await ask(proxied)

        await asyncio.gather(*(press() for _ in range(6)))
        assert proxied.pools.pool("up").seats == 3


async def test_tokens_a_minute_keep_a_seat_taken(upstream: ScriptedUpstream, start: Start) -> None:
    """An upstream that counts tokens gets no more than its number: 15 tokens at 1,800 a minute and one seat take half a second."""
    upstream.automatic = lambda exchange: exchange.answer(ANSWER)
    async with start(upstream={"seats": 1, "tokens_per_minute": 1800}) as proxied:
        began_s = asyncio.get_running_loop().time()
        assert [status for status, _, _ in [await ask(proxied), await ask(proxied)]] == [200, 200]
        assert asyncio.get_running_loop().time() - began_s >= 0.5


SCAVENGING: dict[str, Any] = {
    "settings": {"commons": {"account": "commons"}},
    "plan": {"scavenge": True},
    "credits_nanocredits": 40,
}
"""A budget for one request."""


async def commons(proxied: Proxied, upstream: ScriptedUpstream, credits_nanocredits: int = 1_000_000, **rates: int) -> None:
    """The account that pays for spare seats, with the rates of its plan; the caller's own budget is used up already."""
    await proxied.model.put_plan(Plan("commons", (), **rates), operation_id="plan-of-commons")
    upstream.automatic = lambda exchange: exchange.answer(ANSWER)
    assert (await ask(proxied))[0] == 200
    await proxied.until_settled()
    upstream.forget()
    await proxied.model.create_account(
        AccountId("commons"),
        parent=None,
        plan="commons",
        weight=None,
        limits=(Limit(credits_nanocredits, "day"),),
        labels={},
        operation_id="open-commons",
    )


async def test_a_spare_seat_is_paid_by_the_commons(upstream: ScriptedUpstream, start: Start) -> None:
    """Whose budget is used up may have what nobody wants, if the plan says so; its own account is charged nothing."""
    async with start(upstream=ONE_SEAT, **SCAVENGING) as proxied:
        await commons(proxied, upstream)
        own = await proxied.spent()
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        assert (await ask(proxied))[0] == 200
        await proxied.until_settled()
        assert await proxied.spent() == own
        assert (await proxied.account(AccountId("commons"))).totals.spent == COST


async def test_no_spare_seat_takes_an_agent_out_of_its_cap(upstream: ScriptedUpstream, start: Start) -> None:
    """Neither where its cap is used up nor where its person's budget is: what it used would count nowhere."""
    async with start(upstream=ONE_SEAT, **SCAVENGING) as proxied:
        await commons(proxied, upstream)
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        await people(proxied, "rich")
        for person, answered in ((AccountId("rich"), [200, 402]), (ACCOUNT, [402, 402])):
            agent, key = AccountId(f"{person}.bot"), f"cl-{person:x<43}".replace(":", "-")
            await proxied.model.create_account(
                agent, parent=person, plan="everyone", weight=None, limits=(Limit(40, "day"),), labels={}, operation_id=f"open-{agent}"
            )
            proxied.book.add(key, Caller(agent, (person, agent), Plan("everyone", (), scavenge=True), "key-bot", person=(person,)))
            assert [(await ask(proxied, key))[0] for _ in range(2)] == answered
        await proxied.until_settled()
        assert (await proxied.account(AccountId("commons"))).totals.spent == 0


@pytest.mark.parametrize("lack", ["the plan's leave", "the commons' budget", "a limit of seats", "the commons' account"])
async def test_no_spare_seat_without_leave_or_means(upstream: ScriptedUpstream, start: Start, lack: str) -> None:
    """Then a budget that is used up is used up."""
    how: dict[str, Any] = {"upstream": ONE_SEAT, **SCAVENGING}
    if lack == "the plan's leave":
        how["plan"] = {"scavenge": False}
    if lack == "a limit of seats":
        how["upstream"] = {}
    async with start(**how) as proxied:
        await commons(proxied, upstream, 0 if lack == "the commons' budget" else 1_000_000)
        if lack == "the commons' account":
            proxied.book.missing.add(AccountId("commons"))
        status, _, body = await ask(proxied)
        assert status == 402
        assert b"insufficient_quota" in body or b"request_exceeds_budget" in body
        assert ACCOUNT.encode() in body
        assert upstream.received == []


async def test_the_rates_of_the_commons_bound_all_spare_requests(upstream: ScriptedUpstream, start: Start) -> None:
    """Their plan says how many may begin a minute; whoever comes after hears of its own budget, which is what it lacks."""
    async with start(upstream=ONE_SEAT, **SCAVENGING) as proxied:
        await commons(proxied, upstream, requests_per_minute=2)
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        asked = [await ask(proxied) for _ in range(3)]
        assert [status for status, _, _ in asked] == [200, 200, 402]
        assert b"insufficient_quota" in asked[-1][2]
        assert ACCOUNT.encode() in asked[-1][2]


async def test_a_spare_seat_is_given_back_when_somebody_with_a_budget_waits(upstream: ScriptedUpstream, start: Start) -> None:
    """The stream on it is cut with the reason, the commons pay what was forwarded, and whoever waited is served."""
    async with start(upstream=ONE_SEAT, **SCAVENGING) as proxied:
        await commons(proxied, upstream)
        own = await proxied.spent()
        keys = await people(proxied, "payer")

        async def stream() -> bytes:
            async with proxied.post(json=chat(stream=True, max_tokens=100)) as answer:
                return bytes(await answer.read())

        streaming = asyncio.create_task(stream())
        exchange = await upstream.next_request()
        await exchange.send(openai_answers.event(openai_answers.chat_chunk({"content": "one "})))
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        assert (await ask(proxied, keys["payer"]))[0] == 200
        await exchange.client_gone()
        assert b"wants the spare seat" in await streaming
        await proxied.until_settled()
        assert await proxied.spent() == own
        assert (await proxied.account(AccountId("commons"))).totals.spent > 0
        assert (await proxied.account(AccountId("payer"))).totals.spent == COST


async def test_a_seat_is_given_on_before_its_answer_is_paid(upstream: ScriptedUpstream, start: Start) -> None:
    """The upstream is free once its answer is here; whether the budget covers what it said is the ledger's concern alone."""
    async with start(upstream=ONE_SEAT) as proxied:
        proxied.ledger.gates["extend"] = asyncio.Event()

        async def ask_without_end() -> int:
            async with proxied.post(json=chat()) as answer:
                return int(answer.status)

        first = asyncio.create_task(ask_without_end())
        exchange = await upstream.next_request()
        second = asyncio.create_task(ask(proxied))
        await until_waiting(proxied, 1)
        await exchange.answer(openai_answers.chat("hi", usage=openai_answers.usage(10, 40_000)))  # more than is held
        await (await upstream.next_request()).answer(ANSWER)
        assert (await second)[0] == 200
        assert not first.done()
        proxied.ledger.gates["extend"].set()
        assert await first == 200
