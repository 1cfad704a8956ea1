"""The benchmark's upstream: canned chat completions from an `asyncio.Protocol`, so that it is never what limits a run.

A request whose body asks for a stream gets `max_tokens` events at the interval; the model `silent` sends one and then nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from typing import cast

EVENT = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
USAGE = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":[],'
    b'"usage":{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":%d}}\n\n'
)
DONE = b"data: [DONE]\n\n"
ANSWER_BYTES = 420

_body = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%s"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":20,"completion_tokens":16,"total_tokens":36}}'
)
BODY = _body % (b"x" * (ANSWER_BYTES - len(_body) + 2))
JSON_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


EVENT_CHUNK = chunk(EVENT)


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            size = int(length.group(1)) if length else 0
            if len(rest) < size:
                return
            self._buffer = rest[size:]
            self._answer(rest[:size])

    def _answer(self, body: bytes) -> None:
        if not re.search(rb'"stream": *true', body):
            self._transport.write(JSON_ANSWER)
            return
        count = re.search(rb'"max_tokens": *(\d+)', body)
        assert count is not None
        self._transport.write(STREAM_HEAD + EVENT_CHUNK)
        if b'"silent"' in body:
            return
        total, wants_usage = int(count.group(1)), b'"include_usage"' in body
        self._schedule(self._loop.time(), 1, total, wants_usage)

    def _schedule(self, previous_s: float, sent: int, total: int, wants_usage: bool) -> None:
        due_s = previous_s + self._interval_s
        self._timer = self._loop.call_at(due_s, self._step, due_s, sent, total, wants_usage)

    def _step(self, due_s: float, sent: int, total: int, wants_usage: bool) -> None:
        if sent < total:
            self._transport.write(EVENT_CHUNK)
            self._schedule(due_s, sent + 1, total, wants_usage)
            return
        usage = chunk(USAGE % (total, 20 + total)) if wants_usage else b""
        self._transport.write(usage + chunk(DONE) + b"0\r\n\r\n")


async def serve(interval_s: float) -> None:
    """Serve until standard input closes; says the port first."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(interval_s), "127.0.0.1", 0, backlog=4096)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    arguments = argparse.ArgumentParser()
    arguments.add_argument("--interval-s", type=float, default=0.02)
    uvloop.run(serve(arguments.parse_args().interval_s))
