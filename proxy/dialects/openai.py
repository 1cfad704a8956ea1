"""The OpenAI API: its endpoints, its credentials, and where each part of it is read.

Requests are read in `openai_request` and `openai_input`, whole answers and usage in `openai_usage`, streams in `openai_stream` and
`openai_responses`; errors are phrased in `openai_errors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from proxy.dialects import openai_request, openai_usage
from proxy.dialects.counting import MediaRule
from proxy.dialects.openai_errors import error_members
from proxy.dialects.openai_responses import EventReader
from proxy.dialects.openai_stream import ChunkReader
from proxy.dialects.protocol import Changes, Operation, Reader, Request
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "openai"
OWNER = "compute-ledger"


class _Listed(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Listed]


_decode_models = msgspec.json.Decoder(_Models).decode


class OpenAI:
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations = (
        Operation("chat", NAME, "POST", "/v1/chat/completions"),
        Operation("completions", NAME, "POST", "/v1/completions"),
        Operation("responses", NAME, "POST", "/v1/responses"),
        Operation("embeddings", NAME, "POST", "/v1/embeddings", output="none"),
        Operation("models", NAME, "GET", "/v1/models", output="none", forwarded=False),
        Operation("model", NAME, "GET", "/v1/models/{model}", output="none", forwarded=False),
    )
    models_path = "/v1/models"

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        return openai_request.parse_request(request, media)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        return openai_request.rewrite(call, request.body, changes)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        if media_type != EVENT_STREAM:
            return None
        return EventReader(call) if call.operation == "responses" else ChunkReader(call)

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return openai_usage.read_answer(call, body)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(error_members(refusal)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return "Authorization", f"Bearer {api_key}"

    def read_models(self, body: bytes) -> Sequence[str]:
        """The names in an upstream's list of models; none where it cannot be read."""
        try:
            return [model.id for model in _decode_models(body).data]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ()

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use."""
        return json.dumps({"object": "list", "data": [_model(model, created_s) for model in models]}).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        return json.dumps(_model(model, created_s)).encode()


def _model(model: str, created_s: int) -> dict[str, str | int]:
    return {"id": model, "object": "model", "created": created_s, "owned_by": OWNER}
