"""Streamed answers of the OpenAI dialect: what is counted, what is believed, what is taken out, and that nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS, Reader
from proxy.dialects.sse import EVENT_STREAM, FRAME_MAX_BYTES, Frame, FrameSplitter
from proxy.domain import Call, Piece, Usage
from tests.dialects.recorded_streams import RECORDINGS, Recording

OPENAI = DIALECTS["openai"]


def call_of(operation: str = "chat", *, wants_usage: bool = False, choices: int = 1, input_tokens_bound: int = 100) -> Call:
    return Call(
        operation=operation,
        model="m",
        stream=True,
        choices=choices,
        output_tokens_max=None,
        input_tokens_bound=input_tokens_bound,
        input_tokens_counted=10,
        wants_usage=wants_usage,
    )


def reader_of(call: Call) -> Reader:
    reader = OPENAI.read_stream(call, EVENT_STREAM)
    assert reader is not None
    return reader


def read(call: Call, *chunks: bytes) -> tuple[list[Piece], Reader]:
    reader = reader_of(call)
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def frames_of(stream: bytes) -> list[Frame]:
    splitter = FrameSplitter()
    return splitter.feed(stream) + splitter.close()


def forwarded(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def last_usage(pieces: Iterable[Piece]) -> Usage | None:
    return ([piece.usage for piece in pieces if piece.usage] or [None])[-1]


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def delta(members: dict[str, Any], **beside: Any) -> bytes:
    return event({"id": "c", "choices": [{"index": 0, "delta": members}], **beside})


RECORDED = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)


@RECORDED
@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_recorded_stream_is_read(recording: Recording, wants_usage: bool) -> None:
    """Content is counted, usage is found, and only the extra chunk is taken out, and only where the client did not ask for it."""
    pieces, reader = read(call_of(recording.operation, wants_usage=wants_usage, choices=recording.choices), recording.stream)
    assert tuple(piece.output_tokens for piece in pieces if piece.output_tokens) == recording.tokens
    assert reader.deltas == recording.deltas
    assert last_usage(pieces) == recording.usage
    assert forwarded(pieces) == (recording.stream if wants_usage else recording.stream.replace(recording.extra_chunk, b""))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (reader.ended, reader.failed, reader.usage_rejected) == (True, False, False)


def state(call: Call, *chunks: bytes) -> tuple[object, ...]:
    pieces, reader = read(call, *chunks)
    return pieces, reader.deltas, reader.ended, reader.failed, reader.usage_rejected


@RECORDED
def test_every_split_point_gives_the_same_pieces(recording: Recording) -> None:
    """Cut in two anywhere, or byte by byte, the stream has the same pieces, bytes and counts."""
    call = call_of(recording.operation)
    whole = state(call, recording.stream)
    for place in range(0, len(recording.stream), 3):
        assert state(call, recording.stream[:place], recording.stream[place:]) == whole
    assert state(call, *(recording.stream[place : place + 1] for place in range(len(recording.stream)))) == whole


@given(st.sampled_from(RECORDINGS), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_chunking_gives_the_same_pieces(recording: Recording, cuts: list[int]) -> None:
    """How the network groups bytes decides nothing."""
    places = sorted({cut % (len(recording.stream) + 1) for cut in cuts})
    chunks = [recording.stream[start:end] for start, end in zip([0, *places], [*places, len(recording.stream)], strict=True)]
    call = call_of(recording.operation, wants_usage=True)
    assert state(call, *chunks) == state(call, recording.stream)


@RECORDED
def test_a_stream_that_breaks_anywhere_forwards_whole_events_alone(recording: Recording) -> None:
    """Whatever the upstream sent before it vanished is a beginning of the stream, without half an event that no client could read."""
    readable = {frame.data for frame in frames_of(recording.stream)}
    for place in range(0, len(recording.stream), 7):
        pieces, reader = read(call_of(recording.operation, wants_usage=True), recording.stream[:place])
        assert recording.stream.startswith(forwarded(pieces))
        assert {frame.data for frame in frames_of(forwarded(pieces))} <= {None, *readable}
        whole = frames_of(recording.stream[: recording.stream[:place].rfind(b"\n\n") + 2])
        assert len(forwarded(pieces)) >= sum(len(frame.raw) for frame in whole if frame.whole)
        assert reader.ended == any(piece.last for piece in pieces)


# --- what counts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({"role": "assistant"}, 0),
        ({"role": "assistant", "content": "", "tool_calls": [], "refusal": None}, 0),
        ({}, 0),
        ({"content": "x"}, 1),
        ({"content": "x" * 16}, 1),
        ({"content": "x" * 17}, 5),
        ({"content": "é" * 9}, 5),
        ({"content": "日本語"}, 1),
        ({"content": "x" * 400}, 100),
        ({"reasoning_content": "x" * 40}, 10),
        ({"reasoning": "x" * 40, "reasoning_content": "x" * 40, "reasoning_details": [{"type": "t", "text": "x" * 40}]}, 10),
        ({"reasoning": "x" * 40, "content": "y" * 40}, 20),
        ({"refusal": "no"}, 1),
        ({"tool_calls": [{"index": 0, "id": "call_123456789012345678901234567890", "function": {"name": "f", "arguments": ""}}]}, 1),
        ({"tool_calls": [{"index": 0, "function": {"arguments": "x" * 20}}, {"index": 1, "function": {"arguments": "x" * 20}}]}, 10),
        ({"tool_calls": [{"index": 0, "type": "custom", "custom": {"name": "n" * 10, "input": "x" * 30}}]}, 10),
        ({"function_call": {"name": "n" * 10, "arguments": "x" * 30}}, 10),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "x" * 40}]}]}, 10),
        ({"audio": {"id": "audio_1", "data": "A" * 8192, "transcript": "hello"}}, 10),
        ({"audio": {"id": "audio_1", "expires_at": 1}}, 0),
        ({"surprise": "x" * 40}, 10),
        ({"content": 7, "tool_calls": "x", "audio": 3}, 1),
        ("bare text", 1),
        (None, 0),
    ],
)
def test_the_content_of_a_delta_is_counted(members: Any, tokens: int) -> None:
    """All that the model writes counts, whatever it is called, and nothing that the server adds."""
    pieces, reader = read(call_of(), delta(members))
    assert sum(piece.output_tokens for piece in pieces) == tokens
    assert reader.deltas == (1 if tokens else 0)


def test_each_choice_of_a_chunk_is_a_delta_of_its_own() -> None:
    """Several answers in one event are several tokens."""
    choices = [{"index": index, "delta": {"content": "x"}} for index in range(5)]
    (piece,), reader = read(call_of(choices=5), event({"choices": choices}))
    assert (piece.output_tokens, reader.deltas) == (5, 5)


def test_a_message_counts_where_a_server_sends_no_delta_and_not_twice_where_it_sends_both() -> None:
    """Some servers repeat the whole message so far beside each delta."""
    (alone,), _ = read(call_of(), event({"choices": [{"index": 0, "message": {"role": "assistant", "content": "x" * 40}}]}))
    (both,), _ = read(call_of(), event({"choices": [{"index": 0, "message": {"content": "x" * 40}, "delta": {"content": "x"}}]}))
    assert (alone.output_tokens, both.output_tokens) == (10, 1)


def test_an_event_too_long_to_buffer_is_forwarded_and_metered_by_its_bytes() -> None:
    """Nobody hides an answer in one endless event."""
    stream = b"data: " + b"x" * 3_000_000 + b"\n\ndata: [DONE]\n\n"
    pieces, reader = read(call_of(), *(stream[place : place + 65_536] for place in range(0, len(stream), 65_536)))
    assert forwarded(pieces) == stream
    assert sum(piece.output_tokens for piece in pieces) == pytest.approx(3_000_008 / 4, abs=4)
    assert reader.ended


def test_the_long_events_of_a_response_that_repeats_long_instructions_are_read() -> None:
    """The first and last events of a response repeat what the request said, and that is no output."""
    instructions = "é" * 1_000_000
    created = event({"type": "response.created", "response": {"id": "r", "instructions": instructions}, "sequence_number": 0})
    usage = {"input_tokens": 1_500_000, "output_tokens": 2, "total_tokens": 1_500_002}
    end = event({"type": "response.completed", "response": {"id": "r", "instructions": instructions, "usage": usage}})
    pieces, reader = read(call_of("responses", input_tokens_bound=2_000_000), created + end)
    assert (sum(piece.output_tokens for piece in pieces), last_usage(pieces)) == (0, Usage(input=1_500_000, output=2))
    assert reader.ended


# --- usage in streams ----------------------------------------------------------------------------------------------------------------


def usage_event(prompt: object, completion: object, **beside: Any) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}, **beside})


def test_usage_that_rides_on_a_chunk_with_choices_passes_unchanged() -> None:
    """Only the chunk that we asked for is ours to take out."""
    stream = delta({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    (piece,), _ = read(call_of(), stream)
    assert (piece.data, piece.usage) == (stream, Usage(input=1, output=1))


def test_reported_counts_never_fall() -> None:
    """Of several reports the greatest counts, input and output each on its own, and one report is not added to another."""
    stream = usage_event(10, 5) + usage_event(10, 9) + usage_event(12, 3) + usage_event(4, 11)
    pieces, reader = read(call_of(), stream)
    reported = [(piece.usage.input, piece.usage.output) for piece in pieces if piece.usage]
    assert reported == [(10, 5), (10, 9), (12, 9), (12, 11)]
    assert not reader.usage_rejected


def test_a_repeated_report_with_more_cached_input_is_not_added_up() -> None:
    """The kinds of one direction come from one report."""
    details = {"prompt_tokens_details": {"cached_tokens": 8}}
    later = event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1, **details}})
    pieces, _ = read(call_of(), usage_event(10, 1) + later)
    assert last_usage(pieces) == Usage(input=2, cached_input=8, output=1)


@pytest.mark.parametrize(
    "usage", [b"-1", b"1.5", b"12.0", b'"12"', b"true", b"1e999", b"NaN", b"100000001", b"9" * 30, b"9" * 5000, b"[1]", b"{}"]
)
def test_usage_that_cannot_be_believed_is_flagged_and_left_out(usage: bytes) -> None:
    """A count that is no plain number of tokens spoils the report; the chunk is still ours to take out, if it can be read."""
    chunk = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":' + usage + b"}}\n\n"
    pieces, reader = read(call_of(), delta({"content": "x"}) + chunk + b"data: [DONE]\n\n")
    assert last_usage(pieces) is None
    assert reader.usage_rejected


def test_a_null_or_missing_usage_is_not_an_odd_one() -> None:
    """Absent is absent: nothing is believed and nothing is flagged."""
    _, reader = read(call_of(), delta({"content": "x"}, usage=None) + delta({"content": "y"}))
    assert not reader.usage_rejected


# --- ends and errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        event({"error": {"message": "overloaded", "type": "server_error", "code": None}}),
        event({"error": "out of memory"}),
        event({"object": "error", "message": "bad", "code": 400}),
        b'error: {"code":500,"message":"slot failed"}\n\n',
    ],
)
def test_an_error_in_a_chat_stream_is_noticed_and_passed_on(stream: bytes) -> None:
    """The client sees the upstream's error as it was sent; it costs no output."""
    pieces, reader = read(call_of(), delta({"content": "x"}) + stream)
    assert forwarded(pieces) == delta({"content": "x"}) + stream
    assert (reader.failed, reader.ended, sum(piece.output_tokens for piece in pieces)) == (True, False, 1)


@pytest.mark.parametrize(("deltas", "tokens"), [(["x" * 40], [10, 0]), (["x" * 20], [5, 5]), ([], [10])])
def test_an_item_that_comes_without_deltas_counts_when_it_is_done(deltas: list[str], tokens: list[int]) -> None:
    """Some servers send the text at once; whoever leaves after it has had it."""
    events = [event({"type": "response.output_text.delta", "delta": delta}) for delta in deltas]
    item = {"type": "message", "content": [{"type": "output_text", "text": "x" * 40}]}
    pieces, _ = read(call_of("responses"), *events, event({"type": "response.output_item.done", "item": item}))
    assert [piece.output_tokens for piece in pieces] == tokens


@pytest.mark.parametrize("ending", ["completed", "incomplete", "failed"])
def test_a_response_ends_with_its_last_event(ending: str) -> None:
    """There is no other end marker, and that event holds the usage."""
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    pieces, reader = read(call_of("responses"), event({"type": f"response.{ending}", "response": {"status": ending, "usage": usage}}))
    assert [(piece.last, piece.usage) for piece in pieces] == [(True, Usage(input=3, output=2))]
    assert (reader.ended, reader.failed) == (True, ending == "failed")


def test_an_image_in_a_chat_counts_by_the_piece_and_not_by_its_bytes() -> None:
    """It comes in one chunk, however large, and whoever leaves after it has had it."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (FRAME_MAX_BYTES + 1)}}
    chunk = delta({"content": "", "images": [image]})
    pieces, reader = read(call_of(), chunk)
    assert ([piece.output_tokens for piece in pieces], forwarded(pieces), reader.deltas) == ([2_520], chunk, 1)


def test_words_beside_an_error_count() -> None:
    """A chunk may hold both."""
    chunk = {"error": {"message": "overloaded"}, "choices": [{"index": 0, "delta": {"content": "x" * 40}, "finish_reason": "error"}]}
    pieces, reader = read(call_of(), event(chunk))
    assert ([piece.output_tokens for piece in pieces], reader.deltas, reader.failed) == ([10], 1, True)


def test_an_error_event_of_a_response_is_noticed() -> None:
    """Failed, though not ended."""
    _, reader = read(call_of("responses"), event({"type": "error", "code": "server_error", "message": "m", "sequence_number": 1}))
    assert (reader.failed, reader.ended) == (True, False)


def test_what_a_response_wrote_without_a_delta_is_counted_at_its_end_when_usage_is_missing() -> None:
    """A server that sends whole items only still writes nothing free."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": "x" * 40}]}]
    seen = event({"type": "response.output_text.delta", "delta": "x" * 20})
    (first, last), _ = read(call_of("responses"), seen + event({"type": "response.completed", "response": {"output": output}}))
    assert (first.output_tokens, last.output_tokens) == (5, 5)


def test_a_delta_of_any_kind_counts_in_a_response() -> None:
    """Event types that are not invented yet end in `.delta` too; speech counts by its length in time, not in base64."""
    stream = event({"type": "response.new_thing.delta", "delta": {"text": "x" * 40}}) + event(
        {"type": "response.audio.delta", "delta": "A" * 8192}
    )
    pieces, _ = read(call_of("responses"), stream)
    assert [piece.output_tokens for piece in pieces] == [10, 8]


def test_the_type_of_an_event_may_stand_in_its_name_alone() -> None:
    """The name is as good as the member."""
    stream = b'event: response.output_text.delta\ndata: {"delta":"hello"}\n\n'
    (piece,), _ = read(call_of("responses"), stream)
    assert piece.output_tokens == 1


NAMES = ("choices", "delta", "content", "usage", "index", "error", "type", "response", "output", "item", "tool_calls", "message", "text")
MORE_NAMES = ("audio", "data", "finish_reason", "prompt_tokens", "completion_tokens", "completion_tokens_details", "summary")
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES + MORE_NAMES), inner, max_size=4),
    max_leaves=15,
)


@given(DOCUMENTS, st.sampled_from(["chat", "completions", "responses"]))
def test_no_event_makes_a_reader_fail(document: Any, operation: str) -> None:
    """Whatever an upstream sends is forwarded and counted, never an exception."""
    stream = event({"type": "response.completed", "choices": [document], **document} if isinstance(document, dict) else document)
    for call in (call_of(operation, wants_usage=True), call_of(operation)):
        pieces, reader = read(call, event(document) + stream)
        assert all(piece.output_tokens >= 0 for piece in pieces)
        assert reader.deltas >= 0
        reader.cut_by_length(Usage())
