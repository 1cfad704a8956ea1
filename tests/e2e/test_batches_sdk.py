"""Batches with the official `openai` client, through `serve` with two workers: held, settled from their output, survived.

A token of input costs 3 nanocredits, of output 7, and in a batch half of that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.support import openai_answers as answers
from tests.support import scripted_upstream
from tests.support.batching_upstream import BatchingUpstream, line, lines, output
from tests.support.deployment import Caller, Deployment, serving, until
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOLD_TTL_S = 3
CONFIGURATION = """
    [[upstream]]
    name = "scripted"
    base_url = "{base_url}"
    [[price]]
    model = "*"
    input = "0.003"
    output = "0.007"
    batch_percent = 50
    [[price]]
    model = "dear"
    input = "0.003"
    output = "0.007"
    [[plan]]
    name = "everyone"
    limits = [ {{ credits = "1", window = "ever" }} ]
"""
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
REQUESTS = lines(*(line(f"request-{n}", BODY) for n in range(3)))
BOUND = -(-3 * (29 * 3 + 8 * 7) // 2)
"""29 is the bound of the prompt `hello`."""
DONE = b"".join(output(f"request-{n}", answers.chat("hi", usage=answers.usage(10, n))) for n in range(3))
COST = -(-(3 * 10 * 3 + (0 + 1 + 2) * 7) // 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> AsyncIterator[Deployment]:
    configuration = CONFIGURATION.format(base_url=scripted.base_url)
    async with serving(tmp_path_factory.mktemp("batches"), configuration, hold_ttl_s=HOLD_TTL_S) as deployment:
        yield deployment
        code, said = await deployment.audit()
        assert code == 0, said


@pytest_asyncio.fixture(loop_scope="module")
async def batching(scripted: ScriptedUpstream) -> AsyncIterator[BatchingUpstream]:
    """The upstream, with nothing kept yet."""
    kept = BatchingUpstream()
    scripted.automatic = kept.play
    yield kept
    scripted.forget()


@pytest_asyncio.fixture(loop_scope="module")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


@pytest_asyncio.fixture(loop_scope="module")
async def client(caller: Caller) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(caller) as client:
        yield client


def client_of(caller: Caller, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key, **options)


async def begin(client: openai.AsyncOpenAI) -> openai.types.Batch:
    uploaded = await client.files.create(file=("in.jsonl", REQUESTS), purpose="batch")
    return await client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")


async def test_a_batch_from_its_file_to_its_output(
    deployment: Deployment, caller: Caller, client: openai.AsyncOpenAI, batching: BatchingUpstream
) -> None:
    """Works unchanged; the upload arrives as it was, the output as it is, and the charge is exact and named in the journal."""
    batch = await begin(client)
    assert batching.files[batch.input_file_id] == REQUESTS
    assert (await client.batches.retrieve(batch.id)).status == "in_progress"
    account = await deployment.account(caller.id)
    assert (account["held"], account["spent"]) == (f"0.{BOUND:09}".rstrip("0"), "0")

    batching.end(batch.id, DONE, ran=3)
    ended = await client.batches.retrieve(batch.id)
    assert ended.status == "completed"
    assert ended.output_file_id is not None
    assert (await client.files.content(ended.output_file_id)).content == DONE
    account = await deployment.account(caller.id)
    assert (account["held"], account["spent"]) == ("0", f"0.{COST:09}".rstrip("0"))
    entries = (await deployment.admin("GET", f"accounts/{caller.id}/journal"))["items"]
    assert entries[0]["memo"] == f"tiny batch={batch.id} lines=3 input=30 output=3"
    assert (await client.files.retrieve(batch.input_file_id)).purpose == "batch"
    assert (await client.files.delete(batch.input_file_id)).deleted


async def test_a_batch_that_nobody_asks_for_is_settled_all_the_same(
    caller: Caller, client: openai.AsyncOpenAI, batching: BatchingUpstream
) -> None:
    """By one of the workers, by itself, once."""
    uploaded = await client.files.create(file=("in.jsonl", REQUESTS), purpose="batch")
    batching.ends_at_once = DONE
    await client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert (await caller.settled()).spent_nanocredits == COST


async def test_refusals_are_the_sdks_own_errors(deployment: Deployment, client: openai.AsyncOpenAI, batching: BatchingUpstream) -> None:
    """With the reason, and no second try: unpriced, another's, too dear, for anything but a batch."""
    dear = lines(line("1", {**BODY, "model": "dear"}))
    with pytest.raises(openai.PermissionDeniedError, match="batches"):
        await client.files.create(file=("in.jsonl", dear), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="batches"):
        await client.files.create(file=("in.jsonl", REQUESTS), purpose="user_data")
    batch = await begin(client)
    poor = await deployment.open_account(f"0.{BOUND - 1:09}")
    async with client_of(poor) as other:
        with pytest.raises(openai.NotFoundError, match="of this account"):
            await other.batches.retrieve(batch.id)
        with pytest.raises(openai.NotFoundError, match="of this account"):
            await other.files.content(batch.input_file_id)
        with pytest.raises(openai.APIStatusError) as refused:
            await begin(other)
        assert (refused.value.status_code, refused.value.code) == (402, "request_exceeds_budget")
    assert list(batching.batches) == [batch.id]
    assert (await client.batches.cancel(batch.id)).status == "cancelling"


async def test_an_upstream_that_refuses_costs_nothing(caller: Caller, client: openai.AsyncOpenAI, batching: BatchingUpstream) -> None:
    """Its own error arrives, and the hold is returned."""
    uploaded = await client.files.create(file=("in.jsonl", REQUESTS), purpose="batch")
    batching.refuses["POST /v1/batches"] = 400
    with pytest.raises(openai.BadRequestError, match="not now"):
        await client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert (await caller.settled()).spent_nanocredits == 0


async def test_a_batch_outlives_the_worker_that_began_it(
    deployment: Deployment, scripted: ScriptedUpstream, batching: BatchingUpstream
) -> None:
    """Killed with the answer not yet there, or after it: others keep its holds alive far beyond their time, and settle each once."""
    caller = await deployment.open_account("1")
    async with client_of(caller, max_retries=0) as client:
        batch = await begin(client)
        uploaded = batch.input_file_id
        waiting: asyncio.Queue[Exchange] = asyncio.Queue()
        scripted.automatic = waiting.put
        creating = asyncio.create_task(
            client.batches.create(input_file_id=uploaded, endpoint="/v1/chat/completions", completion_window="24h")
        )
        await waiting.get()
        for killed, pid in enumerate(deployment.workers(), start=1):  # one by one: holds live on only while some worker does
            os.kill(pid, signal.SIGKILL)
            await deployment.replaced(killed)
            if creating.done():
                break
        with pytest.raises(openai.APIConnectionError):
            await creating
        scripted.automatic = batching.play
        before = await holds(deployment, caller)
        assert len(before) == 2

        async def kept() -> bool:
            now = await holds(deployment, caller)
            return len(now) == 2 and min(now) > max(before) + HOLD_TTL_S

        await until(kept, bool)
        batching.end(batch.id, DONE, ran=3)

        async def retrieved() -> str:
            try:
                return (await client.batches.retrieve(batch.id)).status
            except openai.APIConnectionError:
                return ""

        assert await until(retrieved, lambda status: status != "") == "completed"
    account = await deployment.account(caller.id)
    assert (account["held"], account["spent"]) == (f"0.{BOUND:09}".rstrip("0"), f"0.{COST:09}".rstrip("0"))


async def holds(deployment: Deployment, caller: Caller) -> list[float]:
    """When the open holds of an account expire, in seconds."""
    items = (await deployment.admin("GET", f"accounts/{caller.id}/holds"))["items"]
    return [datetime.fromisoformat(item["expires_at"]).timestamp() for item in items]
