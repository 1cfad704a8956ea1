"""One upstream: what is sent to it, and the bytes of its answers.

The address is built from the configuration and a canonical path, never from anything else that a client sent. Library errors become
`UpstreamError` or `UpstreamTimeout` here, without the upstream's address in them. Must not know budgets, nor what an answer means.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from proxy import config
from proxy.dialects import Dialect, MediaRule
from proxy.errors import SetupError, UpstreamError, UpstreamTimeout
from proxy.server import headers
from proxy.server.connections import Connections, Received

JSON = "application/json"
DECODED_CHUNK_MAX_BYTES = 2**16
REMEMBERED_MAX = 1024
_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


class Endpoint:
    """A configured upstream. Open while it is entered: `async with Endpoint(...)`."""

    def __init__(self, section: config.Upstream, *, api_key: str | None) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise SetupError(f"upstream {section.name!r}: its API key holds characters that cannot stand in a header")
        self.section = section
        self.name = section.name
        self.dialects = section.dialects
        self.models = section.models
        self.aliases = section.aliases
        self.default_model = section.default_model
        self.api_key = api_key
        self.media = MediaRule(section.image_tokens, section.audio_tokens, section.file_tokens, section.stored_tokens)
        self.connections = Connections(
            urlsplit(section.base_url), most=section.connections_max, connect_timeout_s=section.connect_timeout_s
        )
        self._secret = None if api_key is None or len(api_key) < headers.SECRET_LENGTH_MIN else api_key.encode()
        self._begun_heads: dict[tuple[str, str, str], str] = {}
        self._in_use = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connections.close()

    async def retire(self) -> None:
        """Wait until no answer is under way, then close; for an upstream that the configuration no longer names."""
        await self._idle.wait()
        self.connections.close()

    async def send(
        self,
        dialect: Dialect,
        method: str,
        path: str,
        *,
        query: str = "",
        content_type: str = JSON,
        passing: str = "",
        body: bytes = b"",
        sent: Callable[[], None] = lambda: None,
    ) -> Reply:
        """Send a request and wait for the head of its answer; `passing` are lines of the head that come from the client.

        `query` is encoded, with its question mark, or empty. `sent` is called once the request is on its way.
        Raises UpstreamError, UpstreamTimeout.
        """
        begun = self._begun_head(dialect, method, path, query)
        head = f"{begun}Content-Type: {content_type}\r\n{passing}Content-Length: {len(body)}\r\n\r\n"
        if head.count("\n") != head.count("\r\n") or head.count("\r") != head.count("\r\n"):
            raise UpstreamError("The request's head cannot be forwarded.")  # nothing that aiohttp's parser lets through gets here
        self._in_use += 1
        self._idle.clear()
        try:
            received = await self.connections.send(head.encode(), body, sent=sent)
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout(f"The upstream {self.name} could not be reached in time.") from error
            if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientError):
                raise UpstreamError(f"The upstream {self.name} cannot be reached.") from error
            if isinstance(error, _ERRORS):
                raise UpstreamError(f"The upstream {self.name} closed the connection without an answer.") from error
            raise
        try:
            return Reply(self, received)
        except BaseException:
            self.give_back(received)
            raise

    def give_back(self, received: Received) -> None:
        """An answer is no longer needed."""
        self.connections.release(received)
        self._leave()

    def is_repeated_in(self, body: bytes) -> bool:
        """Whether an answer gives our key away, as an endpoint that echoes requests would."""
        return self._secret is not None and self._secret in body

    def _leave(self) -> None:
        self._in_use -= 1
        if self._in_use == 0:
            self._idle.set()

    def _begun_head(self, dialect: Dialect, method: str, path: str, query: str) -> str:
        """The head's part that is the same for all requests: address, form of the answer, our key in the dialect's way."""
        known = self._begun_heads.get((dialect.name, method, path + query))
        if known is not None:
            return known
        base = urlsplit(self.section.base_url)
        prefix = base.path.removesuffix("/" + path.split("/")[1])  # clients' base URLs end in /v1, so operators' may
        lines = [f"{method} {prefix}{path}{query} HTTP/1.1", f"Host: {base.netloc}", "Accept-Encoding: identity"]
        if self.api_key is not None:
            lines.append("{}: {}".format(*dialect.upstream_credential(self.api_key)))
        head = "".join(line + "\r\n" for line in lines)
        if len(self._begun_heads) >= REMEMBERED_MAX:  # paths and queries come from callers
            self._begun_heads.clear()
        self._begun_heads[dialect.name, method, path + query] = head
        return head


class Reply:
    """An upstream's answer: its head, then its bytes as they come. Use as a context manager; leaving early closes the connection at once.

    A coded answer, though none was asked for, is decoded here, so that nothing passes that could not be metered.
    """

    __slots__ = ("_content", "_decoder", "_endpoint", "_received", "headers", "media_type", "status")

    def __init__(self, endpoint: Endpoint, received: Received) -> None:
        message = received.message
        self.status = message.code
        if not 200 <= self.status <= 299 and self.status < 400:
            raise UpstreamError(
                f"The upstream {endpoint.name} answered {self.status}, which leads elsewhere.",
                hint="Whoever runs this proxy: give the upstream's final address as its base_url.",
            )
        self._decoder = _decoder_for(endpoint, message.headers.getall("Content-Encoding", ()))
        self.headers = headers.for_client(message.headers, secret=endpoint.api_key)
        self.media_type = message.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._endpoint = endpoint
        self._received = received
        self._content = received.content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._endpoint.give_back(self._received)

    def close(self) -> None:
        """Close the connection now, so that the upstream computes no further."""
        self._received.connection.abort()

    def discard(self) -> None:
        """Give up an answer of which nothing is wanted."""
        self.close()
        self._endpoint.give_back(self._received)

    def at_once(self) -> bytes | None:
        """The whole body where it came along with the head, as small ones do; None where it is still to be waited for."""
        if self._decoder is None and self._content.is_eof():
            return self._content.read_nowait()
        return None

    async def next_chunk(self) -> bytes:
        """The next bytes; empty when the answer is over. Raises UpstreamError where it breaks off."""
        while True:
            if self._decoder is not None and (decoded := self._decoded()):
                return decoded
            try:
                chunk = await self._content.readany()
            except _ERRORS as error:
                raise self._broken_off() from error
            if self._decoder is None:
                return chunk
            if not chunk:
                if self._decoder.is_incomplete:
                    raise self._broken_off()
                return chunk
            self._decoder.put(chunk)

    async def read(self, *, max_bytes: int, heard: Callable[[], None]) -> bytes:
        """The whole body; `heard` is called as parts of it come. Raises UpstreamError where it breaks off or exceeds `max_bytes`."""
        chunks: list[bytes] = []
        size = 0
        while chunk := await self.next_chunk():
            heard()
            size += len(chunk)
            if size > max_bytes:
                raise UpstreamError(f"The upstream {self._endpoint.name} sent an answer of more than {max_bytes} bytes.")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _decoded(self) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.take()
        except zlib.error as error:
            raise UpstreamError(f"The upstream {self._endpoint.name} sent an answer that cannot be decoded.") from error

    def _broken_off(self) -> UpstreamError:
        return UpstreamError(f"The upstream {self._endpoint.name} broke off its answer.")


class _Decoder:
    """Undoes gzip or deflate in bounded steps, so that a small answer cannot fill the memory."""

    def __init__(self) -> None:
        self._pending = b""
        self._inflate = _new_inflate()
        self._begun = False
        self._more_inside = False

    @property
    def is_incomplete(self) -> bool:
        return self._begun and not self._inflate.eof

    def put(self, data: bytes) -> None:
        self._pending += data

    def take(self) -> bytes:
        """The next decoded bytes; empty when more must be put first."""
        while self._pending or self._more_inside:
            if self._inflate.eof:  # a gzip file may have several members
                self._inflate = _new_inflate()
                self._begun = False
            decoded = self._inflate.decompress(self._pending, DECODED_CHUNK_MAX_BYTES)
            self._begun = True
            self._more_inside = len(decoded) == DECODED_CHUNK_MAX_BYTES
            self._pending = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if decoded:
                return decoded
        return b""


def _new_inflate() -> zlib._Decompress:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by the header


def _decoder_for(endpoint: Endpoint, codings: list[str] | tuple[()]) -> _Decoder | None:
    named = [coding.strip().lower() for value in codings for coding in value.split(",")]
    named = [coding for coding in named if coding not in ("", "identity")]
    if not named:
        return None
    if len(named) == 1 and named[0] in ("gzip", "x-gzip", "deflate"):
        return _Decoder()
    raise UpstreamError(f"The upstream {endpoint.name} answered in a coding that was not asked for and cannot be read.")
