"""Streamed answers of Ollama's: a document a line, the last of which says that it is done and what was used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from proxy.dialects.counting import tokens_in, tokens_of_delta
from proxy.dialects.ndjson import LINE_MAX_BYTES, Line
from proxy.dialects.ndjson_reader import LineReader
from proxy.dialects.ollama_answers import Part, decode_part, measure_part, read_usage
from proxy.dialects.ollama_errors import error_members
from proxy.dialects.reported import cumulative
from proxy.domain import Call, Piece, Usage
from proxy.errors import Expected

CONTEXT_BYTES_PER_TOKEN = 8
"""A token id and its comma."""


class PartReader(LineReader):
    """Reads the lines of one chat or generated text."""

    __slots__ = ("_first", "_output_tokens", "_usage")

    def __init__(self, call: Call) -> None:
        # The last line of a generated text holds all of its tokens, and the prompt's, as numbers.
        super().__init__(call, line_max_bytes=4 * LINE_MAX_BYTES + CONTEXT_BYTES_PER_TOKEN * call.input_tokens_bound)
        self._first: Part | None = None
        self._output_tokens = 0
        self._usage: Usage | None = None

    def _read_data(self, line: Line, data: bytes) -> Piece:
        part = decode_part(data)
        if part is None:
            self.usage_rejected |= line.whole and b'"eval_count"' in data  # inside a text its quotes would be escaped
            return self._read_unreadable(line, data)
        if part.error:
            self.failed = True
            return Piece(line.raw)
        if part.message is None and part.response is None and part.done is None:
            return Piece(line.raw, tokens_in(len(data)))  # nothing that we know, so it may be anything
        self._first = self._first or part
        tokens = self._count(part)
        if part.done is not True:
            return Piece(line.raw, tokens)
        self.ended = True
        return Piece(line.raw, tokens, self._read_usage(part), last=True)

    def _count(self, part: Part) -> int:
        tokens = tokens_of_delta(part, measure_part, self._call.count_text)
        self.deltas += 1 if tokens else 0
        self._output_tokens += tokens
        return tokens

    def _read_usage(self, part: Part) -> Usage | None:
        try:
            usage = read_usage(part, self._call, output_tokens=self._output_tokens)
        except ValueError:
            self.usage_rejected = True
            return None
        if usage is not None:
            self._usage = cumulative(self._usage, usage)
        return usage and self._usage

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The error line; clients raise at it and read no further."""
        return self._line(error_members(refusal))

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The last line that the model's own length limit would make."""
        first = self._first or Part()
        nothing: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if self._call.operation == "chat" else {"response": ""}
        return self._line(
            {
                "model": first.model or self._call.model,
                "created_at": first.created_at or "1970-01-01T00:00:00Z",
                **nothing,
                "done": True,
                "done_reason": "length",
                "prompt_eval_count": usage.input_tokens,
                "eval_count": usage.output_tokens,
            }
        )

    def _line(self, members: dict[str, Any]) -> bytes:
        return self._separator() + json.dumps(members, separators=(",", ":")).encode() + b"\n"
