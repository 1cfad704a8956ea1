"""A real cluster for tests: three primaries, the first with a replica, on the loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PRIMARIES = 3
SLOTS = 16_384
START_TIMEOUT_S = 20.0
NODE_TIMEOUT_MS = 1_000
"""After so long a silent primary counts as failed, and its replica takes over."""


@dataclass(slots=True)
class Node:
    """One server of the cluster."""

    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    @property
    def node_id(self) -> str:
        with self.client() as client:
            answer = client.execute_command("CLUSTER", "MYID")
        return answer.decode() if isinstance(answer, bytes) else str(answer)


@dataclass(slots=True)
class LedgerCluster:
    """A running cluster that forgets everything at `flush`."""

    primaries: list[Node] = field(default_factory=list)
    replica: Node | None = None

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.primaries[0].port},127.0.0.1:{self.primaries[1].port}"

    def flush(self) -> None:
        for node in self.primaries:
            with node.client() as client:
                client.flushall()

    def owner_of(self, slot: int) -> Node:
        """The primary that has a slot by the word of the first that answers."""
        with self.primaries[-1].client() as client:
            rows = client.execute_command("CLUSTER", "SLOTS")
        [port] = [row[2][1] for row in rows if row[0] <= slot <= row[1]]
        return next(node for node in [*self.primaries, *([self.replica] if self.replica else [])] if node.port == port)


@contextlib.contextmanager
def running_cluster(binary: Path, directory: Path) -> Iterator[LedgerCluster]:
    """A cluster of our own, for as long as the context lasts."""
    with contextlib.ExitStack() as processes:
        nodes = [_start(processes, binary, directory / str(n)) for n in range(PRIMARIES + 1)]
        cluster = LedgerCluster(nodes[:PRIMARIES], nodes[PRIMARIES])
        for n, node in enumerate(cluster.primaries):
            with node.client() as client:
                first, last = n * SLOTS // PRIMARIES, (n + 1) * SLOTS // PRIMARIES - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in nodes[1:]:
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            _await(lambda node=node: b"cluster_state:ok" in _info(node) and b"cluster_known_nodes:4" in _info(node))
        with nodes[PRIMARIES].client() as client:
            primary_id = nodes[0].node_id
            _await(lambda: _accepts(client, primary_id))
            _await(lambda: b"master_link_status:up" in _raw(client, "INFO", "replication"))
        yield cluster


def _start(processes: contextlib.ExitStack, binary: Path, directory: Path) -> Node:
    directory.mkdir()
    port = _free_port()
    options = {
        "port": str(port),
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(NODE_TIMEOUT_MS),
        "cluster-announce-ip": "127.0.0.1",
        "bind": "127.0.0.1",
        "appendonly": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
        "repl-diskless-sync-delay": "0",
    }
    command = [str(binary), *(word for key, value in options.items() for word in (f"--{key}", value))]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    processes.callback(process.wait, timeout=START_TIMEOUT_S)
    processes.callback(process.kill)
    node = Node(port, process)
    _await(lambda: _answers(node))
    return node


def _free_port() -> int:
    """A port that is free together with the one 10,000 above it, on which the nodes talk."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port > 55_000:
                continue
            with contextlib.suppress(OSError):
                bus.bind(("127.0.0.1", port + 10_000))
                return port


def _await(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("the cluster did not come up")
        time.sleep(0.02)  # The nodes say nothing when they are ready; asking is the only way to know.


def _answers(node: Node) -> bool:
    with contextlib.suppress(redis.RedisError), node.client() as client:
        return bool(client.ping())
    return False


def _info(node: Node) -> bytes:
    with node.client() as client:
        return _raw(client, "CLUSTER", "INFO")


def _raw(client: redis.Redis, *words: str) -> bytes:
    """What the server says, before the library makes an object of it."""
    client.response_callbacks.clear()
    answer = client.execute_command(*words)
    assert isinstance(answer, bytes)
    return answer


def _accepts(client: redis.Redis, primary_id: str) -> bool:
    with contextlib.suppress(redis.ResponseError):  # it has not heard of its primary yet
        client.execute_command("CLUSTER", "REPLICATE", primary_id)
        return True
    return False
