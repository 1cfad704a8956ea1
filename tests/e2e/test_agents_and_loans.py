"""Agents, loans and dividends through a whole proxy: several workers, the parent's jobs, the official paths."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import Any

import pytest

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment, until
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
STREAM = {**HELLO, "max_tokens": 2000, "stream": True}


async def own(caller: Caller, method: str, path: str, body: object = None) -> Any:
    """One call under `/ledger/v1/` with the caller's key; its answer."""
    headers = {"Authorization": f"Bearer {caller.key}"}
    async with caller.deployment.client.request(
        method, f"{caller.deployment.proxy_url}/ledger/v1/{path}", json=body, headers=headers
    ) as answer:
        assert answer.status < 300, f"{method} {path}: {answer.status} {await answer.text()}"
        return await answer.json()


async def received(caller: Caller) -> bytes:
    """All of a stream."""
    async with caller.post(CHAT, STREAM) as answer:
        return bytes(await answer.read())


async def test_a_pause_reaches_every_worker_and_running_streams(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """An agent's requests run on its person's budget; once all agents are paused, every worker refuses the next one, and the stream that
    runs is cut when its slice is used up."""
    person = await deployment.open_account("1")
    opened = await own(person, "POST", "agents", {"name": "coder", "cap": "0.5"})
    agent = Caller(deployment, opened["id"], opened["key_id"], opened["key"])
    streaming = asyncio.create_task(received(agent))
    exchange = await upstream.next_request()
    await exchange.send(answers.event(answers.chat_chunk({"content": "one "})))
    await until(lambda: deployment.account(person.id), lambda account: account["running_requests"] == 1)
    await own(person, "PATCH", "agents", {"status": "suspended"})
    for _ in range(8):  # new connections, so that each worker is met
        async with agent.post(CHAT, HELLO, {"Authorization": f"Bearer {agent.key}", "Connection": "close"}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "account_suspended")
    with contextlib.suppress(ConnectionError):  # the cut closes this connection, perhaps before all is sent
        for _ in range(600):
            await exchange.send(answers.event(answers.chat_chunk({"content": "more "})))
    assert b"insufficient_quota" in await streaming
    await agent.settled()
    spent = (await deployment.account(person.id))["spent"]
    assert spent == (await deployment.account(agent.id))["spent"] != "0"


async def test_a_loan_comes_back_while_nobody_asks(deployment: Deployment) -> None:
    """The parent looks after it: a second after its due date the lender has the credits again."""
    lender, borrower = await deployment.open_account("1"), await deployment.open_account("1")
    due_at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    loan = await deployment.admin(
        "POST",
        "loans",
        {"from": lender.id, "to": borrower.id, "credits": "0.25", "due_at": due_at.isoformat(timespec="milliseconds"), "reason": "demo"},
    )
    assert (loan["state"], (await deployment.account(borrower.id))["available"]) == ("open", "1.25")
    await until(lambda: deployment.admin("GET", f"loans/{loan['loan_id']}"), lambda loan: loan["state"] == "repaid")
    assert [(await deployment.account(caller.id))["available"] for caller in (lender, borrower)] == ["1", "1"]
    assert (await deployment.audit())[0] == 0
