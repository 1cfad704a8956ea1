"""Forms with files (`multipart/form-data`, RFC 7578): read strictly, and edited without touching a byte that need not change.

Strict because the upstream reads the same bytes with another parser: what two parsers might split, name or decode in two ways is refused,
so that what is priced here is what runs there. Every common client writes the plain form that is left. Knows no API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from proxy.dialects.members import wrong
from proxy.errors import Refusal

FORM = "multipart/form-data"
PARTS_MAX = 128
PART_HEAD_MAX_BYTES = 4096
_CONTENT_TYPE = re.compile(rf"""{FORM}[ \t]*;[ \t]*boundary=(?:"([A-Za-z0-9'()+_,./:=?-]{{1,70}})"|([A-Za-z0-9'+_.-]{{1,70}}))""", re.I)
_DISPOSITION = re.compile(
    r"""form-data;[ ]?name=(?:"([A-Za-z0-9_.\[\]-]+)"|([A-Za-z0-9_.-]+))"""
    r"""((?:;[ ]?filename=(?:"[^"\\]*"|[A-Za-z0-9_.-]+))?(?:;[ ]?filename\*=[A-Za-z0-9'%._~!-]+)?)""",
    re.I,
)
"""The name, quoted or (by .NET's client) not, and of a file what it was called."""
_HEADER = re.compile(r"([A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_IN_UTF_8 = re.compile(r"(?:(?!charset).)*(?:charset=\"?utf-8\"?)?", re.I)
_PLAIN_ENCODINGS = ("binary", "8bit", "7bit")
_SPELT_TRUE = frozenset({"true", "1", "on", "yes", "t", "y"})
_SPELT_FALSE = frozenset({"false", "0", "off", "no", "f", "n", ""})
"""As pydantic reads them, which most servers leave it to."""
_LIST = "[]"
"""Ends the names of fields that may come more than once."""
_HINT = "Let an ordinary HTTP client build the form."


class Part(NamedTuple):
    """One field or file: where its content stands in the body."""

    name: str
    is_file: bool
    start: int
    end: int


class Form:
    """A body as its parts. The body itself is what is forwarded."""

    __slots__ = ("_body", "_boundary", "_parts")

    def __init__(self, body: bytes, boundary: bytes, parts: Sequence[Part]) -> None:
        self._body = body
        self._boundary = boundary
        self._parts = parts

    @property
    def texts(self) -> Mapping[str, str]:
        """The fields without files, by name; of a list of fields (`name[]`) all values, joined by line feeds."""
        texts: dict[str, str] = {}
        for part in self._parts:
            if not part.is_file:
                value = self._text(part)
                texts[part.name] = f"{texts[part.name]}\n{value}" if part.name in texts else value
        return texts

    def files(self, name: str) -> Sequence[memoryview]:
        """The contents of the files of a field and of the list by its name."""
        view = memoryview(self._body)
        return [view[part.start : part.end] for part in self._parts if part.is_file and part.name in (name, name + _LIST)]

    @property
    def file_names(self) -> Sequence[str]:
        """The names of the fields that hold files, as often as they do."""
        return [part.name.removesuffix(_LIST) for part in self._parts if part.is_file]

    def with_texts(self, values: Mapping[str, str]) -> bytes:
        """The body with some fields given another value, or added at its end; every other byte stays as it was."""
        missing = dict(values)
        pieces: list[bytes] = []
        copied = 0
        for part in self._parts:
            if part.name in missing:
                pieces += (self._body[copied : part.start], missing.pop(part.name).encode())
                copied = part.end
        end = self._parts[-1].end
        pieces.append(self._body[copied:end])
        for name, value in missing.items():
            head = f'\r\n--{self._boundary.decode()}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            pieces.append((head + value).encode())
        pieces.append(self._body[end:])
        return b"".join(pieces)

    def _text(self, part: Part) -> str:
        try:
            return self._body[part.start : part.end].decode()
        except UnicodeDecodeError:
            raise _unreadable(f"its field {part.name[:64]!r} is not UTF-8") from None


def read_form(body: bytes, headers: Mapping[str, str]) -> Form:
    """The form that a request holds. Raises Refusal invalid_request: no form, or one that could be read in more than one way."""
    boundary = _boundary(headers)
    delimiter = b"\r\n--" + boundary
    if not body.startswith(delimiter[2:]):
        raise _unreadable("it does not begin with its boundary")
    parts: list[Part] = []
    position = len(delimiter) - 2
    while not body.startswith(b"--", position):
        if len(parts) == PARTS_MAX:
            raise _unreadable(f"it has more than {PARTS_MAX} parts")
        end = body.find(delimiter, position)
        if end < 0:
            raise _unreadable("it does not end in its boundary")
        parts.append(_read_part(body, position, end))
        position = end + len(delimiter)
    if body[position + 2 :] not in (b"", b"\r\n"):
        raise _unreadable("something follows its last boundary")
    _check_names(parts)
    return Form(body, boundary, parts)


def read_fields(texts: Mapping[str, str], *, flags: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    """The fields of a form as a document: some read as true or false, some as whole numbers, the rest as the texts that they are.

    Raises Refusal: invalid_request.
    """
    document: dict[str, Any] = dict(texts)
    for name in flags:
        if name in texts:
            spelt = texts[name].strip().lower()
            if spelt not in _SPELT_TRUE | _SPELT_FALSE:
                raise wrong(name, "true or false")
            document[name] = spelt in _SPELT_TRUE
    for name in numbers:
        if name in texts:
            if not (texts[name].isascii() and texts[name].isdigit() and len(texts[name]) <= 12):
                raise wrong(name, "a whole number")
            document[name] = int(texts[name])
    return document


def _boundary(headers: Mapping[str, str]) -> bytes:
    values = [value for name, value in headers.items() if name.lower() == "content-type"]
    found = _CONTENT_TYPE.fullmatch(values[0].strip()) if len(values) == 1 else None
    if found is None:
        raise Refusal("invalid_request", f"The Content-Type is not {FORM} with a plain boundary.", hint=_HINT)
    return (found[1] or found[2]).encode()


def _read_part(body: bytes, start: int, end: int) -> Part:
    """The part between two boundaries, which begins with the end of its boundary's line."""
    head_end = body.find(b"\r\n\r\n", start, min(end, start + PART_HEAD_MAX_BYTES))
    if head_end < 0 or not body.startswith(b"\r\n", start):
        raise _unreadable("a part does not begin with its headers")
    try:
        lines = body[start + 2 : head_end].decode().split("\r\n")
    except UnicodeDecodeError:
        raise _unreadable("the headers of a part are not UTF-8") from None
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise _unreadable("a header of a part is malformed or repeated")
        headers[header[1].lower()] = header[2].strip()
    if headers.get("content-transfer-encoding", "binary").lower() not in _PLAIN_ENCODINGS:
        raise _unreadable("a part is encoded")
    if not _IN_UTF_8.fullmatch(headers.get("content-type", "")):
        raise _unreadable("a part is in another character set than UTF-8")
    named = _DISPOSITION.fullmatch(headers.get("content-disposition", ""))
    if named is None:
        raise _unreadable("a part has no plain name")
    return Part(named[1] or named[2], bool(named[3]), head_end + 4, end)


def _check_names(parts: Sequence[Part]) -> None:
    seen: set[str] = set()
    for part in parts:
        if part.name in seen and not part.name.endswith(_LIST):
            raise Refusal("invalid_request", f"The form names {part.name[:64]!r} twice.", hint="Name each field once.")
        seen.add(part.name)
    if not parts:
        raise _unreadable("it is empty")


def _unreadable(why: str) -> Refusal:
    return Refusal("invalid_request", f"The form cannot be read: {why}.", hint=_HINT)
