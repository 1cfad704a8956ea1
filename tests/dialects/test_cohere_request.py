"""Requests of the Cohere dialect: what they ask for, what they may cost, which are refused, and the body that is forwarded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Request
from proxy.domain import Call, Usage
from proxy.errors import Refusal

COHERE = DIALECTS["cohere"]
SERVED = Paths([COHERE])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
MINIMAL: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "embed": {"model": "m", "texts": ["hi"], "input_type": "search_query"},
    "rerank": {"model": "m", "query": "hi", "documents": ["one", "three"]},
}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}


def request_of(operation: str, body: bytes) -> Request:
    return Request(SERVED.find("POST", f"/v2/{operation}").operation, body)


def body_of(operation: str, members: dict[str, Any]) -> bytes:
    document = {name: value for name, value in (MINIMAL[operation] | members).items() if value is not ...}
    return json.dumps(document, ensure_ascii=False).encode()


def parse(operation: str, **members: Any) -> Call:
    return COHERE.parse_request(request_of(operation, body_of(operation, members)), MEDIA)


def refusal(operation: str, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse(operation, **members)
    assert refused.value.code == "invalid_request"
    return refused.value


def parse_or_refuse(operation: str, members: dict[str, Any]) -> Call | None:
    try:
        return parse(operation, **members)
    except Refusal as refused:
        if refused.code != "invalid_request":
            raise
        return None


def content(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


NEEDS_SEARCHES = (("tool_use",), ("input",))


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("chat", Call("chat", "m", False, 1, None, 16 + 8 + 2, 4 + 1 + 3)),
        ("embed", Call("embed", "m", False, 1, 0, 16 + 4 + 2, 1, needs=(("input",),))),
        ("rerank", Call("rerank", "m", False, 1, 0, 16 + 2 * (4 + 2) + 8, 2 + 1 + 2, units=Usage(tool_use=1), needs=NEEDS_SEARCHES)),
    ],
)
def test_the_least_request(operation: str, expected: Call) -> None:
    """A ranking reads the query together with each document, and makes one search of them."""
    assert parse(operation) == expected


def test_a_chat_that_asks_for_much() -> None:
    """A stream with a maximum."""
    call = parse("chat", stream=True, max_tokens=50, temperature=0.3, seed=7, k=0, p=0.75, safety_mode="STRICT", priority=1)
    assert (call.stream, call.output_tokens_max, call.input_tokens_bound) == (True, 50, 26)


@pytest.mark.parametrize(
    ("operation", "members", "bound", "counted"),
    [
        ("chat", content({"type": "text", "text": "hi"}), 0, 0),
        ("chat", content({"type": "text", "text": "hi"}, {"type": "thinking", "thinking": "12345"}), 5, 2),
        ("chat", content({"type": "text", "text": "hi"}, PICTURE), 1_000, 1_000),
        ("chat", content({"type": "text", "text": "hi"}, {"type": "document", "document": {"data": "1"}}), 12, 3),
        ("chat", {"messages": [{"role": "tool", "tool_call_id": "c1", "content": "hi"}]}, 0, 0),
        ("chat", {"messages": [{"role": "assistant", "content": "hi", "tool_plan": "12345"}]}, 5, 2),
        ("chat", {"messages": [{"role": "assistant", "content": "hi", "tool_calls": [{"id": "c"}]}]}, 12, 3),
        ("chat", {"documents": ["one", {"data": {"text": "two"}}]}, 31, 8),
        ("chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}, 45, 12),
        ("chat", {"response_format": {"type": "json_object"}}, 22, 6),
        ("chat", {"preamble": "12345"}, 5, 2),
        ("chat", {"citation_options": {"mode": "FAST"}, "stop_sequences": ["12345"], "strict_tools": True}, 0, 0),
        ("embed", {"texts": ["hi", "12345"]}, 4 + 5, 2),
        ("embed", {"truncate": "END", "embedding_types": ["float", "int8"], "output_dimension": 256, "max_tokens": 9}, 0, 0),
        ("rerank", {"query": "hi" * 10}, 2 * 18, 2 * 4),
        ("rerank", {"documents": ["one", {"text": "t"}]}, 7, 1),
        ("rerank", {"top_n": 1, "max_tokens_per_doc": 9, "return_documents": True}, 0, 0),
    ],
)
def test_input_is_counted(operation: str, members: dict[str, Any], bound: int, counted: int) -> None:
    """Beyond what the least request counts: texts by their bytes, what is structured by its JSON, images by the rule."""
    least, call = parse(operation), parse(operation, **members)
    assert (call.input_tokens_bound - least.input_tokens_bound, call.input_tokens_counted - least.input_tokens_counted) == (bound, counted)


@pytest.mark.parametrize(
    "members",
    [
        {"texts": ..., "images": ["data:image/png;base64,aGVsbG8=", "data:image/png;base64,aGVsbG8="]},
        {"texts": ..., "inputs": [{"content": [{"type": "text", "text": "hi"}, PICTURE]}, {"content": [PICTURE]}]},
    ],
)
def test_images_to_embed_must_have_a_price(members: dict[str, Any]) -> None:
    """Some models bill them by the piece and others by the token; both prices must be there, so neither is free."""
    call = parse("embed", **members)
    assert (call.units, call.needs) == (Usage(image=2), (("input", "image"),))
    assert call.input_tokens_counted >= 2_000


@pytest.mark.parametrize(
    ("query", "documents", "searches"),
    [
        ("hi", ["x"] * 100, 1),
        ("hi", ["x"] * 101, 2),
        ("hi", ["x" * 498] * 100, 1),
        ("hi", ["x" * 499] * 100, 2),
        ("q" * 400, ["x" * 250] * 100, 1),
        ("q" * 400, ["x" * 251] * 100, 2),
        ("hi", ["x" * 49_801], 2),
        ("", [""], 1),
        ("hi", [{"text": "x" * 487}] * 100, 1),
        ("hi", [{"text": "x" * 488}] * 100, 2),
    ],
)
def test_searches_are_bounded(query: str, documents: list[Any], searches: int) -> None:
    """One for each hundred documents; a long document counts once for every chunk that it may be cut into, beside the query."""
    assert parse("rerank", query=query, documents=documents).units == Usage(tool_use=searches)


def test_a_long_query_costs_no_time() -> None:
    """It is measured once, not once for each document: ten thousand times these ten million bytes would take minutes."""
    call = parse("rerank", query="é" * 5_000_000, documents=[""] * 10_000)
    assert call.input_tokens_bound == 16 + 10_000 * (10_000_000 + 4)


# --- refusals ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "word"),
    [
        ("chat", {"model": ...}, "model"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": ...}, "messages"),
        ("chat", {"stream": "true"}, "stream"),
        ("chat", {"max_tokens": 0}, "max_tokens"),
        ("chat", {"max_tokens": 9.0}, "max_tokens"),
        ("chat", {"max_tokens": True}, "max_tokens"),
        ("chat", {"connectors": [{"id": "web-search"}]}, "connectors"),
        ("chat", {"conversation_id": "c1"}, "conversation_id"),
        ("chat", {"num_generations": 5}, "num_generations"),
        ("chat", {"tools": [{"type": "web_search"}]}, "function"),
        ("chat", {"messages": [{"role": "user", "content": 7}]}, "content"),
        ("chat", content("hi"), "content"),
        ("chat", content({"text": "hi"}), "content"),
        ("chat", content({"type": "video", "video": "x"}), "video"),
        ("embed", {"texts": "hi"}, "texts"),
        ("embed", {"texts": [7]}, "texts"),
        ("embed", {"images": ["x", {}]}, "images"),
        ("embed", {"inputs": [{"content": "hi"}]}, "content"),
        ("embed", {"inputs": [{"content": [{"type": "audio"}]}]}, "audio"),
        ("embed", {"texts": ["x"] * 2049}, "inputs"),
        ("rerank", {"query": ...}, "query"),
        ("rerank", {"documents": []}, "documents"),
        ("rerank", {"documents": [7]}, "documents"),
        ("rerank", {"documents": ["x"] * 10_001}, "documents"),
    ],
)
def test_what_cannot_be_read_or_priced_is_refused(operation: str, members: dict[str, Any], word: str) -> None:
    """The message names the member, or what is odd in it."""
    assert word in refusal(operation, **members).message


@pytest.mark.parametrize(("operation", "name"), [("chat", "Model"), ("chat", "Max_Tokens"), ("embed", "MODEL"), ("rerank", "Documents")])
def test_names_in_another_case_are_refused(operation: str, name: str) -> None:
    """Servers written in Go read a name in any case and obey the last."""
    assert "must be spelt" in refusal(operation, **{name: "dear"}).message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "text", "x"]), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["messages", "documents", "query", "texts", "images", "inputs", "tools", "stream", "model", "max_tokens", "x"])


@given(st.sampled_from(sorted(MINIMAL)), st.dictionaries(NAMES, JSON, max_size=4))
def test_any_document_is_read_or_refused(operation: str, members: dict[str, Any]) -> None:
    """Nothing else happens, and what is counted never exceeds its bound."""
    call = parse_or_refuse(operation, members)
    assert call is None or 0 <= call.input_tokens_counted <= call.input_tokens_bound


# --- the body that is forwarded ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "changes", "after"),
    [
        ("chat", {}, Changes(output_tokens_max=7), {"max_tokens": 7}),
        ("chat", {"max_tokens": 8}, Changes(output_tokens_max=7), {"max_tokens": 7}),
        ("chat", {"max_tokens": None}, Changes(output_tokens_max=7), {"max_tokens": 7}),
        ("chat", {"max_tokens": 8}, Changes(output_tokens_max=7, model="real"), {"max_tokens": 7, "model": "real"}),
        ("embed", {}, Changes(model="real"), {"model": "real"}),
        ("rerank", {}, Changes(output_tokens_max=7, model="real"), {"model": "real"}),
    ],
)
def test_what_must_change_changes(operation: str, members: dict[str, Any], changes: Changes, after: dict[str, Any]) -> None:
    """The maximum is lowered or added, an alias is replaced, and the rest stays."""
    body = COHERE.rewrite(parse(operation, **members), request_of(operation, body_of(operation, members)), changes)
    assert body is not None
    assert json.loads(body) == MINIMAL[operation] | members | after


@pytest.mark.parametrize(
    ("operation", "members"), [("chat", {"max_tokens": 7}), ("chat", {"stream": True, "max_tokens": 5}), ("embed", {}), ("rerank", {})]
)
def test_a_request_that_needs_no_change_is_forwarded_as_it_came(operation: str, members: dict[str, Any]) -> None:
    """No copy, no change."""
    request = request_of(operation, body_of(operation, members))
    assert COHERE.rewrite(parse(operation, **members), request, Changes(output_tokens_max=7)) is None
