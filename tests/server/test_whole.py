"""Answers that go out in one write, as they stand on the wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from multidict import CIMultiDict

from proxy.config import Listen
from proxy.server.listener import Listener
from proxy.server.whole import JOINED_MAX_BYTES, Whole

Answering = Callable[[], web.StreamResponse]


@asynccontextmanager
async def served(answer: Answering) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a listener that gives this answer to everything."""

    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return answer()

    listener = Listener(handle, Listen())
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await listener.shutdown(1)


async def asked(answer: Answering, *, version: str = "1.1", headers: str = "") -> tuple[str, bytes, bool]:
    """The head and the body of an answer, and whether the connection was closed behind it."""
    async with served(answer) as (reader, writer):
        writer.write(f"GET / HTTP/{version}\r\nHost: here\r\n{headers}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"Content-Length: (\d+)\r\n", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        return head, body, await reader.read(5) == b""


def plain(status: int = 200, body: bytes = b"{}", **headers: str) -> Answering:
    return lambda: Whole(status, CIMultiDict(headers), body)


async def test_head_has_what_http_asks_for() -> None:
    """Status line, the headers given, length and date; the connection stays open."""
    head, body, closed = await asked(plain(**{"Content-Type": "application/json", "X-One": "1"}))
    assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-One: 1\r\nContent-Length: 2\r\nDate: ")
    assert re.search(r"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)
    assert (body, closed) == (b"{}", False)
    assert "Connection" not in head


async def test_what_is_given_is_not_made_up_again() -> None:
    """A date that came along stays the only one; a body without a type is of the most general one."""
    head, _, _ = await asked(plain(Date="Mon, 01 Jan 2024 00:00:00 GMT"))
    assert (head.count("Date: "), head.count("Content-Type: application/octet-stream")) == (1, 1)


@pytest.mark.parametrize(
    ("version", "headers", "said", "closes"),
    [
        ("1.0", "", "Connection: ", True),
        ("1.0", "Connection: keep-alive\r\n", "Connection: keep-alive\r\n", False),
        ("1.1", "Connection: close\r\n", "Connection: close\r\n", True),
    ],
)
async def test_connection_lasts_as_the_client_asks(version: str, headers: str, said: str, closes: bool) -> None:
    """Each version has its own word for what it does not take for granted."""
    head, _, closed = await asked(plain(), version=version, headers=headers)
    assert head.startswith(f"HTTP/{version} 200 ")
    assert said in head
    assert closed == closes


async def test_forced_close() -> None:
    """Whoever answers may end the connection."""

    def answer() -> Whole:
        whole = Whole(200, CIMultiDict(), b"last")
        whole.force_close()
        return whole

    head, body, closed = await asked(answer)
    assert ("Connection: close\r\n" in head, body, closed) == (True, b"last", True)


@pytest.mark.parametrize(("status", "line"), [(204, "HTTP/1.1 204 No Content\r\n"), (299, "HTTP/1.1 299 \r\n")])
async def test_statuses_without_body_or_phrase(status: int, line: str) -> None:
    """204 has no length; a status that nobody registered has no phrase."""
    head, _, _ = await asked(plain(status, b""))
    assert head.startswith(line)
    assert ("Content-Length" in head) == (status != 204)


async def test_large_bodies_arrive_whole() -> None:
    """A body that is not joined with its head follows it."""
    body = b"x" * (3 * JOINED_MAX_BYTES)
    assert (await asked(plain(body=body)))[1] == body


async def test_client_that_reads_nothing_is_waited_for() -> None:
    """Answers to requests that were sent ahead do not pile up in memory."""
    answered = 0

    def answer() -> Whole:
        nonlocal answered
        answered += 1
        return Whole(200, CIMultiDict(), b"x" * JOINED_MAX_BYTES)

    async with served(answer) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 2000)
        before = -1
        while answered > before:
            before = answered
            await asyncio.sleep(0.2)
        assert 0 < answered < 2000
