"""Streams of JSON documents, one a line (`application/x-ndjson`): bytes in, lines out.

Together the lines are the stream, byte for byte, and the same ones however the bytes were chunked. The buffer is bounded. Knows nothing of
what the lines say.
"""

from __future__ import annotations

from typing import NamedTuple

NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines", "application/x-jsonlines"})
"""The names that this form goes by; none is registered."""
LINE_MAX_BYTES = 2**20
_WHITESPACE = b" \t\r\n"


class Line(NamedTuple):
    """One line of a stream, with exactly the bytes that it came in."""

    raw: bytes
    data: bytes | None
    """Without the white space around it; None where the line is blank or opaque."""
    opaque: bool = False
    """A part of a line too long to buffer. What it says is unknown, so meter it by its bytes."""
    whole: bool = True
    """False for what an ended stream left without a line feed."""


class LineSplitter:
    """Splits one stream. `feed` it every chunk, then `close` it once."""

    __slots__ = ("_buffer", "_inside_opaque", "_line_max_bytes", "_scanned")

    def __init__(self, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._line_max_bytes = line_max_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._inside_opaque = False

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that this chunk completes. At most `line_max_bytes` wait for their end; longer lines come out opaque, in parts."""
        self._buffer += chunk
        lines: list[Line] = []
        while self._buffer:
            end = self._buffer.find(b"\n", self._scanned) + 1
            if (end or len(self._buffer)) > self._line_max_bytes:
                self._inside_opaque = True
                lines.append(self._take(self._line_max_bytes))
            elif end:
                lines.append(self._take(end))
                self._inside_opaque = False
            else:
                self._scanned = len(self._buffer)
                break
        return lines

    def close(self) -> list[Line]:
        """What is left when the stream ends."""
        return [self._take(len(self._buffer))._replace(whole=False)] if self._buffer else []

    def _take(self, size: int) -> Line:
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned = 0
        return Line(raw, None, opaque=True) if self._inside_opaque else Line(raw, raw.strip(_WHITESPACE) or None)
