"""Input that the upstream keeps and tools that run there: refused, or bounded by the operator's word and the request's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.dialects import Request
from proxy.domain import Answer, Call, Usage
from proxy.errors import Refusal
from tests.dialects.test_openai_request import MEDIA, MINIMAL, OPENAI, parse, refusal, request_of
from tests.dialects.test_openai_stream import event, read

STORING = replace(MEDIA, stored_tokens=5_000, tool_use_tokens=700)
REFERENCE = {"type": "item_reference", "id": "msg_1"}
MESSAGE = {"role": "user", "content": "hi"}
SEARCH = {"type": "web_search_2025_08_26"}
PLAIN_BOUND = parse("responses").input_tokens_bound
REFERRING: list[dict[str, Any]] = [
    {"previous_response_id": "resp_1"},
    {"conversation": {"id": "conv_1"}},
    {"prompt": {"id": "pmpt_1", "variables": {"city": "Rome"}}},
    {"input": [MESSAGE, REFERENCE]},
    {"input": [MESSAGE, {"id": "msg_1"}]},
    {"input": [MESSAGE, {"type": "web_search_call", "id": "ws_1", "status": "completed"}]},
]


def request_with(**members: Any) -> Request:
    return request_of("responses", json.dumps(MINIMAL["responses"] | members).encode())


def parse_storing(**members: Any) -> Call:
    return OPENAI.parse_request(request_with(**members), STORING)


@pytest.mark.parametrize("members", REFERRING)
def test_references_to_stored_input_are_refused_unless_the_operator_bounds_it(members: dict[str, Any]) -> None:
    """The hint names the key; with it they count so many tokens, beside what the reference itself says."""
    assert "stored_tokens" in (refusal("responses", **members).hint or "")
    call = parse_storing(**members)
    assert call.input_tokens_bound >= PLAIN_BOUND - 2 + 5_000
    assert call.input_tokens_bound < PLAIN_BOUND + 2 * 5_000
    assert 5_000 < call.input_tokens_counted <= call.input_tokens_bound
    assert (call.units, call.needs) == (Usage(), (("input", "output"),))


def test_several_references_count_once() -> None:
    """The operator's number is for all that is stored."""
    one = parse_storing(previous_response_id="resp_1", input=[MESSAGE, REFERENCE]).input_tokens_bound
    assert one < parse_storing(input=[MESSAGE]).input_tokens_bound + 2 * 5_000


@pytest.mark.parametrize("members", [{"background": True}, {"context_management": [{}]}, {"input": [{"type": "compaction"}]}])
def test_what_cannot_be_bounded_stays_refused(members: dict[str, Any]) -> None:
    """Whatever the operator says of stored input."""
    with pytest.raises(Refusal):
        parse_storing(**members)


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "file_search", "code_interpreter"])
def test_the_upstreams_own_tools_are_bounded_by_their_uses(kind: str) -> None:
    """After each, all is read again, with what the uses before have added; the row must price uses."""
    call = parse_storing(tools=[{"type": kind}], max_tool_calls=3)
    without = parse("responses", tools=[{"type": "function", "name": kind}])
    assert (call.units, call.needs) == (Usage(tool_use=3), (("input", "output", "tool_use"),))
    once = PLAIN_BOUND + len(json.dumps([{"type": kind}], separators=(",", ":")))
    assert call.input_tokens_bound == 4 * once + (1 + 2 + 3) * 700
    assert call.input_tokens_counted < without.input_tokens_counted


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [SEARCH]},
        {"tools": [SEARCH], "max_tool_calls": 0},
        {"tools": [SEARCH], "max_tool_calls": 129},
        {"tools": [SEARCH, {"type": "mcp"}], "max_tool_calls": 1},
        {"tools": [{"type": "image_generation"}], "max_tool_calls": 1},
        {"tools": [{"type": "computer_use_preview"}], "max_tool_calls": 1},
    ],
)
def test_tools_without_a_bound_or_a_price_are_refused(members: dict[str, Any]) -> None:
    """Without `max_tool_calls` nobody knows how often; other tools have prices of other kinds."""
    with pytest.raises(Refusal):
        parse_storing(**members)


def test_tools_are_refused_where_nothing_bounds_their_input_and_in_chats() -> None:
    """The operator has not said how much a use may add; a chat has no such tools."""
    assert "tool_use_tokens" in (refusal("responses", tools=[SEARCH], max_tool_calls=1).hint or "")
    refusal("chat", tools=[SEARCH], max_tool_calls=1)


OUTPUT = [{"type": "web_search_call"}, {"type": "function_call", "arguments": "{}"}, {"type": "code_interpreter_call"}, {"type": "message"}]
USAGE = {"input_tokens": 9, "output_tokens": 5}


def test_uses_of_tools_are_counted_in_a_whole_answer() -> None:
    """Those of the upstream; the client's own cost nothing."""
    call = parse_storing(tools=[SEARCH], max_tool_calls=3)
    body = json.dumps({"output": OUTPUT, "usage": USAGE}).encode()
    assert OPENAI.read_answer(call, body, "application/json") == Answer(Usage(input=9, output=5, tool_use=2), 1)


@pytest.mark.parametrize("repeated", [True, False])
def test_uses_of_tools_are_counted_in_a_stream(repeated: bool) -> None:
    """As they were opened, also where the last event does not repeat them."""
    call = replace(parse_storing(tools=[SEARCH], max_tool_calls=3), stream=True)
    opened = [event({"type": "response.output_item.added", "item": item}) for item in OUTPUT]
    end = event({"type": "response.completed", "response": {"output": OUTPUT if repeated else [], "usage": USAGE}})
    pieces, _ = read(call, *opened, end)
    assert pieces[-1].usage == Usage(input=9, output=5, tool_use=2)


@pytest.mark.parametrize(
    ("kind", "members", "tokens"),
    [
        ("output_text.delta", {"delta": "word", "obfuscation": "x" * 80}, 1),
        ("refusal.delta", {"delta": "no"}, 1),
        ("reasoning_text.delta", {"delta": "hm"}, 1),
        ("reasoning_summary_text.delta", {"delta": "x" * 40}, 10),
        ("function_call_arguments.delta", {"delta": '{"a":'}, 1),
        ("custom_tool_call_input.delta", {"delta": "x"}, 1),
        ("mcp_call_arguments.delta", {"delta": "{}"}, 1),
        ("code_interpreter_call_code.delta", {"delta": "print()"}, 1),
        ("audio.delta", {"delta": "A" * 10_240}, 10),
        ("audio.transcript.delta", {"delta": "word"}, 1),
        ("image_generation_call.partial_image", {"partial_image_b64": "A" * 400}, 100),
        ("output_text.done", {"text": "word"}, 0),
        ("output_text.annotation.added", {"annotation": {"url": "u" * 80}}, 0),
        ("content_part.added", {"part": {"type": "output_text", "text": ""}}, 0),
        ("web_search_call.searching", {"item_id": "ws_1"}, 0),
        ("file_search_call.in_progress", {"item_id": "fs_1"}, 0),
        ("in_progress", {"response": {"instructions": "x" * 80}}, 0),
        ("queued", {"response": {}}, 0),
    ],
)
def test_every_kind_of_event_counts_what_the_model_wrote_in_it(kind: str, members: dict[str, Any], tokens: int) -> None:
    """Deltas of any kind; what repeats them, and what the upstream says of itself, counts nothing."""
    pieces, _ = read(parse("responses", stream=True), event({"type": f"response.{kind}", "sequence_number": 1, **members}))
    assert [piece.output_tokens for piece in pieces] == [tokens]
