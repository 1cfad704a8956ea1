"""Usage as it is reported: what is believed, how it is told apart by kind, and what is counted where it is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.dialects.openai_usage import chat_usage, read_usage, responses_usage
from proxy.domain import Answer, Call, Usage

OPENAI = DIALECTS["openai"]
KINDS = ("input", "cached_input", "cache_write", "audio_input", "output", "reasoning", "audio_output")


def call_of(operation: str) -> Call:
    return Call(operation, "m", False, 1, None, 100, 10, False)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        pytest.param({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, Usage(input=3, output=2), id="chat"),
        pytest.param({"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}, Usage(input=3, output=2), id="responses"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0}, Usage(), id="zeros"),
        pytest.param({"prompt_tokens": 10**8, "completion_tokens": 10**8}, Usage(input=10**8, output=10**8), id="the most"),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10, "audio_tokens": 5, "image_tokens": 7},
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 4, "rejected_prediction_tokens": 9},
            },
            Usage(input=25, cached_input=60, cache_write=10, audio_input=5, output=26, reasoning=20, audio_output=4),
            id="every detail",
        ),
        pytest.param(
            {"input_tokens": 3, "output_tokens": 2, "input_tokens_details": None, "output_tokens_details": {"reasoning_tokens": None}},
            Usage(input=3, output=2),
            id="null details",
        ),
        pytest.param(
            {"prompt_tokens": 3, "completion_tokens": 2, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": None},
            Usage(input=3, output=2),
            id="both names, one of them left at 0",
        ),
        pytest.param(
            {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}},
            Usage(cached_input=3, output=2),
            id="all of it cached",
        ),
        pytest.param(
            {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.1, "queue_time": -1, "is_byok": False, "multimodal_tokens": {}},
            Usage(input=3, output=2),
            id="members that nobody here knows",
        ),
        pytest.param(
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 205, "completion_tokens_details": {"reasoning_tokens": 200}},
            Usage(input=3, output=2, reasoning=200),
            id="reasoning beside the output, as the total shows",
        ),
        pytest.param(
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 105},
            Usage(input=3, output=2, reasoning=100),
            id="a total that holds more",
        ),
        pytest.param(
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 0},
            Usage(input=3, output=2),
            id="a total never filled in",
        ),
    ],
)
def test_usage_is_read_into_disjoint_kinds(reported: dict[str, Any], usage: Usage) -> None:
    """Each token is of one kind, and together they are what was reported."""
    assert read_usage(reported) == usage


GOOD = {
    "prompt_tokens": 10,
    "completion_tokens": 10,
    "total_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 1, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 1},
}
PLACES = [
    *((name,) for name in ("prompt_tokens", "completion_tokens", "total_tokens")),
    *(("prompt_tokens_details", name) for name in ("cached_tokens", "cache_write_tokens", "audio_tokens")),
    *(("completion_tokens_details", name) for name in ("reasoning_tokens", "audio_tokens")),
]
ABSURD = [-1, 1.0, 1.5, float("nan"), float("inf"), "7", "", True, False, 10**8 + 1, 2**63, 10**40, [], [1], {}, {"n": 1}]


@pytest.mark.parametrize("absurd", ABSURD, ids=repr)
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_one_absurd_member_spoils_the_whole_usage(place: tuple[str, ...], absurd: object) -> None:
    """Nothing of a report is believed where one known count in it is no number of tokens."""
    document = json.loads(json.dumps(GOOD))
    holder = document if len(place) == 1 else document[place[0]]
    holder[place[-1]] = absurd
    assert read_usage(GOOD) is not None
    assert read_usage(document) is None


@pytest.mark.parametrize(
    "reported",
    [
        *(None, [], "12", 7, True, {}, [GOOD]),
        {"prompt_tokens": 3},
        {"completion_tokens": 3},
        {"total_tokens": 3},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": None},
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 2}},
        {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 3}},
        {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1}},
        {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": [1]},
        {"input_tokens": 3, "completion_tokens": 2, "output_tokens": -2},
    ],
)
def test_usage_that_does_not_add_up_is_not_believed(reported: object) -> None:
    """Details beyond their total, and counts that are missing, say that the upstream does not know."""
    assert read_usage(reported) is None


def test_an_operation_without_output_needs_no_output_count() -> None:
    """Embeddings report their input alone, rerankers its total alone; where there is output, a total says too little."""
    assert read_usage({"prompt_tokens": 8, "total_tokens": 8}, has_output=False) == Usage(input=8)
    assert read_usage({"total_tokens": 8}, has_output=False) == Usage(input=8)
    assert read_usage({"total_tokens": 0}, has_output=False) == Usage()
    assert read_usage({}, has_output=False) is None
    assert read_usage({"total_tokens": 8}) is None


@given(st.builds(Usage, **{kind: st.integers(0, 10**7) for kind in KINDS}))
def test_usage_that_we_report_reads_back_as_the_same_tokens(usage: Usage) -> None:
    """The end of a cut stream tells the client what was charged."""
    read_back = read_usage(chat_usage(usage))
    assert read_back is not None
    assert (read_back.input_tokens, read_back.output_tokens) == (usage.input_tokens, usage.output_tokens)
    assert (read_back.cached_input, read_back.audio_input) == (usage.cached_input, usage.audio_input)
    assert (read_back.reasoning, read_back.audio_output) == (usage.reasoning, usage.audio_output)
    responses = read_usage(responses_usage(usage))
    assert responses is not None
    assert (responses.input_tokens, responses.output_tokens) == (usage.input_tokens, usage.output_tokens)


# --- whole answers -------------------------------------------------------------------------------------------------------------------


def chat(*messages: dict[str, Any], **beside: Any) -> dict[str, Any]:
    choices = [{"index": index, "message": message, "finish_reason": "stop"} for index, message in enumerate(messages)]
    return {"id": "c", "choices": choices, **beside}


@pytest.mark.parametrize(
    ("operation", "document", "answer"),
    [
        ("chat", chat({"role": "assistant", "content": "x" * 41}), Answer(None, 11)),
        ("chat", chat({"content": "x" * 40}, {"content": "x" * 40}), Answer(None, 20)),
        ("chat", chat({"content": ""}, {"content": None}), Answer(None, 2)),
        ("chat", chat({"content": "x" * 40, "reasoning_content": "y" * 40, "refusal": None, "annotations": []}), Answer(None, 20)),
        ("chat", chat({"content": None, "tool_calls": [{"id": "call_1", "function": {"name": "ff", "arguments": "{}"}}]}), Answer(None, 1)),
        ("chat", chat({"content": "hi"}, usage={"prompt_tokens": 3, "completion_tokens": 9}), Answer(Usage(input=3, output=9), 1)),
        ("chat", chat({"content": "hi"}, usage={"prompt_tokens": 3, "completion_tokens": -9}), Answer(None, 1, usage_rejected=True)),
        ("chat", chat({"content": "hi"}, usage=None), Answer(None, 1)),
        ("chat", {"error": {"message": "an error that came with status 200"}}, Answer(None, 0)),
        ("chat", {"answer": "x" * 40}, Answer(None, 14)),
        ("completions", {"choices": [{"text": "x" * 40}, {"text": ""}, "odd"]}, Answer(None, 12)),
        (
            "responses",
            {
                "output": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x" * 40}], "encrypted_content": "y" * 1000},
                    {"type": "message", "content": [{"type": "output_text", "text": "x" * 40, "annotations": [{"url": "u" * 40}]}]},
                    {"type": "function_call", "name": "n" * 10, "arguments": "a" * 30, "call_id": "c" * 40},
                    "odd",
                ]
            },
            Answer(None, 30),
        ),
        ("responses", {"output": [], "usage": {"input_tokens": 1, "output_tokens": 2}}, Answer(Usage(input=1, output=2), 1)),
        ("embeddings", {"data": [{"embedding": [0.5] * 100}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, Answer(Usage(input=8), 0)),
        ("embeddings", {"data": []}, Answer(None, 0)),
    ],
)
def test_a_whole_answer_is_read(operation: str, document: dict[str, Any], answer: Answer) -> None:
    """Usage where it is believable, and always a count of what was written: at least one token for each choice."""
    assert OPENAI.read_answer(call_of(operation), json.dumps(document).encode(), "application/json") == answer


@pytest.mark.parametrize("body", [b"", b"not JSON at all, 27 bytes..", b'{"choices":[{"message"', b"\xff\xfe", b"[" * 100_000, b"[]", b"7"])
def test_an_answer_that_cannot_be_read_counts_by_its_bytes(body: bytes) -> None:
    """Broken JSON is not free, and an answer without output costs none even then."""
    assert OPENAI.read_answer(call_of("chat"), body, "application/json") == Answer(None, -(-len(body) // 4))
    assert OPENAI.read_answer(call_of("embeddings"), body, "application/json") == Answer(None, 0)


def test_an_answer_is_read_though_it_is_not_strict_json() -> None:
    """Infinity among log probabilities, or half a surrogate pair, does not hide the usage."""
    body = b'{"choices":[{"message":{"content":"\\ud83d"},"logprobs":-Infinity}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    assert OPENAI.read_answer(call_of("chat"), body, "application/json") == Answer(Usage(input=1, output=2), 1)
