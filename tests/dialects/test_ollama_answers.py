"""Answers of the Ollama dialect, streamed and whole: what is counted, what is believed, and how a stream is ended in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import DIALECTS, Reader
from proxy.domain import Answer, Call, Piece, Usage
from proxy.errors import Refusal
from tests.support.speech import WORDS
from tests.support.speech_ollama import CHAT, chat_lines, line, message, response, usage

OLLAMA = DIALECTS["ollama"]
NDJSON = "application/x-ndjson"
CUT = Refusal("insufficient_quota", "The budget of user:ann is spent.")


def call_of(operation: str = "chat", *, output_tokens_max: int | None = None, input_tokens_counted: int = 10) -> Call:
    return Call(operation, "m", True, 1, output_tokens_max, input_tokens_bound=100, input_tokens_counted=input_tokens_counted)


def read(*chunks: bytes, call: Call | None = None) -> tuple[list[Piece], Reader]:
    reader = OLLAMA.read_stream(call or call_of(), NDJSON)
    assert reader is not None
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    return [*pieces, *reader.close()], reader


def tokens_of(written: dict[str, Any], *, done: bool = False) -> int:
    pieces, _ = read(json.dumps({"model": "m", **written, "done": done}).encode() + b"\n")
    return sum(piece.output_tokens for piece in pieces)


def whole(document: object, *, call: Call | None = None) -> Answer:
    return OLLAMA.read_answer(
        call or call_of(), document if isinstance(document, bytes) else json.dumps(document).encode(), "application/json"
    )


@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream", ""])
def test_only_lines_are_a_stream(media_type: str) -> None:
    """With `stream` false the answer comes as plain JSON."""
    assert OLLAMA.read_stream(call_of(), media_type) is None


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ({"message": {"role": "assistant", "content": ""}}, 0),
        ({"message": {"role": "assistant", "content": "one"}}, 1),
        ({"message": {"role": "assistant", "content": "x" * 16}}, 1),
        ({"message": {"role": "assistant", "content": "x" * 17}}, 5),
        ({"message": {"role": "assistant", "content": "", "thinking": "hm"}}, 1),
        ({"message": {"role": "assistant", "content": "", "unknown": "hm"}}, 1),
        ({"message": {"content": "", "tool_calls": [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}]}}, 1),
        ({"message": {"content": "", "tool_calls": [{"function": {"name": "find", "arguments": {"city": ["Rome", 7, None]}}}]}}, 1),
        ({"message": {"content": "", "tool_calls": [{"function": {"name": "find", "arguments": {"city": ["Rome" * 4]}}}]}}, 6),
        ({"message": {"content": "", "tool_calls": ["odd" * 8]}}, 6),
        ({"message": "odd"}, 1),
        ({"response": "one"}, 1),
        ({"response": "", "thinking": "hm"}, 1),
        ({"response": "", "tool_calls": [{"function": {"name": "f"}}]}, 1),
        ({"response": "", "image": "x" * 256 * 17}, 5),
        ({"response": "", "logprobs": [{"token": "x" * 99}]}, 0),
        ({"completed": 1, "total": 9}, 0),
    ],
)
def test_what_a_line_counts(written: dict[str, Any], tokens: int) -> None:
    """All that the model wrote, by whichever member; nothing that the server made up."""
    assert tokens_of(written) == tokens


def test_what_nobody_knows_counts_by_its_bytes() -> None:
    """It may be text for all we know: a document without one of Ollama's members, and a line that is none."""
    pieces, reader = read(b'{"text":"' + b"x" * 29 + b'"}\n', b"<html>\n")
    assert [piece.output_tokens for piece in pieces] == [10, 2]
    assert (reader.deltas, reader.ended, reader.failed) == (0, False, False)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (usage(12, 5), Usage(input=12, output=5)),
        (b'"eval_count":5', Usage(input=10, output=5)),
        (b'"prompt_eval_count":0,"eval_count":5', Usage(input=10, output=5)),
        (b'"prompt_eval_count":12', Usage(input=12, output=3)),
        (b'"prompt_eval_count":12,"eval_count":0', Usage(input=12)),
        (b'"prompt_eval_count":null,"eval_count":null', None),
        (b"", None),
    ],
)
def test_the_last_line_reports_usage(reported: bytes, expected: Usage | None) -> None:
    """An input that is said to be none, because it was cached or for another reason, is charged as counted; output as it was seen."""
    pieces, reader = read(*chat_lines(WORDS, reported))
    assert (pieces[-1].usage, pieces[-1].last) == (expected, True)
    assert (reader.deltas, reader.ended, reader.failed, reader.usage_rejected) == (3, True, False, False)


@pytest.mark.parametrize("kind", CHAT.absurd)
def test_absurd_usage_is_flagged(kind: str) -> None:
    """And nothing of it is believed, not even what is plausible beside it."""
    reported = CHAT.usage(kind)
    pieces, reader = read(*chat_lines(WORDS, reported))
    assert (pieces[-1].usage, pieces[-1].last, reader.usage_rejected) == (None, True, True)
    assert whole(line(message("x" * 17), ends="stop", usage=reported)) == Answer(None, 5, usage_rejected=True)


def test_usage_never_falls() -> None:
    """A second last line, which no sane server sends, lowers nothing."""
    pieces, _ = read(*chat_lines(WORDS, usage(12, 5)), *chat_lines((), usage(11, 9)))
    assert pieces[-1].usage == Usage(input=12, output=9)


@pytest.mark.parametrize("reason", ["load", "unload"])
@pytest.mark.parametrize(("operation", "written"), [("chat", message("")), ("generate", response(""))])
def test_loading_a_model_uses_nothing(operation: str, written: bytes, reason: str) -> None:
    """The answer to an empty prompt reports no counts, and none are missing."""
    call = call_of(operation, input_tokens_counted=0)
    loaded = line(written, ends=reason)
    assert read(loaded, call=call)[0] == [Piece(loaded, 0, Usage(), last=True)]
    assert whole(loaded, call=call) == Answer(Usage(), 0)


def test_loading_is_no_excuse() -> None:
    """An answer with text in it has used something, whatever it says why it ended."""
    pieces, _ = read(*chat_lines(WORDS, b"", ends="load"))
    assert pieces[-1].usage is None
    assert whole(line(message("one two three "), ends="load")).usage is None


def test_an_error_line_fails_the_stream() -> None:
    """It is forwarded as it is and is no end."""
    pieces, reader = read(line(message("one ")), b'{"error":"model runner has unexpectedly stopped"}\n')
    assert [piece.output_tokens for piece in pieces] == [1, 0]
    assert (reader.failed, reader.ended) == (True, False)


def test_an_unreadable_last_line_is_flagged() -> None:
    """Its usage is lost, which is worth knowing."""
    _, reader = read(b'{"done":true,"eval_count":5,,}\n')
    assert (reader.usage_rejected, reader.ended) == (True, False)


def test_half_a_line_is_taken_out() -> None:
    """No client could read it, and an error line of ours follows cleanly; a whole document without its line feed stays."""
    pieces, reader = read(line(message("one ")), b'{"model":"m","mess')
    assert pieces[-1] == Piece(b"")
    assert reader.cut_by_error(CUT).startswith(b'{"error"')
    pieces, reader = read(line(message("one "))[:-1])
    assert (pieces[-1].data, pieces[-1].output_tokens) == (line(message("one "))[:-1], 1)
    assert reader.cut_by_error(CUT).startswith(b'\n{"error"')


def test_a_long_last_line_is_read() -> None:
    """The end of a generated text repeats prompt and text as token ids, a few bytes each."""
    end = line(b'"response":"","context":[' + b"123456," * 700_000 + b"1]", ends="stop", usage=usage(12, 5))
    call = Call("generate", "m", True, 1, None, input_tokens_bound=200_000, input_tokens_counted=10)
    assert read(end, call=call)[0][-1].usage == Usage(input=12, output=5)


# --- our own ends ------------------------------------------------------------------------------------------------------------------------


def test_cut_by_error() -> None:
    """One line: the text says why, for clients show nothing else."""
    _, reader = read(line(message("one ")))
    ending = reader.cut_by_error(CUT)
    assert ending is not None
    assert ending.endswith(b"}\n")
    assert json.loads(ending) == {
        "error": "insufficient_quota: The budget of user:ann is spent.",
        "compute_ledger": {"code": "insufficient_quota"},
    }


@pytest.mark.parametrize(
    ("operation", "written", "nothing"),
    [("chat", message("one "), {"message": {"role": "assistant", "content": ""}}), ("generate", response("one "), {"response": ""})],
)
def test_cut_by_length(operation: str, written: bytes, nothing: dict[str, Any]) -> None:
    """The last line that the model's own limit would make, under the stream's own head and with what is charged."""
    _, reader = read(line(written), call=call_of(operation))
    ending = reader.cut_by_length(Usage(input=9, output=2))
    assert ending is not None
    assert json.loads(ending) == {
        "model": "tiny",
        "created_at": "2026-11-22T08:00:00.123456Z",
        **nothing,
        "done": True,
        "done_reason": "length",
        "prompt_eval_count": 9,
        "eval_count": 2,
    }


def test_cut_before_the_first_line() -> None:
    """There is no head to repeat yet; clients need a time all the same."""
    _, reader = read()
    ending = reader.cut_by_length(Usage(input=9))
    assert ending is not None
    assert json.loads(ending)["model"] == "m"
    assert json.loads(ending)["created_at"] == "1970-01-01T00:00:00Z"


# --- whole answers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "call", "expected"),
    [
        (line(message("x" * 17), ends="stop", usage=usage(12, 5)), call_of(), Answer(Usage(input=12, output=5), 5)),
        (line(response(""), ends="stop"), call_of("generate"), Answer(None, 1)),
        (line(response("xy"), ends="stop", usage=b'"prompt_eval_count":-1'), call_of("generate"), Answer(None, 1, usage_rejected=True)),
        ({"error": "no"}, call_of(), Answer(None, 0)),
        ({"odd": "x" * 29}, call_of(), Answer(None, 10)),
        (b"<html>", call_of(), Answer(None, 2)),
        ({"embeddings": [[0.5]], "prompt_eval_count": 12}, call_of("embed", output_tokens_max=0), Answer(Usage(input=12), 0)),
        ({"embeddings": [[0.5]]}, call_of("embed", output_tokens_max=0), Answer(None, 0)),
        ({"embedding": [0.5]}, call_of("embeddings", output_tokens_max=0), Answer(None, 0)),
        (b"<html>", call_of("embed", output_tokens_max=0), Answer(None, 0)),
    ],
)
def test_whole_answers(document: object, call: Call, expected: Answer) -> None:
    """Usage where it is reported, and what was written by its bytes, at least one token."""
    assert whole(document, call=call) == expected


# --- the rest of the dialect -----------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_read_back() -> None:
    """In Ollama's shape, which this dialect reads of upstreams too."""
    body = OLLAMA.models_body(["llama3:8b", "qwen3"], created_s=1_700_000_000)
    assert OLLAMA.listing.read(body) == ["llama3:8b", "qwen3"]
    listed = json.loads(body)["models"][0]
    assert (listed["name"], listed["model"], listed["modified_at"]) == ("llama3:8b", "llama3:8b", "2023-11-14T22:13:20Z")
    assert json.loads(OLLAMA.model_body("llama3:8b", created_s=1_700_000_000)) == listed


@pytest.mark.parametrize("body", [b"", b"{}", b'{"models":[{}]}', b'{"models":[{"name":7}]}', b"\xff"])
def test_an_unreadable_list_of_models_is_empty(body: bytes) -> None:
    """Whatever an upstream answers there."""
    assert list(OLLAMA.listing.read(body)) == []


def test_the_upstreams_key_is_a_bearers() -> None:
    """As ollama.com takes it."""
    assert OLLAMA.upstream_credential("k") == ("Authorization", "Bearer k")
