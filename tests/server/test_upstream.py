"""Upstreams of every kind, honest and not: codings, redirects, broken framing, and which connections are used again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from proxy import config
from proxy.dialects import DIALECTS
from proxy.errors import SetupError, UpstreamError, UpstreamTimeout
from proxy.server.upstream import Endpoint, Reply
from tests.server.conftest import Start
from tests.server.test_handler import COST, USAGE, Asked
from tests.support import openai_answers
from tests.support.openai_answers import DONE, chat_events
from tests.support.proxied import UPSTREAM_KEY, chat
from tests.support.scripted_upstream import EVENT_STREAM, JSON, ScriptedUpstream

OPENAI = DIALECTS["openai"]
MAX_BYTES = 2**20


class Raw:
    """A server that answers each request with bytes of the test's choice; it keeps connections open unless told otherwise."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []
        self.closes = False
        self.writer: asyncio.StreamWriter

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writer = writer
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.answers.pop(0))
                await writer.drain()
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def raw_upstream() -> AsyncIterator[Raw]:
    raw = Raw()
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    async with server:
        yield raw


def endpoint_at(port: int, path: str = "", api_key: str | None = None, **options: object) -> Endpoint:
    section = config.Upstream.model_validate({"name": "up", "base_url": f"http://127.0.0.1:{port}{path}", **options})
    return Endpoint(section, api_key=api_key)


BEGUN = (b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: y", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n")
"""Beginnings of an answer that nobody has asked for."""


def answer(body: bytes, *head: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, *head, b"Content-Length: %d" % len(body), b"", body))


async def read(reply: Reply) -> bytes:
    return await reply.read(max_bytes=MAX_BYTES, heard=lambda: None)


async def ask(endpoint: Endpoint) -> bytes:
    with await endpoint.send(OPENAI, "POST", "/v1/chat/completions", body=b"{}") as reply:
        return reply.meaning(await read(reply), max_bytes=MAX_BYTES)


@pytest.mark.parametrize(
    ("base", "target"),
    [("", b"/v1/chat/completions"), ("/v1", b"/v1/chat/completions"), ("/v1/", b"/v1/chat/completions"), ("/a", b"/a/v1/chat/completions")],
)
async def test_path_is_joined_to_the_base_url(base: str, target: bytes) -> None:
    """A base URL may end in /v1, as OpenAI's own clients write it."""
    async with raw_upstream() as raw, endpoint_at(raw.port, base) as endpoint:
        raw.answers.append(answer(b"{}"))
        await ask(endpoint)
        assert raw.requests[0].startswith(b"POST " + target + b" HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % raw.port)


async def test_connection_is_used_again_when_nothing_is_left_on_it() -> None:
    """Many requests, one connection."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers += [answer(b"{}")] * 3
        for _ in range(3):
            assert await ask(endpoint) == b"{}"
        assert raw.connections == 1


@pytest.mark.parametrize(
    "first",
    [
        answer(b"{}") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        answer(b"{}", b"Connection: close"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
async def test_what_is_left_on_a_connection_answers_nobody_else(first: bytes) -> None:
    """What an upstream sends beyond its answer never becomes the answer, or a part of the answer, to another request."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers += [first, answer(b'{"own":1}')]
        assert await ask(endpoint) == b"{}"
        assert await ask(endpoint) == b'{"own":1}'


async def test_what_comes_on_an_idle_connection_answers_nobody() -> None:
    """An answer that was sent before it was asked for is not taken, and its connection is closed."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers += [answer(b"{}"), answer(b'{"own":1}')]
        await ask(endpoint)
        raw.writer.write(answer(b'{"forged":1}'))
        connection = endpoint.connections._idle[0][0]
        while connection.is_free:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert await ask(endpoint) == b'{"own":1}'
        assert raw.connections == 2


async def test_connection_that_the_upstream_closed_while_idle_is_replaced() -> None:
    """A request does not meet a connection that is known to be gone."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.closes = True
        raw.answers += [answer(b"{}")] * 2
        await ask(endpoint)
        connection = endpoint.connections._idle[0][0]
        while connection.is_free:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert await ask(endpoint) == b"{}"


async def test_reply_that_is_left_early_closes_its_connection() -> None:
    """Whoever no longer needs an answer stops the upstream, and the next request gets a fresh connection."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers += [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", answer(b"{}")]
        with await endpoint.send(OPENAI, "POST", "/v1/chat/completions", body=b"{}") as reply:
            assert await reply.next_chunk() == b"{}"
        assert await ask(endpoint) == b"{}"
        assert raw.connections == 2


async def test_answer_that_only_a_reset_ends_is_no_whole_one() -> None:
    """Where the end of the connection is the end of the body, a connection that breaks ends nothing."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers += [b"HTTP/1.1 200 OK\r\n\r\npart"]
        with await endpoint.send(OPENAI, "POST", "/v1/chat/completions", body=b"{}") as reply:
            assert await reply.next_chunk() == b"part"
            raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.writer.transport.abort()
            with pytest.raises(UpstreamError, match="broke off"):
                await reply.next_chunk()


async def test_no_more_connections_than_configured() -> None:
    """A request beyond `connections_max` waits until one is free."""
    async with raw_upstream() as raw, endpoint_at(raw.port, connections_max=1) as endpoint:
        raw.answers += [answer(b"1"), answer(b"2")]
        first = await endpoint.send(OPENAI, "POST", "/v1/chat/completions", body=b"{}")
        second = asyncio.ensure_future(ask(endpoint))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(raw.requests) == 1
        with first:
            assert await read(first) == b"1"
        assert await second == b"2"


async def test_retired_endpoint_closes_after_its_last_answer() -> None:
    """An upstream that the configuration drops goes on for what is under way."""
    async with raw_upstream() as raw:
        endpoint = endpoint_at(raw.port)
        raw.answers.append(answer(b"{}"))
        reply = await endpoint.send(OPENAI, "POST", "/v1/chat/completions", body=b"{}")
        retiring = asyncio.ensure_future(endpoint.retire())
        await asyncio.sleep(0)
        assert not retiring.done()
        with reply:
            assert await read(reply) == b"{}"
        await retiring
        assert not endpoint.connections._idle


async def test_interim_answers_are_dropped() -> None:
    """100 and 103 are the upstream's business with us."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers.append(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(b"{}"))
        assert await ask(endpoint) == b"{}"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        answer(b"", b"Location: http://inside/", status=b"302 Found"),
        answer(b"", b"Location: http://inside/", status=b"307 Temporary Redirect"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        answer(b"{}") + b"rest",
        answer(b"{}", b"Content-Encoding: br"),
        answer(b"{}", b"Content-Encoding: gzip, gzip"),
        answer(b"not gzip", b"Content-Encoding: gzip"),
        answer(gzip.compress(b"{}", mtime=0)[:-5], b"Content-Encoding: gzip"),
        answer(b"x" * (MAX_BYTES + 1)),
        answer(gzip.compress(b"x" * (MAX_BYTES + 1), mtime=0), b"Content-Encoding: gzip"),
    ],
)
async def test_unusable_answers_are_upstream_errors(sent: bytes) -> None:
    """Nothing that is broken, leads elsewhere or cannot be read passes; nor does the error say where the upstream is."""
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers.append(sent)
        raw.closes = True
        with pytest.raises(UpstreamError) as caught:
            await ask(endpoint)
        assert "127.0.0.1" not in caught.value.message
        assert endpoint._in_use == 0


async def test_unreachable_upstreams() -> None:
    """A closed port is an error at once; one that does not answer the handshake is a timeout."""
    async with endpoint_at(9) as endpoint:
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await ask(endpoint)
    busy = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, backlog=1, start_serving=False)
    port = busy.sockets[0].getsockname()[1]
    async with busy, endpoint_at(port, connect_timeout_s=0.05) as endpoint:
        with pytest.raises((UpstreamTimeout, UpstreamError)):
            await asyncio.gather(*(ask(endpoint) for _ in range(8)))


@pytest.mark.parametrize("key", ["sk-a\r\nX-Evil: 1", "sk-\u00e9"])
def test_key_that_cannot_stand_in_a_header_is_refused_at_the_start(key: str) -> None:
    """A key with a line end in it would be two headers."""
    with pytest.raises(SetupError):
        endpoint_at(1, api_key=key)


# --- codings, through the whole proxy ------------------------------------------------------------------------------------------------


def _multi_member(data: bytes) -> bytes:
    return gzip.compress(data[:50]) + gzip.compress(data[50:])


CODINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("x-gzip", _multi_member),
    ("deflate", zlib.compress),
    ("identity", bytes),
]


@pytest.mark.parametrize(("coding", "encode"), CODINGS)
@pytest.mark.parametrize("stream", [False, True])
async def test_coded_answers_are_metered(
    upstream: ScriptedUpstream, start: Start, coding: str, encode: Callable[[bytes], bytes], stream: bool
) -> None:
    """An upstream that codes its answer unasked is read all the same: its bytes pass unchanged, and are paid exactly.

    So the usage chunk stays in a coded stream, whether the client asked for it or not.
    """
    events = chat_events(["a ", "b ", "c ", "d ", "e "], usage=USAGE)
    plain = b"".join(events) if stream else openai_answers.chat("hello", usage=USAGE)
    async with start() as proxied:
        asked = Asked(proxied, chat(stream=stream))
        exchange = await upstream.next_request()
        form = EVENT_STREAM if stream else JSON
        await exchange.start(200, {**form, "Content-Encoding": coding})
        coded = encode(plain)
        for at in range(0, len(coded), 40):
            await exchange.send(coded[at : at + 40])
        await exchange.finish()
        taken_out = stream and coding == "identity"
        assert await asked.whole() == (b"".join(events[:-2]) + DONE if taken_out else coded)
        assert asked.answer.headers.get("Content-Encoding") == (None if coding == "identity" else coding.lower())
        assert (await proxied.until_settled()).spent == COST


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_coded_stream_is_cut_where_the_budget_ends(upstream: ScriptedUpstream, start: Start, size: int) -> None:
    """Whole chunks pass as far as the hold covers what they say, then the connection is broken off; nothing is overspent."""
    events = chat_events([f"{number} " for number in range(50)], usage=USAGE)
    coded = b"".join(gzip.compress(event) for event in events)
    async with start(credits_nanocredits=100) as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        await exchange.start(200, {**EVENT_STREAM, "Content-Encoding": "gzip"})
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(coded), size):
                await exchange.send(coded[at : at + size])
        await exchange.client_gone()
        with pytest.raises(aiohttp.ClientPayloadError):
            await asked.whole()
        totals = await proxied.until_settled()
        assert totals.spent <= 100
        assert proxied.outcomes() == {"cut": 1}


async def test_coded_stream_that_is_broken_is_told_as_broken(upstream: ScriptedUpstream, start: Start) -> None:
    """Half of a coded stream, or one that is not what its coding says, never ends as if it were whole."""
    for coded in (gzip.compress(b"".join(chat_events(["a "])))[:-9], b"not gzip at all"):
        async with start() as proxied:
            asked = Asked(proxied, chat(stream=True))
            exchange = await upstream.next_request()
            await exchange.start(200, {**EVENT_STREAM, "Content-Encoding": "gzip"})
            await exchange.send(coded)
            await exchange.finish()
            with pytest.raises(aiohttp.ClientPayloadError):
                await asked.whole()
            await proxied.until_settled()
            assert proxied.outcomes() == {"upstream_gone": 1}


async def test_decompression_bomb_is_refused(upstream: ScriptedUpstream, start: Start) -> None:
    """A small coded answer that grows beyond the bound is broken off, not buffered."""
    bomb = zlib.compress(b"0" * (70 * 2**20), 9)
    async with start() as proxied:
        asked = Asked(proxied, chat())
        await (await upstream.next_request()).answer(bomb, headers={**JSON, "Content-Encoding": "deflate"})
        assert b"upstream_error" in await asked.whole()
        assert asked.answer.status == 502
        assert (await proxied.until_settled()).spent == 0


# --- the upstream's key --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 401])
async def test_upstream_key_never_reaches_the_client(upstream: ScriptedUpstream, start: Start, status: int) -> None:
    """An upstream that repeats the request's headers, in its own headers or in its body, does not give our key away."""
    async with start() as proxied:
        asked = Asked(proxied, chat())
        exchange = await upstream.next_request()
        echoed = {**JSON, "X-Echo": exchange.headers["Authorization"], "Authorization": exchange.headers["Authorization"]}
        await exchange.answer(openai_answers.chat("fine", usage=USAGE), status, echoed)
        await asked.whole()
        assert all(UPSTREAM_KEY not in value for value in asked.answer.headers.values())

        asked = Asked(proxied, chat())
        exchange = await upstream.next_request()
        await exchange.answer(openai_answers.encode({"headers": dict(exchange.headers)}), status)
        assert UPSTREAM_KEY.encode() not in await asked.whole()
        assert asked.answer.status == 502


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_connection_with_the_beginning_of_another_answer_is_not_used_again(framing: str, begun: bytes) -> None:
    """What came is whole; what might follow on that connection would be taken for the next answer."""
    whole = answer(b"{}") if framing == "length" else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with raw_upstream() as raw, endpoint_at(raw.port) as endpoint:
        raw.answers = [whole + begun, whole, answer(b"next")]
        assert [await ask(endpoint) for _ in range(3)] == [b"{}", b"{}", b"next"]
    assert raw.connections == 2
