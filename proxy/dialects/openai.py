"""The OpenAI API: its endpoints, its credentials, and which module reads what.

Text is read in `openai_text` and those below it, recordings in `openai_audio`, images in `openai_images`, what gives numbers in
`openai_scoring`, files and batches in `openai_batches`; errors are phrased in `openai_errors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from proxy.dialects import openai_audio, openai_images, openai_realtime, openai_scoring, openai_text
from proxy.dialects.counting import MediaRule
from proxy.dialects.listing import Listing
from proxy.dialects.openai_errors import error_members
from proxy.dialects.protocol import Changes, Operation, Reader, Request
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "openai"
OWNER = "compute-ledger"


class _Part(Protocol):
    """Some of the operations: what of a dialect depends on which one it is."""

    def parse_request(self, request: Request, media: MediaRule) -> Call: ...

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None: ...

    def read_stream(self, call: Call, media_type: str) -> Reader | None: ...

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer: ...


def _part(operation: str) -> _Part:
    return _PARTS.get(operation, openai_text)


_PARTS: Mapping[str, _Part] = {
    **dict.fromkeys(("speech", "transcriptions", "translations"), openai_audio),
    "realtime": openai_realtime,
    **dict.fromkeys(("images", "image_edits", "image_variations"), openai_images),
    **dict.fromkeys(("moderations", "rerank", "score", "classify", "pooling", "tokenize", "detokenize"), openai_scoring),
}


class OpenAI:
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations: Sequence[Operation] = (
        Operation("chat", NAME, "POST", "/v1/chat/completions"),
        Operation("completions", NAME, "POST", "/v1/completions"),
        Operation("responses", NAME, "POST", "/v1/responses"),
        Operation("embeddings", NAME, "POST", "/v1/embeddings", output="none"),
        Operation("models", NAME, "GET", "/v1/models", output="none", forwarded=False),
        Operation("model", NAME, "GET", "/v1/models/{model}", output="none", forwarded=False),
        Operation("speech", NAME, "POST", "/v1/audio/speech"),
        Operation("transcriptions", NAME, "POST", "/v1/audio/transcriptions", passes_content_type=True),
        Operation("translations", NAME, "POST", "/v1/audio/translations", passes_content_type=True),
        Operation("images", NAME, "POST", "/v1/images/generations"),
        Operation("image_edits", NAME, "POST", "/v1/images/edits", passes_content_type=True),
        Operation("image_variations", NAME, "POST", "/v1/images/variations", passes_content_type=True),
        Operation("moderations", NAME, "POST", "/v1/moderations", output="none"),
        Operation("rerank", NAME, "POST", "/v1/rerank", output="none"),
        Operation("score", NAME, "POST", "/v1/score", output="none"),
        Operation("realtime", NAME, "GET", "/v1/realtime", query=frozenset({"model"}), socket=True),
        Operation("file_upload", NAME, "POST", "/v1/files", passes_content_type=True, kept=True),
        Operation("file", NAME, "GET", "/v1/files/{id}", kept=True),
        Operation("file_deletion", NAME, "DELETE", "/v1/files/{id}", kept=True),
        Operation("file_content", NAME, "GET", "/v1/files/{id}/content", kept=True),
        Operation("batch_creation", NAME, "POST", "/v1/batches", kept=True),
        Operation("batch", NAME, "GET", "/v1/batches/{id}", kept=True),
        Operation("batch_cancellation", NAME, "POST", "/v1/batches/{id}/cancel", kept=True),
    )
    listing = Listing("/v1/models", member="data", name="id")

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        return _part(request.operation.name).parse_request(request, media)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        return _part(call.operation).rewrite(call, request, changes)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return _part(call.operation).read_stream(call, media_type)

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return _part(call.operation).read_answer(call, body, media_type)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(error_members(refusal)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return "Authorization", f"Bearer {api_key}"

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use."""
        return json.dumps({"object": "list", "data": [_model(model, created_s) for model in models]}).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        return json.dumps(_model(model, created_s)).encode()


def _model(model: str, created_s: int) -> dict[str, str | int]:
    return {"id": model, "object": "model", "created": created_s, "owned_by": OWNER}
