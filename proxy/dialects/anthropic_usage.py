"""What an Anthropic answer used: usage as reported, where it can be believed, and what the model wrote, where it cannot.

`input_tokens` leaves out what was read from the cache or written into it; `output_tokens` holds the thinking. One odd member spoils the
whole usage. Members that nobody here knows are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from proxy.dialects.counting import BYTES, CountText, Measure, measure, tokens_in, tokens_of
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import count_of
from proxy.domain import Answer, Call, Usage

_REPORTED = (
    *("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"),
    *("output_tokens", "output_tokens_details", "server_tool_use"),
)
_REQUESTS = "_requests"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NOT_WRITTEN_IN_BLOCK = frozenset({"type", "id", "signature", "citations", "caller", "input", "server_name"})


def read_usage(value: object, earlier: Mapping[str, Any] = _NOTHING) -> Usage | None:
    """The usage in an answer's `usage` member, or None where it cannot be believed; what it leaves out stands as in an earlier one.

    Not believed: anything but an object; input or output missing; a count that is none; more thinking than output, more written into
    the cache by lifetime than in all.
    """
    if not isinstance(value, dict):
        return None
    members = merged(earlier, value)
    try:
        inputs, outputs = count_of(members, "input_tokens"), count_of(members, "output_tokens")
        cached = count_of(members, "cache_read_input_tokens") or 0
        written, written_1h = _cache_writes(members, is_split=value.get("cache_creation") is not None)
        thinking = count_of(_inner(members, "output_tokens_details"), "thinking_tokens") or 0
        server_tools = _inner(members, "server_tool_use")
        tool_uses = sum(count_of(server_tools, name) or 0 for name in server_tools if name.endswith(_REQUESTS))
    except ValueError:
        return None
    if inputs is None or outputs is None or thinking > outputs:
        return None
    return Usage(
        input=inputs,
        cached_input=cached,
        cache_write=written,
        cache_write_1h=written_1h,
        output=outputs - thinking,
        reasoning=thinking,
        tool_use=tool_uses,
    )


def merged(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What two reports of one stream say together: what the later one leaves out or calls null stays as it was."""
    return {**earlier, **{name: value for name in _REPORTED if (value := later.get(name)) is not None}}


def _cache_writes(members: Mapping[str, Any], *, is_split: bool) -> tuple[int, int]:
    """What was written into the cache for five minutes, and for an hour. Raises ValueError where it cannot be believed.

    Where the total is newer than its split by lifetime, what the split does not cover counts as the longer one if that was asked for.
    """
    split = _inner(members, "cache_creation")
    short, long = count_of(split, "ephemeral_5m_input_tokens") or 0, count_of(split, "ephemeral_1h_input_tokens") or 0
    total = count_of(members, "cache_creation_input_tokens")
    if total is None:
        return short, long
    if is_split and short + long > total:
        raise ValueError("cache_creation")
    written = min(short, total) if long else total
    return written, total - written


def _inner(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside a usage, empty where it is absent. Raises ValueError where it is none."""
    value = usage.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(name)
    return value


def message_usage(usage: Usage) -> dict[str, Any]:
    """Usage as the Messages API reports it."""
    return {
        "input_tokens": usage.input + usage.audio_input,
        "cache_creation_input_tokens": usage.cache_write + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def measure_block(block: object, by: Measure = BYTES) -> int:
    """How much the model wrote in a content block, or in the delta of one.

    What a server's tool answered is not its writing, and what is encrypted is not counted.
    """
    if not isinstance(block, dict):
        return measure(block, by)
    kind = block.get("type")
    if kind == "redacted_thinking" or (isinstance(kind, str) and kind.endswith("_result")):
        return 0
    size = sum(measure(value, by) for name, value in block.items() if name not in _NOT_WRITTEN_IN_BLOCK)
    asked = block.get("input")
    return size + (by.text(json.dumps(asked, ensure_ascii=False, separators=(",", ":"))) if asked else 0)


def is_tool_use(block: object) -> bool:
    """Whether a content block is a use of a tool of the server's own that is charged by the use."""
    return isinstance(block, dict) and block.get("type") == "server_tool_use" and block.get("name") in ("web_search", "web_fetch")


class _Message(msgspec.Struct):
    usage: Any = None
    content: Any = None
    error: Any = None


_decode_message = lenient_decoder(_Message)


def read_answer(call: Call, body: bytes) -> Answer:
    """What a whole answer used, where it says so believably, and what the model wrote in it; an unreadable one counts by its bytes."""
    message = _decode_message(body)
    if message is None:
        return Answer(None, tokens_in(len(body)))
    usage = None if message.usage is None else read_usage(message.usage)
    counted = _counted(message, body, call.count_text if usage is None else None)
    return Answer(usage, counted, usage_rejected=usage is None and message.usage is not None)


def _counted(message: _Message, body: bytes, count_text: CountText | None) -> int:
    if isinstance(message.content, list):
        return max(1, sum(tokens_of(block, measure_block, count_text) for block in message.content))
    return 0 if message.error else tokens_in(len(body))
