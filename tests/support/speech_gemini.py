"""Gemini's operations, with the charges for each. An event stream names its usage at the end, an array in every chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tests.support import gemini_answers as answers
from tests.support.speech import GENERATED, HELLO, MISSING, Asked, Charge, Json, Speech

_MODEL = "/v1beta/models/"
_CONTENT = {"role": "user", "parts": [{"text": HELLO}]}
_EMBEDDED = {"parts": [{"text": HELLO}]}

_ABSURD: dict[str, bytes] = {
    "negative": b'{"promptTokenCount":-12,"candidatesTokenCount":5}',
    "fractional": b'{"promptTokenCount":12.5,"candidatesTokenCount":5}',
    "a string": b'{"promptTokenCount":"12","candidatesTokenCount":5}',
    "a boolean": b'{"promptTokenCount":true,"candidatesTokenCount":5}',
    "infinite": b'{"promptTokenCount":1e999,"candidatesTokenCount":5}',
    "beyond belief": b'{"promptTokenCount":100000001,"candidatesTokenCount":5}',
    "beyond 64 bits": b'{"promptTokenCount":36893488147419103232,"candidatesTokenCount":5}',
    "more cached than all": b'{"promptTokenCount":12,"candidatesTokenCount":5,"cachedContentTokenCount":13}',
    "more sound than all": b'{"promptTokenCount":12,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":13}]}',
    "without a prompt": b'{"candidatesTokenCount":5}',
    "a list": b"[12,5]",
    "a number": b"17",
}


def _ask_to_generate(query: str) -> Callable[[str, bool], Asked]:
    def ask(model: str, stream: bool) -> Asked:
        method = f"streamGenerateContent{query}" if stream else "generateContent"
        return Asked(f"{_MODEL}{model}:{method}", {"contents": [_CONTENT]})

    return ask


def _ask_to_embed(method: str, body: Callable[[str], Json]) -> Callable[[str, bool], Asked]:
    return lambda model, stream: Asked(f"{_MODEL}{model}:{method}", body(f"models/{model}"))


def _credential(key: str) -> Mapping[str, str]:
    return {"x-goog-api-key": key}


def _refusal_code(document: Any, status: int) -> str:
    assert document.keys() == {"error", "compute_ledger"}
    error = document["error"]
    assert error.keys() - {"details"} == {"code", "message", "status"}
    assert error["code"] == status
    assert error["status"].isupper()
    return str(document["compute_ledger"]["code"])


_gemini = partial(Speech, dialect="gemini", credential=_credential, error=answers.error("busy"), refusal_code=_refusal_code)
_generating = partial(
    _gemini,
    maximum=("generationConfig", "maxOutputTokens"),
    whole=lambda text, usage: answers.answer(text, usage=usage),
    bill=answers.usage,
    usages={"details": answers.usage(12, 3, cachedContentTokenCount=4, thoughtsTokenCount=2)},
    absurd=_ABSURD,
    charges={
        **GENERATED,
        "details": Charge(75, 75),  # 8 x 3 + 4 x 2 + 3 x 7 + 2 x 11
        MISSING: Charge(48, 55),  # 9 x 3 + 3 x 7; as a whole + 4 x 7
    },
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=87,  # (5 + 8 + 16) x 3
)

GENERATE = _generating(
    name="gemini-events",
    ask=_ask_to_generate("?alt=sse"),
    events=lambda words, usage: answers.events(words, usage=usage),
    error_event=answers.event(answers.error("busy")),
    length_cut=(b'"finishReason":"MAX_TOKENS"', b'"candidatesTokenCount":2'),
)

ARRAY = _generating(
    name="gemini-array",
    ask=_ask_to_generate(""),
    events=lambda words, usage: answers.elements(words, usage=usage),
    media_type="application/json",
    error_event=b"\n,\r\n" + answers.error("busy"),
    broken={
        "present": 71,  # 12 x 3 + 5 x 7, which every chunk says
        "details": 75,
        "below words": 50,  # 12 x 3 + 2 x 7, for two words were seen
        "none used": 14,  # 2 x 7
    },
    length_cut=(b'"finishReason":"MAX_TOKENS"', b'"promptTokenCount":', b"]"),
)

_embedding = partial(
    _gemini,
    bill=lambda inputs, outputs: {"promptTokenCount": inputs},
    usages={"details": {"promptTokenCount": 12, "cachedContentTokenCount": 4}},
    absurd=_ABSURD,
    charges={
        "present": Charge(None, 36),  # 12 x 3
        "details": Charge(None, 32),  # 8 x 3 + 4 x 2
        "none used": Charge(None, 0),
        "below words": Charge(None, 36),  # 12 x 3
        MISSING: Charge(None, 6),  # 2 x 3
    },
    input_nanocredits=6,  # 2 x 3
    held_nanocredits=75,  # (5 + 4 + 16) x 3
)

EMBED = _embedding(
    name="gemini-embed",
    ask=_ask_to_embed("embedContent", lambda model: {"model": model, "content": _EMBEDDED}),
    whole=lambda text, usage: answers.embedding(usage=usage),
)

BATCH_EMBED = _embedding(
    name="gemini-batch-embed",
    ask=_ask_to_embed("batchEmbedContents", lambda model: {"requests": [{"model": model, "content": _EMBEDDED}]}),
    whole=lambda text, usage: answers.embeddings(1, usage=usage),
)

SPEECHES = (GENERATE, ARRAY, EMBED, BATCH_EMBED)
