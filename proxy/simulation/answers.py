"""How the OpenAI API phrases what the simulated model says: whole answers, and streams event by event. Pure."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from proxy.simulation.model import Ask, embedding, words

Json = dict[str, Any]

CREATED_S: Final = 1_700_000_000
DONE: Final = b"data: [DONE]\n\n"


def error(message: str, *, code: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}})


def models(names: Iterable[str]) -> bytes:
    data = [{"id": name, "object": "model", "created": CREATED_S, "owned_by": "simulation"} for name in names]
    return msgspec.json.encode({"object": "list", "data": data})


def whole(ask: Ask, count: int) -> bytes:
    """The whole answer of `count` words for each choice."""
    if ask.operation == "embeddings":
        return msgspec.json.encode(_embeddings(ask))
    texts = ["".join(words(ask.seed, choice, count)) for choice in range(ask.choices)]
    if ask.operation == "responses":
        return msgspec.json.encode(_response(ask, texts[0], "completed", _usage(ask, count)))
    reason = "length" if count == ask.tokens else "stop"
    choices: list[Json] = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        if ask.operation == "chat"
        else {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
        for index, text in enumerate(texts)
    ]
    kind = "chat.completion" if ask.operation == "chat" else "text_completion"
    return msgspec.json.encode(_envelope(ask, kind) | {"choices": choices, "usage": _usage(ask, count)})


def opening(ask: Ask) -> bytes:
    """What a stream begins with, before the first word."""
    if ask.operation == "responses":
        created = {"type": "response.created", "sequence_number": 0, "response": _response(ask, "", "in_progress", None)}
        item = {"id": "msg_sim", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        added = {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": item}
        return _named(created) + _named(added)
    if ask.operation == "chat":
        return b"".join(_chunk(ask, index, {"role": "assistant", "content": ""}) for index in range(ask.choices))
    return b""


def steps(ask: Ask, count: int) -> Iterator[bytes]:
    """The events that carry one word of each choice."""
    for position, step in enumerate(zip(*(words(ask.seed, choice, count) for choice in range(ask.choices)), strict=True)):
        if ask.operation == "responses":
            place = {"item_id": "msg_sim", "output_index": 0, "content_index": 0, "sequence_number": position + 2}
            yield _named({"type": "response.output_text.delta", **place, "delta": step[0], "logprobs": []})
        elif ask.operation == "chat":
            yield b"".join(_chunk(ask, index, {"content": word}) for index, word in enumerate(step))
        else:
            yield b"".join(_text_chunk(ask, index, word, None) for index, word in enumerate(step))


def closing(ask: Ask, count: int) -> bytes:
    """What a stream ends with: why it ended, the bill where it was asked for, and the end marker."""
    if ask.operation == "responses":
        text = "".join(words(ask.seed, 0, count))
        response = _response(ask, text, "completed", _usage(ask, count))
        return _named({"type": "response.completed", "sequence_number": count + 2, "response": response})
    reason = "length" if count == ask.tokens else "stop"
    if ask.operation == "chat":
        ends = b"".join(_chunk(ask, index, {}, reason) for index in range(ask.choices))
    else:
        ends = b"".join(_text_chunk(ask, index, "", reason) for index in range(ask.choices))
    bill = b""
    if ask.include_usage:
        kind = "chat.completion.chunk" if ask.operation == "chat" else "text_completion"
        bill = _event(_envelope(ask, kind) | {"choices": [], "usage": _usage(ask, count)})
    return ends + bill + DONE


def _event(document: Json) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


def _named(document: Json) -> bytes:
    return f"event: {document['type']}\n".encode() + _event(document)


def _envelope(ask: Ask, kind: str) -> Json:
    return {"id": f"sim-{ask.seed:08x}", "object": kind, "created": CREATED_S, "model": ask.model}


def _chunk(ask: Ask, index: int, delta: Json, finish_reason: str | None = None) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return _event(_envelope(ask, "chat.completion.chunk") | {"choices": [choice]})


def _text_chunk(ask: Ask, index: int, text: str, finish_reason: str | None) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None}
    return _event(_envelope(ask, "text_completion") | {"choices": [choice]})


def _usage(ask: Ask, count: int) -> Json:
    output = count * ask.choices
    total = ask.input_tokens + output
    if ask.operation == "responses":
        details: Json = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {"input_tokens": ask.input_tokens, "output_tokens": output, "total_tokens": total, **details}
    return {"prompt_tokens": ask.input_tokens, "completion_tokens": output, "total_tokens": total}


def _response(ask: Ask, text: str, status: str, usage: Json | None) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"type": "message", "id": "msg_sim", "status": status, "role": "assistant", "content": content}
    return {
        "id": f"resp-{ask.seed:08x}",
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "model": ask.model,
        "output": [message] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }


def _embeddings(ask: Ask) -> Json:
    vectors = [embedding(text) for text in ask.inputs]
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if ask.base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": ask.input_tokens, "total_tokens": ask.input_tokens}
    return {"object": "list", "model": ask.model, "data": data, "usage": usage}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
