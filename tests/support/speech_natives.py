"""Operations of inference servers' own APIs, with the charges for each. A usage is written as its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Final

from tests.support.speech import GENERATED, HELLO, MISSING, NO_USAGE, Asked, Charge, Json, Speech

_COUNTED: Final = Charge(27, 34)
"""2 x 3 + 3 x 7; as a whole + 4 x 7."""
_DONE = b"data: [DONE]\n\n"
_ODD = (b"-12", b"5.5", b'"12"', b"true", b"1e999", b"100000001", b"36893488147419103232")
"""Numbers that are no count of tokens, whatever they stand for."""
_PROMPT = {"input_nanocredits": 6, "held_nanocredits": 75}  # 2 x 3; (5 + 4 + 16) x 3


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _with(document: Json, usage: object) -> bytes:
    """A document with members added to it."""
    assert isinstance(usage, bytes)
    return _json(document)[:-1] + (b"," + usage if usage else b"") + b"}"


def _event(document: bytes) -> bytes:
    return b"data: %b\n\n" % document


def _shape(*members: str) -> Callable[[Any, int], str]:
    """The shape of a refusal: these members, and ours, which has the code."""

    def refusal_code(document: Any, status: int) -> str:
        assert document.keys() == {*members, "compute_ledger"}
        assert all(document[member] for member in members)
        return str(document["compute_ledger"]["code"])

    return refusal_code


# --- llama.cpp ---------------------------------------------------------------------------------------------------------------

_IN_EVERY_EVENT: Final = b'"tokens_predicted":3,"tokens_evaluated":12'
"""The usage of servers that count in each event, which is known by being this very object."""


def _llamacpp_usage(inputs: int, outputs: int) -> bytes:
    return b'"tokens_predicted":%d,"tokens_evaluated":%d' % (outputs, inputs)


def _completion_events(words: Sequence[str], usage: object) -> list[bytes]:
    counts = {place: (_llamacpp_usage(12, place + 1) if usage is _IN_EVERY_EVENT else b"") for place in range(len(words))}
    deltas = [
        _with({"index": 0, "content": word, "tokens": [7], "stop": False, "id_slot": -1}, counts[place]) for place, word in enumerate(words)
    ]
    last = {"index": 0, "content": "", "tokens": [], "stop": True, "model": "tiny", "stop_type": "eos", "stopping_word": ""}
    return [_event(data) for data in (*deltas, _with(last, usage))]


_llamacpp = partial(
    Speech,
    dialect="llamacpp",
    error=b'{"error":{"code":400,"message":"no","type":"invalid_request_error"}}',
    error_event=_event(b'{"error":{"code":500,"message":"busy","type":"server_error"}}'),
    refusal_code=_shape("error"),
)

COMPLETION = _llamacpp(
    name="llamacpp-completion",
    ask=lambda model, stream: Asked("/completion", {"model": model, "prompt": HELLO, "stream": stream}),
    maximum=("n_predict",),
    events=_completion_events,
    whole=lambda text, usage: _with({"index": 0, "content": text, "tokens": [], "stop": True, "model": "tiny"}, usage),
    bill=_llamacpp_usage,
    usages={"details": _llamacpp_usage(12, 5) + b',"timings":{"cache_n":4,"prompt_n":8}', "in every event": _IN_EVERY_EVENT},
    absurd={
        **{odd.decode(): b'"tokens_evaluated":12,"tokens_predicted":' + odd for odd in _ODD},
        "more cached than read": _llamacpp_usage(12, 5) + b',"timings":{"cache_n":13}',
        "a negative prompt": _llamacpp_usage(-12, 5),
        "half of it": b'"tokens_predicted":5',
    },
    charges={
        **GENERATED,
        "details": Charge(67, 67),  # 8 x 3 + 4 x 2 + 5 x 7
        "in every event": Charge(57, 57),  # 12 x 3 + 3 x 7
        MISSING: _COUNTED,
    },
    **_PROMPT,
    broken={"in every event": 50},  # 12 x 3 + 2 x 7
    length_cut=(b'"stop_type":"limit"', b'"tokens_predicted":2'),
)

RERANK = _llamacpp(
    name="llamacpp-rerank",
    ask=lambda model, stream: Asked("/reranking", {"model": model, "query": HELLO, "documents": [HELLO]}),
    whole=lambda text, usage: _with({"model": "tiny", "object": "list", "results": [{"index": 0, "relevance_score": 0.5}]}, usage),
    bill=lambda inputs, outputs: b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (inputs, inputs),
    absurd={odd.decode(): b'"usage":{"prompt_tokens":%b}' % odd for odd in _ODD},
    charges={
        "present": Charge(None, 36),  # 12 x 3
        "none used": Charge(None, 0),
        "below words": Charge(None, 36),  # 12 x 3
        MISSING: Charge(None, 12),  # (2 + 2) x 3
    },
    input_nanocredits=12,  # (2 + 2) x 3
    held_nanocredits=138,  # (5 + 16 + 5 + 4 + 16) x 3
)

# --- Text Generation Inference -------------------------------------------------------------------------------------------------


def _tgi_usage(inputs: int, outputs: int) -> bytes:
    return b'{"finish_reason":"eos_token","generated_tokens":%d,"input_length":%d,"seed":null}' % (outputs, inputs)


def _details(usage: object) -> bytes:
    assert isinstance(usage, bytes)
    return b'"details":' + (usage or b"null")


def _token_events(words: Sequence[str], usage: object) -> list[bytes]:
    events = []
    for place, word in enumerate(words, 1):
        last = place == len(words)
        event = {"index": place, "token": {"id": 7, "text": word, "logprob": -0.5, "special": False}}
        event["generated_text"] = "".join(words) if last else None
        events.append(b"data:%b\n\n" % _with(event, _details(usage if last else NO_USAGE)))
    return events


_TGI_ABSURD = {
    **{odd.decode(): b'{"input_length":12,"generated_tokens":%b}' % odd for odd in _ODD},
    "a negative prompt": _tgi_usage(-12, 5),
    "a list": b"[12,5]",
    "empty": b"{}",
}
_tgi = partial(
    Speech,
    dialect="tgi",
    names_model=False,
    error=b'{"error":"no","error_type":"validation"}',
    error_event=b'data:{"error":"busy","error_type":"generation"}\n\n',
    bill=_tgi_usage,
    absurd=_TGI_ABSURD,
    charges={**GENERATED, MISSING: _COUNTED},
    **_PROMPT,
    refusal_code=_shape("error", "error_type"),
)
_TGI_BODY = {"inputs": HELLO, "parameters": {"details": True}}

GENERATE_STREAM = _tgi(
    name="tgi-generate-stream",
    ask=lambda model, stream: Asked("/generate_stream", _TGI_BODY),
    events=_token_events,
    length_cut=(b'"finish_reason":"length"', b'"generated_tokens":2'),
)

COMPAT_GENERATE = _tgi(
    name="tgi-compat-generate",
    ask=lambda model, stream: Asked("/", {**_TGI_BODY, "stream": stream}),
    maximum=("parameters", "max_new_tokens"),
    whole=lambda text, usage: b"[%b]" % _with({"generated_text": text}, _details(usage)),
)

# --- SGLang --------------------------------------------------------------------------------------------------------------------


def _sglang_usage(inputs: int, outputs: int) -> bytes:
    return b'"prompt_tokens":%d,"completion_tokens":%d,"cached_tokens":0' % (inputs, outputs)


def _meta(usage: object, *, finished: bool = True) -> bytes:
    return b'"meta_info":' + _with({"id": "a", "finish_reason": {"type": "stop"} if finished else None}, usage)


def _text_events(words: Sequence[str], usage: object) -> list[bytes]:
    events = [_with({"text": text}, _meta(NO_USAGE, finished=False)) for text in accumulate(words)]
    events[-1] = _with({"text": "".join(words)}, _meta(usage))
    return [*map(_event, events), _DONE]


GENERATE = Speech(
    name="sglang-generate",
    dialect="sglang",
    names_model=False,
    alone=True,
    ask=lambda model, stream: Asked("/generate", {"text": HELLO, "stream": stream}),
    maximum=("sampling_params", "max_new_tokens"),
    events=_text_events,
    whole=lambda text, usage: _with({"text": text}, _meta(usage)),
    second_word=b'"one two "',
    error=b'{"error":{"message":"no"}}',
    error_event=_event(b'{"error":{"message":"busy","type":"invalid_request_error","code":400}}'),
    bill=_sglang_usage,
    usages={"details": b'"prompt_tokens":12,"completion_tokens":5,"cached_tokens":4,"reasoning_tokens":2'},
    absurd={
        **{odd.decode(): b'"prompt_tokens":12,"completion_tokens":' + odd for odd in _ODD},
        "more cached than read": b'"prompt_tokens":12,"completion_tokens":5,"cached_tokens":13',
        "a negative prompt": _sglang_usage(-12, 5),
        "half of it": b'"completion_tokens":5',
    },
    charges={
        **GENERATED,
        "details": Charge(75, 75),  # 8 x 3 + 4 x 2 + 3 x 7 + 2 x 11
        MISSING: _COUNTED,
    },
    **_PROMPT,
    length_cut=(b'"text":"one two "', b'"type":"length"', b'"completion_tokens":2', _DONE),
    refusal_code=_shape("error"),
)

# --- those that never say what was used ----------------------------------------------------------------------------------------


def _never(charge: Charge) -> Mapping[str, Charge]:
    return dict.fromkeys(("present", "none used", "below words", MISSING), charge)


def _ignored(inputs: int, outputs: int) -> bytes:
    return b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (inputs, outputs)


_silent = partial(Speech, bill=_ignored, absurd={"negative": _ignored(-12, -5)}, **_PROMPT)

EMBED = _silent(
    name="tei-embed",
    dialect="tei",
    names_model=False,
    ask=lambda model, stream: Asked("/embed", {"inputs": HELLO}),
    whole=lambda text, usage: b"[[0.5,-0.25,0.5,-0.25]]",
    charges=_never(Charge(None, 6)),  # 2 x 3
    error=b'{"error":"no","error_type":"Validation"}',
    refusal_code=_shape("error", "error_type"),
)

_kserve = partial(
    _silent,
    dialect="kserve",
    error=b'{"error":"no"}',
    charges=_never(_COUNTED),
    refusal_code=_shape("error"),
)

INFER = _kserve(
    name="kserve-infer",
    ask=lambda model, stream: Asked(
        f"/v2/models/{model}/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [HELLO]}]}
    ),
    whole=lambda text, usage: _with({"model_name": "tiny", "outputs": [{"name": "y", "datatype": "BYTES", "data": [text]}]}, usage),
)

TEXT = _kserve(
    name="kserve-generate",
    ask=lambda model, stream: Asked(f"/v2/models/{model}/generate{'_stream' if stream else ''}", {"text_input": HELLO}),
    events=lambda words, usage: [_event(_with({"model_name": "tiny", "text_output": word}, usage)) for word in words],
    whole=lambda text, usage: _with({"model_name": "tiny", "model_version": "1", "text_output": text}, usage),
    end_marked=False,
    error_event=_event(b'{"error":"busy"}'),
    length_cut=(),
)

SPEECHES = (COMPLETION, RERANK, GENERATE_STREAM, COMPAT_GENERATE, GENERATE, EMBED, INFER, TEXT)
