"""The official `openai` client, as users have it, works unchanged through `serve`, and every token is charged.

A token of input costs 3 nanocredits, of output 7; the upstream bills 10 of input and one of output for each word. What is counted
instead, where no bill comes, is worked out in `test_conformance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
WORD = "tok "


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = answers.generating(input_tokens=10, word=WORD)
    return upstream


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


@pytest.fixture
def sync_client(caller: Caller) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=caller.base_url, api_key=caller.key) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def client(caller: Caller) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key) as client:
        yield client


async def test_sync_client(upstream: ScriptedUpstream, caller: Caller, sync_client: openai.OpenAI) -> None:
    """Chat, completions, responses and embeddings with the synchronous client, all charged to the last nanocredit."""

    def work() -> None:
        chat = sync_client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4)
        assert chat.choices[0].message.content == 4 * WORD
        completion = sync_client.completions.create(model="tiny", prompt="hello", max_tokens=5)
        assert completion.choices[0].text == 5 * WORD
        response = sync_client.responses.create(model="tiny", input="hello", max_output_tokens=6)
        assert response.output_text == 6 * WORD
        vectors = sync_client.embeddings.create(model="tiny", input=["hello", "world"], encoding_format="float")
        assert len(vectors.data) == 2

    await asyncio.to_thread(work)
    assert (await caller.settled()).spent_nanocredits == 4 * 10 * 3 + (4 + 5 + 6) * 7


async def test_sync_streams(upstream: ScriptedUpstream, caller: Caller, sync_client: openai.OpenAI) -> None:
    """Streams with the synchronous client; the usage chunk comes exactly where it was asked for."""

    def work() -> None:
        chunks = list(sync_client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == 4 * WORD
        with_usage = list(
            sync_client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=4, stream=True, stream_options={"include_usage": True}
            )
        )
        assert with_usage[-1].usage is not None
        assert with_usage[-1].usage.completion_tokens == 4
        texts = sync_client.completions.create(model="tiny", prompt="hello", max_tokens=5, stream=True)
        assert "".join(chunk.choices[0].text for chunk in texts) == 5 * WORD
        events = list(sync_client.responses.create(model="tiny", input="hello", max_output_tokens=6, stream=True))
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == 6 * WORD

    await asyncio.to_thread(work)
    assert (await caller.settled()).spent_nanocredits == 4 * 10 * 3 + (4 + 4 + 5 + 6) * 7


async def test_async_client(upstream: ScriptedUpstream, caller: Caller, client: openai.AsyncOpenAI) -> None:
    """Many calls at once with the asynchronous client, streamed and not."""

    async def streamed() -> int:
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, stream=True)
        return len([chunk async for chunk in stream if chunk.choices[0].delta.content])

    async def whole() -> int:
        answer = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, n=2)
        assert answer.usage is not None
        return answer.usage.completion_tokens

    tokens = await asyncio.gather(*(streamed() for _ in range(10)), *(whole() for _ in range(10)))
    assert tokens == [4] * 10 + [8] * 10
    assert (await caller.settled()).spent_nanocredits == 20 * 10 * 3 + (10 * 4 + 10 * 8) * 7


async def test_models(client: openai.AsyncOpenAI) -> None:
    """The model list holds what the caller may use."""
    names = {model.id async for model in client.models.list()}
    assert {"tiny", "short", "impatient", "closed"} <= names


async def test_refusal_is_the_sdks_own_error(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A spent budget arrives as the SDK's own error with a readable reason; it is not retried and does not reach the upstream."""
    caller = await deployment.open_account("0.00000005")
    sent: list[object] = []

    def work() -> openai.APIStatusError:
        transport = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
        with openai.OpenAI(base_url=caller.base_url, api_key=caller.key, http_client=transport) as client:
            with pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(model="tiny", messages=HELLO)
            return refused.value

    error = await asyncio.to_thread(work)
    assert (error.status_code, error.code) == (402, "request_exceeds_budget")
    assert "budget" in error.message
    assert error.request_id
    assert len(sent) == 1
    assert upstream.received == []


async def test_wrong_key(deployment: Deployment) -> None:
    """A key that nobody has is the SDK's AuthenticationError."""
    async with openai.AsyncOpenAI(base_url=f"{deployment.proxy_url}/v1", api_key="cl-" + "x" * 43) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="tiny", messages=HELLO)


async def test_cut_stream_raises(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A stream that outlives the budget yields what is paid for and then raises; it never just stops."""
    caller = await deployment.open_account("0.000000197")  # 87 for the input and 10 x 11 for as many tokens
    async with openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key) as client:
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1000, stream=True)
        words: list[str] = []

        async def read() -> None:
            async for chunk in stream:
                words.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

        with pytest.raises(openai.APIError) as cut:
            await read()
    assert words == [WORD] * 10
    assert cut.value.code == "insufficient_quota"
    assert (await caller.settled()).spent_nanocredits == 27 + 10 * 7


async def test_hanging_up_mid_stream(upstream: ScriptedUpstream, caller: Caller, client: openai.AsyncOpenAI) -> None:
    """Whoever hangs up mid-stream pays what was forwarded until then."""
    upstream.automatic = None
    opening = asyncio.create_task(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
    exchange = await upstream.next_request()
    for event in answers.chat_events([WORD] * 3)[:4]:
        await exchange.send(event)
    stream = await opening
    received = 0
    async for chunk in stream:
        received += bool(chunk.choices[0].delta.content)
        if received == 3:
            break
    await stream.close()
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == 27 + 3 * 7
