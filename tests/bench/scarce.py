"""An upstream that serves only so many requests at a time, cheap enough not to be what limits a run.

The model of a request names the room that serves it. A room whose name begins with `own` makes requests wait itself, first come first
served; the others trust whoever asks. Services take the same time in a room whose name ends with `step`, in the others between half and
one and a half of it. `GET` answers what the rooms have seen since they were last asked, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import deque
from typing import cast

from tests.bench.upstream import JSON_ANSWER

GOLDEN = 0.6180339887498949
"""The multiples of this, whole parts left out, are spread evenly."""


class Room:
    """What one kind of run is served by, and when each service began and ended."""

    def __init__(self, name: str, *, seats: int, service_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seats = seats if name.startswith("own") else sys.maxsize
        self._service_s = service_s
        self._in_step = name.endswith("step")
        self._waiting: deque[Connection] = deque()
        self._now = 0
        self.began_s: list[float] = []
        self.ended_s: list[float] = []
        self.most = 0

    def arrive(self, connection: Connection) -> None:
        if self._now < self._seats:
            self._begin(connection)
        else:
            self._waiting.append(connection)

    def _begin(self, connection: Connection) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        part = 1.0 if self._in_step else 0.5 + len(self.began_s) * GOLDEN % 1
        self.began_s.append(time.monotonic())
        self._loop.call_later(self._service_s * part, self._end, connection)

    def _end(self, connection: Connection) -> None:
        self._now -= 1
        self.ended_s.append(time.monotonic())
        connection.answer(JSON_ANSWER)
        if self._waiting:
            self._begin(self._waiting.popleft())


class Rooms:
    """All rooms, made when they are first asked for."""

    def __init__(self, *, seats: int, service_s: float) -> None:
        self._seats, self._service_s = seats, service_s
        self._rooms: dict[str, Room] = {}

    def arrive(self, name: str, connection: Connection) -> None:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, seats=self._seats, service_s=self._service_s)
        room.arrive(connection)

    def told(self) -> bytes:
        seen = {name: {"began_s": room.began_s, "ended_s": room.ended_s, "most": room.most} for name, room in self._rooms.items()}
        self._rooms.clear()
        body = json.dumps(seen).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """One connection; a request at a time."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not separator or len(rest) < (size := int(length[1]) if length else 0):
            return
        self._buffer = rest[size:]
        if head.startswith(b"GET"):
            self.answer(self._rooms.told())
        else:
            self._rooms.arrive(json.loads(rest[:size])["model"], self)

    def answer(self, data: bytes) -> None:
        self._transport.write(data)


async def serve(*, seats: int, service_s: float) -> None:
    """Serve until standard input closes; says the port first."""
    loop, rooms = asyncio.get_running_loop(), Rooms(seats=seats, service_s=service_s)
    server = await loop.create_server(lambda: Connection(rooms), "127.0.0.1", 0, backlog=4096)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seats", type=int, required=True)
    arguments.add_argument("--service-s", type=float, required=True)
    given = arguments.parse_args()
    uvloop.run(serve(seats=given.seats, service_s=given.service_s))
