"""The Open Inference Protocol and Triton's extensions: what requests may cost, and how their answers are counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import Changes
from proxy.domain import Usage
from proxy.errors import Refusal
from tests.dialects.native_wire import Wire, call_of, events, tokens

WIRE = Wire("kserve")
INFER, GENERATE, STREAM = (f"/v2/models/m/{verb}" for verb in ("infer", "generate", "generate_stream"))


def tensor(datatype: str, data: Any, **members: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1], "datatype": datatype, "data": data, **members}


def binary(document: object, tail: bytes, *, said: str | None = None) -> tuple[Wire, bytes]:
    head = b"" if document is None else json.dumps(document).encode()
    return Wire("kserve", headers={"Inference-Header-Content-Length": said or str(len(head))}), head + tail


@pytest.mark.parametrize(
    ("inputs", "bound", "counted"),
    [
        ([tensor("BYTES", ["hello", "you"])], 16 + 4 + 8, 3),
        ([tensor("INT64", [1, 2, 3])], 16 + 4 + 3, 3),
        ([tensor("FP32", [[0.5, 1.0], [2.0, 3.0]]), tensor("BOOL", [True])], 16 + 8 + 5, 5),
        ([], 16, 0),
    ],
)
def test_tensors(inputs: list[object], bound: int, counted: int) -> None:
    """Text by its bytes, any other element is a token."""
    document = {"id": "a", "inputs": inputs, "outputs": [{"name": "y"}]}
    call = WIRE.parse(INFER, document)
    assert (call.model, call.stream, call.output_tokens_max) == ("m", False, None)
    assert (call.input_tokens_bound, call.input_tokens_counted) == (bound, counted)
    assert call.needs == (("input", "output"),)


def test_binary_tensors() -> None:
    """What follows the JSON counts a token for every four bytes, and its bytes are the bound; all is forwarded as it came."""
    document = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}
    wire, body = binary(document, b"\x00\xff{]" * 2)
    request = wire.request(INFER, body)
    assert request.operation.passes_content_type
    call = wire.parse(INFER, body)
    assert (call.input_tokens_bound, call.input_tokens_counted) == (16 + 4 + 8, 2)
    assert wire.dialect.rewrite(call, request, Changes(output_tokens_max=5)) is None


def test_a_bare_tensor() -> None:
    """A size of zero means that there is no JSON at all."""
    wire, body = binary(None, b"\xff" * 9)
    assert wire.parse(INFER, body).input_tokens_counted == 3


@pytest.mark.parametrize("said", ["-1", "1e3", "٣", "999", "9" * 40, "x"])
def test_a_wrong_size(said: str) -> None:
    """A size that is none, or beyond the body, is refused."""
    wire, body = binary({"inputs": []}, b"abc", said=said)
    wire.refusal(INFER, body)


@pytest.mark.parametrize("member", ["inputs", "outputs"])
def test_shared_memory_is_refused(member: str) -> None:
    """What is in the server's memory cannot be seen here."""
    WIRE.refusal(INFER, {member: [{"name": "x", "parameters": {"shared_memory_region": "r"}}]})


@pytest.mark.parametrize(
    ("document", "choices", "most", "counted"),
    [
        ({"text_input": "hello"}, 1, None, 2),
        ({"text_input": "hello", "max_tokens": 7}, 1, 7, 2),
        ({"text_input": "hello", "parameters": {"max_tokens": 7, "stream": True}}, 1, 7, 2),
        ({"text_input": "hello", "max_tokens": 9, "parameters": {"max_tokens": 7, "beam_width": 3}}, 3, 9, 2),
        ({"text_input": ["hello", "you"], "n": 2}, 4, None, 3),
        ({"text_input": "hello", "bad_words": ["x"], "system": "hello"}, 1, None, 4),
        ({"text_input": "hello", "image": ["AAAA", "BBBB"]}, 1, None, 2002),
    ],
)
def test_text(document: dict[str, Any], choices: int, most: int | None, counted: int) -> None:
    """Maxima stand beside the text or in the parameters; members nobody knows may be input."""
    for path in (GENERATE, STREAM):
        call = WIRE.parse(path, document)
        assert (call.choices, call.output_tokens_max, call.input_tokens_counted) == (choices, most, counted)
        assert (call.model, call.stream) == ("m", path == STREAM)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"text_input": []},
        {"text_input": [7]},
        {"text_input": "hello", "max_tokens": "7"},
        {"text_input": "hello", "parameters": []},
        {"text_input": "hello", "parameters": {"n": 2.5}},
        {"text_input": "hello", "sampling_parameters": '{"max_tokens":7}'},
        {"text_input": "hello", "parameters": {"sampling_parameters": "{}"}},
    ],
)
def test_wrong_text_requests(document: dict[str, Any]) -> None:
    """What hides its cost is refused."""
    WIRE.refusal(GENERATE, document)


@pytest.mark.parametrize(
    ("members", "lowered"),
    [
        ({}, {"parameters": {"max_tokens": 5}}),
        ({"parameters": {"top_p": 0.5}}, {"parameters": {"top_p": 0.5, "max_tokens": 5}}),
        ({"max_tokens": 7}, {"max_tokens": 5}),
        ({"max_tokens": 7, "parameters": {"max_tokens": 3}}, {"max_tokens": 5, "parameters": {"max_tokens": 3}}),
        ({"max_tokens": 4, "parameters": {"max_tokens": 9}}, {"max_tokens": 4, "parameters": {"max_tokens": 5}}),
        ({"max_tokens": None}, {"max_tokens": 5}),
    ],
)
def test_a_maximum_is_lowered(members: dict[str, Any], lowered: dict[str, Any]) -> None:
    """Wherever it stands."""
    assert WIRE.rewritten(GENERATE, {"text_input": "hi", **members}, Changes(output_tokens_max=5)) == {"text_input": "hi", **lowered}


def test_versions_are_no_models() -> None:
    """A path to one version of a model does not hold a model's name."""
    with pytest.raises(Refusal) as refused:
        WIRE.parse("/v2/models/m/versions/1/infer", {"inputs": []})
    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        ({"model_name": "a model", "outputs": [tensor("BYTES", ["one two three "])]}, 4),
        ({"model_name": "m", "outputs": [tensor("FP32", [0.5] * 6), tensor("INT64", [[1], [2]])]}, 8),
        ({"model_name": "m", "outputs": []}, 1),
        ({"model_name": "m", "model_version": "1", "text_output": "one two three "}, 4),
        ({"model_name": "m", "text_output": ["one two ", "three "]}, 4),
        ({"model_name": "m", "OUTPUT": "one two three "}, 4),
        ({"error": "no"}, 0),
        (b'{"outputs":[{}]}\x00\x00\xff\xff', 5),
    ],
)
def test_a_whole_answer(answer: object, counted: int) -> None:
    """No answer reports usage; elements and text are counted, and binary data by their bytes."""
    read = WIRE.answer(call_of("infer", stream=False), answer)
    assert (read.usage, read.output_tokens_counted, read.usage_rejected) == (None, counted, False)


def test_a_stream_ends_without_a_word() -> None:
    """Every event is a delta, and where they stop between two of them the answer is complete."""
    pieces, reader = WIRE.read(
        call_of("generate_stream"), events({"text_output": "one "}, {"text_output": ""}, {"text_output": "x" * 40, "model_name": "m"})
    )
    assert (tokens(pieces), reader.deltas, reader.ended) == ([1, 0, 10], 2, True)
    assert not any(piece.last for piece in pieces)
    assert WIRE.reader(call_of("generate_stream")).cut_by_length(Usage()) == b""
