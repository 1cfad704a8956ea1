"""From a URL to a connected redis-py connection: plain, TLS, unix socket, Sentinel, cluster.

The library's own retries are off: by default it sends a command whose answer is late again, up to ten times, and one lost answer
became eleven debits in a probe. What may be repeated is decided in `engine`, by id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool, Sentinel
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from proxy.errors import SetupError
from proxy.ledger.servers import Address, Cluster, OneServer, Servers
from proxy.ledger.wire import Connect


def servers(url: str, *, password: str | None, deadline_s: float, fsync_wait_s: float) -> Servers:
    """The ledger's server, or the servers of its cluster. Raises SetupError where the URL cannot be read.

    Cluster: `redis+cluster://host:port[,host:port...][?tls=1]`, some of its nodes; they tell of the others.
    """
    if urlsplit(url).scheme == "redis+cluster":
        seeds, connect_to = _cluster_connector(url, _options(password, deadline_s))
        return Cluster(seeds, connect_to, deadline_s=deadline_s, fsync_wait_s=fsync_wait_s)
    return OneServer(connector(url, password=password, timeout_s=deadline_s), deadline_s=deadline_s, fsync_wait_s=fsync_wait_s)


def connector(url: str, *, password: str | None, timeout_s: float) -> Connect:
    """What opens a connection to the ledger's server. Raises SetupError where the URL cannot be read.

    Sentinel: `redis+sentinel://host:port[,host:port...]/<master name>[?db=N]`; each connection asks again who the master is.
    """
    options = _options(password, timeout_s)
    if urlsplit(url).scheme == "redis+sentinel":
        return _sentinel_connector(url, options)
    try:
        pool = ConnectionPool.from_url(url, **options)
    except ValueError as error:
        raise SetupError(f"[ledger] url: {error}") from error

    async def connect() -> AbstractConnection:
        connection: AbstractConnection = pool.connection_class(**pool.connection_kwargs)
        await _open(connection)
        return connection

    return connect


def _options(password: str | None, timeout_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
        "client_name": "compute-ledger",
    }
    if password is not None:
        options["password"] = password
    return options


def _sentinel_connector(url: str, options: dict[str, Any]) -> Connect:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    addresses, name = _addresses(parts.netloc), parts.path.strip("/")
    if not name or not addresses:
        raise SetupError("[ledger] url: write redis+sentinel://host:port,host:port/<master name>")
    timeouts = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout", "retry")}
    kind = _kind(parts.query)

    async def connect() -> AbstractConnection:
        sentinel: Any = Sentinel(addresses, sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]  # the library has no types here
        try:
            host, port = await sentinel.discover_master(name)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        connection = kind(host=host, port=port, db=int(query.get("db", ["0"])[0]), **options)
        await _open(connection)
        return connection

    return connect


def _cluster_connector(url: str, options: dict[str, Any]) -> tuple[list[Address], Callable[[Address], Connect]]:
    parts = urlsplit(url)
    addresses = _addresses(parts.netloc)
    if parts.path.strip("/") or not addresses:
        raise SetupError("[ledger] url: write redis+cluster://host:port,host:port")
    kind = _kind(parts.query)

    def connect_to(address: Address) -> Connect:
        async def connect() -> AbstractConnection:
            connection = kind(host=address[0], port=address[1], **options)
            await _open(connection)
            return connection

        return connect

    return addresses, connect_to


def _addresses(netloc: str) -> list[Address]:
    """The hosts and ports of a list, which may follow a user and an @; none where one of them cannot be read."""
    hosts = [entry.rpartition(":") for entry in netloc.rpartition("@")[2].split(",")]
    return [(host.strip("[]"), int(port)) for host, _, port in hosts] if all(host and port.isdigit() for host, _, port in hosts) else []


def _kind(query: str) -> type[Connection]:
    return SSLConnection if parse_qs(query).get("tls") == ["1"] else Connection


async def _open(connection: AbstractConnection) -> None:
    await connection.connect()  # type: ignore[no-untyped-call]  # the library has no types here
