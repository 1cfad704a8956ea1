"""What reads texts and gives back numbers, OpenAI's and vLLM's, with the charges for each."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.support import openai_answers as answers
from tests.support.speech import HELLO, MISSING, Asked, Charge, Json, Speech
from tests.support.speech_openai import absurd_usages, refusal_code

_USED: Final = {"present": Charge(None, 36), "none used": Charge(None, 0), "below words": Charge(None, 36)}
"""12 x 3."""
_PAIR: Final = {
    "charges": {**_USED, MISSING: Charge(None, 24)},  # (2 + 2 + 4) x 3
    "input_nanocredits": 24,
    "held_nanocredits": 102,  # (5 + 5 + 8 + 16) x 3
}


def _total(inputs: int, outputs: int) -> Json:
    return {"total_tokens": inputs}


def _speech(name: str, path: str, body: Json, answer: Json, **members: Any) -> Speech:
    return partial(
        Speech,
        dialect=name.partition("-")[0],
        error=answers.error("no"),
        refusal_code=refusal_code,
        bill=_total,
        absurd={"negative": absurd_usages(b"prompt_tokens", b"completion_tokens")["negative"]},
    )(
        name=name,
        ask=lambda model, stream: Asked(path, {"model": model, **body}),
        whole=lambda text, usage: answers.with_usage(answer, usage),
        **members,
    )


_RANKED: Final[Json] = {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}]}
MODERATIONS = _speech(
    "openai-moderations",
    "/v1/moderations",
    {"input": HELLO},
    {"id": "modr-1", "results": [{"flagged": False}]},
    charges={**_USED, MISSING: Charge(None, 6)},  # 2 x 3
    input_nanocredits=6,
    held_nanocredits=63,  # (5 + 16) x 3
)
RERANK = _speech("openai-rerank", "/v1/rerank", {"query": HELLO, "documents": [HELLO]}, _RANKED, **_PAIR)
SCORE = _speech("openai-score", "/v1/score", {"text_1": HELLO, "text_2": [HELLO]}, {"data": [{"index": 0, "score": 0.5}]}, **_PAIR)
VLLM_RERANK = _speech("vllm-rerank", "/v2/rerank", {"query": HELLO, "documents": [HELLO]}, _RANKED, alone=True, **_PAIR)
CLASSIFY = _speech(
    "vllm-classify",
    "/classify",
    {"input": HELLO},
    {"data": [{"index": 0, "label": "good", "probs": [1.0]}]},
    charges={**_USED, MISSING: Charge(None, 6)},  # 2 x 3
    input_nanocredits=6,
    held_nanocredits=75,  # (5 + 4 + 16) x 3
)

SPEECHES = (MODERATIONS, RERANK, SCORE, VLLM_RERANK, CLASSIFY)
