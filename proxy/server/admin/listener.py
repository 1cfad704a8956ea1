"""The admin listener: `/admin/v1/*` behind tokens, and `/healthz`, `/readyz`, `/metrics` without, so private by default.

One handler takes every request, so that who may do something and what is done are judged on the same path. The outermost edge:
whatever happens becomes one answer here, problem details for `/admin/`, and one line in the log.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aiohttp import web

from proxy import domain
from proxy.errors import Expected, Refusal
from proxy.ledger import Directory, Journal
from proxy.ledger.giving import Giving
from proxy.server.admin import accounts, book, credits, dividends, equality, history, interventions, lending, levels, openapi, pools
from proxy.server.admin import agents as agent_routes
from proxy.server.admin.models import NoBody, NoQuery
from proxy.server.admin.problems import (
    CONTENT_TYPE,
    Mistakes,
    Problem,
    problem_of,
    problem_of_bug,
    problem_of_mistakes,
)
from proxy.server.admin.routing import PREFIX, Ask, Desk, MethodNotAllowed, Route, bearer_of, find, read, respond, route
from proxy.server.admin.tokens import Token, Tokens
from proxy.server.admin.views import Document
from proxy.server.equality import EqualityFigures
from proxy.server.interventions import Control
from proxy.server.pools import UpstreamPools

log = logging.getLogger(__name__)

Readiness = Callable[[], Awaitable[Sequence[str]]]
"""Why the process cannot serve now, each a sentence; empty where it can."""
ReadMetrics = Callable[[], Awaitable[tuple[bytes, str]]]
"""The metrics of all processes, and their content type."""

IDLE_TIMEOUT_S = 75.0
SHUTDOWN_TIMEOUT_S = 5.0
LINE_BYTES_MAX = 8190


@functools.cache
def route_table(*, version: str) -> tuple[Route, ...]:
    """Every call of the admin API, its own description included."""
    written: list[Document] = []

    @route("GET", "/openapi.json", "viewer", answer=Document)
    async def describe(desk: Desk, ask: Ask[NoBody, NoQuery]) -> Document:
        """This document."""
        return written[0]

    routes = (
        *accounts.ROUTES,
        *agent_routes.ROUTES,
        *credits.ROUTES,
        *lending.ROUTES,
        *dividends.ROUTES,
        *book.ROUTES,
        *levels.ROUTES,
        *pools.ROUTES,
        *equality.ROUTES,
        *interventions.ROUTES,
        *history.ROUTES,
        describe,
    )
    written.append(Document(openapi.document(routes, version=version)))
    return routes


class AdminListener:
    """Answers everything that arrives on the admin listener."""

    def __init__(
        self,
        *,
        directory: Directory,
        ledger: domain.Ledger,
        journal: Journal,
        pools: UpstreamPools,
        giving: Giving,
        equality: EqualityFigures,
        interventions: Control,
        tokens: Tokens,
        readiness: Readiness,
        metrics: ReadMetrics,
        version: str,
    ) -> None:
        self._desk = Desk(directory, ledger, journal, pools, giving, equality, interventions)
        self._tokens = tokens
        self._readiness = readiness
        self._metrics = metrics
        self._routes = route_table(version=version)

    @contextlib.asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Listen as long as the context lasts; gives the address, with the port that was chosen for 0. Raises OSError."""
        server = web.Server(self.handle, access_log=None, keepalive_timeout=IDLE_TIMEOUT_S, max_line_size=LINE_BYTES_MAX)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            address = runner.addresses[0]
            yield str(address[0]), int(address[1])
        finally:
            await runner.cleanup()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request from end to end, as an answer and, for the API, a line in the log."""
        instance = f"urn:uuid:{uuid.uuid4()}"
        try:
            response = await self._open_answer(request) or await self._answer(request, instance)
        except ConnectionError:
            raise  # the client is gone
        except Exception:  # the outermost edge: what nobody expected must still end as an answer
            log.exception("admin request %s failed", instance)
            response = _problem_response(problem_of_bug(instance=instance))
        if not response.prepared:
            response.headers["Cache-Control"] = "no-store"
            response.headers["Server"] = "compute-ledger"
            response.headers["X-Request-Id"] = instance.removeprefix("urn:uuid:")
        return response

    async def _open_answer(self, request: web.BaseRequest) -> web.Response | None:
        """The answer of a path that needs no token; None where it is none of these."""
        path = request.raw_path.partition("?")[0]
        if path not in ("/healthz", "/readyz", "/metrics"):
            return None
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if path == "/healthz":
            return web.json_response({"alive": True})
        if path == "/readyz":
            reasons = list(await self._readiness())
            return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)
        body, content_type = await self._metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _answer(self, request: web.BaseRequest, instance: str) -> web.StreamResponse:
        """One call of the API: who, which route, may they, what did they send, act, answer."""
        began_s = time.monotonic()
        route: Route | None = None
        token: Token | None = None
        response: web.StreamResponse
        try:
            path = request.raw_path.partition("?")[0]
            if not path.startswith("/admin/"):
                raise Refusal("unknown_path", "there is nothing at this path", hint="the admin API is under /admin/v1/")
            token = bearer_of(request, self._tokens)
            route, ids = find(self._routes, request.method, path)
            if not token.may(route.role):
                raise Refusal("forbidden", f"this takes the role {route.role}; token {token.name!r} has the role {token.role}")
            ask = await read(request, route, ids, token)
            if route.mutates:
                await self._desk.directory.claim(*ask.author.claim)
            answer = await route.act(self._desk, ask)
            response = await respond(request, answer, status=route.status)
        except Mistakes as error:
            response = _problem_response(problem_of_mistakes(error, instance=instance))
        except Expected as error:
            response = _refusal(error, instance)
        log.info(
            "admin %s %s status=%d actor=%s ms=%.0f",
            request.method if route is not None else "-",
            f"{PREFIX}{route.path}" if route is not None else "-",
            response.status,
            token.name if token is not None else "-",
            (time.monotonic() - began_s) * 1000,
        )
        return response


def _refusal(error: Expected, instance: str) -> web.Response:
    response = _problem_response(problem_of(error, instance=instance))
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="compute-ledger admin"'
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response


def _problem_response(problem: Problem) -> web.Response:
    body = problem.model_dump_json(exclude_none=True).encode()
    return web.Response(status=problem.status, body=body, content_type=CONTENT_TYPE)
