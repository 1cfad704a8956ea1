"""Endpoints that no dialect knows, by the operator's own rules: what they say stays unread, what they take is paid.

A rule names the path, the upstream and the name under which the price book prices it: by the request, by the second of the upstream's time,
by the megabyte of what is sent and answered. Refusals are phrased as OpenAI's, which most clients read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.dialects.bytes_reader import BytesReader
from proxy.dialects.counting import MediaRule
from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Changes, Method, Operation, Reader, Request
from proxy.domain import Answer, Call, Usage
from proxy.errors import Expected

NAME = "opaque"
NEEDS = (("request",), ("second",), ("megabyte",))


@dataclass(frozen=True, slots=True)
class OpaqueRule:
    """What an operator says of an endpoint."""

    path: str
    """Exact, or with a trailing `/*` for all that begin so."""
    methods: tuple[Method, ...]
    upstream: str
    model: str
    """The name under which it is priced and allowed."""
    query: frozenset[str]
    free: bool


class Opaque:
    """The dialect of an operator's rules."""

    name = NAME
    listing = None

    def __init__(self, rules: Iterable[OpaqueRule]) -> None:
        self._phrasing = OpenAI()
        self._model_by_rule: dict[tuple[str, str], str] = {}
        operations = []
        for number, rule in enumerate(rules):
            name = f"opaque-{number}"
            for method in rule.methods:
                self._model_by_rule[name, method] = rule.model
                operations.append(
                    Operation(
                        name,
                        NAME,
                        method,
                        rule.path,
                        free=rule.free,
                        query=rule.query,
                        passes_content_type=True,
                        upstream=rule.upstream,
                    )
                )
        self.operations: Sequence[Operation] = tuple(operations)

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the rule says; the body is only measured."""
        operation = request.operation
        return Call(
            operation=NAME,
            model=self._model_by_rule[operation.name, operation.method],
            stream=True,
            choices=1,
            output_tokens_max=None,
            input_tokens_bound=0,
            input_tokens_counted=0,
            units=Usage(bytes=len(request.body)),
            needs=NEEDS,
            measure="bytes",
            reports_usage=False,
            timed=True,
        )

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """Nothing is ever changed."""
        return None

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """Every answer comes as a stream of bytes."""
        return BytesReader(call)

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """An error, since all else is a stream: it uses nothing."""
        return Answer(None, 0)

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a refused or failed request."""
        return self._phrasing.refusal_body(refusal, status=status)

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        return self._phrasing.upstream_credential(api_key)

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """Never asked for: no rule has a list of models."""
        return b""

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """Never asked for: no rule has a list of models."""
        return b""
