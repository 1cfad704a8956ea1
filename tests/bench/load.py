"""The benchmark's load generator: raw connections, one process, results as one line of JSON.

`json` keeps a number of connections busy (closed loop); `rate` starts requests at fixed times whatever happens (open loop), and
counts latency from the time a request was due; `streams` reads streams to their end; `silent` opens streams and keeps them open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import cast

CONNECTIONS_MAX = 2000
DRAIN_TIMEOUT_S = 30.0
PROMPT = "Say something short about sharing a machine fairly."


def request(port: int, key: str, **members: object) -> bytes:
    """A whole HTTP request."""
    body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16, **members}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """Sends one request at a time and tells when its answer has ended; counts the events of streams."""

    def __init__(self, done: Callable[[Connection], None]) -> None:
        self._done = done
        self._head = b""
        self._remaining: int | None = None
        self._tail = b""
        self.in_body = False
        self.events = 0
        self.first_event = asyncio.Event()
        self.started_s = 0.0
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.broken:
            self.broken = True
            self._done(self)

    def send(self, data: bytes, started_s: float) -> None:
        self.started_s = started_s
        self.in_body = False
        self._head = b""
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if not self.in_body:
            head, separator, data = (self._head + data).partition(b"\r\n\r\n")
            if not separator:
                self._head = head
                return
            if b" 200 " not in head[:16]:
                sys.exit(f"load: the proxy answered {head[:400]!r} {data[:400]!r}")
            self._begin(head.lower())
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining <= 0:
                self._done(self)
            return
        self.events += data.count(b"data: ")
        if self.events and not self.first_event.is_set():
            self.first_event.set()
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n":
            self._done(self)

    def _begin(self, head: bytes) -> None:
        self.in_body = True
        self._tail = b""
        _, separator, length = head.partition(b"\r\ncontent-length:")
        self._remaining = int(length.split(b"\r\n")[0]) if separator else None


async def connect(port: int, done: Callable[[Connection], None]) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(done), "127.0.0.1", port)
    return connection


async def closed_loop(port: int, key: str, *, connections: int, seconds: float) -> dict[str, float]:
    """Keep `connections` busy for a time; answers and how long it really took."""
    data, answers = request(port, key), 0
    over = asyncio.get_running_loop().create_future()
    ends_s = time.perf_counter() + seconds

    def done(connection: Connection) -> None:
        nonlocal answers
        answers += 1
        if connection.broken:
            sys.exit("load: the proxy closed a connection")
        now_s = time.perf_counter()
        if now_s < ends_s:
            connection.send(data, now_s)
        elif not over.done():
            over.set_result(None)

    begun_s = time.perf_counter()
    for connection in [await connect(port, done) for _ in range(connections)]:
        connection.send(data, begun_s)
    await over
    return {"answers": answers, "seconds": time.perf_counter() - begun_s}


async def open_loop(port: int, key: str, *, per_s: float, seconds: float) -> dict[str, float]:
    """Start requests at a fixed rate; latency percentiles in milliseconds, from the time each was due."""
    data = request(port, key)
    latencies_s: list[float] = []
    running, total, drained = 0, int(per_s * seconds), asyncio.Event()

    def done(connection: Connection) -> None:
        nonlocal running
        latencies_s.append(time.perf_counter() - connection.started_s)
        running -= 1
        idle.append(connection)
        if len(latencies_s) == total:
            drained.set()

    idle = [await connect(port, done) for _ in range(64)]
    begun_s = time.perf_counter() + 0.1
    for number in range(total):
        due_s = begun_s + number / per_s
        wait_s = due_s - time.perf_counter()
        await asyncio.sleep(max(0.0, wait_s))
        if not idle:
            if running >= CONNECTIONS_MAX:
                sys.exit(f"load: {running} requests are waiting; {per_s:.0f} requests/s are more than this machine carries")
            idle.append(await connect(port, done))
        running += 1
        idle.pop().send(data, due_s)
    async with asyncio.timeout(DRAIN_TIMEOUT_S):
        await drained.wait()
    ordered = sorted(latencies_s)
    return {f"p{p}_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 99)}


async def read_streams(port: int, key: str, *, streams: int, events: int, interval_s: float) -> dict[str, float]:
    """Read `streams` streams of `events` events each, begun evenly over one interval; how many events came."""
    data = request(port, key, stream=True, max_tokens=events)
    finished = 0
    over = asyncio.get_running_loop().create_future()

    def done(_: Connection) -> None:
        nonlocal finished
        finished += 1
        if finished == streams:
            over.set_result(None)

    connections = [await connect(port, done) for _ in range(streams)]
    begun_s = time.perf_counter()
    for number, connection in enumerate(connections):
        await asyncio.sleep(max(0.0, begun_s + number * interval_s / streams - time.perf_counter()))
        connection.send(data, time.perf_counter())
    await over
    return {"events": sum(c.events for c in connections), "seconds": time.perf_counter() - begun_s}


async def hold_silent(port: int, key: str, *, streams: int) -> dict[str, float]:
    """Open streams that say one word and then nothing, and keep them open until standard input has a line."""
    data = request(port, key, stream=True, model="silent")
    connections = []
    for _ in range(streams):
        connections.append(await connect(port, lambda _: None))
        connections[-1].send(data, 0.0)
    async with asyncio.timeout(DRAIN_TIMEOUT_S):
        for connection in connections:
            await connection.first_event.wait()
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return {"streams": streams}


async def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=("json", "rate", "streams", "silent"))
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--key", required=True)
    arguments.add_argument("--core", type=int, required=True)
    arguments.add_argument("--seconds", type=float, default=3)
    arguments.add_argument("--connections", type=int, default=32)
    arguments.add_argument("--per-s", type=float, default=500)
    arguments.add_argument("--events", type=int, default=250)
    arguments.add_argument("--interval-s", type=float, default=0.02)
    given = arguments.parse_args()
    os.sched_setaffinity(0, {given.core})
    port, key = given.port, given.key
    if given.kind == "json":
        result = await closed_loop(port, key, connections=given.connections, seconds=given.seconds)
    elif given.kind == "rate":
        result = await open_loop(port, key, per_s=given.per_s, seconds=given.seconds)
    elif given.kind == "streams":
        result = await read_streams(port, key, streams=given.connections, events=given.events, interval_s=given.interval_s)
    else:
        result = await hold_silent(port, key, streams=given.connections)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
