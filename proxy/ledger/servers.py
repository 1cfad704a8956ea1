"""Which server a command goes to: the only one there is, or that primary of a cluster that has its key's slot.

Every primary has two connections: one for what must be prompt, one for what waits until it is on disk. Knows no command but those that
ask a cluster for its map.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.crc import key_slot
from redis.exceptions import RedisError

from proxy.errors import LedgerUnavailable
from proxy.ledger.wire import Connect, ConnectionLost, ServerError, Wire

SLOTS = 16_384
LEARN_AGAIN_S = 0.2
"""How often at most the cluster is asked for its map, while it answers that keys have moved, or nothing."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Server:
    """One primary, and this process's connections to it."""

    prompt: Wire
    durable: Wire

    @classmethod
    def at(cls, connect: Connect, *, deadline_s: float, fsync_wait_s: float) -> Server:
        return cls(Wire(connect, deadline_s=deadline_s / 2), Wire(connect, deadline_s=deadline_s + fsync_wait_s))

    def start(self) -> None:
        self.prompt.start()
        self.durable.start()

    async def close(self) -> None:
        await asyncio.gather(self.prompt.close(), self.durable.close())


class Servers(Protocol):
    """Where commands go."""

    @property
    def connect(self) -> Connect:
        """What opens a connection to any of them; messages that are published reach each."""
        ...

    @property
    def primaries(self) -> Sequence[Server]: ...

    @property
    def is_one(self) -> bool:
        """Whether all commands go over one connection, and so arrive in the order in which they are sent."""
        ...

    async def start(self) -> None:
        """Raises LedgerUnavailable where nobody answers."""
        ...

    async def close(self) -> None: ...

    def of(self, key: str) -> Server:
        """The server that has a key. Raises LedgerUnavailable where the map of the cluster names none."""
        ...

    def asked_instead(self, error: ServerError) -> Server | None:
        """Whom to ask, this once, where a key is on its way from one server to another; None for any other answer."""
        ...

    async def learn_again(self) -> None:
        """A server was lost, or no longer has a key: ask anew who has what, if there is more than one."""
        ...


class OneServer:
    """A server that has everything; whichever that is at present, where a Sentinel says."""

    is_one = True

    def __init__(self, connect: Connect, *, deadline_s: float, fsync_wait_s: float) -> None:
        self.connect = connect
        self._server = Server.at(connect, deadline_s=deadline_s, fsync_wait_s=fsync_wait_s)
        self.primaries: Sequence[Server] = (self._server,)

    async def start(self) -> None:
        self._server.start()

    async def close(self) -> None:
        await self._server.close()

    def of(self, key: str) -> Server:
        return self._server

    def asked_instead(self, error: ServerError) -> None:
        return None

    async def learn_again(self) -> None:
        """There is nobody else to ask."""


class Cluster:
    """The primaries of a Redis or Valkey cluster, as one of its nodes last told."""

    is_one = False

    def __init__(
        self, seeds: Sequence[Address], connect_to: Callable[[Address], Connect], *, deadline_s: float, fsync_wait_s: float
    ) -> None:
        self._seeds = tuple(seeds)
        self._connect_to = connect_to
        self._deadline_s = deadline_s
        self._fsync_wait_s = fsync_wait_s
        self._servers: dict[Address, Server] = {}
        self._by_slot: list[Server | None] = [None] * SLOTS
        self._learning: asyncio.Task[None] | None = None
        self._learned_s = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def primaries(self) -> Sequence[Server]:
        return tuple(self._servers.values())

    async def start(self) -> None:
        await self._learn()
        if not self._servers:
            raise LedgerUnavailable("no node of the ledger's cluster answers")

    async def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait((self._learning,))
        await asyncio.gather(*(server.close() for server in self._servers.values()), *self._closing)

    async def connect(self) -> Any:
        """A connection to the first node that takes one. Raises what the last one did."""
        addresses = list(dict.fromkeys((*self._servers, *self._seeds)))
        for address in addresses[:-1]:
            try:
                return await self._connect_to(address)()
            except (OSError, TimeoutError, RedisError):
                continue
        return await self._connect_to(addresses[-1])()

    def of(self, key: str) -> Server:
        server = self._by_slot[key_slot(key.encode())]
        if server is None:
            raise LedgerUnavailable("no node of the ledger's cluster has this part of the keys")
        return server

    def asked_instead(self, error: ServerError) -> Server | None:
        if error.code != "ASK":
            return None
        host, _, port = str(error).rpartition(" ")[2].rpartition(":")
        return self._servers.get((host, int(port)))

    async def learn_again(self) -> None:
        if self._learning is None or self._learning.done():
            if time.monotonic() - self._learned_s < LEARN_AGAIN_S:
                return
            self._learned_s = time.monotonic()
            self._learning = asyncio.get_running_loop().create_task(self._learn(), name="ledger-cluster")
        await asyncio.shield(self._learning)

    async def _learn(self) -> None:
        """Take over the map of the first node that gives one; where none does, the old one stays."""
        for address in list(dict.fromkeys((*self._servers, *self._seeds))):
            known = self._servers.get(address)
            server = known or self._open(address)
            try:
                rows = await server.prompt.send("CLUSTER", "SLOTS")
            except (ConnectionLost, ServerError, LedgerUnavailable):
                continue
            finally:
                if known is None:
                    self._retire(server)
            if rows:
                self._take_over(rows, told_by=address)
                return

    def _take_over(self, rows: Sequence[Sequence[Any]], *, told_by: Address) -> None:
        """Each row: the first slot, the last, the primary's host and port; further members are its replicas."""
        before, by_slot = self._servers, list[Server | None]([None] * SLOTS)
        self._servers = {}
        for first, last, (host, port, *_), *_ in rows:
            address = (host.decode() if host else told_by[0], port)  # a node that was never told its own name leaves it out
            server = self._servers.get(address) or before.get(address) or self._open(address)
            self._servers[address] = server
            by_slot[first : last + 1] = [server] * (last + 1 - first)
        self._by_slot = by_slot
        for address, server in before.items():
            if address not in self._servers:
                self._retire(server)

    def _open(self, address: Address) -> Server:
        server = Server.at(self._connect_to(address), deadline_s=self._deadline_s, fsync_wait_s=self._fsync_wait_s)
        server.start()
        return server

    def _retire(self, server: Server) -> None:
        task = asyncio.get_running_loop().create_task(server.close(), name="ledger-node")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
