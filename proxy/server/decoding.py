"""Coded answers: what they say, so that it can be metered, while the bytes themselves pass as they came.

No coding is ever asked for; some servers code all the same. What is decoded is bounded, so that a small answer cannot fill the memory, and
what cannot be decoded is not forwarded, for it could not be metered. Knows gzip and deflate, no dialect.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from proxy.dialects import Reader
from proxy.domain import Piece, Usage
from proxy.errors import Expected

DECODED_AT_ONCE_MAX_BYTES = 16 * 2**20
"""What one chunk of a stream may decode to."""
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


class Undecodable(Exception):
    """The bytes are not what their coding says, or too many."""


class Decoder:
    """Undoes gzip or deflate, chunk by chunk."""

    __slots__ = ("_begun", "_inflate")

    def __init__(self) -> None:
        self._inflate = _new_inflate()
        self._begun = False

    def decode(self, chunk: bytes, *, max_bytes: int = DECODED_AT_ONCE_MAX_BYTES) -> bytes:
        """What a chunk holds. Raises Undecodable."""
        decoded: list[bytes] = []
        left = max_bytes
        try:
            while chunk:
                if self._inflate.eof:  # a gzip file may have several members
                    self._inflate = _new_inflate()
                decoded.append(self._inflate.decompress(chunk, left + 1))
                self._begun = True
                left -= len(decoded[-1])
                if left < 0:
                    raise Undecodable(f"it decodes to more than {max_bytes} bytes")
                chunk = self._inflate.unused_data if self._inflate.eof else b""
        except zlib.error as error:
            raise Undecodable("it is not what its Content-Encoding says") from error
        return b"".join(decoded)

    @property
    def is_incomplete(self) -> bool:
        """Whether more must follow."""
        return self._begun and not self._inflate.eof


def _new_inflate() -> zlib._Decompress:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by the header


def can_decode(codings: Sequence[str]) -> bool:
    """Whether an answer under these codings can be read."""
    return len(codings) == 1 and codings[0] in CODINGS


class CodedReader:
    """Reads a coded stream for a dialect's reader. A chunk passes whole, or not at all, for nothing can be put in or taken out."""

    def __init__(self, reader: Reader, decoder: Decoder) -> None:
        self._reader = reader
        self._decoder = decoder

    @property
    def deltas(self) -> int:
        """Deltas with content so far."""
        return self._reader.deltas

    @property
    def usage_rejected(self) -> bool:
        """Whether usage was reported that cannot be believed."""
        return self._reader.usage_rejected

    @property
    def ended(self) -> bool:
        """Whether the stream is complete."""
        return self._reader.ended and not self._decoder.is_incomplete

    @property
    def failed(self) -> bool:
        """Whether the upstream sent an error event."""
        return self._reader.failed

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The chunk, with all that it says. Raises Undecodable."""
        return (_one_piece(chunk, self._reader.feed(self._decoder.decode(chunk))),)

    def close(self) -> Sequence[Piece]:
        """What only the end of the stream tells."""
        return (_one_piece(b"", self._reader.close()),)

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """None: nothing can be said within a coded stream."""
        return None

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """None: nothing can be said within a coded stream."""
        return None


def _one_piece(chunk: bytes, pieces: Sequence[Piece]) -> Piece:
    usages = [piece.usage for piece in pieces if piece.usage is not None]
    return Piece(
        chunk,
        sum(piece.output_tokens for piece in pieces),
        usages[-1] if usages else None,
        last=any(piece.last for piece in pieces),
    )
