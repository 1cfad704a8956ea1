"""OpenAI's speech and its transcripts: JSON in and a recording out, a recording in and text out.

Both are priced by what is certain beforehand (characters, seconds) or by tokens. A row that prices both charges both; whatever of it the
upstream does not report is taken from the request. Fields: github.com/openai/openai-openapi; the `stream_` fields are vLLM's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from proxy.dialects.audio_length import milliseconds_bound
from proxy.dialects.bytes_reader import BytesReader
from proxy.dialects.counting import InputCount, MediaRule, size_bytes, tokens_in, tokens_in_delta
from proxy.dialects.document import edit_members, encode, lenient_decoder, read_object
from proxy.dialects.members import check_spelling, flag, model_name, not_priced, whole, wrong
from proxy.dialects.multipart import Form, read_fields, read_form
from proxy.dialects.openai_events import TypedReader
from proxy.dialects.openai_usage import read_usage
from proxy.dialects.protocol import Changes, Reader, Request
from proxy.dialects.sse import EVENT_STREAM, Frame
from proxy.domain import Answer, Call, Piece, Usage

SPEECH = "speech"
JSON = "application/json"
OUTPUT_TOKENS_MAX = 100_000_000
SECONDS_MAX = 10_000_000
AUDIO_TOKENS_PER_S = 32
"""Gemini's, the most that any model documents."""
WINDOW_MS = 30_000
WINDOW_OUTPUT_TOKENS_MAX = 448
"""What Whisper writes at most of each half minute; nobody speaks a quarter as fast."""
MILLISECONDS_PER_AUDIO_TOKEN = 100
"""OpenAI's transcribing models: 10 tokens to the second."""
AUDIO_BYTES_PER_TOKEN = {
    **dict.fromkeys(("audio/mpeg", "audio/mp3"), 768),
    **dict.fromkeys(("audio/wav", "audio/x-wav", "audio/pcm", "audio/l16"), 2_304),
}
"""At the 20.8 tokens to the second that OpenAI's speaking models take: MP3 of 128 kbit/s, PCM of 24 kHz."""
DENSEST_AUDIO_BYTES_PER_TOKEN = 288
"""Opus of 48 kbit/s."""
_SPEECH_NEEDS = (("character",), ("input", "output"), ("input", "audio_output"))
_TRANSCRIPT_NEEDS = (("second",), ("input", "output"), ("audio_input", "output"))
_NOT_PROMPT_OF_SPEECH = frozenset({"model", "voice", "response_format", "speed", "stream_format", "stream"})
_FLAGS = ("stream", "stream_include_usage", "stream_continuous_usage_stats")
_NUMBERS = ("max_completion_tokens", "n", "best_of")
_NOT_PROMPT_OF_TRANSCRIPT = frozenset({"model", "language", "to_language", "response_format", "temperature", "chunking_strategy", *_FLAGS})


# --- requests ------------------------------------------------------------------------------------------------------------------------


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a request asks for. Raises Refusal: invalid_request."""
    return _parse_speech(request, media) if request.operation.name == SPEECH else _parse_transcript(request, media)


def rewrite(call: Call, request: Request, changes: Changes) -> bytes | None:
    """The body to forward instead, or None where nothing changes. Only an upstream that can send usage in chunks is asked for it."""
    if call.operation == SPEECH:
        return None if changes.model is None else edit_members(request.body, {"model": encode(changes.model)})
    edits = {} if changes.model is None else {"model": changes.model}
    if call.stream and changes.continuous_usage and not call.wants_continuous_usage:
        edits |= {"stream_include_usage": "true", "stream_continuous_usage_stats": "true"}
    maximum = changes.output_tokens_max
    if maximum is not None and call.divisible and call.output_tokens_max is not None and call.output_tokens_max > maximum:
        edits["max_completion_tokens"] = str(maximum)
    return read_form(request.body, request.headers).with_texts(edits) if edits else None


def _parse_speech(request: Request, media: MediaRule) -> Call:
    document = read_object(request.body)
    check_spelling(document, _NOT_PROMPT_OF_SPEECH | {"input"})
    text = document.get("input")
    if not isinstance(text, str):
        raise wrong("input", "a string")
    count = InputCount(media)
    count.open_message()
    for name, value in document.items():
        if name not in _NOT_PROMPT_OF_SPEECH:
            count.add_plain(value)
    return Call(
        operation=SPEECH,
        model=model_name(document),
        stream=True,
        choices=1,
        output_tokens_max=None,
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        units=Usage(character=len(text)),
        needs=_SPEECH_NEEDS,
    )


def _parse_transcript(request: Request, media: MediaRule) -> Call:
    form = read_form(request.body, request.headers)
    document = read_fields(form.texts, flags=_FLAGS, numbers=_NUMBERS)
    for name in ("n", "best_of"):
        if document.get(name, 1) != 1:
            raise not_priced(f"{name!r} cannot be used: it has a cost of its own.")
    count = InputCount(media)
    for name, value in document.items():
        if name not in _NOT_PROMPT_OF_TRANSCRIPT:
            count.add_plain(value)
    milliseconds = _recording_milliseconds(form)
    count.add_tokens(min(media.audio_tokens, -(-milliseconds * AUDIO_TOKENS_PER_S // 1000)))
    stream = flag(document, "stream")
    maximum = whole(document, "max_completion_tokens", OUTPUT_TOKENS_MAX)
    wants_usage = stream and flag(document, "stream_include_usage")
    return Call(
        operation=request.operation.name,
        model=model_name(document),
        stream=stream,
        choices=1,
        output_tokens_max=maximum or WINDOW_OUTPUT_TOKENS_MAX * max(1, -(-milliseconds // WINDOW_MS)),
        input_tokens_bound=count.bound,
        input_tokens_counted=count.counted,
        wants_usage=wants_usage,
        wants_continuous_usage=wants_usage and flag(document, "stream_continuous_usage_stats"),
        units=Usage(milliseconds=milliseconds),
        needs=_TRANSCRIPT_NEEDS,
        divisible=maximum is not None,
    )


def _recording_milliseconds(form: Form) -> int:
    files = form.files("file")
    if len(files) != 1 or set(form.file_names) != {"file"}:
        raise wrong("file", "the one file of the form")
    return milliseconds_bound(files[0])


# --- answers -------------------------------------------------------------------------------------------------------------------------


class _Body(msgspec.Struct):
    usage: Any = None
    text: Any = None
    duration: Any = None
    error: Any = None


_decode_body = lenient_decoder(_Body)


def read_answer(call: Call, body: bytes, media_type: str) -> Answer:
    """What a whole answer used and holds; subtitles and plain text say nothing but themselves."""
    answer = _decode_body(body)
    if answer is None:
        return Answer(None, tokens_in(len(body)))
    if answer.error:
        return Answer(None, 0)
    counted = tokens_in(size_bytes(answer.text)) if isinstance(answer.text, str) else tokens_in(len(body))
    reported = answer.usage
    if reported is None and answer.duration is not None:
        reported = {"type": "duration", "seconds": answer.duration}
    usage = None if reported is None else _read_usage(call, reported, output_tokens_counted=counted)
    return Answer(usage, counted, usage_rejected=usage is None and answer.usage is not None)


def _read_usage(call: Call, reported: object, *, output_tokens_counted: int) -> Usage | None:
    """Usage in tokens or by the duration; the other of the two is taken from the request."""
    if isinstance(reported, dict) and reported.get("type") == "duration":
        seconds: Any = reported.get("seconds")
        if type(seconds) not in (int, float) or not 0 <= seconds <= SECONDS_MAX:
            return None
        milliseconds = math.ceil(round(seconds * 1000, 3))  # 8.47 s are 8,470 ms, although 8.47 * 1000 is a little more
        return Usage(input=call.input_tokens_counted, output=output_tokens_counted, milliseconds=milliseconds)
    usage = read_usage(reported)
    if usage is None:
        return None
    units = call.units
    if units.milliseconds and usage.audio_input:
        units = replace(units, milliseconds=min(units.milliseconds, usage.audio_input * MILLISECONDS_PER_AUDIO_TOKEN))
    return replace(usage, character=units.character, milliseconds=units.milliseconds)


def read_stream(call: Call, media_type: str) -> Reader | None:
    """A reader for events, or of speech for the bytes of a recording; None for any other answer."""
    if media_type == EVENT_STREAM:
        return AudioReader(call)
    if call.operation == SPEECH and media_type != JSON:
        return BytesReader(call, bytes_per_token=AUDIO_BYTES_PER_TOKEN.get(media_type, DENSEST_AUDIO_BYTES_PER_TOKEN))
    return None


class AudioReader(TypedReader):
    """Reads the events of one transcript or one speech."""

    __slots__ = ("_counted", "_listed_bytes", "_written_bytes")

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._written_bytes = 0
        self._listed_bytes = 0
        self._counted = 0

    def _read_event(self, frame: Frame, kind: str, event: Mapping[str, Any]) -> Piece | None:
        if kind == "transcript.text.delta":
            return Piece(frame.raw, self._add(tokens_in_delta(self._write(event.get("delta")))))
        if kind == "transcript.text.segment":  # repeats the deltas, where there are any
            self._listed_bytes += _size(event.get("text"))
            return Piece(frame.raw, self._add(self._unseen_tokens(self._listed_bytes)))
        if kind == "speech.audio.delta":
            recorded = _size(event.get("audio")) * 3 // 4  # in Base64
            self.deltas += 1 if recorded else 0
            return Piece(frame.raw, self._add(-(-recorded // AUDIO_BYTES_PER_TOKEN["audio/mpeg"])))
        if kind in ("transcript.text.done", "speech.audio.done"):
            reported = event.get("usage")
            unseen = self._add(self._unseen_tokens(_size(event.get("text"))))
            usage = None if reported is None else _read_usage(self._call, reported, output_tokens_counted=self._counted)
            return self._end(frame, output_tokens=unseen, usage=usage, reported=reported)
        return None

    def _read_usage(self, value: object) -> Usage | None:
        usage = super()._read_usage(value)
        return usage and replace(usage, milliseconds=self._call.units.milliseconds)

    def _write(self, text: object) -> int:
        size = _size(text)
        self._written_bytes += size
        self.deltas += 1 if size else 0
        return size

    def _unseen_tokens(self, size: int) -> int:
        """Tokens of what a text holds beyond what was written so far."""
        unseen = max(0, size - self._written_bytes)
        self._written_bytes += unseen
        return tokens_in(unseen)

    def _add(self, tokens: int) -> int:
        self._counted += tokens
        return tokens


def _size(text: object) -> int:
    return size_bytes(text) if isinstance(text, str) else 0
