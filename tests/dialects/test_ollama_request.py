"""Requests of the Ollama dialect: what they ask for, what they may cost, which are refused, and the body that is forwarded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Request
from proxy.domain import Call
from proxy.errors import Refusal

OLLAMA = DIALECTS["ollama"]
SERVED = Paths([OLLAMA])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
MINIMAL: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "generate": {"model": "m", "prompt": "hi"},
    "embed": {"model": "m", "input": "hi"},
    "embeddings": {"model": "m", "prompt": "hi"},
    "show": {"model": "m"},
}
GENERATING = ("chat", "generate")
IMAGE = "aGVsbG8="


def request_of(operation: str, body: bytes) -> Request:
    return Request(SERVED.find("POST", f"/api/{operation}").operation, body)


def body_of(operation: str, **members: Any) -> bytes:
    document = {name: value for name, value in (MINIMAL[operation] | members).items() if value is not ...}
    return json.dumps(document, ensure_ascii=False).encode()


def parse(operation: str, **members: Any) -> Call:
    return OLLAMA.parse_request(request_of(operation, body_of(operation, **members)), MEDIA)


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


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("chat", Call("chat", "m", True, 1, None, 16 + 8 + 2, 4 + 1 + 3)),
        ("generate", Call("generate", "m", True, 1, None, 16 + 8 + 2, 4 + 1 + 3)),
        ("embed", Call("embed", "m", False, 1, 0, 16 + 4 + 2, 1, needs=(("input",),))),
        ("embeddings", Call("embeddings", "m", False, 1, 0, 16 + 4 + 2, 1, needs=(("input",),), reports_usage=False)),
        ("show", Call("show", "m", False, 1, 0, 0, 0)),
    ],
)
def test_the_least_request(operation: str, expected: Call) -> None:
    """What generates streams unless it is told otherwise; nothing else does."""
    assert parse(operation) == expected


def test_version_needs_no_body() -> None:
    """It is asked for by GET."""
    found = SERVED.find("GET", "/api/version")
    assert found.operation.free
    call = OLLAMA.parse_request(Request(found.operation, b""), MEDIA)
    assert (call.model, call.stream) == ("", False)
    assert OLLAMA.rewrite(call, Request(found.operation, b""), Changes()) is None


@pytest.mark.parametrize("path", ["pull", "push", "create", "copy", "delete", "ps", "blobs/sha256:00", "experimental/web_search"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_what_manages_models_is_not_served(path: str, method: str) -> None:
    """It is the operator's, not the callers'."""
    with pytest.raises(Refusal) as refused:
        SERVED.find(method, f"/api/{path}")
    assert refused.value.code in ("unknown_path", "method_not_allowed")


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize(("stream", "expected"), [(True, True), (False, False), (None, True)])
def test_streaming_is_the_default(operation: str, stream: bool | None, expected: bool) -> None:
    """Null means what absence means."""
    assert parse(operation, stream=stream).stream is expected


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_predict": 5}, 5),
        ({"num_predict": -1}, None),
        ({"num_predict": -2}, None),
        ({"num_predict": 0}, None),
        ({"num_predict": None}, None),
        ({"num_ctx": 4096, "temperature": 0.5, "stop": ["x" * 99]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_maximum(operation: str, options: Any, expected: int | None) -> None:
    """What is not above zero lets the model go on, so it is no maximum."""
    assert parse(operation, options=options).output_tokens_max == expected


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"options": {"num_predict": 7}}),
        ({"options": None}, {"options": {"num_predict": 7}}),
        ({"options": {}}, {"options": {"num_predict": 7}}),
        ({"options": {"num_ctx": 9}}, {"options": {"num_ctx": 9, "num_predict": 7}}),
        ({"options": {"num_predict": 8, "seed": 1}}, {"options": {"num_predict": 7, "seed": 1}}),
        ({"options": {"num_predict": -1}}, {"options": {"num_predict": 7}}),
    ],
)
def test_the_maximum_is_lowered(operation: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """In the options, where the rest stays as it was; what is lowered is read back as the new maximum."""
    body = body_of(operation, **before)
    lowered = OLLAMA.rewrite(parse(operation, **before), request_of(operation, body), Changes(output_tokens_max=7))
    assert lowered is not None
    assert json.loads(lowered) == MINIMAL[operation] | after
    assert OLLAMA.parse_request(request_of(operation, lowered), MEDIA).output_tokens_max == 7


@pytest.mark.parametrize(
    ("operation", "members", "changes"),
    [
        ("chat", {}, Changes()),
        ("chat", {"options": {"num_predict": 7}}, Changes(output_tokens_max=7)),
        ("embed", {}, Changes(output_tokens_max=7)),
        ("chat", {}, Changes(continuous_usage=True)),
    ],
)
def test_a_request_that_needs_no_change_is_forwarded_as_it_came(operation: str, members: dict[str, Any], changes: Changes) -> None:
    """No copy, no change."""
    request = request_of(operation, body_of(operation, **members))
    assert OLLAMA.rewrite(parse(operation, **members), request, changes) is None


@pytest.mark.parametrize("operation", MINIMAL)
def test_an_alias_is_replaced(operation: str) -> None:
    """The upstream is asked for the model by its own name."""
    request = request_of(operation, body_of(operation))
    changed = OLLAMA.rewrite(parse(operation), request, Changes(model="llama3:8b"))
    assert changed is not None
    assert json.loads(changed) == MINIMAL[operation] | {"model": "llama3:8b"}


def test_show_takes_the_older_name_of_the_model() -> None:
    """As Ollama does; the newer one counts where both are there."""
    assert parse("show", model=..., name="old").model == "old"
    assert parse("show", model="new", name="old").model == "new"
    assert "model" in refusal("show", model=...).message


@pytest.mark.parametrize("model", ["llama3", "llama3:latest", "library/llama3:8b-instruct-q4_0", "hf.co/some/model:Q4"])
def test_model_names_stay_as_they_were_sent(model: str) -> None:
    """Prices and plans are found by it."""
    assert parse("chat", model=model).model == model


# --- input -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "bound", "counted"),
    [
        ("chat", {"messages": [{"role": "user", "content": "hi", "images": [IMAGE, IMAGE]}]}, 2_000, 2_000),
        ("chat", {"messages": [{"role": "user", "content": "hi", "thinking": "12345"}]}, 5, 2),
        ("chat", {"messages": [{"role": "user", "content": "hi", "unknown": "12345"}]}, 5, 2),
        ("chat", {"messages": [{"role": "user", "content": "hi", "images": None, "tool_call_id": "12345"}]}, 0, 0),
        ("chat", {"messages": [{"role": "system", "content": "12345"}, {"role": "user", "content": "hi"}]}, 8 + 5, 4 + 2),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}], "content": "hi"}]}, 27, 7),
        ("chat", {"tools": [{"type": "function"}]}, 21, 6),
        ("chat", {"format": "json"}, 4, 1),
        ("chat", {"format": {"type": "object"}}, 17, 5),
        ("chat", {"think": "high", "keep_alive": "5m", "options": {"stop": ["12345"]}, "truncate": True}, 0, 0),
        ("generate", {"system": "12345"}, 8 + 5, 4 + 2),
        ("generate", {"suffix": "12345"}, 8 + 5, 4 + 2),
        ("generate", {"images": [IMAGE]}, 1_000, 1_000),
        ("generate", {"context": [1, 2, 3]}, 3, 3),
        ("generate", {"unknown": "12345"}, 5, 2),
        ("generate", {"raw": True, "template": "", "width": 0}, 0, 0),
        ("embed", {"input": ["hi", "12345"]}, 4 + 5, 2),
        ("embed", {"dimensions": 64, "truncate": False}, 0, 0),
    ],
)
def test_input_is_counted(operation: str, members: dict[str, Any], bound: int, counted: int) -> None:
    """Beyond what the least request counts: texts by their bytes, images by the rule, token ids one by one."""
    least, call = parse(operation), parse(operation, **members)
    assert (call.input_tokens_bound - least.input_tokens_bound, call.input_tokens_counted - least.input_tokens_counted) == (bound, counted)


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        ("chat", {"messages": []}),
        ("chat", {"messages": ..., "keep_alive": 0}),
        ("chat", {"messages": None}),
        ("generate", {"prompt": ""}),
        ("generate", {"prompt": ..., "keep_alive": 0}),
        ("embed", {"input": []}),
        ("embed", {"input": ...}),
        ("embeddings", {"prompt": ""}),
    ],
)
def test_an_empty_prompt_counts_nothing(operation: str, members: dict[str, Any]) -> None:
    """It has the model loaded or unloaded, and is let through."""
    assert parse(operation, **members).input_tokens_counted == 0


# --- refusals ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "members", "word"),
    [
        ("chat", {"model": ...}, "model"),
        ("chat", {"model": ""}, "model"),
        ("chat", {"stream": "false"}, "stream"),
        ("chat", {"messages": "hi"}, "messages"),
        ("chat", {"messages": ["hi"]}, "messages"),
        ("chat", {"messages": [{"role": "user", "images": IMAGE}]}, "images"),
        ("chat", {"messages": [{"role": "user", "images": [{"url": "x"}]}]}, "images"),
        ("chat", {"options": []}, "options"),
        ("chat", {"options": {"num_predict": "9"}}, "num_predict"),
        ("chat", {"options": {"num_predict": True}}, "num_predict"),
        ("chat", {"options": {"num_predict": 9.0}}, "num_predict"),
        ("chat", {"options": {"num_predict": 10**9}}, "num_predict"),
        ("generate", {"prompt": ["hi"]}, "prompt"),
        ("generate", {"system": {}}, "system"),
        ("generate", {"context": "123"}, "context"),
        ("generate", {"context": [1, True]}, "context"),
        ("generate", {"template": "{{ .Prompt }}{{ .Prompt }}"}, "template"),
        ("generate", {"width": 512}, "width"),
        ("embed", {"input": 7}, "input"),
        ("embed", {"input": ["hi", 7]}, "input"),
        ("embed", {"input": ["x"] * 2049}, "inputs"),
        ("embeddings", {"prompt": ["hi"]}, "prompt"),
    ],
)
def test_what_cannot_be_read_or_priced_is_refused(operation: str, members: dict[str, Any], word: str) -> None:
    """The message names the member."""
    assert word in refusal(operation, **members).message


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"Model": "dear"}, "model"),
        ({"OPTIONS": {"num_predict": 9}}, "options"),
        ({"me\u017f\u017fages": []}, "messages"),
        ({"\u212aeep_alive": 0}, "keep_alive"),
        ({"Template": "{{ .Prompt }}"}, "template"),
        ({"messages": [{"role": "user", "Images": [IMAGE]}]}, "images"),
    ],
)
def test_names_in_another_case_are_refused(members: dict[str, Any], word: str) -> None:
    """Ollama would take them for the same, and obey the last."""
    assert f"must be spelt {word!r}" in refusal("chat", **members).message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["messages", "prompt", "input", "images", "context", "options", "stream", "tools", "system", "model", "format", "x"]
)


@given(st.sampled_from(sorted(MINIMAL)), st.dictionaries(NAMES, JSON, max_size=4))
def test_any_document_is_read_or_refused(operation: str, members: dict[str, Any]) -> None:
    """Nothing else happens, and what is counted never exceeds its bound."""
    call = parse_or_refuse(operation, members)
    assert call is None or 0 <= call.input_tokens_counted <= call.input_tokens_bound
