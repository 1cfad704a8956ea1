"""Conversations over a WebSocket: passed unchanged, paid answer by answer from the same budget, and cut where it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
import websockets
from aiohttp import WSMsgType

from proxy.policy.orders import PolicyName
from tests.server.conftest import Start
from tests.server.test_treatment import Intervened
from tests.support import scripted_socket
from tests.support.proxied import ACCOUNT, KEY, RATE_INPUT, RATE_OUTPUT, UPSTREAM_KEY, Proxied, price, proxied
from tests.support.scripted_socket import ScriptedSocket, Talk

PATH = "/v1/realtime?model=tiny"
ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
HELLO = {"type": "conversation.item.create", "item": ITEM}
CREATE = {"type": "response.create"}
AUDIO_RATES = {"audio_input": 3_000_000, "audio_output": 9_000_000, "cached_input": 0}


def usage(inputs: int, outputs: int, *, heard: int = 0, cached: int = 0, spoken: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": inputs,
        "output_tokens": outputs,
        "total_tokens": inputs + outputs,
        "input_token_details": {"audio_tokens": heard, "cached_tokens": cached},
        "output_token_details": {"audio_tokens": spoken},
    }


def done(usage: object) -> dict[str, Any]:
    return {"type": "response.done", "response": {"status": "completed", "usage": usage}}


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


Connect = Callable[..., AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]]


@pytest.fixture
async def socket() -> AsyncIterator[ScriptedSocket]:
    async with scripted_socket.running() as running:
        yield running


@pytest.fixture
def start(socket: ScriptedSocket, tmp_path: Path) -> Start:
    def begin(**options: Any) -> AbstractAsyncContextManager[Proxied]:
        settings = {"ledger": {"slice_tokens": 10}, **options.pop("settings", {})}
        return proxied(socket.base_url, tmp_path / "data", settings=settings, **options)

    return begin


def connect(proxied: Proxied, path: str = PATH, **options: Any) -> Any:
    headers = options.pop("headers", {"Authorization": f"Bearer {KEY}"})
    return proxied.client.ws_connect(proxied.base_url + path, headers=headers, **options)


async def hear_all(client: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """All further events that the client hears until it is closed."""
    return [msgspec.json.decode(message.data) async for message in client if message.type is WSMsgType.TEXT]


async def one_answer(client: aiohttp.ClientWebSocketResponse, talk: Talk, reported: object) -> None:
    await client.send_json(HELLO)
    await client.send_json(CREATE)
    assert await talk.hear() == HELLO
    assert await talk.hear() == CREATE
    for event in ({"type": "response.created"}, delta("one "), delta("two "), done(reported)):
        text = await talk.send(event)
        assert await client.receive_str() == text


async def test_the_official_client_works_unchanged(socket: ScriptedSocket, start: Start) -> None:
    """It talks, hears, reads the error event with which the budget's end is told, and raises at the close."""
    async with start(credits_nanocredits=200) as proxied, openai.AsyncOpenAI(base_url=f"{proxied.base_url}/v1", api_key=KEY) as client:
        async with client.realtime.connect(model="tiny") as connection:
            talk = await socket.next_talk()
            await connection.response.create()
            assert (await talk.hear())["type"] == "response.create"
            await talk.send({"type": "response.created"})
            await talk.send(delta("one "))
            assert (await connection.recv()).type == "response.created"
            heard = await connection.recv()
            assert (heard.type, heard.delta) == ("response.output_text.delta", "one ")
            await talk.send(done(usage(120, 20)))
            assert (await connection.recv()).type == "response.done"
            await connection.response.create()
            told = await connection.recv()
            assert (told.type, "used up" in told.error.message) == ("error", True)
            with pytest.raises(websockets.ConnectionClosedError, match="4402"):
                await connection.recv()
        assert (await proxied.until_settled()).spent == 200


async def test_each_answer_is_paid_by_its_usage(socket: ScriptedSocket, start: Start) -> None:
    """Text, sound and what was cached, each at its own rate; the sum of all answers, once the conversation is over."""
    async with start(prices=(price("tiny", **AUDIO_RATES),)) as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await one_answer(client, talk, usage(10, 5))
        await one_answer(client, talk, usage(30, 8, heard=6, cached=4, spoken=3))
        await client.close()
        assert await talk.client_gone() == 1000
        totals = await proxied.until_settled()
        assert totals.spent == (10 + 5 * 4) + (20 + 6 * 3 + 5 * 4 + 3 * 9)
        assert [verb for verb, _ in proxied.ledger.calls if verb in ("hold", "settle", "void")] == ["hold", "settle"]
        assert proxied.outcomes() == {"complete": 1}


async def test_a_conversation_of_an_account_in_units_is_paid_in_units(socket: ScriptedSocket, start: Start) -> None:
    """By the index that held when it began; credits are counted where work is counted."""
    leveled = price("tiny", level="small")
    async with start(prices=(leveled,), plan={"unit": "small"}, credits_nanocredits=10**9) as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await one_answer(client, talk, usage(10, 5))
        proxied.book.price_book = (leveled, price("rival", level="small", input=1000, output=1000))
        await one_answer(client, talk, usage(25, 5))
        await client.close()
        index = (3 * RATE_INPUT + RATE_OUTPUT) // 4
        totals = await proxied.until_settled()
        assert 0 <= totals.spent - 75 * 10**9 // index <= 1
        assert proxied.counted("credits_total", "debited") == 75


async def test_the_handshake_says_how_the_conversation_is_treated(socket: ScriptedSocket, start: Start) -> None:
    """A conversation has no other head; whoever is treated as ever is told nothing."""
    async with start() as proxied:
        intervened = Intervened(proxied)
        intervened.uses.of_person[ACCOUNT] = 400
        both: tuple[PolicyName, ...] = ("progressive_price", "tithe")
        for on, told in ((both, ("progressive_price, tithe", "2.00")), ((), (None, None))):
            await intervened.order(*on)
            async with connect(proxied) as client:
                talk = await socket.next_talk()
                headers = client._response.headers
                assert (headers.get("X-Ledger-Interventions"), headers.get("X-Ledger-Price-Factor")) == told
                await client.close()
                await talk.client_gone()
        await proxied.until_settled()


@pytest.mark.parametrize("reported", [None, usage(-1, 5), usage(10, 5, heard=11), {"input_tokens": "10"}, [], 7])
async def test_usage_that_lacks_or_lies_is_counted(socket: ScriptedSocket, start: Start, reported: object) -> None:
    """What was said either way: ceil(5/4) tokens of input and two deltas of output."""
    async with start() as proxied, connect(proxied) as client:
        await one_answer(client, await socket.next_talk(), reported)
        await client.close()
        assert (await proxied.until_settled()).spent == 2 * RATE_INPUT // 1_000_000 + 2 * RATE_OUTPUT // 1_000_000


async def test_sound_counts_by_its_length_while_nothing_is_reported(socket: ScriptedSocket, start: Start) -> None:
    """A second of what is heard is ten tokens, a second of what is spoken twenty."""
    second = "A" * 64_000  # base64 of 48,000 bytes: one second at 24 kHz and 16 bits
    async with start(prices=(price("tiny", **AUDIO_RATES),)) as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await client.send_json({"type": "input_audio_buffer.append", "audio": second})
        await talk.hear()
        for event in ({"type": "response.created"}, {"type": "response.output_audio.delta", "delta": second}):
            await talk.send(event)
            await client.receive_str()
        await client.close()
        await talk.client_gone()
        assert (await proxied.until_settled()).spent == 10 * 3 + 20 * 9


async def test_transcriptions_are_paid(socket: ScriptedSocket, start: Start) -> None:
    """By their tokens or their seconds, whichever is reported; nothing is due for an answer that was never begun."""
    event = {"type": "conversation.item.input_audio_transcription.completed"}
    async with start(prices=(price("tiny", second=1_000),)) as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        for reported in ({"type": "tokens", **usage(7, 2)}, {"type": "duration", "seconds": 1.5}, {"type": "duration", "seconds": -1}):
            await talk.send({**event, "usage": reported})
            await client.receive_str()
        await client.close()
        assert (await proxied.until_settled()).spent == 7 + 2 * 4 + 1_500


async def test_the_hold_is_renewed_and_the_budget_ends_it(socket: ScriptedSocket, start: Start) -> None:
    """What the budget covers is delivered, then the error event and the close code; the upstream is told at once."""
    async with start(credits_nanocredits=600) as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await client.send_json(CREATE)
        await talk.hear()

        async def speak() -> None:
            await talk.send({"type": "response.created"})
            for number in range(1000):
                await talk.send(delta(f"{number} "))

        speaking = asyncio.create_task(speak())
        heard = await hear_all(client)
        assert heard[-1]["type"] == "error"
        assert heard[-1]["error"]["code"] == heard[-1]["compute_ledger"]["code"] == "insufficient_quota"
        assert client.close_code == 4402
        await talk.client_gone()
        speaking.cancel()
        totals = await proxied.until_settled()
        assert totals.spent <= 600
        assert len(heard) > 100
        assert any(verb == "extend" for verb, _ in proxied.ledger.calls)
        assert proxied.outcomes() == {"cut": 1}


async def test_more_than_was_held_is_overrun(socket: ScriptedSocket, start: Start) -> None:
    """An upstream that bills more than anything said could explain is paid what there is; the rest is visible as overrun."""
    async with start(credits_nanocredits=600) as proxied, connect(proxied) as client:
        await client.send_json(CREATE)
        talk = await socket.next_talk()
        for event in ({"type": "response.created"}, done(usage(10_000, 5))):
            await talk.send(event)
        await hear_all(client)
        totals = await proxied.until_settled()
        assert (totals.spent, totals.overrun) == (600, 10_020 - 600)


async def test_a_budget_that_is_used_up_refuses_before_the_upgrade(socket: ScriptedSocket, start: Start) -> None:
    """As a plain answer, which clients show."""
    async with start(credits_nanocredits=1) as proxied:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await connect(proxied)
        assert caught.value.status == 402


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/realtime", {"Authorization": f"Bearer {KEY}"}, 400),
        (PATH, {}, 401),
        (PATH + "&voice=x", {"Authorization": f"Bearer {KEY}"}, 400),
        ("/v1/realtime/client_secrets?model=tiny", {"Authorization": f"Bearer {KEY}"}, 404),
        (PATH, {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}", "x-api-key": "cl-another-key-0123456789"}, 400),
    ],
)
async def test_what_is_wrong_is_refused_before_the_upgrade(
    socket: ScriptedSocket, start: Start, path: str, headers: dict[str, str], status: int
) -> None:
    """The address and the key are judged like those of any request."""
    async with start() as proxied:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await connect(proxied, path, headers=headers)
        assert caught.value.status == status


async def test_the_path_takes_nothing_but_conversations(start: Start) -> None:
    """A plain request for it is told what to do."""
    async with start() as proxied, proxied.client.get(proxied.base_url + PATH, headers={"x-api-key": KEY}) as answer:
        assert answer.status == 400
        assert b"WebSocket" in await answer.read()


async def test_a_browsers_key_comes_as_a_subprotocol(socket: ScriptedSocket, start: Start) -> None:
    """It is taken as the caller's, and neither it nor any other key of the caller's reaches the upstream."""
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with start(upstream={"models": ["tiny"], "aliases": {"fast": "tiny"}}) as proxied:
        async with connect(proxied, "/v1/realtime?model=fast", headers={}, protocols=protocols) as client:
            talk = await socket.next_talk()
            assert client.protocol == "realtime"
            assert talk.headers["Authorization"] == f"Bearer {UPSTREAM_KEY}"
            assert KEY not in str(talk.headers)
            assert talk.raw_path == "/v1/realtime?model=tiny"
        await proxied.until_settled()


@pytest.mark.parametrize("tools", [[{"type": "mcp", "server_url": "x"}], [{"type": "web_search"}], [7]])
async def test_an_event_of_unknown_cost_is_answered_by_an_error_event(socket: ScriptedSocket, start: Start, tools: list[Any]) -> None:
    """It is not forwarded, and the conversation goes on."""
    async with start() as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await client.send_json({"type": "session.update", "event_id": "mine", "session": {"tools": tools}})
        error = msgspec.json.decode(await client.receive_str())
        assert (error["error"]["code"], error["error"]["event_id"]) == ("invalid_request", "mine")
        await one_answer(client, talk, usage(10, 5))
        await client.close()
        assert (await proxied.until_settled()).spent == 30


async def test_the_upstream_ends_it(socket: ScriptedSocket, start: Start) -> None:
    """Its close code reaches the client, and all is settled by then."""
    async with start() as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await one_answer(client, talk, usage(10, 5))
        await talk.close(4001)
        assert await hear_all(client) == []
        assert client.close_code == 4001
        assert (await proxied.account()).totals.spent == 30


async def test_the_upstream_vanishes(socket: ScriptedSocket, start: Start) -> None:
    """The client is told in an error event; what was said is charged."""
    async with start() as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await one_answer(client, talk, usage(10, 5))
        talk.abort()
        heard = await hear_all(client)
        assert (heard[-1]["error"]["code"], client.close_code) == ("upstream_error", 1011)
        assert (await proxied.until_settled()).spent == 30
        assert proxied.outcomes() == {"upstream_gone": 1}


async def test_the_client_vanishes(socket: ScriptedSocket, start: Start) -> None:
    """The upstream is told at once; what was said is charged, of an unfinished answer as far as it came."""
    async with start() as proxied:
        async with connect(proxied) as client:
            talk = await socket.next_talk()
            await one_answer(client, talk, usage(10, 5))
            for event in ({"type": "response.created"}, delta("x")):
                await talk.send(event)
                await client.receive_str()
            assert client._writer.transport is not None
            client._writer.transport.abort()
            await talk.client_gone()
        said = 2 + 2  # the first message counts ceil(5/4); the first answer's two words are heard again
        assert (await proxied.until_settled()).spent == 30 + said * RATE_INPUT // 1_000_000 + RATE_OUTPUT // 1_000_000
        assert proxied.outcomes() == {"client_gone": 1}


@pytest.mark.parametrize("status", [401, 500])
async def test_an_upstream_that_will_not_talk(socket: ScriptedSocket, start: Start, status: int) -> None:
    """A 502, and nothing is charged."""
    socket.refuses = status
    async with start() as proxied:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await connect(proxied)
        assert caught.value.status == 502
        assert (await proxied.until_settled()).spent == 0


async def test_binary_messages_end_it(socket: ScriptedSocket, start: Start) -> None:
    """Nobody here could say what they cost."""
    async with start() as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await client.send_bytes(b"\x00")
        heard = await hear_all(client)
        assert (heard[-1]["error"]["code"], client.close_code) == ("invalid_request", 1003)
        await talk.client_gone()
        assert (await proxied.until_settled()).spent == 0


async def test_a_drain_ends_it(socket: ScriptedSocket, start: Start) -> None:
    """With an error event, and settled."""
    async with start() as proxied, connect(proxied) as client:
        talk = await socket.next_talk()
        await one_answer(client, talk, usage(10, 5))
        hearing = asyncio.create_task(hear_all(client))
        await proxied.proxy.drain(timeout_s=0)
        heard = await hearing
        assert (heard[-1]["error"]["code"], client.close_code) == ("draining", 1012)
        assert (await proxied.account()).totals.spent == 30
