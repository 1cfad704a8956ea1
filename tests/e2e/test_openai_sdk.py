"""The official `openai` client, as users have it, works unchanged through `serve`, and every token is charged.

A token of input costs 3 nanocredits, of output 7; the upstream bills 10 of input and one of output for each word. What is counted
instead, where no bill comes, is worked out in `test_conformance`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Mapping

import httpx2
import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from tests.support import openai_answers as answers
from tests.support import speech_openai_media
from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

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
    del stream
    gc.collect()  # what the client iterates with ends here, and not in the midst of another test
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == 27 + 3 * 7


# --- recordings, images, moderations -----------------------------------------------------------------------------------------

RECORDING = bytes(range(256)) * 6
"""Two tokens, at 768 bytes each."""
IMAGE = {"created": 1, "data": [{"b64_json": "AAAA"}], "usage": speech_openai_media.usage(12, 5)}
WHOLE: Mapping[str, tuple[bytes, str]] = {
    "/v1/audio/speech": (RECORDING, "audio/mpeg"),
    "/v1/audio/transcriptions": (answers.encode({"text": "one two", "usage": {"type": "duration", "seconds": 1.5}}), "application/json"),
    "/v1/images/generations": (answers.encode(IMAGE), "application/json"),
    "/v1/images/edits": (answers.encode(IMAGE), "application/json"),
    "/v1/moderations": (answers.encode({"id": "m", "model": "tiny", "results": []}), "application/json"),
}
SUBTITLES = b"1\n00:00:00,000 --> 00:00:02,000\none two\n"
CERTAIN_OF_SPEECH = 5 * 41 + 6 * 3
"""Five characters, and as many tokens of input as are counted for them."""


@pytest.fixture
def media(upstream: ScriptedUpstream) -> ScriptedUpstream:
    """An upstream that gives each of these a whole answer, or a stream where that is asked for."""

    async def play(exchange: Exchange) -> None:
        speech = {"/v1/audio/transcriptions": speech_openai_media.TRANSCRIPTIONS, "/v1/images/generations": speech_openai_media.IMAGES}
        if b"stream" in exchange.body and exchange.raw_path in speech:
            for event in speech[exchange.raw_path].stream("present"):
                await exchange.send(event)
            await exchange.finish()
        elif b"srt" in exchange.body:
            await exchange.answer(SUBTITLES, headers={"Content-Type": "text/plain"})
        else:
            body, media_type = WHOLE[exchange.raw_path]
            await exchange.answer(body, headers={"Content-Type": media_type})

    upstream.automatic = play
    return upstream


async def test_speech(media: ScriptedUpstream, caller: Caller, client: openai.AsyncOpenAI) -> None:
    """A recording arrives byte for byte, whole or as it comes, and costs its characters and its tokens."""
    whole = await client.audio.speech.create(model="tiny", voice="alloy", input="hello")
    assert whole.content == RECORDING
    async with client.audio.speech.with_streaming_response.create(model="tiny", voice="alloy", input="hello") as streamed:
        assert b"".join([chunk async for chunk in streamed.iter_bytes()]) == RECORDING
    assert (await caller.settled()).spent_nanocredits == 2 * (CERTAIN_OF_SPEECH + 2 * 7)


async def test_speech_that_outlives_the_budget_is_broken_off(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """There are no words for an error in a recording, so that the connection breaks; it never passes for whole."""
    upstream.automatic = None
    covered = (8 + 5 + 16) * 3 + 5 * 41 + 11  # one token of sound, which might be of the dearest kind
    caller = await deployment.open_account(f"0.000000{covered}")
    async with openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key) as client:
        speaking = client.audio.speech.with_streaming_response.create(model="tiny", voice="alloy", input="hello")
        opening = asyncio.create_task(speaking.__aenter__())
        exchange = await upstream.next_request()
        await exchange.start(headers={"Content-Type": "audio/mpeg"})
        await exchange.send(RECORDING[:768])
        chunks = (await opening).iter_bytes()
        assert await anext(chunks) == RECORDING[:768]
        await exchange.send(RECORDING[768:])
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(chunks)
    assert (await caller.settled()).spent_nanocredits == CERTAIN_OF_SPEECH + 7


async def test_transcripts(media: ScriptedUpstream, caller: Caller, client: openai.AsyncOpenAI) -> None:
    """By seconds and tokens: as reported, as a stream with its usage, and as subtitles, which report nothing."""
    file = ("a.wav", speech_openai_media.TWO_SECONDS)
    whole = await client.audio.transcriptions.create(model="tiny", file=file)
    assert whole.text == "one two"
    spent = 64 * 3 + 2 * 7 + 47  # 1.5 x 31, rounded up
    assert (await caller.settled()).spent_nanocredits == spent
    stream = await client.audio.transcriptions.create(model="tiny", file=file, stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == "one two three "
    spent += 12 * 3 + 5 * 7 + 2 * 31
    assert (await caller.settled()).spent_nanocredits == spent
    subtitles = await client.audio.transcriptions.create(model="tiny", file=file, response_format="srt")
    assert subtitles.encode() == SUBTITLES
    spent += 64 * 3 + 2 * 31 + -(-len(SUBTITLES) // 4) * 7
    assert (await caller.settled()).spent_nanocredits == spent
    assert media.received[0].body.count(speech_openai_media.TWO_SECONDS) == 1


async def test_images(media: ScriptedUpstream, caller: Caller, client: openai.AsyncOpenAI) -> None:
    """Made, made piece by piece, and changed: each costs its tokens and the image."""
    made = await client.images.generate(model="tiny", prompt="hello")
    assert made.data is not None
    assert made.data[0].b64_json == "AAAA"
    events = [event async for event in await client.images.generate(model="tiny", prompt="hello", stream=True, partial_images=3)]
    assert [event.type for event in events] == [*["image_generation.partial_image"] * 3, "image_generation.completed"]
    changed = await client.images.edit(model="tiny", prompt="hello", image=[("a.png", b"PNG"), ("b.png", b"PNG")])
    assert changed.usage is not None
    assert (await caller.settled()).spent_nanocredits == 3 * (12 * 3 + 5 * 7 + 23)


async def test_moderations(media: ScriptedUpstream, caller: Caller, client: openai.AsyncOpenAI) -> None:
    """They report no usage, so that the input is counted."""
    assert (await client.moderations.create(model="tiny", input="hello")).results == []
    assert (await caller.settled()).spent_nanocredits == 2 * 3


async def test_a_refused_upload_is_the_sdks_own_error(deployment: Deployment, media: ScriptedUpstream) -> None:
    """A form that the budget cannot pay is refused like any other request, and goes nowhere."""
    caller = await deployment.open_account("0.0000001")
    async with openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.audio.transcriptions.create(model="tiny", file=("a.mp3", bytes(100_000)))
    assert (refused.value.status_code, refused.value.code) == (402, "request_exceeds_budget")
    assert media.received == []
