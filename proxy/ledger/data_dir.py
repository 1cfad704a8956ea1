"""The data directory of an embedded ledger: who holds it, and where things are in it.

`proxy.lock` is held by the one proxy that runs on the directory and says who that is. `server.lock` is inherited and held by
the ledger server itself, so that a server left behind by an earlier life is noticed with certainty and ended before another
starts: no two servers ever write one append-only file. Must not know how the server is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from proxy.errors import SetupError

log = logging.getLogger(__name__)

SOCKET_PATH_BYTES_MAX: Final = 100  # sun_path has 104 bytes on macOS, 108 on Linux, with a zero at the end
LOCK_ATTEMPTS: Final = 5
LOCK_PAUSE_S: Final = 0.02
STOP_DEADLINE_S: Final = 15.0


def running_url(directory: Path) -> str | None:
    """Where the ledger of the proxy that runs on this directory listens; None where none runs."""
    try:
        fd = os.open(directory / "proxy.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.closing(os.fdopen(fd)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            lines = file.read().splitlines()
            return url_of(Path(lines[1])) if len(lines) > 1 else None
    return None


def lock(directory: Path) -> int:
    """The descriptor that holds the directory's lock for as long as it is open."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_file = directory / "proxy.lock"
        if lock_file.exists() or not any(directory.iterdir()):
            with contextlib.suppress(PermissionError):  # a mounted volume is someone else's; the files in it are private anyway
                directory.chmod(0o700)
        fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"the data directory {directory} cannot be used: {error.strerror}") from error
    for _ in range(LOCK_ATTEMPTS):  # `running_url` shares the lock for an instant
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
    holder = os.pread(fd, 4096, 0).decode().partition("\n")[0]
    os.close(fd)
    raise SetupError(f"the data directory {directory} is in use by another proxy (process {holder or 'unknown'})")


def note_holder(lock_fd: int, socket: Path) -> None:
    """Write into a held lock who holds it and where its ledger listens."""
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{os.getpid()}\n{socket}\n".encode(), 0)


def url_of(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


def choose_socket(directory: Path) -> Path:
    """A place whose path fits a socket's address: in the directory itself, else in one named after it among temporary files."""
    socket = directory / "ledger.sock"
    if len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX:
        return socket
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"compute-ledger-{os.getuid()}-{name}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SetupError(f"the ledger's socket cannot go to {place}, which is not private; shorten the data directory's path")
    return place / "ledger.sock"


async def take_over(directory: Path) -> int:
    """The server's lock, once no server holds it: one that an earlier life left behind is stopped first."""
    fd = os.open(directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    began, sent = time.monotonic(), 0
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                return fd
            waited_s = time.monotonic() - began
            holder = os.pread(fd, 64, 0).decode().strip()
            if waited_s > 2 * STOP_DEADLINE_S:
                raise SetupError(f"another ledger server (process {holder or 'unknown'}) holds {directory} and does not end")
            wanted = signal.SIGTERM if waited_s < STOP_DEADLINE_S else signal.SIGKILL
            if holder and sent != wanted:
                log.warning("a ledger server of an earlier life (process %s) still runs; ending it", holder)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(holder), wanted)
                sent = wanted
            await asyncio.sleep(0.05)
    except BaseException:
        os.close(fd)
        raise
