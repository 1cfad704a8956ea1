"""Answers that an upstream gives about files and batches: whole where they are small, else piece by piece. Free, and so without a hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from multidict import CIMultiDict

from proxy.dialects import DIALECTS
from proxy.errors import UpstreamError, UpstreamTimeout
from proxy.server.decoding import Undecodable
from proxy.server.upstream import JSON, Endpoint, Reply

ANSWER_MAX_BYTES = 4 * 2**20
DIALECT = DIALECTS["openai"]


class Fetched(NamedTuple):
    """An answer that came whole."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    """As it came."""
    meaning: bytes
    """What it says, which is the same unless it is coded."""


async def fetch(
    endpoint: Endpoint,
    method: str,
    path: str,
    *,
    query: str = "",
    content_type: str = JSON,
    passing: str = "",
    body: bytes = b"",
    sent: Callable[[], None] = lambda: None,
    timeout_s: float | None = None,
) -> Fetched:
    """Ask for something small. `sent` is called once the request is on its way. Raises UpstreamError, UpstreamTimeout."""
    try:
        async with asyncio.timeout(endpoint.section.first_byte_timeout_s if timeout_s is None else timeout_s):
            with await endpoint.send(
                DIALECT, method, path, query=query, content_type=content_type, passing=passing, body=body, sent=sent
            ) as reply:
                received = await reply.read(max_bytes=ANSWER_MAX_BYTES, heard=lambda: None)
                meaning = reply.meaning(received, max_bytes=ANSWER_MAX_BYTES)
    except TimeoutError:
        raise UpstreamTimeout(f"The upstream {endpoint.name} did not answer in time.") from None
    if endpoint.is_repeated_in(meaning):
        raise UpstreamError(f"The upstream {endpoint.name} repeated the proxy's own credentials.")
    return Fetched(reply.status, reply.headers, received, meaning)


@asynccontextmanager
async def opened(endpoint: Endpoint, path: str, *, passing: str = "") -> AsyncIterator[Reply]:
    """The head of an answer whose body may be large. Entering raises UpstreamError, UpstreamTimeout."""
    try:
        async with asyncio.timeout(endpoint.section.first_byte_timeout_s):
            reply = await endpoint.send(DIALECT, "GET", path, passing=passing)
    except TimeoutError:
        raise UpstreamTimeout(f"The upstream {endpoint.name} did not answer in time.") from None
    with reply:
        yield reply


async def next_chunk(endpoint: Endpoint, reply: Reply) -> bytes:
    """The next bytes of the body; empty when it is over. Raises UpstreamError, UpstreamTimeout."""
    try:
        async with asyncio.timeout(endpoint.section.idle_timeout_s):
            return await reply.next_chunk()
    except TimeoutError:
        raise UpstreamTimeout(f"The upstream {endpoint.name} was silent for too long.") from None


def meaning_of(reply: Reply, chunk: bytes) -> bytes:
    """What a chunk says; of the last one, which is empty, whether all is there. Raises UpstreamError where it cannot be read."""
    decoder = reply.decoder
    if decoder is None:
        return chunk
    try:
        if not chunk and decoder.is_incomplete:
            raise Undecodable("it breaks off")
        return decoder.decode(chunk)
    except Undecodable as error:
        raise reply.undecodable(error) from error
