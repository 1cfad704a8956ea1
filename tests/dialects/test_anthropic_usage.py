"""Whole answers of the Anthropic dialect: which usage is believed, what it comes to, and what is counted where there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS
from proxy.dialects.anthropic_usage import message_usage, read_usage
from proxy.domain import Answer, Call, Usage

ANTHROPIC = DIALECTS["anthropic"]
CALL = Call("messages", "m", False, 1, 100, 50, 10)


def read(body: bytes) -> Answer:
    return ANTHROPIC.read_answer(CALL, body, "application/json")


def answer(*content: Any, **members: Any) -> Answer:
    return read(json.dumps({"type": "message", "role": "assistant", "id": "msg_1", "content": list(content), **members}).encode())


@pytest.mark.parametrize(
    ("members", "usage"),
    [
        ({}, Usage(input=12, output=5)),
        ({"cache_read_input_tokens": 30, "cache_creation_input_tokens": None}, Usage(input=12, cached_input=30, output=5)),
        ({"cache_creation_input_tokens": 9}, Usage(input=12, cache_write=9, output=5)),
        (
            {
                "cache_creation_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7},
            },
            Usage(input=12, cache_write=2, cache_write_1h=7, output=5),
        ),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 7}}, Usage(input=12, cache_write_1h=7, output=5)),
        ({"output_tokens_details": {"thinking_tokens": 4}}, Usage(input=12, output=1, reasoning=4)),
        ({"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}, Usage(input=12, output=5, tool_use=3)),
        ({"service_tier": "standard", "speed": "standard", "iterations": [{"type": "message"}]}, Usage(input=12, output=5)),
    ],
)
def test_usage_is_split_by_kind(members: dict[str, Any], usage: Usage) -> None:
    """Input leaves out the cache, output holds the thinking, tools are counted by use; the rest is left alone."""
    assert read_usage({"input_tokens": 12, "output_tokens": 5, **members}) == usage


@pytest.mark.parametrize("odd", [-1, 1.5, 5.0, "5", True, [5], 100_000_001, 2**65, float("inf")])
def test_one_odd_count_spoils_all(odd: object) -> None:
    """Wherever it stands."""
    plain = {"input_tokens": 12, "output_tokens": 5}
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        assert read_usage({**plain, name: odd}) is None
    for inner, name in (
        ("cache_creation", "ephemeral_1h_input_tokens"),
        ("output_tokens_details", "thinking_tokens"),
        ("server_tool_use", "web_search_requests"),
    ):
        assert read_usage({**plain, inner: {name: odd}}) is None
        assert read_usage({**plain, inner: odd}) is None


@pytest.mark.parametrize(
    "usage",
    [
        *([], 17, "17", {}, {"input_tokens": 12}, {"output_tokens": 5}),
        {"input_tokens": 12, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 6}},
        {"input_tokens": 12, "output_tokens": 5, "cache_creation_input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 2}},
    ],
)
def test_usage_that_does_not_add_up_is_rejected(usage: object) -> None:
    """And the answer says so."""
    assert read_usage(usage) is None
    assert answer({"type": "text", "text": "word"}, usage=usage) == Answer(None, 1, usage_rejected=True)


def test_our_own_report_reads_back() -> None:
    """What a cut stream's end says is what was charged."""
    usage = Usage(input=12, cached_input=3, cache_write=2, output=1, reasoning=4)
    assert read_usage(message_usage(usage)) == usage


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ([], 1),
        ([{"type": "text", "text": ""}], 1),
        ([{"type": "text", "text": "grün und "}], 3),
        ([{"type": "text", "text": "12345"}, {"type": "text", "text": "1", "citations": [{"cited_text": "much"}]}], 3),
        ([{"type": "thinking", "thinking": "12345678", "signature": "EqQBCgIYAhIkMDEy"}], 2),
        ([{"type": "redacted_thinking", "data": "EmwKAhgBEgyWEHsD"}, {"type": "text", "text": "one"}], 1),
        ([{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"id": "grün"}}], 5),
        (
            [
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
                {"type": "web_search_tool_result", "content": [{"type": "web_search_result", "title": "long" * 99}]},
            ],
            6,
        ),
        ([{"type": "tool_use", "name": "f", "input": {"a": "\ud800"}}], 3),
    ],
)
def test_without_usage_what_the_model_wrote_is_counted(content: list[Any], tokens: int) -> None:
    """Text, thinking and tool calls; not what tools of the server found, nor what is encrypted."""
    assert answer(*content) == Answer(None, tokens)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"type":"error","error":{"type":"api_error","message":"no"}}', 0),
        (b"<html>" + b"x" * 34, 10),
        (b'{"completion":"' + b"x" * 23 + b'"}', 10),
    ],
)
def test_an_answer_of_another_kind_counts_by_its_bytes(body: bytes, tokens: int) -> None:
    """Unless it is an error."""
    assert read(body) == Answer(None, tokens)


def test_usage_and_count_come_together() -> None:
    """So that whoever meters can tell one from the other."""
    told = answer({"type": "text", "text": "one two three "}, usage={"input_tokens": 12, "output_tokens": 5})
    assert told == Answer(Usage(input=12, output=5), 4)
