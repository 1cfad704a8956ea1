"""One connection to the ledger's server that carries everything a loop tick has pending in one write.

redis-py connects (URLs, TLS, passwords, Sentinel); from then on commands are packed and answers parsed by hiredis alone, because a
pipeline costs a third of single calls (see the README's decisions). Knows nothing of budgets. It repeats nothing by itself: whether a
call may be repeated is its sender's knowledge.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from proxy.errors import LedgerUnavailable

PENDING_MAX = 20_000
"""Calls under way at once; more means that the server is far behind, and waiting would only make it worse."""
READ_BYTES = 1 << 16
SENT_TOGETHER_MAX = 8
"""So many calls go out at once, even in the midst of a loop tick: the server works on them while more are made."""
CANCEL_AGAIN_S = 0.1
RECONNECT_PAUSE_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)

Connect = Callable[[], Awaitable[AbstractConnection]]


class ConnectionLost(Exception):
    """The answer will not come; whether the call was carried out is not known."""


class ServerError(Exception):
    """The server answered with an error; the call was not carried out. `code` is the first word of it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


def packed(*values: str | bytes | int) -> bytes:
    """Words of a command as they go over the wire; `b"".join` of such parts behind a head makes a command."""
    parts = []
    for value in values:
        if isinstance(value, str):
            value = value.encode()
        elif isinstance(value, int):
            value = b"%d" % value
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


class Streams(Protocol):
    """What redis-py keeps of a connection."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter


Waiting = deque[tuple[float, asyncio.Future[Any]]]
"""Calls in the order in which they were sent: until when each is to be answered, and the answer."""


class Answers(asyncio.Protocol):
    """Gives what arrives on a connection to whoever waits for it, as soon as it arrives."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._reader = hiredis.Reader(replyError=ServerError)
        self.over = asyncio.get_running_loop().create_future()
        """Done when nothing that may still come is an answer."""
        self.any_came = False

    def data_received(self, data: bytes) -> None:
        if self.over.done():
            return
        self.any_came = True
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if not self._waiting:
                    self.end()
                    return
                _, answer = self._waiting.popleft()
                if answer.done():
                    continue
                if isinstance(reply, ServerError):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
        except hiredis.ProtocolError:
            self.end()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.end()

    def end(self) -> None:
        """Take no more."""
        if not self.over.done():
            self.over.set_result(None)


class Wire:
    """Sends commands in order and gives each its answer."""

    def __init__(self, connect: Connect, *, deadline_s: float) -> None:
        self._connect = connect
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._waiting: Waiting = deque()
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._answers: Answers | None = None
        self._flush_due = False
        self._watch: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self.connected = asyncio.Event()

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        self._keeper = self._loop.create_task(self._keep_connected(), name="ledger-wire")

    async def close(self) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        while self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()  # again and again: a library that is connecting may swallow one
            await asyncio.wait((self._keeper,), timeout=CANCEL_AGAIN_S)
        await self._drop()

    def send(self, *command: str | bytes | int) -> asyncio.Future[Any]:
        """As `send_packed`."""
        return self.send_packed(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows one-word commands only

    def send_packed(self, command: bytes) -> asyncio.Future[Any]:
        """Queue a command for the end of this tick; its answer, or ConnectionLost, ServerError.

        Raises LedgerUnavailable at once where too much is pending.
        """
        if len(self._waiting) >= PENDING_MAX or self._closed:
            raise LedgerUnavailable("the ledger is too far behind")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._unsent.append(command)
        self._waiting.append((self._loop.time() + self._deadline_s, answer))
        if len(self._unsent) >= SENT_TOGETHER_MAX:
            self._send_unsent()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if self._watch is None:
            self._watch = self._loop.call_later(self._deadline_s, self._check_deadline)
        return answer

    def _flush(self) -> None:
        self._flush_due = False
        self._send_unsent()

    def _send_unsent(self) -> None:
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent) if len(self._unsent) > 1 else self._unsent[0])
            self._unsent.clear()

    def _check_deadline(self) -> None:
        """Answers come in order, so the oldest call tells: when it is late, the connection is given up."""
        self._watch = None
        if not self._waiting:
            return
        late_in_s = self._waiting[0][0] - self._loop.time()
        if late_in_s > 0:
            self._watch = self._loop.call_later(late_in_s + 0.001, self._check_deadline)
        else:
            self._fail_all(ConnectionLost("no answer within the deadline"))
            if self._transport is not None and self._answers is not None:
                self._answers.end()  # what still arrives answers calls that have failed already
                self._transport.abort()
                self._transport = None

    def _fail_all(self, error: ConnectionLost) -> None:
        failed = [answer for _, answer in self._waiting]
        self._waiting.clear()
        self._unsent.clear()
        for answer in failed:
            if not answer.done():
                answer.set_exception(error)

    async def _keep_connected(self) -> None:
        attempt = 0
        while not self._closed:
            await asyncio.sleep(RECONNECT_PAUSE_S[min(attempt, len(RECONNECT_PAUSE_S) - 1)])
            attempt += 1
            try:
                async with asyncio.timeout(self._deadline_s):
                    self._connection = await self._connect()
            except (OSError, TimeoutError, RedisError):
                continue
            try:
                attempt = 1 if await self._take_answers(self._connection) else attempt
            finally:
                await self._drop()

    async def _take_answers(self, connection: AbstractConnection) -> bool:
        """Serve until the connection ends; whether it ever answered."""
        streams = cast(Streams, connection)
        transport = streams._writer.transport
        if transport.is_closing() or streams._reader.at_eof():
            return False
        self._answers = answers = Answers(self._waiting)
        transport.set_protocol(answers)  # redis-py has no part in it any more, so nothing is passed on through streams and tasks
        self._transport = transport
        self.connected.set()
        self._flush()
        await answers.over
        return answers.any_came

    async def _drop(self) -> None:
        self.connected.clear()
        self._transport = self._answers = None
        connection, self._connection = self._connection, None
        self._fail_all(ConnectionLost("the connection to the ledger was lost"))
        if connection is not None:
            with contextlib.suppress(OSError, RedisError):
                await connection.disconnect(nowait=True)
