"""Whether a request may be read at all, and its body, within bounds.

Refuses what two servers in a row could read in two ways: odd framing, codings, queries. aiohttp's parser has refused the worst by then
(both lengths, bare line feeds, control bytes); these are the cases that it lets through.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Container, Mapping
from urllib.parse import parse_qsl, urlencode

from aiohttp import HttpVersion11, web

from proxy.errors import Refusal

QUERY_PARAMETERS_MAX = 32
KEY_PARAMETER = "key"
"""Where Gemini's clients may put their key; the path that takes one there says so."""
PRIORITY_HEADER = "x-ledger-priority"
_PRIORITY = re.compile(r"-?[0-9]")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def split_target(target: str) -> tuple[str, str]:
    """The path and the query of a request target, as they came; whether they are served, the dialects' table decides."""
    path, _, query = target.partition("?")
    return (path, query) if path.startswith("/") else (target, "")


def read_query(query: str, allowed: Container[str]) -> dict[str, str]:
    """The parameters of a query by name. Raises Refusal invalid_request: unreadable, repeated, or not among the allowed."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=QUERY_PARAMETERS_MAX)
    except ValueError:
        raise Refusal("invalid_request", "The request's query cannot be read.", hint="Send name=value pairs joined by &.") from None
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        raise Refusal("invalid_request", "The request's query names a parameter twice.", hint="Name each parameter once.")
    for name in parameters:
        if name not in allowed:
            raise Refusal(
                "invalid_request",
                f"The query parameter {name[:64]!r} is not forwarded here.",
                hint="Leave it out; send API keys in a header.",
            )
    return parameters


def joined_query(parameters: Mapping[str, str]) -> str:
    """The query that is forwarded, with its question mark; empty without parameters. What the caller's key came in is left out."""
    passing = {name: value for name, value in parameters.items() if name != KEY_PARAMETER}
    return "?" + urlencode(passing) if passing else ""


def read_priority(headers: Mapping[str, str]) -> int:
    """Which of a caller's own waiting requests goes first: `x-ledger-priority`. Raises Refusal invalid_request."""
    value = headers.get(PRIORITY_HEADER)
    if value is None:
        return 0
    if _PRIORITY.fullmatch(value) is None:
        raise Refusal("invalid_request", f"{PRIORITY_HEADER} must be a whole number from -9 to 9.", hint="Higher goes first.")
    return int(value)


def check_framing(request: web.BaseRequest, *, body_max_bytes: int) -> None:
    """Refuse a body of unclear extent, coding or size. Raises Refusal: invalid_request, unsupported_encoding, request_too_large."""
    headers = request.headers
    if "Transfer-Encoding" in headers:
        transfer = headers.getall("Transfer-Encoding")
        if len(transfer) > 1 or transfer[0].strip().lower() != "chunked" or request.version < HttpVersion11:
            raise Refusal("invalid_request", "The only Transfer-Encoding that is read is chunked, on HTTP/1.1.")
    if "Content-Encoding" in headers and any(value.strip().lower() != "identity" for value in headers.getall("Content-Encoding")):
        raise Refusal("unsupported_encoding", "The body is compressed.", hint="Send it without Content-Encoding.")
    if "Expect" in headers and any(value.strip().lower() != "100-continue" for value in headers.getall("Expect")):
        raise Refusal("invalid_request", "Expect is understood only as 100-continue.")
    if not request.content.is_eof() and (request.content_length or 0) > body_max_bytes:
        raise _too_large(body_max_bytes)


async def read_body(request: web.BaseRequest, *, body_max_bytes: int, timeout_s: float) -> bytes:
    """The body; whoever waits to be told to send it is told now.

    Raises Refusal: request_too_large, invalid_request where it does not arrive in time or is malformed.
    """
    content = request.content
    if content.is_eof():  # the usual case: all of it came along with the head
        body = content.read_nowait()
        if len(body) > body_max_bytes:
            raise _too_large(body_max_bytes)
        return body
    if "Expect" in request.headers and request.transport is not None:
        request.transport.write(CONTINUE)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await content.readany():
                size += len(chunk)
                if size > body_max_bytes:
                    raise _too_large(body_max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal("invalid_request", f"The request's body did not arrive within {timeout_s:g} seconds.") from None
    except web.RequestPayloadError as error:
        raise Refusal("invalid_request", "The request's body is malformed.") from error
    return b"".join(chunks)


def _too_large(body_max_bytes: int) -> Refusal:
    return Refusal("request_too_large", f"The request's body is larger than {body_max_bytes} bytes.")
