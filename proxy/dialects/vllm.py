"""vLLM's own endpoints beside OpenAI's: scores, classes, pooled vectors, and tokens counted. All else is as OpenAI has it."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Operation

NAME = "vllm"


class VLLM(OpenAI):
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations: Sequence[Operation] = (
        Operation("rerank", NAME, "POST", "/rerank", output="none"),
        Operation("rerank", NAME, "POST", "/v1/rerank", output="none"),
        Operation("rerank", NAME, "POST", "/v2/rerank", output="none"),
        Operation("score", NAME, "POST", "/score", output="none"),
        Operation("score", NAME, "POST", "/v1/score", output="none"),
        Operation("classify", NAME, "POST", "/classify", output="none"),
        Operation("pooling", NAME, "POST", "/pooling", output="none"),
        Operation("tokenize", NAME, "POST", "/tokenize", output="none", free=True),
        Operation("detokenize", NAME, "POST", "/detokenize", output="none", free=True),
    )
