"""The official `cohere` client, as users have it, works unchanged through `serve`, and every token and every search is charged.

A token of input costs 3 nanocredits, of output 7, a search 29; the upstream bills 10 of input and one of output for each word. What is
counted instead, where no bill comes, is worked out in `test_conformance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import cohere
import httpx
import pytest
import pytest_asyncio
from cohere.core import ApiError

from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import Exchange, ScriptedUpstream
from tests.support.speech_cohere import EMBED, RERANK, chat, chat_events, usage

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(20)]

HELLO = [cohere.UserChatMessageV2(content="hello")]
WORD = "tok "


async def play(exchange: Exchange) -> None:
    """As many words as the request's maximum says, one event each, all billed; a vector; a ranking."""
    document = exchange.document
    if exchange.raw_path == "/v2/chat":
        count = document["max_tokens"]
        if not document["stream"]:
            await exchange.answer(chat(WORD * count, usage(10, count)))
            return
        for data in chat_events([WORD] * count, usage(10, count)):
            await exchange.send(data)
        await exchange.finish()
        return
    speech = EMBED if exchange.raw_path == "/v2/embed" else RERANK
    assert speech.whole is not None
    await exchange.answer(speech.whole("", speech.bill(10, 1)))


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = play
    return upstream


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


@pytest_asyncio.fixture(loop_scope="session")
async def client(deployment: Deployment, caller: Caller) -> AsyncIterator[cohere.AsyncClientV2]:
    async with cohere.AsyncClientV2(caller.key, base_url=deployment.proxy_url) as client:
        yield client


def text_of(event: object) -> str:
    """The text that an event of a stream adds."""
    return event.delta.message.content.text if isinstance(event, cohere.ContentDeltaV2ChatStreamResponse) else ""


async def test_sync_client(deployment: Deployment, upstream: ScriptedUpstream, caller: Caller) -> None:
    """Chat, streamed and not, vectors and a ranking with the synchronous client, all charged to the last nanocredit."""

    def work() -> None:
        with cohere.ClientV2(caller.key, base_url=deployment.proxy_url) as client:
            answer = client.chat(model="tiny", messages=HELLO, max_tokens=4)
            assert answer.message.content[0].text == 4 * WORD
            events = list(client.chat_stream(model="tiny", messages=HELLO, max_tokens=5))
            assert "".join(map(text_of, events)) == 5 * WORD
            assert events[-1].delta.usage.billed_units.output_tokens == 5
            assert client.embed(model="tiny", texts=["hello"], input_type="search_query", embedding_types=["float"]).embeddings.float_
            assert client.rerank(model="tiny", query="hello", documents=["hello"]).results[0].index == 0

    await asyncio.to_thread(work)
    assert (await caller.settled()).spent_nanocredits == 3 * 10 * 3 + (4 + 5) * 7 + 4 * 3 + 29


async def test_async_client(upstream: ScriptedUpstream, caller: Caller, client: cohere.AsyncClientV2) -> None:
    """Several calls at once with the asynchronous client, streamed and not."""

    async def streamed() -> str:
        return "".join([text_of(event) async for event in client.chat_stream(model="tiny", messages=HELLO, max_tokens=4)])

    async def whole() -> str:
        return (await client.chat(model="tiny", messages=HELLO, max_tokens=4)).message.content[0].text

    assert await asyncio.gather(*(asking() for asking in [streamed, whole] * 5)) == [4 * WORD] * 10
    assert (await caller.settled()).spent_nanocredits == 10 * (10 * 3 + 4 * 7)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.chat(model="tiny", messages=HELLO), id="whole"),
        pytest.param(lambda client: list(client.chat_stream(model="tiny", messages=HELLO)), id="streamed"),
    ],
)
async def test_refusal_is_the_sdks_own_error(
    deployment: Deployment, upstream: ScriptedUpstream, ask: Callable[[cohere.ClientV2], object]
) -> None:
    """A spent budget arrives as the SDK's own error with a readable reason; it is not retried and does not reach the upstream."""
    caller = await deployment.open_account("0.00000005")
    sent: list[object] = []

    def work() -> ApiError:
        transport = httpx.Client(event_hooks={"request": [sent.append]})
        with (
            cohere.ClientV2(caller.key, base_url=deployment.proxy_url, httpx_client=transport) as client,
            pytest.raises(ApiError) as refused,
        ):
            ask(client)
        return refused.value

    error = await asyncio.to_thread(work)
    assert error.status_code == 402
    assert error.body["compute_ledger"]["code"] == "request_exceeds_budget"
    assert "budget" in error.body["message"]
    assert len(sent) == 1
    assert upstream.received == []


async def test_wrong_key(deployment: Deployment) -> None:
    """A key that nobody has is the SDK's UnauthorizedError."""
    async with cohere.AsyncClientV2("cl-" + "x" * 43, base_url=deployment.proxy_url) as client:
        with pytest.raises(cohere.UnauthorizedError):
            await client.chat(model="tiny", messages=HELLO)


async def test_cut_stream_raises(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A stream that outlives the budget yields what is paid for and then breaks, for the client raises at nothing else."""
    caller = await deployment.open_account("0.000000197")  # 87 for the input and 10 x 11 for as many tokens
    words: list[str] = []
    async with cohere.AsyncClientV2(caller.key, base_url=deployment.proxy_url) as client:

        async def read() -> None:
            async for event in client.chat_stream(model="tiny", messages=HELLO, max_tokens=1000):
                words.append(text_of(event))

        with pytest.raises(httpx.RemoteProtocolError):
            await read()
    assert "".join(words) == WORD * 10
    assert (await caller.settled()).spent_nanocredits == 27 + 10 * 7


async def test_hanging_up_mid_stream(upstream: ScriptedUpstream, caller: Caller, client: cohere.AsyncClientV2) -> None:
    """Whoever hangs up mid-stream pays what was forwarded until then."""
    upstream.automatic = None
    stream = client.chat_stream(model="tiny", messages=HELLO)
    assert isinstance(stream, AsyncGenerator)
    first = asyncio.ensure_future(anext(stream))
    exchange = await upstream.next_request()
    for data in chat_events([WORD] * 3, b"")[:5]:
        await exchange.send(data)
    events = [await first, *[await anext(stream) for _ in range(4)]]
    await stream.aclose()
    assert "".join(map(text_of, events)) == 3 * WORD
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == 27 + 3 * 7
