"""Streamed chats of Cohere's: events of blocks that start, grow and end, and a last one with the usage of all.

An error has no event there, and clients pass over what they do not know; so a chat that must fail is broken off, which they do raise at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.dialects.cohere_answers import read_chat_usage
from proxy.dialects.counting import measure, tokens_in, tokens_of_delta
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import cumulative
from proxy.dialects.sse import Frame, event_of
from proxy.dialects.sse_reader import FrameReader
from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

BLOCKS_MAX = 4096

_WRITTEN = frozenset({"content-start", "content-delta", "tool-plan-delta", "tool-call-start", "tool-call-delta"})
_NOT_WRITTEN = frozenset({"message-start", "content-end", "tool-call-end", "citation-start", "citation-end", "debug"})
_BLOCKS = ("content", "tool-call", "citation")


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    id: Any = None
    index: Any = None
    delta: Any = None


class _Block:
    """A part of a message: the pieces that opened and closed it."""

    __slots__ = ("closed_by", "opened_by")

    def __init__(self, opened_by: Piece) -> None:
        self.opened_by = opened_by
        self.closed_by: Piece | None = None

    def is_open_without(self, unsent: Sequence[Piece]) -> bool:
        return self.opened_by not in unsent and (self.closed_by is None or self.closed_by in unsent)


_decode_event = lenient_decoder(_Event)


class EventReader(FrameReader):
    """Reads the events of one chat."""

    __slots__ = ("_blocks", "_id", "_usage")

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._usage: Usage | None = None
        self._id: Any = None
        self._blocks: dict[tuple[str, int], _Block] = {}

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if data.startswith(b"[DONE]"):
            self.ended = True
            return Piece(frame.raw, last=True)
        event = _decode_event(data)
        if event is None:
            return self._read_unreadable(frame, data)
        kind = event.type if isinstance(event.type, str) else frame.event or ""
        if kind == "message-end":
            return self._read_end(frame, event.delta if isinstance(event.delta, dict) else {})
        if kind not in _WRITTEN and kind not in _NOT_WRITTEN:
            return Piece(frame.raw, tokens_in(len(data)))  # nothing that we know, so it may be anything
        if kind == "message-start":
            self._id = event.id
        piece = Piece(frame.raw, self._count(event.delta) if kind in _WRITTEN else 0)
        self._note_block(kind, event.index, piece)
        return piece

    def _count(self, delta: object) -> int:
        tokens = tokens_of_delta(delta, measure, self._call.count_text)
        self.deltas += 1 if tokens else 0
        return tokens

    def _note_block(self, kind: str, index: object, piece: Piece) -> None:
        block, _, what = kind.rpartition("-")
        if block not in _BLOCKS or type(index) is not int:
            return
        if what == "start" and len(self._blocks) < BLOCKS_MAX:
            self._blocks[block, index] = _Block(piece)
        elif what == "end" and (block, index) in self._blocks:
            self._blocks[block, index].closed_by = piece

    def _read_end(self, frame: Frame, delta: dict[str, Any]) -> Piece:
        self.ended = True
        self.failed |= bool(delta.get("error")) or delta.get("finish_reason") == "ERROR"
        reported = delta.get("usage")
        usage = None
        if reported is not None:
            try:
                usage = self._usage = cumulative(self._usage, read_chat_usage(reported))
            except ValueError:
                self.usage_rejected = True
        return Piece(frame.raw, 0, usage, last=True)

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> None:
        """Nothing: no event makes clients raise, but a connection that breaks does."""

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the model's own length limit would make: each open block closed, then the message, with usage."""
        ends: list[dict[str, Any]] = [
            {"type": f"{block}-end", "index": index} for (block, index), state in self._blocks.items() if state.is_open_without(unsent)
        ]
        counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        delta = {"finish_reason": "MAX_TOKENS", "usage": {"billed_units": counts, "tokens": counts}}
        ends.append({"type": "message-end", **({} if self._id is None else {"id": self._id}), "delta": delta})
        return self._separator() + b"".join(event_of(end, name=end["type"]) for end in ends)
