"""llama.cpp's own API: what its requests may cost, and what its answers say was used. The answers are those of a real server."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects import Changes
from proxy.domain import Usage
from tests.dialects.native_wire import Wire, call_of, data_of, events, last_usage, tokens

WIRE = Wire("llamacpp")


def event(content: str, predicted: int, *, index: int = 0, stop: bool = False, cached: int | None = None, **members: Any) -> dict[str, Any]:
    timings = {} if cached is None else {"timings": {"cache_n": cached, "prompt_n": 15 - cached}}
    return {"index": index, "content": content, "stop": stop, "tokens_predicted": predicted, "tokens_evaluated": 15, **timings, **members}


@pytest.mark.parametrize(
    ("prompt", "bound", "counted", "choices"),
    [
        ("hello", 16 + 4 + 5, 2, 1),
        ([1, 2, 3], 16 + 4 + 3, 3, 1),
        ([1, "hello", 3], 16 + 8 + 7, 4, 1),
        (["hello", "you"], 16 + 8 + 8, 3, 2),
        (["hello", [1, 2], [1, "you"]], 16 + 16 + 11, 6, 3),
        ({"prompt_string": "hello"}, 16 + 4 + 5, 2, 1),
        ({"prompt_string": "hello", "multimodal_data": ["AAAA", "BBBB"]}, 16 + 4 + 5 + 4000, 4002, 1),
        ([{"prompt_string": "hello"}, "you"], 16 + 8 + 8, 3, 2),
    ],
)
def test_prompts(prompt: object, bound: int, counted: int, choices: int) -> None:
    """Text counts by its bytes, ids one by one, media by the operator's rule; each prompt of a list is answered."""
    call = WIRE.parse("/completion", {"prompt": prompt})
    assert (call.input_tokens_bound, call.input_tokens_counted, call.choices, call.model) == (bound, counted, choices, "")


@pytest.mark.parametrize("prompt", [None, [], 7, True, [True], [1.5], {}, {"prompt": "hi"}, [[1, None]], [1, [2]]])
def test_wrong_prompts(prompt: object) -> None:
    """What the server would not take is refused here, before it is held for."""
    WIRE.refusal("/completion", {"prompt": prompt})


@pytest.mark.parametrize(
    ("members", "most"),
    [
        ({}, None),
        ({"n_predict": None}, None),
        ({"n_predict": -1}, None),
        ({"n_predict": 7}, 7),
        ({"n_predict": 0}, 1),
        ({"max_tokens": 7}, 7),
        ({"n_predict": -1, "max_tokens": 7}, None),
        ({"n_predict": 7, "max_tokens": 9}, 9),
    ],
)
def test_maxima(members: dict[str, Any], most: int | None) -> None:
    """The largest maximum counts; a negative one is none, and with 0 one token is written all the same."""
    assert WIRE.parse("/completion", {"prompt": "hi", **members}).output_tokens_max == most


@pytest.mark.parametrize(
    ("members", "lowered"),
    [
        ({}, {"n_predict": 5}),
        ({"n_predict": -1}, {"n_predict": 5}),
        ({"n_predict": 9}, {"n_predict": 5}),
        ({"n_predict": 4}, {"n_predict": 4}),
        ({"n_predict": -1, "max_tokens": 3}, {"n_predict": 5, "max_tokens": 3}),
    ],
)
def test_a_maximum_is_lowered(members: dict[str, Any], lowered: dict[str, Any]) -> None:
    """No maximum stays above what the hold pays, and one is there."""
    assert WIRE.rewritten("/completion", {"prompt": "hi", **members}, Changes(output_tokens_max=5)) == {"prompt": "hi", **lowered}


def test_nothing_is_rewritten_for_nothing() -> None:
    """A request whose maximum is low enough is forwarded byte for byte."""
    request = WIRE.request("/completion", b'{ "prompt" : "hi",\n"n_predict":4 }')
    call = WIRE.dialect.parse_request(request, WIRE.media)
    assert WIRE.dialect.rewrite(call, request, Changes(output_tokens_max=5)) is None


def test_a_router_is_told_its_own_name_of_a_model() -> None:
    """Where a request names a model it is routed by it, and an alias is replaced; where it names none, none is added."""
    assert WIRE.parse("/completion", {"prompt": "hi", "model": "fast"}).model == "fast"
    assert WIRE.rewritten("/embedding", {"content": "hi", "model": "fast"}, Changes(model="tiny"))["model"] == "tiny"
    assert "model" not in WIRE.rewritten("/completion", {"prompt": "hi", "n_predict": 3}, Changes(model="tiny"))
    assert WIRE.rewritten("/completion", {"prompt": "hi", "model": "fast"}, Changes(5, "tiny")) == {
        "prompt": "hi",
        "model": "tiny",
        "n_predict": 5,
    }


def test_completions_of_one_prompt() -> None:
    """Each completion is an answer and reports the prompt once more; both names of the number count."""
    call = WIRE.parse("/completion", {"prompt": ["hello", "you"], "n_cmpl": 3, "n": 2})
    assert (call.choices, call.input_tokens_bound, call.input_tokens_counted) == (6, 3 * 32, 3 * 3)


def test_infill() -> None:
    """Everything around the gap is input; the template's own words are in the bound."""
    document = {"input_prefix": "int ", "input_suffix": "}", "input_extra": [{"filename": "a.h", "text": "int a;"}], "prompt": "main"}
    call = WIRE.parse("/infill", document)
    extra = len('[{"filename":"a.h","text":"int a;"}]')
    assert call.input_tokens_bound == 16 + 8 + 4 + 4 + 4 + 1 + extra
    assert call.output_tokens_max is None
    assert WIRE.parse("/infill", {"input_prefix": "int ", "input_suffix": "}"}).choices == 1


def test_hidden_usage_is_refused() -> None:
    """A list of the fields to answer with would hide the counts."""
    assert "hides" in WIRE.refusal("/completion", {"prompt": "hi", "response_fields": ["content"]}).message
    assert WIRE.parse("/completion", {"prompt": "hi", "response_fields": []}).choices == 1


def test_old_images() -> None:
    """Older servers take images beside the prompt."""
    assert WIRE.parse("/completion", {"prompt": "hi", "image_data": [{"data": "AAAA", "id": 1}]}).input_tokens_counted == 1001


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_embeddings(path: str) -> None:
    """They have no output, and need a price for input alone."""
    call = WIRE.parse(path, {"content": ["hello", [1, 2]]})
    assert (call.output_tokens_max, call.input_tokens_counted, call.needs) == (0, 4, (("input",),))
    assert WIRE.parse(path, {"input": "hello"}).input_tokens_counted == 2
    answer = WIRE.answer(call, [{"index": 0, "embedding": [[0.5]]}])
    assert (answer.usage, answer.output_tokens_counted, answer.usage_rejected) == (None, 0, False)


@pytest.mark.parametrize("texts", ["documents", "texts"])
def test_rerank(texts: str) -> None:
    """The query is read once more with every document."""
    call = WIRE.parse("/rerank", {"query": "hello", texts: ["one", "three"]})
    assert call.input_tokens_counted == 2 * 2 + 1 + 2
    assert call.input_tokens_bound >= 16 + 2 * 5 + 3 + 5
    assert WIRE.answer(call, {"usage": {"prompt_tokens": 12, "total_tokens": 12}, "results": []}).usage == Usage(input=12)
    assert WIRE.answer(call, {"usage": {"prompt_tokens": -12}, "results": []}).usage_rejected
    for wrong in ({}, {"query": "hello"}, {"query": 7, texts: ["one"]}, {"query": "hello", texts: []}, {"query": "hello", texts: [7]}):
        WIRE.refusal("/reranking", wrong)


def test_a_whole_answer() -> None:
    """The prompt's tokens are those evaluated, of which some were cached."""
    answer = WIRE.answer(call_of("completion"), event(" fan la lan mi", 4, stop=True, cached=14))
    assert answer.usage == Usage(input=1, cached_input=14, output=4)
    assert answer.output_tokens_counted == 4


def test_a_whole_answer_to_several_prompts() -> None:
    """It is a list; usage is that of all together, or none where one has none."""
    answers = [event(" la do", 2, stop=True, cached=8), event(" ga mi", 2, index=1, stop=True, cached=0)]
    assert WIRE.answer(call_of("completion", choices=2), answers).usage == Usage(input=22, cached_input=8, output=4)
    assert WIRE.answer(call_of("completion", choices=2), [answers[0], {"content": "x"}]).usage is None


@pytest.mark.parametrize(
    "members",
    [
        {"tokens_evaluated": -1},
        {"tokens_predicted": 2.5},
        {"tokens_predicted": "2"},
        {"tokens_predicted": True},
        {"tokens_predicted": None},
        {"tokens_evaluated": 100_000_001},
        {"timings": {"cache_n": 16}},
        {"timings": {"cache_n": "4"}},
    ],
)
def test_absurd_usage(members: dict[str, Any]) -> None:
    """One odd count and none is believed; what was written is counted."""
    absurd = event(" la do", 2, stop=True) | members
    answer = WIRE.answer(call_of("completion"), absurd)
    assert (answer.usage, answer.output_tokens_counted, answer.usage_rejected) == (None, 2, True)
    pieces, reader = WIRE.read(call_of("completion"), events(absurd))
    assert (tokens(pieces), last_usage(pieces), reader.usage_rejected, reader.ended) == ([1], None, True, True)


def test_a_stream() -> None:
    """Every event says exactly how much was written; the last one, which says how much was cached, is held back."""
    pieces, reader = WIRE.read(
        call_of("completion"), events(event(" fan", 1), event(" la", 3), event("", 4, stop=True, cached=14, stop_type="limit"))
    )
    assert tokens(pieces) == [1, 2, 1]
    assert [piece.usage for piece in pieces] == [
        *(Usage(input=15, output=1), Usage(input=15, output=3), Usage(input=1, cached_input=14, output=4))
    ]
    assert [piece.last for piece in pieces] == [False, False, True]
    assert (reader.deltas, reader.ended) == (2, True)


def test_a_stream_without_counts_before_its_end() -> None:
    """Older servers count in the last event alone; what was counted before it is not counted twice."""
    stream = events({"content": " fan", "stop": False}, {"content": " la", "stop": False}, event("", 3, stop=True, cached=0))
    pieces, _ = WIRE.read(call_of("completion"), stream)
    assert tokens(pieces) == [1, 1, 1]
    assert last_usage(pieces) == Usage(input=15, output=3)


def test_a_stream_of_several_answers() -> None:
    """It ends with the last answer that stops; usage is that of all so far. A real one begins with null."""
    stream = b"data: null\n\n" + events(
        event(" fa", 1, index=1),
        event(" la", 1),
        event("", 2, index=1, stop=True, cached=3),
        event(" do", 2),
        event("", 2, stop=True, cached=8),
    )
    pieces, reader = WIRE.read(call_of("completion", choices=2), stream)
    assert tokens(pieces) == [0, 1, 1, 1, 1, 0]
    assert [piece.last for piece in pieces] == [False] * 5 + [True]
    assert last_usage(pieces) == Usage(input=12 + 7, cached_input=3 + 8, output=4)
    assert reader.ended


def test_counts_never_fall() -> None:
    """A later event that says less changes nothing, and what it holds counts a token."""
    pieces, _ = WIRE.read(call_of("completion"), events(event("a", 5), event("b", 2), event("", 2, stop=True)))
    assert tokens(pieces) == [5, 1, 0]
    assert last_usage(pieces) == Usage(input=15, output=5)


@pytest.mark.parametrize("index", [1, -1, "0", True, None])
def test_an_answer_that_was_not_asked_for(index: object) -> None:
    """Its content counts by its bytes; it ends nothing."""
    pieces, reader = WIRE.read(call_of("completion"), events({**event("abc", 9), "index": index, "stop": True}))
    assert (tokens(pieces), last_usage(pieces), reader.ended) == ([1], None, False)


def test_a_cut_by_length_stops_what_is_open() -> None:
    """As the server's own limit would; an answer whose end was not forwarded is open."""
    reader = WIRE.reader(call_of("completion"))
    unsent = reader.feed(events(event(" fan", 1), event("", 1, stop=True)))[1:]
    said = data_of(reader.cut_by_length(Usage(input=10, cached_input=5, output=1), unsent=unsent) or b"")
    assert [(e["index"], e["stop"], e["stop_type"], e["tokens_predicted"], e["tokens_evaluated"]) for e in said] == [
        (0, True, "limit", 1, 15)
    ]

    reader = WIRE.reader(call_of("completion", choices=3))
    reader.feed(events(event(" fan", 1), event("", 1, index=1, stop=True)))
    said = data_of(reader.cut_by_length(Usage(input=15, output=2)) or b"")
    assert [(e["index"], "tokens_predicted" in e) for e in said] == [(0, False), (2, False)]


def test_an_old_error_field() -> None:
    """Older servers send errors in a field of that name."""
    _, reader = WIRE.read(call_of("completion"), b'error: {"code":500}\n\n')
    assert reader.failed
