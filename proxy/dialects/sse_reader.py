"""What all readers of event streams share: frames in, pieces out, and what cannot be read.

Owns the state that `domain.StreamReader` asks for and the care around torn frames. What the data of an event mean is said by a dialect,
in a subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from proxy.dialects.counting import tokens_in
from proxy.dialects.sse import FRAME_MAX_BYTES, Frame, FrameSplitter
from proxy.domain import Call, Piece


class FrameReader(ABC):
    """Reads one stream, each frame into one piece."""

    __slots__ = ("_call", "_frames", "_torn", "deltas", "ended", "failed", "usage_rejected")

    def __init__(self, call: Call, *, frame_max_bytes: int = FRAME_MAX_BYTES) -> None:
        self.deltas = 0
        self.usage_rejected = False
        self.ended = False
        self.failed = False
        self._call = call
        self._frames = FrameSplitter(frame_max_bytes)
        self._torn = False

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The pieces that this chunk completes."""
        return [self._read(frame) for frame in self._frames.feed(chunk)]

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end. Half an event is taken out: no client could read it, and ours may follow."""
        return [self._read(frame) for frame in self._frames.close()]

    def _read(self, frame: Frame) -> Piece:
        if frame.opaque or not frame.whole:
            self._torn = True
        if frame.data is not None:
            return self._read_data(frame, frame.data)
        if frame.opaque:
            return Piece(frame.raw, tokens_in(len(frame.raw)))
        return self._read_bare(frame)

    @abstractmethod
    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        """A frame with data: what they mean is the dialect's to say."""

    def _read_bare(self, frame: Frame) -> Piece:
        """A frame without data: a comment, a blank line, another field."""
        return Piece(frame.raw)

    def _read_unreadable(self, frame: Frame, data: bytes) -> Piece:
        if not frame.whole:
            return Piece(b"")
        self.usage_rejected |= b'"usage"' in data  # inside a text its quotes would be escaped
        return Piece(frame.raw, tokens_in(len(data)))

    def _separator(self) -> bytes:
        """What keeps an event of ours apart from one that was forwarded in part."""
        return b"\n\n" if self._torn else b""
