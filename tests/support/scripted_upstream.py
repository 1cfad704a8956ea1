"""An upstream whose every byte, delay and ending a test decides.

A real server on a real socket: the proxy under test meets real resets and half-sent answers. It waits for events, never for
the clock. Unscripted, `automatic` answers instead of the test. It knows HTTP alone; `openai_answers` phrases what goes over it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

EVENT_STREAM = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}
RECEIVED_MAX = 10_000


class Exchange:
    """One request that reached the upstream, and the test's hold on its answer."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.method = request.method
        self.raw_path = request.raw_path
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict(request.headers))
        self.body = body
        self.sent = bytearray()
        """Every byte of the answer's body so far."""
        self._request = request
        self._response: web.StreamResponse | None = None
        self._over = asyncio.Event()
        self._gone = asyncio.Event()

    @property
    def document(self) -> Any:
        """The request's body as JSON."""
        return msgspec.json.decode(self.body)

    async def start(self, status: int = 200, headers: Mapping[str, str] = EVENT_STREAM) -> None:
        """Send the head of the answer."""
        self._response = web.StreamResponse(status=status, headers=headers)
        await self._response.prepare(self._request)

    async def send(self, data: bytes) -> None:
        """Send some bytes of the body at once, after a head of 200 and `text/event-stream` unless `start` sent another."""
        if self._response is None:
            await self.start()
        assert self._response is not None
        self.sent += data
        await self._response.write(data)

    async def finish(self) -> None:
        """End the answer properly."""
        if self._response is None:
            await self.start()
        assert self._response is not None
        await self._response.write_eof()
        self._over.set()

    async def answer(self, body: bytes, status: int = 200, headers: Mapping[str, str] = JSON) -> None:
        """Send a whole answer with its length."""
        await self.start(status, {**headers, "Content-Length": str(len(body))})
        await self.send(body)
        await self.finish()

    def abort(self) -> None:
        """Reset the connection, as a crashed upstream does."""
        transport = self._request.transport
        if transport is not None:
            raw: socket.socket = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        self._over.set()

    def vanish(self) -> None:
        """Close the connection with the answer incomplete, without a reset."""
        transport = self._request.transport
        if transport is not None:
            transport.close()
        self._over.set()

    async def client_gone(self) -> None:
        """Wait until whoever asked has closed the connection."""
        await self._gone.wait()

    async def _serve(self) -> web.StreamResponse:
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            self._gone.set()
            raise
        return self._response or web.StreamResponse()


Script = Callable[[Exchange], Awaitable[None]]


class ScriptedUpstream:
    """Where requests arrive; see `running`."""

    def __init__(self) -> None:
        self.automatic: Script | None = None
        """Answers every request by itself where set; else requests wait for `next_request`."""
        self.received: list[Exchange] = []
        self.base_url = ""
        self._waiting: asyncio.Queue[Exchange] = asyncio.Queue(RECEIVED_MAX)

    async def next_request(self) -> Exchange:
        """The next request that has arrived, or will."""
        return await self._waiting.get()

    def forget(self) -> None:
        """Drop what has arrived and was not asked for; for use between tests that share the upstream."""
        self.automatic = None
        self.received.clear()
        while not self._waiting.empty():
            self._waiting.get_nowait().abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(request, await request.read())
        if len(self.received) < RECEIVED_MAX:
            self.received.append(exchange)
        if self.automatic is None:
            self._waiting.put_nowait(exchange)
            return await exchange._serve()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._play(self.automatic, exchange))
            response = await exchange._serve()
        return response

    @staticmethod
    async def _play(script: Script, exchange: Exchange) -> None:
        try:
            await script(exchange)
        except ConnectionError:
            exchange._gone.set()
            exchange._over.set()


@asynccontextmanager
async def running(port: int = 0) -> AsyncIterator[ScriptedUpstream]:
    """A scripted upstream on 127.0.0.1, by default on a port of the system's choice."""
    upstream = ScriptedUpstream()
    application = web.Application(client_max_size=64 * 2**20)
    application.router.add_route("*", "/{rest:.*}", upstream._handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    upstream.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        upstream.forget()
        await runner.cleanup()
