"""The realtime API: what has been said in a conversation over a socket, what it has cost so far and what it may cost by the next answer.

Every answer is billed for all that was said before it, so a conversation grows dearer turn by turn. What may come is bounded by the bytes
of text and by the length of recordings; what came is what `response.done` reports. Knows events, no socket and no budget. Events:
platform.openai.com/docs/api-reference/realtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from proxy.dialects.counting import MediaRule, size_bytes, tokens_in, tokens_in_delta, written_bytes
from proxy.dialects.document import encode, read_object
from proxy.dialects.members import not_priced, wrong
from proxy.dialects.openai_errors import error_members
from proxy.dialects.protocol import MODEL_NAME_LENGTH_MAX, Changes, Request
from proxy.dialects.reported import count_of
from proxy.domain import NO_USAGE, Answer, Call, Usage
from proxy.errors import Expected, Refusal

HEARD_TOKENS_PER_S = 10
SPOKEN_TOKENS_PER_S = 20
"""A token is 100 ms of what the model hears, and 50 ms of what it speaks (OpenAI's guide to realtime costs)."""
PCM_BYTES_PER_S = 48_000
G711_BYTES_PER_S = 8_000
"""24 kHz of 16 bits; 8 kHz of 8 bits. The same bytes last longest in the second."""
RECORDING_S_MAX = 86_400
MESSAGE_TOKENS = 16
"""What the template adds for each message and each answer, at most."""

_BASE64_SIZE = 0.75
_TOOL_TYPES = (None, "function")


def parse_request(request: Request, media: MediaRule) -> Call:
    """What a conversation is asked for by its address. Raises Refusal: invalid_request."""
    model = request.query.get("model", "")
    if not model or len(model) > MODEL_NAME_LENGTH_MAX or not model.isprintable():
        raise wrong("model", "a model's name in the query")
    return Call(
        operation=request.operation.name,
        model=model,
        stream=True,
        choices=1,
        output_tokens_max=None,
        input_tokens_bound=MESSAGE_TOKENS,
        input_tokens_counted=0,
        needs=(("input", "output"), ("audio_input", "audio_output")),
    )


def rewrite(call: Call, request: Request, changes: Changes) -> None:
    """Nothing: the request has no body."""


def read_stream(call: Call, media_type: str) -> None:
    """None: what answers it is a conversation."""


def read_answer(call: Call, body: bytes, media_type: str) -> Answer:
    """An error, since all else is a conversation: it uses nothing."""
    return Answer(None, 0)


class Conversation:
    """One conversation, as its events tell it."""

    __slots__ = (
        *("_asked_bound", "_audio_bytes_per_s", "_heard_counted", "_is_answering", "_media", "_said_bound", "_said_counted", "_spoken"),
        *("_written", "reported", "usage_rejected"),
    )

    def __init__(self, media: MediaRule) -> None:
        self.reported = NO_USAGE
        """What all answers so far used, by the upstream's own word."""
        self.usage_rejected = False
        self._media = media
        self._audio_bytes_per_s = PCM_BYTES_PER_S
        self._said_bound = MESSAGE_TOKENS
        """Tokens, at most, of all that was said so far: the input of the next answer."""
        self._said_counted = 0
        self._heard_counted = 0
        self._asked_bound = 0
        """The same when the answer under way was begun."""
        self._is_answering = False
        self._written = self._spoken = 0
        """Tokens of the answer that is under way."""

    # --- what it costs -----------------------------------------------------------------------------------------------------------

    def usage_now(self) -> Usage:
        """What is due if it ended now: what was reported, and of an unfinished answer what was heard and said."""
        if not self._is_answering:
            return self.reported
        unfinished = Usage(input=self._said_counted, audio_input=self._heard_counted, output=self._written, audio_output=self._spoken)
        return _sum(self.reported, unfinished)

    def usage_ahead(self, *, asking: bool) -> Usage:
        """What may be due by the next token of an answer that is under way, at most; where the client is `asking`, of the next one."""
        if not asking and not self._is_answering:
            return self.reported
        ahead = Usage(input=self._said_bound, output=self._written + 1, audio_output=self._spoken)
        return _sum(self.reported, ahead)

    # --- what the client says ----------------------------------------------------------------------------------------------------

    def hear(self, message: str) -> None:
        """A client's event. Raises Refusal: invalid_request (unreadable, or of a cost that nothing here can bound)."""
        event = read_object(message.encode("utf-8", "surrogatepass"))
        kind = event.get("type")
        if not isinstance(kind, str):
            raise wrong("type", "an event's name")
        if kind == "input_audio_buffer.append":
            self._hear_audio(event.get("audio"))
        elif kind in ("session.update", "transcription_session.update", "response.create"):
            self._hear_settings(event.get("session") if kind.endswith("update") else event.get("response"))
        elif kind == "conversation.item.create":
            self._hear_item(event.get("item"))
        elif not kind.startswith(("input_audio_buffer.", "output_audio_buffer.", "conversation.item.", "response.cancel")):
            self._add_text(len(message))  # nothing that we know, so it may be anything

    def _hear_audio(self, audio: object) -> None:
        if not isinstance(audio, str):
            raise wrong("audio", "base64")
        size = len(audio) * _BASE64_SIZE
        self._said_bound += math.ceil(size / G711_BYTES_PER_S * HEARD_TOKENS_PER_S)
        self._heard_counted += int(size / self._audio_bytes_per_s * HEARD_TOKENS_PER_S)

    def _hear_settings(self, settings: object) -> None:
        if settings is None:
            return
        if not isinstance(settings, dict):
            raise wrong("session", "an object")
        tools = settings.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict) or tool.get("type") not in _TOOL_TYPES:
                raise not_priced("Only tools of type function can be used: the others have a cost of their own.")
        if settings.get("prompt") is not None:
            raise not_priced("'prompt' cannot be used: it adds input that cannot be seen here.")
        text = encode(settings)
        if any(name in text for name in (b"g711", b"audio/pcmu", b"audio/pcma")):
            self._audio_bytes_per_s = G711_BYTES_PER_S
        self._add_text(len(text))

    def _hear_item(self, item: object) -> None:
        if not isinstance(item, dict):
            raise wrong("item", "an object")
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and isinstance(part.get("audio"), str):
                self._hear_audio(part["audio"])
            elif isinstance(part, dict) and part.get("type") == "input_image":
                self._said_bound += self._media.image_tokens
                self._said_counted += self._media.image_tokens
            else:
                self._add_text(written_bytes(part))
        self._add_text(sum(written_bytes(item.get(name)) for name in ("name", "arguments", "output")))

    def _add_text(self, size: int) -> None:
        self._said_bound += size + MESSAGE_TOKENS
        self._said_counted += tokens_in(size)

    # --- what the upstream says --------------------------------------------------------------------------------------------------

    def answer(self, message: str, event: Mapping[str, Any] | None) -> None:
        """An upstream's event, as read; None where it cannot be read, which counts by its length."""
        kind = "" if event is None else str(event.get("type") or "")
        if kind == "response.created":
            self._is_answering = True
            self._asked_bound = self._said_bound
        elif kind.endswith("audio.delta"):
            self._spoken += self._spoken_in(event)
        elif kind.endswith(".delta") and event is not None:
            self._written += tokens_in_delta(written_bytes(event.get("delta")))
        elif kind == "response.done" and event is not None:
            response = event.get("response")
            self._finish(response.get("usage") if isinstance(response, dict) else None)
        elif kind == "conversation.item.input_audio_transcription.completed" and event is not None:
            self._report(_transcription(event.get("usage")), was_there=event.get("usage") is not None)
        elif not kind:
            self._written += tokens_in(size_bytes(message))

    def _spoken_in(self, event: Mapping[str, Any] | None) -> int:
        delta = None if event is None else event.get("delta")
        size = len(delta) * _BASE64_SIZE if isinstance(delta, str) else 0
        return math.ceil(size / self._audio_bytes_per_s * SPOKEN_TOKENS_PER_S)

    def _finish(self, usage: object) -> None:
        reported = _response(usage)
        if reported is None:
            self.usage_rejected |= usage is not None
            self.reported = self.usage_now()
            self._said_bound += self._written + self._spoken + MESSAGE_TOKENS
        else:
            self._report(reported, was_there=True)
            # What was said until then is known now; what was said while the answer ran is still only bounded.
            self._said_bound += reported.input_tokens + reported.output_tokens + MESSAGE_TOKENS - self._asked_bound
        self._said_counted += self._written
        self._heard_counted += self._spoken
        self._is_answering = False
        self._written = self._spoken = 0

    def _report(self, usage: Usage | None, *, was_there: bool) -> None:
        if usage is None:
            self.usage_rejected |= was_there
        else:
            self.reported = _sum(self.reported, usage)


def cut_event(refusal: Expected) -> str:
    """The error event with which a conversation is ended."""
    members = error_members(refusal)
    return encode({"type": "error", "event_id": "event_cut", **members}).decode()


def refusal_of_event(refusal: Refusal, event_id: object) -> str:
    """The error event for one client's event that is not forwarded; the conversation goes on."""
    members = error_members(refusal)
    members["error"]["event_id"] = event_id if isinstance(event_id, str) else None
    return encode({"type": "error", "event_id": "event_refused", **members}).decode()


def _response(usage: object) -> Usage | None:
    """The usage of one answer, or None where it cannot be believed."""
    if not isinstance(usage, dict):
        return None
    try:
        inputs, outputs = count_of(usage, "input_tokens"), count_of(usage, "output_tokens")
        heard, said = _object(usage, "input_token_details"), _object(usage, "output_token_details")
        cached, cached_audio = count_of(heard, "cached_tokens") or 0, count_of(_object(heard, "cached_tokens_details"), "audio_tokens") or 0
        audio_input, audio_output = count_of(heard, "audio_tokens") or 0, count_of(said, "audio_tokens") or 0
    except ValueError:
        return None
    if inputs is None or outputs is None:
        return None
    audio_input -= cached_audio
    plain_input, plain_output = inputs - cached - audio_input, outputs - audio_output
    if min(audio_input, plain_input, plain_output) < 0:
        return None
    return Usage(input=plain_input, cached_input=cached, audio_input=audio_input, output=plain_output, audio_output=audio_output)


def _transcription(usage: object) -> Usage | None:
    """The usage of one transcription of what was heard: in tokens, or in seconds."""
    if isinstance(usage, dict) and usage.get("type") == "duration":
        seconds = usage.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= RECORDING_S_MAX:  # a NaN neither
            return None
        return Usage(milliseconds=math.ceil(seconds * 1000))
    return _response(usage)


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object, or absent. Raises ValueError where it is anything else."""
    value = members.get(name)
    if value is not None and not isinstance(value, dict):
        raise ValueError(name)
    return value or {}


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{kind.name: getattr(one, kind.name) + getattr(other, kind.name) for kind in fields(Usage)})
