"""Cohere's API, the second: its endpoints, its credentials, and where each part of it is read.

Requests are read in `cohere_request` and `cohere_input`, whole answers and usage in `cohere_answers`, streams in `cohere_stream`; errors
are phrased in `cohere_errors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from proxy.dialects import cohere_answers, cohere_request
from proxy.dialects.cohere_errors import error_members
from proxy.dialects.cohere_stream import EventReader
from proxy.dialects.counting import MediaRule
from proxy.dialects.listing import Listing
from proxy.dialects.protocol import Changes, Operation, Reader, Request
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "cohere"


class Cohere:
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations = (
        Operation("chat", NAME, "POST", "/v2/chat"),
        Operation("embed", NAME, "POST", "/v2/embed", output="none"),
        Operation("rerank", NAME, "POST", "/v2/rerank", output="none"),
        Operation("models", NAME, "GET", "/v1/models", output="none", forwarded=False),
        Operation("model", NAME, "GET", "/v1/models/{model}", output="none", forwarded=False),
    )
    listing = Listing("/v1/models", member="models", name="name", query="?page_size=1000")

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        return cohere_request.parse_request(request, media)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        return cohere_request.rewrite(call, request.body, changes)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return EventReader(call) if media_type == EVENT_STREAM else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return cohere_answers.read_answer(call, body)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(error_members(refusal)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return "Authorization", f"Bearer {api_key}"

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use."""
        return json.dumps({"models": [_model(model) for model in models]}).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        return json.dumps(_model(model)).encode()


def _model(model: str) -> dict[str, Any]:
    return {"name": model, "is_deprecated": False, "endpoints": [], "finetuned": False}
