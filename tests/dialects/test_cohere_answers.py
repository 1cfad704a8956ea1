"""Answers of the Cohere dialect, streamed and whole: what is counted, what is believed, and how a stream is ended in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Reader
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Refusal
from tests.support.speech import WORDS
from tests.support.speech_cohere import CHAT, chat, chat_events, event, usage

COHERE = DIALECTS["cohere"]
CUT = Refusal("insufficient_quota", "The budget of user:ann is spent.")


def call_of(operation: str = "chat", *, units: Usage | None = None) -> Call:
    return Call(operation, "m", True, 1, None if operation == "chat" else 0, 100, 10, units=units or Usage())


def read(*chunks: bytes) -> tuple[list[Piece], Reader]:
    reader = COHERE.read_stream(call_of(), "text/event-stream")
    assert reader is not None
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def whole(document: object, call: Call) -> Answer:
    return COHERE.read_answer(call, document if isinstance(document, bytes) else json.dumps(document).encode(), "application/json")


def written(message: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": {"message": message}}


def test_only_an_event_stream_is_a_stream() -> None:
    """Whole answers are JSON."""
    assert COHERE.read_stream(call_of(), "application/json") is None


@pytest.mark.parametrize(
    ("sent", "tokens"),
    [
        (event("message-start", {"id": "c1", "delta": {"message": {"role": "assistant"}}}), 0),
        (event("content-start", written({"content": {"type": "text", "text": ""}})), 0),
        (event("content-start", written({"content": {"type": "text", "text": "one"}})), 1),
        (event("content-delta", written({"content": {"text": "x" * 16}})), 1),
        (event("content-delta", written({"content": {"text": "x" * 17}})), 5),
        (event("content-delta", written({"content": {"thinking": "hm"}})), 1),
        (event("tool-plan-delta", {"delta": {"message": {"tool_plan": "I will"}}}), 1),
        (event("tool-call-start", written({"tool_calls": {"id": "c" * 40, "type": "function", "function": {"name": "find"}}})), 1),
        (event("tool-call-delta", written({"tool_calls": {"function": {"arguments": '{"city":"Rome","state":'}}})), 6),
        (event("content-end", {"index": 0}), 0),
        (event("citation-start", written({"citations": {"start": 0, "end": 9, "text": "x" * 99}})), 0),
        (event("debug", {"prompt": "x" * 99}), 0),
        (b": ping\n\n", 0),
        (event("news", {"text": "x" * 13}), 10),
        (b"data: <html>\n\n", 2),
        (b'event: content-delta\ndata: {"delta":{"text":"one"}}\n\n', 1),
    ],
)
def test_what_an_event_counts(sent: bytes, tokens: int) -> None:
    """All that the model wrote; nothing that the server made up or found; what nobody knows by its bytes."""
    pieces, _ = read(sent)
    assert [(piece.data, piece.output_tokens) for piece in pieces] == [(sent, tokens)]


USAGES: list[tuple[object, Usage]] = [
    (usage(12, 5), Usage(input=12, output=5)),
    (b'{"tokens":{"input_tokens":12,"output_tokens":5}}', Usage(input=12, output=5)),
    (b'{"tokens":{"input_tokens":12,"output_tokens":5},"cached_tokens":4.0}', Usage(input=8, cached_input=4, output=5)),
    (b'{"billed_units":{},"tokens":{"input_tokens":12,"output_tokens":5}}', Usage(input=12, output=5)),
    (b'{"billed_units":{"input_tokens":7},"tokens":{"input_tokens":12,"output_tokens":5}}', Usage(input=12, output=5)),
    (b'{"billed_units":{"input_tokens":7,"output_tokens":5,"search_units":2,"new_units":"?"}}', Usage(input=7, output=5, tool_use=2)),
]


@pytest.mark.parametrize(("reported", "expected"), USAGES)
def test_usage_of_a_chat(reported: bytes, expected: Usage) -> None:
    """What is billed, where that is said in full; else the tokens, those from the cache apart."""
    pieces, reader = read(*chat_events(WORDS, reported))
    assert [piece.usage for piece in pieces if piece.usage] == [expected]
    assert (reader.deltas, reader.ended, reader.failed, reader.usage_rejected) == (3, True, False, False)
    assert whole(chat("x" * 17, reported), call_of()) == Answer(expected, 5)


@pytest.mark.parametrize("kind", CHAT.absurd)
def test_absurd_usage_of_a_chat_is_flagged(kind: str) -> None:
    """And nothing of it is believed, not even what is plausible beside it."""
    reported = CHAT.usage(kind)
    pieces, reader = read(*chat_events(WORDS, reported))
    assert ([piece.usage for piece in pieces if piece.usage], reader.usage_rejected) == ([], True)
    assert whole(chat("x" * 17, reported), call_of()) == Answer(None, 5, usage_rejected=True)


def test_usage_never_falls() -> None:
    """A second end, which no sane server sends, lowers nothing."""
    end = {"delta": {"finish_reason": "COMPLETE"}}
    pieces, _ = read(event("message-end", end, usage=usage(12, 5)), event("message-end", end, usage=usage(11, 9)))
    assert pieces[-1].usage == Usage(input=12, output=9)


def test_the_end_is_held_back_and_all_after_it() -> None:
    """The last event ends the stream, and so does the marker after it."""
    pieces, _ = read(*chat_events(WORDS, usage(12, 5)))
    assert [piece.last for piece in pieces][-3:] == [False, True, True]
    pieces, reader = read(b"data: [DONE]\n\n")
    assert (pieces[0].last, reader.ended) == (True, True)


@pytest.mark.parametrize("delta", [{"finish_reason": "ERROR"}, {"finish_reason": "TIMEOUT", "error": "too slow"}])
def test_an_end_may_say_that_the_chat_failed(delta: dict[str, Any]) -> None:
    """Its usage is believed all the same."""
    pieces, reader = read(event("message-end", {"delta": delta}, usage=usage(12, 5)))
    assert (reader.failed, reader.ended, pieces[0].usage) == (True, True, Usage(input=12, output=5))


# --- our own ends ------------------------------------------------------------------------------------------------------------------------


def test_no_event_cuts_a_chat_by_error() -> None:
    """Clients raise at none, so the connection is broken off."""
    _, reader = read(*chat_events(WORDS, b"")[:3])
    assert reader.cut_by_error(CUT) is None


def cut(*, sent: int, unsent: int) -> list[dict[str, Any]]:
    """The events that end a chat by length after so many of its events, where so many more were read."""
    events = chat_events(WORDS, b"")
    reader = COHERE.read_stream(call_of(), "text/event-stream")
    assert reader is not None
    for one in events[:sent]:
        reader.feed(one)
    refused = [piece for one in events[sent : sent + unsent] for piece in reader.feed(one)]
    ending = reader.cut_by_length(Usage(input=9, output=2), unsent=refused)
    assert ending is not None
    return [json.loads(one.partition(b"data: ")[2]) for one in ending.split(b"\n\n") if one]


@pytest.mark.parametrize(("sent", "unsent"), [(4, 0), (4, 1), (4, 2), (2, 4), (5, 1)])
def test_cut_by_length_closes_what_is_open(sent: int, unsent: int) -> None:
    """The block that the client has seen begin and not end, then the message, with what is charged."""
    ends = cut(sent=sent, unsent=unsent)
    assert [end["type"] for end in ends] == ["content-end", "message-end"]
    assert ends[0]["index"] == 0
    counts = {"input_tokens": 9, "output_tokens": 2}
    assert ends[1]["id"] == "c1"
    assert ends[1]["delta"] == {"finish_reason": "MAX_TOKENS", "usage": {"billed_units": counts, "tokens": counts}}


@pytest.mark.parametrize(("sent", "unsent"), [(0, 0), (1, 0), (1, 3), (6, 0)])
def test_cut_by_length_closes_nothing_else(sent: int, unsent: int) -> None:
    """Neither what the client never saw begin nor what it has seen end."""
    assert [end["type"] for end in cut(sent=sent, unsent=unsent)] == ["message-end"]


# --- whole answers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"role": "assistant", "content": [{"type": "text", "text": "x" * 17}]}, 5),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "12345"}], "tool_plan": "12345"}, 3),
        ({"role": "assistant", "tool_calls": [{"id": "c" * 99, "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, 1),
        ({"role": "assistant", "content": [], "citations": [{"text": "x" * 99}]}, 1),
        ("no such model", 0),
        (None, 15),
    ],
)
def test_whole_chats_are_counted(message: object, tokens: int) -> None:
    """What was written, by its bytes and one token at least; an error has none, and what nobody knows counts whole."""
    answer = whole({"message": message, "odd": "x" * 29}, call_of())
    assert answer == Answer(None, tokens)


@pytest.mark.parametrize("operation", ["chat", "embed", "rerank"])
def test_an_unreadable_answer(operation: str) -> None:
    """A chat counts by its bytes, the rest has no output."""
    assert whole(b"<html>", call_of(operation)) == Answer(None, 2 if operation == "chat" else 0)


@pytest.mark.parametrize(
    ("document", "units", "expected"),
    [
        ({"meta": {"billed_units": {"input_tokens": 12.0}}}, Usage(), Usage(input=12)),
        ({"meta": {"billed_units": {"images": 2.0}}}, Usage(image=2), Usage(image=2)),
        ({"meta": {"billed_units": {"text_tokens": 5, "image_tokens": 300}}}, Usage(image=1), Usage(input=305)),
        ({"meta": {"billed_units": {"input_tokens": 305, "image_tokens": 300}}}, Usage(image=1), Usage(input=305)),
        ({"meta": {"billed_units": {"input_tokens": 5}}}, Usage(image=1), Usage(input=5, image=1)),
        ({"usage": {"prompt_tokens": 12, "total_tokens": 12}}, Usage(), Usage(input=12)),
        ({"meta": {"api_version": {"version": "2"}}}, Usage(image=1), None),
        ({}, Usage(), None),
    ],
)
def test_usage_of_an_embedding(document: object, units: Usage, expected: Usage | None) -> None:
    """Images by the token or by the piece, as they are billed; where nothing is said of them, by the piece."""
    assert whole(document, call_of("embed", units=units)) == Answer(expected, 0)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"meta": {"billed_units": {"search_units": 1.0}}}, Usage(input=10, tool_use=1)),
        ({"meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 12}}}, Usage(input=12, tool_use=1)),
        ({"usage": {"total_tokens": 12}}, Usage(input=12, tool_use=3)),
        ({"meta": {"billed_units": {}}}, None),
        ({"results": []}, None),
    ],
)
def test_usage_of_a_ranking(document: object, expected: Usage | None) -> None:
    """Searches, tokens or both; what is not said is charged as it was counted, so neither price is passed by."""
    assert whole(document, call_of("rerank", units=Usage(tool_use=3))) == Answer(expected, 0)


@pytest.mark.parametrize(
    "meta", [[], "x", {"billed_units": []}, {"billed_units": {"search_units": -1}}, {"tokens": {"input_tokens": True}}]
)
def test_absurd_usage_is_flagged(meta: object) -> None:
    """And nothing of it is believed."""
    assert whole({"meta": meta}, call_of("rerank")) == Answer(None, 0, usage_rejected=True)


# --- the rest of the dialect -----------------------------------------------------------------------------------------------------------


def test_a_refusal_has_coheres_shape() -> None:
    """The text where its clients look for it."""
    assert json.loads(COHERE.refusal_body(CUT, status=402)) == {
        "message": "The budget of user:ann is spent.",
        "compute_ledger": {"code": "insufficient_quota"},
    }


def test_models_are_listed_and_read_back() -> None:
    """In Cohere's shape, which this dialect reads of upstreams too."""
    body = COHERE.models_body(["command-a", "rerank-v3.5"], created_s=0)
    assert COHERE.listing.read(body) == ["command-a", "rerank-v3.5"]
    assert json.loads(COHERE.model_body("command-a", created_s=0)) == json.loads(body)["models"][0]
    assert list(COHERE.listing.read(b'{"data":[{"id":"m"}]}')) == []


def test_the_upstreams_key_is_a_bearers() -> None:
    """As api.cohere.com takes it."""
    assert COHERE.upstream_credential("k") == ("Authorization", "Bearer k")
