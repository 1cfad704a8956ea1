"""Requests of the Anthropic dialect: what they ask for, how much they may cost, which are refused, and what is forwarded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Changes, MediaRule, Request
from proxy.dialects.anthropic_input import EXPLAINED_TOKENS_BOUND, OWN_TOOL_TOKENS_BOUND, OWN_TOOLSET_TOKENS_BOUND
from proxy.domain import NO_USAGE, Call, Usage
from proxy.errors import Refusal

ANTHROPIC = DIALECTS["anthropic"]
MESSAGES, COUNT_TOKENS = ANTHROPIC.operations[:2]
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
SEARCHING = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000, tool_use_tokens=500)
HI: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
HI_BOUND = 2 + 8 + 16
HI_COUNTED = 1 + 4 + 3


def encoded(**members: Any) -> bytes:
    return json.dumps({name: value for name, value in (HI | members).items() if value is not ...}, ensure_ascii=False).encode()


def parse(media: MediaRule = MEDIA, **members: Any) -> Call:
    return ANTHROPIC.parse_request(Request(MESSAGES, encoded(**members)), media)


def refusal(media: MediaRule = MEDIA, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse(media, **members)
    assert refused.value.code == "invalid_request"
    return refused.value


def parse_or_refuse(**members: Any) -> Call | None:
    try:
        return parse(SEARCHING, **members)
    except Refusal as refused:
        if refused.code != "invalid_request":
            raise
        return None


def said(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def beyond(call: Call) -> tuple[int, int]:
    """Bound and count of what a request has beside one empty message."""
    return call.input_tokens_bound - 8 - 16, call.input_tokens_counted - 4 - 3


# --- what a request asks for ---------------------------------------------------------------------------------------------------------


def test_a_plain_request_is_understood() -> None:
    """Model, maximum and input are read; nothing else is needed."""
    assert parse() == Call("messages", "m", False, 1, 100, HI_BOUND, HI_COUNTED)


def test_a_stream_is_one_that_says_so() -> None:
    """Absent and null mean a whole answer."""
    assert [parse(stream=value).stream for value in (..., None, False, True)] == [False, False, False, True]


def test_thinking_stays_inside_the_maximum() -> None:
    """`budget_tokens` adds nothing to `max_tokens`."""
    assert parse(max_tokens=5_000, thinking={"type": "enabled", "budget_tokens": 4_000}).output_tokens_max == 5_000


def test_a_maximum_of_nothing_warms_the_cache_alone() -> None:
    """The API allows 0; it is a maximum, not the absence of one."""
    assert parse(max_tokens=0).output_tokens_max == 0
    assert parse(max_tokens=...).output_tokens_max is None


def test_counting_tokens_asks_for_nothing_that_costs() -> None:
    """It only names a model, whatever stands beside it."""
    body = encoded(max_tokens=..., thread={"type": "continue"}, tools=[{"type": "web_search_20260318", "name": "web_search"}])
    assert ANTHROPIC.parse_request(Request(COUNT_TOKENS, body), MEDIA) == Call("count_tokens", "m", False, 1, 0, 0, 0)
    assert COUNT_TOKENS.free


@pytest.mark.parametrize(
    "members",
    [
        *({"model": value} for value in (..., None, "", 7, "a\nb", "m" * 257)),
        *({"max_tokens": value} for value in (-1, True, False, 1.0, "9", 10**9)),
        *({"messages": value} for value in (..., [], "hi", ["hi"], [{"role": "user", "content": 5}], [{"content": {"type": "text"}}])),
        {"stream": "yes"},
        {"system": 5},
        {"tools": {"name": "f"}},
        {"tools": [{"type": 5}]},
        said("hi"),
        said({"text": "hi"}),
        said({"type": "document"}),
    ],
)
def test_a_malformed_request_is_refused(members: dict[str, Any]) -> None:
    """Nobody guesses what it meant."""
    refusal(**members)


# --- input ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "text", "text": "grün", "cache_control": {"type": "ephemeral", "ttl": "1h"}}, (5, 2)),
        ({"type": "thinking", "thinking": "abcd", "signature": "EqQB"}, (8, 2)),
        ({"type": "redacted_thinking", "data": "EmwKAhgB"}, (8, 2)),
        ({"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": 1}}, (4 + 7, 1 + 2)),
        ({"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}, (4, 1)),
        ({"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True}, (0, 0)),
        ({"type": "tool_result", "content": [{"type": "text", "text": "done"}, {"type": "image", "source": {}}]}, (1_004, 1_001)),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x" * 9_999}}, (1_000, 1_000)),
        ({"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}, (1_000, 1_000)),
        ({"type": "document", "source": {"type": "base64", "data": "JVBE"}}, (4_000, 4_000)),
        ({"type": "document", "source": {"type": "url", "url": "https://example.org/x.pdf"}, "title": "T"}, (4_001, 4_001)),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word"}, "context": "from"}, (8, 2)),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "word"}]}}, (4, 1)),
        ({"type": "search_result", "source": "url.", "title": "Name", "content": [{"type": "text", "text": "word"}]}, (12, 3)),
        ({"type": "web_search_tool_result", "content": [{"type": "web_search_result", "encrypted_content": "EqQB"}]}, (4, 1)),
        (
            {
                "type": "web_fetch_tool_result",
                "content": {"type": "web_fetch_result", "content": {"type": "document", "source": {"type": "text", "data": "page"}}},
            },
            (4, 1),
        ),
    ],
)
def test_each_kind_of_content_counts(block: dict[str, Any], expected: tuple[int, int]) -> None:
    """Text by its bytes, structures by their JSON, media by the operator's rule; ids and directions for the cache not at all."""
    assert beyond(parse(**said(block))) == expected


def test_the_system_prompt_is_a_message() -> None:
    """As a string or in blocks, and also inside the conversation."""
    assert beyond(parse(system="word")) == (2 + 12, 1 + 5)
    assert beyond(parse(system=[{"type": "text", "text": "word"}])) == (2 + 12, 1 + 5)
    assert beyond(parse(messages=[*HI["messages"], {"role": "system", "content": "word"}])) == (2 + 12, 1 + 5)


def test_tools_count_by_their_json_and_by_what_explains_them() -> None:
    """The API writes a prompt of its own for tools, and the schemas of those it defines itself; neither stands in the request."""
    tool = {"name": "f", "input_schema": {"type": "object"}}
    size = len(json.dumps(tool, separators=(",", ":")))
    assert beyond(parse(tools=[tool])) == (2 + size + EXPLAINED_TOKENS_BOUND, 1 + -(-size // 4))
    own = {"type": "bash_20250124", "name": "bash"}
    size = len(json.dumps(own, separators=(",", ":")))
    assert beyond(parse(tools=[own]))[0] == 2 + size + EXPLAINED_TOKENS_BOUND + OWN_TOOL_TOKENS_BOUND
    toolset = {"type": "computer_toolset_20260801"}
    size = len(json.dumps(toolset, separators=(",", ":")))
    assert beyond(parse(tools=[toolset]))[0] == 2 + size + EXPLAINED_TOKENS_BOUND + OWN_TOOLSET_TOKENS_BOUND


def test_a_form_of_the_output_counts_as_input() -> None:
    """Its schema is written into the prompt, with an explanation."""
    config = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    size = len(json.dumps(config, separators=(",", ":")))
    assert beyond(parse(output_config=config))[0] == 2 + size + EXPLAINED_TOKENS_BOUND
    assert beyond(parse(output_config={"effort": "low"}))[0] == 2 + len('{"effort":"low"}')


def test_settings_are_no_input_and_what_is_unknown_is() -> None:
    """A member that nobody here knows may be put into the prompt by whoever serves it."""
    settings: dict[str, Any] = {
        "metadata": {"user_id": "someone"},
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "adaptive", "display": "summarized"},
        "diagnostics": {"previous_message_id": "msg_1"},
        "cache_control": {"type": "ephemeral"},
        "service_tier": "standard_only",
        "speed": "standard",
        "inference_geo": "global",
    }
    assert parse(**settings) == parse()
    assert beyond(parse(preamble="word")) == (2 + 4, 1 + 1)


def test_a_file_that_the_upstream_keeps_needs_the_operators_rule() -> None:
    """Nothing here can say how long it is."""
    kept = [{"type": kind, "source": {"type": "file", "file_id": "file_1"}} for kind in ("image", "document")]
    for block in kept:
        assert "stored" in refusal(**said(block)).message
    assert beyond(parse(MediaRule(1, 2, 3, stored_tokens=50), **said(*kept))) == (100, 100)


# --- what cannot be priced -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Model", "MAX_TOKENS", "max_to\u212aens", "Messages", "Stream", "Speed"])
def test_names_in_another_case_are_refused(name: str) -> None:
    """Servers written in Go read a name in any case and obey the last."""
    assert "must be spelt" in refusal(**{name: "dear"}).message


@pytest.mark.parametrize(
    "members",
    [
        {"container": "container_1"},
        {"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}},
        {"mcp_servers": [{"type": "url", "url": "https://example.org", "name": "x"}]},
        {"thread": {"type": "continue", "previous_message_id": "msg_1"}},
        {"compaction": {}},
        {"fallbacks": [{"model": "other"}]},
        {"fallbacks": "default"},
        {"billing_policy": {"type": "billing_policy", "bill_to": "user_profile"}},
        {"speed": "fast"},
        {"service_tier": "priority"},
        {"service_tier": ["auto"]},
        {"inference_geo": "us"},
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}, {"type": "summarize_20990101"}]}},
        {"context_management": {"memory": True}},
        {"context_management": "auto"},
        {"tools": [{"type": "code_execution_20260521", "name": "code_execution"}]},
        {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "other", "max_uses": 1}]},
        {"tools": [{"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}]},
        {"tools": [{"type": "web_search_20260318", "name": "web_search", "max_uses": 3}]},
        said({"type": "container_upload", "file_id": "file_1"}),
        said({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"type": "code_execution_20260521"}}}),
    ],
)
def test_what_costs_out_of_sight_is_refused_with_advice(members: dict[str, Any]) -> None:
    """Input kept elsewhere, other models, dearer modes, tools that the server runs: nothing of it is in the price."""
    refused = refusal(**members)
    assert "cannot be used" in refused.message
    assert refused.hint


@pytest.mark.parametrize(
    "members",
    [
        dict.fromkeys(("container", "mcp_servers", "thread", "fallbacks", "billing_policy", "speed", "inference_geo"), None),
        {"mcp_servers": []},
        {"service_tier": "auto"},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}, {"type": "clear_tool_uses_20250919"}]}},
    ],
)
def test_what_asks_for_nothing_special_passes(members: dict[str, Any]) -> None:
    """Members that are empty, say the usual, or only take input away."""
    assert parse(**members) == parse()


# --- tools that the server runs ------------------------------------------------------------------------------------------------------


def search(**members: Any) -> dict[str, Any]:
    return {"type": "web_search_20260318", "name": "web_search", **members}


def test_searches_are_held_where_the_operator_bounds_them() -> None:
    """Each use has a price; and the server reads the prompt, with all that was found before, once more after each."""
    tools = [search(max_uses=2), {"type": "web_fetch_20260318", "name": "web_fetch", "max_uses": 1}]
    call = parse(SEARCHING, tools=tools)
    prompt = HI_BOUND + EXPLAINED_TOKENS_BOUND + sum(len(json.dumps(tool, separators=(",", ":"))) for tool in tools)
    assert call.units == Usage(tool_use=3)
    assert call.needs == (("input", "output", "tool_use"),)
    assert call.input_tokens_bound == 4 * prompt + (1 + 2 + 3) * 500
    assert call.input_tokens_counted < prompt


def test_a_search_without_a_limit_is_refused_with_advice() -> None:
    """How many are made is the model's choice."""
    assert "max_uses" in (refusal(SEARCHING, tools=[search()]).hint or "")
    for uses in (0, -1, True, "3", 101):
        refusal(SEARCHING, tools=[search(max_uses=uses)])


def test_of_two_upstreams_the_stricter_rule_counts() -> None:
    """For either may serve the request."""
    assert SEARCHING.or_more(MEDIA).tool_use_tokens is None
    assert SEARCHING.or_more(MediaRule(0, 0, 0, tool_use_tokens=900)).tool_use_tokens == 900


def test_without_such_tools_no_price_for_their_use_is_needed() -> None:
    """A rule alone changes nothing."""
    call = parse(SEARCHING, tools=[{"name": "f", "type": "custom"}])
    assert (call.units, call.needs) == (NO_USAGE, (("input", "output"),))


# --- what is forwarded ---------------------------------------------------------------------------------------------------------------


def rewrite(changes: Changes, **members: Any) -> dict[str, Any] | None:
    body = encoded(**members)
    request = Request(MESSAGES, body)
    changed = ANTHROPIC.rewrite(ANTHROPIC.parse_request(request, MEDIA), request, changes)
    return None if changed is None else json.loads(changed)


@pytest.mark.parametrize("changes", [Changes(), Changes(output_tokens_max=100), Changes(continuous_usage=True)])
def test_what_needs_no_change_is_forwarded_as_it_came(changes: Changes) -> None:
    """Streams report their usage unasked."""
    assert rewrite(changes, stream=True) is None


@pytest.mark.parametrize("maximum", [101, ...])
def test_a_maximum_is_lowered_or_added(maximum: Any) -> None:
    """To what the hold pays."""
    assert rewrite(Changes(output_tokens_max=100), max_tokens=maximum) == HI


def test_an_alias_is_replaced() -> None:
    """By the upstream's own name for the model."""
    assert rewrite(Changes(model="claude")) == HI | {"model": "claude"}


@pytest.mark.parametrize(
    ("most", "budget", "forwarded"),
    [(3_000, 8_000, 2_999), (3_000, 3_000, 2_999), (3_000, 2_000, 2_000), (1_024, 2_000, 2_000), (1_025, 2_000, 1_024)],
)
def test_a_budget_for_thinking_shrinks_with_the_maximum(most: int, budget: int, forwarded: int) -> None:
    """The API refuses one that is not below it, and one below 1,024."""
    thinking = {"type": "enabled", "budget_tokens": budget}
    changed = rewrite(Changes(output_tokens_max=most), max_tokens=10_000, thinking=thinking)
    assert changed == HI | {"max_tokens": most, "thinking": {"type": "enabled", "budget_tokens": forwarded}}


# --- hostile bodies ------------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "content", "source", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=16,
)


@given(st.dictionaries(st.sampled_from(["system", "messages", "tools", "thinking", "context_management", "output_config", "x"]), JSON))
def test_any_document_is_understood_or_refused(members: dict[str, Any]) -> None:
    """Nothing else escapes, and what is charged without usage never exceeds what is held."""
    call = parse_or_refuse(**members)
    assert call is None or 0 < call.input_tokens_counted <= call.input_tokens_bound
