"""The control channel between the parent and one worker: a socket pair, one JSON object a line, both ways.

Owns the framing and the messages' names. The end of the file is a message too: the other side is gone. Must not know what the
messages are for.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final, Self

import msgspec

LINE_BYTES_MAX: Final = 64 * 2**20
"""Configurations and snapshots of large installations are megabytes; nothing honest is larger than this."""
CLOSE_DEADLINE_S: Final = 1.0

Message = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class ChannelClosed(Exception):
    """The other side is gone."""


class Channel:
    """One side of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, ours: socket.socket) -> Self:
        """The channel over our end of a connected pair, which it then owns."""
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_BYTES_MAX)
        return cls(reader, writer)

    async def send(self, message: Message) -> None:
        """Raises ChannelClosed."""
        try:
            self._writer.write(_encode(message) + b"\n")
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise ChannelClosed from error

    async def receive(self) -> Message:
        """The next message. Raises ChannelClosed, also where the last line was cut off."""
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChannelClosed from error
        return _decode(line)

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()
