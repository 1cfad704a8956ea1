"""Streams that are nothing but bytes: recordings, images, whatever has no events. Every chunk passes as it is.

Owns how bytes are counted: as such, or as the tokens that so many of them stand for, rounded up on the whole, so that the chunking does
not matter. Knows no media format, and no words in which such a stream could be ended early.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

PIECE_BYTES_MAX = 4096


class BytesReader:
    """Reads one stream. Counts bytes where that is the call's measure, else a token for every `bytes_per_token`."""

    __slots__ = ("_bytes_per_token", "_received", "deltas", "ended", "failed", "usage_rejected")

    def __init__(self, call: Call, *, bytes_per_token: int = 1) -> None:
        self.deltas = 0
        self.usage_rejected = False
        self.ended = False
        self.failed = False
        self._bytes_per_token = 1 if call.measure == "bytes" else bytes_per_token
        self._received = 0

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The chunk in small parts, each counted, so that a budget may end within it."""
        return [self._count(chunk[start : start + PIECE_BYTES_MAX]) for start in range(0, len(chunk), PIECE_BYTES_MAX)]

    def _count(self, part: bytes) -> Piece:
        before = -(-self._received // self._bytes_per_token)
        self._received += len(part)
        return Piece(part, -(-self._received // self._bytes_per_token) - before)

    def close(self) -> Sequence[Piece]:
        """Nothing is left; such a stream ends where its bytes end."""
        self.ended = True
        return ()

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> None:
        """There are no words for it."""

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> None:
        """There are no words for it."""
