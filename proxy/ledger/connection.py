"""From a URL to a connected redis-py connection: plain, TLS, unix socket, Sentinel.

The library's own retries are off: by default it sends a command whose answer is late again, up to ten times, and one lost answer
became eleven debits in a probe. What may be repeated is decided in `engine`, by id.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool, Sentinel
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from proxy.errors import SetupError
from proxy.ledger.wire import Connect


def connector(url: str, *, password: str | None, timeout_s: float) -> Connect:
    """What opens a connection to the ledger's server. Raises SetupError where the URL cannot be read.

    Sentinel: `redis+sentinel://host:port[,host:port...]/<master name>[?db=N]`; each connection asks again who the master is.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
        "client_name": "compute-ledger",
    }
    if password is not None:
        options["password"] = password
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


def _sentinel_connector(url: str, options: dict[str, Any]) -> Connect:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    hosts = [entry.rpartition(":") for entry in parts.netloc.rpartition("@")[2].split(",")]
    name = parts.path.strip("/")
    if not name or not all(host and port.isdigit() for host, _, port in hosts):
        raise SetupError("[ledger] url: write redis+sentinel://host:port,host:port/<master name>")
    addresses = [(host, int(port)) for host, _, port in hosts]
    timeouts = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout", "retry")}
    kind = SSLConnection if query.get("tls") == ["1"] else Connection

    async def connect() -> AbstractConnection:
        sentinel: Any = Sentinel(addresses, sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(name)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        connection = kind(host=host, port=port, db=int(query.get("db", ["0"])[0]), **options)
        await _open(connection)
        return connection

    return connect


async def _open(connection: AbstractConnection) -> None:
    await connection.connect()  # type: ignore[no-untyped-call]
