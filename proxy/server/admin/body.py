"""Reading a JSON body strictly: bounded, timed, UTF-8, one value for each member, numbers exact.

Used by the admin API and by self-service. Knows nothing of what the body means. All problems are `Refusal`s.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from aiohttp import web

from proxy.errors import Refusal
from proxy.server.reading import check_framing, read_body

BODY_BYTES_MAX = 2**20
BODY_TIMEOUT_S = 30.0
DEPTH_MAX = 32
NUMBER_CHARACTERS_MAX = 64


async def read_object(request: web.BaseRequest) -> dict[str, Any] | None:
    """The JSON object that a request carries; None where it has no body at all.

    Raises Refusal: request_too_large, unsupported_encoding, invalid_request.
    """
    check_framing(request, body_max_bytes=BODY_BYTES_MAX)
    body = await read_body(request, body_max_bytes=BODY_BYTES_MAX, timeout_s=BODY_TIMEOUT_S)
    if not body:
        return None
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise Refusal("unsupported_encoding", "the body is not declared as JSON", hint="send Content-Type: application/json")
    return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The object in a JSON text. Raises Refusal: invalid_request."""
    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_members,
            parse_float=_number,
            parse_int=_whole_number,
            parse_constant=_refuse_constant,
        )
        _check(document, depth=1)
    except RecursionError as error:
        raise Refusal("invalid_request", f"the body is nested deeper than {DEPTH_MAX} levels") from error
    except ValueError as error:
        raise Refusal("invalid_request", f"the body is not JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise Refusal("invalid_request", "the body must be a JSON object")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the member {twice[:64]!r} stands twice in one object")
    return members


def _number(text: str) -> Decimal:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise ValueError(f"a number has more than {NUMBER_CHARACTERS_MAX} characters")
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError("a number is out of range") from error


def _whole_number(text: str) -> int:
    return int(_number(text))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any, *, depth: int) -> None:
    """Refuse what would fail later: deep nesting, and half a surrogate pair, which no UTF-8 store can keep."""
    if depth > DEPTH_MAX:
        raise RecursionError
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for name, member in value.items():
            name.encode("utf-8")
            _check(member, depth=depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check(member, depth=depth + 1)
