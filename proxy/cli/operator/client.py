"""Calls to the admin API from the command line: one connection a call, a timeout, and a bounded repeat under one Idempotency-Key.

No redirects and no proxies from the environment, for the token must reach nobody else. Knows HTTP and problem details, no command.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

URL_VARIABLE = "COMPUTE_LEDGER_ADMIN_URL"
TOKEN_VARIABLE = "COMPUTE_LEDGER_ADMIN_TOKEN"  # noqa: S105  # a name
DEFAULT_URL = "http://127.0.0.1:8081"
TOKEN_FILE = Path("ledger-data/admin-token")
TIMEOUT_S = 30.0
TRIES = 3
PAUSE_S = 0.2
PAGE_ITEMS = 500
CHUNK_BYTES = 65_536


class CommandFailed(Exception):
    """What the operator asked for was refused or could not be done; the message is the one line they read."""


class AdminClient:
    """The admin API at one address, with one token."""

    def __init__(self, url: str, token: str, *, idempotency_key: str | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username or port == -1:
            raise CommandFailed(f"{URL_VARIABLE} must be http(s)://host[:port], not {url!r}")
        self._address = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, port, parts.path.rstrip("/")
        self._token = token
        self._idempotency_key = idempotency_key or uuid.uuid4().hex

    def with_key(self, idempotency_key: str) -> AdminClient:
        """The same, for a call that has a key of its own."""
        keyed = copy.copy(self)
        keyed._idempotency_key = idempotency_key
        return keyed

    def call(self, method: str, path: str, *, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None) -> Any:
        """The answer to one call, parsed. Raises CommandFailed."""
        _, content = self._request(method, path, query=query, body=body)
        return json.loads(content)

    def pages(self, path: str, *, query: dict[str, Any] | None = None, items_max: int) -> dict[str, Any]:
        """A list, page after page, as one page of at most `items_max`. Raises CommandFailed."""
        items: list[Any] = []
        following: str | None = None
        while True:
            size = min(PAGE_ITEMS, items_max - len(items))
            page = self.call("GET", path, query={**(query or {}), "limit": size, "after": following})
            items += page["items"]
            following = page["next"]
            if following is None or len(items) >= items_max:
                return {"items": items, "next": following}

    def export(self, path: str, *, query: dict[str, Any] | None = None) -> Iterator[bytes]:
        """A CSV export, chunk by chunk. Raises CommandFailed, also where it breaks off."""
        connection, answer = self._open("GET", self._target(path, query), None, {"Accept": "text/csv"})
        try:
            if answer.status != http.HTTPStatus.OK:
                raise _failure(answer.status, answer.read())
            while chunk := answer.read(CHUNK_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed("the export broke off before its end; run it again") from error
        finally:
            connection.close()

    def _request(self, method: str, path: str, *, query: dict[str, Any] | None, body: dict[str, Any] | None) -> tuple[int, bytes]:
        """Try, and on a lost connection or a ledger that does not answer try again: the key makes that harmless."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if method == "GET" else {"Idempotency-Key": self._idempotency_key}
        if content is not None:
            headers["Content-Type"] = "application/json"
        for left in reversed(range(TRIES)):
            try:
                connection, answer = self._open(method, self._target(path, query), content, headers)
                try:
                    status, received = answer.status, answer.read()
                finally:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                if left == 0 or isinstance(error, ConnectionRefusedError):
                    raise CommandFailed(self._unreachable(error)) from error
            else:
                if status < 300:
                    return status, received
                if status != http.HTTPStatus.SERVICE_UNAVAILABLE or left == 0:
                    raise _failure(status, received)
            time.sleep(PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _open(
        self, method: str, target: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, body=content, headers={"Authorization": f"Bearer {self._token}", **headers})
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _target(self, path: str, query: dict[str, Any] | None) -> str:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return f"{self._prefix}/admin/v1{path}" + (f"?{urlencode(given)}" if given else "")

    def _unreachable(self, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"cannot reach the admin API at {self._address} ({reason}); is `compute-ledger serve` running? {URL_VARIABLE} sets it"


def client_from_environment(*, idempotency_key: str | None = None) -> AdminClient:
    """The client that the environment names. Raises CommandFailed where there is no token."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        try:
            token = TOKEN_FILE.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
    if not token:
        raise CommandFailed(f"there is no admin token: set {TOKEN_VARIABLE}, or run this beside {TOKEN_FILE}")
    if not token.isascii() or not token.isprintable():
        raise CommandFailed("the admin token must be printable ASCII")
    return AdminClient(os.environ.get(URL_VARIABLE) or DEFAULT_URL, token, idempotency_key=idempotency_key)


def segment(identifier: str) -> str:
    """An id as one part of a path."""
    return quote(identifier, safe=":@")


def _failure(status: int, content: bytes) -> CommandFailed:
    """What a refusal says, on one line: the detail, every further mistake, the hint."""
    try:
        problem = json.loads(content)
        sentences = [str(problem["detail"])]
    except (ValueError, KeyError, TypeError):
        return CommandFailed(f"the answer is not the admin API's (HTTP {status}); does {URL_VARIABLE} name the admin listener?")
    if len(mistakes := problem.get("errors") or []) > 1:
        sentences = [f"{mistake['place']}: {mistake['message']}" for mistake in mistakes]
    if available := problem.get("available"):
        sentences.append(f"available: {available}")
    if hint := problem.get("hint"):
        sentences.append(str(hint))
    return CommandFailed(" ".join("; ".join(sentences).split()))
