"""Streams of the Responses API: named events that build a response, whose last one repeats all of it with its usage.

The model's words are in the events that end in `.delta`. There is no end marker but the last event itself, and no opt-in for usage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from proxy.dialects.counting import (
    BYTES,
    Measure,
    Measured,
    Written,
    measure,
    tokens_in,
    tokens_in_delta,
    tokens_of_delta,
)
from proxy.dialects.document import lenient_decoder
from proxy.dialects.openai_errors import error_members
from proxy.dialects.openai_hosted import is_tool_use, tool_uses
from proxy.dialects.openai_usage import measure_item, read_usage, responses_usage
from proxy.dialects.sse import FRAME_MAX_BYTES, Frame, event_of
from proxy.dialects.sse_reader import FrameReader
from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

PARTIAL_IMAGE_OUTPUT_TOKENS = 100
ENDS = ("response.completed", "response.incomplete", "response.failed")
ESCAPED_BYTES_PER_BYTE = 3


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None
    item: Any = None
    response: Any = None
    sequence_number: Any = None
    error: Any = None


_decode_event = lenient_decoder(_Event)


class EventReader(FrameReader):
    """Reads the events of one response."""

    __slots__ = ("_created", "_done_bytes", "_sequence_number", "_tool_uses", "_written_bytes")

    def __init__(self, call: Call) -> None:
        # The first and last events repeat the request's instructions and tools, and the last one all that was written.
        super().__init__(call, frame_max_bytes=4 * FRAME_MAX_BYTES + ESCAPED_BYTES_PER_BYTE * call.input_tokens_bound)
        self._written_bytes = self._done_bytes = 0
        self._sequence_number = 0
        self._tool_uses = 0
        self._created = b""

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if data.startswith(b"[DONE]"):  # no part of this API, but some servers end every stream so
            return Piece(frame.raw)
        event = _decode_event(data)
        if event is None:
            return self._read_unreadable(frame, data)
        if type(event.sequence_number) is int:
            self._sequence_number = event.sequence_number
        kind = event.type if isinstance(event.type, str) else frame.event or ""
        return self._read_event(frame, kind, event)

    def _read_event(self, frame: Frame, kind: str, event: _Event) -> Piece:
        if kind.endswith(".delta"):
            return Piece(frame.raw, self._count(event.delta, _measure_sound if kind == "response.audio.delta" else measure))
        if kind == "response.output_item.added":
            self._tool_uses += is_tool_use(event.item)
            return Piece(frame.raw, self._count(event.item, measure_item))
        if kind == "response.output_item.done":  # repeats the deltas; without any, all of it is new
            self._done_bytes += measure_item(event.item)
            return Piece(frame.raw, self._count_more(max(0, self._done_bytes - self._written_bytes)))
        if kind.endswith(".partial_image"):
            return Piece(frame.raw, PARTIAL_IMAGE_OUTPUT_TOKENS)
        if kind in ENDS:
            return self._read_end(frame, kind, event.response if isinstance(event.response, dict) else {})
        if kind == "error" or event.error:
            self.failed = True
        elif kind == "response.created" and frame.data is not None:
            self._created = frame.data
        elif not kind:
            return Piece(frame.raw, tokens_in(len(frame.data or b"")))  # nothing that we know, so it may be anything
        return Piece(frame.raw)

    def _count(self, written: Written, measured: Measured[Written]) -> int:
        tokens = tokens_of_delta(written, measured, self._call.count_text)
        self._written_bytes += measured(written, BYTES)
        self.deltas += 1 if tokens else 0
        return tokens

    def _count_more(self, size: int) -> int:
        """So many bytes that no delta had."""
        self._written_bytes += size
        self.deltas += 1 if size else 0
        return tokens_in_delta(size)

    def _read_end(self, frame: Frame, kind: str, response: dict[str, Any]) -> Piece:
        self.ended = True
        self.failed |= kind == "response.failed"
        reported = response.get("usage")
        usage = None if reported is None else read_usage(reported)
        self.usage_rejected |= usage is None and reported is not None
        output = response.get("output")
        if usage is not None and (uses := max(self._tool_uses, tool_uses(output))):
            usage = replace(usage, tool_use=uses)
        unseen = 0 if usage else sum(map(measure_item, output if isinstance(output, list) else ())) - self._written_bytes
        return Piece(frame.raw, tokens_in(max(0, unseen)), usage, last=True)

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The error event, which official clients raise for its `error` member, and a failed response."""
        members = error_members(refusal)
        error = {**members["error"], **members, "type": "error"}
        failure = {"code": refusal.code, "message": refusal.message}
        return self._separator() + self._event(error) + self._event(self._response("response.failed", "failed", error=failure))

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the model's own length limit would make.

        Its `output` is empty, for nothing that was written is kept; the client has it from the events before.
        """
        reason = {"reason": "max_output_tokens"}
        end = self._response("response.incomplete", "incomplete", incomplete_details=reason, usage=responses_usage(usage))
        return self._separator() + self._event(end)

    def _response(self, kind: str, status: str, **changes: object) -> dict[str, Any]:
        created = _decode_event(self._created)
        known = created.response if created is not None and isinstance(created.response, dict) else {}
        blank = {"id": "resp_cut", "object": "response", "created_at": 0, "model": self._call.model, "output": [], "usage": None}
        return {"type": kind, "response": {**blank, **known, "status": status, **changes}}

    def _event(self, members: dict[str, Any]) -> bytes:
        self._sequence_number += 1
        return event_of({**members, "sequence_number": self._sequence_number}, name=members["type"])


def _measure_sound(delta: object, by: Measure) -> int:
    return by.sound(delta) if isinstance(delta, str) else measure(delta, by)
