"""The Open Inference Protocol (KServe V2) with Triton's extensions for text (`generate`) and for binary tensors.

No answer says what was used: tensors count a token for each number, text by its bytes, binary data a token for every four. Sources:
kserve.github.io, V2 protocol; github.com/triton-inference-server/server, docs/protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from proxy.dialects.counting import (
    CountText,
    InputCount,
    Measure,
    MediaRule,
    measure,
    tokens_in,
    tokens_of,
    tokens_of_delta,
)
from proxy.dialects.document import edit_members, members_of, read_object
from proxy.dialects.members import not_priced, objects, whole, wrong
from proxy.dialects.native import CHOICES_MAX, Native, add_others, free_call, lower_maxima, settings, whole_from_zero
from proxy.dialects.native_answers import Json, NativeReader, answers_in
from proxy.dialects.protocol import Changes, Operation, Reader, Request, ledger_member
from proxy.dialects.sse import EVENT_STREAM, Frame
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Expected

NAME = "kserve"
JSON_SIZE_HEADER = "Inference-Header-Content-Length"
SIZE_DIGITS_MAX = 16

_MAXIMUM = ("max_tokens",)
_CHOICE_COUNTS = ("n", "best_of", "beam_width", "num_return_sequences")
_IMAGES = "image"
_NOT_PROMPT = frozenset({"text_input", "parameters", "id", "stop_words", "bad_words", "stop", _IMAGES})
_NOT_OUTPUT = frozenset({"model_name", "model_version", "id", "parameters"})


class KServe(Native):
    """The dialect."""

    name = NAME
    operations = (
        Operation("infer", NAME, "POST", "/v2/models/{model}/infer", passes_content_type=True),
        Operation("generate", NAME, "POST", "/v2/models/{model}/generate"),
        Operation("generate_stream", NAME, "POST", "/v2/models/{model}/generate_stream"),
        Operation("model_ready", NAME, "GET", "/v2/models/{model}/ready", output="none", free=True),
        Operation("model", NAME, "GET", "/v2/models/{model}", output="none", free=True),
        Operation("live", NAME, "GET", "/v2/health/live", output="none", free=True),
        Operation("ready", NAME, "GET", "/v2/health/ready", output="none", free=True),
        Operation("server", NAME, "GET", "/v2", output="none", free=True),
    )

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        operation = request.operation
        model = request.model or ""
        if operation.free:
            return free_call(request, model)
        count = InputCount(media)
        choices, most = 1, None
        if operation.name == "infer":
            _add_tensors(count, request)
        else:
            choices, most = _add_text(count, read_object(request.body), media)
        return Call(
            operation=operation.name,
            model=model,
            stream=operation.name == "generate_stream",
            choices=choices,
            output_tokens_max=most,
            input_tokens_bound=count.bound,
            input_tokens_counted=count.counted,
            reports_usage=False,
        )

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came; tensors have no maximum, and need not be JSON."""
        return None if call.operation == "infer" else super().rewrite(call, request, changes)

    def lowered(self, members: Mapping[str, msgspec.Raw], most: int) -> Mapping[str, bytes]:
        """The maximum to lower, wherever it stands, or to add to the parameters."""
        edits = lower_maxima(members, _MAXIMUM, most) if "max_tokens" in members else {}
        parameters = bytes(members.get("parameters", b"null"))
        parameters = b"{}" if parameters == b"null" else parameters
        inner = members_of(parameters)
        if "max_tokens" in inner or "max_tokens" not in members:
            edits["parameters"] = edit_members(parameters, lower_maxima(inner, _MAXIMUM, most))
        return edits

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return OutputReader(call, self.error_members) if media_type == EVENT_STREAM else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer holds."""
        answers = answers_in(body)  # None where binary data follow the JSON
        if not answers or not all(isinstance(answer, dict) for answer in answers):
            return Answer(None, tokens_in(len(body)))
        return Answer(None, sum(0 if answer.get("error") else max(1, _output_tokens(answer, call.count_text)) for answer in answers))

    def error_members(self, refusal: Expected, *, status: int) -> dict[str, Any]:
        """The members of an error body, `error` and `compute_ledger`."""
        return {"error": refusal.message, "compute_ledger": ledger_member(refusal)}


def _add_text(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> tuple[int, int | None]:
    """Count the input of a text request; how many answers it asks for, and the maximum of each. Raises Refusal: invalid_request."""
    texts = document.get("text_input")
    for text in texts if isinstance(texts, list) and texts else [texts]:
        if not isinstance(text, str):
            raise wrong("text_input", "text")
        count.open_prompt()
        count.add_text(text)
    images = document.get(_IMAGES) or []
    count.add_tokens(media.image_tokens * (len(images) if isinstance(images, list) else 1))
    choices = 1
    maxima = []
    for members in (document, settings(document, "parameters")):
        if members.get("sampling_parameters"):
            raise not_priced("'sampling_parameters' cannot be used: it hides the maximum. Name each of them in 'parameters'.")
        add_others(count, members, but=_NOT_PROMPT)
        choices = max(choices, *(whole(members, name, CHOICES_MAX) or 1 for name in _CHOICE_COUNTS))
        maxima.append(whole_from_zero(members, "max_tokens"))
    prompts = len(texts) if isinstance(texts, list) else 1
    return prompts * choices, max((most for most in maxima if most is not None), default=None)


def _add_tensors(count: InputCount, request: Request) -> None:
    """Count the input of an inference request: the tensors in its JSON, and what follows the JSON. Raises Refusal: invalid_request."""
    said = request.headers.get(JSON_SIZE_HEADER)
    json_bytes = len(request.body) if said is None else _size(said)
    if json_bytes > len(request.body):
        raise wrong(JSON_SIZE_HEADER, "the size of the JSON in the body")
    document = {} if said is not None and json_bytes == 0 else read_object(request.body[:json_bytes])  # a bare tensor may come alone
    inputs, outputs = objects(document, "inputs"), objects(document, "outputs")
    if any("shared_memory_region" in settings(tensor, "parameters") for tensor in (*inputs, *outputs)):
        raise not_priced("Tensors in shared memory cannot be used: what they hold cannot be seen here.")
    for tensor in inputs:
        count.open_prompt()
        for element in _elements(tensor.get("data")):
            if isinstance(element, str):
                count.add_text(element)
            else:
                count.add_tokens(1)
    add_others(count, document, but={"id", "inputs", "outputs", "parameters"})
    binary = len(request.body) - json_bytes
    count.bound += binary
    count.counted += tokens_in(binary)


def _size(said: str) -> int:
    if not (said.isascii() and said.isdigit() and len(said) < SIZE_DIGITS_MAX):
        raise wrong(JSON_SIZE_HEADER, "the size of the JSON in the body")
    return int(said)


def _elements(data: object) -> Iterator[object]:
    """The numbers and texts that a tensor holds, however it is nested."""
    pending = [data]
    while pending:
        current = pending.pop()
        if isinstance(current, list):
            pending += current
        elif current is not None:
            yield current


def _output_tokens(answer: Json, count_text: CountText | None) -> int:
    """Tokens in a whole answer: in its tensors, or in its text."""
    outputs = answer.get("outputs")
    if not isinstance(outputs, list):
        return tokens_of(answer, _measure, count_text)
    tensors = [tensor.get("data") for tensor in outputs if isinstance(tensor, dict)]
    elements = (element for data in tensors for element in _elements(data))
    return sum(tokens_of(element, _measure_text, count_text) if isinstance(element, str) else 1 for element in elements)


def _measure_text(text: str, by: Measure) -> int:
    return by.text(text)


def _measure(answer: Json, by: Measure) -> int:
    """How much text is in an answer: of its `text_output`; a model may name its output otherwise."""
    if "text_output" in answer:
        return measure(answer["text_output"], by)
    return measure({name: value for name, value in answer.items() if name not in _NOT_OUTPUT}, by)


class OutputReader(NativeReader):
    """Reads the events of one stream, which ends without a word."""

    __slots__ = ("_half",)

    def __init__(self, call: Call, error_members: Any) -> None:
        super().__init__(call, error_members)
        self._half = False

    def _read(self, frame: Frame) -> Piece:
        self._half |= not frame.whole
        return super()._read(frame)

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end; unless they end within an event, that is the answer's end."""
        pieces = super().close()
        self.ended = not self._half
        return pieces

    def _read_event(self, frame: Frame, event: Json) -> Piece:
        tokens = tokens_of_delta(event, _measure, self._call.count_text)
        self.deltas += tokens > 0
        return Piece(frame.raw, tokens)

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the maximum would make: nothing more."""
        return self._separator()
