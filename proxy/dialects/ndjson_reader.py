"""What all readers of line streams share: lines in, pieces out, and what cannot be read.

Owns the state that `domain.StreamReader` asks for and the care around torn lines. What a line means is said by a dialect, in a subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from proxy.dialects.counting import tokens_in
from proxy.dialects.ndjson import LINE_MAX_BYTES, Line, LineSplitter
from proxy.domain import Call, Piece


class LineReader(ABC):
    """Reads one stream, each line into one piece."""

    __slots__ = ("_call", "_lines", "_torn", "deltas", "ended", "failed", "usage_rejected")

    def __init__(self, call: Call, *, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self.deltas = 0
        self.usage_rejected = False
        self.ended = False
        self.failed = False
        self._call = call
        self._lines = LineSplitter(line_max_bytes)
        self._torn = False

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The pieces that this chunk completes."""
        return [self._read(line) for line in self._lines.feed(chunk)]

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end. Half a document is taken out: no client could read it, and ours may follow."""
        return [self._read(line) for line in self._lines.close()]

    def _read(self, line: Line) -> Piece:
        if line.data is not None:
            piece = self._read_data(line, line.data)
        else:
            piece = Piece(line.raw, tokens_in(len(line.raw)) if line.opaque else 0)
        self._torn |= bool(piece.data) and not piece.data.endswith(b"\n")
        return piece

    @abstractmethod
    def _read_data(self, line: Line, data: bytes) -> Piece:
        """A line that holds a document: what it means is the dialect's to say."""

    def _read_unreadable(self, line: Line, data: bytes) -> Piece:
        return Piece(line.raw, tokens_in(len(data))) if line.whole else Piece(b"")

    def _separator(self) -> bytes:
        """What keeps a line of ours apart from one that was forwarded in part."""
        return b"\n" if self._torn else b""
