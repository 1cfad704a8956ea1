"""JSON on the wire: requests read strictly and edited without touching a byte that need not change, answers read leniently.

Strict because whoever reads a request after us may read it otherwise: of two members with one name the upstream may take the one that
we did not price. Lenient because what an upstream sends has been paid for, however it is spelt. Knows JSON (RFC 8259) alone, no dialect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from proxy.errors import Refusal

Shape = TypeVar("Shape")

_MEMBER_START = re.compile(rb'[ \t\r\n{,]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\r\n]*:[ \t\r\n]*')
_decode_any = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
encode = msgspec.json.Encoder().encode
"""A value as compact JSON."""


def read_object(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises Refusal invalid_request: not JSON, not an object, ambiguous, nested too deep."""
    try:
        document = _decode_any(body)
        if not isinstance(document, dict):
            raise Refusal("invalid_request", "The body is not a JSON object.", hint="Send one JSON object.")
        if not _surely_unambiguous(body, document):
            json.loads(body, object_pairs_hook=_refuse_repeated)
    except RecursionError:
        raise Refusal("invalid_request", "The body is nested too deep.", hint="Send a flatter document.") from None
    except (ValueError, OverflowError) as error:
        raise Refusal("invalid_request", f"The body is not valid JSON: {error}.", hint="Send one JSON object in UTF-8.") from None
    return document


def _surely_unambiguous(body: bytes, document: dict[str, Any]) -> bool:
    """Whether no object in the body names a member twice; False means only that it takes a closer look.

    Of repeated members the decoder keeps one, so encoding what it kept gives fewer colons than came in, however the rest is spelt: a
    colon in a string stays one. A colon that is spelt as an escape becomes a plain one, so those are added to what came in; an escaped
    backslash before `u003a` makes the sum too large, never too small. This costs a tenth of watching every member in Python.
    """
    came_in = body.count(b":")
    if b"\\u003" in body:
        came_in += body.count(b"\\u003a") + body.count(b"\\u003A")
    return came_in == encode(document).count(b":")


def _refuse_repeated(members: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise Refusal("invalid_request", f"The body names {name[:64]!r} twice in one object.", hint="Name each member once.")
        seen.add(name)


def members_of(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of an object that `read_object` accepted, each as it is spelt."""
    return _decode_members(body)


def edit_members(body: bytes, changes: Mapping[str, bytes]) -> bytes:
    """The same object with some members given another JSON value, or added at its end; every other byte stays as it was."""
    missing = dict(changes)
    pieces: list[bytes] = []
    copied = 0
    position = body.index(b"{") + 1
    members = members_of(body)
    for name, value in members.items():
        start = _value_start(body, position)
        position = start + len(memoryview(value))
        if name in missing:
            pieces += (body[copied:start], missing.pop(name))
            copied = position
    if missing:
        added = b",".join(encode(name) + b":" + value for name, value in missing.items())
        pieces += (body[copied:position], b"," if members else b"", added)
        copied = position
    pieces.append(body[copied:])
    return b"".join(pieces)


def drop_member(body: bytes, dropped: str) -> bytes:
    """The same object without one of its members; every other byte stays as it was."""
    position = end_before = body.index(b"{") + 1
    for place, (name, value) in enumerate(members_of(body).items()):
        position = _value_start(body, position) + len(memoryview(value))
        if name == dropped:
            comma = re.compile(rb"[ \t\r\n]*,").match(body, position) if place == 0 else None
            return body[:end_before] + body[comma.end() if comma else position :]
        end_before = position
    return body


def _value_start(body: bytes, position: int) -> int:
    """Where the value of the member after a position begins."""
    start = _MEMBER_START.match(body, position)
    assert start is not None, "a member follows, for the decoder found one"
    return start.end()


def lenient_decoder(shape: type[Shape]) -> Callable[[bytes], Shape | None]:
    """A function that reads an answer, or one event of it, into a shape; None where it cannot be read.

    What strict JSON forbids and some servers send all the same is read too: halves of surrogate pairs, NaN, numbers beyond a double.
    """
    decode = msgspec.json.Decoder(shape).decode

    def decode_leniently(data: bytes) -> Shape | None:
        try:
            return decode(data)
        except (ValueError, RecursionError, OverflowError):
            pass
        try:
            return msgspec.convert(json.loads(data), shape)
        except (ValueError, RecursionError, OverflowError):
            return None

    return decode_leniently
