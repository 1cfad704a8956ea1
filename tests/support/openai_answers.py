"""What an OpenAI-compatible endpoint sends, byte for byte, with whatever usage a test wants to see charged.

Usage is a mapping, or raw JSON as bytes where a test needs what no encoder would write (`1e999`), or `NO_USAGE`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from tests.support.scripted_upstream import Exchange

MODEL: Final = "tiny"
NO_USAGE: Final = b""
DONE: Final = b"data: [DONE]\n\n"
MAXIMA: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")

Json = dict[str, Any]


def encode(document: object) -> bytes:
    return msgspec.json.encode(document)


def with_usage(document: Json, usage: object) -> bytes:
    """A JSON object with the member `usage` added at its end, raw or encoded, or left out."""
    if usage is NO_USAGE:
        return encode(document)
    raw = usage if isinstance(usage, bytes) else encode(usage)
    return encode(document)[:-1] + b',"usage":' + raw + b"}"


def event(document: object, name: str = "") -> bytes:
    """One server-sent event."""
    data = document if isinstance(document, bytes) else encode(document)
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


# --- usage --------------------------------------------------------------------------------------------------


def usage(input_tokens: int, output_tokens: int, *, cached: int = 0, reasoning: int = 0) -> Json:
    """Usage as chat and completions report it; `cached` and `reasoning` are parts of the totals."""
    document: Json = {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }
    if cached:
        document["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning:
        document["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return document


def responses_usage(input_tokens: int, output_tokens: int, *, cached: int = 0, reasoning: int = 0) -> Json:
    """Usage as the Responses API reports it."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def embeddings_usage(input_tokens: int) -> Json:
    return {"prompt_tokens": input_tokens, "total_tokens": input_tokens}


# --- whole answers ------------------------------------------------------------------------------------------


def chat(*texts: str, usage: object = NO_USAGE, finish_reason: str = "stop", model: str = MODEL) -> bytes:
    """A whole chat completion with one choice for each text."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
        for index, text in enumerate(texts)
    ]
    return with_usage({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": choices}, usage)


def completion(*texts: str, usage: object = NO_USAGE, finish_reason: str = "stop", model: str = MODEL) -> bytes:
    choices = [{"index": index, "text": text, "finish_reason": finish_reason} for index, text in enumerate(texts)]
    return with_usage({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model, "choices": choices}, usage)


def response_document(text: str, *, status: str = "completed", model: str = MODEL) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": content}] if text else []
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def response(text: str, *, usage: object = NO_USAGE, model: str = MODEL) -> bytes:
    return with_usage(response_document(text, model=model), usage)


def embeddings(count: int, *, usage: object = NO_USAGE, model: str = MODEL) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": [0.5, -0.25]} for index in range(count)]
    return with_usage({"object": "list", "model": model, "data": data}, usage)


def error(message: str, *, kind: str = "server_error", code: str | None = None) -> bytes:
    return encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


# --- streamed answers, event by event -----------------------------------------------------------------------


def chat_chunk(delta: Json, *, finish_reason: str | None = None, index: int = 0, model: str = MODEL) -> Json:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}


def chat_usage_event(usage: object, model: str = MODEL) -> bytes:
    """The extra chunk of `stream_options.include_usage`."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": []}
    return event(with_usage(chunk, usage))


def chat_events(texts: Sequence[str], *, usage: object = NO_USAGE, finish_reason: str = "stop") -> list[bytes]:
    """A role chunk, a chunk for each text, the finish, the usage chunk if any, and the end marker."""
    events = [event(chat_chunk({"role": "assistant", "content": ""}))]
    events += [event(chat_chunk({"content": text})) for text in texts]
    events.append(event(chat_chunk({}, finish_reason=finish_reason)))
    if usage is not NO_USAGE:
        events.append(chat_usage_event(usage))
    return [*events, DONE]


def completion_events(texts: Sequence[str], *, usage: object = NO_USAGE, finish_reason: str = "stop") -> list[bytes]:
    base: Json = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": MODEL}
    events = [event({**base, "choices": [{"index": 0, "text": text, "finish_reason": None}]}) for text in texts]
    events.append(event({**base, "choices": [{"index": 0, "text": "", "finish_reason": finish_reason}]}))
    if usage is not NO_USAGE:
        events.append(event(with_usage({**base, "choices": []}, usage)))
    return [*events, DONE]


def response_events(texts: Sequence[str], *, usage: object = NO_USAGE, ending: str = "response.completed") -> list[bytes]:
    """The Responses API's events; usage stands inside the response of the last."""
    begun = response_document("", status="in_progress")
    item = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    documents: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        *({"type": "response.output_text.delta", **place, "delta": text, "logprobs": []} for text in texts),
        {"type": "response.output_text.done", **place, "text": "".join(texts), "logprobs": []},
    ]
    events = [event({**document, "sequence_number": n}, document["type"]) for n, document in enumerate(documents)]
    whole = with_usage(response_document("".join(texts), status=ending.removeprefix("response.")), usage)
    last = {"type": ending, "sequence_number": len(documents)}
    return [*events, event(encode(last)[:-1] + b',"response":' + whole + b"}", ending)]


# --- an upstream that answers by itself ---------------------------------------------------------------------


def generating(
    *, input_tokens: int = 10, word: str = "tok ", output_tokens: int = 8, with_usage: bool = True
) -> Callable[[Exchange], Awaitable[None]]:
    """A script: as many tokens as the request's maximum says, else `output_tokens`, one event each, all billed."""

    async def play(exchange: Exchange) -> None:
        document = exchange.document
        path = exchange.raw_path.partition("?")[0]
        count = next((document[name] for name in MAXIMA if name in document), output_tokens)
        choices = document.get("n", 1)
        bill: object = usage(input_tokens, count * choices) if with_usage else NO_USAGE
        if path.endswith("/responses"):
            bill = responses_usage(input_tokens, count) if with_usage else NO_USAGE
            whole, events = response(word * count, usage=bill), response_events([word] * count, usage=bill)
        elif path.endswith("/embeddings"):
            items = document["input"]
            await exchange.answer(embeddings(len(items) if isinstance(items, list) else 1, usage=embeddings_usage(input_tokens)))
            return
        elif path.endswith("/chat/completions"):
            whole = chat(*[word * count] * choices, usage=bill, finish_reason="length")
            events = chat_events([word] * count, usage=bill)
        else:
            whole = completion(*[word * count] * choices, usage=bill, finish_reason="length")
            events = completion_events([word] * count, usage=bill)
        if not document.get("stream"):
            await exchange.answer(whole)
            return
        for data in events:
            await exchange.send(data)
        await exchange.finish()

    return play
