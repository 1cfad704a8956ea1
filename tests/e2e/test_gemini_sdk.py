"""The official `google-genai` client, as users have it, works unchanged through `serve`, and every token is charged.

A token of input costs 3 nanocredits, of output 7; the upstream bills 10 of input and one of output for each word. What is counted
instead, where no bill comes, is worked out in `test_conformance`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from google import genai
from google.genai import errors, types

from tests.support import gemini_answers as answers
from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import EVENT_STREAM, Exchange, ScriptedUpstream

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(20),
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),  # the SDK's own doing
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),  # the same, where a stream raises
]

WORD = "tok "
GENERATE = "/v1beta/models/tiny:generateContent"
STREAM = "/v1beta/models/tiny:streamGenerateContent"
HELLO = {"contents": [{"parts": [{"text": "hello"}]}]}


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """What the SDK leaves open where a stream raises is found here, and not in the middle of another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = answers.generating(input_tokens=10, word=WORD)
    return upstream


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


def client_of(caller: Caller, **options: Any) -> genai.Client:
    return genai.Client(api_key=caller.key, http_options=types.HttpOptions(base_url=caller.deployment.proxy_url, **options))


@pytest.fixture
def client(caller: Caller) -> Iterator[genai.Client]:
    client = client_of(caller)
    yield client
    client.close()


def at_most(tokens: int) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(max_output_tokens=tokens)


async def test_sync_client(upstream: ScriptedUpstream, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, streams, chats and embeddings with the synchronous client, set up by environment variables alone; counting is free."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", caller.deployment.proxy_url)
    monkeypatch.setenv("GEMINI_API_KEY", caller.key)

    def work() -> None:
        with genai.Client() as client:
            answer = client.models.generate_content(model="tiny", contents="hello", config=at_most(4))
            assert answer.text == 4 * WORD
            chunks = list(client.models.generate_content_stream(model="tiny", contents="hello", config=at_most(5)))
            assert "".join(chunk.text or "" for chunk in chunks) == 5 * WORD
            assert chunks[-1].usage_metadata is not None
            assert chunks[-1].usage_metadata.candidates_token_count == 5
            chat = client.chats.create(model="tiny", config=at_most(6))
            assert chat.send_message("hello").text == 6 * WORD
            assert "".join(chunk.text or "" for chunk in chat.send_message_stream("more")) == 6 * WORD
            vectors = client.models.embed_content(model="tiny", contents=["hello", "world"])
            assert len(vectors.embeddings or ()) == 2
            assert client.models.count_tokens(model="tiny", contents="hello").total_tokens == 10

    await asyncio.to_thread(work)
    assert (await caller.settled()).spent_nanocredits == 5 * 10 * 3 + (4 + 5 + 6 + 6) * 7
    assert upstream.received[1].raw_path == "/v1/models/tiny:streamGenerateContent?alt=sse"


async def test_async_client(upstream: ScriptedUpstream, caller: Caller, client: genai.Client) -> None:
    """Many calls at once with the asynchronous client, streamed and not."""

    async def streamed() -> int:
        stream = await client.aio.models.generate_content_stream(model="tiny", contents="hello", config=at_most(4))
        return len([chunk async for chunk in stream if chunk.text])

    async def whole() -> int | None:
        answer = await client.aio.models.generate_content(model="tiny", contents="hello", config=at_most(8))
        assert answer.usage_metadata is not None
        return answer.usage_metadata.candidates_token_count

    tokens = await asyncio.gather(*(streamed() for _ in range(10)), *(whole() for _ in range(10)))
    assert tokens == [4] * 10 + [8] * 10
    assert (await caller.settled()).spent_nanocredits == 20 * 10 * 3 + (10 * 4 + 10 * 8) * 7


async def test_models(client: genai.Client) -> None:
    """The model list holds what the caller may use, and each of them can be looked at."""
    models = {model.name: model async for model in await client.aio.models.list(config={"page_size": 2})}
    assert {"models/tiny", "models/short", "models/impatient", "models/closed"} <= models.keys()
    assert (await client.aio.models.get(model="tiny")).display_name == "tiny"


async def test_refusal_is_the_sdks_own_error(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A spent budget arrives as the SDK's own error with a readable reason; it is not retried, even by a client that retries."""
    caller = await deployment.open_account("0.00000005")
    sent: list[object] = []

    def work() -> errors.ClientError:
        retrying = types.HttpRetryOptions(attempts=5)
        with client_of(caller, retry_options=retrying, client_args={"event_hooks": {"request": [sent.append]}}) as client:
            with pytest.raises(errors.ClientError) as refused:
                client.models.generate_content(model="tiny", contents="hello")
            return refused.value

    error = await asyncio.to_thread(work)
    assert (error.code, error.status) == (402, "RESOURCE_EXHAUSTED")
    assert error.message is not None
    assert "budget" in error.message
    assert error.details["compute_ledger"]["code"] == "request_exceeds_budget"
    assert len(sent) == 1
    assert upstream.received == []


async def test_wrong_key(deployment: Deployment) -> None:
    """A key that nobody has is the SDK's error for it."""
    options = types.HttpOptions(base_url=deployment.proxy_url)
    with genai.Client(api_key="cl-" + "x" * 43, http_options=options) as client, pytest.raises(errors.ClientError) as refused:
        await client.aio.models.generate_content(model="tiny", contents="hello")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")


async def test_absurd_retry_after_does_not_sleep(upstream: ScriptedUpstream, caller: Caller, client: genai.Client) -> None:
    """An upstream that asks for a day's patience gets its answer through to the program at once, and it costs nothing."""

    async def busy(exchange: Exchange) -> None:
        head = {"Content-Type": "application/json", "Retry-After": "86400"}
        await exchange.answer(answers.error("busy", 429, "RESOURCE_EXHAUSTED"), status=429, headers=head)

    upstream.automatic = busy
    with pytest.raises(errors.ClientError) as refused:
        await client.aio.models.generate_content(model="tiny", contents="hello")
    assert refused.value.code == 429
    assert len(upstream.received) == 1
    assert (await caller.settled()).spent_nanocredits == 0


@pytest.mark.parametrize("is_async", [True, False])
async def test_cut_stream_raises(deployment: Deployment, upstream: ScriptedUpstream, is_async: bool) -> None:
    """A stream that outlives the budget yields what is paid for and then raises; it never just stops."""
    caller = await deployment.open_account("0.000000197")  # 87 for the input and 10 x 11 for as many tokens
    words: list[str] = []

    async def read() -> None:
        stream = await client.aio.models.generate_content_stream(model="tiny", contents="hello", config=at_most(1000))
        async for chunk in stream:
            words.append(chunk.text or "")

    def read_sync() -> None:
        for chunk in client.models.generate_content_stream(model="tiny", contents="hello", config=at_most(1000)):
            words.append(chunk.text or "")

    with client_of(caller) as client, pytest.raises(errors.ClientError) as cut:
        await (read() if is_async else asyncio.to_thread(read_sync))
    assert words == [WORD] * 10
    assert (cut.value.code, cut.value.status) == (402, "RESOURCE_EXHAUSTED")
    assert cut.value.details["compute_ledger"]["code"] == "insufficient_quota"
    assert (await caller.settled()).spent_nanocredits == 27 + 10 * 7


async def test_an_upstream_that_vanishes_raises(upstream: ScriptedUpstream, caller: Caller, client: genai.Client) -> None:
    """A stream that ends without any reason for it is no complete answer, though its connection was closed properly."""

    async def half(exchange: Exchange) -> None:
        for event in answers.events([WORD] * 2)[:-1]:
            await exchange.send(event)
        await exchange.finish()

    upstream.automatic = half
    with pytest.raises(errors.ServerError) as gone:
        async for _ in await client.aio.models.generate_content_stream(model="tiny", contents="hello"):
            pass
    assert (gone.value.code, gone.value.status) == (502, "UNAVAILABLE")
    assert (await caller.settled()).spent_nanocredits == 27 + 2 * 7


async def test_hanging_up_mid_stream(upstream: ScriptedUpstream, caller: Caller, client: genai.Client) -> None:
    """Whoever hangs up mid-stream pays what was forwarded until then."""
    upstream.automatic = None

    def read_three() -> None:
        for received, _ in enumerate(client.models.generate_content_stream(model="tiny", contents="hello"), start=1):
            if received == 3:
                break
        client.close()

    reading = asyncio.create_task(asyncio.to_thread(read_three))
    exchange = await upstream.next_request()
    for event in answers.events([WORD] * 3)[:3]:
        await exchange.send(event)
    await reading
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == 27 + 3 * 7


async def test_sound_has_prices_of_its_own(upstream: ScriptedUpstream, caller: Caller, client: genai.Client) -> None:
    """What was heard and what was spoken is told apart by the details of the usage."""

    async def speak(exchange: Exchange) -> None:
        usage = {
            **answers.usage(10, 8),
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}, {"modality": "AUDIO", "tokenCount": 6}],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
        }
        await exchange.answer(answers.answer("", usage=usage))

    upstream.automatic = speak
    sound = types.Part.from_bytes(data=b"RIFF" * 100, mime_type="audio/wav")
    await client.aio.models.generate_content(model="hearing-tiny", contents=["say it again", sound])
    assert (await caller.settled()).spent_nanocredits == 4 * 3 + 6 * 17 + 8 * 19


# --- what the SDK does not do, and other clients do --------------------------------------------------------------------------------


async def test_a_key_in_the_query_is_the_callers_and_stays_here(upstream: ScriptedUpstream, caller: Caller) -> None:
    """It opens the caller's budget, and neither the upstream nor its logs ever see it."""
    path = f"{STREAM}?alt=sse&key={caller.key}"
    async with caller.post(path, HELLO, headers={"Accept": "*/*"}) as answer:
        assert answer.status == 200
        assert await answer.read() == b"".join(answers.events([WORD] * 8, usage=answers.usage(10, 8)))
    assert (await caller.settled()).spent_nanocredits == 10 * 3 + 8 * 7
    (exchange,) = upstream.received
    assert exchange.raw_path == f"{STREAM}?alt=sse"
    assert caller.key not in str(exchange.headers)


@pytest.mark.parametrize(("words", "delivered"), [([WORD] * 3, 2), ([WORD * 9], 0)], ids=["after two", "before the first"])
async def test_an_array_that_is_cut_can_be_read_to_its_end(
    deployment: Deployment, upstream: ScriptedUpstream, words: list[str], delivered: int
) -> None:
    """Its last element is the error, wherever it was cut."""

    async def say(exchange: Exchange) -> None:
        await exchange.start(headers={"Content-Type": "application/json"})
        for element in answers.elements(words):
            await exchange.send(element)
        await exchange.finish()

    upstream.automatic = say
    caller = await deployment.open_account("0.000000109")  # 87 for the input and 2 x 11 for as many tokens
    async with caller.post(STREAM, HELLO) as answer:
        *elements, last = json.loads(await answer.read())
    assert len(elements) == delivered
    assert last["compute_ledger"]["code"] == "insufficient_quota"
    assert (await caller.settled()).spent_nanocredits == 27 + delivered * 7


async def test_a_body_may_not_ask_for_more_than_the_path(upstream: ScriptedUpstream, caller: Caller) -> None:
    """Another model in the body, a hidden cache or a field mask is refused before the upstream hears of it."""
    for more, headers in (({"model": "models/dear"}, {}), ({"cachedContent": "c"}, {}), ({}, {"X-Goog-FieldMask": "candidates"})):
        async with caller.post(GENERATE, {**HELLO, **more}, headers={"x-goog-api-key": caller.key, **headers}) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["status"] == "INVALID_ARGUMENT"
    assert upstream.received == []


async def test_an_answer_that_is_no_stream_after_all(upstream: ScriptedUpstream, caller: Caller) -> None:
    """A prompt that the upstream blocks is one event without any candidate, and a complete answer."""

    async def block(exchange: Exchange) -> None:
        await exchange.start(headers=EVENT_STREAM)
        await exchange.send(answers.event(b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":10}}'))
        await exchange.finish()

    upstream.automatic = block
    async with caller.post(f"{STREAM}?alt=sse", HELLO) as answer:
        assert b"SAFETY" in await answer.read()
    assert (await caller.settled()).spent_nanocredits == 30
