"""The simulated endpoint bills honestly, obeys every maximum, and is the same each time it is asked the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from proxy.simulation import SimulatedEndpoint, SimulatedModel, simulated_endpoint

MODELS = (
    SimulatedModel("quick", answer_tokens=12),
    SimulatedModel("narrow", answer_tokens=10_000, tokens_per_s=1000, seats=1),
)
HELLO: Any = [{"role": "user", "content": "hello"}]
HELLO_TOKENS = 2 + 4 + 3
"""ceil(5 / 4) for the text, 4 for the message, 3 for the request."""


@pytest.fixture
async def endpoint() -> AsyncIterator[SimulatedEndpoint]:
    async with simulated_endpoint(MODELS) as endpoint:
        yield endpoint


@pytest.fixture
async def client(endpoint: SimulatedEndpoint) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{endpoint.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(("maximum", "tokens", "reason"), [(5, 5, "length"), (50, 12, "stop"), (None, 12, "stop")])
async def test_an_answer_ends_at_its_maximum(client: openai.AsyncOpenAI, maximum: int | None, tokens: int, reason: str) -> None:
    """An answer has the model's own length, unless the request's maximum is less; each word is billed as one token."""
    limits: Any = {} if maximum is None else {"max_completion_tokens": maximum}
    answer = await client.chat.completions.create(model="quick", messages=HELLO, **limits)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (HELLO_TOKENS, tokens)
    assert answer.choices[0].finish_reason == reason
    assert len((answer.choices[0].message.content or "").split()) == tokens


async def test_a_stream_says_the_same_as_a_whole_answer(client: openai.AsyncOpenAI) -> None:
    """Streamed or not, the same question has the same answer, one word for each event and choice, and the same bill."""
    whole = await client.chat.completions.create(model="quick", messages=HELLO, n=2)
    texts, events, usage = ["", ""], 0, None
    stream = await client.chat.completions.create(model="quick", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True})
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            events += bool(choice.delta.content)
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert usage == whole.usage
    assert events == 2 * 12


async def test_every_operation(endpoint: SimulatedEndpoint, client: openai.AsyncOpenAI) -> None:
    """Completions, responses, embeddings and the model list answer as the official client expects."""
    text = await client.completions.create(model="quick", prompt="hello", max_tokens=3)
    response = await client.responses.create(model="quick", input="hello", instructions="Be kind.", max_output_tokens=4)
    events = [event async for event in await client.responses.create(model="quick", input="hello", stream=True)]
    vectors = await client.embeddings.create(model="quick", input=["hello", "world"])
    assert text.usage is not None
    assert (text.usage.prompt_tokens, text.usage.completion_tokens) == (2 + 3, 3)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (2 + 2 + 4 + 3, 4)
    assert events[-1].type == "response.completed"
    assert len(events[-1].response.output_text.split()) == 12
    assert vectors.usage.prompt_tokens == 2 + 2 + 3
    assert vectors.data[0].embedding != vectors.data[1].embedding
    assert [model.id async for model in client.models.list()] == ["quick", "narrow"]
    assert endpoint.generated_tokens == 3 + 4 + 12


async def test_a_seat_is_free_again_when_its_client_is_gone(client: openai.AsyncOpenAI) -> None:
    """Requests wait for a seat, and one that is hung up on gives its seat back at once."""
    first = await client.chat.completions.create(model="narrow", messages=HELLO, stream=True)
    waiting = asyncio.create_task(client.chat.completions.create(model="narrow", messages=HELLO, max_tokens=1))
    async for _ in first:
        break
    assert not waiting.done()
    await first.close()
    assert (await waiting).choices


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": 1}', 400),
        (b'{"model": "quick", "messages": "hello"}', 400),
        (b'{"model": "quick", "messages": [], "max_tokens": 0}', 400),
        (b'{"model": "other", "messages": []}', 404),
    ],
)
async def test_what_it_cannot_do(endpoint: SimulatedEndpoint, body: bytes, status: int) -> None:
    """What cannot be read, or names an unknown model, is refused in OpenAI's shape."""
    async with aiohttp.ClientSession() as session, session.post(f"{endpoint.base_url}/v1/chat/completions", data=body) as answer:
        assert (answer.status, (await answer.json())["error"]["type"]) == (status, "invalid_request_error")
