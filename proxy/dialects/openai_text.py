"""OpenAI's operations on text, put together: chats, completions, responses, embeddings."""

from __future__ import annotations

from proxy.dialects import openai_usage
from proxy.dialects.openai_request import parse_request, rewrite
from proxy.dialects.openai_responses import EventReader
from proxy.dialects.openai_stream import ChunkReader
from proxy.dialects.protocol import Reader
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Answer, Call

__all__ = ["parse_request", "read_answer", "read_stream", "rewrite"]

CHUNK_MAX_BYTES = 2**25
"""Some models draw in chats, and an image comes in one chunk."""


def read_stream(call: Call, media_type: str) -> Reader | None:
    """A reader for one streamed answer; None for any other."""
    if media_type != EVENT_STREAM:
        return None
    return EventReader(call) if call.operation == "responses" else ChunkReader(call, frame_max_bytes=CHUNK_MAX_BYTES)


def read_answer(call: Call, body: bytes, media_type: str) -> Answer:
    """What a whole answer used and holds."""
    return openai_usage.read_answer(call, body, has_output=call.operation != "embeddings")
