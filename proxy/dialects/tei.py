"""The own API of Text Embeddings Inference: vectors and scores, and the tokenizer for free.

No answer says what was used, but in headers that are not looked at here; so the input is counted. Fields:
github.com/huggingface/text-embeddings-inference, docs/openapi.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.dialects.counting import InputCount, MediaRule
from proxy.dialects.document import read_object
from proxy.dialects.members import not_priced, wrong
from proxy.dialects.native import Native, add_others, add_pairs, add_prompts, call_without_output, free_call, settings
from proxy.dialects.protocol import Operation, Reader, Request, ledger_member
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "tei"

_NOT_PROMPT = frozenset({"inputs", "query", "texts", "parameters", "prompt_name", "truncation_direction"})


class TEI(Native):
    """The dialect."""

    name = NAME
    operations = (
        *(
            Operation(name, NAME, "POST", f"/{name}", output="none")
            for name in ("embed", "embed_all", "embed_sparse", "rerank", "predict", "similarity")
        ),
        Operation("tokenize", NAME, "POST", "/tokenize", output="none", free=True),
        Operation("decode", NAME, "POST", "/decode", output="none", free=True),
        Operation("info", NAME, "GET", "/info", output="none", free=True),
        Operation("health", NAME, "GET", "/health", output="none", free=True),
    )

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        if request.operation.free:
            return free_call(request)
        document = read_object(request.body)
        count = InputCount(media)
        prompts = 1
        if request.operation.name == "rerank":
            add_pairs(count, document, "texts")
        elif request.operation.name == "similarity":
            inputs = document.get("inputs")
            if not isinstance(inputs, dict) or not isinstance(inputs.get("source_sentence"), str):
                raise wrong("inputs", "an object with 'source_sentence' and 'sentences'")
            prompts = add_prompts(count, [inputs["source_sentence"], inputs.get("sentences")], "sentences")
        else:
            prompts = add_prompts(count, document.get("inputs"), "inputs")
        for members in (document, settings(document, "parameters")):
            _add_stored_prompt(count, members, prompts, media)
        add_others(count, document, but=_NOT_PROMPT)
        return call_without_output(request, "", count, reports_usage=False)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """None: no answer is streamed."""
        return None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """Nothing is read in an answer: it says nothing of what was used, and nothing was written."""
        return Answer(None, 0)

    def error_members(self, refusal: Expected, *, status: int) -> dict[str, Any]:
        """The members of an error body, `error`, `error_type` and `compute_ledger`."""
        kind = "overloaded" if status in (429, 503) else "backend" if status >= 500 else "validation"
        return {"error": refusal.message, "error_type": kind, "compute_ledger": ledger_member(refusal)}


def _add_stored_prompt(count: InputCount, members: Mapping[str, Any], prompts: int, media: MediaRule) -> None:
    """Count a text that the server keeps and puts before every prompt, by the operator's rule."""
    if members.get("prompt_name") is None:
        return
    if media.stored_tokens is None:
        raise not_priced("'prompt_name' cannot be used: it adds input that cannot be seen here.")
    count.add_tokens(media.stored_tokens * prompts)
