"""Carries the ledger's calls out: scripts, repeats within the deadline, the servers' clock, durability.

Everything sent through here is safe to repeat, because every verb knows its id; so a lost answer is asked for again until the deadline,
and only then is the ledger unavailable. Knows scripts by name and replies by their first word, but no rule of any budget.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxy.errors import LedgerUnavailable
from proxy.ledger import scripts
from proxy.ledger.servers import Server, Servers
from proxy.ledger.wire import Connect, ConnectionLost, ServerError, Wire, packed

NOT_CARRIED_OUT = frozenset({"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "NOREPLICAS"})
"""Answers that say: not now, nothing was done."""
MOVED = frozenset({"MOVED", "ASK"})
"""Answers that say: another server of the cluster has it, or is about to."""
KEYLESS = frozenset({"INFO", "PING", "TIME"})
"""Commands that any server may be asked."""
REPEAT_PAUSE_S = 0.01
FSYNC_WAIT_MS = 2_000

Observe = Callable[[str, float], None]
Command = tuple[str | bytes | int, ...]
Load = tuple[str | bytes, ...]
"""The command that loads what a call runs."""


class Call:
    """What a path decides of every call on it: how many keys, and, packed once, the keys behind the first and the levels."""

    __slots__ = ("forms", "keys", "packed")

    def __init__(self, keys: int, packed: bytes) -> None:
        self.keys = keys
        self.packed = packed
        self.forms: dict[tuple[str, int, int], bytes] = {}
        """Its commands, with places for what each call has of its own: by verb, number of values, and what was learnt of the servers."""

    @classmethod
    def on(cls, keys_behind: Sequence[str], levels: bytes) -> Call:
        return cls(1 + len(keys_behind), packed(*keys_behind, levels))


def _ignore(_verb: str, _duration_s: float) -> None:
    return None


class Engine:
    """One process's way to the ledger's server, or to its servers."""

    def __init__(self, servers: Servers, *, deadline_s: float, now_ms: Callable[[], int] | None = None, observe: Observe = _ignore) -> None:
        self._servers = servers
        self._deadline_s = deadline_s
        self._simulated_now_ms = now_ms
        self._clock_offset_ms = 0.0
        self._clock_known = False
        self._flags = False
        self._functions = False
        self._learnt = 0
        """How often it was learnt what the servers can do; commands that were formed before are of no use any more."""
        self._can_fsync = False
        self.observe = observe

    @property
    def connect(self) -> Connect:
        """What opens one more connection, on which all that is published is heard."""
        return self._servers.connect

    async def start(self) -> None:
        """Connect and learn the servers' version and clock. Raises LedgerUnavailable."""
        await self._servers.start()
        await self.learn_servers()

    async def learn_servers(self) -> None:
        """What all of them can do: of several, the least that one of them can."""
        versions = [_version(information) for information in await self.everywhere("INFO", "server")]
        persistence = await self.everywhere("INFO", "persistence")
        self._flags = min(versions) >= (7, 0)
        self._functions = self._flags and await self._load_functions()
        self._learnt += 1
        self._can_fsync = min(versions) >= (7, 2) and all(field(text.decode(), "aof_enabled") == "1" for text in persistence)
        seconds, microseconds = await self.command("TIME")
        self._set_clock(int(seconds) * 1000 + int(microseconds) // 1000)

    async def _load_functions(self) -> bool:
        """Whether the verbs could be loaded as functions; a server may forbid it, and scripts do the same."""
        try:
            await asyncio.gather(*(server.prompt.send(*scripts.functions().load) for server in self._servers.primaries))
        except ServerError:
            return False
        except ConnectionLost as error:
            raise LedgerUnavailable from error
        return True

    async def close(self) -> None:
        await self._servers.close()

    def now_ms(self) -> int:
        """The server's clock as last heard, or the simulated one."""
        if self._simulated_now_ms is not None:
            return self._simulated_now_ms()
        return int(time.monotonic() * 1000 + self._clock_offset_ms)

    def _set_clock(self, server_ms: int) -> None:
        offset_ms = server_ms - time.monotonic() * 1000
        # Answers travel: of several that nearly agree the largest was the fastest; a jump of the server's clock is followed.
        if not self._clock_known or offset_ms > self._clock_offset_ms or self._clock_offset_ms - offset_ms > 50:
            self._clock_offset_ms = offset_ms
            self._clock_known = True

    async def run(
        self,
        verb: str,
        first_key: str,
        call: Call,
        values: Sequence[str | bytes | int],
        *,
        before: Sequence[Command] = (),
        durable: bool = False,
    ) -> list[Any]:
        """One verb: the script's answer, its first word as text. `values` begin with the id.

        `before` are plain commands that are sent right in front of it, in the same write. With `durable` the answer waits until the
        server has it on disk, where the server can say so. Raises LedgerUnavailable.
        """
        form = call.forms.get((verb, len(values), self._learnt)) or self._form(verb, call, len(values))
        words: list[bytes | int] = []
        for value in (first_key, "" if self._simulated_now_ms is None else self._simulated_now_ms(), *values):
            word = value if isinstance(value, bytes) else str(value).encode()
            words += (len(word), word)
        command = form % tuple(words)
        reply: list[Any]
        if durable or before:
            reply = await self._observed(verb, first_key, command, before, durable=durable)
        else:  # the common way, without one more coroutine
            began_s = time.monotonic()
            wire = self._servers.of(first_key).prompt
            try:
                reply = await wire.send_packed(command)
            except (ConnectionLost, ServerError) as error:
                reply = await self._repeat_until_deadline(wire, first_key, command, verb, (), error, durable=False)
            finally:
                self.observe(verb, time.monotonic() - began_s)
        reply[0] = reply[0].decode()
        self._set_clock(reply[1])
        return reply

    def _form(self, verb: str, call: Call, values: int) -> bytes:
        """A verb's command but for its first key, the time and the values. To fill it in costs a sixth of packing it word by word."""
        if self._functions:
            how = ("FCALL", scripts.functions(verb).prefix + verb)
        else:
            how = ("EVALSHA", scripts.script(verb, flags=self._flags).sha)
        head = b"*%d\r\n" % (3 + call.keys + 2 + values) + packed(*how, call.keys)
        place = b"$%d\r\n%b\r\n"
        form = b"".join((head.replace(b"%", b"%%"), place, call.packed.replace(b"%", b"%%"), place * (1 + values)))
        call.forms[verb, values, self._learnt] = form
        return form

    def _load(self, verb: str) -> Load:
        if self._functions and verb not in scripts.STANDALONE:
            return scripts.functions(verb).load
        return scripts.script(verb, flags=self._flags).load

    async def script(self, name: str, keys: Sequence[str], values: Sequence[bytes | str | int], *, durable: bool = False) -> Any:
        """One script that stands alone, by name. Raises LedgerUnavailable."""
        sha = scripts.script(name, flags=self._flags).sha
        return await self._observed(name, keys[0], ("EVALSHA", sha, len(keys), *keys, *values), (), durable=durable)

    async def _observed(self, name: str, key: str, command: Command | bytes, before: Sequence[Command], *, durable: bool) -> Any:
        began = time.monotonic()
        try:
            reply = await self._repeat(key, command, name, before, durable=durable)
            if durable and self._can_fsync:
                await self._repeat(key, ("WAITAOF", 1, 0, FSYNC_WAIT_MS), durable=True)
            return reply
        finally:
            self.observe(name, time.monotonic() - began)

    async def command(self, *command: str | bytes | int) -> Any:
        """A plain command on one key that is safe to repeat. Raises LedgerUnavailable."""
        return await self._repeat(_key_of(command), command)

    async def commands(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        """Several plain commands, each on one key, in one round trip."""
        return list(await asyncio.gather(*(self._repeat(_key_of(command), command) for command in commands)))

    async def everywhere(self, *command: str | bytes | int) -> list[Any]:
        """What each server answers to a question about itself. Raises LedgerUnavailable."""
        ends_s = time.monotonic() + self._deadline_s
        while True:
            try:
                return list(await asyncio.gather(*(server.prompt.send(*command) for server in self._servers.primaries)))
            except ServerError as error:
                raise LedgerUnavailable(f"the ledger answered: {error}") from error
            except ConnectionLost as error:
                if time.monotonic() >= ends_s:
                    raise LedgerUnavailable("the ledger does not answer within the deadline") from error
            await asyncio.sleep(REPEAT_PAUSE_S)
            await self._servers.learn_again()

    async def _repeat(
        self, key: str, command: Command | bytes, name: str = "", before: Sequence[Command] = (), *, durable: bool = False
    ) -> Any:
        """A command until it is answered; `name` where it is a script, which may have to be loaded."""
        if before and not self._servers.is_one:
            for other in before:  # they go to several servers, so nothing else would keep the order
                await self.command(*other)
            before = ()
        wire = self._wire(self._servers.of(key), durable=durable)
        try:
            return await self._send(wire, command, before)
        except (ConnectionLost, ServerError) as error:
            return await self._repeat_until_deadline(wire, key, command, name, before, error, durable=durable)

    def _wire(self, server: Server, *, durable: bool) -> Wire:
        return server.durable if durable else server.prompt

    def _send(self, wire: Wire, command: Command | bytes, before: Sequence[Command]) -> asyncio.Future[Any]:
        for other in before:
            wire.send(*other).add_done_callback(_retrieve)
        return wire.send_packed(command) if isinstance(command, bytes) else wire.send(*command)

    async def _repeat_until_deadline(
        self, wire: Wire, key: str, command: Command | bytes, name: str, before: Sequence[Command], error: Exception, *, durable: bool
    ) -> Any:
        """The slow way, once something went wrong; kept apart so that the common way is one await."""
        ends_s = time.monotonic() + self._deadline_s
        while True:
            elsewhere: Server | None = None
            if isinstance(error, ServerError):
                elsewhere = self._servers.asked_instead(error)
                if name and (error.code == "NOSCRIPT" or "Function not found" in str(error)):
                    wire.send(*self._load(name)).add_done_callback(_retrieve)
                elif error.code in MOVED and elsewhere is None and not self._servers.is_one:
                    await self._servers.learn_again()
                    await asyncio.sleep(REPEAT_PAUSE_S)
                elif error.code in NOT_CARRIED_OUT:
                    await asyncio.sleep(REPEAT_PAUSE_S)
                elif elsewhere is None:
                    raise LedgerUnavailable(f"the ledger answered: {error}") from error
            else:
                await asyncio.sleep(REPEAT_PAUSE_S)
                await self._servers.learn_again()
            if time.monotonic() >= ends_s:
                raise LedgerUnavailable("the ledger does not answer within the deadline") from error
            wire = self._wire(elsewhere or self._servers.of(key), durable=durable)
            try:
                return await self._send(wire, command, before if elsewhere is None else (*before, ("ASKING",)))
            except (ConnectionLost, ServerError) as again:
                error = again


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Take note of an answer that nobody waits for."""
    if not answer.cancelled():
        answer.exception()


def _key_of(command: Command) -> str:
    """The key that a plain command is about; of what is about none, any."""
    word = command[command.index("STREAMS") + 1] if command[0] == "XREAD" else "" if command[0] in KEYLESS else command[1]
    assert isinstance(word, str), "keys are text"
    return word


def _version(information: bytes) -> tuple[int, ...]:
    text = information.decode()
    version = field(text, "valkey_version") or field(text, "redis_version") or "0"
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def field(information: str, name: str) -> str | None:
    """One line of what INFO says; None where it is not there."""
    for line in information.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value
    return None
