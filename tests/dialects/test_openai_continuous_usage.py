"""Usage in every chunk, as vLLM can send it: asked for where the upstream can, read, and hidden from a client that did not ask."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.domain import Usage
from tests.dialects.test_openai_request import parse
from tests.dialects.test_openai_rewrite import encoded, rewrite
from tests.dialects.test_openai_stream import call_of, event, read

HIDING = replace(call_of(wants_usage=True), hides_continuous_usage=True)


def usage(output: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}


@pytest.mark.parametrize("operation", ["chat", "completions"])
@pytest.mark.parametrize(
    ("options", "added"),
    [
        (..., {"include_usage": True, "continuous_usage_stats": True}),
        ({"include_usage": True}, {"continuous_usage_stats": True}),
        ({"include_usage": True, "continuous_usage_stats": False}, {"continuous_usage_stats": True}),
        ({"continuous_usage_stats": True}, {"include_usage": True, "continuous_usage_stats": True}),
        ({"include_usage": True, "continuous_usage_stats": True}, None),
    ],
)
def test_usage_in_every_chunk_is_asked_for_of_an_upstream_that_can(operation: str, options: Any, added: dict[str, bool] | None) -> None:
    """Beside the usage at the end; nothing changes where the client asked for both."""
    members = {"stream": True} if options is ... else {"stream": True, "stream_options": options}
    body = rewrite(operation, encoded(operation, **members), continuous_usage=True)
    if added is None:
        assert body is None
    else:
        assert body is not None
        assert json.loads(body)["stream_options"] == (members.get("stream_options") or {}) | added


@pytest.mark.parametrize(
    ("operation", "members"),
    [("chat", {}), ("chat", {"stream": True, "n": 2, "stream_options": {"include_usage": True}}), ("responses", {"stream": True})],
)
def test_it_is_not_asked_for_where_it_would_say_nothing(operation: str, members: dict[str, Any]) -> None:
    """Of several answers each chunk tells of its own alone; other operations have no such option."""
    assert rewrite(operation, encoded(operation, **members), continuous_usage=True) is None


def test_whether_the_client_asked_is_read() -> None:
    """The option says nothing without the usage at the end, nor without a stream."""
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert parse("chat", stream=True, stream_options=both).wants_continuous_usage
    assert not parse("chat", stream=True, stream_options={"continuous_usage_stats": True}).wants_continuous_usage
    assert not parse("chat", stream_options=both).wants_continuous_usage


@pytest.mark.parametrize(
    ("chunk", "seen"),
    [
        (b'data: {"choices":[{"delta":{"content":"a"}}],"usage":%b}\n\n', b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'),
        (b'data: {"usage": %b, "choices":[{"delta":{"content":"a"}}]}\n\n', b'data: { "choices":[{"delta":{"content":"a"}}]}\n\n'),
        (b'data: {"a":1 , "usage" : %b ,"choices":[{"text":"a"}]}\r\n\r\n', b'data: {"a":1 ,"choices":[{"text":"a"}]}\r\n\r\n'),
        (b'data: {"choices":[{"text":"a"}],\ndata: "usage":%b}\n\n', b'data: {"choices":[{"text":"a"}]}\n\n'),
        (b': a comment\ndata: {"choices":[{"text":"a"}],"usage":%b}\n\n', b': a comment\ndata: {"choices":[{"text":"a"}]}\n\n'),
    ],
)
def test_usage_that_the_client_did_not_ask_for_is_taken_out_of_each_chunk(chunk: bytes, seen: bytes) -> None:
    """The client sees the bytes that would have come without it, and the meter knows what was used so far."""
    data = chunk % json.dumps(usage(1)).encode()
    for chunks in ([data], [data[place : place + 1] for place in range(len(data))]):
        pieces, _ = read(HIDING, *chunks)
        assert b"".join(piece.data for piece in pieces) == seen
        assert [piece.usage for piece in pieces if piece.usage] == [Usage(input=9, output=1)]
        assert sum(piece.output_tokens for piece in pieces) == 1


def test_usage_in_every_chunk_stays_where_nobody_hides_it() -> None:
    """For a client that asked, and from an upstream that sends it to everyone."""
    data = event({"choices": [{"delta": {"content": "a"}}], "usage": usage(1)})
    for call in (call_of(), replace(HIDING, wants_continuous_usage=True)):
        assert read(call, data)[0][0].data == data


def test_the_usage_at_the_end_stays_for_a_client_that_asked_for_it() -> None:
    """Hiding takes out what stands beside an answer alone; a null was there before anyone asked."""
    end, null = event({"choices": [], "usage": usage(2)}), event({"choices": [{"delta": {}}], "usage": None})
    assert [piece.data for piece in read(HIDING, null, end)[0]] == [null, end]
    assert [piece.data for piece in read(replace(HIDING, wants_usage=False), null, end)[0]] == [null, b""]
