"""What the Gemini API sends, byte for byte, with whatever usage a test wants to see charged.

Usage is a mapping, or raw JSON as bytes where a test needs what no encoder would write (`1e999`), or `NO_USAGE`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tests.support.openai_answers import NO_USAGE, Json, encode
from tests.support.scripted_upstream import JSON, Exchange


def usage(input_tokens: int, output_tokens: int, **counts: int) -> Json:
    """`counts` are further members, thoughts and what was cached among them."""
    total = input_tokens + output_tokens + counts.get("thoughtsTokenCount", 0)
    return {"promptTokenCount": input_tokens, "candidatesTokenCount": output_tokens, **counts, "totalTokenCount": total}


def with_usage(document: Json, usage: object) -> bytes:
    if usage is NO_USAGE:
        return encode(document)
    return encode(document)[:-1] + b',"usageMetadata":' + (usage if isinstance(usage, bytes) else encode(usage)) + b"}"


def answer(text: str, *, finish: str | None = "STOP", usage: object = NO_USAGE) -> bytes:
    """A whole answer, or a chunk of one."""
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}}
    if finish is not None:
        candidate["finishReason"] = finish
    return with_usage({"candidates": [candidate], "responseId": "r", "modelVersion": "v"}, usage)


def event(document: bytes) -> bytes:
    return b"data: " + document + b"\r\n\r\n"


def events(words: Sequence[str], *, usage: object = NO_USAGE) -> list[bytes]:
    """A stream of events, as for `alt=sse`, each word in one; the usage comes at the end."""
    return [*(event(answer(word, finish=None)) for word in words), event(answer("", usage=usage))]


def elements(words: Sequence[str], *, usage: object = NO_USAGE) -> list[bytes]:
    """A stream that is one array, each word in one element; the usage comes in each of them."""
    first, *others = [*(answer(word, finish=None, usage=usage) for word in words), answer("", usage=usage)]
    return [b"[" + first, *(b"\n,\r\n" + document for document in others), b"\n]\n"]


def embedding(*, usage: object = NO_USAGE) -> bytes:
    return with_usage({"embedding": {"values": [0.5, -0.25]}}, usage)


def embeddings(count: int, *, usage: object = NO_USAGE) -> bytes:
    return with_usage({"embeddings": [{"values": [0.5, -0.25]}] * count}, usage)


def error(text: str, code: int = 503, status: str = "UNAVAILABLE") -> bytes:
    return encode({"error": {"code": code, "message": text, "status": status}})


def generating(*, input_tokens: int = 10, word: str = "tok ", output_tokens: int = 8) -> Callable[[Exchange], Awaitable[None]]:
    """A script: as many tokens as the request's maximum says, else `output_tokens`, one chunk each, all billed."""

    async def play(exchange: Exchange) -> None:
        document = exchange.document
        path, _, query = exchange.raw_path.partition("?")
        count = document.get("generationConfig", {}).get("maxOutputTokens", output_tokens)
        bill = usage(input_tokens, count)
        method = path.rpartition(":")[2]
        if method == "streamGenerateContent":
            in_events = "alt=sse" in query
            await exchange.start(headers={"Content-Type": "text/event-stream"} if in_events else JSON)
            for data in (events if in_events else elements)([word] * count, usage=bill):
                await exchange.send(data)
            await exchange.finish()
        elif method == "generateContent":
            await exchange.answer(answer(word * count, finish="MAX_TOKENS", usage=bill))
        elif method == "countTokens":
            await exchange.answer(encode({"totalTokens": input_tokens}))
        elif method == "embedContent":
            await exchange.answer(embedding(usage={"promptTokenCount": input_tokens}))
        else:
            await exchange.answer(embeddings(len(document["requests"]), usage={"promptTokenCount": input_tokens}))

    return play
