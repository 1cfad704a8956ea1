"""SGLang's own API: what its requests may cost, and what its answers say was used."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects import Changes
from proxy.domain import Usage
from tests.dialects.native_wire import Wire, call_of, data_of, events, last_usage, tokens

WIRE = Wire("sglang")
DONE = b"data: [DONE]\n\n"


def event(text: str, completion: int, *, finish: str | None = None, cached: int = 0, **members: Any) -> dict[str, Any]:
    meta = {"id": "a", "finish_reason": finish and {"type": finish}, "prompt_tokens": 6, "completion_tokens": completion}
    return {"text": text, "meta_info": meta | {"cached_tokens": cached}, **members}


@pytest.mark.parametrize(
    ("members", "bound", "counted", "choices"),
    [
        ({"text": "hello"}, 16 + 4 + 5, 2, 1),
        ({"text": ["hello", "you"]}, 16 + 8 + 8, 3, 2),
        ({"input_ids": [1, 2, 3]}, 16 + 4 + 3, 3, 1),
        ({"input_ids": [[1, 2, 3], [4]]}, 16 + 8 + 4, 4, 2),
        ({"input_embeds": [[0.5, 1.0], [0.5, 1.0]]}, 16 + 4 + 2, 2, 1),
        ({"input_embeds": [[[0.5], [0.5]], [[0.5]]]}, 16 + 8 + 3, 3, 2),
        ({"text": "hello", "sampling_params": {"n": 3}}, 3 * 25, 6, 3),
        ({"text": "hello", "sampling_params": {"n": 1, "beam_width": 4}}, 4 * 25, 8, 4),
        ({"text": "hello", "image_data": "http://a/b.png"}, 25 + 1000, 1002, 1),
        ({"text": ["hello", "you"], "image_data": [["a", "b"], None]}, 32 + 2000, 2003, 2),
        ({"text": "hello", "audio_data": ["a"]}, 25 + 2000, 2002, 1),
        ({"text": "hello", "video_data": ["a"], "use_audio_in_video": True}, 25 + 6000, 6002, 1),
        ({"text": "hello", "rid": "x" * 100, "lora_path": "adapter"}, 25, 2, 1),
        ({"text": "hello", "whatever": "hello"}, 30, 4, 1),
    ],
)
def test_input(members: dict[str, Any], bound: int, counted: int, choices: int) -> None:
    """Text by its bytes, ids and vectors one by one, media by the operator's rule; each completion reports the prompt once more."""
    call = WIRE.parse("/generate", members)
    assert (call.input_tokens_bound, call.input_tokens_counted, call.choices, call.model) == (bound, counted, choices, "")


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"text": "hello", "input_ids": [1]},
        {"text": 7},
        {"input_ids": [True]},
        {"input_embeds": [0.5]},
        {"text": "hello", "session_params": {"id": "s"}},
        {"text": "hello", "background": True},
        {"text": "hello", "sampling_params": "x"},
        {"text": "hello", "sampling_params": [1]},
        {"text": "hello", "sampling_params": {"n": 0}},
        {"text": "hello", "sampling_params": {"max_new_tokens": -1}},
        {"text": "hello", "stream": 1},
    ],
)
def test_wrong_requests(members: dict[str, Any]) -> None:
    """What cannot be seen or priced is refused."""
    WIRE.refusal("/generate", members)


@pytest.mark.parametrize(
    ("params", "most", "lowered"),
    [
        (..., None, {"max_new_tokens": 50}),
        (None, None, {"max_new_tokens": 50}),
        ({}, None, {"max_new_tokens": 50}),
        ({"max_new_tokens": None}, None, {"max_new_tokens": 50}),
        ({"max_new_tokens": 0}, 0, {"max_new_tokens": 0}),
        ({"max_new_tokens": 70, "top_p": 0.5}, 70, {"max_new_tokens": 50, "top_p": 0.5}),
        ([{"max_new_tokens": 70}, {"max_new_tokens": 3}], 70, [{"max_new_tokens": 50}, {"max_new_tokens": 3}]),
        ([{"max_new_tokens": 7}, {}], None, [{"max_new_tokens": 7}, {"max_new_tokens": 50}]),
    ],
)
def test_maxima(params: Any, most: int | None, lowered: Any) -> None:
    """The largest maximum counts, and is lowered; where one is missing or null there is none."""
    document: dict[str, Any] = {"text": ["hello", "you"]} | ({} if params is ... else {"sampling_params": params})
    assert WIRE.parse("/generate", document).output_tokens_max == most
    assert WIRE.rewritten("/generate", document, Changes(output_tokens_max=50)) == {**document, "sampling_params": lowered}


def test_no_maximum_is_made_longer() -> None:
    """One that is added is the server's own at most; null means none, so that one is all that the hold pays."""
    assert WIRE.rewritten("/generate", {"text": "hi"}, Changes(5000))["sampling_params"] == {"max_new_tokens": 128}
    document = {"text": "hi", "sampling_params": {"max_new_tokens": None}}
    assert WIRE.rewritten("/generate", document, Changes(5000))["sampling_params"] == {"max_new_tokens": 5000}


def test_a_whole_answer() -> None:
    """Usage stands beside the text; of several answers it is that of all together."""
    meta = {"prompt_tokens": 12, "completion_tokens": 5, "cached_tokens": 4, "reasoning_tokens": 2, "audio_tokens": 3}
    answer = WIRE.answer(call_of("generate"), {"text": "one two three ", "meta_info": meta})
    assert answer.usage == Usage(input=5, cached_input=4, audio_input=3, output=3, reasoning=2)
    assert answer.output_tokens_counted == 4
    answers = [event("a", 1), event("b", 2, cached=5)]
    assert WIRE.answer(call_of("generate", choices=2), answers).usage == Usage(input=7, cached_input=5, output=3)


@pytest.mark.parametrize(
    "meta",
    [[], {"prompt_tokens": 6}, {"completion_tokens": 1}]
    + [{"prompt_tokens": 6, "completion_tokens": 1} | odd for odd in ({"prompt_tokens": -6}, {"cached_tokens": 7}, {"reasoning_tokens": 2})]
    + [{"prompt_tokens": 6, "completion_tokens": odd} for odd in (1.5, "1", True, 100_000_001)],
)
def test_absurd_usage(meta: object) -> None:
    """One odd count and none is believed; what was written is counted."""
    read = WIRE.answer(call_of("generate"), {"text": "one two three ", "meta_info": meta})
    assert (read.usage, read.output_tokens_counted, read.usage_rejected) == (None, 4, True)
    pieces, reader = WIRE.read(call_of("generate"), events({"text": "one ", "meta_info": meta}) + DONE)
    assert (tokens(pieces), last_usage(pieces), reader.usage_rejected) == ([1, 0], None, True)


def test_a_stream_of_growing_texts() -> None:
    """Only what is new in an event counts, and its own counts say how much that is."""
    stream = events(event("one ", 1), event("one two ", 3, cached=4), event("one two three ", 4, finish="stop", cached=4)) + DONE
    pieces, reader = WIRE.read(call_of("generate"), stream)
    assert (tokens(pieces), reader.deltas, reader.ended) == ([1, 2, 1, 0], 3, True)
    assert last_usage(pieces) == Usage(input=2, cached_input=4, output=4)
    assert [piece.last for piece in pieces] == [False, False, False, True]


@pytest.mark.parametrize("texts", [("one ", "one two ", "one two three "), ("one ", "two ", "three ")])
def test_a_stream_without_counts(texts: tuple[str, ...]) -> None:
    """Texts that grow and texts that are new each time cost the same."""
    pieces, reader = WIRE.read(call_of("generate"), events(*({"text": text} for text in texts)) + DONE)
    assert (tokens(pieces), reader.deltas) == ([1, 1, 1, 0], 3)


def test_a_stop_word_is_cut_off_again() -> None:
    """The last text may be shorter than the one before; nothing of it is new."""
    pieces, reader = WIRE.read(call_of("generate"), events({"text": "one two"}, {"text": "one "}) + DONE)
    assert (tokens(pieces), reader.deltas) == ([1, 0, 0], 1)


def test_a_stream_of_several_answers() -> None:
    """Each has its own text and counts."""
    stream = events(event("one ", 1, index=0), event("uno ", 1, index=1), event("uno dos ", 2, index=1), event("one two ", 2, index=0))
    pieces, _ = WIRE.read(call_of("generate", choices=2), stream + DONE)
    assert (tokens(pieces), last_usage(pieces)) == ([1, 1, 1, 1, 0], Usage(input=12, output=4))


def test_a_cut_by_length_repeats_what_was_forwarded() -> None:
    """With growing texts the last one stays as the client has it, without what was not forwarded."""
    reader = WIRE.reader(call_of("generate"))
    reader.feed(events(event("one ", 1)))
    unsent = reader.feed(events(event("one two ", 2), event("one two three ", 3, finish="length")))[1:]
    said = reader.cut_by_length(Usage(input=2, cached_input=4, output=2), unsent=unsent)
    assert said is not None
    assert said.endswith(DONE)
    closing = data_of(said)
    assert [(e["text"], e["index"]) for e in closing] == [("one two ", 0)]
    meta = closing[0]["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 2}
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (6, 2, 4)


def test_a_cut_by_length_of_several_answers() -> None:
    """Only those that are open are closed; where texts are new each time, there is none."""
    reader = WIRE.reader(call_of("generate", choices=2))
    reader.feed(events(event("one ", 1, index=0), event("uno ", 1, index=1, finish="stop"), event("two ", 2, index=0)))
    closing = data_of(reader.cut_by_length(Usage(input=12, output=3)) or b"")
    assert [(e["text"], e["index"], "prompt_tokens" in e["meta_info"]) for e in closing] == [("", 0, False)]
