"""Streamed messages: named events that open, fill and close content blocks, with usage at the beginning and, cumulative, at the end.

The first report holds the whole input, and of the output only what had been computed by then; so until another comes, output is what was
forwarded. Events that nobody here knows count by their bytes, pings excepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from proxy.dialects.anthropic_errors import error_members
from proxy.dialects.anthropic_usage import is_tool_use, measure_block, merged, message_usage, read_usage
from proxy.dialects.counting import Measure, Measured, Written, tokens_in, tokens_of_delta
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import cumulative
from proxy.dialects.sse import Frame, event_of
from proxy.dialects.sse_reader import FrameReader
from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

BLOCKS_MAX = 4096
"""So many blocks are kept in mind, to close those that are open when a stream is cut."""

_NOT_CONTENT = ("signature_delta", "citations_delta")


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    index: Any = None
    delta: Any = None
    content_block: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None


_decode_event = lenient_decoder(_Event)


class MessageReader(FrameReader):
    """Reads the events of one message."""

    __slots__ = ("_begun", "_blocks", "_members", "_output_is_reported", "_tokens", "_tool_uses", "_usage")

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._usage: Usage | None = None
        self._members: dict[str, Any] = {}
        """All that was reported so far, by name."""
        self._output_is_reported = False
        self._tokens = 0
        """Counted in the pieces since the output was last reported."""
        self._tool_uses = 0
        self._begun: Piece | None = None
        self._blocks: dict[int, tuple[Piece, Piece | None]] = {}
        """By index, the pieces that opened and closed each block; where one is not forwarded, the client does not know of it."""

    # --- reading ---------------------------------------------------------------------------------------------------------------

    def _read(self, frame: Frame) -> Piece:
        piece = super()._read(frame)
        self._tokens += piece.output_tokens
        return piece

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if data.startswith(b"[DONE]"):  # no part of this API, but some servers end every stream so
            return Piece(frame.raw)
        event = _decode_event(data)
        if event is None:
            return self._read_unreadable(frame, data)
        kind = event.type if isinstance(event.type, str) else frame.event or ""
        if kind == "content_block_delta":
            return Piece(frame.raw, self._count(event.delta, _measure_delta))
        if kind in ("content_block_start", "content_block_stop"):
            return self._read_edge(frame, event, opens=kind == "content_block_start")
        return self._read_event(frame, kind, event)

    def _read_edge(self, frame: Frame, event: _Event, *, opens: bool) -> Piece:
        """Where a block begins, perhaps with its first words, or ends."""
        tokens = self._count(event.content_block, measure_block) if opens else 0
        usage = None
        if opens and is_tool_use(event.content_block):
            self._tool_uses += 1
            usage = self._so_far(tokens)
        piece = Piece(frame.raw, tokens, usage)
        if type(event.index) is int and (event.index in self._blocks or len(self._blocks) < BLOCKS_MAX):
            opened, _ = self._blocks.get(event.index, (piece, None))
            self._blocks[event.index] = (piece, None) if opens else (opened, piece)
        return piece

    def _read_event(self, frame: Frame, kind: str, event: _Event) -> Piece:
        if kind == "message_start":
            return self._read_start(frame, event.message if isinstance(event.message, dict) else {})
        if kind == "message_delta":
            if self._believes(event.usage):
                self._output_is_reported = True
                self._tokens = 0
            return Piece(frame.raw, 0, None if event.usage is None else self._so_far())
        if kind == "message_stop":
            self.ended = True
            return Piece(frame.raw, 0, self._so_far(), last=True)
        if kind == "error" or event.error:
            self.failed = True
            return Piece(frame.raw)
        # What we do not know may be anything.
        return Piece(frame.raw, 0 if kind == "ping" else tokens_in(len(frame.data or b"")))

    def _read_start(self, frame: Frame, message: dict[str, Any]) -> Piece:
        self._believes(message.get("usage"))
        content = message.get("content")
        tokens = self._count(content if isinstance(content, list) else [], _measure_blocks)
        self._begun = Piece(frame.raw, tokens, self._so_far(tokens))
        return self._begun

    def _count(self, written: Written, measured: Measured[Written]) -> int:
        tokens = tokens_of_delta(written, measured, self._call.count_text)
        self.deltas += 1 if tokens else 0
        return tokens

    def _believes(self, value: object) -> bool:
        """Take over a report, if there is one that can be believed; whether there was."""
        usage = None if value is None else read_usage(value, self._members)
        if usage is None or not isinstance(value, dict):
            self.usage_rejected |= value is not None
            return False
        self._members = merged(self._members, value)
        self._usage = cumulative(self._usage, usage)
        return True

    def _so_far(self, tokens: int = 0) -> Usage | None:
        """The usage as reported and, since then, as counted; `tokens` are those of the piece that it goes with."""
        usage = self._usage
        if usage is None:
            return None
        counted = self._tokens + tokens
        if not self._output_is_reported:
            return replace(usage, output=counted, reasoning=0, tool_use=max(usage.tool_use, self._tool_uses))
        tool_uses = usage.tool_use if "server_tool_use" in self._members else self._tool_uses
        return replace(usage, output=usage.output + counted, tool_use=tool_uses)

    # --- ending ----------------------------------------------------------------------------------------------------------------

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The error event, for which the official clients raise; nothing comes after it."""
        return self._separator() + event_of(error_members(refusal, refusal.status), name="error")

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that `max_tokens` would make: open blocks closed, the reason with the usage, the end; an empty message if none began."""
        events: list[dict[str, Any]] = []
        if self._begun in (None, *unsent):
            message = {"id": "msg_cut", "type": "message", "role": "assistant", "model": self._call.model, "content": []}
            events.append({"type": "message_start", "message": {**message, "stop_reason": None, "usage": message_usage(usage)}})
        events += (
            {"type": "content_block_stop", "index": index}
            for index, (opened, closed) in self._blocks.items()
            if opened not in unsent and closed in (None, *unsent)
        )
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        events += ({"type": "message_delta", "delta": delta, "usage": message_usage(usage)}, {"type": "message_stop"})
        return self._separator() + b"".join(event_of(event, name=event["type"]) for event in events)


def _measure_blocks(blocks: list[Any], by: Measure) -> int:
    return sum(measure_block(block, by) for block in blocks)


def _measure_delta(delta: object, by: Measure) -> int:
    if isinstance(delta, dict) and delta.get("type") in _NOT_CONTENT:
        return 0
    return measure_block(delta, by)
