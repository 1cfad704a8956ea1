"""Ollama's own API: its endpoints, its credentials, and where each part of it is read.

Requests are read in `ollama_request`, answers in `ollama_answers` and `ollama_stream`; errors are phrased in `ollama_errors`. What manages
models (pull, push, create, copy, delete, blobs, ps) is not served: it is the operator's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.dialects import ollama_answers, ollama_request
from proxy.dialects.counting import MediaRule
from proxy.dialects.listing import Listing
from proxy.dialects.ndjson import NDJSON
from proxy.dialects.ollama_errors import error_members
from proxy.dialects.ollama_stream import PartReader
from proxy.dialects.protocol import Changes, Operation, Reader, Request, utc_time
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "ollama"
_NO_DETAILS: Mapping[str, Any] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": None,
    "parameter_size": "",
    "quantization_level": "",
}
"""What a list of models says of each, and a proxy cannot know; clients expect the members."""


class Ollama:
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations = (
        Operation("chat", NAME, "POST", "/api/chat"),
        Operation("generate", NAME, "POST", "/api/generate"),
        Operation("embed", NAME, "POST", "/api/embed", output="none"),
        Operation("embeddings", NAME, "POST", "/api/embeddings", output="none"),
        Operation("tags", NAME, "GET", "/api/tags", output="none", forwarded=False),
        Operation("show", NAME, "POST", "/api/show", output="none", free=True),
        Operation("version", NAME, "GET", "/api/version", output="none", free=True),
    )
    listing = Listing("/api/tags", member="models", name="name")

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        return ollama_request.parse_request(request, media)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        return ollama_request.rewrite(call, request.body, changes)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return PartReader(call) if media_type in NDJSON else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return ollama_answers.read_answer(call, body)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(error_members(refusal)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return "Authorization", f"Bearer {api_key}"

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use."""
        return json.dumps({"models": [_model(model, created_s) for model in models]}).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        return json.dumps(_model(model, created_s)).encode()


def _model(model: str, created_s: int) -> dict[str, Any]:
    return {
        "name": model,
        "model": model,
        "modified_at": utc_time(created_s * 1000),
        "size": 0,
        "digest": "",
        "details": dict(_NO_DETAILS),
    }
