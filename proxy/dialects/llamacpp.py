"""The own API of llama.cpp's server: completion, infill, embedding, rerank, and the tokenizer for free.

`tokens_evaluated` is the whole prompt, of which `timings.cache_n` were cached; each event of a stream says how much was written so far. A
stream ends with an event that has `stop: true`, one for each answer. Fields: github.com/ggml-org/llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from proxy.dialects.counting import BYTES, InputCount, Measure, MediaRule
from proxy.dialects.document import edit_members, encode, members_of, read_object
from proxy.dialects.members import not_priced, objects, whole, wrong
from proxy.dialects.native import (
    CHOICES_MAX,
    OUTPUT_TOKENS_MAX,
    Native,
    add_others,
    add_pairs,
    add_prompts,
    call_without_output,
    flag,
    free_call,
    lower_maxima,
)
from proxy.dialects.native_answers import Json, NativeReader, read_whole
from proxy.dialects.protocol import MODEL_NAME_LENGTH_MAX, Changes, Operation, Reader, Request, ledger_member
from proxy.dialects.reported import count_of
from proxy.dialects.sse import EVENT_STREAM, Frame, event_of
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Expected

NAME = "llamacpp"
CLOSED_ANSWERS_MAX = 4096

_GENERATING = ("completion", "infill")
_UNREPORTED = ("embedding",)
_MAXIMA = ("n_predict", "max_tokens", "max_completion_tokens")
_CHOICE_COUNTS = ("n_cmpl", "n")
_NOT_PROMPT = frozenset(
    {
        *("model", "grammar", "json_schema", "stop", "samplers", "dry_sequence_breakers", "logit_bias", "lora", "stream_options"),
        *("grammar_triggers", "preserved_tokens", "encoding_format", "reasoning_format", "speculative.types"),
    }
)
"""Members that never become prompt text."""

_TYPE_BY_STATUS = {
    401: "authentication_error",
    402: "permission_error",
    403: "permission_error",
    404: "not_found_error",
    429: "unavailable_error",
    503: "unavailable_error",
}


class LlamaCpp(Native):
    """The dialect."""

    name = NAME
    operations = (
        Operation("completion", NAME, "POST", "/completion"),
        Operation("completion", NAME, "POST", "/completions"),
        Operation("infill", NAME, "POST", "/infill"),
        Operation("embedding", NAME, "POST", "/embedding", output="none"),
        Operation("embedding", NAME, "POST", "/embeddings", output="none"),
        Operation("rerank", NAME, "POST", "/rerank", output="none"),
        Operation("rerank", NAME, "POST", "/reranking", output="none"),
        Operation("tokenize", NAME, "POST", "/tokenize", output="none", free=True),
        Operation("detokenize", NAME, "POST", "/detokenize", output="none", free=True),
        Operation("apply-template", NAME, "POST", "/apply-template", output="none", free=True),
        Operation("health", NAME, "GET", "/health", output="none", free=True),
    )

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        operation = request.operation
        if operation.method == "GET":
            return free_call(request)
        document = read_object(request.body)
        model = _model(document)
        if operation.free:
            return free_call(request, model)
        count = InputCount(media)
        prompts = _add_input(count, operation.name, document, media)
        if operation.name not in _GENERATING:
            return call_without_output(request, model, count, reports_usage=operation.name not in _UNREPORTED)
        if document.get("response_fields"):
            raise not_priced("'response_fields' cannot be used: it hides what was used.")
        completions = max(whole(document, name, CHOICES_MAX) or 1 for name in _CHOICE_COUNTS)
        return Call(
            operation=operation.name,
            model=model,
            stream=flag(document, "stream"),
            choices=prompts * completions,
            output_tokens_max=_output_tokens_max(document),
            input_tokens_bound=count.bound * completions,  # each completion reports the prompt, the later ones as cached
            input_tokens_counted=count.counted * completions,
        )

    def lowered(self, members: Mapping[str, msgspec.Raw], most: int) -> Mapping[str, bytes]:
        """The maxima to lower or to add."""
        return lower_maxima(members, _MAXIMA, most)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came. A router of several models is told its own name for one."""
        body = super().rewrite(call, request, changes)
        if changes.model is None or not request.body or "model" not in members_of(request.body):
            return body
        return edit_members(body or request.body, {"model": encode(changes.model)})

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return CompletionReader(call, self.error_members) if media_type == EVENT_STREAM else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        if call.operation in _GENERATING:
            return read_whole(call, body, usage_of=_usage_of, measured=_measure)
        answer = read_whole(call, body, usage_of=_usage_of_input, measured=lambda _answer, _by: 0)
        return Answer(answer.usage, 0, answer.usage_rejected)

    def error_members(self, refusal: Expected, *, status: int) -> dict[str, Any]:
        """The members of an error body, `error` and `compute_ledger`."""
        kind = _TYPE_BY_STATUS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"code": status, "message": refusal.message, "type": kind}, "compute_ledger": ledger_member(refusal)}


def _model(document: Mapping[str, Any]) -> str:
    """The model that is named, as a router of several models wants it; empty where none is."""
    model = document.get("model")
    if model is None:
        return ""
    if not isinstance(model, str) or len(model) > MODEL_NAME_LENGTH_MAX or not model.isprintable():
        raise wrong("model", f"a model's name, of at most {MODEL_NAME_LENGTH_MAX} printable characters")
    return model


def _add_input(count: InputCount, operation: str, document: Mapping[str, Any], media: MediaRule) -> int:
    """Count all input of a request; how many prompts it holds. Raises Refusal: invalid_request."""
    if operation == "rerank":
        texts = "documents" if "documents" in document else "texts"
        add_pairs(count, document, texts)
        add_others(count, document, but={"model", "query", texts})
        return 1
    main = "prompt"
    if operation == "embedding":
        main = "input" if "input" in document else "content"
    count.add_tokens(media.image_tokens * len(objects(document, "image_data")))
    add_others(count, document, but=_NOT_PROMPT | {main, "image_data"})
    if operation == "infill":
        count.open_message()  # the names that the template gives to the project and the file
        if main not in document:
            return 1
    return add_prompts(count, document.get(main), main, add_object=partial(_add_object, media=media))


def _add_object(count: InputCount, prompt: Mapping[str, Any], *, media: MediaRule) -> None:
    """A prompt with media, which is either pictures or sound: nothing says which."""
    files = prompt.get("multimodal_data") or []
    if not isinstance(prompt.get("prompt_string"), str) or not isinstance(files, list):
        raise wrong("prompt", "an object with 'prompt_string' and 'multimodal_data'")
    count.add_tokens(max(media.image_tokens, media.audio_tokens) * len(files))
    add_others(count, prompt, but={"multimodal_data"})


def _output_tokens_max(document: Mapping[str, Any]) -> int | None:
    """Per answer; None where there is no limit. One token is written even where none is allowed."""
    maxima = []
    for name in _MAXIMA:
        value = document.get(name)
        if value is None:
            continue
        if type(value) is not int or value > OUTPUT_TOKENS_MAX:  # by type, for a bool is no number
            raise wrong(name, f"a whole number up to {OUTPUT_TOKENS_MAX}")
        maxima.append(value)
    return None if not maxima or min(maxima) < 0 else max(1, *maxima)


def _measure(answer: Json, by: Measure = BYTES) -> int:
    content = answer.get("content")
    return by.text(content) if isinstance(content, str) else 0


def _usage_of(answer: Json) -> Usage | None:
    inputs, outputs = count_of(answer, "tokens_evaluated"), count_of(answer, "tokens_predicted")
    if inputs is None and outputs is None:
        return None
    timings = answer.get("timings")
    cached = count_of(timings, "cache_n") or 0 if isinstance(timings, dict) else 0
    if inputs is None or outputs is None or cached > inputs:
        raise ValueError("tokens_evaluated")
    return Usage(input=inputs - cached, cached_input=cached, output=outputs)


def _usage_of_input(answer: Json) -> Usage | None:
    usage = answer.get("usage")
    if usage is None:
        return None
    inputs = count_of(usage, "prompt_tokens") if isinstance(usage, dict) else None
    if inputs is None:
        raise ValueError("usage")
    return Usage(input=inputs)


class CompletionReader(NativeReader):
    """Reads the events of one stream, which ends with the last answer that stops."""

    __slots__ = ("_stopped",)

    def __init__(self, call: Call, error_members: Any) -> None:
        super().__init__(call, error_members)
        self._stopped: dict[int, Piece] = {}
        """By index, the piece that ended each answer; where that is not forwarded, the answer is still open to the client."""

    def _read_bare(self, frame: Frame) -> Piece:
        self.failed |= frame.raw.startswith(b"error:")  # older servers send their errors in a field of this name
        return Piece(frame.raw)

    def _read_data(self, frame: Frame, data: bytes) -> Piece:
        if data == b"null":  # what comes before the answers to several prompts
            return Piece(frame.raw)
        return super()._read_data(frame, data)

    def _read_event(self, frame: Frame, event: Json) -> Piece:
        tokens, usage = self._count(event, _measure(event), _usage_of)
        index = self._index_of(event)
        if event.get("stop") is not True or index is None:
            return Piece(frame.raw, tokens, usage)
        self.ended = len(self._stopped.keys() | {index}) == self._call.choices
        piece = self._stopped[index] = Piece(frame.raw, tokens, usage, last=self.ended)
        return piece

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the maximum would make, of each answer that is open; usage is said where there is one answer alone."""
        counts = {"tokens_predicted": usage.output_tokens, "tokens_evaluated": usage.input_tokens} if self._call.choices == 1 else {}
        ending = {"content": "", "tokens": [], "stop": True, "model": self._call.model, **counts}
        ending |= {"truncated": False, "stop_type": "limit", "stopping_word": ""}
        open_answers = [i for i in range(min(self._call.choices, CLOSED_ANSWERS_MAX)) if self._stopped.get(i) in (None, *unsent)]
        return self._separator() + b"".join(event_of({"index": index, **ending}) for index in open_answers)
