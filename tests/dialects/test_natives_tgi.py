"""Text Generation Inference's own API: what its requests may cost, and what its answers say was used."""

from __future__ import annotations

import time
from typing import Any

import pytest

from proxy.dialects import Changes
from proxy.domain import Usage
from tests.dialects.native_wire import Wire, call_of, data_of, events, last_usage, tokens

WIRE = Wire("tgi")


def event(text: str, *, whole: str | None = None, details: object = None, token_id: object = 7, index: int = 1) -> dict[str, Any]:
    token = {"id": token_id, "text": text, "logprob": -0.5, "special": False}
    return {"index": index, "token": token, "generated_text": whole, "details": details}


@pytest.mark.parametrize(
    ("path", "members", "stream"),
    [
        ("/generate", {}, False),
        ("/generate", {"stream": True}, False),
        ("/generate_stream", {}, True),
        ("/", {}, False),
        ("/", {"stream": True}, True),
        ("/", {"stream": None}, False),
    ],
)
def test_a_stream_is_told_by_its_path(path: str, members: dict[str, Any], stream: bool) -> None:
    """Only the path that was there before the others knows a flag."""
    call = WIRE.parse(path, {"inputs": "hello", **members})
    assert (call.model, call.stream, call.choices, call.output_tokens_max) == ("", stream, 1, None)
    assert (call.input_tokens_bound, call.input_tokens_counted) == (16 + 4 + 5, 2)


def test_what_is_asked_for() -> None:
    """The maximum, and how many attempts are made for it."""
    call = WIRE.parse("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 7, "best_of": 3, "stop": ["x"]}})
    assert (call.output_tokens_max, call.choices, call.input_tokens_counted) == (7, 3, 2)


@pytest.mark.parametrize(("parameters", "shows"), [({}, True), ({"best_of": 2}, False), ({"return_full_text": True}, False)])
def test_an_answer_that_repeats_its_input_or_hides_attempts_is_no_floor(parameters: dict[str, Any], shows: bool) -> None:
    """What is written is then not what is shown."""
    assert WIRE.parse("/generate", {"inputs": "hello", "parameters": parameters}).shows_writing is shows


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"inputs": ["hello"]},
        {"inputs": "hello", "parameters": []},
        {"inputs": "hello", "parameters": {"max_new_tokens": 0}},
        {"inputs": "hello", "parameters": {"max_new_tokens": 2.5}},
        {"inputs": "hello", "parameters": {"best_of": 129}},
        {"inputs": "hello", "stream": "yes"},
    ],
)
def test_wrong_requests(document: dict[str, Any]) -> None:
    """What cannot be priced is refused."""
    WIRE.refusal("/", document)


@pytest.mark.parametrize(
    ("inputs", "counted"),
    [
        ("![](https://example.org/cat.png) What?", 1000 + 3),
        ("![a [cat](data:image/png;base64,AAAA)![](http://b)", 2000 + 4),
        ("![](\n https://a )", 1000 + 2),
        ("[a link](https://example.org/)", 8),
        ("![] [a link](https://example.org/)", 9),
        ("![](cat.png)", 3),
        ("![](https://a", 1000 + 1),
    ],
)
def test_images_in_the_prompt(inputs: str, counted: int) -> None:
    """An image that the server would fetch or decode counts by the operator's rule, not by its address."""
    assert WIRE.parse("/generate", {"inputs": inputs}).input_tokens_counted == counted


@pytest.mark.parametrize("part", ["![", "](", "](http:", "![](http:", "]"])
def test_looking_for_images_takes_no_longer_than_the_text(part: str) -> None:
    """No text that callers make up is searched over and over."""
    began = time.process_time()
    WIRE.parse("/generate", {"inputs": part * 200_000})
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("document", "parameters"),
    [
        ({}, {"do_sample": True, "max_new_tokens": 50}),
        ({"parameters": None}, {"do_sample": True, "max_new_tokens": 50}),
        ({"parameters": {}}, {"max_new_tokens": 50}),
        ({"parameters": {"max_new_tokens": 70, "seed": 1}}, {"max_new_tokens": 50, "seed": 1}),
        ({"parameters": {"max_new_tokens": 40}}, {"max_new_tokens": 40}),
    ],
)
def test_a_maximum_is_lowered(document: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Where there were no parameters, sampling stays on, as the server has it then."""
    rewritten = WIRE.rewritten("/generate", {"inputs": "hello", **document}, Changes(output_tokens_max=50))
    assert rewritten == {"inputs": "hello", "parameters": parameters}


def test_no_maximum_is_made_longer() -> None:
    """One that is added is the server's own at most, however much the hold pays."""
    assert WIRE.rewritten("/generate", {"inputs": "hello", "parameters": {}}, Changes(output_tokens_max=5000))["parameters"] == {
        "max_new_tokens": 100
    }


@pytest.mark.parametrize(
    ("details", "usage"),
    [
        (None, None),
        ({"generated_tokens": 5, "prefill": []}, Usage(input=10, output=5)),
        ({"generated_tokens": 5, "prefill": [{"id": 1}, {"id": 2}]}, Usage(input=2, output=5)),
        ({"generated_tokens": 5, "prefill": [], "best_of_sequences": [{"generated_tokens": 3}]}, Usage(input=10, output=8)),
    ],
)
def test_a_whole_answer(details: object, usage: Usage | None) -> None:
    """Details say how much was written, by every attempt; the input is counted unless its tokens are there."""
    answer = {"generated_text": "one two three ", "details": details}
    for document in (answer, [answer]):
        read = WIRE.answer(call_of("generate", stream=False), document)
        assert (read.usage, read.output_tokens_counted, read.usage_rejected) == (usage, 4, False)


def test_attempts_that_are_not_shown() -> None:
    """Without details each attempt is taken to be as long as the one that is shown."""
    assert WIRE.answer(call_of("generate", choices=3), {"generated_text": "one two three "}).output_tokens_counted == 12


@pytest.mark.parametrize(
    "details",
    [
        *([], 7, {}, {"generated_tokens": -1}, {"generated_tokens": "5"}, {"generated_tokens": 5, "best_of_sequences": [{}]}),
        {"generated_tokens": 5, "best_of_sequences": 7},
        *({"generated_tokens": 5, "input_length": -2}, {"generated_tokens": 100_000_001}),
    ],
)
def test_absurd_details(details: object) -> None:
    """They are not believed; what was written is counted."""
    read = WIRE.answer(call_of("generate"), {"generated_text": "one two three ", "details": details})
    assert (read.usage, read.output_tokens_counted, read.usage_rejected) == (None, 4, True)
    pieces, reader = WIRE.read(call_of("generate_stream"), events(event("one ", whole="one ", details=details)))
    assert (tokens(pieces), last_usage(pieces), reader.usage_rejected) == ([1], None, True)


def test_a_stream() -> None:
    """Each event is a token, however long or empty its text; the last one, with the whole text, is held back."""
    stream = events(event("", index=1), event(" " * 40, index=2), event("x", index=3, whole=" " * 40 + "x"))
    pieces, reader = WIRE.read(call_of("generate_stream"), stream)
    assert (tokens(pieces), reader.deltas, last_usage(pieces)) == ([1, 1, 1], 2, None)
    assert [piece.last for piece in pieces] == [False, False, True]


def test_a_stream_with_details() -> None:
    """They count the input too."""
    details = {"finish_reason": "length", "generated_tokens": 2, "input_length": 6, "seed": None}
    pieces, _ = WIRE.read(call_of("generate_stream"), events(event("a"), event("b", whole="ab", details=details)))
    assert (tokens(pieces), last_usage(pieces)) == ([1, 1], Usage(input=6, output=2))


def test_an_event_without_a_token_id() -> None:
    """It may hold more than one token, so its bytes count."""
    pieces, _ = WIRE.read(call_of("generate_stream"), events(event("x" * 40, token_id=None), {"token": None}))
    assert tokens(pieces) == [10, 0]


def test_a_cut_by_length() -> None:
    """It says so in the details, with what is charged."""
    said = data_of(WIRE.reader(call_of("generate_stream")).cut_by_length(Usage(input=6, output=2)) or b"")
    assert len(said) == 1
    assert said[0]["details"] == {"finish_reason": "length", "generated_tokens": 2, "input_length": 6, "seed": None}
    assert (said[0]["token"]["text"], said[0]["token"]["special"]) == ("", True)
