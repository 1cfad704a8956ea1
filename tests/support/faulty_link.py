"""A link between the proxy and its ledger server that loses what a test wants lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.ledger_server import LedgerServer


class FaultyLink:
    """Relays bytes until told to lose some.

    `answers_to_lose`: answers that are dropped, with the connection, after the server carried the call out.
    `bytes_of_request`: how much of what is sent next gets through before the connection is cut; None for all.
    """

    def __init__(self, server: LedgerServer, socket: Path) -> None:
        self._server = server
        self._socket = socket
        self.answers_to_lose = 0
        self.bytes_of_request: int | None = None
        self.stalled = False
        self.lost = 0

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_unix_connection(str(self._server.socket))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, to_server[1]))
                group.create_task(self._answers(to_server[0], writer))
        except* (OSError, asyncio.IncompleteReadError, _LinkCut):
            pass
        finally:
            for end in (writer, to_server[1]):
                end.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.bytes_of_request is not None:
                data, self.bytes_of_request = data[: self.bytes_of_request], None
                writer.write(data)
                await writer.drain()
                self.lost += 1
                raise _LinkCut
            writer.write(data)
        raise _LinkCut

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.stalled:
                self.lost += 1
                continue
            if self.answers_to_lose > 0:
                self.answers_to_lose -= 1
                self.lost += 1
                raise _LinkCut
            writer.write(data)
        raise _LinkCut


class _LinkCut(Exception):
    pass


@contextlib.asynccontextmanager
async def faulty_link(server: LedgerServer, directory: Path) -> AsyncIterator[FaultyLink]:
    link = FaultyLink(server, directory / "l")
    listener = await asyncio.start_unix_server(link.serve, str(directory / "l"))
    try:
        yield link
    finally:
        listener.close()
