"""The own API of Text Generation Inference: generate, whole or streamed, and the tokenizer for free.

Usage comes only with `parameters.details`, which is the caller's to ask for, as it changes the answer; an event of a stream is one token
all the same. Fields: github.com/huggingface/text-generation-inference, docs/openapi.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from proxy.dialects.counting import BYTES, InputCount, Measure, MediaRule, size_bytes, tokens_in
from proxy.dialects.document import edit_members, members_of, read_object
from proxy.dialects.members import whole, wrong
from proxy.dialects.native import CHOICES_MAX, OUTPUT_TOKENS_MAX, Native, add_others, flag, free_call, lower_maxima, settings
from proxy.dialects.native_answers import Json, NativeReader, read_whole
from proxy.dialects.protocol import Operation, Reader, Request, ledger_member
from proxy.dialects.reported import count_of
from proxy.dialects.sse import EVENT_STREAM, Frame, event_of
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Expected

NAME = "tgi"
DEFAULT_TOKENS = 100
"""What is generated at most where a request names no maximum."""

_NOT_PROMPT = frozenset({"inputs", "parameters", "stream"})
_MAXIMA = ("max_new_tokens",)
_WITHOUT_PARAMETERS = b'{"do_sample":true}'
"""What the server takes where there are no parameters; in parameters that do not say it, sampling is off."""
_FETCHED = ("http:", "https:", "data:")


class TGI(Native):
    """The dialect."""

    name = NAME
    operations = (
        Operation("generate", NAME, "POST", "/generate"),
        Operation("generate_stream", NAME, "POST", "/generate_stream"),
        Operation("compat_generate", NAME, "POST", "/"),
        Operation("tokenize", NAME, "POST", "/tokenize", output="none", free=True),
        Operation("chat_tokenize", NAME, "POST", "/chat_tokenize", output="none", free=True),
        Operation("info", NAME, "GET", "/info", output="none", free=True),
        Operation("health", NAME, "GET", "/health", output="none", free=True),
    )

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        operation = request.operation
        if operation.free:
            return free_call(request)
        document = read_object(request.body)
        parameters = settings(document, "parameters")
        attempts = whole(parameters, "best_of", CHOICES_MAX) or 1
        count = InputCount(media)
        _add_inputs(count, document.get("inputs"), media)
        add_others(count, document, but=_NOT_PROMPT)
        return Call(
            operation=operation.name,
            model="",
            stream=operation.name == "generate_stream" or (operation.name == "compat_generate" and flag(document, "stream")),
            choices=attempts,
            output_tokens_max=whole(parameters, "max_new_tokens", OUTPUT_TOKENS_MAX),
            input_tokens_bound=count.bound,
            input_tokens_counted=count.counted,
            shows_writing=attempts == 1 and not parameters.get("return_full_text"),
        )

    def lowered(self, members: Mapping[str, msgspec.Raw], most: int) -> Mapping[str, bytes]:
        """The parameters with a maximum that is low enough."""
        parameters = bytes(members.get("parameters", b"null"))
        if parameters == b"null":
            parameters = _WITHOUT_PARAMETERS
        return {"parameters": edit_members(parameters, lower_maxima(members_of(parameters), _MAXIMA, most, default=DEFAULT_TOKENS))}

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return TokenReader(call, self.error_members) if media_type == EVENT_STREAM else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds. Of several attempts (`best_of`) one is shown, and all are paid for."""
        answer = read_whole(call, body, usage_of=partial(_usage_of, call), measured=_measure)
        return Answer(answer.usage, answer.output_tokens_counted * call.choices, answer.usage_rejected)

    def error_members(self, refusal: Expected, *, status: int) -> dict[str, Any]:
        """The members of an error body, `error`, `error_type` and `compute_ledger`."""
        kind = "generation" if status >= 500 else "overloaded" if status == 429 else "validation"
        return {"error": refusal.message, "error_type": kind, "compute_ledger": ledger_member(refusal)}


def _add_inputs(count: InputCount, inputs: object, media: MediaRule) -> None:
    """Count a prompt, in which images stand as Markdown: those that the server would fetch or decode count by the operator's rule."""
    if not isinstance(inputs, str):
        raise wrong("inputs", "text")
    count.open_prompt()
    images, address_bytes = _images_in(inputs)
    count.add_tokens(media.image_tokens * images)
    size = size_bytes(inputs) - address_bytes
    count.bound += size
    count.counted += tokens_in(size)


def _images_in(text: str) -> tuple[int, int]:
    """How many images `![...](...)` a text has, and the bytes of their addresses.

    The server's own pattern, searched for from the middle, so that no text takes longer than its length.
    """
    images = size = 0
    searched = 0
    while (middle := text.find("](", searched)) >= 0:
        start = middle + 2
        if text[start : start + 16].lstrip().startswith(_FETCHED):
            opening = text.rfind("![", searched, middle)
            if opening >= 0 and text.find("]", opening, middle) < 0:
                end = text.find(")", start)
                end = len(text) if end < 0 else end
                images += 1
                size += size_bytes(text[start:end])
                start = end
        searched = start
    return images, size


def _measure(answer: Json, by: Measure = BYTES) -> int:
    text = answer.get("generated_text")
    return by.text(text) if isinstance(text, str) else 0


def _usage_of(call: Call, answer: Json) -> Usage | None:
    """Usage by an answer's details. They say how long the input was in streams, or where the input's tokens are asked for."""
    details = answer.get("details")
    if details is None:
        return None
    others = details.get("best_of_sequences") or [] if isinstance(details, dict) else None
    if not isinstance(others, list):
        raise ValueError("details")
    outputs = 0
    for attempt in (details, *others):
        generated = count_of(attempt, "generated_tokens") if isinstance(attempt, dict) else None
        if generated is None:
            raise ValueError("details")
        outputs += generated
    inputs, prefill = count_of(details, "input_length"), details.get("prefill")
    if inputs is None:
        inputs = len(prefill) if prefill and isinstance(prefill, list) else call.input_tokens_counted
    return Usage(input=inputs, output=outputs)


class TokenReader(NativeReader):
    """Reads the events of one stream, of a token each; the last one has the whole text."""

    __slots__ = ()

    def _index_of(self, event: Json) -> int | None:
        return 0  # `index` is the token's

    def _read_event(self, frame: Frame, event: Json) -> Piece:
        token = event.get("token")
        token = token if isinstance(token, dict) else {}
        text = token.get("text")
        written = size_bytes(text) if isinstance(text, str) else 0
        exactly = 1 if type(token.get("id")) is int else None
        tokens, usage = self._count(event, written, partial(_usage_of, self._call), tokens=exactly)
        self.ended = isinstance(event.get("generated_text"), str) or isinstance(event.get("details"), dict)
        return Piece(frame.raw, tokens, usage, last=self.ended)

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the maximum would make, without the text, which was not kept."""
        details = {"finish_reason": "length", "generated_tokens": usage.output_tokens, "input_length": usage.input_tokens, "seed": None}
        token = {"id": 0, "text": "", "logprob": 0.0, "special": True}
        return self._separator() + event_of({"index": usage.output_tokens, "token": token, "generated_text": None, "details": details})
