"""A WebSocket upstream whose every event and ending a test decides; a real server on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import WSMsgType, web
from multidict import CIMultiDict, CIMultiDictProxy


class Talk:
    """One conversation that reached the upstream."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.raw_path = request.raw_path
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict(request.headers))
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.close_code: int | None = None
        self._request = request
        self._socket = socket
        self._over = asyncio.Event()

    async def send(self, event: dict[str, Any] | str) -> str:
        """Say an event; its text."""
        text = event if isinstance(event, str) else msgspec.json.encode(event).decode()
        await self._socket.send_str(text)
        return text

    async def hear(self) -> Any:
        """The client's next event."""
        return msgspec.json.decode(await self.heard.get())

    async def close(self, code: int = 1000) -> None:
        await self._socket.close(code=code)

    def abort(self) -> None:
        """Drop the connection without a word."""
        assert self._request.transport is not None
        self._request.transport.abort()

    async def client_gone(self) -> int | None:
        """Wait until the other side has closed; its code."""
        await self._over.wait()
        return self.close_code

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.TEXT:
                self.heard.put_nowait(message.data)
        self.close_code = self._socket.close_code
        self._over.set()


class ScriptedSocket:
    """Where conversations arrive; see `running`."""

    def __init__(self) -> None:
        self.base_url = ""
        self.refuses: int | None = None
        """The status that answers instead of the upgrade, where set."""
        self._waiting: asyncio.Queue[Talk] = asyncio.Queue()

    async def next_talk(self) -> Talk:
        return await self._waiting.get()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.refuses is not None:
            return web.Response(status=self.refuses)
        socket = web.WebSocketResponse(protocols=["realtime"])
        await socket.prepare(request)
        talk = Talk(request, socket)
        self._waiting.put_nowait(talk)
        await talk._listen()
        return socket


@asynccontextmanager
async def running() -> AsyncIterator[ScriptedSocket]:
    """A scripted WebSocket upstream on 127.0.0.1."""
    upstream = ScriptedSocket()
    application = web.Application()
    application.router.add_get("/{rest:.*}", upstream._handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        await runner.cleanup()
