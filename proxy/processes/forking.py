"""Inside the nursery: a process of one thread that has loaded all that a worker needs, and forks one whenever it is asked to.

A fork has nothing to load and shares the nursery's memory. The nursery owns no connection, no key and no state; it holds what it
passes on to a worker for as long as it takes to fork, and ends with the parent, its only caller. It is the workers' parent to the
operating system, so it is who tells how they ended. Must not know what workers do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from proxy.processes.channel import Message

NURSERY_TITLE: Final = "ledger-nursery"
WORKER_TITLE: Final = "ledger-worker"
"""What `top`, `pstree` and `ps -o comm` call them, on Linux; no more than fifteen characters."""
FDS_MAX: Final = 16
REQUEST_BYTES_MAX: Final = 1024

Work = Callable[[int], int]
"""What a worker does, given the descriptor of its channel; its exit code."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[int]).decode


def request(fds: Sequence[int]) -> bytes:
    """What goes with the descriptors themselves: the numbers that the worker is to have them under, its channel first."""
    return _encode(fds)


def tend(requests: socket.socket, work: Work) -> int:
    """Fork a worker for each request, and tell how each ended, until nobody is left who could ask; the exit code."""
    os.setsid()  # a terminal's signals are for the parent
    _call_this_process(NURSERY_TITLE)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    deaths, death = socket.socketpair()
    with deaths, death:
        deaths.setblocking(False)
        death.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only signals that are handled wake who waits
        signal.set_wakeup_fd(death.fileno(), warn_on_full_buffer=False)
        with contextlib.suppress(ConnectionError):  # the parent is gone
            while True:
                ready, _, _ = select.select([requests, deaths], [], [])
                if requests in ready and not _answer(requests, work, (requests, deaths, death)):
                    break
                with contextlib.suppress(BlockingIOError):
                    deaths.recv(4096)
                _tell_ends(requests)
    return 0


def end_after(act: Callable[[], int]) -> NoReturn:
    """What a forked process does, and its end; what had begun where it was forked from is not for it to finish."""
    code = 1
    try:
        code = act()
    except BaseException:  # noqa: BLE001  # the outermost edge of this process
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _answer(requests: socket.socket, work: Work, own: Sequence[socket.socket]) -> bool:
    """Fork one worker; False where nobody can ask any more."""
    asked, given, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, FDS_MAX)
    if not asked:
        return False
    try:
        pid = os.fork()
    except OSError as error:  # no more processes, or no more memory
        answer: Message = {"is": "refused", "reason": os.strerror(error.errno or 0)}
    else:
        if not pid:
            end_after(lambda: _live(work, own, given, _decode(asked)))
        answer = {"is": "born", "pid": pid}
    for fd in given:
        os.close(fd)
    _tell(requests, answer)
    return True


def _live(work: Work, own: Sequence[socket.socket], given: Sequence[int], numbers: Sequence[int]) -> int:
    """In the worker: as if it had been started on its own, with these descriptors and no others."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    _call_this_process(WORKER_TITLE)
    for ours in own:
        ours.close()
    beyond = max(*given, *numbers) + 1  # where neither what came nor what it is to be is in the way
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for fd in given]
    for fd in given:
        os.close(fd)
    for fd, place in zip(moved, numbers, strict=True):
        os.dup2(fd, place, inheritable=False)
        os.close(fd)
    return work(numbers[0])


def _call_this_process(title: str) -> None:
    with contextlib.suppress(OSError):  # elsewhere it is called as the parent is
        Path("/proc/self/comm").write_text(title)


def _tell_ends(requests: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):  # there is none
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(requests, {"is": "ended", "pid": ended[0], "status": os.waitstatus_to_exitcode(ended[1])})


def _tell(requests: socket.socket, message: Message) -> None:
    requests.sendall(_encode(message) + b"\n")
