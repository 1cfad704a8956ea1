"""A subscription to one channel of the ledger's server, on a connection of its own, taken up again whenever it is lost.

Messages are hints: what is published while nobody listens is lost, so nothing may depend on them but promptness.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from proxy.ledger.wire import CANCEL_AGAIN_S, READ_BYTES, RECONNECT_PAUSE_S, Connect, Streams, packed

CONNECT_DEADLINE_S = 5.0
SILENCE_S = 5.0
"""After so long the server is asked whether it is still there, and after as long again the connection is given up."""


@contextlib.asynccontextmanager
async def listening(connect: Connect, channel: str, hear: Callable[[bytes], None], subscribed: asyncio.Event) -> AsyncIterator[None]:
    """Pass every message of a channel on for as long as the context lasts; `subscribed` is set while they arrive."""
    listener = asyncio.get_running_loop().create_task(_listen(connect, channel, hear, subscribed), name="ledger-listener")
    try:
        yield
    finally:
        while not listener.done():
            listener.cancel()  # again and again: a library that is connecting may swallow one
            await asyncio.wait((listener,), timeout=CANCEL_AGAIN_S)


async def _listen(connect: Connect, channel: str, hear: Callable[[bytes], None], subscribed: asyncio.Event) -> None:
    attempt = 0
    while True:
        await asyncio.sleep(RECONNECT_PAUSE_S[min(attempt, len(RECONNECT_PAUSE_S) - 1)])
        attempt += 1
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                connection = await connect()
        except (OSError, TimeoutError, RedisError):
            continue
        try:
            await _read_messages(connection, channel, hear, subscribed)
        except OSError:
            continue
        finally:
            attempt = 1 if subscribed.is_set() else attempt
            subscribed.clear()
            with contextlib.suppress(OSError, RedisError):
                await connection.disconnect(nowait=True)


async def _read_messages(connection: AbstractConnection, channel: str, hear: Callable[[bytes], None], subscribed: asyncio.Event) -> None:
    """Until the connection ends, or the server says nothing for too long."""
    streams = cast(Streams, connection)
    streams._writer.write(b"*2\r\n" + packed("SUBSCRIBE", channel))
    reader = hiredis.Reader()
    asked = False
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                data = await streams._reader.read(READ_BYTES)
        except TimeoutError:
            if asked:
                return
            streams._writer.write(b"*1\r\n" + packed("PING"))
            asked = True
            continue
        if not data:
            return
        asked = False
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            match reply:
                case [b"message", _, bytes(message)]:
                    hear(message)
                case [b"subscribe", *_]:
                    subscribed.set()
