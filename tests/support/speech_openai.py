"""OpenAI's operations that generate text or vectors, with the charges for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.support import openai_answers as answers
from tests.support.speech import GENERATED, HELLO, MISSING, Asked, Charge, Json, Speech

_MESSAGES = [{"role": "user", "content": HELLO}]
_ASKS_FOR_USAGE = {"stream": True, "stream_options": {"include_usage": True}}

_ABSURD: dict[str, bytes] = {
    "negative": b'{"%(in)s":-12,"%(out)s":5,"total_tokens":17}',
    "fractional": b'{"%(in)s":12,"%(out)s":5.5,"total_tokens":17}',
    "a string": b'{"%(in)s":"12","%(out)s":5,"total_tokens":17}',
    "a boolean": b'{"%(in)s":12,"%(out)s":true,"total_tokens":17}',
    "infinite": b'{"%(in)s":12,"%(out)s":1e999,"total_tokens":17}',
    "beyond belief": b'{"%(in)s":12,"%(out)s":100000001,"total_tokens":17}',
    "beyond 64 bits": b'{"%(in)s":12,"%(out)s":36893488147419103232,"total_tokens":17}',
    "more details than total": b'{"%(in)s":12,"%(out)s":5,"total_tokens":17,"%(in)s_details":{"cached_tokens":13}}',
    "a list": b"[12,5]",
    "a number": b"17",
    "empty": b"{}",
}
_ABSURD_INPUT = ("negative", "a string", "more details than total", "a list", "a number", "empty")
"""Those whose input is absurd: embeddings have no other."""


def absurd_usages(inputs: bytes, outputs: bytes) -> dict[str, bytes]:
    """Usage that nobody may believe, by what is wrong with it, for an API's two names of tokens."""
    return {kind: usage % {b"in": inputs, b"out": outputs} for kind, usage in _ABSURD.items()}


def _ask(path: str, body: Json, streaming: Json) -> Callable[[str, bool], Asked]:
    return lambda model, stream: Asked(path, {"model": model, **body, **(streaming if stream else {})})


def refusal_code(document: Any, status: int) -> str:
    """The code in a refusal in OpenAI's shape."""
    assert document.keys() == {"error", "compute_ledger"}
    error = document["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"] == "server_error") == (status >= 500)
    assert error["code"] == document["compute_ledger"]["code"]
    return str(error["code"])


_ERROR = {"type": "error", "code": "overloaded", "message": "busy", "param": None, "sequence_number": 9}
_openai = partial(Speech, dialect="openai", error=answers.error("no"), refusal_code=refusal_code)

CHAT = _openai(
    name="openai-chat",
    ask=_ask("/v1/chat/completions", {"messages": _MESSAGES}, _ASKS_FOR_USAGE),
    maximum=("max_tokens",),
    events=lambda words, usage: answers.chat_events(words, usage=usage),
    whole=lambda text, usage: answers.chat(text, usage=usage),
    error_event=answers.event({"error": _ERROR}),
    bill=answers.usage,
    usages={"details": answers.usage(12, 5, cached=4, reasoning=2)},
    absurd=absurd_usages(b"prompt_tokens", b"completion_tokens"),
    charges={
        **GENERATED,
        "details": Charge(75, 75),  # 8 x 3 + 4 x 2 + 3 x 7 + 2 x 11
        MISSING: Charge(48, 55),  # 9 x 3 + 3 x 7; as a whole + 4 x 7
    },
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=87,  # (5 + 8 + 16) x 3
    length_cut=(b'"finish_reason":"length"', b'"completion_tokens":2'),
)

COMPLETIONS = _openai(
    name="openai-completions",
    ask=_ask("/v1/completions", {"prompt": HELLO}, _ASKS_FOR_USAGE),
    maximum=("max_tokens",),
    events=lambda words, usage: answers.completion_events(words, usage=usage),
    whole=lambda text, usage: answers.completion(text, usage=usage),
    error_event=answers.event({"error": _ERROR}),
    bill=answers.usage,
    usages={"details": answers.usage(12, 5, cached=4, reasoning=2)},
    absurd=absurd_usages(b"prompt_tokens", b"completion_tokens"),
    charges={
        **GENERATED,
        "details": Charge(75, 75),  # 8 x 3 + 4 x 2 + 3 x 7 + 2 x 11
        MISSING: Charge(27, 34),  # 2 x 3 + 3 x 7; as a whole + 4 x 7
    },
    input_nanocredits=6,  # 2 x 3
    held_nanocredits=75,  # (5 + 4 + 16) x 3
    length_cut=(b'"finish_reason":"length"', b'"completion_tokens":2'),
)

RESPONSES = _openai(
    name="openai-responses",
    ask=_ask("/v1/responses", {"input": HELLO}, {"stream": True}),
    maximum=("max_output_tokens",),
    events=lambda words, usage: answers.response_events(words, usage=usage),
    whole=lambda text, usage: answers.response(text, usage=usage),
    error_event=answers.event(_ERROR),
    bill=answers.responses_usage,
    usages={"details": answers.responses_usage(12, 5, cached=4, reasoning=2)},
    absurd=absurd_usages(b"input_tokens", b"output_tokens"),
    charges={
        **GENERATED,
        "details": Charge(75, 75),  # 8 x 3 + 4 x 2 + 3 x 7 + 2 x 11
        MISSING: Charge(48, 55),  # 9 x 3 + 3 x 7; as a whole + 4 x 7
    },
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=87,  # (5 + 8 + 16) x 3
    length_cut=(b'"max_output_tokens"', b'"output_tokens":2'),
)

EMBEDDINGS = _openai(
    name="openai-embeddings",
    ask=_ask("/v1/embeddings", {"input": HELLO}, {}),
    whole=lambda text, usage: answers.embeddings(1, usage=usage),
    bill=lambda inputs, outputs: answers.embeddings_usage(inputs),
    usages={"details": {**answers.embeddings_usage(12), "prompt_tokens_details": {"cached_tokens": 4}}},
    absurd={kind: usage for kind, usage in absurd_usages(b"prompt_tokens", b"completion_tokens").items() if kind in _ABSURD_INPUT},
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

SPEECHES = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
