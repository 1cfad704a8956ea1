"""A real llama.cpp server behind the proxy: what it bills is charged, to the last nanocredit, and its bytes pass unchanged.

A token of input costs 3 nanocredits, cached input 2, output 7, as llama.cpp itself counts them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from anthropic.types import MessageParam, RawMessageStreamEvent

from tests.support.deployment import Caller, Deployment, serving

pytest.importorskip("xllamacpp", reason="no wheel of llama.cpp for this platform")
pytest.importorskip("gguf")
from tests.support.tiny_model import llama_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIGURATION = """
[[upstream]]
name = "llama"
base_url = "{generating}"
models = ["tiny"]

[[upstream]]
name = "embedder"
base_url = "{embedding}"
models = ["tiny-embedder"]

[[price]]
model = "*"
input = "0.003"
cached_input = "0.002"
output = "0.007"

[[plan]]
name = "everyone"
limits = [ {{ credits = "1", window = "day" }} ]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    models = tmp_path_factory.mktemp("llama")
    async with llama_server(models) as generating, llama_server(models, embeddings=True) as embedding:
        configuration = CONFIGURATION.format(generating=generating, embedding=embedding)
        async with serving(tmp_path_factory.mktemp("proxy"), configuration) as deployment:
            yield deployment


@pytest_asyncio.fixture(loop_scope="module")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


@pytest_asyncio.fixture(loop_scope="module")
async def client(caller: Caller) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key) as client:
        yield client


def price(input_tokens: int, cached_tokens: int | None, output_tokens: int) -> int:
    """By hand: 3 for each token of input, 2 where it was cached, 7 for each of output."""
    cached = cached_tokens or 0
    return (input_tokens - cached) * 3 + cached * 2 + output_tokens * 7


async def chat_price(client: openai.AsyncOpenAI, *, prompt: str, tokens: int) -> int:
    answer = await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=tokens)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    details = answer.usage.prompt_tokens_details
    return price(answer.usage.prompt_tokens, details.cached_tokens if details else 0, tokens)


async def test_chat(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """A whole chat completion, and the same again, part of whose input llama.cpp then has cached."""
    first = await chat_price(client, prompt="Why is the sky blue?", tokens=12)
    again = await chat_price(client, prompt="Why is the sky blue?", tokens=12)
    assert again < first
    assert (await caller.settled()).spent_nanocredits == first + again


async def test_chat_stream(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """A streamed chat completion with the usage that the client asked for."""
    stream = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Count to forty."}],
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert usage is not None
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == usage.completion_tokens == 40
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    assert (await caller.settled()).spent_nanocredits == price(usage.prompt_tokens, cached, 40)


async def test_chat_stream_without_usage(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """A client that did not ask for usage gets none, and is charged by it all the same."""
    stream = await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "zzzz"}], max_tokens=8, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    # llama.cpp counts a token for each byte of "u:zzzz\na:" and one for the beginning; at most the first 3 may be cached from before.
    spent = (await caller.settled()).spent_nanocredits
    assert spent in {price(10, cached, 8) for cached in range(4)}


async def test_completion(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """A text completion, whole and streamed; llama.cpp puts the usage of the stream into its last chunk."""
    whole = await client.completions.create(model="tiny", prompt="Once upon", max_tokens=9)
    chunks = [chunk async for chunk in await client.completions.create(model="tiny", prompt="a time", max_tokens=7, stream=True)]
    bills = [whole.usage, chunks[-1].usage]
    expected = 0
    for usage in bills:
        assert usage is not None
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        expected += price(usage.prompt_tokens, cached, usage.completion_tokens)
    assert (await caller.settled()).spent_nanocredits == expected


async def test_responses(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """The Responses API, whole and streamed."""
    whole = await client.responses.create(model="tiny", input="hello", instructions="Be brief.", max_output_tokens=6)
    events = [event async for event in await client.responses.create(model="tiny", input="hi", max_output_tokens=5, stream=True)]
    assert events[-1].type == "response.completed"
    expected = 0
    for usage, tokens in ((whole.usage, 6), (events[-1].response.usage, 5)):
        assert usage is not None
        assert usage.output_tokens == tokens
        expected += price(usage.input_tokens, usage.input_tokens_details.cached_tokens, tokens)
    assert (await caller.settled()).spent_nanocredits == expected


async def test_messages(caller: Caller) -> None:
    """Anthropic Messages, whole and streamed, billed as llama.cpp reports them; it counts the tokens of a prompt for nothing."""
    expected = 0
    async with anthropic.AsyncAnthropic(base_url=caller.deployment.proxy_url, api_key=caller.key) as client:
        for prompt, system, tokens in (("Why is the sky blue?", "Be brief.", 6), ("Count to forty.", anthropic.omit, 40)):
            told: list[MessageParam] = [{"role": "user", "content": prompt}]
            counted = await client.messages.count_tokens(model="tiny", messages=told, system=system)
            whole = await client.messages.create(model="tiny", messages=told, system=system, max_tokens=tokens)
            async with client.messages.stream(model="tiny", messages=told, system=system, max_tokens=tokens) as stream:
                texts = [text async for text in stream.text_stream]
                streamed = await stream.get_final_message()
            assert len(texts) == tokens
            for message in (whole, streamed):
                assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", tokens)
                cached = message.usage.cache_read_input_tokens or 0
                assert message.usage.input_tokens + cached == counted.input_tokens
                expected += price(counted.input_tokens, cached, tokens)
    assert (await caller.settled()).spent_nanocredits == expected


async def test_messages_cut_by_budget(deployment: Deployment) -> None:
    """A stream that outlives the budget raises in the official client, and is charged by the input that was reported and what came."""
    caller = await deployment.open_account("0.000000197")  # 87 for the bound of the input, and 15 tokens at 7
    events: list[RawMessageStreamEvent] = []
    async with anthropic.AsyncAnthropic(base_url=deployment.proxy_url, api_key=caller.key) as client:
        stream = await client.messages.create(model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=10_000, stream=True)

        async def read() -> None:
            async for event in stream:
                events.append(event)

        with pytest.raises(anthropic.APIStatusError) as cut:
            await read()
    assert cut.value.error_code == "insufficient_quota"
    assert events[0].type == "message_start"
    assert sum(event.type == "content_block_delta" for event in events) == 15
    usage = events[0].message.usage
    cached = usage.cache_read_input_tokens or 0
    assert (await caller.settled()).spent_nanocredits == price(usage.input_tokens + cached, cached, 15)


async def test_embeddings(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """Embeddings cost their input alone."""
    answer = await client.embeddings.create(model="tiny-embedder", input=["one", "another"])
    assert len(answer.data) == 2
    assert (await caller.settled()).spent_nanocredits == answer.usage.prompt_tokens * 3


async def test_context_overflow(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """llama.cpp's own refusal of an overlong prompt reaches the client as it is, and costs nothing."""
    with pytest.raises(openai.BadRequestError, match="context"):
        await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 5000}], max_tokens=5)
    assert (await caller.settled()).spent_nanocredits == 0


async def test_hanging_up(caller: Caller, client: openai.AsyncOpenAI) -> None:
    """Whoever hangs up mid-stream pays for no more than was forwarded, and llama.cpp is told to stop."""
    stream = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=2000, stream=True
    )
    seen = 0
    async for chunk in stream:
        seen += bool(chunk.choices[0].delta.content)
        if seen == 5:
            break
    await stream.close()
    spent = (await caller.settled()).spent_nanocredits
    assert 9 * 3 + 5 * 7 <= spent < 9 * 3 + 2000 * 7
    assert (spent - 9 * 3) % 7 == 0


async def test_budget_ends_mid_stream(deployment: Deployment) -> None:
    """A stream from llama.cpp is cut where the budget ends: exactly what it covers has been delivered."""
    caller = await deployment.open_account(f"0.{(5 + 8 + 16) * 3 + 25 * 7:09}")
    words = 0

    async def read() -> None:
        nonlocal words
        async with openai.AsyncOpenAI(base_url=caller.base_url, api_key=caller.key) as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=500, stream=True
            )
            async for chunk in stream:
                words += sum(bool(choice.delta.content) for choice in chunk.choices)

    with pytest.raises(openai.APIError, match="used up"):
        await read()
    assert words == 25
    assert (await caller.settled()).spent_nanocredits == 9 * 3 + 25 * 7


# --- llama.cpp's own API -------------------------------------------------------------------------------------------------------


async def post(caller: Caller, path: str, document: dict[str, object]) -> tuple[int, bytes]:
    response = await caller.post(path, document, {"Authorization": f"Bearer {caller.key}"})
    return response.status, await response.read()


def own_price(*answers: dict[str, Any]) -> int:
    """What answers cost by their own counts."""
    counts = ((answer["tokens_evaluated"], answer["timings"]["cache_n"], answer["tokens_predicted"]) for answer in answers)
    return sum(price(inputs, cached, outputs) for inputs, cached, outputs in counts)


async def test_own_completion(caller: Caller) -> None:
    """A completion of llama.cpp's own API, and the same again with most of its input cached; an answer to two prompts is a list."""
    first, again = [json.loads((await post(caller, "/completion", {"prompt": "Twice upon", "n_predict": 9}))[1]) for _ in range(2)]
    assert first["content"] == again["content"]
    assert (first["tokens_predicted"], again["timings"]["cache_n"]) == (9, first["tokens_evaluated"] - 1)
    several = json.loads((await post(caller, "/completions", {"prompt": ["one", [1, "two"]], "n_predict": 3, "n_cmpl": 2}))[1])
    assert [answer["tokens_predicted"] for answer in several] == [3] * 4
    assert (await caller.settled()).spent_nanocredits == own_price(first, again, *several)


@pytest.mark.parametrize(
    ("path", "document", "answers"),
    [
        ("/completion", {"prompt": "Once more"}, 1),
        ("/completion", {"prompt": ["Once more", "and again"]}, 2),
        ("/infill", {"input_prefix": "int ", "input_suffix": "}", "prompt": "ma", "input_extra": [{"filename": "a", "text": "b"}]}, 1),
    ],
)
async def test_own_stream(caller: Caller, path: str, document: dict[str, object], answers: int) -> None:
    """A stream of llama.cpp's own API, charged by what its last event of each answer says; its end is not lost."""
    _, body = await post(caller, path, {**document, "n_predict": 7, "stream": True})
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]
    stopped = [event for event in events if event and event["stop"]]
    assert [event["tokens_predicted"] for event in stopped] == [7] * answers
    assert events[-1]["stop"]
    assert (await caller.settled()).spent_nanocredits == own_price(*stopped)


async def test_own_stream_is_cut(deployment: Deployment) -> None:
    """Where the budget ends, an error of llama.cpp's own form says so; what was delivered is charged, the input as llama.cpp counts it."""
    caller = await deployment.open_account(f"0.{(5 + 4 + 16) * 3 + 25 * 7:09}")
    _, body = await post(caller, "/completion", {"prompt": "hello", "stream": True})
    *events, error = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]
    assert error["error"] == {"code": 402, "message": error["error"]["message"], "type": "permission_error"}
    assert error["compute_ledger"]["code"] == "insufficient_quota"
    assert events[-1]["tokens_predicted"] == 25
    assert (await caller.settled()).spent_nanocredits == price(events[-1]["tokens_evaluated"], 0, 25)


async def test_own_embedding(caller: Caller) -> None:
    """An embedding says nothing of what was used, so its input is charged as it was counted: a token for every four bytes of a text."""
    status, body = await post(caller, "/embedding", {"model": "tiny-embedder", "content": ["one", "another"]})
    assert (status, len(json.loads(body))) == (200, 2)
    assert (await caller.settled()).spent_nanocredits == (1 + 2) * 3


async def test_own_tokenizer_is_free(caller: Caller) -> None:
    """Tokens, texts and templates use nothing of the model."""
    _, body = await post(caller, "/tokenize", {"content": "hello"})
    tokens = json.loads(body)["tokens"]
    assert json.loads((await post(caller, "/detokenize", {"tokens": tokens}))[1])["content"].endswith("hello")
    _, body = await post(caller, "/apply-template", {"messages": [{"role": "user", "content": "hi"}]})
    assert json.loads(body) == {"prompt": "u:hi\na:"}
    assert (await caller.settled()).spent_nanocredits == 0


async def test_books_balance(deployment: Deployment) -> None:
    """After all this the books balance."""
    code, said = await deployment.audit()
    assert code == 0, said
