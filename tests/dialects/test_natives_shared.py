"""What holds for the own APIs of all inference servers: refusals in their words, cuts by error, free paths, splits at every byte."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import Changes, Request
from proxy.domain import Call, Usage
from proxy.errors import Refusal
from tests.dialects.native_wire import USED_UP, Wire, call_of, data_of, events, forwarded, state

LLAMACPP, TGI, SGLANG, TEI, KSERVE = map(Wire, ("llamacpp", "tgi", "sglang", "tei", "kserve"))
NATIVES = (LLAMACPP, TGI, SGLANG, TEI, KSERVE)
BY_NAME = pytest.mark.parametrize("wire", NATIVES, ids=lambda wire: wire.name)


class Stream(NamedTuple):
    wire: Wire
    call: Call
    stream: bytes


STREAMS = (
    Stream(
        LLAMACPP,
        call_of("completion"),
        events(
            {"index": 0, "content": "hä", "tokens": [1], "stop": False, "tokens_predicted": 1, "tokens_evaluated": 5},
            {"index": 0, "content": "", "stop": True, "tokens_predicted": 2, "tokens_evaluated": 5, "timings": {"cache_n": 4}},
        ),
    ),
    Stream(
        TGI,
        call_of("generate_stream"),
        b'data:{"index":1,"token":{"id":7,"text":"h\xc3\xa4","logprob":-1,"special":false},"generated_text":null,"details":null}\n\n'
        b'data:{"index":2,"token":{"id":2,"text":"</s>","logprob":-1,"special":true},"generated_text":"h\xc3\xa4",'
        b'"details":{"finish_reason":"eos_token","generated_tokens":2,"input_length":5,"seed":null}}\n\n',
    ),
    Stream(
        SGLANG,
        call_of("generate"),
        events(
            {"text": "hä", "meta_info": {"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 4, "finish_reason": None}},
            {
                "text": "hä?",
                "meta_info": {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 4, "finish_reason": {"type": "stop"}},
            },
        )
        + b"data: [DONE]\n\n",
    ),
    Stream(KSERVE, call_of("generate_stream"), events({"model_name": "m", "text_output": "hä"}, {"model_name": "m", "text_output": "?"})),
)
STREAMED = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.wire.name)


@STREAMED
def test_any_split_reads_the_same(stream: Stream) -> None:
    """Bytes pass unchanged, and where the chunks end changes nothing that is read."""
    wire, call, whole = stream
    expected = state(wire, call, whole)
    pieces, deltas, ended, failed, rejected = expected
    assert forwarded(pieces) == whole
    assert (deltas, ended, failed, rejected) == (2 if wire is not LLAMACPP else 1, True, False, False)
    for place in range(1, len(whole)):
        assert state(wire, call, whole[:place], whole[place:]) == expected
    assert state(wire, call, *(whole[place : place + 1] for place in range(len(whole)))) == expected


@STREAMED
def test_a_cut_by_error_says_why(stream: Stream) -> None:
    """The event is the server's own error with our reason beside it; whoever reads on finds the end."""
    wire, call, whole = stream
    reader = wire.reader(call)
    reader.feed(whole[: whole.index(b"\n\n") + 2])
    said = reader.cut_by_error(USED_UP)
    assert said is not None
    document = data_of(said)[0]
    assert document == json.loads(wire.dialect.refusal_body(USED_UP, status=402))
    assert document["compute_ledger"]["code"] == "insufficient_quota"
    assert said.endswith(b"data: [DONE]\n\n") == (wire is SGLANG)


@STREAMED
def test_an_error_event_fails_the_stream(stream: Stream) -> None:
    """An error of the server's own is forwarded, and ends what can be trusted."""
    wire, call, _ = stream
    error = events({"error": "boom"})
    pieces, reader = wire.read(call, error)
    assert (forwarded(pieces), reader.failed) == (error, True)


@STREAMED
def test_half_an_event_is_no_end(stream: Stream) -> None:
    """A stream that stops within an event has not ended, and the half is not forwarded."""
    wire, call, whole = stream
    pieces, reader = wire.read(call, whole[:-7])
    assert not reader.ended
    assert whole.startswith(forwarded(pieces))
    assert forwarded(pieces).endswith(b"\n\n")


@STREAMED
def test_what_cannot_be_read_counts_by_its_bytes(stream: Stream) -> None:
    """An event that is no JSON object passes, and costs a token for every four bytes."""
    wire, call, _ = stream
    pieces, _reader = wire.read(call, b"data: <html>not an event</html>\n\n")
    assert [piece.output_tokens for piece in pieces] == [7]


@pytest.mark.parametrize(
    ("wire", "status", "expected"),
    [
        (LLAMACPP, 402, {"error": {"code": 402, "message": "The budget is used up.", "type": "permission_error"}}),
        (LLAMACPP, 429, {"error": {"code": 429, "message": "The budget is used up.", "type": "unavailable_error"}}),
        (TGI, 402, {"error": "The budget is used up.", "error_type": "validation"}),
        (TGI, 429, {"error": "The budget is used up.", "error_type": "overloaded"}),
        (SGLANG, 402, {"error": {"message": "The budget is used up.", "type": "invalid_request_error", "code": 402}}),
        (TEI, 402, {"error": "The budget is used up.", "error_type": "validation"}),
        (KSERVE, 402, {"error": "The budget is used up."}),
    ],
    ids=lambda value: value.name if isinstance(value, Wire) else None,
)
def test_a_refusal_has_the_servers_own_form(wire: Wire, status: int, expected: dict[str, Any]) -> None:
    """Where each server's clients look for what went wrong, with our member beside it."""
    document = json.loads(wire.dialect.refusal_body(USED_UP, status=status))
    assert document.pop("compute_ledger") == {"code": "insufficient_quota", "account": "user:ann", "hint": "Wait."}
    assert document == expected


@BY_NAME
def test_the_credential_is_a_bearer_token(wire: Wire) -> None:
    """As all these servers take it."""
    assert wire.dialect.upstream_credential("k") == ("Authorization", "Bearer k")


@BY_NAME
def test_no_models_are_listed(wire: Wire) -> None:
    """None of these APIs has a list of models to ask for."""
    assert wire.dialect.listing is None


@BY_NAME
def test_what_is_free_is_not_looked_into(wire: Wire) -> None:
    """Health and tokenizers ask for nothing that is counted, and their bodies stay as they are."""
    free = [operation for operation in wire.dialect.operations if operation.free]
    assert {"health", "live"} & {operation.name for operation in free}
    for operation in free:
        path, body = operation.path.replace("{model}", "m"), b'{"content":"hello"}' if operation.method == "POST" else b""
        call = wire.parse(path, body, method=operation.method)
        assert (call.stream, call.output_tokens_max, call.input_tokens_counted) == (False, 0, 0)
        request = wire.request(path, body, method=operation.method)
        assert wire.dialect.rewrite(call, request, Changes(output_tokens_max=5, model="other")) is None


@BY_NAME
def test_unreadable_bodies_are_refused(wire: Wire) -> None:
    """What costs is read strictly: no JSON, a list, a member named twice."""
    for operation in wire.dialect.operations:
        if not operation.free:
            for body in (b"", b"[]", b'{"prompt":"a","prompt":"b"}', b'{"a":' * 2000):
                wire.refusal(operation.path.replace("{model}", "m"), body)


@pytest.mark.parametrize(("wire", "operation"), [(LLAMACPP, "completion"), (TGI, "generate"), (SGLANG, "generate"), (KSERVE, "generate")])
@pytest.mark.parametrize("body", [b"not JSON at all", b"[]", b"[7]", b"null", b"[[[["])
def test_a_whole_answer_that_cannot_be_read(wire: Wire, operation: str, body: bytes) -> None:
    """It costs a token for every four bytes, and nothing in it is usage."""
    answer = wire.answer(call_of(operation, stream=False), body)
    assert (answer.usage, answer.usage_rejected) == (None, False)
    assert answer.output_tokens_counted == -(-len(body) // 4)


# --- anything at all -----------------------------------------------------------------------------------------------------------------

ASKED = """prompt text inputs text_input input_ids input_embeds content input query documents texts source_sentence sentences inputs outputs
parameters sampling_params n_predict max_tokens max_new_tokens n best_of n_cmpl stream image_data multimodal_data prompt_string data
input_extra model image prompt_name details"""
SAID = """content text generated_text text_output outputs data token id index stop tokens_predicted tokens_evaluated timings cache_n usage
prompt_tokens meta_info completion_tokens cached_tokens finish_reason details generated_tokens prefill input_length best_of_sequences
error"""


def documents(names: str) -> st.SearchStrategy[Any]:
    """JSON objects whose members have names that mean something, and values that may not."""
    name = st.sampled_from(names.split())
    leaves = st.none() | st.booleans() | st.integers(-3, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6)
    values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name, inner, max_size=4))
    return st.dictionaries(name, values, max_size=6)


def read_or_refuse(wire: Wire, request: Request) -> Call | None:
    try:
        return wire.dialect.parse_request(request, wire.media)
    except Refusal as refused:
        if refused.code != "invalid_request":
            raise
        return None


@given(wire=st.sampled_from(NATIVES), document=documents(ASKED))
def test_any_request_is_read_or_refused(wire: Wire, document: dict[str, Any]) -> None:
    """Nothing that a caller makes up is an error of ours; what is read is bounded, and can be lowered to one token."""
    for operation in wire.dialect.operations:
        if operation.free:
            continue
        request = wire.request(operation.path.replace("{model}", "m"), document)
        call = read_or_refuse(wire, request)
        if call is None:
            continue
        assert 0 <= call.input_tokens_counted <= call.input_tokens_bound
        assert call.choices >= 1
        lowered = wire.dialect.rewrite(call, request, Changes(output_tokens_max=1, model="other"))
        if lowered is not None and operation.output == "tokens" and operation.name != "infer":
            again = wire.dialect.parse_request(Request(operation, lowered, request.model), wire.media)
            assert again.output_tokens_max is not None
            assert again.output_tokens_max <= 1


@given(wire=st.sampled_from(NATIVES), said=st.lists(documents(SAID), max_size=4), choices=st.integers(1, 3))
def test_any_answer_is_read(wire: Wire, said: list[dict[str, Any]], choices: int) -> None:
    """Nothing that an upstream makes up is an error of ours; bytes pass unchanged, and no count is below zero."""
    for operation in wire.dialect.operations:
        call = call_of(operation.name, choices=choices)
        for document in (said, *said):
            answer = wire.answer(call, document)
            assert answer.output_tokens_counted >= 0
            assert answer.usage is None or min(answer.usage.input_tokens, answer.usage.output_tokens) >= 0
        if wire is TEI:
            continue
        stream = events(*said)
        pieces, reader = wire.read(call, stream)
        assert forwarded(pieces) == stream
        assert all(piece.output_tokens >= 0 for piece in pieces)
        for unsent in (pieces, ()):
            assert reader.cut_by_length(Usage(input=1, output=1), unsent=unsent) is not None
