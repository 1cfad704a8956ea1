"""The Gemini API: its endpoints, its credentials, and where each part of it is read.

Requests are read in `gemini_request` and `gemini_input`, whole answers and usage in `gemini_usage`, streams in `gemini_stream`; errors are
phrased in `gemini_errors`. Source: ai.google.dev/api.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from proxy.dialects import gemini_request, gemini_usage
from proxy.dialects.counting import MediaRule
from proxy.dialects.gemini_errors import error_members
from proxy.dialects.gemini_request import MODEL_PREFIX
from proxy.dialects.gemini_stream import ArrayReader, ChunkReader
from proxy.dialects.listing import Listing
from proxy.dialects.protocol import Changes, Operation, Reader, Request
from proxy.dialects.sse import EVENT_STREAM
from proxy.domain import Answer, Call
from proxy.errors import Expected

NAME = "gemini"
VERSIONS = ("v1beta", "v1", "v1alpha")
KEY_HEADER = "x-goog-api-key"
METHODS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
MODELS_PER_PAGE = 1000

_JSON = "application/json"
_QUERY = frozenset({"key", "alt", "$alt", "prettyPrint", "$prettyPrint"})
_LIST_QUERY = _QUERY | {"pageSize", "pageToken"}


def _operations(version: str) -> Iterator[Operation]:
    models = f"/{version}/models"
    model = models + "/{model}"
    yield Operation("generate_content", NAME, "POST", f"{model}:generateContent", query=_QUERY)
    yield Operation("stream_generate_content", NAME, "POST", f"{model}:streamGenerateContent", query=_QUERY)
    yield Operation("count_tokens", NAME, "POST", f"{model}:countTokens", output="none", free=True, query=_QUERY)
    yield Operation("embed_content", NAME, "POST", f"{model}:embedContent", output="none", query=_QUERY)
    yield Operation("batch_embed_contents", NAME, "POST", f"{model}:batchEmbedContents", output="none", query=_QUERY)
    yield Operation("models", NAME, "GET", models, output="none", forwarded=False, query=_LIST_QUERY, marker=KEY_HEADER)
    yield Operation("model", NAME, "GET", model, output="none", forwarded=False, query=_QUERY, marker=KEY_HEADER)


class Gemini:
    """The dialect; it has no state, so one serves all."""

    name = NAME
    operations = tuple(operation for version in VERSIONS for operation in _operations(version))
    listing = Listing("/v1beta/models", member="models", name="name", query=f"?pageSize={MODELS_PER_PAGE}", prefix=MODEL_PREFIX)

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        return gemini_request.parse_request(request, media)

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came."""
        return gemini_request.rewrite(call, request.body, changes)

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for one streamed answer; None for any other."""
        if call.operation not in gemini_request.GENERATING:
            return None
        if media_type == EVENT_STREAM:
            return ChunkReader(call)
        return ArrayReader(call) if call.stream and media_type == _JSON else None

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        return gemini_usage.read_answer(call, body)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return json.dumps(error_members(refusal, status=status)).encode()

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return KEY_HEADER, api_key

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use, all on one page."""
        return json.dumps({"models": [_model(model) for model in models]}).encode()

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        return json.dumps(_model(model)).encode()


def _model(model: str) -> dict[str, Any]:
    return {"name": MODEL_PREFIX + model, "displayName": model, "supportedGenerationMethods": METHODS}
