"""Files of requests, and what an upstream says of the batches that are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from proxy.dialects import openai_batches
from proxy.dialects.openai_batches import read_batch, read_batches, read_creation, read_id, read_lines, read_output_line, read_upload
from proxy.domain import Call, Usage
from proxy.errors import Refusal
from tests.support import openai_answers as answers
from tests.support.batching_upstream import line, lines, output

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}


def form(content: bytes = b"{}", **fields: str) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    texts = b"".join(head % (name.encode(), value.encode()) for name, value in {"purpose": "batch", **fields}.items())
    return texts + b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + content + b"\r\n--b--\r\n"


def call(operation: str = "chat", **members: Any) -> Call:
    return Call(operation, "tiny", False, 1, None, 0, 9, **members)


def refusal_of(content: bytes) -> Refusal:
    with pytest.raises(Refusal) as refused:
        list(read_lines(content))
    assert refused.value.code == "invalid_request"
    return refused.value


# --- what is uploaded ----------------------------------------------------------------------------------------------------------------


def test_the_content_of_an_upload_is_the_file_to_the_byte() -> None:
    """Whatever line ends it has, and with the fields that say how long it is kept."""
    assert (
        read_upload(form(b"a\r\n\nb", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}), HEADERS) == b"a\r\n\nb"
    )


@pytest.mark.parametrize(
    "body", [form(purpose="assistants"), form(purpose=""), form(other="x"), form().replace(b'name="file"', b'name="f"')]
)
def test_only_one_file_for_a_batch_can_be_uploaded(body: bytes) -> None:
    """Not input to other requests, which could not be priced, and nothing that the form does not have."""
    with pytest.raises(Refusal) as refused:
        read_upload(body, HEADERS)
    assert refused.value.code == "invalid_request"


def test_each_line_is_a_request_with_its_very_bytes() -> None:
    """The body as it is spelt, so that it is read as it would be on its own; the last line may end or not."""
    text = b'{"custom_id":"1","method":"POST","url":"/v1/embeddings","body": {"model" : "e"} }\r\n\n' + lines(
        line("2", {}, url="/v1/embeddings")
    ).rstrip(b"\n")
    assert [(read.number, read.url, read.body) for read in read_lines(text)] == [
        (1, "/v1/embeddings", b'{"model" : "e"}'),
        (3, "/v1/embeddings", b"{}"),
    ]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no request"),
        (b"\n\r\n", "no request"),
        (b"[]\n", "Line 1"),
        (lines(line("1", CHAT)) + b"{\n", "Line 2"),
        (lines(line("1", CHAT), line("1", CHAT)), "custom_id"),
        (lines(line("1", CHAT), line("2", CHAT, url="/v1/completions")), "/v1/completions"),
        (lines(line("1", CHAT, url="/v1/files")), "url"),
        (lines(line("1", CHAT, url="/v1/chat/completions/")), "url"),
        (lines(line("1", CHAT, method="GET")), "method"),
        (lines(line("1", CHAT, priority="high")), "priority"),
        (lines(line("", CHAT)), "custom_id"),
        (lines(line("x" * 513, CHAT)), "custom_id"),
        (lines({"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": []}), "body"),
        (b'{"custom_id":"1","custom_id":"2","method":"POST","url":"/v1/embeddings","body":{}}', "twice"),
        (b'{"custom_id":"1","method":"POST","url":"/v1/embeddings","body":{"a":1,"a":2}}', "twice"),
        (b'{"custom_id":"1",\r"method":"POST","url":"/v1/embeddings","body":{}}', "carriage return"),
        (b"\xef\xbb\xbf" + lines(line("1", CHAT)), "Line 1"),
    ],
)
def test_a_file_that_could_be_read_in_two_ways_or_cost_unseen_is_refused(content: bytes, word: str) -> None:
    """And the caller learns in which line."""
    assert word in refusal_of(content).message


def test_a_file_has_a_largest_number_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented one."""
    monkeypatch.setattr(openai_batches, "LINES_MAX", 2)
    assert len(list(read_lines(lines(line("1", CHAT), line("2", CHAT))))) == 2
    assert "more than 2" in refusal_of(lines(line("1", CHAT), line("2", CHAT), line("3", CHAT))).message


def test_streams_and_the_upstreams_own_tools_are_not_for_batches() -> None:
    """The one has no reader, the other a price that batches do not change."""
    openai_batches.check_in_batch(call())
    with pytest.raises(Refusal, match="stream"):
        openai_batches.check_in_batch(dataclasses.replace(call(), stream=True))
    with pytest.raises(Refusal, match="tools"):
        openai_batches.check_in_batch(call("responses", units=Usage(tool_use=1)))


# --- what is begun, and what the upstream says ---------------------------------------------------------------------------------------


def test_a_creation_names_a_file_and_an_address() -> None:
    """Labels and how long the output is kept may come with it."""
    asked = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": {"a": "b"}}
    assert read_creation(answers.encode(asked)) == openai_batches.Creation("file-1", "/v1/embeddings")


@pytest.mark.parametrize("change", [{"input_file_id": "../x"}, {"input_file_id": None}, {"endpoint": 3}, {"service_tier": "priority"}])
def test_a_creation_that_says_something_else_is_refused(change: Mapping[str, Any]) -> None:
    """What is unknown may cost, and an id stands in a path."""
    with pytest.raises(Refusal, match=r"must be|not known"):
        read_creation(answers.encode({"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h", **change}))


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        *((status, False) for status in ("validating", "in_progress", "finalizing", "cancelling", "new")),
        *((status, True) for status in sorted(openai_batches._ENDED)),
    ],
)
def test_a_batch_says_whether_it_has_ended(status: str, ended: bool) -> None:
    """Only where it will never change again."""
    batch = read_batch(answers.encode({"id": "batch_1", "status": status, "input_file_id": "file-1"}))
    assert batch is not None
    assert batch.has_ended is ended


@pytest.mark.parametrize(
    ("members", "has_run"),
    [
        ({"status": "completed", "request_counts": {"completed": 3}}, True),
        ({"status": "completed"}, True),
        ({"status": "completed", "request_counts": {"completed": None}}, True),
        ({"status": "failed"}, False),
        ({"status": "cancelled", "request_counts": {"completed": 0}}, False),
    ],
)
def test_a_batch_has_run_unless_it_says_that_nothing_of_it_has(members: Mapping[str, Any], has_run: bool) -> None:
    """So one without its output is not free."""
    batch = read_batch(answers.encode({"id": "batch_1", **members}))
    assert batch is not None
    assert batch.has_run is has_run


def test_results_are_those_with_ids_that_can_stand_in_a_path() -> None:
    """Output first, then errors."""
    described = {"id": "b", "status": "completed", "output_file_id": "file-2", "error_file_id": "../v1/models"}
    batch = read_batch(answers.encode(described))
    assert batch is not None
    assert batch.result_file_ids == ("file-2",)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"id": 3, "status": "completed"}', b'{"id": "a/b", "status": "completed"}', b'{"id": "b"}']
)
def test_what_is_no_batch_is_none(body: bytes) -> None:
    """However the upstream answers."""
    assert read_batch(body) is None


def test_lists_and_ids() -> None:
    """A page, whether more follow, and an id alone."""
    page = read_batches(answers.encode({"data": [{"id": "b", "status": "failed"}, {}], "has_more": True}))
    assert page is not None
    assert ([batch.id for batch in page[0]], page[1]) == (["b"], True)
    assert read_batches(b"{}") is None
    assert (read_id(b'{"id": "file-1"}'), read_id(b'{"id": ".."}'), read_id(b"-")) == ("file-1", None, None)


# --- what it wrote -------------------------------------------------------------------------------------------------------------------


def test_a_line_of_output_has_the_usage_of_its_answer() -> None:
    """Of every API that a batch may use."""
    chat = read_output_line(call(), output("1", answers.chat("hello", usage=answers.usage(10, 5, cached=4))))
    assert chat is not None
    assert chat.usage == Usage(input=6, cached_input=4, output=5)
    response = read_output_line(
        call("responses"), output("1", answers.response("hello", usage=answers.responses_usage(10, 5, reasoning=2)))
    )
    assert response is not None
    assert response.usage == Usage(input=10, output=3, reasoning=2)
    vectors = read_output_line(call("embeddings"), output("1", answers.embeddings(1, usage=answers.embeddings_usage(7))))
    assert vectors is not None
    assert vectors.usage == Usage(input=7)


@pytest.mark.parametrize("usage", [{"prompt_tokens": -1, "completion_tokens": 1}, "many", {"prompt_tokens": 1.5, "completion_tokens": 1}])
def test_absurd_usage_of_a_line_is_rejected_and_what_it_holds_is_counted(usage: object) -> None:
    """As in an answer that comes at once."""
    read = read_output_line(call(), output("1", answers.chat("x" * 40, usage=usage)))
    assert read is not None
    assert (read.usage, read.usage_rejected, read.output_tokens_counted) == (None, True, 10)


def test_a_failed_request_used_nothing() -> None:
    """Whether it has no answer, or one that says so."""
    assert read_output_line(call(), b'{"id":"r","custom_id":"1","response":null,"error":{"code":"batch_expired"}}') is None
    assert read_output_line(call(), output("1", answers.error("no"), status=400)) is None


def test_what_cannot_be_read_counts_by_its_bytes() -> None:
    """Of embeddings nothing is output; odd JSON that some servers send is read all the same."""
    read = read_output_line(call(), b"x" * 400)
    assert read is not None
    assert read.output_tokens_counted == 100
    vectors = read_output_line(call("embeddings"), b"x" * 400)
    assert vectors is not None
    assert vectors.output_tokens_counted == 0
    odd = msgspec.json.encode(msgspec.json.decode(answers.chat("hello", usage=answers.usage(1, 2)))).replace(b"hello", b"\\ud83d")
    read = read_output_line(call(), output("1", odd))
    assert read is not None
    assert read.usage == Usage(input=1, output=2)
