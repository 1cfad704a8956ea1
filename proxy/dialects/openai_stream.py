"""Streamed chat and text completions: what each event holds, which one is taken out, and how we end a stream ourselves.

Every event's content is counted, also of events that say it in another way than OpenAI's; what cannot be read counts by its bytes. Knows
no budget: it says what was written, whoever meters decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.dialects.counting import Measure, measure, tokens_in, tokens_of_delta
from proxy.dialects.document import drop_member, lenient_decoder
from proxy.dialects.openai_errors import error_members
from proxy.dialects.openai_usage import chat_usage, measure_message, read_usage
from proxy.dialects.reported import cumulative
from proxy.dialects.sse import FRAME_MAX_BYTES, Frame, event_of
from proxy.dialects.sse_reader import FrameReader
from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

DONE = b"data: [DONE]\n\n"
CLOSED_CHOICES_MAX = 4096


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    delta: Any = None
    text: Any = None
    message: Any = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None


class _Head(msgspec.Struct):
    """What every chunk of one stream repeats."""

    id: Any = "cut"
    created: Any = 0
    model: Any = ""


_decode_chunk = lenient_decoder(_Chunk)
_decode_head = lenient_decoder(_Head)


class ChunkReader(FrameReader):
    """Reads the chunks of one chat or text completion."""

    __slots__ = ("_finished", "_first", "_usage")

    def __init__(self, call: Call, *, frame_max_bytes: int = FRAME_MAX_BYTES) -> None:
        super().__init__(call, frame_max_bytes=frame_max_bytes)
        self._usage: Usage | None = None
        self._first = b""
        self._finished: dict[int, Piece] = {}
        """By index, the piece that closed each choice; where that is not forwarded, the choice is still open to the client."""

    def _read_bare(self, frame: Frame) -> Piece:
        self.failed |= frame.raw.startswith(b"error:")  # older llama.cpp sends its errors in a field of this name
        return Piece(frame.raw)

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if data.startswith(b"[DONE]"):
            self.ended = True
            return Piece(frame.raw, last=True)
        chunk = _decode_chunk(data)
        return self._read_unreadable(frame, data) if chunk is None else self._read_chunk(frame, chunk)

    def _read_chunk(self, frame: Frame, chunk: _Chunk) -> Piece:
        usage = None if chunk.usage is None else self._read_usage(chunk.usage)
        if chunk.error or chunk.object == "error":
            self.failed = True
            return Piece(frame.raw, self._count(chunk.choices or ()), usage)
        if chunk.choices is None and chunk.usage is None:
            return Piece(frame.raw, tokens_in(len(frame.data or b"")))  # nothing that we know, so it may be anything
        if not chunk.choices and chunk.usage is not None and not self._call.wants_usage:
            return Piece(b"", 0, usage)
        choices = chunk.choices or ()
        hidden = self._call.hides_continuous_usage and not self._call.wants_continuous_usage and choices and chunk.usage is not None
        piece = Piece(_without_usage(frame) if hidden else frame.raw, self._count(choices), usage)
        for choice in choices:
            if choice.finish_reason is not None and type(choice.index) is int:
                self._finished[choice.index] = piece
        if choices and not self._first and frame.data:
            self._first = frame.data
        return piece

    def _count(self, choices: Sequence[_Choice]) -> int:
        tokens = 0
        for choice in choices:
            written = tokens_of_delta(choice, _measure_choice, self._call.count_text)
            if written:
                self.deltas += 1
                tokens += written
        return tokens

    def _read_usage(self, value: object) -> Usage | None:
        usage = read_usage(value)
        if usage is None:
            self.usage_rejected = True
            return None
        self._usage = cumulative(self._usage, usage)
        return self._usage

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The error event and the end marker."""
        return self._separator() + event_of(error_members(refusal)) + DONE

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """The end that the model's own length limit would make: each open choice closed, usage where it was asked for, the end marker."""
        head = _decode_head(self._first) or _Head()
        chat = self._call.operation == "chat"
        members = {
            "id": head.id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": head.created,
            "model": head.model or self._call.model,
        }
        written: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        chunks: list[dict[str, Any]] = [
            {**members, "choices": [{"index": index, **written, "logprobs": None, "finish_reason": "length"}]}
            for index in range(min(self._call.choices, CLOSED_CHOICES_MAX))
            if self._finished.get(index) in (None, *unsent)
        ]
        if self._call.wants_usage:
            chunks.append({**members, "choices": [], "usage": chat_usage(usage)})
        return self._separator() + b"".join(map(event_of, chunks)) + DONE


def _without_usage(frame: Frame) -> bytes:
    """The chunk as it would have come if nobody had asked for usage in it."""
    assert frame.data is not None
    data = drop_member(frame.data, "usage")
    if frame.data in frame.raw:
        return frame.raw.replace(frame.data, data, 1)
    return b"".join(b"data: %b\n" % line for line in data.split(b"\n")) + b"\n"  # it came in several lines


def _measure_choice(choice: _Choice, by: Measure) -> int:
    if choice.delta is not None:
        return measure_message(choice.delta, by)
    if choice.text is not None:
        return measure(choice.text, by)
    return measure_message(choice.message, by)
