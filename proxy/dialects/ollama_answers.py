"""What an answer of Ollama's, or one line of it, says was used, and what the model wrote in it.

Ollama leaves out a count that is zero, and the one of the input also where it found all of the prompt in its cache (api/types.go,
`Metrics`). An input without a count, or with none used, is charged as it was counted here: the upstream did read it, at its bound at most.
"""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.dialects.counting import (
    BYTES,
    CountText,
    Measure,
    measure,
    tokens_in,
    tokens_of,
)
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import count_of
from proxy.domain import NO_USAGE, Answer, Call, Usage

LOADED = ("load", "unload")
"""Why an answer to an empty prompt is done: no model has run."""


class Part(msgspec.Struct, gc=False):
    """A line of a stream, or a whole answer, which has the same members."""

    model: Any = None
    created_at: Any = None
    message: Any = None
    response: Any = None
    thinking: Any = None
    tool_calls: Any = None
    image: Any = None
    done: Any = None
    done_reason: Any = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


decode_part = lenient_decoder(Part)


def read_usage(part: Part, call: Call, *, output_tokens: int) -> Usage | None:
    """The usage that the end of an answer reports, None where it reports none; `output_tokens` were counted in the answer.

    Raises ValueError where a count is not believable.
    """
    counts = {"prompt_eval_count": part.prompt_eval_count, "eval_count": part.eval_count}
    inputs, outputs = (count_of(counts, name) for name in counts)
    if inputs is None and outputs is None:
        return NO_USAGE if part.done_reason in LOADED and output_tokens == 0 else None
    return Usage(input=inputs or call.input_tokens_counted, output=output_tokens if outputs is None else outputs)


def measure_part(part: Part, by: Measure = BYTES) -> int:
    """How much the model wrote in a part."""
    size = measure([part.response, part.thinking], by) + _measure_calls(part.tool_calls, by)
    size += by.sound(part.image) if isinstance(part.image, str) else measure(part.image, by)
    if not isinstance(part.message, dict):
        return size + measure(part.message, by)
    others = {name: value for name, value in part.message.items() if name != "tool_calls"}
    return size + measure(others, by) + _measure_calls(part.message.get("tool_calls"), by)


def _measure_calls(calls: object, by: Measure) -> int:
    size = 0
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            size += measure(function.get("name"), by) + _measure_arguments(function.get("arguments"), by)
        else:
            size += measure(call, by)
    return size


def _measure_arguments(arguments: object, by: Measure) -> int:
    """How much is in the arguments of a call. Ollama sends them parsed, so their names count too, and each number as a token."""
    size = 0
    pending = [arguments]
    while pending:
        current = pending.pop()
        if isinstance(current, str):
            size += by.text(current)
        elif isinstance(current, list):
            pending.extend(current)
        elif isinstance(current, dict):
            pending.extend(current)
            pending.extend(current.values())
        elif current is not None:
            size += by.tokens(1)
    return size


def read_answer(call: Call, body: bytes) -> Answer:
    """What a whole answer used, where it says so believably, and what the model wrote in it; an unreadable one counts by its bytes."""
    has_output = call.output_tokens_max != 0
    part = decode_part(body)
    if part is None:
        return Answer(None, tokens_in(len(body)) if has_output else 0)
    counts_itself = part.eval_count is not None or part.prompt_eval_count is not None
    counted = _counted(part, body, None if counts_itself else call.count_text) if has_output else 0
    try:
        return Answer(read_usage(part, call, output_tokens=counted), counted)
    except ValueError:
        return Answer(None, counted, usage_rejected=True)


def _counted(part: Part, body: bytes, count_text: CountText | None) -> int:
    if part.error or part.done_reason in LOADED:
        return tokens_of(part, measure_part, count_text)
    if part.message is None and part.response is None:
        return tokens_in(len(body))  # nothing that we know, so it may be anything
    return max(1, tokens_of(part, measure_part, count_text))
