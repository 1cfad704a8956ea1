"""Connections to one upstream: opened when needed, kept for a while, never more than so many.

Stands on aiohttp's response parser alone, without its `ClientSession` and its connections: half the CPU of a bare pass-through by session
is the session's, for redirects, cookies and proxies that are not wanted here. Knows HTTP/1.1 messages, nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult

from aiohttp import ClientPayloadError, ServerDisconnectedError, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.tcp_helpers import tcp_keepalive

IDLE_MAX_S = 4.0
"""Below the 5 s after which uvicorn and Node close an idle connection, so that a request seldom meets one that is just closing."""
READ_BUFFER_BYTES = 2**16
JOINED_MAX_BYTES = 2**16
"""A body up to this size goes out in one write with its head; a larger one is not copied."""
SWITCHING = 101
BODILESS = frozenset({204, 304})
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(BaseProtocol):
    """One connection, for one request after another; aiohttp's parser reads the answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: asyncio.Future[tuple[RawResponseMessage, StreamReader]] | None = None
        """The head of an answer that is waited for."""
        self._content: StreamReader = EMPTY_PAYLOAD
        """The body of the latest answer."""
        self._is_spent = self._is_paused = False

    def ask(self, head: bytes, body: bytes) -> asyncio.Future[tuple[RawResponseMessage, StreamReader]]:
        """Send a request; the head of its answer and the body as it comes, or ServerDisconnectedError, HttpProcessingError."""
        transport = self.transport
        assert transport is not None, "an idle connection is looked at before it is used"
        self._parser = HttpResponseParser(
            self, self._loop, READ_BUFFER_BYTES, payload_exception=ClientPayloadError, read_until_eof=True, auto_decompress=False
        )
        self._head = answer = self._loop.create_future()
        if len(body) <= JOINED_MAX_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return answer

    @property
    def is_free(self) -> bool:
        """Whether it may take another request: it is open, its answer is over and nothing is left of either side."""
        transport = self.transport
        return (
            transport is not None
            and not self._is_spent
            and self._content.is_eof()
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def ends_cleanly(self) -> bool:
        """Whether nothing came behind the answer, such as the beginning of another: then its parser takes an interim one as it is."""
        assert self._parser is not None, "it is open and was asked"
        try:
            messages, _, _ = self._parser.feed_data(INTERIM)
        except HttpProcessingError:
            return False
        return [message.code for message, _ in messages] == [100]

    def abort(self) -> None:
        """Close it now."""
        self._is_spent = True
        if self.transport is not None:
            self.transport.abort()

    # --- what aiohttp's readers call ---------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._is_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if self._is_paused:  # it is asked for at every read, and seldom has anything to do
            self._is_paused = False
            super().resume_reading(resume_parser)

    # --- what the event loop calls -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._parser is None or (self._head is None and self._content.is_eof()):
            self.abort()  # nobody has asked for it
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._break_off(HttpProcessingError(code=error.code, message=error.message), error)
            self.abort()
            return
        for message, content in messages:
            if 100 <= message.code <= 199 and message.code != SWITCHING:
                continue
            if self._head is None or message.code == SWITCHING:
                self._break_off(HttpProcessingError(message="an answer that nobody asked for"))
                self.abort()
                return
            head, self._head = self._head, None
            self._content = content
            self._is_spent = self._is_spent or message.should_close
            if not head.done():
                head.set_result((message, EMPTY_PAYLOAD if message.code in BODILESS else content))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._is_spent = True
        if self._parser is not None and not self._content.is_eof():
            try:
                if exc is None:
                    self._parser.feed_eof()  # the end of a body that has no other
            except HttpProcessingError as error:
                exc = error
        self._break_off(ServerDisconnectedError(), exc)
        self._parser = None
        super().connection_lost(exc)

    def _break_off(self, error: Exception, cause: BaseException | None = None) -> None:
        """Whoever waits for a head, or for the rest of a body, waits in vain."""
        error.__cause__ = cause
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_exception(error)
        if not self._content.is_eof():
            self._content.set_exception(ClientPayloadError("the answer broke off"), error)


class Received(NamedTuple):
    """The head of an answer, its body as it comes, and the connection that it comes on, to be given back."""

    message: RawResponseMessage
    content: StreamReader
    connection: Connection


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
        self._idle: deque[tuple[Connection, float]] = deque()
        self._closed = False

    async def send(self, head: bytes, body: bytes, *, sent: Callable[[], None]) -> Received:
        """Send a request and wait for the head of its answer; interim answers (1xx) are dropped. `sent` is called once it is on its way.

        Raises TimeoutError where no connection comes about in time, OSError or aiohttp.ClientError where it fails or ends,
        HttpProcessingError where the answer is no HTTP. What is received must be given to `release` or `close`.
        """
        await self._free.acquire()
        connection: Connection | None = None
        try:
            connection = self._take_idle() or await self._open()
            answer = connection.ask(head, body)
            sent()
            message, content = await answer
        except BaseException:
            self._free.release()
            if connection is not None:
                connection.abort()
            raise
        return Received(message, content, connection)

    def release(self, received: Received) -> None:
        """Give a connection back: kept where it is free for another request, else closed at once."""
        connection = received.connection
        if connection.is_free and not self._closed and connection.ends_cleanly():
            self._idle.append((connection, time.monotonic()))
        else:
            connection.abort()
        self._free.release()

    def close(self) -> None:
        """Close what is idle, and whatever is given back from now on."""
        self._closed = True
        while self._idle:
            self._idle.pop()[0].abort()

    def _take_idle(self) -> Connection | None:
        now_s = time.monotonic()
        while self._idle:
            connection, since_s = self._idle.pop()  # the latest first, so that surplus ones grow old
            if connection.is_free and now_s - since_s < IDLE_MAX_S:
                return connection
            connection.abort()
        return None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            transport, connection = await loop.create_connection(lambda: Connection(loop), self._host, self._port, ssl=self._tls)
        tcp_keepalive(transport)
        return connection
