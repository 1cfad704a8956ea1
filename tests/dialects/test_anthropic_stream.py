"""Streamed answers of the Anthropic dialect: what is counted, what is believed when, how a cut ends, and that no byte changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Reader
from proxy.domain import Call, Piece, Usage
from proxy.errors import Refusal

ANTHROPIC = DIALECTS["anthropic"]
CALL = Call("messages", "m", True, 1, 100, 50, 10)


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members}, ensure_ascii=False)}\n\n".encode()


def start(**usage: Any) -> bytes:
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    return event("message_start", message={**message, **({"usage": usage} if usage else {})})


def opened(index: int = 0, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block or {"type": "text", "text": ""})


def said(text: str, index: int = 0) -> bytes:
    return filled(index, type="text_delta", text=text)


def filled(index: int = 0, **delta: Any) -> bytes:
    return event("content_block_delta", index=index, delta=delta)


def closed(index: int = 0) -> bytes:
    return event("content_block_stop", index=index)


def end(**usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, **({"usage": usage} if usage else {}))


STOP = event("message_stop")
PING = event("ping")

RECORDED = (
    start(
        input_tokens=12,
        cache_read_input_tokens=30,
        cache_creation_input_tokens=9,
        cache_creation={"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7},
        output_tokens=1,
        service_tier="standard",
    )
    + opened(type="thinking", thinking="", signature="")
    + PING
    + filled(type="thinking_delta", thinking="Let me see.")
    + filled(type="signature_delta", signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pk")
    + closed()
    + opened(1)
    + said("Grün, ", 1)
    + said("as grass in a spring meadow", 1)
    + filled(1, type="citations_delta", citation={"type": "char_location", "cited_text": "green"})
    + closed(1)
    + opened(2, type="tool_use", id="toolu_1", name="get_weather", input={})
    + filled(2, type="input_json_delta", partial_json="")
    + filled(2, type="input_json_delta", partial_json='{"city":')
    + filled(2, type="input_json_delta", partial_json='"Paris"}')
    + closed(2)
    + end(output_tokens=40, output_tokens_details={"thinking_tokens": 15})
    + STOP
)
"""After the wire format of the API; identifiers are made up."""


def read(*chunks: bytes) -> tuple[list[Piece], Reader]:
    reader = ANTHROPIC.read_stream(CALL, "text/event-stream")
    assert reader is not None
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def forwarded(pieces: Sequence[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def last_usage(pieces: Sequence[Piece]) -> Usage | None:
    return next((piece.usage for piece in reversed(pieces) if piece.usage), None)


def state(*chunks: bytes) -> tuple[object, ...]:
    pieces, reader = read(*chunks)
    return pieces, reader.deltas, reader.ended, reader.failed, reader.usage_rejected


def test_a_recorded_stream_is_read() -> None:
    """Words, thoughts and tool calls count, usage is found, the end marker is the last piece, and every byte is forwarded."""
    pieces, reader = read(RECORDED)
    assert [piece.output_tokens for piece in pieces if piece.output_tokens] == [1, 1, 7, 1, 1, 1]
    assert reader.deltas == 6
    assert pieces[0].usage == Usage(input=12, cached_input=30, cache_write=2, cache_write_1h=7)
    assert last_usage(pieces) == Usage(input=12, cached_input=30, cache_write=2, cache_write_1h=7, output=25, reasoning=15)
    assert forwarded(pieces) == RECORDED
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (reader.ended, reader.failed, reader.usage_rejected) == (True, False, False)


def test_every_split_point_gives_the_same_pieces() -> None:
    """Cut in two anywhere, or byte by byte."""
    whole = state(RECORDED)
    for place in range(0, len(RECORDED), 3):
        assert state(RECORDED[:place], RECORDED[place:]) == whole
    assert state(*(RECORDED[place : place + 1] for place in range(len(RECORDED)))) == whole


def test_an_answer_of_another_type_is_no_stream() -> None:
    """It is read as a whole."""
    assert ANTHROPIC.read_stream(CALL, "application/json") is None


# --- what counts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "tokens"),
    [
        (said("one"), 1),
        (said("x" * 16), 1),
        (said("x" * 17), 5),
        (said(""), 0),
        (filled(type="thinking_delta", thinking="one"), 1),
        (filled(type="input_json_delta", partial_json="{}"), 1),
        (filled(type="signature_delta", signature="x" * 99), 0),
        (filled(type="citations_delta", citation={"cited_text": "x" * 99}), 0),
        (filled(type="some_new_delta", words="x" * 17), 5),
        (opened(type="text", text="one"), 1),
        (opened(type="tool_use", id="toolu_1", name="look", input={"a": "x" * 20}), 8),
        (opened(type="redacted_thinking", data="x" * 99), 0),
        (opened(type="web_search_tool_result", tool_use_id="t", content=[{"title": "x" * 99}]), 0),
        (event("content_block_delta", index=0, delta="one"), 1),
    ],
)
def test_a_delta_counts_what_the_model_wrote(sent: bytes, tokens: int) -> None:
    """One token up to 16 bytes, one for every four beyond; each with content is one delta."""
    pieces, reader = read(sent)
    assert [piece.output_tokens for piece in pieces] == [tokens]
    assert reader.deltas == (1 if tokens else 0)


@pytest.mark.parametrize("sent", [PING, b": a comment\n\n", b"event: ping\ndata: {}\n\n", closed(), b"data: [DONE]\n\n"])
def test_what_only_keeps_order_counts_nothing(sent: bytes) -> None:
    """And passes."""
    pieces, reader = read(sent)
    assert (forwarded(pieces), sum(piece.output_tokens for piece in pieces), reader.ended) == (sent, 0, False)


@pytest.mark.parametrize("data", [b'{"type":"some_new_event","x":1}', b'{"text":"one"}', b"[1,2,3]", b"no JSON"])
def test_an_event_that_nobody_knows_counts_by_its_bytes(data: bytes) -> None:
    """It passes, for clients may know it; and it may hold anything."""
    sent = b"data: " + data + b"\n\n"
    pieces, _ = read(sent)
    assert pieces == [Piece(sent, -(-len(data) // 4))]


def test_an_event_is_known_by_its_name_too() -> None:
    """Where its data do not repeat it."""
    pieces, reader = read(b'event: message_stop\ndata: {"x":1}\n\n')
    assert reader.ended
    assert pieces[-1].last


@pytest.mark.parametrize(
    "sent",
    [event("error", error={"type": "overloaded_error", "message": "busy"}), b'data: {"error":{"message":"busy"}}\n\n'],
)
def test_an_error_event_ends_in_failure(sent: bytes) -> None:
    """It passes, and costs nothing."""
    pieces, reader = read(start(input_tokens=12, output_tokens=1) + said("one") + sent)
    assert (reader.failed, reader.ended) == (True, False)
    assert pieces[-1] == Piece(sent)


# --- usage -------------------------------------------------------------------------------------------------------------------------


def test_until_the_end_output_is_what_was_forwarded() -> None:
    """The first report says what had been computed by then, not what has been sent."""
    begun = start(input_tokens=12, output_tokens=8, output_tokens_details={"thinking_tokens": 4})
    pieces, _ = read(begun + opened() + said("one") + said("two"))
    assert last_usage(pieces) == Usage(input=12)


def test_a_later_report_corrects_the_input() -> None:
    """Its totals are cumulative; what it leaves out, or calls null, stays."""
    pieces, _ = read(
        start(input_tokens=1_000, cache_read_input_tokens=5, output_tokens=1)
        + end(input_tokens=10, cache_read_input_tokens=995, cache_creation_input_tokens=None, output_tokens=3)
        + end(output_tokens=4)
        + STOP
    )
    assert last_usage(pieces) == Usage(input=10, cached_input=995, output=4)


def test_a_later_report_never_lowers_an_earlier_one() -> None:
    """Input and output each on its own."""
    pieces, _ = read(start(input_tokens=12, output_tokens=1) + end(input_tokens=3, output_tokens=9) + end(output_tokens=2) + STOP)
    assert last_usage(pieces) == Usage(input=12, output=9)


@pytest.mark.parametrize(
    ("split", "total", "written"),
    [
        ({"ephemeral_5m_input_tokens": 9}, 20, (20, 0)),
        ({"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7}, 20, (2, 18)),
        ({"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7}, 9, (2, 7)),
    ],
)
def test_what_is_written_into_the_cache_later_lives_as_long_as_asked(split: dict[str, int], total: int, written: tuple[int, int]) -> None:
    """Later reports have no split by lifetime; the dearer one is taken where it is in use."""
    pieces, _ = read(
        start(input_tokens=12, cache_creation_input_tokens=9, cache_creation=split, output_tokens=1)
        + end(cache_creation_input_tokens=total, output_tokens=3)
        + STOP
    )
    assert last_usage(pieces) == Usage(input=12, cache_write=written[0], cache_write_1h=written[1], output=3)


def test_words_after_a_report_count_on_top_of_it() -> None:
    """As long as no other report holds them."""
    pieces, _ = read(start(input_tokens=12, output_tokens=1) + said("one") + end(output_tokens=9) + said("two") + STOP)
    assert last_usage(pieces) == Usage(input=12, output=10)


def test_a_stream_that_never_reports_its_output_is_counted() -> None:
    """What it said of the input still stands."""
    pieces, reader = read(start(input_tokens=12, cache_read_input_tokens=30, output_tokens=1) + said("one") + said("x" * 17) + end() + STOP)
    assert last_usage(pieces) == Usage(input=12, cached_input=30, output=6)
    assert not reader.usage_rejected


def test_a_stream_without_usage_reports_none() -> None:
    """Whoever meters counts."""
    pieces, reader = read(start() + said("one") + end() + STOP)
    assert last_usage(pieces) is None
    assert (reader.ended, reader.usage_rejected) == (True, False)


@pytest.mark.parametrize("odd", [-1, 1.5, "5", True, 10**9])
def test_an_absurd_report_is_rejected(odd: object) -> None:
    """At the beginning, or at the end; it changes nothing of what was believed before."""
    pieces, reader = read(start(input_tokens=odd, output_tokens=1) + said("one") + end(input_tokens=odd, output_tokens=3) + STOP)
    assert (last_usage(pieces), reader.usage_rejected) == (None, True)
    pieces, reader = read(start(input_tokens=12, output_tokens=1) + said("one") + end(output_tokens=odd) + STOP)
    assert (last_usage(pieces), reader.usage_rejected) == (Usage(input=12, output=1), True)
    pieces, reader = read(start(input_tokens=odd, output_tokens=1) + said("one") + end(input_tokens=12, output_tokens=3) + STOP)
    assert (last_usage(pieces), reader.usage_rejected) == (Usage(input=12, output=3), True)


def test_uses_of_tools_are_seen_before_they_are_reported() -> None:
    """A client that hangs up after a search has had it; in the end the report counts, for failed ones are not billed."""
    search = opened(0, type="server_tool_use", id="srvtoolu_1", name="web_search", input={})
    begun = start(input_tokens=12, output_tokens=1) + search + filled(type="input_json_delta", partial_json="{}") + closed()
    code = opened(1, type="server_tool_use", id="srvtoolu_2", name="code_execution", input={})
    pieces, _ = read(begun + code)
    assert last_usage(pieces) == Usage(input=12, output=1, tool_use=1)
    pieces, _ = read(begun + begun + end(output_tokens=9, server_tool_use={"web_search_requests": 1}) + STOP)
    assert last_usage(pieces) == Usage(input=12, output=9, tool_use=1)
    pieces, _ = read(begun + end(output_tokens=9) + STOP)
    assert last_usage(pieces) == Usage(input=12, output=9, tool_use=1)


# --- how we end a stream -----------------------------------------------------------------------------------------------------------


def test_a_cut_by_error_is_one_event() -> None:
    """Official clients raise for it; its message holds the reason and the advice."""
    _, reader = read(start() + said("one"))
    cut = reader.cut_by_error(Refusal("insufficient_quota", "Used up.", hint="Ask for more."))
    assert cut is not None
    name, data = cut.removesuffix(b"\n\n").split(b"\n")
    assert name == b"event: error"
    document = json.loads(data.removeprefix(b"data: "))
    assert document["error"] == {
        "type": "billing_error",
        "message": "Used up. Ask for more.",
        "details": {"error_code": "insufficient_quota"},
    }
    assert document["compute_ledger"]["code"] == "insufficient_quota"


def cut_events(sent: bytes, unsent: bytes = b"") -> list[dict[str, Any]]:
    reader = ANTHROPIC.read_stream(CALL, "text/event-stream")
    assert reader is not None
    reader.feed(sent)
    cut = reader.cut_by_length(Usage(input=12, cached_input=3, output=2), unsent=reader.feed(unsent))
    assert cut is not None
    names, data = zip(*(line.split(b"\n") for line in cut.removesuffix(b"\n\n").split(b"\n\n")), strict=True)
    events = [json.loads(line.removeprefix(b"data: ")) for line in data]
    assert [name.decode() for name in names] == [f"event: {members['type']}" for members in events]
    return events


def test_a_cut_by_length_ends_as_the_model_would() -> None:
    """The open block is closed, the reason is the maximum, the usage is what is charged, and the end follows."""
    begun = start(input_tokens=12, output_tokens=1) + opened() + said("one") + closed() + opened(1) + said("two", 1)
    usage = {
        "input_tokens": 12,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 2,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert cut_events(begun) == [
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("sent", "unsent", "closes"),
    [
        (start() + opened() + said("one"), said("two") + closed() + opened(1) + said("three", 1) + closed(1), [0]),
        (start() + opened() + said("one") + closed(), opened(1, type="tool_use", name="f", input={}) + closed(1), []),
        (start(), opened() + said("one"), []),
        (start() + opened() + opened(1), b"", [0, 1]),
    ],
)
def test_a_cut_closes_what_the_client_knows_to_be_open(sent: bytes, unsent: bytes, closes: list[int]) -> None:
    """Of what was read and not forwarded it knows nothing."""
    events = cut_events(sent, unsent)
    assert [members["index"] for members in events if members["type"] == "content_block_stop"] == closes


@pytest.mark.parametrize("unsent", [b"", start() + opened() + said("one")])
def test_a_cut_before_the_message_began_is_an_empty_message(unsent: bytes) -> None:
    """No client could make sense of an end without a beginning."""
    events = cut_events(b"", unsent)
    assert [members["type"] for members in events] == ["message_start", "message_delta", "message_stop"]
    assert (events[0]["message"]["model"], events[0]["message"]["content"]) == ("m", [])


def test_a_cut_stands_apart_from_half_an_event() -> None:
    """So that the client reads it as an event of its own."""
    _, reader = read(start() + b'event: content_block_delta\ndata: {"type":')
    cut = reader.cut_by_error(Refusal("insufficient_quota", "Used up."))
    assert cut is not None
    assert cut.startswith(b"\n\nevent: error\n")
