"""What a Gemini answer used: usage as reported, where it can be believed, and what the model wrote, where it cannot.

`promptTokenCount` holds what was cached, `candidatesTokenCount` leaves the thoughts out (ai.google.dev/api/generate-content). A count of 0
is left out of the JSON, and so are counts that are not known yet, in the first chunks of a stream. One odd member spoils the whole usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from proxy.dialects.counting import BYTES, CountText, Measure, tokens_in, tokens_of
from proxy.dialects.document import lenient_decoder
from proxy.dialects.reported import count_of
from proxy.domain import Answer, Call, Usage

IMAGE_TOKENS = 2_520
"""What Google counts for the largest image that a model writes (4K); smaller ones count some 1,100 to 1,700."""

_COUNTS = (
    *("promptTokenCount", "cachedContentTokenCount", "toolUsePromptTokenCount"),
    *("candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount"),
)
_AUDIO = ("AUDIO", 4)
"""By name, or by number where a client asked for `enum-encoding=int`."""
_NOT_WRITTEN = frozenset({"thought", "thoughtSignature", "videoMetadata", "mediaResolution", "partMetadata", "id", "mimeType"})


@dataclass(frozen=True, slots=True)
class Report:
    """Usage that can be believed."""

    usage: Usage
    counts_output: bool
    """Whether it says what the model wrote; if not, that is counted here."""

    def with_output(self, counted: int) -> Usage:
        """The usage, with what was counted in place of an output that it does not say."""
        return self.usage if self.counts_output else replace(self.usage, output=counted)


def read_report(value: object) -> Report | None:
    """The usage in a `usageMetadata` member; None where it counts nothing yet. Raises ValueError where it cannot be believed.

    Not believed: anything but an object; no count of the prompt; a count that is negative, too large or no integer; details beyond their
    total. Tokens in the total beyond all others are the answer's where nothing else says how long it is; else they are reasoning.
    """
    if not isinstance(value, dict):
        raise ValueError("usageMetadata")
    prompt, cached, tools, candidates, thoughts, total = (count_of(value, name) for name in _COUNTS)
    if prompt is None:
        if (cached, tools, candidates, thoughts, total) == (None,) * 5:
            return None
        raise ValueError("promptTokenCount")
    cached, tools, thoughts = cached or 0, tools or 0, thoughts or 0
    beside = max(0, (total or 0) - prompt - tools - (candidates or 0) - thoughts)
    counts_output = candidates is not None or beside > 0
    if candidates is None:
        candidates, beside = beside, 0
    audio_output = _audio(value, "candidatesTokensDetails", candidates)
    cached_audio = _audio(value, "cacheTokensDetails", cached)
    audio_input = min(_audio(value, "promptTokensDetails", prompt) - cached_audio, prompt - cached)
    if audio_input < 0:
        raise ValueError("cachedContentTokenCount")
    usage = Usage(
        input=prompt + tools - cached - audio_input,
        cached_input=cached,
        audio_input=audio_input,
        output=candidates - audio_output,
        reasoning=thoughts + beside,
        audio_output=audio_output,
    )
    return Report(usage, counts_output)


def _audio(usage: Mapping[str, Any], name: str, total: int) -> int:
    """The tokens of sound in a list of details. Raises ValueError where they are not believable, or more than all."""
    details = usage.get(name)
    if details is None:
        return 0
    if not isinstance(details, list) or not all(isinstance(detail, dict) for detail in details):
        raise ValueError(name)
    counts = [(detail.get("modality"), count_of(detail, "tokenCount") or 0) for detail in details]
    audio = sum(count for modality, count in counts if modality in _AUDIO)
    if max((count for _, count in counts), default=0) > total or audio > total:
        raise ValueError(name)
    return audio


def usage_members(usage: Usage) -> dict[str, int]:
    """Usage as Gemini reports it."""
    return {
        "promptTokenCount": usage.input_tokens,
        "cachedContentTokenCount": usage.cached_input,
        "candidatesTokenCount": usage.output + usage.audio_output,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": usage.input_tokens + usage.output_tokens,
    }


def measure_content(content: object, by: Measure = BYTES) -> int:
    """How much the model wrote in a candidate's content, or in the part of it that a chunk holds."""
    parts = content.get("parts") if isinstance(content, dict) else content
    if isinstance(parts, dict):
        parts = [parts]
    if not isinstance(parts, list):
        return _measure_text(parts, by)
    return sum(_measure_part(part, by) for part in parts)


def _measure_part(part: object, by: Measure) -> int:
    if not isinstance(part, dict):
        return _measure_text(part, by)
    size = 0
    for name, value in part.items():
        if name == "inlineData" and isinstance(value, dict):
            size += _measure_media(value, by)
        elif name not in _NOT_WRITTEN:
            written = [inner for key, inner in value.items() if key not in _NOT_WRITTEN] if isinstance(value, dict) else value
            size += _measure_text(written, by)
    return size


def _measure_media(blob: Mapping[str, Any], by: Measure) -> int:
    """Of an image as many as its tokens make, of sound as many as its length makes."""
    if str(blob.get("mimeType")).startswith("image/"):
        return by.tokens(IMAGE_TOKENS)
    data = blob.get("data")
    return by.sound(data) if isinstance(data, str) else _measure_text(data, by)


def _measure_text(value: object, by: Measure) -> int:
    """How much is in a value's strings, at any depth, and of the names that the model gave them; 1 for any other value that it wrote."""
    size = 0
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, str):
            size += by.text(current)
        elif isinstance(current, list):
            pending.extend(current)
        elif isinstance(current, dict):
            pending.extend(current.keys())
            pending.extend(current.values())
        elif current is not None:
            size += 1
    return size


class _Body(msgspec.Struct, rename="camel"):
    candidates: list[dict[str, Any]] | None = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    error: Any = None


_decode_body = lenient_decoder(_Body)


def read_answer(call: Call, body: bytes) -> Answer:
    """What a whole answer used, where it says so believably, and what the model wrote in it; an unreadable one counts by its bytes."""
    has_output = call.output_tokens_max != 0
    answer = _decode_body(body)
    if answer is None:
        return Answer(None, tokens_in(len(body)) if has_output else 0)
    written = _written(answer, body, call.count_text if answer.usage_metadata is None else None) if has_output else []
    counted = sum(max(1, tokens) for tokens in written)
    try:
        report = None if answer.usage_metadata is None else read_report(answer.usage_metadata)
    except ValueError:
        return Answer(None, counted, usage_rejected=True)
    if report is None:
        return Answer(None, counted)
    usage = report.with_output(sum(written)) if has_output else replace(report.usage, output=0, reasoning=0, audio_output=0)
    return Answer(usage, counted)


def _written(answer: _Body, body: bytes, count_text: CountText | None) -> list[int]:
    """Tokens counted in each candidate; an answer without any, if nothing else in it is known either, counts by its bytes."""
    if answer.candidates is not None:
        return [tokens_of(candidate.get("content"), measure_content, count_text) for candidate in answer.candidates]
    is_known = answer.error or answer.prompt_feedback or answer.usage_metadata is not None
    return [] if is_known else [tokens_in(len(body))]
