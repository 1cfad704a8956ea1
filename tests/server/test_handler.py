"""The whole way of a request: what the client gets and what it is charged, for every form of answer and every end."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest

from proxy.dialects import DIALECTS, MediaRule, Paths, Request
from proxy.domain import Call
from tests.server.conftest import Start
from tests.support import openai_answers
from tests.support.openai_answers import DONE, chat_chunk, chat_events, event
from tests.support.proxied import ACCOUNT, KEY, RATE_INPUT, RATE_OUTPUT, Proxied, chat
from tests.support.scripted_upstream import JSON, Exchange, ScriptedUpstream

USAGE = openai_answers.usage(10, 5)
COST = (10 * RATE_INPUT + 5 * RATE_OUTPUT) // 1_000_000
WORDS = ["one ", "two ", "three ", "four ", "five "]


def call_of(body: dict[str, Any], path: str = "/v1/chat/completions") -> Call:
    dialect, operation, _ = Paths([DIALECTS["openai"]]).find("POST", path)
    return dialect.parse_request(Request(operation, openai_answers.encode(body)), MediaRule(0, 0, 0))


def counted(body: dict[str, Any], output_tokens: int) -> int:
    """What a request costs when usage never comes."""
    return (call_of(body).input_tokens_counted * RATE_INPUT + output_tokens * RATE_OUTPUT) // 1_000_000


def bound(body: dict[str, Any], output_tokens: int) -> int:
    """What a hold must be to cover so many tokens of output."""
    return (call_of(body).input_tokens_bound * RATE_INPUT + output_tokens * RATE_OUTPUT) // 1_000_000


def delta(text: str) -> bytes:
    return event(chat_chunk({"content": text}))


def error_in(received: bytes) -> dict[str, Any]:
    """The error event of a cut stream."""
    (found,) = [line for line in received.split(b"\n") if line.startswith(b'data: {"error"')]
    return msgspec.json.decode(found.removeprefix(b"data: "))


class Asked:
    """A request under way: its answer's head, then what has come of its body."""

    def __init__(self, proxied: Proxied, body: dict[str, Any], **options: Any) -> None:
        self._asking = proxied.post(json=body, **options)
        self.task = asyncio.ensure_future(self._read())
        self.received = bytearray()
        self.answer: aiohttp.ClientResponse
        self.head = asyncio.Event()

    async def _read(self) -> bytes:
        async with self._asking as self.answer:  # a coded answer stays as it is on the wire
            self.head.set()
            async for chunk in self.answer.content.iter_any():
                self.received += chunk
        return bytes(self.received)

    async def whole(self) -> bytes:
        return await self.task

    async def until(self, text: bytes) -> None:
        while text not in self.received:  # noqa: ASYNC110  # aiohttp has no event for it
            await asyncio.sleep(0.001)

    async def hang_up(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


# --- answers that come as a whole ----------------------------------------------------------------------------------------------------


async def test_whole_answer_is_settled_before_it_is_sent(upstream: ScriptedUpstream, start: Start) -> None:
    """It passes byte for byte, with its cost and what is left in the headers, and the account shows it at once."""
    body = openai_answers.chat("hello there", usage=USAGE)
    async with start() as proxied:
        asked = Asked(proxied, chat())
        await (await upstream.next_request()).answer(body, headers={**JSON, "x-request-id": "req_1", "openai-version": "1"})
        assert await asked.whole() == body
        assert await proxied.spent() == COST
        headers = asked.answer.headers
        assert headers["X-Ledger-Cost"] == "0.00000003"
        assert headers["X-Ledger-Remaining"] == "0.00099997"
        assert headers["RateLimit-Policy"] == '"day/UTC";q=1000;qu="microcredits";w=86400'
        assert headers["RateLimit"].startswith('"day/UTC";r=999;t=')
        assert (len(headers["X-Request-Id"]), headers["X-Upstream-Request-Id"], headers["openai-version"]) == (32, "req_1", "1")
        assert proxied.outcomes() == {"complete": 1}


async def test_request_passes_unchanged(upstream: ScriptedUpstream, start: Start) -> None:
    """Where nothing need change, the upstream gets the very bytes that the client sent, at the same path, with our key."""
    body = b'{ "model":"tiny" ,\n "messages":[{"role":"user","content":"caf\\u00e9"}], "max_tokens": 7 }'
    async with start() as proxied:
        async with asyncio.TaskGroup() as group:
            group.create_task(_post(proxied, body))
            exchange = await upstream.next_request()
            await exchange.answer(openai_answers.chat("x", usage=USAGE))
        assert (exchange.method, exchange.raw_path, exchange.body) == ("POST", "/v1/chat/completions", body)
        assert exchange.headers["Authorization"] == "Bearer sk-upstream-0123456789abcdef"
        assert exchange.headers["Accept-Encoding"] == "identity"


async def _post(proxied: Proxied, body: bytes, **options: Any) -> tuple[int, bytes]:
    async with proxied.post(data=body, **options) as answer:
        return answer.status, await answer.read()


async def test_maximum_is_lowered_to_what_the_budget_pays(upstream: ScriptedUpstream, start: Start) -> None:
    """A caller who can pay for 9 tokens and asks for 500 gets an upstream request for 9, and the upstream's own `length` end."""
    body = chat(max_tokens=500)
    async with start(credits_nanocredits=bound(body, 9)) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        assert exchange.document["max_tokens"] == 9
        await exchange.answer(openai_answers.chat("x " * 9, usage=openai_answers.usage(10, 9), finish_reason="length"))
        await asked.whole()
        assert asked.answer.status == 200
        assert await proxied.spent() == 10 + 36


async def test_missing_usage_is_counted_or_estimated(upstream: ScriptedUpstream, start: Start) -> None:
    """Without usage the text is counted by its bytes; with `missing_usage = "estimate"` the hold's own amount is charged."""
    body = chat(max_tokens=20)
    for rule, cost in (("count", counted(body, 3)), ("estimate", bound(body, 20))):
        async with start(upstream={"missing_usage": rule}) as proxied:
            asked = Asked(proxied, body)
            await (await upstream.next_request()).answer(openai_answers.chat("hello there"))
            await asked.whole()
            assert await proxied.spent() == cost
            assert proxied.counted("usage_flagged_total", "missing") == 1


@pytest.mark.parametrize("usage", [b'{"prompt_tokens":-1,"completion_tokens":5}', b'{"prompt_tokens":1e999}', b"true", b'"12"'])
async def test_absurd_usage_is_not_believed(upstream: ScriptedUpstream, start: Start, usage: bytes) -> None:
    """Usage that cannot be is as good as none: what was written is counted."""
    async with start() as proxied:
        asked = Asked(proxied, chat())
        body = openai_answers.chat("hello there", usage=usage)
        await (await upstream.next_request()).answer(body)
        assert await asked.whole() == body
        assert await proxied.spent() == counted(chat(), 3)


async def test_output_billed_above_the_maximum_is_overrun(upstream: ScriptedUpstream, start: Start) -> None:
    """The caller pays what it asked for; what the upstream bills beyond is booked, and paid by nobody."""
    async with start() as proxied:
        asked = Asked(proxied, chat(max_tokens=5, n=2))
        await (await upstream.next_request()).answer(openai_answers.chat("a", "b", usage=openai_answers.usage(10, 50)))
        await asked.whole()
        totals = await proxied.until_settled()
        assert (totals.spent, totals.overrun) == (10 + 4 * 10, 4 * 40)
        assert proxied.counted("usage_flagged_total", "above_maximum") == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 429, 500, 503, 529])
async def test_upstream_refusals_pass_and_cost_nothing(upstream: ScriptedUpstream, start: Start, status: int) -> None:
    """An upstream's error answer passes byte for byte, and the hold is voided."""
    body = openai_answers.error("no")
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        await (await upstream.next_request()).answer(body, status, {**JSON, "retry-after": "7"})
        assert await asked.whole() == body
        assert (asked.answer.status, asked.answer.headers["retry-after"]) == (status, "7")
        totals = await proxied.until_settled()
        assert (totals.spent, totals.held, totals.overrun) == (0, 0, 0)
        assert proxied.outcomes() == {"upstream_error": 1}


async def test_upstream_refusal_with_usage_is_charged(upstream: ScriptedUpstream, start: Start) -> None:
    """What an upstream computed before it failed, and says so, is paid."""
    async with start() as proxied:
        asked = Asked(proxied, chat())
        await (await upstream.next_request()).answer(openai_answers.with_usage({"error": {"message": "x"}}, USAGE), 500)
        await asked.whole()
        assert await proxied.spent() == COST


async def test_json_answer_to_a_stream_must_be_covered(upstream: ScriptedUpstream, start: Start) -> None:
    """An upstream that answers a stream request as a whole: the hold grows to cover it, or none of it is sent."""
    body = chat(stream=True)
    affordable = 300
    for output_tokens, status in ((affordable, 200), (affordable + 1, 402)):
        async with start(credits_nanocredits=bound(body, affordable)) as proxied:
            asked = Asked(proxied, body)
            usage = openai_answers.usage(call_of(body).input_tokens_bound, output_tokens)
            await (await upstream.next_request()).answer(openai_answers.chat("x " * 10, usage=usage))
            await asked.whole()
            totals = await proxied.until_settled()
            assert asked.answer.status == status
            cost = bound(body, output_tokens)
            assert (totals.spent, totals.overrun) == ((cost, 0) if status == 200 else (0, cost))


async def test_embeddings_are_charged_for_their_input(upstream: ScriptedUpstream, start: Start) -> None:
    """An operation without output holds and pays its input alone."""
    async with start() as proxied, asyncio.TaskGroup() as group:
        asking = group.create_task(_post(proxied, b'{"model":"tiny","input":["a","b"]}', path="/v1/embeddings"))
        await (await upstream.next_request()).answer(openai_answers.embeddings(2, usage=openai_answers.embeddings_usage(7)))
        assert (await asking)[0] == 200
        assert await proxied.spent() == 7


# --- answers that come as a stream ---------------------------------------------------------------------------------------------------


async def test_stream_passes_byte_for_byte(upstream: ScriptedUpstream, start: Start) -> None:
    """Every event passes as it is, the usage chunk that the client did not ask for is taken out, and usage is charged exactly."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        assert exchange.document["stream_options"] == {"include_usage": True}
        events = chat_events(WORDS, usage=USAGE)
        for data in events:
            await exchange.send(data)
        await exchange.finish()
        assert await asked.whole() == b"".join(events[:-2]) + DONE
        assert await proxied.spent() == COST
        assert "X-Ledger-Cost" not in asked.answer.headers
        assert asked.answer.headers["X-Ledger-Remaining"]
        assert proxied.outcomes() == {"complete": 1}


async def test_end_marker_waits_for_the_settlement(upstream: ScriptedUpstream, start: Start) -> None:
    """Until the ledger has settled, the client does not see the end; so what it reads of its account afterwards is final."""
    async with start() as proxied:
        proxied.ledger.gates["settle"] = asyncio.Event()
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        for data in chat_events(WORDS, usage=USAGE):
            await exchange.send(data)
        await asked.until(b"five")
        await proxied.until(lambda: _called(proxied, "settle"))
        assert b"[DONE]" not in asked.received
        proxied.ledger.gates["settle"].set()
        assert (await asked.whole()).endswith(DONE)


async def _called(proxied: Proxied, verb: str) -> bool:
    return any(called == verb for called, _ in proxied.ledger.calls)


async def test_stream_is_cut_when_its_account_is_suspended(upstream: ScriptedUpstream, start: Start) -> None:
    """What the hold covers is delivered; the next slice is not given to an account, or an agent, that is paused meanwhile."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"slice_tokens": 4}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        await exchange.send(delta("one "))
        await asked.until(b"one")
        await proxied.model.update_account(ACCOUNT, operation_id="pause", status="suspended")
        for _ in range(20):
            await exchange.send(delta("more "))
        await exchange.client_gone()
        received = await asked.whole()
        assert received.count(b"more ") < 10
        assert error_in(received)["error"]["code"] == "insufficient_quota"


async def test_stream_is_cut_when_the_budget_ends(upstream: ScriptedUpstream, start: Start) -> None:
    """What the hold covers is delivered, then the error event and the end marker; the upstream is closed, nothing is overspent."""
    body = chat(stream=True)
    async with start(credits_nanocredits=bound(body, 3)) as proxied:
        proxied.ledger.gates["settle"] = asyncio.Event()
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for word in WORDS:
            await exchange.send(delta(word))
        await exchange.client_gone()
        proxied.ledger.gates["settle"].set()
        received = await asked.whole()
        assert received.startswith(b"".join(delta(word) for word in WORDS[:3]) + b'data: {"error"')
        assert received.endswith(DONE)
        error = error_in(received)
        assert error["error"]["code"] == "insufficient_quota"
        assert (error["compute_ledger"]["account"], error["compute_ledger"]["limit"]) == (ACCOUNT, "day/UTC")
        totals = await proxied.until_settled()
        assert totals.spent == counted(body, 3)
        assert totals.overrun > 0
        assert proxied.counted("cut_streams_total", "budget") == 1


async def test_stream_may_be_cut_as_if_by_its_length(upstream: ScriptedUpstream, start: Start) -> None:
    """With `cut = "length"` the stream ends as the model's own limit would end it, with true usage."""
    body = chat(stream=True, stream_options={"include_usage": True})
    async with start(credits_nanocredits=bound(body, 3), upstream={"cut": "length"}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for word in WORDS:
            await exchange.send(delta(word))
        received = await asked.whole()
        assert b'"finish_reason":"length"' in received
        assert b'"completion_tokens":3' in received
        assert received.endswith(DONE)
        assert (await proxied.until_settled()).spent == counted(body, 3)


async def test_hold_is_renewed_ahead_of_need(upstream: ScriptedUpstream, start: Start) -> None:
    """While the ledger takes its time over the next slice, what the present one covers flows on."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"slice_tokens": 8}}) as proxied:
        proxied.ledger.gates["extend"] = asyncio.Event()
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for n in range(12):
            await exchange.send(delta(f"w{n} "))
        await asked.until(b"w7 ")
        await proxied.until(lambda: _called(proxied, "extend"))
        await asyncio.sleep(0)
        assert b"w8 " not in asked.received
        proxied.ledger.gates["extend"].set()
        await asked.until(b"w11 ")
        await exchange.send(event(chat_chunk({}, finish_reason="stop")) + DONE)
        await asked.whole()
        assert (await proxied.until_settled()).spent == counted(body, 12)


async def test_held_never_exceeds_input_and_two_slices(upstream: ScriptedUpstream, start: Start) -> None:
    """A long stream holds little at any time, so that it does not block its caller for a worst case that never comes."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"slice_tokens": 4}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for n in range(50):
            await exchange.send(delta(f"w{n} "))
            await asked.until(f"w{n} ".encode())
            held = (await proxied.account()).totals.held
            assert held <= bound(body, 0) + 4 * (n + 1 + 8)
        await exchange.send(DONE)
        await asked.whole()
        assert (await proxied.until_settled()).spent == counted(body, 50)


async def test_stream_does_not_hold_more_than_its_own_maximum(upstream: ScriptedUpstream, start: Start) -> None:
    """A stream that may write 3 tokens at most is let in by a budget for 3, and never asks for more."""
    body = chat(stream=True, max_tokens=3)
    async with start(credits_nanocredits=bound(body, 3)) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        assert (await proxied.account()).totals.held == bound(body, 3)
        for data in chat_events(WORDS[:3], usage=openai_answers.usage(10, 3)):
            await exchange.send(data)
        assert (await asked.whole()).endswith(DONE)
        assert await proxied.spent() == 22
        assert not await _called(proxied, "extend")


async def test_event_stream_for_a_whole_request_is_metered(upstream: ScriptedUpstream, start: Start) -> None:
    """The answer's own form decides how it is metered, whatever was asked for."""
    async with start() as proxied:
        asked = Asked(proxied, chat(max_tokens=50))
        exchange = await upstream.next_request()
        for data in chat_events(WORDS):
            await exchange.send(data)
        await exchange.finish()
        assert (await asked.whole()).endswith(DONE)
        assert await proxied.spent() == counted(chat(max_tokens=50), 5)


async def test_under_reported_output_is_raised_to_the_deltas(upstream: ScriptedUpstream, start: Start) -> None:
    """An upstream that says 1 token after sending five deltas is not believed below what was delivered."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        for data in chat_events(WORDS, usage=openai_answers.usage(10, 1)):
            await exchange.send(data)
        await asked.whole()
        assert await proxied.spent() == COST
        assert proxied.counted("usage_flagged_total", "below_deltas") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_under_reported_length_is_raised_to_what_it_must_be(upstream: ScriptedUpstream, start: Start, stream: bool) -> None:
    """12,800 bytes cannot be one token, whoever says so, in a whole answer or in one delta."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=stream))
        exchange = await upstream.next_request()
        if stream:
            for data in chat_events(["word " * 2_560], usage=openai_answers.usage(10, 1)):
                await exchange.send(data)
            await exchange.finish()
        else:
            await exchange.answer(openai_answers.chat("word " * 2_560, usage=openai_answers.usage(10, 1)))
        await asked.whole()
        assert await proxied.spent() == 10 + 4 * 100
        assert proxied.counted("usage_flagged_total", "below_deltas") == 1


@pytest.mark.parametrize("chunk", [1, 7, 64])
async def test_total_does_not_depend_on_chunks(upstream: ScriptedUpstream, start: Start, chunk: int) -> None:
    """However the stream is cut into pieces on the way, the client gets the same bytes and pays the same."""
    stream = b"".join(chat_events(WORDS))
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        for at in range(0, len(stream), chunk):
            await exchange.send(stream[at : at + chunk])
        assert await asked.whole() == stream
        assert await proxied.spent() == counted(chat(stream=True), 5)


# --- the client goes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_client_gone_while_the_upstream_is_silent(upstream: ScriptedUpstream, start: Start, stream: bool) -> None:
    """The upstream is closed at once; the input, which it has read, is charged."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=stream))
        exchange = await upstream.next_request()
        await asked.hang_up()
        await exchange.client_gone()
        totals = await proxied.until_settled()
        assert totals.spent == counted(chat(), 0)
        assert proxied.outcomes() == {"client_gone": 1}


async def test_client_gone_before_the_request_was_sent(upstream: ScriptedUpstream, start: Start) -> None:
    """What still waits for a connection when its client leaves costs nothing."""
    async with start(upstream={"connections_max": 1}) as proxied:
        first = Asked(proxied, chat())
        exchange = await upstream.next_request()
        second = Asked(proxied, chat())
        await proxied.until(lambda: _held_twice(proxied))
        await second.hang_up()
        await proxied.until(lambda: _hung_up(proxied))
        await exchange.answer(openai_answers.chat("x", usage=USAGE))
        await first.whole()
        assert (await proxied.until_settled()).spent == COST
        assert len(upstream.received) == 1


async def _held_twice(proxied: Proxied) -> bool:
    return (await proxied.model.holds(ACCOUNT)).items[1:] != ()


async def test_client_gone_mid_stream_pays_what_was_forwarded(upstream: ScriptedUpstream, start: Start) -> None:
    """Hanging up ends the upstream's work, and what was delivered is paid, no more."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        for word in WORDS[:3]:
            await exchange.send(delta(word))
        await asked.until(b"three")
        await asked.hang_up()
        await exchange.client_gone()
        assert (await proxied.until_settled()).spent == counted(chat(), 3)
        assert proxied.outcomes() == {"client_gone": 1}


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("verb", ["hold", "settle"])
async def test_client_gone_while_the_ledger_is_asked(upstream: ScriptedUpstream, start: Start, verb: str, carried_out: bool) -> None:
    """A hold that nobody waits for any more is voided; a settlement goes on to its end."""
    async with start() as proxied:
        gates = proxied.ledger.late if carried_out else proxied.ledger.gates
        gates[verb] = asyncio.Event()
        asked = Asked(proxied, chat())
        if verb == "settle":
            await (await upstream.next_request()).answer(openai_answers.chat("x", usage=USAGE))
        await proxied.until(lambda: _called(proxied, verb))
        await asked.hang_up()
        await proxied.until(lambda: _hung_up(proxied))
        gates[verb].set()
        assert (await proxied.until_settled()).spent == (COST if verb == "settle" else 0)


async def _hung_up(proxied: Proxied) -> bool:
    return proxied.outcomes() == {"client_gone": 1}


async def _ended(proxied: Proxied) -> bool:
    return proxied.proxy.open_requests == 0


async def test_slow_client_slows_the_upstream_down(upstream: ScriptedUpstream, start: Start) -> None:
    """Nothing piles up in the proxy: while the client does not read, the upstream cannot send either; and it is cut off in the end."""
    async with start(credits_nanocredits=10**12, settings={"listen": {"body_timeout_s": 0.2}}) as proxied:
        _, writer = await _ask_without_reading(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        sending = asyncio.ensure_future(_flood(exchange))
        await exchange.client_gone()
        sending.cancel()
        totals = await proxied.until_settled()
        assert totals.spent > 0
        assert len(exchange.sent) < 64 * 2**20
        assert proxied.outcomes() == {"client_gone": 1}
        writer.close()


async def test_large_answer_that_is_not_read_is_not_kept(upstream: ScriptedUpstream, start: Start) -> None:
    """It is paid for, and its connection is closed in the end."""
    body = openai_answers.chat("x" * 8_000_000, usage=openai_answers.usage(10, 62_500))
    async with start(settings={"listen": {"body_timeout_s": 0.2}}) as proxied:
        reader, writer = await _ask_without_reading(proxied, chat())
        await (await upstream.next_request()).answer(body)
        assert (await proxied.until_settled()).spent == 10 + 4 * 62_500
        await proxied.until(lambda: _hung_up(proxied))
        assert await _received_in_the_end(reader) < len(body)
        writer.close()


async def _received_in_the_end(reader: asyncio.StreamReader) -> int:
    size = 0
    try:
        while data := await reader.read(2**20):
            size += len(data)
    except ConnectionResetError:
        pass
    return size


async def _ask_without_reading(proxied: Proxied, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxied.port, limit=1024)
    raw = openai_answers.encode(body)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    return reader, writer


async def _flood(exchange: Exchange) -> None:
    data = delta("x" * 10_000) * 10
    while True:
        await exchange.send(data)


# --- the upstream fails --------------------------------------------------------------------------------------------------------------


async def test_upstream_that_cannot_be_reached(start: Start) -> None:
    """502, nothing is charged, and the answer does not say where the upstream is."""
    async with start(upstream={"base_url": "http://127.0.0.1:9"}) as proxied:
        status, body = await _post(proxied, openai_answers.encode(chat()))
        assert status == 502
        assert b"upstream_error" in body
        assert b"127.0.0.1" not in body
        totals = await proxied.until_settled()
        assert (totals.spent, totals.held) == (0, 0)


@pytest.mark.parametrize("how", ["abort", "vanish"])
async def test_upstream_gone_before_its_answer(upstream: ScriptedUpstream, start: Start, how: str) -> None:
    """502, and nothing is charged."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        getattr(await upstream.next_request(), how)()
        assert b"upstream_error" in await asked.whole()
        assert asked.answer.status == 502
        assert (await proxied.until_settled()).spent == 0


async def test_upstream_silent_before_its_answer(upstream: ScriptedUpstream, start: Start) -> None:
    """504 after the time that the configuration gives it; the upstream's connection is closed."""
    async with start(upstream={"first_byte_timeout_s": 0.05}) as proxied:
        asked = Asked(proxied, chat())
        exchange = await upstream.next_request()
        assert b"upstream_timeout" in await asked.whole()
        assert asked.answer.status == 504
        await exchange.client_gone()
        assert (await proxied.until_settled()).spent == 0


@pytest.mark.parametrize("how", ["abort", "vanish", "finish"])
async def test_upstream_gone_mid_stream(upstream: ScriptedUpstream, start: Start, how: str) -> None:
    """The client sees an error event and a broken stream, never a clean end; what was delivered is charged."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        for word in WORDS[:3]:
            await exchange.send(delta(word))
        await asked.until(b"three")
        if how == "finish":
            await exchange.finish()
        else:
            getattr(exchange, how)()
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked.whole()
        assert error_in(bytes(asked.received))["error"]["code"] == "upstream_error"
        assert (await proxied.until_settled()).spent == counted(chat(), 3)
        assert proxied.outcomes() == {"upstream_gone": 1}


async def test_upstream_silent_mid_stream(upstream: ScriptedUpstream, start: Start) -> None:
    """Silence beyond the configured time is an upstream gone."""
    async with start(upstream={"idle_timeout_s": 0.05}) as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        await exchange.send(delta("one "))
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked.whole()
        assert error_in(bytes(asked.received))["error"]["code"] == "upstream_timeout"
        await exchange.client_gone()
        assert (await proxied.until_settled()).spent == counted(chat(), 1)


async def test_dribbling_upstream_meets_the_total_limit(upstream: ScriptedUpstream, start: Start) -> None:
    """A byte now and then keeps the idle limit away, not the total one."""
    async with start(upstream={"idle_timeout_s": 10, "total_timeout_s": 0.1}) as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        dribbling = asyncio.ensure_future(_dribble(exchange))
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked.whole()
        assert error_in(bytes(asked.received))["error"]["code"] == "upstream_timeout"
        await asyncio.gather(dribbling, return_exceptions=True)


async def _dribble(exchange: Exchange) -> None:
    while True:
        await exchange.send(b": still here\n\n")
        await asyncio.sleep(0.005)


async def test_error_event_mid_stream_passes(upstream: ScriptedUpstream, start: Start) -> None:
    """The upstream's own error event reaches the client unchanged; what was delivered is charged."""
    failure = event({"error": {"message": "overloaded", "type": "server_error", "code": None}})
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        for data in (delta("one "), failure):
            await exchange.send(data)
        await exchange.finish()
        assert await asked.whole() == delta("one ") + failure
        assert (await proxied.until_settled()).spent == counted(chat(), 1)
        assert proxied.outcomes() == {"upstream_error": 1}


async def test_connection_is_used_again(upstream: ScriptedUpstream, start: Start) -> None:
    """Requests one after the other share a connection, streamed or not; a stream that was cut does not give its own back."""
    upstream.automatic = openai_answers.generating()
    async with start() as proxied:
        ports = set()
        for stream in (False, True, False):
            await _post(proxied, openai_answers.encode(chat(stream=stream)))
            ports.add(upstream.received[-1].headers["Host"])
            await proxied.until_settled()
        endpoint = proxied.proxy.admission.routes.serving("openai", "tiny")[0]  # the one thing that is not seen from outside
        assert len(endpoint.connections._idle) == 1


# --- drain ---------------------------------------------------------------------------------------------------------------------------


async def test_drain_lets_finish_then_cuts(upstream: ScriptedUpstream, start: Start) -> None:
    """What runs may finish; what does not is cut with an error event and settled; what is new is refused."""
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        await exchange.send(delta("one "))
        await asked.until(b"one")
        draining = asyncio.ensure_future(proxied.proxy.drain(timeout_s=0.1))
        await asyncio.sleep(0)
        status, body = await _post(proxied, openai_answers.encode(chat()))
        assert status == 503
        assert b"draining" in body
        await draining
        received = await asked.whole()
        assert error_in(received)["error"]["code"] == "draining"
        assert received.endswith(DONE)
        assert (await proxied.account()).totals.spent == counted(chat(), 1)
        assert (await proxied.account()).totals.held == 0
        assert proxied.counted("cut_streams_total", "drain") == 1


async def test_drain_before_the_first_byte(upstream: ScriptedUpstream, start: Start) -> None:
    """A request whose answer has not begun gets a 503, and pays nothing."""
    async with start() as proxied:
        asked = Asked(proxied, chat())
        await upstream.next_request()
        await proxied.proxy.drain(timeout_s=0)
        assert b"draining" in await asked.whole()
        assert asked.answer.status == 503
        assert (await proxied.account()).totals.spent == 0


async def test_request_that_gets_its_hold_after_the_cut_is_not_sent(upstream: ScriptedUpstream, start: Start) -> None:
    """What was admitted before the drain and comes to its upstream only after the cut is refused, and its hold is voided."""
    async with start() as proxied:
        proxied.ledger.gates["hold"] = asyncio.Event()
        asked = Asked(proxied, chat())
        await proxied.until(lambda: _called(proxied, "hold"))
        draining = asyncio.ensure_future(proxied.proxy.drain(timeout_s=0.01))
        await proxied.until(lambda: _is_cutting(proxied))
        proxied.ledger.gates["hold"].set()
        assert b"draining" in await asked.whole()
        await draining
        assert upstream.received == []
        totals = (await proxied.account()).totals
        assert (totals.spent, totals.held) == (0, 0)


async def _is_cutting(proxied: Proxied) -> bool:
    return proxied.proxy._exchanges._ended_by is not None
