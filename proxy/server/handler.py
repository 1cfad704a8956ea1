"""The way of a request, from its first byte to its settlement; it reads top to bottom in `Proxy._serve`.

Each resource on the way is a context with one owner: the hold (`holding`), the exchange with its time limits (`exchange`), the upstream's
answer (`upstream`). Whatever happens inside, leaving them ends them. What is decided on the way stands elsewhere; see `proxy.server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from aiohttp import web

from proxy import config, domain
from proxy.dialects import Operation, for_path
from proxy.errors import Expected, Failure, Refusal
from proxy.ledger.backlog import Backlog
from proxy.metrics import Metrics
from proxy.server import answers, headers
from proxy.server.catalogue import Catalogue, Prices, check_allowed
from proxy.server.exchange import ClientTooSlow, Exchanges
from proxy.server.forwarding import Errand, Forwarder, Visit, broken_off
from proxy.server.holding import Reservation
from proxy.server.holds import Holds
from proxy.server.identity import KeyLookup, identify
from proxy.server.metering import Meter, estimate
from proxy.server.reading import check_framing, path_of, read_body
from proxy.server.routing import Routes
from proxy.server.upstream import Endpoint, Reply

log = logging.getLogger(__name__)

OWN_PATHS = "/ledger/"
FAREWELL_S = 5.0
"""How long what a drain cuts may take to be settled and told so."""
METHODS = ("GET", "POST")


class OwnPages(Protocol):
    """Self-service: everything under `/ledger/`, with the caller's own key."""

    def __call__(
        self, request: web.BaseRequest, caller: domain.Caller, *, request_id: str | None = None
    ) -> Awaitable[web.StreamResponse]: ...


class Book(KeyLookup, Protocol):
    """What the ledger's directory offers here: callers by key, and the rows of the price book."""

    @property
    def price_book(self) -> tuple[domain.Price, ...]: ...


class Proxy:
    """The proxy of one worker process: `handle` answers requests, `pulse` and `tell_backlog` are to be called again and again."""

    def __init__(
        self,
        settings: config.Config,
        *,
        endpoints: Iterable[Endpoint],
        ledger: domain.Ledger,
        directory: Book,
        backlog: Backlog,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self.own_pages: OwnPages | None = None
        """Set once, before the first request."""
        self._directory = directory
        self._metrics = metrics
        self._now_ms = now_ms
        self._holds = Holds(ledger, backlog, metrics, settings.ledger)
        self._exchanges = Exchanges()
        self._forwarder = Forwarder(metrics, now_ms)
        self._prices = Prices(lambda: directory.price_book, now_ms)
        self._open_requests = 0
        self._draining = False
        self._idle = asyncio.Event()
        self.configure(settings, endpoints=endpoints)

    def configure(self, settings: config.Config, *, endpoints: Iterable[Endpoint]) -> None:
        """Take over new settings; what runs goes on with the old. Retire the endpoints that are not among these."""
        self._listen = settings.listen
        self._slice_tokens = settings.ledger.slice_tokens
        self._budget_status = settings.compat.budget_status
        self._holds.configure(settings.ledger)
        self._routes = Routes(endpoints)
        self._catalogue = Catalogue(self._routes, self._prices)

    # --- the outermost edge ------------------------------------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; whatever happens, it is counted once and its hold ends."""
        visit = Visit(secrets.token_hex(16), time.monotonic())
        self._open_requests += 1
        self._metrics.request_started()
        try:
            return await self._serve(request, visit)
        except Expected as refusal:
            visit.outcome = refusal.code
            return self._refuse(request, visit, refusal)
        except (ConnectionError, asyncio.CancelledError) as gone:
            if isinstance(gone, ClientTooSlow) and request.transport is not None:
                request.transport.abort()  # it would not take a farewell either
            if visit.outcome == "complete":
                visit.outcome = "client_gone"
            raise
        except Exception as error:  # noqa: BLE001  # the outermost edge: what nobody expected must still end as an answer
            visit.outcome = "internal_error"
            # Neither the message nor the values: they may hold a prompt or a key.
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("request %s failed with %s at\n%s", visit.request_id, type(error).__name__, places)
            return self._refuse(request, visit, Failure("internal_error", "Something went wrong in the proxy; it was logged."))
        finally:
            self._open_requests -= 1
            if self._draining and self._open_requests == 0:
                self._idle.set()
            self._metrics.request_finished(pool=visit.pool, dialect=visit.dialect.name, model=visit.model, outcome=visit.outcome)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("request %s on %s: %s", visit.request_id, visit.pool or "no upstream", visit.outcome)

    def _refuse(self, request: web.BaseRequest, visit: Visit, refusal: Expected) -> web.StreamResponse:
        if request.writer.output_size > 0:  # the answer has begun, so all that can be done is to break it off
            raise broken_off(request)
        response = answers.refused(
            refusal,
            visit.dialect,
            request_id=visit.request_id,
            now_ms=self._now_ms(),
            budget_status=self._budget_status,
            allow=", ".join(_methods_at(request.raw_path)) if refusal.code == "method_not_allowed" else None,
        )
        if self._draining or not request.content.is_eof():
            response.force_close()
        return response

    # --- the way -----------------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        if self.own_pages is not None and request.raw_path.startswith(OWN_PATHS):
            caller, _ = await identify(request.headers, self._directory)
            return await self.own_pages(request, caller, request_id=visit.request_id)

        visit.dialect, operation = for_path(request.method, path_of(request.raw_path))
        check_framing(request, body_max_bytes=self._listen.body_max_bytes)
        if self._draining:
            raise Failure("draining", "This proxy is about to stop.", hint="Try again; another will answer.", retry_after_s=1.0)
        caller, key = await identify(request.headers, self._directory)
        body = await self._read(request, visit)
        if not operation.forwarded:
            return await self._list_models(visit, caller, operation)

        call, endpoint = self._parse(visit, operation, body)
        check_allowed(caller, call.model)
        price = self._prices.price_of(call.model, needs_output=operation.needs_output_price)
        section = endpoint.section
        wanted = estimate(call, price, slice_tokens=self._slice_tokens, output_tokens_max=section.output_tokens_max)
        meter = Meter(call, price, slice_tokens=self._slice_tokens, missing_usage=section.missing_usage)

        async with Reservation(self._holds, caller.path, visit.request_id, wanted, meter, model=call.model) as hold:
            # Where upstreams share their seats, a request waits for one here.
            lowered = None if call.stream else meter.lower_maximum(wanted.want_nanocredits)
            body = visit.dialect.rewrite(call, body, output_tokens_max=lowered) or body
            passing = headers.for_upstream(request.headers, caller_key=key)
            with self._exchanges.opened(section, hold, write_timeout_s=self._listen.body_timeout_s) as exchange:
                errand = Errand(request, visit, call, endpoint, hold, exchange)
                reply = await self._send(errand, operation, passing, body)
                del body  # a stream may run for long, and its prompt may be large
                with reply:
                    return await self._forwarder.forward(errand, reply)

    async def _read(self, request: web.BaseRequest, visit: Visit) -> bytes:
        asked_s = time.monotonic()
        body = await read_body(request, body_max_bytes=self._listen.body_max_bytes, timeout_s=self._listen.body_timeout_s)
        visit.began_s += time.monotonic() - asked_s  # how long a client takes to send its body is not the latency that we add
        return body

    def _parse(self, visit: Visit, operation: Operation, body: bytes) -> tuple[domain.Call, Endpoint]:
        """What is asked for, and of whom. How media count is the upstream's to say, and which upstream that is only the body says."""
        speaking = self._routes.speaking(operation.dialect)
        if not speaking:
            raise Refusal("unknown_path", f"No upstream here speaks the {operation.dialect} API.")
        call = visit.dialect.parse_request(operation, body, speaking[0].media)
        visit.model = call.model
        endpoint = self._routes.serving(operation.dialect, call.model)
        visit.pool = endpoint.name
        if endpoint.media != speaking[0].media:
            call = visit.dialect.parse_request(operation, body, endpoint.media)
        return call, endpoint

    async def _send(self, errand: Errand, operation: Operation, passing: str, body: bytes) -> Reply:
        visit, meter = errand.visit, errand.hold.meter
        self._metrics.latency_added(time.monotonic() - visit.began_s)
        try:
            with errand.exchange:
                reply = await errand.endpoint.send(
                    visit.dialect, operation.method, operation.path, passing=passing, body=body, sent=meter.begin
                )
        except Failure:
            meter.call_off()  # nothing came back, so nothing is charged
            raise
        self._metrics.first_byte(pool=visit.pool, seconds=time.monotonic() - visit.began_s)
        return reply

    async def _list_models(self, visit: Visit, caller: domain.Caller, operation: Operation) -> web.StreamResponse:
        created_s = self._now_ms() // 1000
        if operation.model is None:
            models = await self._catalogue.models_for(caller, visit.dialect)
            body = visit.dialect.models_body(models, created_s=created_s)
        else:
            self._catalogue.check_offered(caller, visit.dialect, operation.model)
            body = visit.dialect.model_body(operation.model, created_s=created_s)
        own = {"Content-Type": "application/json", "Server": answers.SERVER, "X-Request-Id": visit.request_id}
        return web.Response(body=body, headers=own)

    # --- periodic jobs, and the end ----------------------------------------------------------------------------------------------

    async def pulse(self) -> None:
        """Keep every time limit, and tell the ledger what running requests have spent. Every quarter of a second."""
        self._holds.debit(self._exchanges.watch())

    async def tell_backlog(self) -> None:
        """Tell the ledger what it could not be told in time. Every second or so."""
        await self._holds.tell_backlog()

    @property
    def open_requests(self) -> int:
        return self._open_requests

    def stop_admitting(self) -> None:
        """From now on refuse what is new; what runs goes on."""
        self._draining = True

    async def drain(self, *, timeout_s: float) -> None:
        """Refuse what is new, let what runs finish within `timeout_s`, then cut it and settle. `pulse` must go on meanwhile.

        Close the connections afterwards and call `finish`: a client that never ends its request is not waited for.
        """
        self.stop_admitting()
        await self._until_idle(timeout_s)
        self._exchanges.interrupt_all(
            Failure("draining", "This proxy had to stop.", hint="Try again; another will answer.", retry_after_s=1.0)
        )
        await self._until_idle(FAREWELL_S + self._holds.deadline_s)
        await self.finish()

    async def finish(self) -> None:
        """Wait until every end of a hold that is under way has landed, in the ledger or in the backlog."""
        await self._holds.finish()

    async def _until_idle(self, timeout_s: float) -> None:
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._open_requests:
                    await self._idle.wait()


def _methods_at(target: str) -> list[str]:
    methods = []
    for method in METHODS:
        try:
            for_path(method, target)
        except Refusal:
            continue
        methods.append(method)
    return methods
