"""The way of a request, from its first byte to its settlement; it reads top to bottom in `Proxy._serve`.

Each resource on the way is a context with one owner: the hold (`holding`), the exchange with its time limits (`exchange`), the upstream's
answer (`upstream`). Whatever happens inside, leaving them ends them. What is decided on the way stands elsewhere; see `proxy.server`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from aiohttp import web
from multidict import CIMultiDictProxy

from proxy import config, domain
from proxy.dialects import Dialect, Request, dialect_of
from proxy.dialects.openai_realtime import Conversation
from proxy.errors import Expected, Failure, Refusal
from proxy.ledger.backlog import Backlog
from proxy.ledger.batches import BatchRecords
from proxy.metrics import Metrics
from proxy.policy.levels import Levels
from proxy.policy.units import nominal_nanocredits
from proxy.server import answers, headers
from proxy.server.admission import Admission, Asked
from proxy.server.batch_settling import BatchSettler
from proxy.server.batching import Batching, Concern
from proxy.server.catalogue import Catalogue, Prices
from proxy.server.conversation_meter import ConversationMeter
from proxy.server.conversing import Talk, check_upgrade, key_in_protocols, passing_protocols
from proxy.server.errand import Errand, Visit, broken_off
from proxy.server.exchange import ClientTooSlow, Exchanges
from proxy.server.forwarding import Forwarder
from proxy.server.holding import Reservation
from proxy.server.holds import Holds
from proxy.server.identity import KeyLookup, identify
from proxy.server.interventions import Interventions
from proxy.server.metering import Meter
from proxy.server.open_requests import OpenRequests
from proxy.server.reading import KEY_PARAMETER, check_framing, joined_query, read_body, read_priority, read_query, split_target
from proxy.server.seat import Turn
from proxy.server.seating import Pools, Seating
from proxy.server.sending import Letter, Sender
from proxy.server.upstream import JSON, Endpoint

log = logging.getLogger(__name__)

OWN_PATHS = "/ledger/"
FAREWELL_S = 5.0
"""How long what a drain cuts may take to be settled and told so."""


class OwnPages(Protocol):
    """Self-service: everything under `/ledger/`, with the caller's own key."""

    def __call__(
        self, request: web.BaseRequest, caller: domain.Caller, *, request_id: str | None = None
    ) -> Awaitable[web.StreamResponse]: ...


class Book(KeyLookup, Protocol):
    """What the ledger's directory offers here: callers by key, and the rows of the price book."""

    @property
    def price_book(self) -> tuple[domain.Price, ...]: ...

    @property
    def levels(self) -> Levels: ...

    async def path(self, account_id: domain.AccountId) -> domain.Path: ...

    async def unit(self, account_id: domain.AccountId) -> str: ...

    @property
    def generation(self) -> int: ...

    async def check_active(self, path: domain.Path) -> None: ...


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
        batches: BatchRecords,
        pools: Pools,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self.own_pages: OwnPages | None = None
        self.interventions: Interventions | None = None
        """Both are set once, before the first request."""
        self._directory = directory
        self._metrics = metrics
        self._now_ms = now_ms
        self._holds = Holds(ledger, backlog, metrics, settings.ledger)
        self._exchanges = Exchanges()
        self.seating = Seating(pools, directory, metrics, self._holds.in_background)
        self._sender = Sender(metrics, self.seating)
        self._forwarder = Forwarder(metrics, now_ms)
        self._prices = Prices(lambda: directory.price_book, now_ms, lambda: directory.levels)
        self.settler = BatchSettler(batches, self._holds, admission=lambda: self.admission, owe=self._owe, now_ms=now_ms)
        """Its jobs are to be called again and again, too."""
        self._batching = Batching(
            *(batches, self._holds, self.settler),
            admission=lambda: self.admission,
            check_active=directory.check_active,
            not_served=self.seating.not_served,
            interventions=lambda: self.interventions,
            write_timeout_s=lambda: self._listen.body_timeout_s,
            now_ms=now_ms,
        )
        self._ids_begin, self._numbers = secrets.token_hex(10), itertools.count()  # unique over all processes, and cheap
        self._requests = OpenRequests()
        self.configure(settings, endpoints=endpoints)

    def configure(self, settings: config.Config, *, endpoints: Iterable[Endpoint]) -> None:
        """Take over new settings; what runs goes on with the old. Retire the endpoints that are not among these."""
        self._listen = settings.listen
        self._slice_tokens = settings.ledger.slice_tokens
        self._budget_status = settings.compat.budget_status
        self._commons = None if settings.commons.account is None else domain.AccountId(settings.commons.account)
        self._holds.configure(settings.ledger)
        self.seating.configure(settings.upstream, on_failure=settings.ledger.on_failure)
        self.admission = Admission(tuple(endpoints), self._prices, settings.opaque)
        self._catalogue = Catalogue(self.admission.routes, self._prices)

    def _owe(self, person: domain.Path, share: float, debited: int) -> None:
        if self.interventions is not None:
            self.interventions.owe(person, share, debited)

    # --- the outermost edge ------------------------------------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; whatever happens, it is counted once and its hold ends."""
        visit = Visit(f"{self._ids_begin}{next(self._numbers):012x}", time.monotonic())
        self._requests.begun()
        self._metrics.request_started()
        try:
            return await self._serve(request, visit)
        except Expected as refusal:
            visit.outcome = refusal.code
            return self._refuse(request, visit, refusal)
        except (ConnectionError, asyncio.CancelledError) as gone:
            if isinstance(gone, ClientTooSlow) and request.transport is not None:
                request.transport.abort()  # it would not take a farewell either
            if visit.outcome == "complete" and not visit.is_over:
                visit.outcome = "client_gone"
            raise
        except Exception as error:  # noqa: BLE001  # the outermost edge: what nobody expected must still end as an answer
            visit.outcome = "internal_error"
            # Neither the message nor the values: they may hold a prompt or a key.
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("request %s failed with %s at\n%s", visit.request_id, type(error).__name__, places)
            return self._refuse(request, visit, Failure("internal_error", "Something went wrong in the proxy; it was logged."))
        finally:
            self._requests.ended()
            if visit.caller is not None:
                self.seating.count(visit.caller, visit.pool, visit.outcome, visit.most_nanocredits, visit.spent_nanocredits)
                if self.interventions is not None and visit.treatment.tithe_share:
                    self.interventions.owe(visit.caller.person or visit.caller.path, visit.treatment.tithe_share, visit.debited)
            dialect = "" if visit.dialect is None else visit.dialect.name
            self._metrics.request_finished(pool=visit.pool, dialect=dialect, model=visit.model, outcome=visit.outcome)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("request %s on %s: %s", visit.request_id, visit.pool or "no upstream", visit.outcome)

    def _refuse(self, request: web.BaseRequest, visit: Visit, refusal: Expected) -> web.StreamResponse:
        if request.writer.output_size > 0:  # the answer has begun, so all that can be done is to break it off
            raise broken_off(request)
        paths, (path, _) = self.admission.paths, split_target(request.raw_path)
        response = answers.refused(
            refusal,
            visit.dialect or dialect_of(path),
            request_id=visit.request_id,
            now_ms=self._now_ms(),
            budget_status=self._budget_status,
            allow=", ".join(paths.methods_at(path)) if refusal.code == "method_not_allowed" else None,
        )
        answers.add_factor(response.headers, visit.treatment.price_percent)
        answers.add_interventions(response.headers, visit.treatment.applied)
        if self._requests.are_last or not request.content.is_eof():
            response.force_close()
        return response

    # --- the way -----------------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        if self.own_pages is not None and request.raw_path.startswith(OWN_PATHS):
            caller, _ = await identify(request.headers, self._directory)
            return await self.own_pages(request, caller, request_id=visit.request_id)

        path, query = split_target(request.raw_path)
        dialect, operation, model = self.admission.paths.find(request.method, path, request.headers)
        visit.dialect = dialect
        parameters = read_query(query, operation.query) if query else {}
        check_framing(request, body_max_bytes=self._listen.body_max_bytes)
        if self._requests.are_last:
            raise Failure("draining", "This proxy is about to stop.", hint="Try again; another will answer.", retry_after_s=1.0)
        elsewhere = parameters.get(KEY_PARAMETER)
        if operation.socket:
            check_upgrade(request.headers)
            elsewhere = key_in_protocols(request.headers)
        caller, key = await identify(request.headers, self._directory, elsewhere=elsewhere)
        inquiry = Request(operation, await self._read(request, visit), model, parameters, request.headers)
        if not operation.forwarded:
            return await self._list_models(visit, caller, dialect, model)
        if operation.kept:
            passing = headers.for_upstream(request.headers, caller_key=key)
            return await self._batching.serve(Concern(request, visit, caller, inquiry, passing))

        asked = self.admission.read(dialect, inquiry)
        letter = _letter(dialect, inquiry, asked, request.headers, caller_key=key)
        del inquiry
        visit.model, visit.pool = asked.call.model, asked.endpoints[0].name
        if operation.free:
            self.admission.check_free(caller, asked)
            return await self._forwarder.relay(request, visit, letter, asked.endpoints[0])

        price = self.admission.price(caller, asked)
        if self.interventions is not None and self.interventions.in_force:
            visit.treatment = await self.interventions.treatment(caller)
            price = self.interventions.price(price, visit.treatment)
        visit.caller, visit.most_nanocredits = caller, lambda: nominal_nanocredits(price, asked.largest(price))
        if operation.socket:
            return await self._converse(request, visit, caller, letter, asked.endpoints[0], price)
        return await self._carry_out(request, visit, caller, letter, asked, price)

    async def _carry_out(
        self, request: web.BaseRequest, visit: Visit, caller: domain.Caller, letter: Letter, asked: Asked, price: domain.Price
    ) -> web.StreamResponse:
        """One request and its answer: hold, seat, send, forward; whatever happens inside, leaving each ends it."""
        first = asked.endpoints[0]
        wanted = asked.estimate(price, slice_tokens=self._slice_tokens)
        meter = Meter(asked.call, price, slice_tokens=self._slice_tokens)
        with self._turn(request, visit, caller) as turn:
            turn.ask(first.section)  # a seat is asked for together with the hold, and waited for below, if at all
            reservation = Reservation(self._holds, caller.path, visit.request_id, wanted, meter, model=visit.model)
            if caller.plan.scavenge or visit.treatment.topup_nanocredits:
                reservation.otherwise = lambda refusal: self._other_way(refusal, visit, caller, turn, first, price.unit)
            async with reservation as hold:
                hold.on_end = visit.ended(turn, price)
                lowered = None if asked.call.stream else meter.lower_maximum(wanted.want_nanocredits)
                with self._exchanges.opened(first.section, hold, write_timeout_s=self._listen.body_timeout_s) as exchange:
                    errand = Errand(request, visit, letter.dialect, asked.call, first, hold, exchange, turn)
                    self._metrics.latency_added(time.monotonic() - visit.began_s)
                    reply = await self._sender.send(errand, letter, asked.endpoints, output_tokens_max=lowered)
                    self._metrics.first_byte(pool=visit.pool, seconds=time.monotonic() - visit.began_s)
                    if asked.call.stream:
                        letter.forget()
                    with reply:
                        return await self._forwarder.forward(errand, reply)

    async def _other_way(
        self, refusal: Refusal, visit: Visit, caller: domain.Caller, turn: Turn, endpoint: Endpoint, unit: str
    ) -> domain.Path | None:
        """Who pays where the caller's budget does not: itself, once it was topped up; or the commons, where its plan scavenges.

        For an agent the commons never does: on its path nothing would count against the cap that its person has set.
        """
        if self.interventions is not None and await self.interventions.top_up(caller, visit.treatment, refusal):
            return caller.path
        if not caller.plan.scavenge or caller.person or refusal.code != "insufficient_quota":
            return None
        return await self._spare_seat(turn, endpoint, unit)

    async def _spare_seat(self, turn: Turn, endpoint: Endpoint, unit: str) -> domain.Path | None:
        """Who pays for a caller whose budget is used up: the commons, for a seat that nobody else wants; None where there is no such.

        The commons pays only for those who count in its own unit.
        """
        if self._commons is None or endpoint.section.first_seats is None:
            return None
        try:
            if await self._directory.unit(self._commons) != unit:
                return None
            path = await self._directory.path(self._commons)
        except Refusal:  # there is no such account, which is not the caller's to mend
            return None
        turn.ask(endpoint.section, spare=True)
        return path

    def _turn(self, request: web.BaseRequest, visit: Visit, caller: domain.Caller) -> Turn:
        treatment, weights = visit.treatment, caller.weights
        if self.interventions is not None:
            weights = self.interventions.weights(caller, treatment)
        return Turn(
            self.seating,
            visit.request_id,
            caller,
            most=visit.most_nanocredits,
            priority=read_priority(request.headers),
            weights=weights,
            stands_back=treatment.is_spare,
        )

    async def _converse(
        self, request: web.BaseRequest, visit: Visit, caller: domain.Caller, letter: Letter, endpoint: Endpoint, price: domain.Price
    ) -> web.StreamResponse:
        """A conversation over a WebSocket, from its hold to its settlement."""
        model = letter.call.model
        conversation = Conversation(endpoint.media, models=(model, endpoint.aliases.get(model, model)))
        meter = ConversationMeter(price, slice_tokens=self._slice_tokens)
        wanted = meter.estimate(conversation.usage_ahead(asking=True))
        with self._turn(request, visit, caller) as turn:
            turn.ask(endpoint.section)
            async with Reservation(self._holds, caller.path, visit.request_id, wanted, meter, model=visit.model) as hold:
                hold.on_end = visit.ended(turn, price)
                with self._exchanges.opened(endpoint.section, hold, write_timeout_s=self._listen.body_timeout_s) as exchange:
                    if turn.seat is not None:
                        exchange.queues()
                        visit.queued_s = await turn.seat.taken()
                    talk = Talk(visit, endpoint, conversation, hold, exchange, self._metrics)
                    async with letter.open_to(endpoint, passing_protocols(request.headers)) as upstream:
                        return await talk.carry(request, upstream)

    async def _read(self, request: web.BaseRequest, visit: Visit) -> bytes:
        asked_s = time.monotonic()
        body = await read_body(request, body_max_bytes=self._listen.body_max_bytes, timeout_s=self._listen.body_timeout_s)
        visit.began_s += time.monotonic() - asked_s  # how long a client takes to send its body is not the latency that we add
        return body

    async def _list_models(self, visit: Visit, caller: domain.Caller, dialect: Dialect, model: str | None) -> web.StreamResponse:
        created_s = self._now_ms() // 1000
        if model is None:
            models = await self._catalogue.models_for(caller, dialect)
            body = dialect.models_body(models, created_s=created_s)
        else:
            self._catalogue.check_offered(caller, dialect, model)
            body = dialect.model_body(model, created_s=created_s)
        own = {"Content-Type": JSON, "Server": answers.SERVER, "X-Request-Id": visit.request_id}
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
        return self._requests.count

    def stop_admitting(self) -> None:
        """From now on refuse what is new; what runs goes on."""
        self._requests.are_last = True

    async def drain(self, *, timeout_s: float) -> None:
        """Refuse what is new, let what runs finish within `timeout_s`, then cut it and settle. `pulse` must go on meanwhile.

        Close the connections afterwards and call `finish`: a client that never ends its request is not waited for.
        """
        self.stop_admitting()
        await self._requests.until_none(timeout_s)
        self._exchanges.interrupt_all(
            Failure("draining", "This proxy had to stop.", hint="Try again; another will answer.", retry_after_s=1.0)
        )
        await self._requests.until_none(FAREWELL_S + self._holds.deadline_s)
        await self.finish()

    async def finish(self) -> None:
        """Wait until every end of a hold that is under way has landed, in the ledger or in the backlog."""
        await self._holds.finish()


def _letter(dialect: Dialect, inquiry: Request, asked: Asked, came: CIMultiDictProxy[str], *, caller_key: str) -> Letter:
    content_type = came.get("Content-Type", JSON) if inquiry.operation.passes_content_type else JSON
    query = joined_query(inquiry.query) if inquiry.query else ""
    return Letter(dialect, inquiry, asked.call, query, content_type, headers.for_upstream(came, caller_key=caller_key))
