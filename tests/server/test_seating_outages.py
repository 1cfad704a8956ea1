"""Seats while the ledger is away or a pool is drained: what is refused, what is made up for, what another upstream takes."""

from __future__ import annotations

import asyncio
import json

from tests.server.conftest import Start
from tests.server.test_seating import ANSWER, ONE_SEAT, ask
from tests.support import openai_answers
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
