"""The official `ollama` client, as users have it, works unchanged through `serve`, and every token is charged.

A token of input costs 3 nanocredits, of output 7; the upstream bills 10 of input and one of output for each word. What is counted
instead, where no bill comes, is worked out in `test_conformance`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import ollama
import pytest
import pytest_asyncio

from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import Exchange, ScriptedUpstream
from tests.support.speech_ollama import chat_lines, generated_lines, line, message, response, usage, vectors

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(20)]

HELLO = [{"role": "user", "content": "hello"}]
WORD = "tok "
LINES = {"Content-Type": "application/x-ndjson"}
SHOWN = {"capabilities": ["completion"], "details": {"family": "tiny"}, "model_info": {"general.architecture": "tiny"}}


async def play(exchange: Exchange) -> None:
    """As many words as the request's maximum says, one line each, all billed; and what is free."""
    path = exchange.raw_path
    if path == "/api/version":
        await exchange.answer(b'{"version":"0.12.6"}')
    elif path == "/api/show":
        await exchange.answer(json.dumps(SHOWN).encode())
    elif path == "/api/embed":
        await exchange.answer(vectors(b'"embeddings":[[0.5],[0.25]]', b'"prompt_eval_count":10'))
    elif path == "/api/embeddings":
        await exchange.answer(vectors(b'"embedding":[0.5]', b""))
    else:
        await _write(exchange)


async def _write(exchange: Exchange) -> None:
    document = exchange.document
    talks = exchange.raw_path == "/api/chat"
    if not document.get("messages" if talks else "prompt"):
        await exchange.answer(line(message("") if talks else response(""), ends="load"))
        return
    count = document["options"]["num_predict"]
    if not document["stream"]:
        text = WORD * count
        await exchange.answer(line(message(text) if talks else response(text), ends="length", usage=usage(10, count)))
        return
    await exchange.start(headers=LINES)
    for data in (chat_lines if talks else generated_lines)([WORD] * count, usage(10, count)):
        await exchange.send(data)
    await exchange.finish()


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = play
    return upstream


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


def arguments(deployment: Deployment, caller: Caller) -> dict[str, Any]:
    return {"host": deployment.proxy_url, "headers": {"Authorization": f"Bearer {caller.key}"}}


@pytest_asyncio.fixture(loop_scope="session")
async def client(deployment: Deployment, caller: Caller) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(**arguments(deployment, caller)) as client:
        yield client


async def test_client_from_the_environment(
    deployment: Deployment, upstream: ScriptedUpstream, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two variables point the synchronous client at the proxy; all it does is charged to the last nanocredit."""
    monkeypatch.setenv("OLLAMA_HOST", deployment.proxy_url)
    monkeypatch.setenv("OLLAMA_API_KEY", caller.key)

    def work() -> None:
        with ollama.Client() as client:
            chat = client.chat("tiny", HELLO, options={"num_predict": 4})
            assert (chat.message.content, chat.done_reason, chat.eval_count) == (4 * WORD, "length", 4)
            parts = list(client.chat("tiny", HELLO, options={"num_predict": 4}, stream=True))
            assert "".join(part.message.content or "" for part in parts) == 4 * WORD
            assert parts[-1].prompt_eval_count == 10
            assert client.generate("tiny", "hello", options={"num_predict": 5}).response == 5 * WORD
            texts = list(client.generate("tiny", "hello", options={"num_predict": 6}, stream=True))
            assert "".join(part.response or "" for part in texts) == 6 * WORD
            assert len(client.embed("tiny", ["hello", "world"]).embeddings) == 2
            assert client.embeddings("tiny", "hello").embedding == [0.5]

    await asyncio.to_thread(work)
    assert (await caller.settled()).spent_nanocredits == 5 * 10 * 3 + (4 + 4 + 5 + 6) * 7 + 2 * 3


async def test_async_client(upstream: ScriptedUpstream, caller: Caller, client: ollama.AsyncClient) -> None:
    """Many calls at once with the asynchronous client, streamed and not."""

    async def streamed() -> int:
        stream = await client.chat("tiny", HELLO, options={"num_predict": 4}, stream=True)
        return len([part async for part in stream if part.message.content])

    async def whole() -> int:
        return (await client.chat("tiny", HELLO, options={"num_predict": 4})).eval_count or 0

    tokens = await asyncio.gather(*(streamed() for _ in range(10)), *(whole() for _ in range(10)))
    assert tokens == [4] * 20
    assert (await caller.settled()).spent_nanocredits == 20 * (10 * 3 + 4 * 7)


async def test_loading_a_model_costs_nothing(upstream: ScriptedUpstream, caller: Caller, client: ollama.AsyncClient) -> None:
    """An empty prompt has the model loaded; nothing is read and nothing is charged."""
    assert (await client.generate("tiny", keep_alive="5m")).done_reason == "load"
    assert (await client.chat("tiny", [])).done_reason == "load"
    assert (await caller.settled()).spent_nanocredits == 0


async def test_models(upstream: ScriptedUpstream, caller: Caller, client: ollama.AsyncClient) -> None:
    """The list holds what the caller may use, and one of it can be shown; neither costs anything."""
    listed = await client.list()
    assert {"tiny", "short", "impatient", "closed"} <= {model.model for model in listed.models}
    assert (await client.show("tiny")).capabilities == ["completion"]
    assert (await caller.settled()).spent_nanocredits == 0


async def test_only_models_that_one_may_use_are_shown(upstream: ScriptedUpstream, client: ollama.AsyncClient) -> None:
    """What an upstream says of others is not for callers."""
    with pytest.raises(ollama.ResponseError) as refused:
        await client.show("secret")
    assert (refused.value.status_code, refused.value.error.partition(":")[0]) == (404, "model_not_found")
    assert upstream.received == []


async def test_version(deployment: Deployment, upstream: ScriptedUpstream, caller: Caller) -> None:
    """Some clients ask for it before anything else; it is the upstream's own, and free."""
    async with deployment.client.get(f"{deployment.proxy_url}/api/version", headers={"Authorization": f"Bearer {caller.key}"}) as answer:
        assert (answer.status, await answer.json()) == (200, {"version": "0.12.6"})
    assert (await caller.settled()).spent_nanocredits == 0


async def test_what_manages_models_is_refused(upstream: ScriptedUpstream, client: ollama.AsyncClient) -> None:
    """It is the operator's; the upstream never hears of it."""
    for managing in (
        client.pull("tiny"),
        client.create("mine", from_="tiny"),
        client.delete("tiny"),
        client.copy("tiny", "mine"),
        client.ps(),
    ):
        with pytest.raises(ollama.ResponseError) as refused:
            await managing
        assert refused.value.status_code == 404
        assert refused.value.error.startswith("unknown_path: ")
    assert upstream.received == []


@pytest.mark.parametrize("stream", [True, False])
async def test_refusal_is_the_sdks_own_error(deployment: Deployment, upstream: ScriptedUpstream, stream: bool) -> None:
    """A spent budget arrives as the SDK's own error with a readable reason; it is not retried and does not reach the upstream."""
    caller = await deployment.open_account("0.00000005")
    sent: list[object] = []

    def work() -> ollama.ResponseError:
        with (
            ollama.Client(**arguments(deployment, caller), event_hooks={"request": [sent.append]}) as client,
            pytest.raises(ollama.ResponseError) as refused,
        ):
            list(client.chat("tiny", HELLO, stream=stream))
        return refused.value

    error = await asyncio.to_thread(work)
    assert error.status_code == 402
    assert error.error.startswith("request_exceeds_budget: ")
    assert len(sent) == 1
    assert upstream.received == []


async def test_wrong_key(deployment: Deployment) -> None:
    """A key that nobody has is a 401."""
    async with ollama.AsyncClient(host=deployment.proxy_url, headers={"Authorization": f"Bearer cl-{'x' * 43}"}) as client:
        with pytest.raises(ollama.ResponseError) as refused:
            await client.chat("tiny", HELLO)
    assert (refused.value.status_code, refused.value.error.partition(":")[0]) == (401, "invalid_api_key")


async def test_throttled(upstream: ScriptedUpstream, client: ollama.AsyncClient) -> None:
    """Told to come back next year, the client neither sleeps nor asks again."""

    async def throttle(exchange: Exchange) -> None:
        await exchange.answer(b'{"error":"busy"}', status=429, headers={"Content-Type": "application/json", "Retry-After": "31536000"})

    upstream.automatic = throttle
    with pytest.raises(ollama.ResponseError) as refused:
        await client.chat("tiny", HELLO)
    assert (refused.value.status_code, refused.value.error) == (429, "busy")
    assert len(upstream.received) == 1


async def test_cut_stream_raises(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A stream that outlives the budget yields what is paid for and then raises with the reason; it never just stops."""
    caller = await deployment.open_account("0.000000197")  # 87 for the input and 10 x 11 for as many tokens
    words: list[str] = []
    async with ollama.AsyncClient(**arguments(deployment, caller)) as client:
        stream = await client.chat("tiny", HELLO, options={"num_predict": 1000}, stream=True)

        async def read() -> None:
            async for part in stream:
                words.append(part.message.content or "")

        with pytest.raises(ollama.ResponseError) as cut:
            await read()
    assert words == [WORD] * 10
    assert cut.value.error.startswith("insufficient_quota: ")
    assert (await caller.settled()).spent_nanocredits == 27 + 10 * 7


async def test_hanging_up_mid_stream(upstream: ScriptedUpstream, caller: Caller, client: ollama.AsyncClient) -> None:
    """Whoever hangs up mid-stream pays what was forwarded until then."""
    upstream.automatic = None
    stream = await client.chat("tiny", HELLO, stream=True)
    assert isinstance(stream, AsyncGenerator)
    first = asyncio.ensure_future(anext(stream))
    exchange = await upstream.next_request()
    await exchange.start(headers=LINES)
    for data in chat_lines([WORD] * 3, b"")[:3]:
        await exchange.send(data)
    async with contextlib.aclosing(stream):
        assert [(await first).message.content, *[(await anext(stream)).message.content for _ in range(2)]] == [WORD] * 3
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == 27 + 3 * 7
