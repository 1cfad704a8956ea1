"""Ways to the ledger's server: a password, TCP, Sentinel; and clear words where the way is wrong."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from proxy import config
from proxy.errors import LedgerUnavailable, SetupError
from proxy.ledger import open_ledger
from tests.support.ledger_server import ledger_binaries

BINARY = next(iter(ledger_binaries().values()))
START_S = 20.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def server(directory: Path, *options: str) -> Iterator[int]:
    """A server on a TCP port of its own; gives the port."""
    port = free_port()
    command = [str(BINARY), *options, "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.01)  # Nothing tells when it listens; asking is the only way to know.
        yield port
    finally:
        process.terminate()
        process.wait(timeout=START_S)


async def test_a_password_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right one it opens; without, it is a failure that says so."""
    with server(tmp_path, "--requirepass", "open sesame", "--save", "") as port:
        url = f"redis://127.0.0.1:{port}/0"
        monkeypatch.setenv("LEDGER_PASSWORD", "open sesame")
        async with open_ledger(config.LedgerSection(url=url, password_env="LEDGER_PASSWORD")) as store:
            await store.ping()
        with pytest.raises(LedgerUnavailable):
            async with open_ledger(config.LedgerSection(url=url, deadline_ms=200)):
                pass


async def test_sentinel_tells_where_the_primary_is(tmp_path: Path) -> None:
    """The URL names the sentinels and the service; calls arrive at the primary, and a replica is told from it."""
    with server(tmp_path, "--save", "") as primary, server(tmp_path, "--save", "", "--replicaof", f"127.0.0.1 {primary}") as replica:
        file = tmp_path / "sentinel.conf"
        file.write_text(f"sentinel monitor ledger 127.0.0.1 {primary} 1\n")
        with server(tmp_path, str(file), "--sentinel") as sentinel:
            url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel}/ledger"
            async with open_ledger(config.LedgerSection(url=url, deadline_ms=5000)) as store:
                await store.engine.command("SET", "probe", "1")
                assert await store.check() == []
        with redis.Redis(port=primary) as client:
            assert client.get("probe") == b"1"
        async with open_ledger(config.LedgerSection(url=f"redis://127.0.0.1:{replica}")) as store:
            [problem] = await store.check()
            assert "replica" in problem


@pytest.mark.parametrize("url", ["redis+sentinel://host:1", "redis+sentinel://host/name", "redis+sentinel:///name"])
async def test_a_sentinel_url_without_hosts_or_name_is_a_clear_error(url: str) -> None:
    """It is refused before anything is tried."""
    with pytest.raises(SetupError, match="redis\\+sentinel://host:port"):
        async with open_ledger(config.LedgerSection(url=url)):
            pass


async def test_no_server_is_a_failure_within_the_deadline() -> None:
    """Nothing listens there: LedgerUnavailable, not a hang."""
    began_s = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        async with open_ledger(config.LedgerSection(url=f"redis://127.0.0.1:{free_port()}", deadline_ms=300)):
            pass
    assert time.monotonic() - began_s < 3
