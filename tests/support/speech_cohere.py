"""Cohere's operations, with the charges for each. A usage is written as its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.support.speech import GENERATED, HELLO, MISSING, Asked, Charge, Json, Speech

_MESSAGES = [{"role": "user", "content": HELLO}]

_ABSURD = {
    "negative": b'{"%(unit)s":{"input_tokens":-12,"output_tokens":5}}',
    "fractional": b'{"%(unit)s":{"input_tokens":12,"output_tokens":5.5}}',
    "a string": b'{"%(unit)s":{"input_tokens":"12","output_tokens":5}}',
    "a boolean": b'{"%(unit)s":{"input_tokens":12,"output_tokens":true}}',
    "infinite": b'{"%(unit)s":{"input_tokens":12,"output_tokens":1e999}}',
    "beyond belief": b'{"%(unit)s":{"input_tokens":12,"output_tokens":100000001.0}}',
    "beyond 64 bits": b'{"%(unit)s":{"input_tokens":12,"output_tokens":36893488147419103232}}',
    "a list of counts": b'{"%(unit)s":[12,5]}',
    "a list": b"[12,5]",
    "a number": b"17",
}


def _absurd(unit: bytes) -> dict[str, bytes]:
    return {kind: usage % {b"unit": unit} if b"%" in usage else usage for kind, usage in _ABSURD.items()}


def usage(inputs: int, outputs: int) -> bytes:
    """As Cohere reports it: floats, and more tokens than are billed, for its own instructions are not."""
    billed = b'{"input_tokens":%d.0,"output_tokens":%d.0}' % (inputs, outputs)
    return b'{"billed_units":%b,"tokens":{"input_tokens":%d.0,"output_tokens":%d.0},"cached_tokens":0.0}' % (billed, inputs + 490, outputs)


def event(kind: str, members: Json | None = None, *, usage: object = b"") -> bytes:
    """One event; usage goes into its delta."""
    data = json.dumps({"type": kind, **(members or {})}, separators=(",", ":")).encode()
    if usage:
        assert isinstance(usage, bytes)
        data = data[:-2] + b',"usage":%b}}' % usage
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def chat_events(words: Sequence[str], usage: object) -> list[bytes]:
    deltas = (event("content-delta", {"index": 0, "delta": {"message": {"content": {"text": word}}}}) for word in words)
    return [
        event("message-start", {"id": "c1", "delta": {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}}}),
        event("content-start", {"index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}}),
        *deltas,
        event("content-end", {"index": 0}),
        event("message-end", {"id": "c1", "delta": {"finish_reason": "COMPLETE"}}, usage=usage),
        b"data: [DONE]\n\n",
    ]


def _with(members: bytes, name: bytes, usage: object) -> bytes:
    assert isinstance(usage, bytes)
    return b'{%b,"%b":%b}' % (members, name, usage) if usage else b"{%b}" % members


def chat(text: str, usage: object) -> bytes:
    message = json.dumps({"role": "assistant", "content": [{"type": "text", "text": text}]}).encode()
    return _with(b'"id":"c1","finish_reason":"COMPLETE","message":%b' % message, b"usage", usage)


def _refusal_code(document: Any, status: int) -> str:
    assert document.keys() == {"message", "compute_ledger"}
    assert document["message"]
    return str(document["compute_ledger"]["code"])


_cohere = partial(Speech, dialect="cohere", error=b'{"id":"e1","message":"no"}', refusal_code=_refusal_code)

CHAT = _cohere(
    name="cohere-chat",
    ask=lambda model, stream: Asked("/v2/chat", {"model": model, "messages": _MESSAGES, "stream": stream}),
    maximum=("max_tokens",),
    events=chat_events,
    whole=chat,
    bill=usage,
    usages={"details": b'{"tokens":{"input_tokens":12,"output_tokens":5},"cached_tokens":4}'},
    absurd={
        **_absurd(b"tokens"),
        "more cached than read": b'{"tokens":{"input_tokens":12,"output_tokens":5},"cached_tokens":13}',
        "absurd beside what is billed": b'{"billed_units":{"input_tokens":12,"output_tokens":5},"tokens":{"input_tokens":-1}}',
        "empty": b"{}",
    },
    charges={
        **GENERATED,
        "details": Charge(67, 67),  # 8 x 3 + 4 x 2 + 5 x 7
        MISSING: Charge(48, 55),  # 9 x 3 + 3 x 7; as a whole + 4 x 7
    },
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=87,  # (5 + 8 + 16) x 3
    error_cut=None,
    length_cut=(b'"type":"content-end"', b'"finish_reason":"MAX_TOKENS"', b'"output_tokens":2'),
)

EMBED = _cohere(
    name="cohere-embed",
    ask=lambda model, stream: Asked(
        "/v2/embed", {"model": model, "texts": [HELLO], "input_type": "search_query", "embedding_types": ["float"]}
    ),
    whole=lambda text, usage: _with(b'"id":"v1","embeddings":{"float":[[0.5,-0.25]]},"texts":["hello"]', b"meta", usage),
    bill=lambda inputs, outputs: b'{"api_version":{"version":"2"},"billed_units":{"input_tokens":%d.0}}' % inputs,
    usages={"of text": b'{"billed_units":{"text_tokens":12,"image_tokens":0}}', "version alone": b'{"api_version":{"version":"2"}}'},
    absurd={kind: usage for kind, usage in _absurd(b"billed_units").items() if kind in ("negative", "a string", "a list", "a number")},
    charges={
        "present": Charge(None, 36),  # 12 x 3
        "of text": Charge(None, 36),  # 12 x 3
        "version alone": Charge(None, 6),  # 2 x 3
        "none used": Charge(None, 0),
        "below words": Charge(None, 36),  # 12 x 3
        MISSING: Charge(None, 6),  # 2 x 3
    },
    input_nanocredits=6,  # 2 x 3
    held_nanocredits=75,  # (5 + 4 + 16) x 3
)

RERANK = _cohere(
    name="cohere-rerank",
    ask=lambda model, stream: Asked("/v2/rerank", {"model": model, "query": HELLO, "documents": [HELLO]}),
    whole=lambda text, usage: _with(b'"id":"r1","results":[{"index":0,"relevance_score":0.9}]', b"meta", usage),
    bill=lambda inputs, outputs: b'{"billed_units":{"search_units":%d.0}}' % min(outputs, 1),
    usages={"of tokens too": b'{"billed_units":{"search_units":1,"input_tokens":12}}'},
    absurd={
        "negative": b'{"billed_units":{"search_units":-1}}',
        "fractional": b'{"billed_units":{"search_units":0.5}}',
        "a string": b'{"billed_units":{"search_units":"1"}}',
        "a list": b"[1]",
    },
    charges={
        "present": Charge(None, 41),  # 4 x 3 counted + 1 x 29
        "of tokens too": Charge(None, 65),  # 12 x 3 + 1 x 29
        "none used": Charge(None, 12),  # 4 x 3 counted
        "below words": Charge(None, 41),  # 4 x 3 counted + 1 x 29
        MISSING: Charge(None, 41),  # 4 x 3 + 1 x 29
    },
    input_nanocredits=41,  # (2 + 2) x 3 + 1 x 29
    held_nanocredits=119,  # (5 + 5 + 4 + 16) x 3 + 1 x 29
)

SPEECHES = (CHAT, EMBED, RERANK)
