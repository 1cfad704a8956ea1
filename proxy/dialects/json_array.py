"""A JSON array that is written while its elements come (Google's streams without `alt=sse`): bytes in, frames out.

A frame is an element with all that stands between it and the one before, or the closing bracket with what is before it; together the
frames are the stream, byte for byte, and the same ones however the bytes were chunked. Only strings and brackets are looked at. The
buffer is bounded. An object that comes bare, without an array around it, is a frame too.
"""

from __future__ import annotations

import re

from proxy.dialects.sse import Frame

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_WHITESPACE = b" \t\r\n"
_OPENING = (b"{", b"[")
_CLOSING = (b"}", b"]")


class ArraySplitter:
    """Splits one stream. `feed` it every chunk, then `close` it once."""

    __slots__ = (
        "_buffer",
        "_depth",
        "_end",
        "_frame_max_bytes",
        "_in_string",
        "_inside_opaque",
        "_is_array",
        "_is_closed",
        "_scanned",
        "_start",
    )

    def __init__(self, frame_max_bytes: int) -> None:
        self._frame_max_bytes = frame_max_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._in_string = False
        self._depth = 0
        """Of brackets, without the array's own."""
        self._start = 0
        """Where the element begins in the buffer."""
        self._end = 0
        """Where the frame ends in the buffer; 0 while that is not known."""
        self._inside_opaque = False
        self._is_array = False
        self._is_closed = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes. At most `frame_max_bytes` wait for their end; longer elements come out opaque, in parts."""
        self._buffer += chunk
        frames: list[Frame] = []
        while self._buffer:
            if not self._end and not self._is_closed:
                self._end = self._find_end()
            if (self._end or len(self._buffer)) > self._frame_max_bytes:
                self._inside_opaque = True
                frames.append(self._take(self._frame_max_bytes))
            elif self._end:
                frames.append(self._take(self._end))
                self._inside_opaque = False
            else:
                break
        return frames

    def close(self) -> list[Frame]:
        """What is left when the stream ends: half an element, or what follows the array."""
        if not self._buffer:
            return []
        rest = self._take(len(self._buffer))
        return [rest._replace(whole=rest.opaque or self._is_closed or not rest.raw.strip(_WHITESPACE))]

    def _take(self, size: int) -> Frame:
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        data = raw[self._start :] if size == self._end and not self._is_closed else None
        self._scanned = max(0, self._scanned - size)
        self._end = max(0, self._end - size)
        self._start = 0
        return Frame(raw, None, opaque=True) if self._inside_opaque else Frame(raw, data)

    def _find_end(self) -> int:
        """Where the first frame in the buffer ends; 0 while that is not known."""
        while True:
            if self._in_string and not self._skip_string():
                return 0
            found = _TOKEN.search(self._buffer, self._scanned)
            if found is None:
                self._scanned = len(self._buffer)
                return 0
            self._scanned = found.end()
            token = found[0]
            self._in_string = token == b'"'
            if token in _OPENING:
                self._open(token, found.start())
            elif token in _CLOSING:
                self._is_closed = self._depth == 0
                self._depth -= 1
                if self._depth <= 0:
                    return self._scanned

    def _open(self, token: bytes, at: int) -> None:
        if self._depth == 0:
            if token == b"[" and not self._is_array:
                self._is_array = True
                return
            self._start = at
        self._depth += 1

    def _skip_string(self) -> bool:
        """Whether the string that was begun ends in the buffer, and is passed."""
        rest = _REST_OF_STRING.match(self._buffer, self._scanned)
        self._scanned = len(self._buffer) if rest is None else rest.end()
        if self._buffer[self._scanned : self._scanned + 1] != b'"':
            return False
        self._scanned += 1
        self._in_string = False
        return True
