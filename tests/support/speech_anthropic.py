"""Anthropic's Messages, with the charges; its models are a family that prices what is written into the cache, by lifetime."""

from __future__ import annotations

from typing import Any

from tests.support import anthropic_answers as answers
from tests.support.openai_answers import encode, event
from tests.support.speech import GENERATED, HELLO, MISSING, NO_USAGE, Asked, Charge, Speech

_ABSURD: dict[str, bytes] = {
    "negative": b'{"input_tokens":-12,"output_tokens":5}',
    "fractional": b'{"input_tokens":12,"output_tokens":5.5}',
    "a string": b'{"input_tokens":"12","output_tokens":5}',
    "a boolean": b'{"input_tokens":12,"output_tokens":true}',
    "infinite": b'{"input_tokens":12,"output_tokens":1e999}',
    "beyond belief": b'{"input_tokens":12,"output_tokens":100000001}',
    "beyond 64 bits": b'{"input_tokens":12,"output_tokens":36893488147419103232}',
    "negative cache": b'{"input_tokens":12,"output_tokens":5,"cache_read_input_tokens":-4}',
    "more thinking than output": b'{"input_tokens":12,"output_tokens":5,"output_tokens_details":{"thinking_tokens":6}}',
    "more by lifetime than in all": b'{"input_tokens":12,"output_tokens":5,"cache_creation_input_tokens":1,'
    b'"cache_creation":{"ephemeral_5m_input_tokens":2}}',
    "a list": b"[12,5]",
    "a number": b"17",
    "empty": b"{}",
}
_DETAILS = {
    **answers.usage(8, 5),
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 6,
    "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 4},
    "output_tokens_details": {"thinking_tokens": 2},
    "server_tool_use": {"web_search_requests": 1},
}
_TYPE_BY_STATUS = {402: "billing_error", 502: "api_error", 504: "timeout_error"}


def _ask(model: str, stream: bool) -> Asked:
    body = {"model": model, "max_tokens": 1_000, "messages": [{"role": "user", "content": HELLO}], **({"stream": True} if stream else {})}
    return Asked("/v1/messages?beta=true", body, {"anthropic-version": "2023-06-01"})


def _refusal_code(document: Any, status: int) -> str:
    assert document.keys() == {"type", "error", "compute_ledger"}
    error = document["error"]
    assert (document["type"], error["type"]) == ("error", _TYPE_BY_STATUS[status])
    assert error["message"]
    assert error["details"]["error_code"] == document["compute_ledger"]["code"]
    return str(error["details"]["error_code"])


MESSAGES = Speech(
    name="anthropic-messages",
    dialect="anthropic",
    family="caching-",
    ask=_ask,
    credential=lambda key: {"x-api-key": key},
    maximum=("max_tokens",),
    events=lambda words, usage: answers.message_events(words, usage=usage),
    whole=lambda text, usage: answers.message(text, usage=usage),
    error=encode(answers.error("no", "invalid_request_error")),
    error_event=event(answers.error("busy"), "error"),
    bill=answers.usage,
    usages={
        "details": _DETAILS,
        "corrected": ({**answers.usage(1_000, 1)}, {**answers.usage(8, 5), "cache_read_input_tokens": 992}),
        "falling": (answers.usage(12, 1), answers.usage(3, 5)),
        "nulls": (answers.usage(12, 1), {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 5}),
        "only of the input": (answers.usage(12, 1), NO_USAGE),
        "absurd in the end": (answers.usage(12, 1), {"output_tokens": -5}),
    },
    absurd=_ABSURD,
    charges={
        **GENERATED,
        "details": Charge(166, 166),  # 8 x 3 + 4 x 2 + 2 x 5 + 4 x 13 + 3 x 7 + 2 x 11, and 29 for a search
        "corrected": Charge(2_043, None),  # 8 x 3 + 992 x 2 + 5 x 7
        "falling": Charge(71, None),  # 12 x 3 + 5 x 7
        "nulls": Charge(71, None),
        "only of the input": Charge(57, None),  # 12 x 3, and three words: 3 x 7
        "absurd in the end": Charge(57, None),
        MISSING: Charge(48, 55),  # 9 x 3 + 3 x 7; as a whole + 4 x 7
    },
    input_nanocredits=27,  # 9 x 3
    held_nanocredits=377,  # (5 + 8 + 16) x 13
    broken={
        "present": 50,  # 12 x 3, as the first event says, and two words: 2 x 7
        "details": 108,  # 8 x 3 + 4 x 2 + 2 x 5 + 4 x 13 + 2 x 7
        "negative": 41,  # as if nothing were said: 9 x 3 + 2 x 7
    },
    length_cut=(b'"type":"content_block_stop","index":0', b'"stop_reason":"max_tokens"', b'"output_tokens":2', b'"type":"message_stop"'),
    refusal_code=_refusal_code,
)

SPEECHES = (MESSAGES,)
