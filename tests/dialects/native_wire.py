"""How the tests of servers' own APIs ask a dialect and read what it says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Changes, Dialect, MediaRule, Paths, Reader, Request
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Refusal

MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
USED_UP = Refusal("insufficient_quota", "The budget is used up.", hint="Wait.", account="user:ann")


@dataclass(frozen=True)
class Wire:
    """One dialect, asked over its paths alone."""

    name: str
    media: MediaRule = MEDIA
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.name]

    def request(self, path: str, document: object = b"", *, method: str = "POST") -> Request:
        _, operation, model = Paths([self.dialect]).find(method, path)
        body = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
        return Request(operation, body, model, headers=self.headers)

    def parse(self, path: str, document: object = b"", *, method: str = "POST") -> Call:
        return self.dialect.parse_request(self.request(path, document, method=method), self.media)

    def refusal(self, path: str, document: object) -> Refusal:
        with pytest.raises(Refusal) as refused:
            self.parse(path, document)
        assert refused.value.code == "invalid_request"
        return refused.value

    def rewritten(self, path: str, document: object, changes: Changes) -> Any:
        """The document that is forwarded."""
        request = self.request(path, document)
        body = self.dialect.rewrite(self.dialect.parse_request(request, self.media), request, changes)
        return document if body is None else json.loads(body)

    def reader(self, call: Call) -> Reader:
        reader = self.dialect.read_stream(call, EVENT_STREAM)
        assert reader is not None
        return reader

    def read(self, call: Call, *chunks: bytes) -> tuple[list[Piece], Reader]:
        reader = self.reader(call)
        pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
        return [*pieces, *reader.close()], reader

    def answer(self, call: Call, document: object) -> Answer:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.dialect.read_answer(call, body, "application/json")


def call_of(operation: str, *, stream: bool = True, choices: int = 1, most: int | None = None) -> Call:
    return Call(operation, "m", stream, choices, most, input_tokens_bound=100, input_tokens_counted=10)


def events(*documents: object) -> bytes:
    return b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)


def data_of(stream: bytes) -> list[Any]:
    """The documents in a stream's events."""
    return [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]


def tokens(pieces: Iterable[Piece]) -> list[int]:
    return [piece.output_tokens for piece in pieces]


def forwarded(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def last_usage(pieces: Iterable[Piece]) -> Usage | None:
    return ([piece.usage for piece in pieces if piece.usage] or [None])[-1]


def state(wire: Wire, call: Call, *chunks: bytes) -> tuple[object, ...]:
    pieces, reader = wire.read(call, *chunks)
    return pieces, reader.deltas, reader.ended, reader.failed, reader.usage_rejected
