"""The answers of inference servers' own APIs, as far as these have a form in common: what was generated, and the usage beside it.

One request may have several answers, each with usage of its own; together they are the request's. What the members mean is said by a
dialect; requests are read in `native`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.dialects.counting import Measured, tokens_in, tokens_in_delta, tokens_of
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import cumulative
from proxy.dialects.sse import Frame, event_of
from proxy.dialects.sse_reader import FrameReader
from proxy.domain import NO_USAGE, USAGE_KINDS, Answer, Call, Piece, Usage
from proxy.errors import Expected

Json = Mapping[str, Any]
UsageOf = Callable[[Json], Usage | None]
"""The usage that an answer reports, None where it reports none. Raises ValueError where it cannot be believed."""

DONE = b"data: [DONE]\n\n"

_decode_object = lenient_decoder(dict)
_decode_list = lenient_decoder(list)


def sum_of(usages: Sequence[Usage]) -> Usage:
    """Usage of several answers together."""
    if len(usages) == 1:
        return usages[0]
    return Usage(**{kind: sum(getattr(usage, kind) for usage in usages) for kind in USAGE_KINDS})


def answers_in(body: bytes) -> Sequence[Any] | None:
    """The answers in a body: its list of them, or the one that it is; None where it cannot be read."""
    if body.lstrip()[:1] == b"[":
        return _decode_list(body)
    document = _decode_object(body)
    return None if document is None else [document]


def read_whole(call: Call, body: bytes, *, usage_of: UsageOf, measured: Measured[Json]) -> Answer:
    """What a whole answer used, where it says so believably, and holds; `measured` says how much the model wrote in one."""
    answers = answers_in(body)
    if not answers or not all(isinstance(answer, dict) for answer in answers):
        return Answer(None, tokens_in(len(body)))
    if any(answer.get("error") for answer in answers):
        return Answer(None, 0)
    usages: list[Usage | None] = [None]
    is_rejected = False
    try:
        usages = [usage_of(answer) for answer in answers]
    except ValueError:
        is_rejected = True
    reported = [usage for usage in usages if usage is not None]
    is_reported = len(reported) == len(usages)
    count_text = None if is_reported else call.count_text
    counted = sum(max(1, tokens_of(answer, measured, count_text)) for answer in answers)
    return Answer(sum_of(reported) if is_reported else None, counted, usage_rejected=is_rejected)


class Tally:
    """Usage as a stream reports it, of each answer on its own and of all together, and the tokens that were counted meanwhile."""

    __slots__ = ("_counted", "_reported", "total")

    def __init__(self) -> None:
        self._reported: dict[int, Usage] = {}
        self._counted: dict[int, int] = {}
        self.total: Usage | None = None
        """None until a report comes."""

    def add(self, index: int, tokens: int, usage: Usage | None, *, least: int) -> int:
        """Take over an event of one answer: how many tokens of output are new in it.

        What it reports to have used so far counts exactly, though `least` tokens were seen; without a report it is `tokens`.
        """
        before = self._counted.get(index, 0)
        if usage is not None:
            tokens = max(self._report(index, usage).output_tokens - before, least)
        self._counted[index] = before + tokens
        return tokens

    def _report(self, index: int, usage: Usage) -> Usage:
        before = self._reported.get(index, NO_USAGE)
        now = self._reported[index] = cumulative(before, usage)
        if self.total is None or len(self._reported) == 1:
            self.total = now
        else:
            total = self.total
            changed = {kind: getattr(total, kind) - getattr(before, kind) + getattr(now, kind) for kind in USAGE_KINDS}
            self.total = Usage(**changed)
        return now


class NativeReader(FrameReader):
    """Reads a stream of JSON objects, in which an object with an `error` is one."""

    __slots__ = ("_error_members", "_tally")

    end = b""
    """The end marker, where there is one."""

    def __init__(self, call: Call, error_members: Callable[..., dict[str, Any]]) -> None:
        super().__init__(call)
        self._error_members = error_members
        self._tally = Tally()

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if self.end and data.startswith(b"[DONE]"):
            self.ended = True
            return Piece(frame.raw, last=True)
        event = _decode_object(data)
        if event is None:
            return self._read_unreadable(frame, data)
        if event.get("error"):
            self.failed = True
            return Piece(frame.raw)
        return self._read_event(frame, event)

    @abstractmethod
    def _read_event(self, frame: Frame, event: Json) -> Piece:
        """An event that is no error."""

    def _index_of(self, event: Json) -> int | None:
        """Which answer an event belongs to; None where there is no such answer."""
        index = event.get("index", 0)
        return index if type(index) is int and 0 <= index < self._call.choices else None

    def _count(self, event: Json, written: int, usage_of: UsageOf, *, tokens: int | None = None) -> tuple[int, Usage | None]:
        """Tokens that are new in an event in which so many bytes are, and all usage so far, where the event reports any.

        `tokens` is how many there are, where that is known; else the bytes say.
        """
        least = int(written > 0)
        self.deltas += least
        index = self._index_of(event)
        tokens = tokens_in_delta(written) if tokens is None else tokens
        if index is None:
            return tokens, None
        try:
            usage = usage_of(event)
        except ValueError:
            self.usage_rejected = True
            usage = None
        tokens = self._tally.add(index, tokens, usage, least=least)
        return tokens, None if usage is None else self._tally.total

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """The error event, and the end marker where there is one."""
        return self._separator() + event_of(self._error_members(refusal, status=refusal.status)) + self.end
