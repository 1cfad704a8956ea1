"""Moderations, rerankers and scores: input alone is paid, and a query once for each document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Changes, MediaRule, Paths, Request
from proxy.domain import Answer, Call, Usage
from proxy.errors import Refusal

SERVED = Paths([DIALECTS["openai"], DIALECTS["vllm"]])
MEDIA = MediaRule(image_tokens=1_000, audio_tokens=2_000, file_tokens=4_000)
QUERY = {"model": "m", "query": "q" * 10}
TWO_IMAGES = [{"type": "image_url", "image_url": {"url": "u"}}] * 2


def parse(path: str, **members: Any) -> Call:
    found = SERVED.find("POST", path)
    return found.dialect.parse_request(Request(found.operation, json.dumps(members).encode()), MEDIA)


@pytest.mark.parametrize(
    ("path", "members", "bound", "counted"),
    [
        ("/v1/moderations", {"model": "m", "input": "x" * 8}, 8, 2),
        ("/v1/moderations", {"model": "m", "input": ["x" * 8, "y" * 8]}, 16, 4),
        ("/v1/moderations", {"model": "m", "input": [{"type": "text", "text": "x" * 8}, *TWO_IMAGES]}, 2_008, 2_002),
        ("/v1/rerank", QUERY | {"documents": ["d" * 8]}, 10 + 8 + 8, 3 + 2 + 4),
        ("/v1/rerank", QUERY | {"documents": ["d" * 8, "e" * 8, "f" * 8]}, 3 * (10 + 8 + 8), 3 * (3 + 2 + 4)),
        ("/v2/rerank", QUERY | {"documents": [{"text": "d" * 8}], "top_n": 1}, 10 + 19 + 8, 3 + 5 + 4),
        ("/rerank", QUERY | {"documents": {"content": TWO_IMAGES}}, 2 * (10 + 1_000 + 8), 2 * (3 + 1_000 + 4)),
        ("/rerank", QUERY | {"documents": [], "instruction": "x" * 8}, 8 + 8, 2 + 4),
        ("/score", {"model": "m", "text_1": "q" * 10, "text_2": ["d" * 8, "e" * 8]}, 2 * (10 + 8 + 8), 2 * (3 + 2 + 4)),
        ("/v1/score", {"model": "m", "text_1": ["q" * 10] * 2, "text_2": ["d" * 8] * 2}, 2 * (10 + 8 + 8), 2 * (3 + 2 + 4)),
        ("/score", {"model": "m", "queries": ["q" * 10] * 2, "documents": "d" * 8}, 2 * (10 + 8 + 8), 2 * (3 + 2 + 4)),
        ("/score", QUERY | {"text_1": "", "text_2": "", "queries": "q" * 10, "documents": ["d" * 8] * 2}, 18 + 2 * 26, 7 + 2 * 9),
        ("/classify", {"model": "m", "input": ["x" * 8, "y" * 8]}, 2 * (8 + 4), 4),
        ("/classify", {"model": "m", "messages": [{"role": "user", "content": "x" * 8}]}, 8 + 8, 2 + 4 + 3),
        ("/pooling", {"model": "m", "input": [1, 2, 3]}, 3 + 4, 3),
        ("/pooling", {"model": "m", "data": {"a": "x" * 8}}, 16, 4),
    ],
)
def test_the_input_is_counted(path: str, members: dict[str, Any], bound: int, counted: int) -> None:
    """Texts by their bytes, images by the operator's rule, the query with every document."""
    call = parse(path, **members)
    assert (call.input_tokens_bound, call.input_tokens_counted) == (16 + bound, counted)
    assert (call.model, call.stream, call.output_tokens_max, call.needs) == ("m", False, 0, (("input",),))


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/rerank", QUERY),
        ("/v1/rerank", {"model": "m", "documents": ["d"]}),
        ("/v1/rerank", QUERY | {"documents": [7]}),
        ("/v1/rerank", {"model": "", "query": "q", "documents": ["d"]}),
        ("/score", {"model": "m", "text_1": "a"}),
        ("/classify", {"model": "m", "input": [[1], "x", None]}),
        ("/v1/moderations", {"model": "m", "input": [{"type": "unknown"}]}),
        ("/v1/moderations", {"model": 7, "input": "x"}),
        ("/tokenize", {"model": "m", "messages": [], "chat_template": "{{ x }}"}),
    ],
)
def test_what_cannot_be_counted_is_refused(path: str, members: dict[str, Any]) -> None:
    """Input that is missing or of another kind, and templates, which could make anything of it."""
    with pytest.raises(Refusal) as refused:
        parse(path, **members)
    assert refused.value.code == "invalid_request"


def test_a_reranker_need_not_be_named() -> None:
    """A server has but one."""
    assert parse("/rerank", query="q", documents=["d"]).model == ""


def test_a_moderation_without_a_model_is_by_openais_own() -> None:
    """Its clients leave it out; an alias for that name is written into the body."""
    found = SERVED.find("POST", "/v1/moderations")
    request = Request(found.operation, b'{"input":"x"}')
    call = found.dialect.parse_request(request, MEDIA)
    assert call.model == "omni-moderation-latest"
    assert found.dialect.rewrite(call, request, Changes()) is None
    assert found.dialect.rewrite(call, request, Changes(model="real")) == b'{"input":"x","model":"real"}'


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_counting_tokens_is_free(path: str) -> None:
    """vLLM's clients may leave the model out."""
    operation = SERVED.find("POST", path).operation
    assert (operation.free, operation.dialect) == (True, "vllm")
    assert parse(path, prompt="x").model == ""
    assert parse(path, tokens=[1], model="m").model == "m"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"results": [], "usage": {"total_tokens": 56}}, Answer(Usage(input=56), 0)),
        ({"results": [], "usage": {"prompt_tokens": 50, "total_tokens": 50, "completion_tokens": 0}}, Answer(Usage(input=50), 0)),
        ({"id": "modr-1", "results": []}, Answer(None, 0)),
        ({"usage": {"total_tokens": -1}}, Answer(None, 0, usage_rejected=True)),
        (["odd"], Answer(None, 0)),
    ],
)
def test_the_usage_of_a_whole_answer_is_read(document: object, expected: Answer) -> None:
    """Rerankers report a total alone, moderations nothing."""
    call = parse("/v1/rerank", **QUERY, documents=["d"])
    assert DIALECTS["vllm"].read_answer(call, json.dumps(document).encode(), "application/json") == expected


def test_numbers_never_stream() -> None:
    """Whatever the answer's media type."""
    assert DIALECTS["vllm"].read_stream(parse("/rerank", **QUERY, documents=["d"]), "text/event-stream") is None


def test_where_both_are_spoken_a_common_path_is_openais() -> None:
    """What is vLLM's alone is found all the same."""
    assert SERVED.find("POST", "/v1/rerank").dialect is DIALECTS["openai"]
    assert SERVED.find("POST", "/v2/rerank").dialect is DIALECTS["vllm"]
    assert Paths([DIALECTS["vllm"]]).find("POST", "/v1/rerank").dialect is DIALECTS["vllm"]
