"""What an answer of Cohere's used: usage as reported, where it can be believed, and what the model wrote, where it cannot.

Cohere reports what it bills (`billed_units`) and what the model read and wrote (`tokens`, with its own instructions and template in it).
What is billed is charged; tokens only where nothing else is reported, and then what came from the cache apart. Counts are floats there.
One odd member spoils the whole usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.dialects.counting import CountText, measure, tokens_in, tokens_of
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import count_of
from proxy.domain import Answer, Call, Usage


class _Body(msgspec.Struct):
    message: Any = None
    usage: Any = None
    meta: Any = None


_decode_body = lenient_decoder(_Body)


_KINDS = frozenset(
    {"input_tokens", "output_tokens", "cached_tokens", "text_tokens", "image_tokens", "images", "search_units", "total_tokens"}
)


def read_chat_usage(value: object) -> Usage:
    """The usage of a chat. Raises ValueError where it cannot be believed."""
    if not isinstance(value, dict):
        raise ValueError("usage")
    billed, tokens, cached = _counts(value, "billed_units"), _counts(value, "tokens"), _believed(value).get("cached_tokens", 0)
    if cached > tokens.get("input_tokens", cached):
        raise ValueError("cached_tokens")
    if {"input_tokens", "output_tokens"} <= billed.keys():
        return Usage(input=billed["input_tokens"], output=billed["output_tokens"], tool_use=billed.get("search_units", 0))
    if not {"input_tokens", "output_tokens"} <= tokens.keys():
        raise ValueError("tokens")
    return Usage(input=tokens["input_tokens"] - cached, cached_input=cached, output=tokens["output_tokens"])


def read_embed_usage(reported: Mapping[str, int], call: Call) -> Usage | None:
    """The usage of an embedding; images are billed by the piece or by the token, and where nothing is said of them by the piece."""
    if not {"input_tokens", "text_tokens", "image_tokens", "images"} & reported.keys():
        return None
    tokens = max(reported.get("input_tokens", 0), reported.get("text_tokens", 0) + reported.get("image_tokens", 0))
    unsaid = 0 if "image_tokens" in reported else call.units.image
    return Usage(input=tokens, image=reported.get("images", unsaid))


def read_rank_usage(reported: Mapping[str, int], call: Call) -> Usage | None:
    """The usage of a ranking. Cohere bills searches, others tokens; what is not said is charged as counted: either may have the price."""
    inputs, searches = reported.get("input_tokens"), reported.get("search_units")
    if inputs is None and searches is None:
        return None
    return Usage(
        input=call.input_tokens_counted if inputs is None else inputs,
        tool_use=call.units.tool_use if searches is None else searches,
    )


def _reported(answer: _Body) -> dict[str, int]:
    """The counts of an answer without output: Cohere's in `meta`, those of servers that speak as Cohere does in `usage`."""
    usage = _counts({"usage": answer.usage}, "usage")
    if "total_tokens" in usage:
        usage.setdefault("input_tokens", usage["total_tokens"])
    if answer.meta is None:
        return usage
    if not isinstance(answer.meta, dict):
        raise ValueError("meta")
    return {**usage, **_counts(answer.meta, "tokens"), **_counts(answer.meta, "billed_units")}


def _counts(members: Mapping[str, Any], name: str) -> dict[str, int]:
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(name)
    return _believed(value)


def _believed(members: Mapping[str, Any]) -> dict[str, int]:
    """The counts among some members. Raises ValueError where one is not believable; a float is, where it is whole."""
    counts: dict[str, int] = {}
    for kind in _KINDS & members.keys():
        value = members[kind]
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        count = count_of({kind: whole}, kind)
        if count is not None:
            counts[kind] = count
    return counts


def read_answer(call: Call, body: bytes) -> Answer:
    """What a whole answer used, where it says so believably, and what the model wrote in it; an unreadable one counts by its bytes."""
    has_output = call.operation == "chat"
    answer = _decode_body(body)
    if answer is None:
        return Answer(None, tokens_in(len(body)) if has_output else 0)
    counted = _counted(answer, body, call.count_text if answer.usage is None else None) if has_output else 0
    try:
        return Answer(_usage(answer, call), counted)
    except ValueError:
        return Answer(None, counted, usage_rejected=True)


def _usage(answer: _Body, call: Call) -> Usage | None:
    if call.operation == "chat":
        return None if answer.usage is None else read_chat_usage(answer.usage)
    reported = _reported(answer)
    return read_embed_usage(reported, call) if call.operation == "embed" else read_rank_usage(reported, call)


def _counted(answer: _Body, body: bytes, count_text: CountText | None) -> int:
    if isinstance(answer.message, str):
        return 0  # an error
    if not isinstance(answer.message, dict):
        return tokens_in(len(body))  # nothing that we know, so it may be anything
    said = {name: value for name, value in answer.message.items() if name != "citations"}
    return max(1, tokens_of(said, measure, count_text))
