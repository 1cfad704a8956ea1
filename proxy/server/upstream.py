"""One upstream: what is sent to it, and the bytes of its answers.

The address is built from the configuration and a canonical path, never from anything else that a client sent. Library errors become
`UpstreamError` or `UpstreamTimeout` here, without the upstream's address in them. Must not know budgets, nor what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
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
from proxy.server.decoding import Decoder, Undecodable, can_decode
from proxy.server.tokenizer import text_counter

JSON = "application/json"
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
        self.media = MediaRule(
            section.image_tokens,
            section.audio_tokens,
            section.file_tokens,
            section.stored_tokens,
            section.tool_use_tokens,
            count_text=None if section.tokenizer_file is None else text_counter(section.tokenizer_file),
        )
        self.connections = Connections(
            urlsplit(section.base_url), most=section.connections_max, connect_timeout_s=section.connect_timeout_s
        )
        self._secret = None if api_key is None or len(api_key) < headers.SECRET_LENGTH_MIN else api_key.encode()
        self._begun_heads: dict[tuple[str, str, str], str] = {}
        self._session: aiohttp.ClientSession | None = None
        """For conversations over WebSockets; made for the first one."""
        self._in_use = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def retire(self) -> None:
        """Wait until no answer is under way, then close; for an upstream that the configuration no longer names."""
        await self._idle.wait()
        await self._close()

    async def _close(self) -> None:
        self.connections.close()
        if self._session is not None:
            await self._session.close()

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
        self._enter()
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

    @asynccontextmanager
    async def converse(
        self, dialect: Dialect, path: str, *, query: str, passing: str, protocols: Sequence[str], message_max_bytes: int, heartbeat_s: float
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A conversation over a WebSocket, closed when this context ends. Raises UpstreamError, UpstreamTimeout."""
        base = urlsplit(self.section.base_url)
        lines = dict(line.split(": ", 1) for line in passing.split("\r\n") if line)
        if self.api_key is not None:
            lines.update([dialect.upstream_credential(self.api_key)])
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None))
        self._enter()
        try:
            async with asyncio.timeout(self.section.connect_timeout_s):
                socket = await self._session.ws_connect(
                    f"{base.scheme}://{base.netloc}{_prefix(base.path, path)}{path}{query}",
                    headers=lines,
                    protocols=protocols,
                    max_msg_size=message_max_bytes,
                    heartbeat=heartbeat_s,
                )
            try:
                yield socket
            finally:
                await socket.close()
        except TimeoutError as error:
            raise UpstreamTimeout(f"The upstream {self.name} could not be reached in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"The upstream {self.name} does not take up the conversation.") from error
        finally:
            self._leave()

    def give_back(self, received: Received) -> None:
        """An answer is no longer needed."""
        self.connections.release(received)
        self._leave()

    def is_repeated_in(self, body: bytes) -> bool:
        """Whether an answer gives our key away, as an endpoint that echoes requests would."""
        return self._secret is not None and self._secret in body

    def _enter(self) -> None:
        self._in_use += 1
        self._idle.clear()

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
        lines = [f"{method} {_prefix(base.path, path)}{path}{query} HTTP/1.1", f"Host: {base.netloc}", "Accept-Encoding: identity"]
        if self.api_key is not None:
            lines.append("{}: {}".format(*dialect.upstream_credential(self.api_key)))
        head = "".join(line + "\r\n" for line in lines)
        if len(self._begun_heads) >= REMEMBERED_MAX:  # paths and queries come from callers
            self._begun_heads.clear()
        self._begun_heads[dialect.name, method, path + query] = head
        return head


def _prefix(base_path: str, path: str) -> str:
    """What stands before a path at the upstream: clients' base URLs end in /v1, so operators' may."""
    return base_path.removesuffix("/" + path.split("/")[1])


class Reply:
    """An upstream's answer: its head, then its bytes as they come. A context manager; leaving it early closes the connection at once."""

    __slots__ = ("_content", "_endpoint", "_received", "decoder", "headers", "media_type", "status")

    def __init__(self, endpoint: Endpoint, received: Received) -> None:
        message = received.message
        self.status = message.code
        if not 200 <= self.status <= 299 and self.status < 400:
            raise UpstreamError(
                f"The upstream {endpoint.name} answered {self.status}, which leads elsewhere.",
                hint="Whoever runs this proxy: give the upstream's final address as its base_url.",
            )
        self.headers = headers.for_client(message.headers, secret=endpoint.api_key)
        self.decoder: Decoder | None = None
        """What tells the meaning of its bytes, where they come coded though nobody asked for it."""
        if "Content-Encoding" in message.headers:
            self._be_coded(endpoint, message.headers.getall("Content-Encoding"))
        self.media_type = message.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._endpoint = endpoint
        self._received = received
        self._content = received.content

    def _be_coded(self, endpoint: Endpoint, values: list[str]) -> None:
        codings = [coding for value in values for part in value.split(",") if (coding := part.strip().lower()) not in ("", "identity")]
        if not codings:
            return
        if not can_decode(codings):
            raise UpstreamError(
                f"The upstream {endpoint.name} answered in a coding that was not asked for and cannot be metered.",
                hint="Whoever runs this proxy: switch compression off at the upstream.",
            )
        self.decoder = Decoder()
        self.headers["Content-Encoding"] = codings[0]

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
        return self._content.read_nowait() if self._content.is_eof() else None

    @property
    def is_over(self) -> bool:
        """Whether all of it has been read."""
        return self._content.at_eof()

    async def next_chunk(self) -> bytes:
        """The next bytes; empty when the answer is over. Raises UpstreamError where it breaks off."""
        try:
            return await self._content.readany()
        except _ERRORS as error:
            raise UpstreamError(f"The upstream {self._endpoint.name} broke off its answer.") from error

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

    def meaning(self, body: bytes, *, max_bytes: int) -> bytes:
        """What a whole body says: itself, unless it is coded. Raises UpstreamError where it cannot be read."""
        if self.decoder is None or not body:
            return body
        try:
            meaning = self.decoder.decode(body, max_bytes=max_bytes)
        except Undecodable as error:
            raise self.undecodable(error) from error
        if self.decoder.is_incomplete:
            raise UpstreamError(f"The upstream {self._endpoint.name} broke off its answer.")
        return meaning

    def undecodable(self, error: Undecodable) -> UpstreamError:
        """The failure of an answer that cannot be read."""
        return UpstreamError(f"The upstream {self._endpoint.name} sent a coded answer that cannot be metered: {error}.")
