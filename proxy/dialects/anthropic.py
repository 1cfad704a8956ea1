"""The Anthropic API: its endpoints, its credentials, and where each part of it is read.

Requests are read in `anthropic_request` and `anthropic_input`, whole answers and usage in `anthropic_usage`, streams in
`anthropic_stream`; errors are phrased in `anthropic_errors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from proxy.dialects import anthropic_request, anthropic_usage
from proxy.dialects.anthropic_errors import error_members
from proxy.dialects.anthropic_stream import MessageReader
from proxy.dialects.counting import MediaRule
from proxy.dialects.listing import Listing
from proxy.dialects.protocol import Changes, Operation, Reader, Request, utc_time
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "anthropic"
MARKER = "anthropic-version"
"""A header that every request of this API must have."""
_BETA = frozenset({"beta"})
_PAGED = frozenset({"beta", "limit", "before_id", "after_id"})


class Anthropic:
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations = (
        Operation("messages", NAME, "POST", "/v1/messages", query=_BETA),
        Operation("count_tokens", NAME, "POST", "/v1/messages/count_tokens", output="none", free=True, query=_BETA),
        Operation("models", NAME, "GET", "/v1/models", output="none", forwarded=False, query=_PAGED, marker=MARKER),
        Operation("model", NAME, "GET", "/v1/models/{model}", output="none", forwarded=False, query=_BETA, marker=MARKER),
    )
    listing = Listing("/v1/models", member="data", name="id", query="?limit=1000", headers=f"{MARKER}: 2023-06-01\r\n")

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        return anthropic_request.parse_request(request, media)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        return anthropic_request.rewrite(call, request.body, changes)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        return MessageReader(call) if media_type == EVENT_STREAM else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return anthropic_usage.read_answer(call, body)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(error_members(refusal, status)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return "x-api-key", api_key

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use, all on one page."""
        first, last = (models[0], models[-1]) if models else (None, None)
        page = {"data": [_model(model, created_s) for model in models], "has_more": False, "first_id": first, "last_id": last}
        return json.dumps(page).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        return json.dumps(_model(model, created_s)).encode()


def _model(model: str, created_s: int) -> dict[str, str]:
    return {"type": "model", "id": model, "display_name": model, "created_at": utc_time(created_s * 1000)}
