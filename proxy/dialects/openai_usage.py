"""What an OpenAI answer used: usage as reported, where it can be believed, and what the model wrote, where it cannot.

One odd member spoils the whole usage: an upstream that miscounts one kind is not to be trusted with the next. Members that nobody here
knows are left alone; many servers add costs and timings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from proxy.dialects.counting import (
    BYTES,
    NOT_WRITTEN,
    CountText,
    Measure,
    measure,
    tokens_in,
    tokens_of,
)
from proxy.dialects.document import lenient_decoder
from proxy.dialects.openai_hosted import tool_uses
from proxy.dialects.reported import count_of
from proxy.domain import Answer, Call, Usage

_INPUT_DETAILS = ("cached_tokens", "cache_write_tokens", "audio_tokens")
_INPUT_DETAILS_NAMES = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS = ("reasoning_tokens", "audio_tokens")

_REASONING = ("reasoning", "reasoning_content", "reasoning_details")
"""Names for one and the same text; servers that moved from one to another send several."""
_WRITTEN = ("content", "tool_calls", "function_call")
_IMAGE_TOKENS = 2_520
"""What an image of up to 4K counts, however large it is; the models that draw in chats are Google's, by way of others' APIs."""


def read_usage(value: object, *, has_output: bool = True) -> Usage | None:
    """The usage in an answer's `usage` member (of either API), or None where it cannot be believed.

    Not believed: anything but an object; a count missing, negative, above USAGE_TOKENS_MAX or no integer; details beyond their total.
    Tokens in `total_tokens` beyond input and output are reasoning: some servers count it beside the output, and bill it.
    """
    if not isinstance(value, dict):
        return None
    try:
        inputs = _greater(count_of(value, "prompt_tokens"), count_of(value, "input_tokens"))
        outputs = _greater(count_of(value, "completion_tokens"), count_of(value, "output_tokens"))
        total = count_of(value, "total_tokens")
        cached, cache_write, audio_input = _details(value, _INPUT_DETAILS_NAMES, _INPUT_DETAILS)
        reasoning, audio_output = _details(value, ("completion_tokens_details", "output_tokens_details"), _OUTPUT_DETAILS)
    except ValueError:
        return None
    if inputs is None and not has_output:
        inputs = total  # rerankers report nothing else
    if inputs is None or (outputs is None and has_output):
        return None
    outputs = outputs or 0
    beside = max(0, (total or 0) - inputs - outputs)
    reasoning_inside = max(0, reasoning - beside)
    plain_input = inputs - cached - cache_write - audio_input
    plain_output = outputs - reasoning_inside - audio_output
    if plain_input < 0 or plain_output < 0:
        return None
    return Usage(
        input=plain_input,
        cached_input=cached,
        cache_write=cache_write,
        audio_input=audio_input,
        output=plain_output,
        reasoning=reasoning_inside + beside,
        audio_output=audio_output,
    )


def _greater(one: int | None, other: int | None) -> int | None:
    """The greater of one count under its two names: some servers send both, and leave the one that they do not mean at 0."""
    return one if other is None or (one is not None and one > other) else other


def _details(usage: Mapping[str, Any], names: Sequence[str], counts: Sequence[str]) -> Sequence[int]:
    """The counts in the first member of these names, each 0 where it is absent. Raises ValueError where one is not believable."""
    for name in names:
        details = usage.get(name)
        if isinstance(details, dict):
            return [count_of(details, count) or 0 for count in counts]
        if details is not None:
            raise ValueError(name)
    return [0] * len(counts)


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Usage as chat and text completions report it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input, "audio_tokens": usage.audio_input},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": usage.audio_output},
    }


def responses_usage(usage: Usage) -> dict[str, Any]:
    """Usage as the Responses API reports it."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def measure_message(message: object, by: Measure = BYTES) -> int:
    """How much the model wrote in a message, or in the delta of one."""
    if not isinstance(message, dict):
        return measure(message, by)
    size = 0
    reasoning = 0
    for name, value in message.items():
        if not value or name in NOT_WRITTEN:
            continue
        if name in _REASONING:
            reasoning = max(reasoning, measure(value, by))
        elif type(value) is str:
            size += by.text(value)
        elif name in _WRITTEN:
            size += measure(value, by)
        elif name == "images" and isinstance(value, list):
            size += by.tokens(len(value) * _IMAGE_TOKENS)
        elif name == "audio" and isinstance(value, dict):
            size += measure(value.get("transcript"), by)
            size += by.sound(data) if isinstance(data := value.get("data"), str) else measure(data, by)
    return size + reasoning


def measure_item(item: object, by: Measure = BYTES) -> int:
    """How much the model wrote in an output item of the Responses API; what is encrypted is not counted."""
    if not isinstance(item, dict):
        return 0
    size = sum(measure(item.get(name), by) for name in ("name", "arguments", "input"))
    for parts in (item.get("content"), item.get("summary")):
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                size += sum(measure(part.get(name), by) for name in ("text", "refusal", "transcript"))
    return size


class _Body(msgspec.Struct):
    usage: Any = None
    choices: Any = None
    output: Any = None
    error: Any = None


_decode_body = lenient_decoder(_Body)


def read_answer(call: Call, body: bytes, *, has_output: bool) -> Answer:
    """What a whole answer used, where it says so believably, and what the model wrote in it; an unreadable one counts by its bytes."""
    answer = _decode_body(body)
    if answer is None:
        return Answer(None, tokens_in(len(body)) if has_output else 0)
    usage = None if answer.usage is None else read_usage(answer.usage, has_output=has_output)
    if usage is not None and (uses := tool_uses(answer.output)):
        usage = replace(usage, tool_use=uses)
    counted = _counted(answer, body, call.count_text if usage is None else None) if has_output else 0
    return Answer(usage, counted, usage_rejected=usage is None and answer.usage is not None)


def _counted(answer: _Body, body: bytes, count_text: CountText | None) -> int:
    if isinstance(answer.choices, list):
        return sum(max(1, tokens_of(choice, measure_choice, count_text)) for choice in answer.choices)
    if isinstance(answer.output, list):
        return max(1, sum(tokens_of(item, measure_item, count_text) for item in answer.output))
    return 0 if answer.error else tokens_in(len(body))


def measure_choice(choice: object, by: Measure = BYTES) -> int:
    """How much the model wrote in one choice of a chat or text completion."""
    if not isinstance(choice, dict):
        return measure(choice, by)
    return measure_message(choice.get("message"), by) + measure(choice.get("text"), by)
