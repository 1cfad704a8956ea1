"""Streamed Gemini answers: what each chunk holds, when the answer is complete, and how we end a stream ourselves.

Nothing marks the end of an event stream but its connection's end: it is complete where each candidate has its `finishReason` by then. Some
servers give one in every chunk, so each chunk that may be the last is held back until another one comes. An array ends with its bracket.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from proxy.dialects.counting import tokens_in, tokens_of_delta
from proxy.dialects.document import lenient_decoder
from proxy.dialects.gemini_errors import error_members
from proxy.dialects.gemini_usage import Report, measure_content, read_report, usage_members
from proxy.dialects.json_array import ArraySplitter
from proxy.dialects.reported import cumulative
from proxy.dialects.sse import Frame, event_of
from proxy.dialects.sse_reader import FrameReader
from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

CHUNK_MAX_BYTES = 2**25
"""An image comes in one chunk; the largest are some 20 MB in base64."""
CANDIDATES_MAX = 4096
HELD_BACK_MAX = 8
_UNFINISHED = (None, "", 0, "FINISH_REASON_UNSPECIFIED")
_NOT_ELEMENT = b" \t\r\n[],"


class _Candidate(msgspec.Struct, rename="camel", gc=False):
    content: Any = None
    finish_reason: Any = None
    index: Any = 0


class _Chunk(msgspec.Struct, rename="camel", gc=False):
    candidates: list[_Candidate] | None = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    error: Any = None
    model_version: Any = None
    response_id: Any = None


_decode_chunk = lenient_decoder(_Chunk)


class ChunkReader(FrameReader):
    """Reads the chunks of one answer in an event stream."""

    __slots__ = ("_blocked", "_closed_by", "_counted", "_counted_since", "_first", "_held_back", "_report")

    def __init__(self, call: Call) -> None:
        super().__init__(call, frame_max_bytes=CHUNK_MAX_BYTES)
        self._report: Report | None = None
        self._counted = 0
        self._counted_since = 0
        """Since the last report of usage."""
        self._first = b""
        self._blocked = False
        self._closed_by: dict[int, bytes | None] = {}
        """By candidate, the bytes that closed it; where those are not forwarded, it is still open to the client."""
        self._held_back: list[Piece] = []

    # --- what comes --------------------------------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The pieces that this chunk completes, without those that may be the answer's last."""
        return self._passing(self._frames.feed(chunk))

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end."""
        passing = self._passing(self._frames.close())
        self.ended = self._is_complete()
        left, self._held_back = self._held_back, []
        return [*passing, *(replace(piece, last=self.ended) for piece in left)]

    def _passing(self, frames: Sequence[Frame]) -> list[Piece]:
        passing: list[Piece] = []
        for frame in frames:
            piece = self._read(frame)
            is_bare = frame.data is None and not frame.opaque
            if not (is_bare and 0 < len(self._held_back) < HELD_BACK_MAX):
                passing += self._held_back
                self._held_back = []
            if self._is_complete():
                self._held_back.append(piece)
            else:
                passing.append(piece)
        return passing

    def _is_complete(self) -> bool:
        return self._blocked or (bool(self._closed_by) and None not in self._closed_by.values())

    def _read(self, frame: Frame) -> Piece:
        """The piece, with the usage as reported so far and, since then, as counted: what comes last is charged."""
        before = self._report
        piece = super()._read(frame)
        tokens = piece.output_tokens
        self._counted += tokens
        self._counted_since = self._counted_since + tokens if self._report is before else 0
        if self._report is None or (not tokens and self._report is before):
            return piece
        usage = self._report.usage
        output = usage.output + self._counted_since if self._report.counts_output else self._counted
        return Piece(piece.data, tokens, replace(usage, output=output))

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if data.startswith(b"[DONE]"):  # no part of this API, but some servers end every stream so
            return Piece(frame.raw)
        chunk = _decode_chunk(data)
        return self._read_unreadable(frame, data) if chunk is None else self._read_chunk(frame, data, chunk)

    def _read_bare(self, frame: Frame) -> Piece:
        text = frame.raw.strip()
        if text.startswith(b"{"):  # Google writes some errors without a field's name, and its clients read that
            return self._read_data(frame, text)
        return Piece(frame.raw)

    def _read_unreadable(self, frame: Frame, data: bytes) -> Piece:
        self.usage_rejected |= frame.whole and b'"usageMetadata"' in data  # inside a text its quotes would be escaped
        return super()._read_unreadable(frame, data)

    def _read_chunk(self, frame: Frame, data: bytes, chunk: _Chunk) -> Piece:
        if chunk.error:
            self.failed = True
            return Piece(frame.raw)
        if chunk.candidates is None and chunk.usage_metadata is None and not chunk.prompt_feedback:
            tokens = tokens_in(len(data))  # nothing that we know, so it may be anything
        else:
            tokens = self._count(chunk.candidates or (), frame.raw)
        self._first = self._first or data
        self._blocked |= isinstance(chunk.prompt_feedback, dict) and bool(chunk.prompt_feedback.get("blockReason"))
        self._read_usage(chunk.usage_metadata)
        return Piece(frame.raw, tokens)

    def _count(self, candidates: Sequence[_Candidate], raw: bytes) -> int:
        tokens = 0
        for candidate in candidates:
            written = tokens_of_delta(candidate.content, measure_content, self._call.count_text)
            if written:
                self.deltas += 1
                tokens += written
            index = candidate.index
            if type(index) is int and 0 <= index < CANDIDATES_MAX:
                is_open = candidate.finish_reason in _UNFINISHED and self._closed_by.get(index) is None
                self._closed_by[index] = None if is_open else raw
        return tokens

    def _read_usage(self, value: object) -> None:
        try:
            report = None if value is None else read_report(value)
        except ValueError:
            self.usage_rejected = True
            return
        before = self._report
        if report is not None and before is not None:
            report = Report(cumulative(before.usage, report.usage), before.counts_output or report.counts_output)
        self._report = report or before

    # --- how we end it -----------------------------------------------------------------------------------------------------------

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """An event with the error; there is no end marker."""
        return self._separator() + event_of(error_members(refusal))

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """The end that the model's own length limit would make: each open candidate closed, and the usage."""
        return self._separator() + event_of(self._end_by_length(usage, unsent))

    def _end_by_length(self, usage: Usage, unsent: Sequence[Piece]) -> dict[str, Any]:
        first = _decode_chunk(self._first) or _Chunk()
        not_sent = {None, *(piece.data for piece in (*unsent, *self._held_back))}
        candidates = [
            {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": index}
            for index in range(min(self._call.choices, CANDIDATES_MAX))
            if self._closed_by.get(index) in not_sent
        ]
        end = {"candidates": candidates, "usageMetadata": usage_members(usage), "modelVersion": first.model_version or self._call.model}
        return end if first.response_id is None else {**end, "responseId": first.response_id}


class ArrayReader(ChunkReader):
    """Reads the chunks of one answer in a JSON array."""

    __slots__ = ("_array", "_elements", "_is_array", "_is_broken", "_is_closed")

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._array = ArraySplitter(CHUNK_MAX_BYTES)
        self._elements = 0
        self._is_array = True
        """False where the answer is one bare object after all."""
        self._is_closed = False
        self._is_broken = False
        """Whether half an element may have been forwarded, after which nothing of ours could be read."""

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The pieces that this chunk completes, without those that may be the answer's last."""
        return self._passing(self._array.feed(chunk))

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end."""
        return [*self._passing(self._array.close()), *super().close()]

    def _is_complete(self) -> bool:
        return self._is_closed or (not self._is_array and super()._is_complete())

    def _read(self, frame: Frame) -> Piece:
        self._is_broken |= frame.opaque
        if self._elements == 0 and frame.data is not None:
            self._is_array = frame.raw.lstrip().startswith(b"[")
        self._elements += frame.data is not None
        return super()._read(frame)

    def _read_bare(self, frame: Frame) -> Piece:
        if not frame.whole:
            return Piece(b"")
        self._is_closed |= frame.raw.rstrip().endswith(b"]")
        unknown = frame.raw.strip(_NOT_ELEMENT)
        return Piece(frame.raw, tokens_in(len(unknown)))

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """An element with the error, and the closing bracket."""
        return self._last_element(error_members(refusal), unsent)

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """An element with the end that the model's own length limit would make, and the closing bracket."""
        return self._last_element(self._end_by_length(usage, unsent), unsent)

    def _last_element(self, element: dict[str, Any], unsent: Sequence[Piece]) -> bytes | None:
        if self._is_broken:
            return None
        kept = sum(bool(piece.data.strip(_NOT_ELEMENT)) for piece in (*unsent, *self._held_back))
        before = b",\r\n" if self._elements > kept else b"["
        return before + json.dumps(element, separators=(",", ":")).encode() + b"]"
