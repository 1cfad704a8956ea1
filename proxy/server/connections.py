"""Connections to one upstream: opened when needed, kept for a while, never more than so many.

Stands on aiohttp's own connection protocol and response parser (`ResponseHandler`), without its `ClientSession`: of a bare pass-through by
session half the CPU is the session's, for redirects, cookies and proxies that are not wanted here. Knows HTTP/1.1 messages, nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult

from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.tcp_helpers import tcp_keepalive

IDLE_MAX_S = 4.0
"""Below the 5 s after which uvicorn and Node close an idle connection, so that a request seldom meets one that is just closing."""
READ_BUFFER_BYTES = 2**16
JOINED_MAX_BYTES = 2**16
"""A body up to this size goes out in one write with its head; a larger one is not copied."""


class Received(NamedTuple):
    """The head of an answer, its body as it comes, and the connection that it comes on, to be given back."""

    message: RawResponseMessage
    content: StreamReader
    connection: ResponseHandler


class Connections:
    """The connections to one origin."""

    def __init__(self, origin: SplitResult, *, most: int, connect_timeout_s: float) -> None:
        assert origin.hostname is not None
        self._host = origin.hostname
        self._port = origin.port or (443 if origin.scheme == "https" else 80)
        self._tls: ssl.SSLContext | None = None
        if origin.scheme == "https":
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        self._connect_timeout_s = connect_timeout_s
        self._free = asyncio.Semaphore(most)
        self._idle: deque[tuple[ResponseHandler, float]] = deque()
        self._closed = False

    async def send(self, head: bytes, body: bytes, *, sent: Callable[[], None]) -> Received:
        """Send a request and wait for the head of its answer; interim answers (1xx) are dropped. `sent` is called once it is on its way.

        Raises TimeoutError where no connection comes about in time, OSError or aiohttp.ClientError where it fails or ends,
        HttpProcessingError where the answer is no HTTP. What is received must be given to `release` or `close`.
        """
        await self._free.acquire()
        connection: ResponseHandler | None = None
        try:
            connection = self._take_idle()
            if connection is None:  # asked so, for a connection counts as false while nothing waits to be read
                connection = await self._open()
            connection.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=READ_BUFFER_BYTES)
            assert connection.transport is not None
            if len(body) <= JOINED_MAX_BYTES:
                connection.transport.write(head + body)
            else:
                connection.transport.write(head)
                connection.transport.write(body)
            sent()
            while True:
                message, content = await connection.read()
                if not 100 <= message.code <= 199:
                    return Received(message, content, connection)
                if message.code == 101:
                    raise HttpProcessingError(message="switched protocols unasked")
        except BaseException:
            self._free.release()
            if connection is not None:
                connection.abort()
            raise

    def release(self, received: Received) -> None:
        """Give a connection back: kept where its answer is over and nothing is left of either side, else closed at once."""
        connection, transport = received.connection, received.connection.transport
        if self._closed or transport is None or connection.should_close or transport.get_write_buffer_size():
            connection.abort()
        else:
            self._idle.append((connection, time.monotonic()))
        self._free.release()

    def close(self) -> None:
        """Close what is idle, and whatever is given back from now on."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].abort()

    def _take_idle(self) -> ResponseHandler | None:
        now_s = time.monotonic()
        while self._idle:
            connection, since_s = self._idle.pop()  # the latest first, so that surplus ones grow old
            if connection.is_connected() and not connection.should_close and now_s - since_s < IDLE_MAX_S:
                return connection
            connection.abort()
        return None

    async def _open(self) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            transport, connection = await loop.create_connection(lambda: ResponseHandler(loop), self._host, self._port, ssl=self._tls)
        tcp_keepalive(transport)
        return connection
