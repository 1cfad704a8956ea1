"""The realtime API: what has been said in a conversation over a socket, what it has cost so far and what it may cost by the next answer.

Every answer is billed for all that was said before it, so a conversation grows dearer turn by turn. What may come is bounded by the bytes
of text and by the length of recordings; what came is what `response.done` reports. Knows events, no socket and no budget. Events:
platform.openai.com/docs/api-reference/realtime.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import reduce
from typing import Any

from proxy.dialects.counting import MediaRule, measure, size_bytes, tokens_in, tokens_in_delta
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

ANSWERS_MAX = 64
"""So many answers under way are told apart."""

_BASE64_SIZE = 0.75
_TOOL_TYPES = (None, "function")
_TRANSCRIPT_OF_INPUT = "conversation.item.input_audio_transcription."


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


class _Answer:
    """An answer under way: the bound of what it reads, and the tokens of it that were heard so far."""

    __slots__ = ("asked_bound", "spoken", "written")

    def __init__(self, asked_bound: int) -> None:
        self.asked_bound = asked_bound
        self.written = self.spoken = 0


class Conversation:
    """One conversation, as its events tell it. Several answers may be under way at once, beside the conversation or within it."""

    __slots__ = (
        *("_answers", "_audio_bytes_per_s", "_heard_counted", "_media", "_models", "_said_bound", "_said_counted"),
        *("reported", "usage_rejected"),
    )

    def __init__(self, media: MediaRule, *, models: Collection[str] | None = None) -> None:
        """`models` are the names of the one that is priced; None where any may be named."""
        self.reported = NO_USAGE
        """What all answers so far used, by the upstream's own word."""
        self.usage_rejected = False
        self._media = media
        self._models = models
        self._audio_bytes_per_s = PCM_BYTES_PER_S
        self._said_bound = MESSAGE_TOKENS
        """Tokens, at most, of all that was said so far: the input of the next answer."""
        self._said_counted = 0
        self._heard_counted = 0
        self._answers: dict[str, _Answer] = {}
        """Those under way by their ids, the latest one last."""

    # --- what it costs -----------------------------------------------------------------------------------------------------------

    def usage_now(self) -> Usage:
        """What is due if it ended now: what was reported, and of an unfinished answer what was heard and said."""
        return reduce(_sum, map(self._unfinished, self._answers.values()), self.reported)

    def _unfinished(self, answer: _Answer) -> Usage:
        return Usage(input=self._said_counted, audio_input=self._heard_counted, output=answer.written, audio_output=answer.spoken)

    def usage_ahead(self, *, asking: bool) -> Usage:
        """What may be due by the next token of an answer that is under way, at most; where the client is `asking`, of the next one."""
        if not asking and not self._answers:
            return self.reported
        *earlier, latest = self._answers.values() or (_Answer(self._said_bound),)
        ahead = [Usage(input=answer.asked_bound, output=answer.written + 1, audio_output=answer.spoken) for answer in earlier]
        ahead.append(Usage(input=self._said_bound, output=latest.written + 1, audio_output=latest.spoken))
        return reduce(_sum, ahead, self.reported)

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
            self._check_model(event.get("model"))
            self._hear_settings(event.get("session") if kind.endswith("update") else event.get("response"))
        elif kind == "conversation.item.create":
            self._hear_item(event.get("item"))
        elif not kind.startswith(("input_audio_buffer.", "output_audio_buffer.", "conversation.item.", "response.cancel")):
            self._add_text(len(message))  # nothing that we know, so it may be anything

    def _check_model(self, model: object) -> None:
        if model is not None and self._models is not None and model not in self._models:
            raise not_priced("Another model than the one in the address cannot be used: it may have another price.")

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
        self._check_model(settings.get("model"))
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
            if isinstance(part, dict) and part.get("type") == "input_image":
                self._said_bound += self._media.image_tokens
                self._said_counted += self._media.image_tokens
            elif isinstance(part, dict) and isinstance(part.get("audio"), str):
                self._hear_audio(part["audio"])
            else:
                self._add_text(measure(part))
        self._add_text(sum(measure(item.get(name)) for name in ("name", "arguments", "output")))

    def _add_text(self, size: int) -> None:
        self._said_bound += size + MESSAGE_TOKENS
        self._said_counted += tokens_in(size)

    # --- what the upstream says --------------------------------------------------------------------------------------------------

    def answer(self, message: str, event: Mapping[str, Any] | None) -> None:
        """An upstream's event, as read; None where it cannot be read, which counts by its length."""
        kind = "" if event is None else str(event.get("type") or "")
        if event is None or not kind:
            self._under_way(None).written += tokens_in(size_bytes(message))
        elif kind.startswith(_TRANSCRIPT_OF_INPUT):
            if kind.endswith(".completed"):
                self._report(_transcription(event.get("usage")), was_there=event.get("usage") is not None)
        elif kind == "response.created":
            self._begin(_id_in(event.get("response")) or "")
        elif kind.endswith("audio.delta"):
            self._under_way(event.get("response_id")).spoken += self._spoken_in(event)
        elif kind.endswith(".delta"):
            self._under_way(event.get("response_id")).written += tokens_in_delta(measure(event.get("delta")))
        elif kind == "response.done":
            response = event.get("response")
            self._finish(_id_in(response), response.get("usage") if isinstance(response, dict) else None)
        elif kind == "transcription.done":  # vLLM's: a conversation with a model that only listens
            self._finish(None, event.get("usage"))

    def _begin(self, name: str) -> _Answer:
        return self._answers.setdefault(name if len(self._answers) < ANSWERS_MAX else "", _Answer(self._said_bound))

    def _under_way(self, name: object) -> _Answer:
        """The answer of this id; without one the latest. What nobody announced is one all the same, so that it is paid."""
        answer = self._answers.get(name) if isinstance(name, str) else next(reversed(self._answers.values()), None)
        return answer or self._begin(name if isinstance(name, str) else "")

    def _spoken_in(self, event: Mapping[str, Any]) -> int:
        delta = event.get("delta")
        size = len(delta) * _BASE64_SIZE if isinstance(delta, str) else 0
        return math.ceil(size / self._audio_bytes_per_s * SPOKEN_TOKENS_PER_S)

    def _finish(self, name: str | None, usage: object) -> None:
        answer = self._under_way(name)
        self._answers = {other: open_ for other, open_ in self._answers.items() if open_ is not answer}
        reported = _response(usage)
        if reported is None:
            self.usage_rejected |= usage is not None
            self.reported = _sum(self.reported, self._unfinished(answer))
            self._said_bound += answer.written + answer.spoken + MESSAGE_TOKENS
        else:
            self._report(reported, was_there=True)
            # What was said until then is known now; what was said while the answer ran is still only bounded.
            known = reported.input_tokens - answer.asked_bound
            self._said_bound += known + reported.output_tokens + MESSAGE_TOKENS
            for other in self._answers.values():
                other.asked_bound = max(0, other.asked_bound + known)
        self._said_counted += answer.written
        self._heard_counted += answer.spoken

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
        inputs, outputs = (_either(usage, *names) for names in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")))
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


def _either(usage: Mapping[str, Any], name: str, other: str) -> int | None:
    count = count_of(usage, name)
    return count_of(usage, other) if count is None else count


def _transcription(usage: object) -> Usage | None:
    """The usage of one transcription of what was heard: in tokens, or in seconds."""
    if isinstance(usage, dict) and usage.get("type") == "duration":
        seconds = usage.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= RECORDING_S_MAX:  # a NaN neither
            return None
        return Usage(milliseconds=math.ceil(seconds * 1000))
    return _response(usage)


def _id_in(response: object) -> str | None:
    name = response.get("id") if isinstance(response, dict) else None
    return name if isinstance(name, str) else None


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object, or absent. Raises ValueError where it is anything else."""
    value = members.get(name)
    if value is not None and not isinstance(value, dict):
        raise ValueError(name)
    return value or {}


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{kind.name: getattr(one, kind.name) + getattr(other, kind.name) for kind in fields(Usage)})
