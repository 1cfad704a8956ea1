"""Streamed answers of the Gemini dialect, as events and as an array: what is counted, what is believed, when they are complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Reader
from proxy.dialects.gemini_stream import CHUNK_MAX_BYTES
from proxy.domain import Call, Piece, Usage
from proxy.errors import Refusal

GEMINI = DIALECTS["gemini"]
EVENTS, ARRAY = "text/event-stream", "application/json"
FORMS = pytest.mark.parametrize("form", [EVENTS, ARRAY])
SPENT = Refusal("insufficient_quota", "The budget is spent.", hint="Wait.")


def call_of(choices: int = 1, operation: str = "stream_generate_content") -> Call:
    return Call(
        operation=operation,
        model="m",
        stream=operation == "stream_generate_content",
        choices=choices,
        output_tokens_max=None,
        input_tokens_bound=100,
        input_tokens_counted=10,
    )


def reader_of(form: str, choices: int = 1) -> Reader:
    reader = GEMINI.read_stream(call_of(choices), form)
    assert reader is not None
    return reader


def read(form: str, *chunks: bytes, choices: int = 1) -> tuple[list[Piece], Reader]:
    reader = reader_of(form, choices)
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def written(form: str, documents: Sequence[Any]) -> bytes:
    """A stream as Google writes it."""
    texts = [json.dumps(document, indent=1).encode() if form == ARRAY else json.dumps(document).encode() for document in documents]
    if form == EVENTS:
        return b"".join(b"data: " + text + b"\r\n\r\n" for text in texts)
    return b"[" + b"\n,\r\n".join(texts) + b"\n]\n"


def text(words: str, *, finish: str | None = None, index: int | None = None, **beside: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": words}], "role": "model"}}
    if finish is not None:
        candidate["finishReason"] = finish
    if index is not None:
        candidate["index"] = index
    return {"candidates": [candidate], **beside}


def used(prompt: int, candidates: int | None = None, **counts: Any) -> dict[str, Any]:
    return {"usageMetadata": {"promptTokenCount": prompt, **({} if candidates is None else {"candidatesTokenCount": candidates}), **counts}}


def forwarded(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def last_usage(pieces: Iterable[Piece]) -> Usage | None:
    return ([piece.usage for piece in pieces if piece.usage] or [None])[-1]


def end_of(form: str, stream: bytes) -> Any:
    """The last document of a stream that was cut."""
    if form == ARRAY:
        return json.loads(stream)[-1]
    assert stream.endswith(b"\n\n")
    return json.loads(stream.rstrip().rpartition(b"data: ")[2])


THOUGHTS = [
    text("", responseId="r", modelVersion="gemini-2.5-pro", **used(10, thoughtsTokenCount=60, totalTokenCount=70)),
    text('Say "{hi}" \\', responseId="r", **used(10, 4, thoughtsTokenCount=60, totalTokenCount=74)),
    text(" there, all of you!", finish="STOP", responseId="r", **used(10, 9, thoughtsTokenCount=60, totalTokenCount=79)),
]
LATE_USAGE = [
    text("Hello!", usageMetadata={"trafficType": "ON_DEMAND"}),
    text(" How can I help you today", usageMetadata={"trafficType": "ON_DEMAND"}),
    text("?", finish="STOP", **used(1, 9, totalTokenCount=10, trafficType="ON_DEMAND")),
]
FINISHED_IN_EVERY_CHUNK = [text(word, finish="STOP", index=0) for word in ("one ", "two ", "three ")]
BLOCKED = [{"promptFeedback": {"blockReason": "SAFETY"}, **used(5, totalTokenCount=5)}]
CALLING = [
    {
        "candidates": [
            {"content": {"parts": [{"functionCall": {"name": "f", "args": {"id": "größe", "n": 1}}, "thoughtSignature": "c2ln"}]}}
        ]
    },
    text("", finish="STOP", **used(7, 3)),
    used(7, 3, totalTokenCount=10),
]
STREAMS = {"thoughts": THOUGHTS, "late usage": LATE_USAGE, "finished": FINISHED_IN_EVERY_CHUNK, "blocked": BLOCKED, "calling": CALLING}
STREAM = pytest.mark.parametrize("documents", STREAMS.values(), ids=STREAMS.keys())


# --- whole streams -------------------------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize(
    ("name", "tokens", "deltas", "usage"),
    [
        ("thoughts", [0, 1, 5], 2, Usage(input=10, output=9, reasoning=60)),
        ("late usage", [1, 7, 1], 3, Usage(input=1, output=9)),
        ("finished", [1, 1, 1], 3, None),
        ("blocked", [0], 0, Usage(input=5)),
        ("calling", [1, 0, 0], 1, Usage(input=7, output=3)),
    ],
)
def test_a_stream_is_read(form: str, name: str, tokens: list[int], deltas: int, usage: Usage | None) -> None:
    """Content is counted, usage is found, not a byte changes, and what may be the end waits for it."""
    stream = written(form, STREAMS[name])
    pieces, reader = read(form, stream)
    assert [piece.output_tokens for piece in pieces][: len(tokens)] == tokens
    assert sum(piece.output_tokens for piece in pieces) == sum(tokens)
    assert (reader.deltas, last_usage(pieces)) == (deltas, usage)
    assert forwarded(pieces) == stream
    assert (reader.ended, reader.failed, reader.usage_rejected) == (True, False, False)
    lasts = [piece.last for piece in pieces]
    assert lasts == sorted(lasts)
    assert lasts[-1]


def state(form: str, *chunks: bytes) -> tuple[object, ...]:
    pieces, reader = read(form, *chunks)
    return pieces, reader.deltas, reader.ended, reader.failed, reader.usage_rejected


@FORMS
@STREAM
def test_every_split_point_gives_the_same_pieces(form: str, documents: Sequence[Any]) -> None:
    """Cut in two anywhere, or byte by byte, the stream has the same pieces, bytes and counts."""
    stream = written(form, documents)
    whole = state(form, stream)
    for place in range(len(stream)):
        assert state(form, stream[:place], stream[place:]) == whole
    assert state(form, *(stream[place : place + 1] for place in range(len(stream)))) == whole


STRINGS = st.text('a"\\{}[],:\n é', max_size=12)
DOCUMENTS = st.lists(
    st.builds(text, STRINGS, finish=st.none() | st.just("STOP"), index=st.none() | st.integers(0, 2))
    | st.just({"error": {"code": 503}})
    | st.builds(used, st.integers(0, 9), st.none() | st.integers(-1, 9)),
    max_size=5,
)


@given(st.sampled_from([EVENTS, ARRAY]), DOCUMENTS, st.lists(st.integers(0, 10_000), max_size=6), st.integers(0, 10_000))
def test_any_chunking_of_any_beginning_gives_the_same_pieces(form: str, documents: list[Any], cuts: list[int], length: int) -> None:
    """How the network groups bytes decides nothing, also where the upstream vanishes; what is forwarded is a beginning of the stream."""
    stream = written(form, documents)
    stream = stream[: length % (len(stream) + 1)]
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    chunks = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
    assert state(form, *chunks) == state(form, stream)
    pieces, reader = read(form, *chunks)
    assert stream.startswith(forwarded(pieces))
    assert reader.ended == any(piece.last for piece in pieces)


@pytest.mark.parametrize("documents", [THOUGHTS, LATE_USAGE], ids=["thoughts", "late usage"])
@FORMS
def test_a_stream_that_stops_early_is_not_complete(form: str, documents: Sequence[Any]) -> None:
    """An upstream that vanished must not pass for one that has finished."""
    stream = written(form, documents)
    for place in range(len(stream.rstrip())):
        pieces, reader = read(form, stream[:place])
        assert not any(piece.last for piece in pieces)
        assert not reader.ended


# --- the end -------------------------------------------------------------------------------------------------------------------------


def test_what_may_be_the_last_event_waits_for_the_connections_end() -> None:
    """So that the hold is settled before the client has all of the answer; the next event lets it pass."""
    first, second, third = (written(EVENTS, [document]) for document in FINISHED_IN_EVERY_CHUNK)
    reader = reader_of(EVENTS)
    assert forwarded(reader.feed(first)) == b""
    assert forwarded(reader.feed(second + b": wait\n\n")) == first
    assert forwarded(reader.feed(third)) == second + b": wait\n\n"
    (last,) = reader.close()
    assert (last.data, last.last, reader.ended) == (third, True, True)


def test_comments_without_end_do_not_wait_for_ever() -> None:
    """What is held back is bounded."""
    stream = written(EVENTS, [text("all", finish="STOP")]) + b": still here\n\n" * 100
    pieces, reader = read(EVENTS, stream)
    assert forwarded(pieces) == stream
    assert reader.ended
    assert 0 < sum(piece.last for piece in pieces) <= 8


def test_every_candidate_must_have_finished() -> None:
    """One of two is not all."""
    one = written(EVENTS, [text("a", index=0), text("b", index=1), text("", index=1, finish="STOP")])
    assert not read(EVENTS, one, choices=2)[1].ended
    assert read(EVENTS, one + written(EVENTS, [text("", finish="MAX_TOKENS")]), choices=2)[1].ended


def test_a_reason_that_is_none_does_not_finish() -> None:
    """By name, by number, or empty."""
    for reason in ("FINISH_REASON_UNSPECIFIED", 0, "", None):
        document = {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": reason}]}
        assert not read(EVENTS, written(EVENTS, [document]))[1].ended
    assert read(EVENTS, written(EVENTS, [{"candidates": [{"finishReason": 1}]}]))[1].ended


def test_an_array_is_complete_where_it_is_closed() -> None:
    """Its bracket waits, with whatever follows it."""
    stream = written(ARRAY, [text("a")])
    pieces, reader = read(ARRAY, stream)
    assert [(piece.data, piece.last) for piece in pieces][1:] == [(b"\n]", True), (b"\n", True)]
    assert reader.ended


def test_an_empty_array_is_complete() -> None:
    """It holds nothing, and costs nothing but the input."""
    pieces, reader = read(ARRAY, b"[]")
    assert (forwarded(pieces), sum(piece.output_tokens for piece in pieces), reader.ended) == (b"[]", 0, True)


def test_one_bare_object_instead_of_an_array_is_read_all_the_same() -> None:
    """Some gateways answer so; it is complete where its candidates are."""
    for finish in ("STOP", None):
        stream = json.dumps(text("some words", finish=finish, **used(3, 2))).encode()
        pieces, reader = read(ARRAY, stream)
        assert (forwarded(pieces), last_usage(pieces)) == (stream, Usage(input=3, output=2))
        assert reader.ended == (finish is not None)


# --- what counts -------------------------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"text": ""}, 0),
        ({"text": "x"}, 1),
        ({"text": "x" * 16}, 1),
        ({"text": "x" * 17}, 5),
        ({"text": "thinking", "thought": True}, 1),
        ({"text": "", "thoughtSignature": "x" * 400}, 0),
        ({"functionCall": {"id": "x" * 40, "name": "look", "args": {"where": "abcdefgh"}}}, 5),
        ({"executableCode": {"language": "PYTHON", "code": "x" * 34}}, 10),
        ({"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "A" * 40_960}}, 40),
        ({"inlineData": {"mimeType": "image/png", "data": "A" * 100}}, 2_520),
        ({"newKind": {"words": "x" * 20}}, 5),
        ("x" * 20, 5),
    ],
)
def test_what_a_part_holds_is_counted(form: str, part: Any, tokens: int) -> None:
    """Text by its bytes, sound by its length, an image as one; signatures and ids are not the model's."""
    pieces, _ = read(form, written(form, [{"candidates": [{"content": {"parts": [part]}}]}]))
    assert sum(piece.output_tokens for piece in pieces) == tokens


@FORMS
@pytest.mark.parametrize("document", [{"output": "x" * 100}, {"candidates": "x" * 100}, "x" * 100, 1.5])
def test_what_is_not_known_counts_by_its_bytes(form: str, document: Any) -> None:
    """Nothing is free because it is said in another way."""
    pieces, _ = read(form, written(form, [document]))
    assert sum(piece.output_tokens for piece in pieces) >= len(json.dumps(document)) // 4


def test_an_event_too_long_to_keep_counts_by_its_bytes() -> None:
    """Memory is bounded; all of it is forwarded, in parts."""
    for form in (EVENTS, ARRAY):
        stream = written(form, [text("x" * (CHUNK_MAX_BYTES + 10))])
        pieces, reader = read(form, stream, b"")
        assert forwarded(pieces) == stream
        assert sum(piece.output_tokens for piece in pieces) >= CHUNK_MAX_BYTES // 4
        assert (reader.cut_by_error(SPENT) is None) == (form == ARRAY)


@FORMS
def test_an_upstreams_own_error_ends_the_stream(form: str) -> None:
    """It is forwarded, costs nothing, and nothing is added to it."""
    stream = written(form, [text("a"), {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}])
    pieces, reader = read(form, stream)
    assert forwarded(pieces) == stream
    assert (sum(piece.output_tokens for piece in pieces), reader.failed) == (1, True)


def test_an_error_without_a_fields_name_is_seen() -> None:
    """Google writes some of its errors into the stream as bare JSON."""
    stream = b'data: {"candidates":[]}\n\n{"error": {"code": 500}}\n'
    pieces, reader = read(EVENTS, stream)
    assert (forwarded(pieces), reader.failed) == (stream, True)


# --- usage -------------------------------------------------------------------------------------------------------------------------


@FORMS
def test_usage_that_does_not_count_the_answer_yet_is_completed_by_counting(form: str) -> None:
    """Early chunks name the prompt alone; a client that leaves then must not have the words for nothing."""
    pieces, _ = read(form, written(form, [text("one ", **used(11)), text("two ", **used(11, totalTokenCount=11))]))
    assert [piece.usage for piece in pieces if piece.usage] == [Usage(input=11, output=1), Usage(input=11, output=2)]


@FORMS
def test_what_comes_after_the_last_usage_is_counted(form: str) -> None:
    """Whether it brings none or one that cannot be believed."""
    late: list[dict[str, Any]] = [{}, used(11, -1), {"usageMetadata": {}}]
    for beside in late:
        pieces, reader = read(form, written(form, [text("one ", **used(11, 5)), text("two ", **beside)]))
        assert last_usage(pieces) == Usage(input=11, output=6)
        assert reader.usage_rejected == (beside == used(11, -1))


@FORMS
def test_usage_never_falls(form: str) -> None:
    """A later report that says less is not believed over an earlier one."""
    documents = [text("a", **used(11, 5, thoughtsTokenCount=9)), text("b", **used(3, 2)), text("c", **used(12, 20))]
    pieces, _ = read(form, written(form, documents))
    assert [piece.usage for piece in pieces if piece.usage] == [
        Usage(input=11, output=5, reasoning=9),
        Usage(input=11, output=5, reasoning=9),
        Usage(input=12, output=20),
    ]


@FORMS
def test_usage_that_cannot_be_read_is_flagged(form: str) -> None:
    """A chunk that is no JSON, but names a usage."""
    stream = b'data: {"usageMetadata": x}\n\n' if form == EVENTS else b'[{"usageMetadata": x}]'
    assert read(form, stream)[1].usage_rejected


# --- how we end a stream -------------------------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("forwarded_pieces", [0, 1, 2])
def test_a_stream_that_is_cut_ends_with_the_error(form: str, forwarded_pieces: int) -> None:
    """After any whole piece the stream can be read to its end, which names the error first, as clients look for it."""
    reader = reader_of(form)
    pieces = list(reader.feed(written(form, THOUGHTS)))
    sent, unsent = pieces[:forwarded_pieces], pieces[forwarded_pieces:]
    farewell = reader.cut_by_error(SPENT, unsent=unsent)
    assert farewell is not None
    end = end_of(form, forwarded(sent) + farewell)
    assert end["error"] == {"code": 402, "message": "The budget is spent. Wait.", "status": "RESOURCE_EXHAUSTED"}
    assert end["compute_ledger"]["code"] == "insufficient_quota"
    assert b'{"error":{"code":402' in farewell


@FORMS
@pytest.mark.parametrize("forwarded_pieces", [0, 1, 2])
def test_a_stream_that_is_ended_by_length_closes_each_open_candidate(form: str, forwarded_pieces: int) -> None:
    """With the usage that is charged, and what the other chunks say of the answer."""
    reader = reader_of(form, choices=3)
    documents = [
        text("one", index=0, responseId="r", modelVersion="v"),
        text("two", index=1, finish="STOP"),
        text("three", index=2),
        text("", index=2, finish="STOP"),
        text("", index=0, finish="STOP"),
    ]
    pieces = list(reader.feed(written(form, documents)))
    sent, unsent = pieces[:forwarded_pieces], pieces[forwarded_pieces:]
    farewell = reader.cut_by_length(Usage(input=8, cached_input=2, output=3, reasoning=4), unsent=unsent)
    assert farewell is not None
    end = end_of(form, forwarded(sent) + farewell)
    assert [candidate["index"] for candidate in end["candidates"]] == ([0, 2] if forwarded_pieces == 2 else [0, 1, 2])
    assert {candidate["finishReason"] for candidate in end["candidates"]} == {"MAX_TOKENS"}
    assert (end["responseId"], end["modelVersion"]) == ("r", "v")
    assert end["usageMetadata"] == {
        "promptTokenCount": 10,
        "cachedContentTokenCount": 2,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 4,
        "totalTokenCount": 17,
    }


@FORMS
def test_half_a_chunk_is_taken_out_before_the_error(form: str) -> None:
    """An upstream that vanishes in the middle of a chunk leaves a stream that can be read."""
    stream = written(form, THOUGHTS[:2])
    pieces, reader = read(form, stream[:-30])
    farewell = reader.cut_by_error(SPENT)
    assert farewell is not None
    assert end_of(form, forwarded(pieces) + farewell)["error"]["code"] == 402


def test_only_answers_that_generate_come_as_streams() -> None:
    """Embeddings never do, and an answer that was not asked for as an array is none."""
    assert GEMINI.read_stream(call_of(operation="generate_content"), EVENTS) is not None
    assert GEMINI.read_stream(call_of(operation="generate_content"), ARRAY) is None
    assert GEMINI.read_stream(call_of(operation="embed_content"), EVENTS) is None
    assert GEMINI.read_stream(call_of(), "text/html") is None
