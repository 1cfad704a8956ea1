"""What is sent upstream for a request: the same body in the upstream's own terms, to the first upstream that takes it.

Where one fails before the first byte of an answer, the next one that serves the model is asked, on the same hold and for one charge. Must
not know budgets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from aiohttp import ClientWebSocketResponse

from proxy.dialects import Changes, Dialect, Request
from proxy.dialects.protocol import NO_CHANGES
from proxy.domain import Call
from proxy.errors import Failure, Refusal
from proxy.metrics import Metrics
from proxy.server.errand import Errand
from proxy.server.seating import Seating
from proxy.server.upstream import Endpoint, Reply

MESSAGE_MAX_BYTES = 16 * 2**20
"""OpenAI's own bound for one event is 15 MiB of audio."""
HEARTBEAT_S = 30.0
"""How often each side of a conversation is asked whether it is still there."""
FAIL_OVER_STATUSES = frozenset({429, 500, 502, 503, 504, 529})
"""Answers after which another upstream that serves the same model may do better."""
FAIL_OVER_CODES = frozenset({"upstream_error", "upstream_timeout", "queue_full", "queue_timeout", "draining"})


@dataclass(slots=True)
class Letter:
    """A request on its way out, whichever upstream it goes to."""

    dialect: Dialect
    request: Request
    call: Call
    query: str
    """Encoded, with its question mark, or empty."""
    content_type: str
    passing: str
    """Lines of the head that come from the client."""

    def forget(self) -> None:
        """Let go of the body once it has been sent: a stream may run for long, and its prompt may be large."""
        self.request = replace(self.request, body=b"")

    def open_to(self, endpoint: Endpoint, protocols: Sequence[str]) -> AbstractAsyncContextManager[ClientWebSocketResponse]:
        """Begin the conversation that it asks for. Entering raises UpstreamError, UpstreamTimeout."""
        own_name = endpoint.aliases.get(self.call.model, self.call.model)
        return endpoint.converse(
            self.dialect,
            self.request.operation.path,
            query="?" + urlencode({**self.request.query, "model": own_name}),
            passing=self.passing,
            protocols=protocols,
            message_max_bytes=MESSAGE_MAX_BYTES,
            heartbeat_s=HEARTBEAT_S,
        )

    async def send_to(self, endpoint: Endpoint, *, output_tokens_max: int | None = None, sent: Callable[[], None] = lambda: None) -> Reply:
        """Send it and wait for the head of the answer. `output_tokens_max` lowers the maxima; `sent` is called once it is on its way.

        Raises UpstreamError, UpstreamTimeout.
        """
        own_name = endpoint.aliases.get(self.call.model)
        operation = self.request.operation
        changes = NO_CHANGES
        if output_tokens_max is not None or own_name is not None or endpoint.section.continuous_usage:
            changes = Changes(output_tokens_max, own_name, endpoint.section.continuous_usage)
        return await endpoint.send(
            self.dialect,
            operation.method,
            operation.path_to(own_name or self.request.model or ""),
            query=self.query,
            content_type=self.content_type,
            passing=self.passing,
            body=self.dialect.rewrite(self.call, self.request, changes) or self.request.body,
            sent=sent,
        )


class Sender:
    """Finds an upstream that takes a request."""

    def __init__(self, metrics: Metrics, seating: Seating) -> None:
        self._metrics = metrics
        self._seating = seating

    async def send(self, errand: Errand, letter: Letter, endpoints: Sequence[Endpoint], *, output_tokens_max: int | None) -> Reply:
        """The head of the first answer that is worth having, or else of the last; what came to nothing costs nothing.

        Raises UpstreamError, UpstreamTimeout; Refusal queue_full, queue_timeout; whatever interrupts the exchange.
        """
        for endpoint in endpoints:
            is_last = endpoint is endpoints[-1]
            errand.turn_to(endpoint)
            asked_s = None
            try:
                with errand.exchange:
                    await errand.take_seat()
                    asked_s = time.monotonic()
                    reply = await letter.send_to(endpoint, output_tokens_max=output_tokens_max, sent=errand.hold.meter.begin)
            except (Failure, Refusal) as reason:
                errand.hold.meter.call_off()
                # Whatever ended a request that still waited for its seat, the upstream knows nothing of it.
                if asked_s is not None and reason.code in ("upstream_error", "upstream_timeout"):
                    self._seating.heard(endpoint.section, None, asked_s)
                if is_last or reason.code not in FAIL_OVER_CODES:
                    raise
            else:
                self._seating.heard(endpoint.section, reply.status, asked_s)
                if is_last or reply.status not in FAIL_OVER_STATUSES:
                    return reply
                errand.hold.meter.call_off()
                reply.discard()
            self._metrics.failed_over(pool=endpoint.name)
        raise AssertionError("there is always a last one")
