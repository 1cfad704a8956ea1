"""SGLang's own API: generate, whole or streamed.

Each answer has its `meta_info`, with exact counts in every event of a stream. The text of an event is all text so far, unless the server
was started to send what is new in it. Fields: github.com/sgl-project/sglang, python/sglang/srt/managers/io_struct.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import msgspec

from proxy.dialects.counting import BYTES, InputCount, Measure, MediaRule, size_bytes
from proxy.dialects.document import edit_members, members_of, read_object
from proxy.dialects.members import not_priced, objects, whole, wrong
from proxy.dialects.native import (
    CHOICES_MAX,
    Native,
    add_others,
    add_prompts,
    flag,
    free_call,
    lower_maxima,
    settings,
    whole_from_zero,
)
from proxy.dialects.native_answers import DONE, Json, NativeReader, read_whole
from proxy.dialects.protocol import Operation, Reader, Request, ledger_member
from proxy.dialects.reported import count_of
from proxy.dialects.sse import EVENT_STREAM, Frame, event_of
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Expected

NAME = "sglang"
DEFAULT_TOKENS = 128
"""What is generated at most where a request names no maximum; null means no maximum."""
CLOSED_ANSWERS_MAX = 4096

_INPUTS = ("text", "input_ids", "input_embeds")
_MEDIA = ("image_data", "video_data", "audio_data")
_MAXIMA = ("max_new_tokens",)
_CHOICE_COUNTS = ("n", "beam_width")
_NOT_PROMPT = frozenset(
    {
        *_INPUTS,
        *_MEDIA,
        *("rid", "session_id", "sampling_params", "stream", "lora_path", "lora_id", "modalities", "mm_hashes", "mm_content_hashes"),
        *("custom_logit_processor", "custom_labels", "routing_key", "conversation_id", "extra_key", "priority", "video_config"),
        *("return_logprob", "logprob_start_len", "top_logprobs_num", "token_ids_logprob", "return_hidden_states", "return_sampling_mask"),
        *("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key", "decode_tp_size", "external_trace_header"),
    }
)
"""Members that never become prompt text, and those that are counted in another way."""
_REFUSED = {
    "session_params": "it adds input that cannot be seen here",
    "background": "its answer comes after the request has ended",
    "positional_embed_overrides": "it adds input that cannot be seen here",
}


class SGLang(Native):
    """The dialect."""

    name = NAME
    operations = (
        Operation("generate", NAME, "POST", "/generate"),
        Operation("health", NAME, "GET", "/health", output="none", free=True),
    )

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        if request.operation.free:
            return free_call(request)
        document = read_object(request.body)
        for name, why in _REFUSED.items():
            if document.get(name):
                raise not_priced(f"{name!r} cannot be used: {why}.")
        sampling = _sampling(document)
        count = InputCount(media)
        prompts = _add_input(count, document, media)
        completions = max(whole(params, name, CHOICES_MAX) or 1 for params in sampling for name in _CHOICE_COUNTS)
        maxima = [whole_from_zero(params, "max_new_tokens") for params in sampling]
        return Call(
            operation=request.operation.name,
            model="",
            stream=flag(document, "stream"),
            choices=prompts * completions,
            output_tokens_max=None if None in maxima else max(most for most in maxima if most is not None),
            input_tokens_bound=count.bound * completions,  # each completion reports the prompt, the later ones as cached
            input_tokens_counted=count.counted * completions,
        )

    def lowered(self, members: Mapping[str, msgspec.Raw], most: int) -> Mapping[str, bytes]:
        """The sampling parameters, of each prompt where they are a list, with a maximum that is low enough."""
        params = bytes(members.get("sampling_params", b"null"))
        if params.startswith(b"["):
            each = msgspec.json.decode(params, type=list[msgspec.Raw])
            return {"sampling_params": b"[" + b",".join(_lowered(bytes(one), most) for one in each) + b"]"}
        return {"sampling_params": _lowered(b"{}" if params == b"null" else params, most)}

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return GenerationReader(call, self.error_members) if media_type == EVENT_STREAM else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return read_whole(call, body, usage_of=_usage_of, measured=_measure)

    def error_members(self, refusal: Expected, *, status: int) -> dict[str, Any]:
        """The members of an error body, `error` and `compute_ledger`."""
        kind = "internal_server_error" if status >= 500 else "invalid_request_error"
        return {"error": {"message": refusal.message, "type": kind, "code": status}, "compute_ledger": ledger_member(refusal)}


def _sampling(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The sampling parameters: one set for all prompts, or one for each. Raises Refusal: invalid_request."""
    if isinstance(document.get("sampling_params"), list):
        return objects(document, "sampling_params") or ({},)
    return (settings(document, "sampling_params"),)


def _lowered(params: bytes, most: int) -> bytes:
    members = members_of(params)
    if bytes(members.get("max_new_tokens", b"")) == b"null":
        return edit_members(params, {"max_new_tokens": b"%d" % most})
    return edit_members(params, lower_maxima(members, _MAXIMA, most, default=DEFAULT_TOKENS))


def _add_input(count: InputCount, document: Mapping[str, Any], media: MediaRule) -> int:
    """Count all input of a request; how many prompts it holds. Raises Refusal: invalid_request."""
    given = [name for name in _INPUTS if document.get(name) is not None]
    if len(given) != 1:
        raise wrong("text", "the only prompt, or 'input_ids' in its place")
    prompts = _add_rows(count, document["input_embeds"]) if given == ["input_embeds"] else add_prompts(count, document[given[0]], given[0])
    videos = _media_in(document.get("video_data"))
    count.add_tokens(media.image_tokens * _media_in(document.get("image_data")))
    count.add_tokens(media.file_tokens * videos)
    count.add_tokens(media.audio_tokens * (_media_in(document.get("audio_data")) + (videos if document.get("use_audio_in_video") else 0)))
    add_others(count, document, but=_NOT_PROMPT)
    return prompts


def _add_rows(count: InputCount, value: object) -> int:
    """Count input that comes as vectors, a token each: a list of them, or a list of such lists."""
    prompts = value if isinstance(value, list) and value and _is_rows(value[0]) else [value]
    for rows in prompts:
        if not _is_rows(rows):
            raise wrong("input_embeds", "a list of vectors, or a list of such lists")
        count.open_prompt()
        count.add_tokens(len(rows))
    return len(prompts)


def _is_rows(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) and row and not isinstance(row[0], list) for row in value)


def _media_in(value: object) -> int:
    """How many files a member holds: one, a list with one for each prompt, or a list of such lists."""
    files = 0
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, list):
            pending += current
        elif current is not None:
            files += 1
    return files


def _measure(answer: Json, by: Measure = BYTES) -> int:
    text = answer.get("text")
    return by.text(text) if isinstance(text, str) else 0


def _usage_of(answer: Json) -> Usage | None:
    meta = answer.get("meta_info")
    if meta is None:
        return None
    if not isinstance(meta, dict):
        raise ValueError("meta_info")
    inputs, outputs = count_of(meta, "prompt_tokens"), count_of(meta, "completion_tokens")
    if inputs is None and outputs is None:
        return None
    cached, reasoning, audio = (count_of(meta, name) or 0 for name in ("cached_tokens", "reasoning_tokens", "audio_tokens"))
    if inputs is None or outputs is None or cached > inputs or reasoning > outputs:
        raise ValueError("meta_info")
    audio = min(audio, inputs - cached)  # what was cached is not told apart
    return Usage(input=inputs - cached - audio, cached_input=cached, audio_input=audio, output=outputs - reasoning, reasoning=reasoning)


class GenerationReader(NativeReader):
    """Reads the events of one stream, which ends with an end marker."""

    __slots__ = ("_finished", "_incremental", "_new", "_texts")

    end = DONE

    def __init__(self, call: Call, error_members: Any) -> None:
        super().__init__(call, error_members)
        self._texts: dict[int, str] = {}
        """By index, the text of an answer's last event: what the next one begins with, where the server sends all text so far."""
        self._incremental = False
        """Whether the server is known to send only what is new."""
        self._new: list[tuple[Piece, int, str]] = []
        """The pieces of the chunk at hand, each with its answer and the text before."""
        self._finished: dict[int, Piece] = {}
        """By index, the piece that finished each answer; where that is not forwarded, the answer is still open to the client."""

    def feed(self, chunk: bytes) -> Sequence[Piece]:
        """The pieces that this chunk completes."""
        self._new.clear()
        return super().feed(chunk)

    def _read_event(self, frame: Frame, event: Json) -> Piece:
        index = self._index_of(event)
        text = event.get("text")
        text = text if isinstance(text, str) else ""
        before = "" if index is None else self._texts.get(index, "")
        self._incremental |= not (text.startswith(before) or before.startswith(text))  # a stop word is cut off again
        tokens, usage = self._count(event, size_bytes(text if self._incremental else text[len(before) :]), _usage_of)
        piece = Piece(frame.raw, tokens, usage)
        if index is not None:
            self._new.append((piece, index, before))
            self._texts[index] = text
            meta = event.get("meta_info")
            if isinstance(meta, dict) and meta.get("finish_reason"):
                self._finished[index] = piece
        return piece

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the maximum would make, of each answer that is open, with the text that was forwarded, and the end marker.

        Usage is said where there is one answer alone.
        """
        for piece, index, before in reversed(self._new):
            if piece in unsent:
                self._texts[index] = before
        meta: dict[str, Any] = {"id": "cut", "finish_reason": {"type": "length", "length": usage.output_tokens}}
        if self._call.choices == 1:
            meta |= {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens, "cached_tokens": usage.cached_input}
        open_answers = [i for i in range(min(self._call.choices, CLOSED_ANSWERS_MAX)) if self._finished.get(i) in (None, *unsent)]
        texts = {} if self._incremental else self._texts
        events = [event_of({"text": texts.get(index, ""), "meta_info": meta, "index": index}) for index in open_answers]
        return self._separator() + b"".join(events) + self.end
