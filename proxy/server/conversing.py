"""Conversations over a WebSocket: every message passes unchanged, either way, as far as the budget covers what it may cost.

One hold stands for the whole conversation and is renewed while it lasts; when it cannot be, the client is told in an error event, both
sides are closed, and what was said is settled once. What an event costs `openai_realtime` reads; what is due the meter says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import aiohttp
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from multidict import CIMultiDictProxy

from proxy.dialects.document import lenient_decoder
from proxy.dialects.openai_realtime import Conversation, cut_event, refusal_of_event
from proxy.errors import Expected, Refusal, UpstreamError, UpstreamTimeout
from proxy.metrics import Metrics
from proxy.server import answers
from proxy.server.conversation_meter import ConversationMeter
from proxy.server.errand import Visit
from proxy.server.exchange import ClientTooSlow, Exchange
from proxy.server.forwarding import CUT_REASONS
from proxy.server.holding import Reservation
from proxy.server.sending import HEARTBEAT_S, MESSAGE_MAX_BYTES
from proxy.server.upstream import Endpoint

CLOSE_TIMEOUT_S = 2.0
BUDGET_CLOSE_CODE = 4402
"""Of the range for private use (RFC 6455, 7.4.2), in the manner of HTTP's 402."""

_CLOSE_CODES: Mapping[str, int] = {
    "invalid_request": WSCloseCode.UNSUPPORTED_DATA,
    "upstream_error": WSCloseCode.INTERNAL_ERROR,
    "upstream_timeout": WSCloseCode.INTERNAL_ERROR,
    "ledger_unavailable": WSCloseCode.TRY_AGAIN_LATER,
    "draining": WSCloseCode.SERVICE_RESTART,
}

PROTOCOL_HEADER = "Sec-WebSocket-Protocol"
_KEY_PROTOCOL = "openai-insecure-api-key."
_OWN_PROTOCOLS = (_KEY_PROTOCOL, "openai-organization.", "openai-project.")
"""Subprotocols in which browsers say what others say in headers: who they are, and whom to bill."""

_read_event = lenient_decoder(dict)


def check_upgrade(headers: CIMultiDictProxy[str]) -> None:
    """See that a request begins a conversation. Raises Refusal invalid_request."""
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        raise Refusal("invalid_request", "This path is a WebSocket.", hint="Connect with a WebSocket client: ws:// or wss://.")


def key_in_protocols(headers: CIMultiDictProxy[str]) -> str | None:
    """The API key that a browser sends as a subprotocol, having no headers."""
    keys = [name.removeprefix(_KEY_PROTOCOL) for name in _protocols(headers) if name.startswith(_KEY_PROTOCOL)]
    if len(set(keys)) > 1:
        raise Refusal("invalid_request", "Two different API keys were sent.", hint="Send one key.")
    return keys[0] if keys else None


def passing_protocols(headers: CIMultiDictProxy[str]) -> Sequence[str]:
    """The subprotocols that are offered to the upstream."""
    return [name for name in _protocols(headers) if not name.startswith(_OWN_PROTOCOLS)]


def _protocols(headers: CIMultiDictProxy[str]) -> Sequence[str]:
    return [name for value in headers.getall(PROTOCOL_HEADER, ()) for part in value.split(",") if (name := part.strip())]


class Talk:
    """One conversation under way: the client, the upstream, and what stands for its cost."""

    def __init__(
        self,
        visit: Visit,
        endpoint: Endpoint,
        conversation: Conversation,
        hold: Reservation[ConversationMeter],
        exchange: Exchange,
        metrics: Metrics,
    ) -> None:
        self._visit = visit
        self._endpoint = endpoint
        self._conversation = conversation
        self._hold = hold
        self._exchange = exchange
        self._metrics = metrics

    async def carry(self, request: web.BaseRequest, upstream: aiohttp.ClientWebSocketResponse) -> web.StreamResponse:
        """Pass messages until one side closes or the budget ends; settle; close both."""
        self._hold.meter.begin()
        protocols = [upstream.protocol] if upstream.protocol else []
        client = web.WebSocketResponse(protocols=protocols, max_msg_size=MESSAGE_MAX_BYTES, heartbeat=HEARTBEAT_S, timeout=CLOSE_TIMEOUT_S)
        client.headers["X-Request-Id"] = self._visit.request_id
        answers.add_price(client.headers, self._hold.meter.price)
        answers.add_interventions(client.headers, self._visit.treatment.applied)
        self._metrics.stream_opened()
        try:
            await client.prepare(request)
            try:
                with self._exchange:
                    await self._pass_both(client, upstream)
            except Expected as reason:
                await self._cut(client, reason)
            except ClientTooSlow:
                self._visit.outcome = "client_gone"
            await self._settle()
            await _close(client, upstream.close_code if upstream.closed else WSCloseCode.OK)
        finally:
            self._metrics.stream_closed()
        return client

    async def _pass_both(self, client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
        """Until either side closes. Raises what ends a conversation otherwise."""
        hearing = asyncio.ensure_future(self._hear(client, upstream))
        answering = asyncio.ensure_future(self._answer(client, upstream))
        try:
            done, _ = await asyncio.wait((hearing, answering), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (hearing, answering):
                task.cancel()
            await asyncio.gather(hearing, answering, return_exceptions=True)

    async def _hear(self, client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
        async for message in client:
            self._exchange.reads()
            text = _text_of(message)
            if text is None:
                raise Refusal("invalid_request", "Only text messages are understood here.")
            try:
                self._conversation.hear(text)
            except Refusal as refusal:
                event = _read_event(text.encode("utf-8", "surrogatepass"))
                await self._tell(client, refusal_of_event(refusal, None if event is None else event.get("event_id")))
                continue
            await self._cover(asking=True)
            await upstream.send_str(text)
        if client.close_code == WSCloseCode.OK:
            self._visit.is_over = True
        else:
            self._visit.outcome = "client_gone"
        await upstream.close(code=_passing_code(client.close_code))

    async def _answer(self, client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
        async for message in upstream:
            text = _text_of(message)
            if text is None:
                raise UpstreamError(f"The upstream {self._endpoint.name} sent a message that cannot be metered.")
            self._conversation.answer(text, _read_event(text.encode("utf-8", "surrogatepass")))
            await self._cover(asking=False)
            await self._tell(client, text)
        if upstream.close_code in (None, WSCloseCode.ABNORMAL_CLOSURE):
            raise UpstreamError(f"The upstream {self._endpoint.name} broke off the conversation.")

    async def _tell(self, client: web.WebSocketResponse, text: str) -> None:
        self._exchange.writes()
        await client.send_str(text)
        self._exchange.reads()

    async def _cover(self, *, asking: bool) -> None:
        """See that the hold covers what may be due now. Raises Refusal insufficient_quota, LedgerUnavailable."""
        hold, conversation = self._hold, self._conversation
        hold.meter.usage_rejected = conversation.usage_rejected
        hold.meter.see(conversation.usage_now(), conversation.usage_ahead(asking=asking))
        if not hold.meter.covers(0) and not await hold.cover(0):
            raise hold.used_up()
        if hold.meter.runs_low:
            hold.extend_ahead()

    async def _cut(self, client: web.WebSocketResponse, reason: Expected) -> None:
        if isinstance(reason, (UpstreamError, UpstreamTimeout)):
            self._visit.outcome = "upstream_gone"
        else:
            self._visit.outcome = "cut"
            self._metrics.stream_cut(CUT_REASONS.get(reason.code, "budget"))
        await self._settle()
        await _close(client, _CLOSE_CODES.get(reason.code, BUDGET_CLOSE_CODE), farewell=cut_event(reason))

    async def _settle(self) -> None:
        if not self._hold.ended:
            await self._hold.settle(self._hold.meter.charge(complete=True))


def _text_of(message: WSMessage) -> str | None:
    return message.data if message.type is WSMsgType.TEXT else None


def _passing_code(code: int | None) -> int:
    """The code to close the other side with: the same, unless it is one that must not be sent."""
    return WSCloseCode.OK if code is None or code in (1005, WSCloseCode.ABNORMAL_CLOSURE, 1015) else code


async def _close(client: web.WebSocketResponse, code: int | None, *, farewell: str = "") -> None:
    """Close the client's side; one that does not answer is not waited for."""
    if client.closed:
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            if farewell:
                await client.send_str(farewell)
            await client.close(code=_passing_code(code))
    except (TimeoutError, ConnectionError):
        return
