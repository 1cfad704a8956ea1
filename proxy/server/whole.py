"""An answer of which everything is known before any of it is sent: its head and its body go out in one write.

It stands where aiohttp's server takes a `web.Response`, which copies, completes and encodes its headers in a dozen steps, at half the cost
of all that the server does. Knows HTTP/1.1 answers, nothing else.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion, HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

JOINED_MAX_BYTES = 2**16
"""A body up to this size goes out in one write with its head; a larger one is not copied."""
BODILESS = frozenset({204, 304})


class Whole(web.StreamResponse):
    """A status, headers without control characters, and a body; sent once, when the server asks for it or before."""

    def __init__(self, status: int, headers: CIMultiDict[str], body: bytes) -> None:
        super().__init__(status=status)
        self._own_headers = headers
        self._own_body = body
        self._request: web.BaseRequest | None = None
        self._is_sent = self._closes = False

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may take another request; known once it is prepared."""
        return not self._closes and self._request is not None and self._request.keep_alive

    def force_close(self) -> None:
        """Close the connection after it."""
        self._closes = True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Take note of the request that it answers; nothing is sent yet."""
        self._request = request
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Send it, and wait until the client takes more. Raises ConnectionError where the client is gone."""
        if self._is_sent:
            return
        assert self._request is not None, "prepared before it is sent"
        self._is_sent = True
        writer, body = self._request.writer, self._own_body
        if len(body) <= JOINED_MAX_BYTES:
            await writer.write(self._head(self._request.version) + body)
        else:
            await writer.write(self._head(self._request.version))
            await writer.write(body)
        await writer.drain()

    def _head(self, version: HttpVersion) -> bytes:
        headers, body = self._own_headers, self._own_body
        lines = [_begun(self.status, version), *[f"{name}: {value}\r\n" for name, value in headers.items()]]
        if self.status not in BODILESS:
            lines.append(f"Content-Length: {len(body)}\r\n")
        if body and "Content-Type" not in headers:
            lines.append("Content-Type: application/octet-stream\r\n")
        if "Date" not in headers:
            lines.append(_date(int(time.time())))
        if not self.keep_alive:
            lines.append("Connection: close\r\n")
        elif version == HttpVersion10:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        return "".join(lines).encode()


@lru_cache(maxsize=1024)
def _begun(status: int, version: HttpVersion) -> str:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/{version.major}.{version.minor} {status} {phrase}\r\n"


@lru_cache(maxsize=2)
def _date(now_s: int) -> str:
    return f"Date: {formatdate(now_s, usegmt=True)}\r\n"
