"""The body that is forwarded: what must change changes, and not a byte more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Changes
from proxy.dialects.document import drop_member, edit_members
from tests.dialects.test_openai_request import MINIMAL, parse_bytes, request_of

OPENAI = DIALECTS["openai"]


def rewrite(operation: str, body: bytes, output_tokens_max: int | None = None, **changes: Any) -> bytes | None:
    changed = Changes(output_tokens_max=output_tokens_max, **changes)
    return OPENAI.rewrite(parse_bytes(operation, body), request_of(operation, body), changed)


def encoded(operation: str, **members: Any) -> bytes:
    return json.dumps(MINIMAL[operation] | members, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("operation", "members", "output_tokens_max"),
    [
        ("chat", {}, None),
        ("chat", {"max_tokens": 5}, None),
        ("chat", {"max_tokens": 5}, 5),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 4}, 6),
        ("chat", {"stream": True, "stream_options": {"include_usage": True}}, None),
        ("chat", {"stream": False, "stream_options": {"include_usage": False}}, None),
        ("completions", {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 9}, 10),
        ("responses", {"stream": True}, None),
        ("responses", {"stream": True, "max_output_tokens": 5}, 5),
        ("embeddings", {}, 5),
    ],
)
def test_a_request_that_needs_no_change_is_forwarded_as_it_came(
    operation: str, members: dict[str, Any], output_tokens_max: int | None
) -> None:
    """No copy, no change."""
    assert rewrite(operation, encoded(operation, **members), output_tokens_max) is None


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        ("chat", {}, {"max_tokens": 7}),
        ("chat", {"max_tokens": None}, {"max_tokens": 7}),
        ("chat", {"max_tokens": 8}, {"max_tokens": 7}),
        ("chat", {"max_completion_tokens": 8}, {"max_completion_tokens": 7}),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 9}, {"max_tokens": 5, "max_completion_tokens": 7}),
        ("chat", {"max_tokens": 50, "n_predict": 90}, {"max_tokens": 7, "n_predict": 7}),
        ("chat", {"model": "gpt-5-mini"}, {"max_completion_tokens": 7}),
        ("chat", {"model": "openai/o3"}, {"max_completion_tokens": 7}),
        ("chat", {"model": "gpt-4o"}, {"max_tokens": 7}),
        ("chat", {"model": "gpt-35-turbo"}, {"max_tokens": 7}),
        ("chat", {"model": "gpt-oss:20b"}, {"max_tokens": 7}),
        ("completions", {"model": "o3"}, {"max_tokens": 7}),
        ("completions", {"max_tokens": 100}, {"max_tokens": 7}),
        ("responses", {}, {"max_output_tokens": 7}),
        ("responses", {"max_output_tokens": 8}, {"max_output_tokens": 7}),
    ],
)
def test_maxima_are_lowered_to_what_is_affordable(operation: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Every maximum that is above it, or the dialect's own where none is named."""
    body = rewrite(operation, encoded(operation, **before), 7)
    assert body is not None
    assert json.loads(body) == MINIMAL[operation] | before | after


@pytest.mark.parametrize("operation", ["chat", "completions"])
@pytest.mark.parametrize(
    "options", [..., None, {}, {"include_usage": False}, {"include_usage": None}, {"a": [1], "include_usage": False, "b": 2}]
)
def test_a_stream_is_asked_for_its_usage(operation: str, options: Any) -> None:
    """The other options stay."""
    members = {} if options is ... else {"stream_options": options}
    body = rewrite(operation, encoded(operation, stream=True, **members))
    assert body is not None
    given = options if isinstance(options, dict) else {}
    assert json.loads(body) == MINIMAL[operation] | {"stream": True, "stream_options": given | {"include_usage": True}}
    assert parse_bytes(operation, body).wants_usage


def test_every_byte_but_the_changed_values_stays() -> None:
    """Order, spacing, escapes, long and odd numbers are as the client wrote them."""
    body = (
        b' {\r\n "model" : "m\\u002dx" , "seed":123456789012345678901234567890,"max_tokens" :\t900 ,"temperature":1.50e-0,'
        b'"logit_bias":{"5": -0.0},\n"messages":[ {"role":"user","content":"\\ud83d\\ude00 {\\"max_tokens\\": 1} \xc3\xa9"} ] ,'
        b'"\\u0073tream":true,'
        b'"stream_options" : { "b" :1, "include_usage":false , "a":2 } ,"top_p":1.000 } \n'
    )
    expected = body.replace(b":\t900", b":\t7").replace(b'"include_usage":false', b'"include_usage":true')
    assert rewrite("chat", body, 7) == expected


def test_members_are_added_at_the_end() -> None:
    """What is new stands behind what was there."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true }\n'
    assert rewrite("chat", body, 7) == body.replace(b"true }", b'true,"max_tokens":7,"stream_options":{"include_usage":true} }')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " :\r\n ")])


@given(
    st.dictionaries(st.text(max_size=4), JSON, max_size=6),
    st.dictionaries(st.text(max_size=2), st.integers(0, 99), max_size=3),
    SEPARATORS,
    st.booleans(),
)
def test_editing_members_changes_those_alone(
    document: dict[str, Any], changes: dict[str, int], separators: tuple[str, str], ascii_only: bool
) -> None:
    """Each other member keeps its bytes and its place."""
    try:
        body = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair, which no request that was read can hold
    edited = edit_members(body, {name: b"%d" % value for name, value in changes.items()})
    assert json.loads(edited) == document | changes
    assert list(json.loads(edited)) == list(document | changes)
    for name, value in document.items():
        if name not in changes:
            assert json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode() in edited
    if not changes:
        assert edited == body


@given(st.dictionaries(st.text(max_size=4), JSON, min_size=1, max_size=6), st.integers(0, 5), SEPARATORS)
def test_dropping_a_member_leaves_the_others_as_they_were(document: dict[str, Any], place: int, separators: tuple[str, str]) -> None:
    """What is left is the object without it; a name that it does not have changes nothing."""
    dropped = list(document)[place % len(document)]
    body = json.dumps(document, separators=separators).encode()
    if b"\\ud" in body:
        return  # half a surrogate pair, which no answer that is edited can hold
    left = {name: value for name, value in document.items() if name != dropped}
    after = drop_member(body, dropped)
    assert json.loads(after) == left
    assert all(json.dumps(value, separators=separators).encode() in after for value in left.values())
    assert drop_member(after, dropped) == after


@pytest.mark.parametrize("operation", ["chat", "completions", "responses", "embeddings"])
def test_an_alias_becomes_the_upstreams_own_name(operation: str) -> None:
    """In its place, and nothing else changes."""
    body = encoded(operation, model="fast", user="fast")
    assert rewrite(operation, body, model='a "b"') == body.replace(b'"model": "fast"', b'"model": "a \\"b\\""')


def test_the_maximum_that_is_added_is_one_that_the_upstreams_own_model_knows() -> None:
    """Whatever the alias is called."""
    body = rewrite("chat", encoded("chat", model="fast"), 7, model="gpt-5-mini")
    assert body is not None
    assert json.loads(body) == MINIMAL["chat"] | {"model": "gpt-5-mini", "max_completion_tokens": 7}
