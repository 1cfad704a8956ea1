"""Ollama's operations that generate text or vectors, with the charges for each.

A usage is written as the members that the last line has of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.support.speech import GENERATED, HELLO, MISSING, Asked, Charge, Json, Speech

_HEAD = b'"model":"tiny","created_at":"2026-11-22T08:00:00.123456Z"'
_MESSAGES = [{"role": "user", "content": HELLO}]

_ABSURD = {
    "negative": b'"prompt_eval_count":-12,"eval_count":5',
    "fractional": b'"prompt_eval_count":12,"eval_count":5.5',
    "a string": b'"prompt_eval_count":"12","eval_count":5',
    "a boolean": b'"prompt_eval_count":12,"eval_count":true',
    "infinite": b'"prompt_eval_count":12,"eval_count":1e999',
    "beyond belief": b'"prompt_eval_count":12,"eval_count":100000001',
    "beyond 64 bits": b'"prompt_eval_count":36893488147419103232,"eval_count":5',
    "a list": b'"prompt_eval_count":[12],"eval_count":5',
}
_ABSURD_INPUT = ("negative", "a string", "beyond 64 bits", "a list")


def usage(inputs: int, outputs: int) -> bytes:
    return b'"prompt_eval_count":%d,"eval_count":%d' % (inputs, outputs)


def line(written: bytes, *, ends: str = "", usage: object = b"") -> bytes:
    """One line of a stream; with a reason why it ends, the last, with a usage."""
    if not ends:
        return b'{%b,%b,"done":false}\n' % (_HEAD, written)
    assert isinstance(usage, bytes)
    end = b'"done_reason":"%b","done":true,"total_duration":9' % ends.encode()
    return b"{" + b",".join(filter(None, (_HEAD, written, end, usage))) + b"}\n"


def message(text: str) -> bytes:
    return b'"message":{"role":"assistant","content":%b}' % json.dumps(text).encode()


def response(text: str) -> bytes:
    return b'"response":%b' % json.dumps(text).encode()


def chat_lines(words: Sequence[str], usage: object, *, ends: str = "stop") -> list[bytes]:
    return [*(line(message(word)) for word in words), line(message(""), ends=ends, usage=usage)]


def generated_lines(words: Sequence[str], usage: object) -> list[bytes]:
    return [*(line(response(word)) for word in words), line(response(""), ends="stop", usage=usage)]


def vectors(member: bytes, usage: object) -> bytes:
    assert isinstance(usage, bytes)
    return b"{" + b",".join(filter(None, (member, usage))) + b"}"


def _ask(path: str, model: str, stream: bool, body: Json) -> Asked:
    return Asked(path, {"model": model, **body, **({} if stream else {"stream": False})})


def _refusal_code(document: Any, status: int) -> str:
    assert document.keys() == {"error", "compute_ledger"}
    code = str(document["compute_ledger"]["code"])
    assert document["error"].startswith(f"{code}: ")
    return code


_ollama = partial(
    Speech,
    dialect="ollama",
    media_type="application/x-ndjson",
    error=b'{"error":"no"}',
    error_event=b'{"error":"busy"}\n',
    absurd=_ABSURD,
    refusal_code=_refusal_code,
)
_TEXT_USAGES = {"input cached": b'"eval_count":5', "output not said": b'"prompt_eval_count":12'}
_TEXT_CHARGES = {
    **GENERATED,
    "none used": Charge(48, 55),  # 9 x 3 counted, for no prompt is read for nothing, and 3 x 7 for the words seen; as a whole + 4 x 7
    "input cached": Charge(62, 62),  # 9 x 3 + 5 x 7
    "output not said": Charge(57, 64),  # 12 x 3 + 3 x 7; as a whole + 4 x 7
    MISSING: Charge(48, 55),  # 9 x 3 + 3 x 7; as a whole + 4 x 7
}

CHAT = _ollama(
    name="ollama-chat",
    ask=lambda model, stream: _ask("/api/chat", model, stream, {"messages": _MESSAGES}),
    maximum=("options", "num_predict"),
    events=chat_lines,
    whole=lambda text, usage: line(message(text), ends="stop", usage=usage),
    bill=usage,
    usages=_TEXT_USAGES,
    charges=_TEXT_CHARGES,
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=87,  # (5 + 8 + 16) x 3
    length_cut=(b'"done_reason":"length"', b'"eval_count":2'),
)

GENERATE = _ollama(
    name="ollama-generate",
    ask=lambda model, stream: _ask("/api/generate", model, stream, {"prompt": HELLO}),
    maximum=("options", "num_predict"),
    events=generated_lines,
    whole=lambda text, usage: line(response(text), ends="stop", usage=usage),
    bill=usage,
    usages=_TEXT_USAGES,
    charges=_TEXT_CHARGES,
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=87,  # (5 + 8 + 16) x 3
    length_cut=(b'"done_reason":"length"', b'"eval_count":2'),
)

_vectors = partial(
    _ollama,
    bill=lambda inputs, outputs: b'"prompt_eval_count":%d' % inputs,
    absurd={kind: usage for kind, usage in _ABSURD.items() if kind in _ABSURD_INPUT},
    charges={
        "present": Charge(None, 36),  # 12 x 3
        "none used": Charge(None, 6),  # 2 x 3 counted, for no text is read for nothing
        "below words": Charge(None, 36),  # 12 x 3
        MISSING: Charge(None, 6),  # 2 x 3
    },
    input_nanocredits=6,  # 2 x 3
    held_nanocredits=75,  # (5 + 4 + 16) x 3
)

EMBED = _vectors(
    name="ollama-embed",
    ask=lambda model, stream: Asked("/api/embed", {"model": model, "input": HELLO}),
    whole=lambda text, usage: vectors(b'"model":"tiny","embeddings":[[0.5,-0.25]],"total_duration":9', usage),
)

EMBEDDINGS = _vectors(
    name="ollama-embeddings",
    ask=lambda model, stream: Asked("/api/embeddings", {"model": model, "prompt": HELLO}),
    whole=lambda text, usage: vectors(b'"embedding":[0.5,-0.25]', usage),
)

SPEECHES = (CHAT, GENERATE, EMBED, EMBEDDINGS)
