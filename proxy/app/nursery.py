"""The nursery of our workers: importing this loads all that a worker needs."""

from __future__ import annotations

import gc
import socket
from contextlib import AbstractContextManager

from proxy.app import worker
from proxy.processes.forking import tend
from proxy.processes.nursery import Nursery


def forked() -> AbstractContextManager[Nursery]:
    """It and the parent part here: before any thread, loop or connection."""
    return Nursery.forked(worker.run)


def run(requests_fd: int) -> int:
    """Be the nursery in place of one that died; the exit code."""
    gc.freeze()
    return tend(socket.socket(fileno=requests_fd), worker.run)
