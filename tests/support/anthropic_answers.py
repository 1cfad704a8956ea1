"""What Anthropic's Messages API sends, byte for byte, with whatever usage a test wants to see charged.

Usage is a mapping, or raw JSON as bytes where a test needs what no encoder would write (`1e999`), or `NO_USAGE`; for streams also a pair:
what is reported at the beginning and at the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tests.support.openai_answers import MODEL, NO_USAGE, Json, encode, event, with_usage
from tests.support.scripted_upstream import Exchange

AT_THE_END: Final = ("output_tokens", "output_tokens_details", "server_tool_use")
"""Of a usage, what is only known at the end of a stream; the first of them is 1 at its beginning, or 0 where it stays so."""


def usage(input_tokens: int, output_tokens: int) -> Json:
    return {"input_tokens": input_tokens, "output_tokens": output_tokens}


def message(text: str, *, usage: object = NO_USAGE, stop_reason: str | None = "end_turn", model: str = MODEL) -> bytes:
    """A whole answer."""
    content = [{"type": "text", "text": text}] if text else []
    document = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content}
    return with_usage({**document, "stop_reason": stop_reason, "stop_sequence": None}, usage)


def message_events(words: Sequence[str], *, usage: object = NO_USAGE, stop_reason: str = "end_turn") -> list[bytes]:
    """A stream, with the words in one event each, one right after the other."""
    at_start, at_end = usage if isinstance(usage, tuple) else (usage, usage)
    if isinstance(usage, dict):
        at_start = {name: value for name, value in usage.items() if name not in AT_THE_END}
        at_start["output_tokens"] = min(1, usage["output_tokens"])
        at_end = {name: value for name, value in usage.items() if name in AT_THE_END}
    begun = message("", usage=at_start, stop_reason=None)
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [
        event(b'{"type":"message_start","message":' + begun + b"}", "message_start"),
        event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, "content_block_start"),
        event({"type": "ping"}, "ping"),
        *(
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}, "content_block_delta")
            for word in words
        ),
        event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
        event(with_usage({"type": "message_delta", "delta": delta}, at_end), "message_delta"),
        event({"type": "message_stop"}, "message_stop"),
    ]


def error(text: str, kind: str = "overloaded_error") -> Json:
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}


def generating(*, input_tokens: int = 10, word: str = "tok ") -> Callable[[Exchange], Awaitable[None]]:
    """A script for an upstream that answers by itself: as many tokens as the request's maximum, one event each, all billed."""

    async def play(exchange: Exchange) -> None:
        document = exchange.document
        if exchange.raw_path.partition("?")[0].endswith("/count_tokens"):
            await exchange.answer(encode({"input_tokens": input_tokens}))
            return
        count = document["max_tokens"]
        bill = usage(input_tokens, count)
        if not document.get("stream"):
            await exchange.answer(message(word * count, usage=bill, stop_reason="max_tokens"))
            return
        for data in message_events([word] * count, usage=bill, stop_reason="max_tokens"):
            await exchange.send(data)
        await exchange.finish()

    return play
