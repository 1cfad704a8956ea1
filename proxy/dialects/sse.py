"""Event streams (the WHATWG's `text/event-stream`): bytes in, frames out.

A frame is an event with its blank line, or a stray blank line; together the frames are the stream, byte for byte, and the same ones however
the bytes were chunked. So a carriage return at the end of what has come waits for the next byte, which may belong to it. The buffer is
bounded. Knows nothing of what the events say.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

EVENT_STREAM = "text/event-stream"
FRAME_MAX_BYTES = 2**20
_END_OF_LINE = rb"(?:\r\n|\n|\r(?!\n))"
_END_OF_FRAME = re.compile(_END_OF_LINE + _END_OF_LINE)
_END_OF_FRAME_BYTES_MAX = 4
_BLANK_LINE = re.compile(_END_OF_LINE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_FEED = 0x0A


class Frame(NamedTuple):
    """One event of a stream, with exactly the bytes that it came in."""

    raw: bytes
    data: bytes | None
    """The lines of data, joined; None where the frame has none (comments, other fields, blank lines) or is opaque."""
    event: str | None = None
    opaque: bool = False
    """A part of an event too long to buffer. What it says is unknown, so meter it by its bytes."""
    whole: bool = True
    """False for what an ended stream left without a blank line; what follows must begin with one."""


class FrameSplitter:
    """Splits one stream. `feed` it every chunk, then `close` it once."""

    __slots__ = ("_buffer", "_frame_max_bytes", "_inside_opaque", "_scanned", "_started")

    def __init__(self, frame_max_bytes: int = FRAME_MAX_BYTES) -> None:
        self._frame_max_bytes = frame_max_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._inside_opaque = False
        self._started = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes. At most `frame_max_bytes` wait for their end; longer events come out opaque, in parts."""
        if self._buffer or self._inside_opaque or not self._started or b"\r" in chunk:
            self._buffer += chunk
            return self._take_frames(closing=False)
        return self._split_plain(chunk)

    def close(self) -> list[Frame]:
        """What is left when the stream ends."""
        frames = self._take_frames(closing=True)
        if self._buffer:
            frames.append(self._take(len(self._buffer))._replace(whole=False))
        return frames

    def _split_plain(self, chunk: bytes) -> list[Frame]:
        """What servers send nearly always, for a third of the time: whole events with plain line feeds, and nothing left from before."""
        frames: list[Frame] = []
        start = 0
        while (end := chunk.find(b"\n\n", start) + 2) > 1:
            if end - start > self._frame_max_bytes or chunk[start] == _LINE_FEED:
                break
            raw = chunk[start:end]
            if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
                frames.append(Frame(raw, raw[6:-2]))
            else:
                frames.append(_read_fields(raw, raw))
            start = end
        if start < len(chunk):
            self._buffer += chunk[start:]
            frames += self._take_frames(closing=False)
        return frames

    def _take_frames(self, *, closing: bool) -> list[Frame]:
        frames: list[Frame] = []
        while self._buffer:
            end = self._find_end(closing=closing)
            if (end or len(self._buffer)) > self._frame_max_bytes:
                self._inside_opaque = True
                frames.append(self._take(self._frame_max_bytes))
            elif end:
                frames.append(self._take(end))
                self._inside_opaque = False
            else:
                break
        return frames

    def _find_end(self, *, closing: bool) -> int:
        """Where the first frame in the buffer ends; 0 while that is not known."""
        found = _BLANK_LINE.match(self._buffer) or _END_OF_FRAME.search(self._buffer, self._scanned)
        if found is None:
            self._scanned = max(0, len(self._buffer) - _END_OF_FRAME_BYTES_MAX)
            return 0
        end = found.end()
        if end == len(self._buffer) and self._buffer[-1:] == b"\r" and not closing:
            return 0
        return end

    def _take(self, size: int) -> Frame:
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned = 0
        first, self._started = not self._started, True
        if self._inside_opaque:
            return Frame(raw, None, opaque=True)
        return _read_fields(raw, raw.removeprefix(_BYTE_ORDER_MARK) if first else raw)


def _read_fields(raw: bytes, text: bytes) -> Frame:
    data: list[bytes] = []
    event: str | None = None
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ").decode("utf-8", "replace")
    return Frame(raw, b"\n".join(data) if data else None, event)


def event_of(document: object, *, name: str = "") -> bytes:
    """An event of our own that holds one JSON document."""
    data = json.dumps(document, separators=(",", ":"))  # unlike msgspec it can spell the half surrogate pairs that upstreams send
    return (f"event: {name}\n" if name else "").encode() + b"data: " + data.encode() + b"\n\n"
