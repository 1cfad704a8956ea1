"""A real admin listener on a real ledger, and clients of each role."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from proxy import config
from proxy.app.controller import Controller
from proxy.config import Commons, LedgerSection, Upstream
from proxy.domain import Limit, Plan, Price
from proxy.ledger import Store, open_ledger
from proxy.ledger.giving import Giving, giving_on
from proxy.ledger.pools import Pools
from proxy.metrics import Metrics
from proxy.server.admin import AdminListener, Tokens, token_of
from proxy.server.admin.tokens import Role
from proxy.server.equality import EqualityFigures
from proxy.server.pools import UpstreamPools
from tests.support.known_use import KnownUse
from tests.support.ledger_server import LedgerServer

CREDIT = 1_000_000_000
DEADLINE_MS = 20_000
"""Long, so that a busy machine fails no test: none of these is about a slow ledger."""
ROLES: tuple[Role, ...] = ("viewer", "operator", "owner")
SECRETS: dict[str, str] = {role: f"{role}-token-for-the-tests" for role in ROLES}
EVERYONE = Plan("everyone", (Limit(5 * CREDIT, "day"),))
ANY_MODEL = Price("*", 0, input=CREDIT, output=4 * CREDIT)
COMMONS = "fund"
"""The account of the commons, where a test opens it."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Any
    text: str
    json: Any


@dataclass(frozen=True, slots=True)
class Client:
    """Calls the API with one role's token, or none."""

    session: aiohttp.ClientSession
    base: str
    role: str | None = "owner"

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> Reply:
        sent = {"Authorization": f"Bearer {SECRETS[self.role]}"} if self.role is not None else {}
        if key is not None:
            sent["Idempotency-Key"] = key
        content = {"json": body} if data is None and body is not None else {"data": data}
        url = URL(self.base + path, encoded=True)
        async with self.session.request(method, url, headers={**sent, **(headers or {})}, **content) as response:
            text = await response.text()
            is_json = "json" in response.headers.get("Content-Type", "")
            return Reply(response.status, response.headers, text, await response.json(content_type=None) if is_json else None)

    async def done(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer of a call that must succeed."""
        reply = await self(method, f"/admin/v1{path}", body, **options)
        assert reply.status in (200, 201), reply.text
        return reply.json


@dataclass(slots=True)
class Health:
    """What the application would say of itself, and the upstreams that it has."""

    reasons: tuple[str, ...] = ()
    upstreams: tuple[Upstream, ...] = (
        Upstream(name="scarce", base_url="http://127.0.0.1:1", seats=2),
        Upstream(name="plenty", base_url="http://127.0.0.1:1"),
    )
    use: KnownUse = field(default_factory=KnownUse)
    commons: str | None = COMMONS
    """As the controller's configuration has it."""


@contextlib.asynccontextmanager
async def open_store(server: LedgerServer) -> AsyncIterator[Store]:
    """An empty ledger with one plan, `everyone`, and one price for every model."""
    async with open_ledger(LedgerSection(deadline_ms=DEADLINE_MS), url=server.url) as store:
        store.directory.configure(file_prices=(ANY_MODEL,), default_plan="everyone")
        await store.directory.seed_plans((EVERYONE,))
        yield store


def giving_of(store: Store) -> Giving:
    return giving_on(store.engine, store.directory, store.ledger, commons=lambda: Commons(account=COMMONS))


def controller_of(store: Store, use: KnownUse | None = None, *, health: Health | None = None) -> Controller:
    """Of interventions that step at once, with people whose use is known."""

    def settings() -> config.Config:
        commons = COMMONS if health is None else health.commons
        tables = {"intervention": {"tick_s": 0.1, "step_s": 0.1, "sustained_s": 0}, "commons": {"account": commons} if commons else {}}
        return config.validate(tables, source="test")

    return Controller(
        store,
        uses=use or KnownUse(),
        pools=UpstreamPools(Pools(store.engine), lambda: ()),
        metrics=Metrics(),
        settings=settings,
        giving=giving_of(store),
    )


@contextlib.asynccontextmanager
async def listen(store: Store, health: Health) -> AsyncIterator[str]:
    """An admin listener on a free port; gives its base URL."""

    async def readiness() -> tuple[str, ...]:
        return health.reasons

    async def metrics() -> tuple[bytes, str]:
        return b"compute_ledger_ledger_up 1\n", "text/plain; version=1.0.0"

    listener = AdminListener(
        directory=store.directory,
        ledger=store.ledger,
        journal=store.journal,
        pools=UpstreamPools(Pools(store.engine), lambda: health.upstreams),
        giving=giving_of(store),
        equality=EqualityFigures(health.use, lambda: config.Equality(labels=("country",)), health.use.recount),
        interventions=controller_of(store, health=health),
        tokens=Tokens([token_of(f"{role}-1", role, SECRETS[role]) for role in ROLES]),
        readiness=readiness,
        metrics=metrics,
        version="1.2.3",
    )
    async with listener.serve("127.0.0.1", 0) as (host, port):
        yield f"http://{host}:{port}"


ClientOf = Callable[[str | None], Client]
