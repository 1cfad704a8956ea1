"""The official `anthropic` client, as users have it, works unchanged through `serve`, and every token is charged.

A token of input costs 3 nanocredits, of output 7; the upstream bills 10 of input and one of output for each word. What is counted
instead, where no bill comes, is worked out in `test_conformance`.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from tests.support import anthropic_answers as answers
from tests.support.deployment import Caller, Deployment
from tests.support.openai_answers import event
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WORD = "tok "


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = answers.generating(input_tokens=10, word=WORD)
    return upstream


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


@pytest.fixture
def sync_client(caller: Caller) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=caller.deployment.proxy_url, api_key=caller.key) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def client(caller: Caller) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=caller.deployment.proxy_url, api_key=caller.key) as client:
        yield client


async def test_sync_client(upstream: ScriptedUpstream, caller: Caller, sync_client: anthropic.Anthropic) -> None:
    """Messages with the synchronous client, whole, streamed and under beta, charged to the last nanocredit; counting tokens is free."""

    def work() -> None:
        message = sync_client.messages.create(model="tiny", messages=HELLO, max_tokens=4)
        assert [block.text for block in message.content if block.type == "text"] == [4 * WORD]
        with sync_client.messages.stream(model="tiny", messages=HELLO, max_tokens=5) as stream:
            assert "".join(stream.text_stream) == 5 * WORD
            assert stream.get_final_message().usage.output_tokens == 5
        beta = sync_client.beta.messages.create(model="tiny", messages=HELLO, max_tokens=6, betas=["a-2026"], extra_query={"beta": "true"})
        assert beta.usage.output_tokens == 6
        assert sync_client.messages.count_tokens(model="tiny", messages=HELLO).input_tokens == 10

    await asyncio.to_thread(work)
    assert (await caller.settled()).spent_nanocredits == 3 * 10 * 3 + (4 + 5 + 6) * 7
    assert [exchange.raw_path for exchange in upstream.received][-2:] == ["/v1/messages?beta=true", "/v1/messages/count_tokens"]
    assert upstream.received[2].headers["anthropic-beta"] == "a-2026"
    assert all(exchange.headers["anthropic-version"] for exchange in upstream.received)


async def test_async_client(upstream: ScriptedUpstream, caller: Caller, client: anthropic.AsyncAnthropic) -> None:
    """Many calls at once with the asynchronous client, streamed and not."""

    async def streamed() -> int:
        stream = await client.messages.create(model="tiny", messages=HELLO, max_tokens=4, stream=True)
        return len([event async for event in stream if event.type == "content_block_delta"])

    async def whole() -> int:
        return (await client.messages.create(model="tiny", messages=HELLO, max_tokens=8)).usage.output_tokens

    tokens = await asyncio.gather(*(streamed() for _ in range(10)), *(whole() for _ in range(10)))
    assert tokens == [4] * 10 + [8] * 10
    assert (await caller.settled()).spent_nanocredits == 20 * 10 * 3 + (10 * 4 + 10 * 8) * 7


async def test_environment(upstream: ScriptedUpstream, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variables point a program at the proxy, with the key as an API key or, as coding agents send it, as a token."""
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", caller.deployment.proxy_url)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        with monkeypatch.context() as only:
            only.setenv(name, caller.key)
            async with anthropic.AsyncAnthropic() as client:
                assert (await client.messages.create(model="tiny", messages=HELLO, max_tokens=1)).content
        assert caller.key not in str(upstream.received[-1].headers)


async def test_models(client: anthropic.AsyncAnthropic) -> None:
    """The model list holds what the caller may use, and each model can be looked up."""
    names = {model.id async for model in client.models.list()}
    assert {"tiny", "short", "impatient", "closed"} <= names
    model = await client.models.retrieve("tiny")
    assert (model.type, model.id, model.display_name) == ("model", "tiny", "tiny")
    assert model.created_at.tzinfo


async def test_refusal_is_the_sdks_own_error(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A spent budget arrives as the SDK's own error with a readable reason; it is not retried and does not reach the upstream."""
    caller = await deployment.open_account("0.00000005")
    sent: list[object] = []

    def work() -> anthropic.APIStatusError:
        transport = anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]})
        with anthropic.Anthropic(base_url=deployment.proxy_url, api_key=caller.key, http_client=transport) as client:
            with pytest.raises(anthropic.PaymentRequiredError) as refused:
                client.messages.create(model="tiny", messages=HELLO, max_tokens=4)
            return refused.value

    error = await asyncio.to_thread(work)
    assert (error.status_code, error.type, error.error_code) == (402, "billing_error", "request_exceeds_budget")
    assert "budget" in (error.api_message or "")
    assert "budget" in str(error)
    assert len(sent) == 1
    assert upstream.received == []


async def test_wrong_key_and_unpriced_request(deployment: Deployment, upstream: ScriptedUpstream, client: anthropic.AsyncAnthropic) -> None:
    """A key that nobody has, and what has no price, are the SDK's own errors, with advice."""
    async with anthropic.AsyncAnthropic(base_url=deployment.proxy_url, api_key="cl-" + "x" * 43) as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.create(model="tiny", messages=HELLO, max_tokens=4)
    search: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        await client.messages.create(model="tiny", messages=HELLO, max_tokens=4, tools=[search])
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.batches.list()
    assert upstream.received == []


async def test_cut_stream_raises(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A stream that outlives the budget yields what is paid for and then raises; it never just stops."""
    caller = await deployment.open_account("0.000000197")  # 87 for the input and 10 x 11 for as many tokens
    words: list[str] = []
    async with anthropic.AsyncAnthropic(base_url=deployment.proxy_url, api_key=caller.key) as client:

        async def read() -> None:
            async with client.messages.stream(model="tiny", messages=HELLO, max_tokens=1000) as stream:
                async for text in stream.text_stream:
                    words.append(text)

        with pytest.raises(anthropic.APIStatusError) as cut:
            await read()
    assert words == [WORD] * 10
    assert (cut.value.type, cut.value.error_code) == ("billing_error", "insufficient_quota")
    assert "budget" in str(cut.value)
    assert len(upstream.received) == 1
    assert (await caller.settled()).spent_nanocredits == 10 * 3 + 10 * 7


async def test_cut_by_length_is_a_complete_message(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """With cut = "length" the client gets a message that reached its maximum, with the usage that was charged."""
    caller = await deployment.open_account("0.000000197")
    async with (
        anthropic.AsyncAnthropic(base_url=deployment.proxy_url, api_key=caller.key) as client,
        client.messages.stream(model="short", messages=HELLO, max_tokens=1000) as stream,
    ):
        message = await stream.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == [10 * WORD]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("max_tokens", 10, 10)
    assert (await caller.settled()).spent_nanocredits == 10 * 3 + 10 * 7


async def test_hanging_up_mid_stream(upstream: ScriptedUpstream, caller: Caller, client: anthropic.AsyncAnthropic) -> None:
    """Whoever hangs up mid-stream pays the input that was reported and what was forwarded until then."""
    upstream.automatic = None
    opening = asyncio.create_task(client.messages.create(model="tiny", messages=HELLO, max_tokens=9, stream=True))
    exchange = await upstream.next_request()
    for data in answers.message_events([WORD] * 9, usage=answers.usage(10, 9))[:6]:
        await exchange.send(data)
    stream = await opening
    received = 0
    async for happened in stream:
        received += happened.type == "content_block_delta"
        if received == 3:
            break
    await stream.close()
    del stream
    gc.collect()  # what the client iterates with ends here, and not in the midst of another test
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == 10 * 3 + 3 * 7


async def test_an_upstreams_error_event_raises(upstream: ScriptedUpstream, caller: Caller, client: anthropic.AsyncAnthropic) -> None:
    """It passes unchanged, and what came before it is charged."""
    upstream.automatic = None
    opening = asyncio.create_task(client.messages.create(model="tiny", messages=HELLO, max_tokens=9, stream=True))
    exchange = await upstream.next_request()
    for data in answers.message_events([WORD], usage=answers.usage(10, 1))[:4]:
        await exchange.send(data)
    await exchange.send(event(answers.error("busy"), "error"))
    await exchange.finish()
    stream = await opening
    with pytest.raises(anthropic.APIStatusError, match="busy"):
        [happened async for happened in stream]
    assert (await caller.settled()).spent_nanocredits == 10 * 3 + 7


async def test_no_client_sleeps_for_minutes(upstream: ScriptedUpstream, client: anthropic.AsyncAnthropic) -> None:
    """An upstream that asks for hours of patience does not get them from this client, which would wait for any time it is told."""
    upstream.automatic = None

    async def refuse() -> None:
        exchange = await upstream.next_request()
        error = answers.encode(answers.error("later", "rate_limit_error"))
        await exchange.answer(error, status=429, headers={"Content-Type": "application/json", "Retry-After": "7200"})

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(refuse())
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(model="tiny", messages=HELLO, max_tokens=4)
    assert len(upstream.received) == 1
