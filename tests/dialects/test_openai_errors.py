"""How refusals and cuts are phrased: in OpenAI's own shape, so that its official client does what its users expect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import openai
import pytest

from proxy.dialects import DIALECTS, Reader, ledger_member, utc_time
from proxy.dialects.sse import FrameSplitter
from proxy.domain import Piece, Usage
from proxy.errors import STATUS_BY_CODE, Expected, Failure, LedgerUnavailable, Refusal
from tests.dialects.recorded_streams import CHAT, COMPLETION, RESPONSES, TOOL_CALLS
from tests.dialects.test_openai_stream import call_of, reader_of

OPENAI = DIALECTS["openai"]
SPENT = Refusal(
    "insufficient_quota",
    "The daily budget of user:ann is spent.",
    account="user:ann",
    limit="day/UTC",
    needed_nanocredits=1_500_000_000,
    available_nanocredits=1,
    resets_at_ms=1_795_392_000_000,
    hint="Wait, or ask for a grant.",
)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    splitter = FrameSplitter()
    frames = splitter.feed(stream) + splitter.close()
    assert all(frame.whole for frame in frames)
    return [json.loads(frame.data) for frame in frames if frame.data and frame.data != b"[DONE]"]


# --- refusals ------------------------------------------------------------------------------------------------------------------------


def test_a_refusal_has_openais_shape_and_says_what_helps() -> None:
    """Amounts are decimal credits, times are UTC."""
    assert json.loads(OPENAI.refusal_body(SPENT, status=402)) == {
        "error": {
            "message": "The daily budget of user:ann is spent.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        },
        "compute_ledger": {
            "code": "insufficient_quota",
            "account": "user:ann",
            "limit": "day/UTC",
            "needed": "1.5",
            "available": "0.000000001",
            "resets_at": "2026-11-23T00:00:00Z",
            "hint": "Wait, or ask for a grant.",
        },
    }


def test_what_does_not_apply_to_a_refusal_is_left_out() -> None:
    """No nulls to branch on; an amount of nothing is an amount."""
    assert ledger_member(Refusal("invalid_request", "No.")) == {"code": "invalid_request"}
    assert ledger_member(Refusal("insufficient_quota", "No.", available_nanocredits=0)) == {"code": "insufficient_quota", "available": "0"}


@pytest.mark.parametrize("code", sorted(STATUS_BY_CODE))
def test_every_code_has_a_type_that_openais_clients_know(code: str) -> None:
    """The budget's codes say so, the rest follows the status."""
    error = json.loads(OPENAI.refusal_body(Expected(code, "No."), status=400))["error"]
    status = STATUS_BY_CODE[code]
    otherwise = "server_error" if status >= 500 else "invalid_request_error"
    assert (error["code"], error["type"]) == (code, {402: "insufficient_quota", 429: "rate_limit_error"}.get(status, otherwise))


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_392_000_000, "2026-11-23T00:00:00Z"),
        (1_795_392_000_001, "2026-11-23T00:00:00.001Z"),
        (4_102_444_800_999, "2100-01-01T00:00:00.999Z"),
    ],
)
def test_times_are_rfc_3339_in_utc(at_ms: int, text: str) -> None:
    """Exact to the millisecond."""
    assert utc_time(at_ms) == text


def test_models_are_listed_in_openais_shape() -> None:
    """As the client's own list and retrieve calls read them."""
    listed = json.loads(OPENAI.models_body(["a", "b/c"], created_s=7))
    one = {"id": "b/c", "object": "model", "created": 7, "owned_by": "compute-ledger"}
    assert (listed["object"], [model["id"] for model in listed["data"]], listed["data"][1]) == ("list", ["a", "b/c"], one)
    assert json.loads(OPENAI.model_body("b/c", created_s=7)) == one
    assert OPENAI.upstream_credential("sk-1") == ("Authorization", "Bearer sk-1")


# --- cuts ----------------------------------------------------------------------------------------------------------------------------


def cut_after(reader: Reader, stream: bytes, pieces: int) -> tuple[bytes, Sequence[Piece]]:
    """Forward so many pieces of a stream; what was forwarded, and the pieces that were not."""
    read = reader.feed(stream)
    return b"".join(piece.data for piece in read[:pieces]), read[pieces:]


def test_a_cut_chat_stream_ends_with_the_error_and_the_end_marker() -> None:
    """Nothing is half sent."""
    reader = reader_of(call_of())
    sent, _ = cut_after(reader, CHAT.stream, 2)
    cut = reader.cut_by_error(SPENT)
    assert cut.endswith(b"\n\ndata: [DONE]\n\n")
    *_, error = events_of(sent + cut)
    assert error == json.loads(OPENAI.refusal_body(SPENT, status=402))


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("recording", [CHAT, COMPLETION], ids=lambda recording: recording.name)
def test_a_stream_cut_by_length_ends_like_the_models_own_limit(recording: Any, wants_usage: bool) -> None:
    """Finish reason, identity of the chunks so far, usage where it was asked for, end marker."""
    reader = reader_of(call_of(recording.operation, wants_usage=wants_usage))
    sent, unsent = cut_after(reader, recording.stream, 1)
    cut = reader.cut_by_length(Usage(input=3, cached_input=1, output=2), unsent=unsent)
    first, *_ = events_of(sent)
    closing, *usage = events_of(cut)
    assert {name: closing[name] for name in ("id", "object", "created", "model")} == {
        name: first[name] for name in ("id", "object", "created", "model")
    }
    written = {"delta": {}} if recording is CHAT else {"text": ""}
    assert closing["choices"] == [{"index": 0, **written, "logprobs": None, "finish_reason": "length"}]
    assert [(chunk["choices"], chunk["usage"]["total_tokens"]) for chunk in usage] == ([([], 6)] if wants_usage else [])
    assert cut.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(("forwarded", "open_choices"), [(4, [0, 1]), (5, [1]), (6, [])])
def test_each_choice_that_the_client_has_not_seen_end_is_closed(forwarded: int, open_choices: list[int]) -> None:
    """Also one whose end was read but not forwarded; a choice that ended stays as it ended."""
    reader = reader_of(call_of(choices=2))
    _, unsent = cut_after(reader, TOOL_CALLS.stream, forwarded)
    cut = events_of(reader.cut_by_length(Usage(), unsent=unsent))
    assert [chunk["choices"][0]["index"] for chunk in cut] == open_choices


def test_a_stream_cut_before_its_first_event_still_ends_well() -> None:
    """With the model that the request named."""
    (closing,) = events_of(reader_of(call_of()).cut_by_length(Usage()))
    assert (closing["model"], closing["choices"][0]["finish_reason"]) == ("m", "length")


def test_a_response_cut_by_an_error_fails() -> None:
    """The error event, then the failed response, numbered on."""
    reader = reader_of(call_of("responses"))
    cut_after(reader, RESPONSES.stream[: RESPONSES.stream.index(b"event: response.output_text.done")], 4)
    error, failed = events_of(reader.cut_by_error(SPENT))
    assert (error["type"], error["code"], error["message"], error["sequence_number"]) == ("error", SPENT.code, SPENT.message, 5)
    assert error["compute_ledger"]["account"] == "user:ann"
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 6)
    response = failed["response"]
    assert (response["id"], response["status"], response["error"]["code"]) == ("resp_1", "failed", SPENT.code)


def test_a_response_cut_by_length_is_incomplete_with_true_usage() -> None:
    """As if its own maximum had been reached."""
    reader = reader_of(call_of("responses"))
    reader.feed(RESPONSES.stream[: RESPONSES.stream.index(b"event: response.completed")])
    (incomplete,) = events_of(reader.cut_by_length(Usage(input=3, output=2)))
    response = incomplete["response"]
    assert (incomplete["type"], incomplete["sequence_number"], response["status"]) == ("response.incomplete", 8, "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (response["usage"]["total_tokens"], response["id"]) == (5, "resp_1")


@pytest.mark.parametrize("operation", ["chat", "responses"])
@pytest.mark.parametrize(
    "start", [b'data: {"choices":[{"delta":{"con', b'data: {"choices":[]}\n', b"data: " + b"x" * 6_000_000, b": half a comm"], ids=len
)
def test_our_event_stands_apart_from_what_was_torn(operation: str, start: bytes) -> None:
    """After an upstream that vanished within an event, or within one too long to buffer, the client still reads ours."""
    reader = reader_of(call_of(operation))
    sent = b"".join(piece.data for piece in [*reader.feed(start), *reader.close()])
    splitter = FrameSplitter(10_000_000)
    frames = splitter.feed(sent + reader.cut_by_error(SPENT)) + splitter.close()
    ours = [frame.data for frame in frames if frame.data and b"insufficient_quota" in frame.data]
    assert ours
    assert all(json.loads(data) for data in ours)


def test_half_surrogate_pairs_in_what_we_repeat_do_not_stop_a_cut() -> None:
    """Whatever an upstream calls its chunks."""
    reader = reader_of(call_of())
    reader.feed(b'data: {"id":"\\ud83d","choices":[{"index":0,"delta":{}}]}\n\n')
    assert events_of(reader.cut_by_length(Usage()))


# --- as the official client sees it ----------------------------------------------------------------------------------------------------


def client(body: bytes, *, status: int = 200, media_type: str = "text/event-stream") -> openai.OpenAI:
    answer = httpx2.MockTransport(lambda _: httpx2.Response(status, headers={"content-type": media_type}, content=body))
    return openai.OpenAI(api_key="cl-test", base_url="http://test/v1", max_retries=0, http_client=httpx2.Client(transport=answer))


HI: Any = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("refusal", [SPENT, Failure("draining", "Try again."), LedgerUnavailable()], ids=lambda refusal: refusal.code)
def test_the_official_client_raises_on_a_cut_chat_stream(refusal: Expected) -> None:
    """With our code, after all that was forwarded."""
    reader = reader_of(call_of())
    sent, _ = cut_after(reader, CHAT.stream, 2)
    with client(sent + reader.cut_by_error(refusal)) as openai_client:
        stream = openai_client.chat.completions.create(model="m", messages=HI, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "Hello"]
        with pytest.raises(openai.APIError) as raised:
            next(stream)
    assert (raised.value.code, raised.value.message) == (refusal.code, refusal.message)


def test_the_official_client_raises_on_a_cut_response() -> None:
    """Its error event alone would only be handed on, so ours holds the member that makes the client raise."""
    reader = reader_of(call_of("responses"))
    sent, _ = cut_after(reader, RESPONSES.stream, 5)
    with client(sent + reader.cut_by_error(SPENT)) as openai_client, pytest.raises(openai.APIError) as raised:
        list(openai_client.responses.create(model="m", input="hi", stream=True))
    assert raised.value.code == "insufficient_quota"


def test_the_official_client_reads_a_stream_cut_by_length_as_a_short_answer() -> None:
    """Finish reason and usage included."""
    reader = reader_of(call_of(wants_usage=True))
    sent, unsent = cut_after(reader, CHAT.stream, 2)
    with client(sent + reader.cut_by_length(Usage(input=3, output=2), unsent=unsent)) as openai_client:
        chunks = list(openai_client.chat.completions.create(model="m", messages=HI, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None, None, "length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


def test_the_official_client_reads_a_response_cut_by_length_as_incomplete() -> None:
    """It yields the event and goes on."""
    reader = reader_of(call_of("responses"))
    sent, _ = cut_after(reader, RESPONSES.stream, 5)
    with client(sent + reader.cut_by_length(Usage(input=3, output=2))) as openai_client:
        *_, last = openai_client.responses.create(model="m", input="hi", stream=True)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_the_official_client_raises_on_a_refusal() -> None:
    """With our code and the ledger's member in its body."""
    answering = client(OPENAI.refusal_body(SPENT, status=402), status=402, media_type="application/json")
    with answering as openai_client, pytest.raises(openai.APIStatusError) as raised:
        openai_client.chat.completions.create(model="m", messages=HI)
    assert (raised.value.status_code, raised.value.code, raised.value.type) == (402, "insufficient_quota", "insufficient_quota")
    assert raised.value.response.json()["compute_ledger"]["needed"] == "1.5"
