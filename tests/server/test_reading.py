"""Requests as bytes on a socket: framing, paths, methods, sizes, and what an attacker would try with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.server.conftest import Start
from tests.support import openai_answers
from tests.support.proxied import KEY, Proxied, chat
from tests.support.scripted_upstream import ScriptedUpstream

BODY = openai_answers.encode(chat())
AUTH = f"Authorization: Bearer {KEY}"
PATH = "/v1/chat/completions"


class Answered:
    """One answer as it came over the socket."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        self.body = body

    @property
    def code(self) -> str:
        return str(msgspec.json.decode(self.body)["compute_ledger"]["code"])


class Wire:
    """A bare connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answered:
        head = await self.reader.readuntil(b"\r\n\r\n")
        answered = Answered(head, b"")
        if answered.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                answered.body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            answered.body = await self.reader.readexactly(int(answered.headers.get("content-length", 0)))
        return answered

    async def is_closed(self) -> bool:
        return await self.reader.read(1) == b""


@asynccontextmanager
async def wire(proxied: Proxied) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxied.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(
    *headers: str, method: str = "POST", target: str = PATH, version: str = "HTTP/1.1", auth: str = AUTH, body: bytes | None = BODY
) -> bytes:
    length = [] if body is None or any(h.lower().startswith(("transfer-encoding", "content-length")) for h in headers) else [len(body)]
    lines = [f"{method} {target} {version}", "Host: proxy", *([auth] if auth else []), *headers, *(f"Content-Length: {n}" for n in length)]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (body or b"")


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        # no key, odd keys
        (request(auth=""), 401, "invalid_api_key"),
        (request(auth="Authorization: Bearer "), 401, "invalid_api_key"),
        (request(auth="Authorization: Basic dTpw"), 401, "invalid_api_key"),
        (request(auth=f"Authorization: Bearer cl-{'x' * 43}"), 401, "invalid_api_key"),
        (request(auth="Authorization: Bearer " + "x" * 257), 401, "invalid_api_key"),
        (request("x-api-key: cl-" + "y" * 43), 400, "invalid_request"),
        # framing that two servers may read in two ways
        (request("Transfer-Encoding: gzip, chunked", body=CHUNKED), 400, "invalid_request"),
        (request("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=CHUNKED), 400, "invalid_request"),
        (request("Transfer-Encoding: chunked", version="HTTP/1.0", body=CHUNKED), 400, "invalid_request"),
        (request("Transfer-Encoding: xchunked", body=CHUNKED), 400, "invalid_request"),
        (request("Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKED), 400, "invalid_request"),
        (request("Content-Length: 5", "Content-Length: 6"), 400, "invalid_request"),
        (request("Content-Length: +5"), 400, "invalid_request"),
        (request("Transfer-Encoding: chunked", body=b"zz\r\n"), 400, "invalid_request"),
        (request("X : y"), 400, "invalid_request"),
        (request("X: a\x00b"), 400, "invalid_request"),
        (request(version="HTTP/1.2"), 400, "invalid_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_request"),
        # codings and sizes
        (request("Content-Encoding: gzip"), 415, "unsupported_encoding"),
        (request("Content-Encoding: identity, br"), 415, "unsupported_encoding"),
        (request("Content-Length: 4097", body=b""), 413, "request_too_large"),
        (request("Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n" % (5000, b" " * 5000)), 413, "request_too_large"),
        (request("Expect: 200-maybe"), 400, "invalid_request"),
        # paths
        (request(target="/v1/chat/completions?key=x"), 400, "invalid_request"),
        (request(target="/v1/../v1/chat/completions"), 400, "invalid_request"),
        (request(target="//v1/chat/completions"), 400, "invalid_request"),
        (request(target="/v1//chat/completions"), 400, "invalid_request"),
        (request(target="/v1/chat/%63ompletions"), 400, "invalid_request"),
        (request(target="/v1/chat%2fcompletions"), 400, "invalid_request"),
        (request(target="/v1/chat;a/completions"), 400, "invalid_request"),
        (request(target="/v1\\chat\\completions"), 400, "invalid_request"),
        (request(target="http://proxy/v1/chat/completions"), 400, "invalid_request"),
        (request(target="http://evil/v1/chat/completions"), 400, "invalid_request"),
        (request(target="//evil/v1/chat/completions"), 400, "invalid_request"),
        (request(target="//user@evil/v1/chat/completions"), 400, "invalid_request"),
        (request(method="OPTIONS", target="*", body=None), 400, "invalid_request"),
        (request(target="/v1/chat/completions/"), 404, "unknown_path"),
        (request(target="/V1/chat/completions"), 404, "unknown_path"),
        (request(target="/v1/vector_stores"), 404, "unknown_path"),
        (request(target="/v1/fine_tuning/jobs"), 404, "unknown_path"),
        (request(target="/nothing"), 404, "unknown_path"),
        (request(target="/admin/v1/accounts"), 404, "unknown_path"),
        # methods
        (request(method="GET", body=None), 405, "method_not_allowed"),
        (request(method="PUT"), 405, "method_not_allowed"),
        (request(method="DELETE", body=None), 405, "method_not_allowed"),
        (request(method="OPTIONS", body=None), 405, "method_not_allowed"),
        (request(method="TRACE", body=None), 405, "method_not_allowed"),
        (request(method="BREW", body=None), 400, "invalid_request"),
        (request(method="CONNECT", target="evil:443", body=None), 400, "invalid_request"),
        # bodies
        (request(body=b""), 400, "invalid_request"),
        (request(body=b"[]"), 400, "invalid_request"),
        (request(body=b'{"model":"tiny","model":"big","messages":[]}'), 400, "invalid_request"),
        (request(body=b"[" * 3000), 400, "invalid_request"),
        (request(body=b'{"model":"\\ud800","messages":[]}'), 400, "invalid_request"),
        (request(body=b'\xff{"model":"tiny"}'), 400, "invalid_request"),
    ],
)
async def test_refused_before_any_upstream(upstream: ScriptedUpstream, start: Start, sent: bytes, status: int, code: str) -> None:
    """Each is answered in the dialect's shape, costs nothing, reaches nobody; and the listener goes on."""
    async with start(settings={"listen": {"body_max_bytes": 4096}}, upstream={"models": ["tiny"]}) as proxied:
        async with wire(proxied) as connection:
            await connection.send(sent)
            answered = await connection.answer()
            assert (answered.status, answered.code) == (status, code)
        assert upstream.received == []
        totals = await proxied.until_settled()
        assert (totals.spent, totals.held) == (0, 0)
        async with wire(proxied) as connection:
            await connection.send(request(target="/v1/models", method="GET", body=None))
            assert (await connection.answer()).status == 200


async def test_head_has_no_body(start: Start) -> None:
    """HEAD is not offered, and its refusal has no body to desynchronise on."""
    async with start() as proxied, wire(proxied) as connection:
        await connection.send(request(method="HEAD", body=None) + request(method="GET", body=None))
        first = await connection.reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 405 ")
        second = await connection.answer()
        assert (second.status, second.code) == (405, "method_not_allowed")
        assert second.headers["allow"] == "POST"


async def test_chunked_request_is_forwarded_with_its_length(upstream: ScriptedUpstream, start: Start) -> None:
    """A chunked body arrives upstream as one of known length."""
    async with start() as proxied, wire(proxied) as connection:
        await connection.send(request("Transfer-Encoding: chunked", body=CHUNKED))
        exchange = await upstream.next_request()
        assert exchange.body == BODY
        assert exchange.headers["Content-Length"] == str(len(BODY))
        assert "Transfer-Encoding" not in exchange.headers
        await exchange.answer(openai_answers.chat("x", usage=openai_answers.usage(1, 1)))
        assert (await connection.answer()).status == 200


async def test_continue_is_said_only_to_who_may(upstream: ScriptedUpstream, start: Start) -> None:
    """Whoever waits to be told to send a body is told so after its key was found good, and not before."""
    async with start() as proxied:
        async with wire(proxied) as connection:
            head = request("Expect: 100-continue", f"Content-Length: {len(BODY)}", body=b"")
            await connection.send(head)
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await connection.send(BODY)
            exchange = await upstream.next_request()
            assert "Expect" not in exchange.headers
            await exchange.answer(openai_answers.chat("x", usage=openai_answers.usage(1, 1)))
            assert (await connection.answer()).status == 200
        async with wire(proxied) as connection:
            await connection.send(head.replace(KEY.encode(), b"cl-" + b"z" * 43))
            answered = await connection.answer()
            assert (answered.status, answered.headers["connection"]) == (401, "close")


async def test_refused_body_is_not_read_to_its_end(start: Start) -> None:
    """An endless body is refused once it is too large, and its connection closed."""
    async with start(settings={"listen": {"body_max_bytes": 4096}}) as proxied, wire(proxied) as connection:
        await connection.send(request("Transfer-Encoding: chunked", body=b""))
        chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
        await connection.send(chunk + chunk)
        answered = await connection.answer()
        assert (answered.status, answered.headers["connection"]) == (413, "close")


async def test_dribbled_body_is_given_up(start: Start) -> None:
    """A body that does not come in time is a 400, and the connection is closed."""
    async with start(settings={"listen": {"body_timeout_s": 0.05}}) as proxied, wire(proxied) as connection:
        await connection.send(request("Content-Length: 100", body=b"{"))
        answered = await connection.answer()
        assert (answered.status, answered.code, answered.headers["connection"]) == (400, "invalid_request", "close")


async def test_idle_and_dribbled_heads_are_closed(start: Start) -> None:
    """A connection that sends no request in time, or half of one, is closed."""
    async with start(settings={"listen": {"header_timeout_s": 0.05}}) as proxied:
        for sent in (b"", b"POST /v1/chat"):
            async with wire(proxied) as connection:
                await connection.send(sent)
                assert await connection.is_closed()


async def test_upgrade_is_not_followed(upstream: ScriptedUpstream, start: Start) -> None:
    """A client that offers another protocol is answered in this one, and may go on in it."""
    upstream.automatic = openai_answers.generating()
    async with start() as proxied, wire(proxied) as connection:
        offer = request("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
        await connection.send(offer)
        assert (await connection.answer()).status == 200
        await connection.send(request(target="/v1/nothing"))
        assert (await connection.answer()).status == 404
        assert "Upgrade" not in upstream.received[0].headers


async def test_pipelined_requests_are_answered_in_order(upstream: ScriptedUpstream, start: Start) -> None:
    """Two requests in one write get two answers, each its own."""
    upstream.automatic = openai_answers.generating(output_tokens=2)
    async with start() as proxied, wire(proxied) as connection:
        await connection.send(request() + request(body=openai_answers.encode(chat(stream=True))))
        assert (await connection.answer()).body.startswith(b'{"id"')
        assert (await connection.answer()).body.endswith(b"data: [DONE]\n\n")


async def test_old_clients_get_streams_to_the_end_of_the_connection(upstream: ScriptedUpstream, start: Start) -> None:
    """HTTP/1.0 knows no chunks: the stream ends with the connection."""
    upstream.automatic = openai_answers.generating(output_tokens=2)
    async with start() as proxied, wire(proxied) as connection:
        await connection.send(request(version="HTTP/1.0", body=openai_answers.encode(chat(stream=True))))
        received = await connection.reader.read()
        assert b"Transfer-Encoding" not in received
        assert received.endswith(b"data: [DONE]\n\n")


async def test_host_decides_nothing(upstream: ScriptedUpstream, start: Start) -> None:
    """Whatever the Host header says, the request goes where the configuration says, under the upstream's own name."""
    upstream.automatic = openai_answers.generating()
    async with start() as proxied, wire(proxied) as connection:
        await connection.send(request().replace(b"Host: proxy", b"Host: localhost:4000/#@x"))
        assert (await connection.answer()).status == 200
        assert upstream.received[0].headers["Host"] == upstream.base_url.removeprefix("http://")
