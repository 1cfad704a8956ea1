"""The port that all workers share.

On Linux the parent reserves the address with a socket that never listens, and each worker listens on a socket of its own beside
it (SO_REUSEPORT): the kernel spreads connections evenly. Elsewhere that option does not spread, so the parent listens and the
workers accept from the socket they inherit. Must not know what is served.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.errors import SetupError

BACKLOG = 2048
SPREADS_BY_KERNEL = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class SharedPort:
    """An address that is ours, and what a worker needs to listen on it."""

    host: str
    port: int
    inherited_fd: int | None
    """The listening socket to inherit, where each worker cannot have its own."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 host may stand in brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def reserve(address: str, *, spreads_by_kernel: bool = SPREADS_BY_KERNEL) -> Iterator[SharedPort]:
    """Keep an address for our workers as long as the context lasts; port 0 is chosen now. Raises SetupError where it is taken."""
    family, place = _resolve(address)
    try:
        # Without SO_REUSEPORT, which would let two proxies share a port unnoticed.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            host, port = probe.getsockname()[:2]
        reserved = _bound(family, (host, port), shared=spreads_by_kernel)
    except OSError as error:
        raise SetupError(f"cannot listen on {address}: {os.strerror(error.errno or 0)}") from error
    with reserved:
        if not spreads_by_kernel:
            reserved.listen(BACKLOG)
        yield SharedPort(host, port, None if spreads_by_kernel else reserved.fileno())


def listen(port: SharedPort) -> socket.socket:
    """A worker's listening socket. Raises SetupError."""
    if port.inherited_fd is not None:
        return socket.socket(fileno=port.inherited_fd)
    try:
        family, place = _resolve(join_address(port.host, port.port))
        listening = _bound(family, place, shared=True)
        listening.listen(BACKLOG)
    except OSError as error:
        raise SetupError(f"cannot listen on {join_address(port.host, port.port)}: {os.strerror(error.errno or 0)}") from error
    return listening


def _resolve(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SetupError(f"cannot listen on {address}: the host is not known") from error
    family, _, _, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)  # localhost is both; clients try this one
    return family, (str(place[0]), int(place[1]))


def _bound(family: socket.AddressFamily, place: tuple[str, int], *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(place)
    except BaseException:
        bound.close()
        raise
    return bound
