"""Streams of recordings, transcripts and images: events that each say their type, and a last one with the usage.

What such an event means is said in `openai_audio` and `openai_images`, in a subclass; events without a type are chunks like those of a
chat, in which vLLM sends its transcripts. There is no end that a length limit would make.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects.counting import tokens_in
from proxy.dialects.document import lenient_decoder
from proxy.dialects.openai_stream import ChunkReader
from proxy.dialects.sse import Frame
from proxy.domain import Piece, Usage

_decode_event = lenient_decoder(dict[str, Any])


class TypedReader(ChunkReader):
    """Reads one stream of events by their types."""

    __slots__ = ()

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        event = None if data.startswith(b"[DONE]") else _decode_event(data)
        if event is None:
            return super()._read_data(frame, data)
        kind = event.get("type") or frame.event
        if not isinstance(kind, str):
            return super()._read_data(frame, data)
        if kind == "error" or event.get("error"):
            self.failed = True
            return Piece(frame.raw)
        piece = self._read_event(frame, kind, event)
        return Piece(frame.raw, tokens_in(len(data))) if piece is None else piece

    @abstractmethod
    def _read_event(self, frame: Frame, kind: str, event: Mapping[str, Any]) -> Piece | None:
        """An event of a type; None where nothing is known of it, so that it may be anything."""

    def _end(self, frame: Frame, *, output_tokens: int, usage: Usage | None, reported: object) -> Piece:
        """The last event. `reported` is what was to be read as usage."""
        self.ended = True
        self.usage_rejected |= usage is None and reported is not None
        return Piece(frame.raw, output_tokens, usage, last=True)

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> None:
        """There are no words for it."""
