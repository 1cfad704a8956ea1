"""Requests of the OpenAI dialect: what they ask for, how much they may cost, and which of them are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Request
from proxy.domain import Call
from proxy.errors import Refusal

OPENAI = DIALECTS["openai"]
SERVED = Paths([OPENAI])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
MINIMAL: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "m", "prompt": "hi"},
    "responses": {"model": "m", "input": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
}
TEXT_OPERATIONS = ("chat", "completions", "responses")


def request_of(operation: str, body: bytes) -> Request:
    return Request(SERVED.find("POST", PATHS[operation]).operation, body)


def parse_bytes(operation: str, body: bytes) -> Call:
    return OPENAI.parse_request(request_of(operation, body), MEDIA)


def parse(operation: str, **members: Any) -> Call:
    document = {name: value for name, value in (MINIMAL[operation] | members).items() if value is not ...}
    return parse_bytes(operation, json.dumps(document, ensure_ascii=False).encode())


def refusal(operation: str, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse(operation, **members)
    assert refused.value.code == "invalid_request"
    return refused.value


def parse_or_refuse(operation: str, body: bytes) -> Call | None:
    try:
        return parse_bytes(operation, body)
    except Refusal as refused:
        if refused.code != "invalid_request":
            raise
        return None


# --- what a request asks for ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", PATHS)
def test_a_minimal_request_is_read(operation: str) -> None:
    """Everything that is absent has its default."""
    call = parse(operation)
    assert (call.operation, call.model, call.stream, call.choices, call.wants_usage) == (operation, "m", False, 1, False)
    assert call.output_tokens_max == (0 if operation == "embeddings" else None)
    assert 0 < call.input_tokens_counted <= call.input_tokens_bound


@pytest.mark.parametrize("operation", TEXT_OPERATIONS)
@pytest.mark.parametrize(("stream", "expected"), [(True, True), (False, False), (None, False), (..., False)])
def test_a_stream_is_what_says_so(operation: str, stream: object, expected: bool) -> None:
    """Null and absent mean no."""
    assert parse(operation, stream=stream).stream is expected


@pytest.mark.parametrize(
    ("operation", "members", "output_tokens_max"),
    [
        ("chat", {"max_tokens": 5}, 5),
        ("chat", {"max_completion_tokens": 5}, 5),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 9}, 9),
        ("chat", {"max_tokens": 5, "n_predict": 900}, 900),
        ("chat", {"max_tokens": None, "max_completion_tokens": None}, None),
        ("chat", {"max_output_tokens": 5}, None),
        ("completions", {"max_tokens": 7}, 7),
        ("responses", {"max_output_tokens": 7}, 7),
        ("responses", {"max_tokens": 7}, None),
        ("embeddings", {"max_tokens": 7}, 0),
    ],
)
def test_the_largest_of_the_named_maxima_counts(operation: str, members: dict[str, Any], output_tokens_max: int | None) -> None:
    """Which of several an upstream obeys is its own affair."""
    assert parse(operation, **members).output_tokens_max == output_tokens_max


@pytest.mark.parametrize(
    ("operation", "members", "choices"),
    [
        ("chat", {"n": 3}, 3),
        ("chat", {"n": None}, 1),
        ("chat", {"n": 3, "n_cmpl": 5}, 5),
        ("completions", {"n": 2, "best_of": 5}, 5),
        ("completions", {"n": 2, "prompt": ["a", "b", "c"]}, 6),
        ("completions", {"prompt": [1, 2, 3]}, 1),
        ("completions", {"prompt": [[1, 2], [3]], "best_of": 4}, 8),
        ("embeddings", {"input": ["a", "b"]}, 1),
    ],
)
def test_every_answer_that_is_generated_counts(operation: str, members: dict[str, Any], choices: int) -> None:
    """Answers that are only compared are paid for too, and each prompt has its own."""
    assert parse(operation, **members).choices == choices


def test_an_echo_is_no_floor_under_the_output() -> None:
    """The answer then begins with the prompt, which nobody wrote."""
    assert parse("completions", n=2).shows_writing
    assert not parse("completions", echo=True).shows_writing


@pytest.mark.parametrize(
    ("options", "stream", "wants_usage"),
    [
        ({"include_usage": True}, True, True),
        ({"include_usage": True}, False, False),
        ({"include_usage": False}, True, False),
        ({"include_usage": None}, True, False),
        ({"include_obfuscation": False}, True, False),
        (None, True, False),
    ],
)
def test_whether_the_client_asked_for_usage_itself(options: object, stream: bool, wants_usage: bool) -> None:
    """Only then is the chunk left in."""
    assert parse("chat", stream=stream, stream_options=options).wants_usage is wants_usage


# --- how much input ------------------------------------------------------------------------------------------------------------------


def message(content: object, **members: object) -> dict[str, object]:
    return {"role": "user", "content": content, **members}


def chat_input(*messages: object, **members: object) -> tuple[int, int]:
    call = parse("chat", messages=list(messages), **members)
    return call.input_tokens_bound - 16, call.input_tokens_counted - 3


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TOOLS_BYTES = len(json.dumps(TOOLS, separators=(",", ":")))


@pytest.mark.parametrize(
    ("counts", "bound", "counted"),
    [
        pytest.param(chat_input(message("x" * 41)), 8 + 41, 4 + 11, id="text"),
        pytest.param(chat_input(message("é" * 10), message("")), 16 + 20, 8 + 5, id="bytes, not characters"),
        pytest.param(chat_input(message(None)), 8, 4, id="no content"),
        pytest.param(chat_input(message([{"type": "text", "text": "x" * 40}, "y" * 4])), 8 + 44, 4 + 11, id="parts of text"),
        pytest.param(
            chat_input(message([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9999}}])),
            8 + 1000,
            4 + 1000,
            id="an image by the rule, not by its bytes",
        ),
        pytest.param(chat_input(message([{"type": "input_audio", "input_audio": {"data": "A" * 99}}])), 2008, 2004, id="a recording"),
        pytest.param(chat_input(message([{"type": "file", "file": {"file_id": "f"}}])), 4008, 4004, id="a file"),
        pytest.param(chat_input(message([{"type": "video_url", "video_url": {"url": "u"}}])), 4008, 4004, id="a video counts as a file"),
        pytest.param(chat_input(message([{"image_url": {"url": "u"}}])), 1008, 1004, id="a part whose only member is its type"),
        pytest.param(chat_input(message([{"text": "x" * 8, "image_url": "u"}])), 1016, 1006, id="a medium behind a text, untyped"),
        pytest.param(chat_input(message([{"type": "image_url", "image_url": "u", "text": "x" * 8}])), 1016, 1006, id="a text in a medium"),
        pytest.param(chat_input(message("x" * 4, audio={"id": "audio_1"})), 8 + 2004, 4 + 2001, id="an earlier spoken answer"),
        pytest.param(chat_input(message("x" * 4, name="n" * 8)), 8 + 12, 4 + 3, id="a name"),
        pytest.param(chat_input(message(None, tool_calls=TOOLS)), 8 + TOOLS_BYTES, 4 - (-TOOLS_BYTES // 4), id="tool calls as JSON"),
        pytest.param(chat_input(message("xxxx"), tools=TOOLS), 8 + 4 + TOOLS_BYTES, 4 + 1 - (-TOOLS_BYTES // 4), id="tools as JSON"),
        pytest.param(chat_input(message("xxxx"), response_format={"a": 1}), 8 + 4 + 7, 4 + 1 + 2, id="a schema as JSON"),
        pytest.param(chat_input(message("xxxx"), prediction={"a": 1}), 8 + 4 + 7, 4 + 1 + 2, id="a prediction"),
        pytest.param(chat_input(message("xxxx"), documents=[{"a": 1}]), 8 + 4 + 9, 4 + 1 + 3, id="a member that nobody here knows"),
        pytest.param(
            chat_input(message("xxxx"), metadata={"a": "b" * 99}, user="u" * 99, stop=["s" * 9], temperature=1.5),
            *(8 + 4, 4 + 1),
            id="members that no prompt holds",
        ),
    ],
)
def test_the_input_of_a_chat_is_bounded_and_counted(counts: tuple[int, int], bound: int, counted: int) -> None:
    """The bound is what is held, the count what is charged when usage never comes."""
    assert counts == (bound, counted)


@pytest.mark.parametrize(
    ("operation", "members", "bound", "counted"),
    [
        ("completions", {"prompt": "x" * 41}, 4 + 41, 11),
        ("completions", {"prompt": ["x" * 40, "y" * 4]}, 8 + 44, 11),
        ("completions", {"prompt": [5, 6, 7]}, 4 + 3, 3),
        ("completions", {"prompt": [[5, 6, 7], [8]]}, 8 + 4, 4),
        ("completions", {"prompt": "x" * 40, "suffix": "y" * 8}, 4 + 48, 12),
        ("embeddings", {"input": "x" * 41}, 4 + 41, 11),
        ("embeddings", {"input": [[1] * 100, [2] * 100]}, 8 + 200, 200),
        ("embeddings", {"input": "x" * 40, "encoding_format": "base64", "dimensions": 7}, 4 + 40, 10),
        ("embeddings", {"input": ..., "messages": [message([{"image_url": "u"}])]}, 8 + 1000, 4 + 1000 + 3),
        ("responses", {"input": "x" * 40}, 8 + 40, 4 + 10 + 3),
        ("responses", {"input": "x" * 40, "instructions": "y" * 8}, 8 + 48, 4 + 12 + 3),
        ("responses", {"input": [message("x" * 40), message([{"type": "input_image", "file_id": "f"}])]}, 16 + 1040, 8 + 1010 + 3),
        (
            "responses",
            {
                "input": [
                    {"type": "function_call", "id": "fc_1", "call_id": "c" * 4, "name": "n" * 4, "arguments": "a" * 8},
                    {"type": "function_call_output", "call_id": "c" * 4, "output": [{"type": "input_file", "file_id": "f"}]},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e" * 40},
                ]
            },
            24 + 16 + 4004 + 40,
            12 + 4 + 4001 + 10 + 3,
        ),
        ("responses", {"input": ...}, 0, 3),
    ],
)
def test_the_input_of_the_other_operations_is_counted(operation: str, members: dict[str, Any], bound: int, counted: int) -> None:
    """Token ids count exactly, items like messages."""
    call = parse(operation, **members)
    assert (call.input_tokens_bound - 16, call.input_tokens_counted) == (bound, counted)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.sampled_from(["chat", "completions", "responses", "embeddings"]))
def test_the_count_never_exceeds_the_bound_and_the_bound_never_undercuts_the_bytes(texts: list[str], operation: str) -> None:
    """A byte-level tokenizer makes at most one token of a byte."""
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    member = {"chat": "messages", "completions": "prompt"}.get(operation, "input")
    value = [message(text) for text in texts] if operation in ("chat", "responses") else texts
    call = parse(operation, **{member: value})
    assert sum(len(text.encode()) for text in texts) < call.input_tokens_bound
    assert call.input_tokens_counted <= call.input_tokens_bound


# --- what is refused -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"null", b"[]", b"7", b'"x"', b"{", b"{}}", b"{'a':1}", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00"),
        *(b"model=m&prompt=hi", b'{"model":"m","prompt":"hi",}', b'{"model":"m","prompt":"hi"}garbage'),
        *(b'{"model":"m" "prompt":"hi"}', b'{"model":"m","prompt":"hi"'),
        *(b'{"model":"m","prompt":"hi","t":NaN}', b'{"model":"m","prompt":"hi","t":-Infinity}', b'{"model":"m","prompt":"hi","t":1e999}'),
        *(b'{"model":"m","prompt":"hi","t":01}', b'{"model":"m","prompt":"hi","t":+1}', b'{"model":"m","prompt":"hi","t":.5}'),
        *(b'{"model":"m\\ud800","prompt":"hi"}', b'{"model":"m","prompt":"\\udc00\\ud800"}', b'{"model":"m","prompt":"\xff"}'),
        *(b'{"model":"m","prompt":"a\nb"}', b'{"model":"m","prompt":"\\x41"}', b'{"model":"m","prompt":"hi","t":' + b"9" * 5000 + b"}"),
        *(b'{"model":"m","prompt":"hi","t":' + b"[" * 100_000, b'{"model":"m","prompt":"hi","t":' + b'{"a":' * 50_000),
        b'{"model":"m","prompt":"hi","t":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        *(b"\x00", b'{"model":"m","prompt":"hi"}\x00', b"//x\n{}", b'{"model":"m","prompt":"hi"}{"model":"m","prompt":"hi"}'),
    ],
    ids=lambda body: ascii(body[:40]),
)
def test_a_body_that_is_not_one_json_object_is_refused(body: bytes) -> None:
    """Strictly: whatever two parsers may read differently is not passed on."""
    with pytest.raises(Refusal) as refused:
        parse_bytes("completions", body)
    assert refused.value.code == "invalid_request"
    assert refused.value.hint


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","prompt":"hi","model":"dear"}',
        b'{"model":"m","prompt":"hi","\\u006dodel":"dear"}',
        b'{"model":"m","prompt":"hi","model":"m"}',
        b'{"model":"m","prompt":"hi","a":{"b":{"c":1,"c":1}}}',
        b'{"model":"m","prompt":"hi","a":[1,[{"x":1,"y":2,"x":3}]]}',
        b'{"model":"m","prompt":"hi","a":"\\u003a","b":{"c":1,"c":1}}',
        b'{"model":"m","prompt":"hi","a":"\\\\u003a","b":{"c":1,"c":1}}',
        b'{"model":"m","prompt":"\\u003A\\u003a:::","stream":true,"stream":false}',
        b'{"":1,"model":"m","prompt":"hi","":2}',
        b'{"model":"m","prompt":"hi","a:b":1,"a:b":1}',
        b'{"model":"m","prompt":"hi","a":{"b:":":","b:":"::"}}',
    ],
)
def test_a_member_named_twice_is_refused_at_any_depth_and_in_any_spelling(body: bytes) -> None:
    """The upstream may read the one that we did not."""
    with pytest.raises(Refusal, match="twice in one object"):
        parse_bytes("completions", body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","prompt":"a:b \\u003a \\u003A \\\\u003a \\\\\\u003a"}',
        b'{"model":"m","prompt":"hi","a":{"x":1},"b":{"x":1}}',
        b'{"model":"m","prompt":"hi","a":[{"x":1},{"x":1}],"x":"\\\\u003a"}',
        b' { "model" : "m" ,\r\n\t"prompt" : "hi" , "a\\u003ab" : 1, "seed": 123456789012345678901234567890 } ',
    ],
)
def test_colons_in_strings_are_not_taken_for_repeated_members(body: bytes) -> None:
    """However they are spelt."""
    assert parse_bytes("completions", body).model == "m"


MEMBERS = st.recursive(
    st.sampled_from([b"1", b'"x:y"', b'"\\u003a"', b'"\\\\u003a"', b"null"]),
    lambda inner: st.lists(st.tuples(st.sampled_from([b'"a"', b'"b"', b'"\\u0061"', b'"a:"']), inner), max_size=3).map(
        lambda members: b"{" + b" , ".join(name + b": " + value for name, value in members) + b"}"
    ),
    max_leaves=8,
)


@given(MEMBERS)
def test_the_quick_test_for_repeated_members_agrees_with_the_exact_one(value: bytes) -> None:
    """Counting colons finds every repeated name and accuses no other."""
    repeated: list[bool] = []

    def notice(members: list[tuple[str, Any]]) -> None:
        repeated.append(len({name for name, _ in members}) < len(members))

    body = b'{"model":"m","prompt":"hi","x":' + value + b"}"
    json.loads(body, object_pairs_hook=notice)
    if any(repeated):
        with pytest.raises(Refusal):
            parse_bytes("completions", body)
    else:
        parse_bytes("completions", body)


NOT_WHOLE = [0, -1, 1.0, 1.5, 1e300, True, False, "5", "", [], [5], {}, 10**9, 2**63, 10**30]


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
@pytest.mark.parametrize(
    ("operation", "name"),
    [
        *(("chat", name) for name in ("max_tokens", "max_completion_tokens", "n_predict", "n", "n_cmpl")),
        *(("completions", name) for name in ("max_tokens", "n", "best_of")),
        ("responses", "max_output_tokens"),
    ],
)
def test_a_count_that_is_no_plain_positive_number_is_refused(operation: str, name: str, value: object) -> None:
    """The largest cost must be known before anything runs."""
    assert f"'{name}' must be a whole number from 1 to" in refusal(operation, **{name: value}).message


@pytest.mark.parametrize(
    ("operation", "members", "word"),
    [
        *((operation, {"Model": "dear"}, "model") for operation in PATHS),
        ("chat", {"me\u017f\u017fages": []}, "messages"),
        ("chat", {"Max_Tokens": 100_000}, "max_tokens"),
        ("chat", {"max_to\u212aens": 100_000}, "max_tokens"),
        ("chat", {"N": 8}, "n"),
        ("responses", {"Background": True}, "background"),
    ],
)
def test_names_in_another_case_are_refused(operation: str, members: dict[str, Any], word: str) -> None:
    """Servers written in Go read a name in any case and obey the last, so another model would answer than the one that is paid for."""
    assert f"must be spelt {word!r}" in refusal(operation, **members).message


@pytest.mark.parametrize("model", [..., None, "", 7, True, ["m"], {"id": "m"}, "m" * 257, "m\n", "m\x00", "m\u202e"], ids=repr)
@pytest.mark.parametrize("operation", PATHS)
def test_a_model_that_is_no_plain_name_is_refused(operation: str, model: object) -> None:
    """It decides the price."""
    assert "'model' must be" in refusal(operation, model=model).message


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        *((operation, {"stream": value}) for operation in TEXT_OPERATIONS for value in ("true", 1, 0, "", [], {})),
        *(("chat", {"stream_options": value}) for value in (True, "x", [], 7)),
        *(("chat", {"stream": True, "stream_options": {"include_usage": value}}) for value in ("true", 1, [], {})),
        *(("chat", {"messages": value}) for value in (..., None, [], {}, "hi", [None], ["hi"], [[]], [message("x"), 7])),
        *(("chat", {"messages": [message(value)]}) for value in (7, True, {}, {"text": "x"}, [7], [None], [[]])),
        *(("chat", {"messages": [message([part])]}) for part in ({}, {"type": 7}, {"type": ["text"]}, {"type": {}}, {"type": "hologram"})),
        *(("chat", {"tools": value}) for value in ({}, "x", [7], [None])),
        *(("completions", {"prompt": value}) for value in (..., None, 7, True, {}, [], [[]], [None], [1.0], [True], ["x", 1])),
        *(("completions", {"prompt": value}) for value in ([[1], "x", {}], [["x"]], [[1, True]], [[[1]]], ["x"] * 2049)),
        ("completions", {"suffix": ["x"]}),
        *(("embeddings", {"input": value}) for value in (..., None, 7, {}, [], [[]], [{"text": "x"}], [1, "x"])),
        *(("responses", {"input": value}) for value in (7, True, {}, ["x"], [7], [message(7)])),
        ("responses", {"instructions": [message("x")]}),
    ],
)
def test_a_member_of_a_wrong_kind_is_refused(operation: str, members: dict[str, Any]) -> None:
    """The message names what is wrong."""
    assert refusal(operation, **members).message


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        *((operation, {"service_tier": tier}) for operation in TEXT_OPERATIONS for tier in ("flex", "priority", "scale", "", 7, {})),
        *((operation, {"web_search_options": {}}) for operation in TEXT_OPERATIONS),
        ("chat", {"search_parameters": {"mode": "on"}}),
        ("chat", {"enable_search": True}),
        ("chat", {"plugins": [{"id": "web"}]}),
        *(("chat", {name: ["dear"]}) for name in ("models", "fallbacks", "preset", "user_config", "context_window_fallbacks")),
        ("chat", {"session_params": {"id": "s"}}),
        ("chat", {"chat_template": "{% for i in range(99) %}x{% endfor %}"}),
        ("chat", {"chat_template_kwargs": {"chat_template": "{% for i in range(99) %}x{% endfor %}"}}),
        *(("chat", {"tools": [*TOOLS, {"type": kind}]}) for kind in ("web_search", "mcp", "", 7, {}, None)),
        *(
            ("responses", {"tools": [{"type": kind}]})
            for kind in ("web_search", "file_search", "code_interpreter", "image_generation", "mcp", "computer_use_preview", "shell")
        ),
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"conversation": "conv_1"}),
        ("responses", {"conversation": {"id": "conv_1"}}),
        ("responses", {"prompt": {"id": "pmpt_1"}}),
        ("responses", {"background": True}),
        ("responses", {"context_management": [{"type": "compaction"}]}),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("responses", {"input": [{"id": "msg_1"}]}),
        *(("responses", {"input": [{"type": kind}]}) for kind in ("image_generation_call", "additional_tools", "mcp_call", 7, ["x"], {})),
    ],
)
def test_what_costs_in_ways_that_cannot_be_seen_or_priced_is_refused(operation: str, members: dict[str, Any]) -> None:
    """Nothing is free by accident; the hint says what to leave out."""
    assert refusal(operation, **members).hint


SHELL_OUTPUT = {"type": "local_shell_call_output", "call_id": "c", "output": "x"}


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        *((operation, {"service_tier": tier}) for operation in TEXT_OPERATIONS for tier in (None, "auto", "default")),
        ("chat", {"service_tier": "on_demand"}),
        ("chat", {"web_search_options": None, "enable_search": False, "plugins": [], "models": [], "fallbacks": []}),
        ("chat", {"tools": [*TOOLS, {"type": "custom", "custom": {"name": "c"}}, {"function": {"name": "g"}}]}),
        ("chat", {"tools": None}),
        ("chat", {"tools": []}),
        ("chat", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}),
        ("chat", {"stream_options": {"include_obfuscation": False}}),
        ("responses", {"background": False, "previous_response_id": None, "store": True, "conversation": None}),
        ("responses", {"reasoning": {"effort": "high"}, "include": ["reasoning.encrypted_content"], "text": {"verbosity": "low"}}),
        ("responses", {"tools": [{"type": "function", "name": "f", "parameters": {}}]}),
        ("responses", {"context_management": [], "tools": [{"type": "local_shell"}, {"type": "apply_patch"}]}),
        ("responses", {"input": [{"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}}, SHELL_OUTPUT]}),
        ("responses", {"input": [{"type": "apply_patch_call_output", "call_id": "c", "output": "done"}]}),
        ("embeddings", {"stream": "ignored here"}),
    ],
)
def test_what_costs_nothing_more_passes(operation: str, members: dict[str, Any]) -> None:
    """The rest is the upstream's to judge."""
    assert parse(operation, **members).model == "m"


def test_tools_that_the_api_explains_have_room_in_the_bound() -> None:
    """The client runs them; what they are for stands nowhere in the request."""
    plain = parse("responses", tools=[{"type": "function", "name": "apply_patch"}])
    explained = parse("responses", tools=[{"type": "apply_patch"}])
    assert explained.input_tokens_bound > plain.input_tokens_bound + 2_000
    assert explained.input_tokens_counted <= plain.input_tokens_counted
    assert refusal("chat", tools=[{"type": "apply_patch"}]).hint


INNER_NAMES = ("type", "role", "content", "text", "id", "output", "input", "audio", "function", "include_usage")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER_NAMES), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(
    [
        *("model", "messages", "prompt", "input", "instructions", "suffix", "stream", "stream_options", "n", "best_of", "max_tokens"),
        *("max_output_tokens", "tools", "functions", "response_format", "service_tier", "background", "conversation", "documents"),
    ]
)


@given(st.sampled_from(sorted(PATHS)), st.dictionaries(NAMES, ANYTHING, max_size=4))
def test_no_request_does_anything_but_pass_or_be_refused(operation: str, members: dict[str, Any]) -> None:
    """Whatever a member holds, there is never another error, and what passes can be rewritten."""
    body = json.dumps(MINIMAL[operation] | members).encode()
    call = parse_or_refuse(operation, body)
    if call is None:
        return
    assert 0 <= call.input_tokens_counted <= call.input_tokens_bound
    rewritten = OPENAI.rewrite(call, request_of(operation, body), Changes(output_tokens_max=3))
    assert rewritten is None or parse_bytes(operation, rewritten).output_tokens_max in (0, 1, 2, 3)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_no_bytes_do_anything_but_pass_or_be_refused(noise: bytes, place: int) -> None:
    """A request damaged anywhere is still answered with a refusal."""
    body = json.dumps(MINIMAL["chat"]).encode()
    damaged = body[:place] + noise + body[place + len(noise) // 2 :]
    parse_or_refuse("chat", damaged)
