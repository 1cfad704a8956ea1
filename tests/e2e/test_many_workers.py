"""Promises that only several processes can break: exact admission, exact endings, survival of a killed worker, keys revoked everywhere.

Input costs 3 nanocredits a token and output 7 (held as 11, for it might be reasoning); the prompt `hello` is held for 29 tokens.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment, serving, until
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"


def hello(**members: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **members}


async def outcome(caller: Caller, **members: Any) -> tuple[int, str]:
    """Status and code (of a refusal) of one request."""
    async with caller.post(CHAT, hello(**members)) as answer:
        document = await answer.json()
        return answer.status, document.get("error", {}).get("code", "")


async def test_200_at_once_on_a_budget_for_37(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """Of 200 requests at once exactly the 37 that the budget pays run, whichever worker they meet; not one more or less."""
    each = 29 * 3 + 2 * 11  # what a request of two tokens is held for
    bill = answers.usage(29, 2)
    bill["completion_tokens_details"] = {"reasoning_tokens": 2}  # ... and then really costs
    caller = await deployment.open_account(f"0.{37 * each:09}")
    requests = [asyncio.create_task(outcome(caller, max_tokens=2)) for _ in range(200)]
    admitted = [await upstream.next_request() for _ in range(37)]
    async with asyncio.timeout(20):
        while sum(request.done() for request in requests) < 163:
            await asyncio.wait([request for request in requests if not request.done()], return_when=asyncio.FIRST_COMPLETED)
    for exchange in admitted:
        await exchange.answer(answers.chat("one two", usage=bill))
    outcomes = await asyncio.gather(*requests)

    assert Counter(outcomes) == {(200, ""): 37, (429, "budget_in_flight"): 163}
    assert len(upstream.received) == 37
    balance = await caller.settled()
    assert (balance.spent_nanocredits, balance.overrun_nanocredits) == (37 * each, 0)
    assert await outcome(caller, max_tokens=2) == (402, "insufficient_quota")


async def test_200_at_once_where_7_may_run(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """Of 200 requests at once exactly the 7 run that the plan lets run, whichever worker they meet; each that ends lets one more in."""
    await deployment.admin("PUT", "plans/seven", {"concurrent_requests": 7})
    caller = await deployment.open_account("1", plan="seven")

    async def admitted(tries: int, places: int) -> list[tuple[Exchange, asyncio.Task[tuple[int, str]]]]:
        """Ask so often at once; those that run, and all others were told to wait."""
        requests = {asyncio.create_task(outcome(caller, max_tokens=2)) for _ in range(tries)}
        exchanges = [await upstream.next_request() for _ in range(places)]
        async with asyncio.timeout(20):
            while len(running := {request for request in requests if not request.done()}) > places:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        assert Counter(request.result() for request in requests - running) == {(429, "too_many_requests"): tries - places}
        return list(zip(exchanges, running, strict=True))

    async def runs() -> int:
        return int((await deployment.account(caller.id))["running_requests"])

    first = await admitted(200, 7)
    assert await runs() == 7
    for exchange, _ in first[:2]:
        await exchange.answer(answers.chat("one two", usage=answers.usage(29, 2)))
    await until(runs, lambda count: count == 5)
    second = await admitted(50, 2)
    for exchange, _ in [*first[2:], *second]:
        await exchange.answer(answers.chat("one two", usage=answers.usage(29, 2)))
    assert {await request for _, request in [*first, *second]} == {(200, "")}
    assert await until(runs, lambda count: count == 0) == 0
    assert len(upstream.received) == 9


async def test_60_at_once_where_11_may_begin_a_minute(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """Exactly 11 are served, and told what is left of their rate; the others are told which rate it is, and when to come again."""
    upstream.automatic = answers.generating()
    await deployment.admin("PUT", "plans/eleven", {"requests_per_minute": 11})
    caller = await deployment.open_account("1", plan="eleven")

    async def ask() -> tuple[int, str]:
        async with caller.post(CHAT, hello(max_tokens=1)) as answer:
            document = await answer.json()
            if answer.status == 200:
                return 200, answer.headers["RateLimit"].rpartition(", ")[2].partition(";t=")[0]
            assert 0 < int(answer.headers["retry-after-ms"]) <= 1000 * int(answer.headers["Retry-After"]) <= 6000
            return answer.status, document["compute_ledger"]["limit"]

    served = {(200, f'"requests";r={left}'): 1 for left in range(11)}
    assert Counter(await asyncio.gather(*(ask() for _ in range(60)))) == {**served, (429, "requests_per_minute"): 49}


async def test_budget_for_37_is_used_up_to_the_end(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """Callers that come back when told to are all served as long as there is budget: no hold leaks, nobody is refused wrongly."""
    bill = answers.usage(29, 1)  # costs less than what is held for it; of one token there is no maximum to lower

    async def play(exchange: Exchange) -> None:
        await exchange.answer(answers.chat("one", usage=bill))

    upstream.automatic = play
    cost, held = 29 * 3 + 7, 29 * 3 + 11
    caller = await deployment.open_account(f"0.{36 * cost + held:09}")

    async def persist() -> tuple[int, str]:
        return await until(lambda: outcome(caller, max_tokens=1), lambda answer: answer != (429, "budget_in_flight"))

    outcomes = Counter(await asyncio.gather(*(persist() for _ in range(60))))
    balance = await caller.settled()
    assert outcomes[200, ""] == 37
    assert outcomes.total() == 60
    assert balance.spent_nanocredits == 37 * cost


async def test_stream_of_1000_on_100_left(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """Of a stream of 1,000 tokens on a budget for 100, 100 are delivered and charged, then comes the error event."""
    upstream.automatic = answers.generating()
    caller = await deployment.open_account(f"0.{29 * 3 + 100 * 11:09}")
    async with caller.post(CHAT, hello(stream=True, max_tokens=1000)) as answer:
        body = await answer.read()

    assert body.count(b'"tok "') == 100
    assert body.index(b'"insufficient_quota"') > body.rindex(b'"tok "')
    assert body.endswith(answers.DONE)
    assert (await caller.settled()).spent_nanocredits == 9 * 3 + 100 * 7


async def test_revoked_key_stops_everywhere(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A revoked key is refused by every worker within a second."""
    upstream.automatic = answers.generating()
    caller = await deployment.open_account("1")
    connections = [aiohttp.ClientSession() for _ in range(16)]  # so many that every worker has some
    url, headers = f"{caller.base_url}/chat/completions", {"Authorization": f"Bearer {caller.key}"}

    async def statuses() -> set[int]:
        answers = await asyncio.gather(*(c.post(url, json=hello(max_tokens=1), headers=headers) for c in connections))
        for answer in answers:
            await answer.read()
        return {answer.status for answer in answers}

    try:
        assert await statuses() == {200}
        await deployment.admin("DELETE", f"keys/{caller.key_id}")
        async with asyncio.timeout(1.0):
            await until(statuses, lambda seen: seen == {401})
    finally:
        for connection in connections:
            await connection.close()


async def test_killed_worker(tmp_path: Path, scripted: ScriptedUpstream, upstream: ScriptedUpstream) -> None:
    """When a worker is killed under load, others go on, a new one takes its place, its holds expire, and the books balance."""
    configuration = f"""
        [[upstream]]
        name = "scripted"
        base_url = "{scripted.base_url}"
        [[price]]
        model = "*"
        input = "0.003"
        output = "0.007"
        [[plan]]
        name = "everyone"
        limits = [ {{ credits = "1", window = "ever" }} ]
    """
    async with serving(tmp_path, configuration, hold_ttl_s=3) as deployment:

        async def workers() -> list[int]:
            return deployment.workers()

        caller = await deployment.open_account("1")
        victim, survivor = await workers()
        streams = [asyncio.create_task(_read(caller)) for _ in range(24)]
        exchanges = [await upstream.next_request() for _ in streams]
        for exchange in exchanges:
            for event in answers.chat_events(["tok "] * 3)[:4]:
                await exchange.send(event)
        os.kill(victim, signal.SIGKILL)
        await until(workers, lambda pids: victim not in pids)
        gone = await asyncio.gather(*map(_is_gone, exchanges))
        lost = [exchange for exchange, is_gone in zip(exchanges, gone, strict=True) if is_gone]
        assert 0 < len(lost) < len(streams), "each worker had some of the streams"
        for exchange in exchanges:
            if exchange not in lost:
                for event in answers.chat_events(["tok "], usage=answers.usage(10, 4))[2:]:
                    await exchange.send(event)
                await exchange.finish()
        upstream.automatic = answers.generating(input_tokens=10)
        assert await outcome(caller, max_tokens=4) == (200, "")

        ended = Counter(await asyncio.gather(*streams))
        assert ended == {True: len(streams) - len(lost), False: len(lost)}
        balance = await caller.settled()  # which takes as long as the holds of the dead need to expire
        finished = (len(streams) - len(lost) + 1) * (10 * 3 + 4 * 7)
        assert finished <= balance.spent_nanocredits <= finished + len(lost) * (9 * 3 + 3 * 7)
        assert survivor in await until(workers, lambda pids: len(pids) == 2)
        code, said = await deployment.audit()
        assert code == 0, said
        assert " 0 open holds" in said


async def _read(caller: Caller) -> bool:
    """Whether a stream was read to its end."""
    try:
        async with caller.post(CHAT, hello(stream=True)) as answer:
            body: bytes = await answer.read()
            return body.endswith(answers.DONE)
    except aiohttp.ClientError:
        return False


async def _is_gone(exchange: Exchange) -> bool:
    """Whether the connection of an exchange died with its worker; the system closes them all at once."""
    try:
        async with asyncio.timeout(0.3):
            await exchange.client_gone()
    except TimeoutError:
        return False
    return True
