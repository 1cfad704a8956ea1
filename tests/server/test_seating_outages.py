"""Seats while the ledger is away or a pool is drained: what is refused, what is made up for, what another upstream takes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from proxy.domain import AccountId
from tests.server.conftest import Start
from tests.server.test_seating import ANSWER, COST, ONE_SEAT, ask, people
from tests.support import openai_answers
from tests.support.proxied import Proxied
from tests.support.scripted_upstream import ScriptedUpstream


async def test_a_seat_that_could_not_be_given_back_is_given_back_later(upstream: ScriptedUpstream, start: Start) -> None:
    """A beat makes up for it once the ledger is there again, long before the lease ends; it was charged what the request did cost."""
    async with start(upstream=ONE_SEAT) as proxied:
        asking = asyncio.create_task(ask(proxied))
        exchange = await upstream.next_request()
        proxied.pools.is_down = True
        await exchange.answer(ANSWER)
        assert (await asking)[0] == 200
        await proxied.until_settled()
        assert proxied.pools.pool("up").used == 1
        proxied.pools.is_down = False

        async def given_back() -> bool:
            return proxied.pools.pool("up").used == 0

        await proxied.until(given_back)
        upstream.automatic = openai_answers.generating()
        assert (await ask(proxied))[0] == 200


async def test_a_pool_that_is_drained_says_so(upstream: ScriptedUpstream, start: Start) -> None:
    """503 and not a full queue: nothing that the caller does would help; nothing is held or charged."""
    async with start(upstream=ONE_SEAT) as proxied:
        proxied.pools.draining.add("up")
        status, _, body = await ask(proxied)
        assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        assert (await proxied.until_settled()).spent == 0
        assert not upstream.received


async def test_another_upstream_serves_while_a_pool_is_drained(upstream: ScriptedUpstream, start: Start) -> None:
    """Where another serves the model, callers notice nothing."""
    upstream.automatic = openai_answers.generating()
    sections = [{"name": name, "base_url": upstream.base_url, **ONE_SEAT} for name in ("up", "other")]
    async with start(upstreams=sections) as proxied:
        proxied.pools.draining.add("up")
        assert (await ask(proxied))[0] == 200
        await proxied.until_settled()
        assert proxied.counted("failovers_total", "up") == 1


# --- on_failure = "allow" --------------------------------------------------------------------------------------------------------------

ALLOWED: dict[str, Any] = {"settings": {"ledger": {"deadline_ms": 20, "on_failure": "allow"}}}


async def go_away(proxied: Proxied, *, number: int, workers: int) -> None:
    """The ledger goes away; the worker has heard before which it is among how many."""
    proxied.pools.number, proxied.pools.workers = number, workers
    await proxied.proxy.seating.beat()
    proxied.pools.is_down = True
    proxied.ledger.cut()


async def test_without_the_ledger_a_worker_gives_its_part_of_the_seats(upstream: ScriptedUpstream, start: Start) -> None:
    """The first of two gives two of three, each to the next as it comes free; nobody is charged less for it in the end."""
    async with start(upstream={"seats": 3}, **ALLOWED) as proxied:
        await go_away(proxied, number=0, workers=2)
        asking = [asyncio.create_task(ask(proxied)) for _ in range(4)]
        exchanges = [await upstream.next_request() for _ in range(2)]
        await proxied.proxy.seating.beat()
        assert len(upstream.received) == 2
        await exchanges.pop().answer(ANSWER)
        exchanges.append(await upstream.next_request())
        assert len(upstream.received) == 3
        upstream.automatic = lambda exchange: exchange.answer(ANSWER)
        for exchange in exchanges:
            await exchange.answer(ANSWER)
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 4
        assert proxied.counted("seats_given_alone_total", "up") == 4
        assert len(proxied.pools.taken) == 4
        proxied.pools.is_down = False
        proxied.ledger.mend()

        async def charged() -> bool:
            return await proxied.spent() == 4 * COST

        await proxied.until(charged)


async def test_without_the_ledger_agents_still_wait_as_their_person(upstream: ScriptedUpstream, start: Start) -> None:
    """The worker that stands alone goes by the same rule."""
    async with start(upstream={"seats": 1, "queue_timeout_s": 5}, **ALLOWED) as proxied:
        keys = await people(proxied, "person", "modest", "agent1", "agent2")
        for caller in list(proxied.book.callers.values()):
            if caller.account.startswith("agent"):
                proxied.book.add(keys[caller.account], dataclasses.replace(caller, person=(AccountId("person"),)))
        await go_away(proxied, number=0, workers=1)
        asking = [asyncio.create_task(ask(proxied, keys["person"]))]
        exchange = await upstream.next_request()
        for name in ("agent1", "agent2", "modest"):
            asking.append(asyncio.create_task(ask(proxied, keys[name], headers={"X-Who": name})))
            await proxied.until(lambda: waiting_alone(proxied, len(asking) - 1))
        await exchange.answer(ANSWER)
        second = await upstream.next_request()
        assert second.headers["X-Who"] == "modest"
        await second.answer(ANSWER)
        for _ in range(2):
            await (await upstream.next_request()).answer(ANSWER)
        await asyncio.gather(*asking)


async def waiting_alone(proxied: Proxied, count: int) -> bool:
    """Whether so many tickets wait at this worker for a seat that it gives by itself."""
    return sum(seat.is_waiting for seat in proxied.proxy.seating.mine["up"].values()) == count


async def test_seats_that_the_ledger_gave_are_part_of_a_workers_part(upstream: ScriptedUpstream, start: Start) -> None:
    """Who had one when the ledger went away keeps it, and who waited there waits here: of two seats one more is given."""
    async with start(upstream={"seats": 2}, **ALLOWED) as proxied:
        proxied.pools.number, proxied.pools.workers = 0, 1
        first = asyncio.create_task(ask(proxied))
        had = await upstream.next_request()
        await proxied.proxy.seating.beat()  # the pool hears of its two seats, and no later beat tells it again
        await proxied.pools.configure("up", seats=1)
        second = asyncio.create_task(ask(proxied))

        async def waits() -> bool:
            return proxied.pools.pool("up").waiting == 1

        await proxied.until(waits)
        await go_away(proxied, number=0, workers=1)
        moved = await upstream.next_request()
        third = asyncio.create_task(ask(proxied))
        await proxied.proxy.seating.beat()
        assert len(upstream.received) == 2
        await had.answer(ANSWER)
        last = await upstream.next_request()
        for exchange in (moved, last):
            await exchange.answer(ANSWER)
        assert [status for status, _, _ in await asyncio.gather(first, second, third)] == [200] * 3


@pytest.mark.parametrize("reason", ["it may not", "its part is none", "the pool's queue is full"])
async def test_without_the_ledger_or_a_part_nobody_is_let_through(upstream: ScriptedUpstream, start: Start, reason: str) -> None:
    """503 at once: not by default, nor by the second of two workers where there is one seat, nor beyond a caller's places."""
    how = ALLOWED if reason != "it may not" else {"settings": {"ledger": {"deadline_ms": 20}}}
    full = reason == "the pool's queue is full"
    async with start(upstream={"seats": 1, "queue_depth_per_account": 1}, **how) as proxied:
        await go_away(proxied, number=0 if full else 1, workers=1 if full else 2)
        asking = [asyncio.create_task(ask(proxied)) for _ in range(2 if full else 0)]
        if full:
            exchange = await upstream.next_request()
        status, _, body = await ask(proxied)
        assert (status, json.loads(body)["error"]["code"]) == (503, "ledger_unavailable")
        if full:
            upstream.automatic = lambda exchange: exchange.answer(ANSWER)
            await exchange.answer(ANSWER)
            await asyncio.gather(*asking)
