"""The proxy's own pages on a free port, and a client with one account's key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from proxy import config
from proxy.config import Upstream
from proxy.dialects import DIALECTS
from proxy.domain import AccountId
from proxy.errors import Expected
from proxy.ledger import Store
from proxy.metrics import Metrics
from proxy.server.admin.routing import Desk
from proxy.server.admission import Admission
from proxy.server.agents import OwnAgents
from proxy.server.answers import refused
from proxy.server.catalogue import Prices
from proxy.server.equality import EqualityFigures
from proxy.server.identity import identify
from proxy.server.lending import OwnLoans
from proxy.server.selfservice import SelfService
from proxy.server.upstream import Endpoint
from proxy.server.write_rate import WriteRate
from tests.server.admin.bench import Reply, giving_of
from tests.support.known_use import KnownUse

SLICE_TOKENS = 100
UPSTREAM = Upstream(name="u", base_url="http://127.0.0.1:1", models=("small", "gpt-*", "other", "unpriced"), output_tokens_max=1000)


@dataclass(slots=True)
class Pages:
    """The proxy's own pages, called with one account's key."""

    session: aiohttp.ClientSession
    base: str
    key: str

    async def __call__(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, data: bytes | None = None
    ) -> Reply:
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        content = {"json": body} if data is None and body is not None else {"data": data}
        async with self.session.request(method, self.base + path, headers=sent, **content) as response:
            text = await response.text()
            return Reply(response.status, response.headers, text, json.loads(text) if text[:1] == "{" else None)

    async def done(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """The answer of a call that must succeed; `key` is its Idempotency-Key."""
        reply = await self(method, f"/ledger/v1{path}", body, headers={} if key is None else {"Idempotency-Key": key})
        assert reply.status in (200, 201), reply.text
        return reply.json

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and code of a call that must be refused."""
        reply = await self(method, f"/ledger/v1{path}", body)
        assert reply.status >= 400, reply.text
        return reply.status, reply.json["error"]["code"]

    def with_key(self, key: str) -> Pages:
        return Pages(self.session, self.base, key)


async def person(store: Store, base: str, session: aiohttp.ClientSession, name: str, **settings: Any) -> Pages:
    """Somebody with a new account, and its key."""
    account = await store.directory.create_account(AccountId(name), operation_id=f"a{name}", **settings)
    _, key = await store.directory.create_key(account.id, operation_id=f"k{name}")
    assert key is not None
    return Pages(session, base, key)


@contextlib.asynccontextmanager
async def serve(
    store: Store,
    use: KnownUse | None = None,
    *,
    agents_max: Callable[[], int] = lambda: 100,
    writes_per_minute: int = 300,
    loan_days_max: int = 366,
) -> AsyncIterator[str]:
    """The pages of a ledger; gives their base URL."""
    endpoint = Endpoint(UPSTREAM, api_key=None)
    admission = Admission([endpoint], Prices(lambda: store.directory.price_book, store.engine.now_ms, lambda: store.directory.levels))
    giving = giving_of(store)
    desk = Desk(store.directory, store.ledger, store.journal, giving=giving)
    pages = SelfService(
        store.directory,
        store.ledger,
        store.journal,
        admission=lambda: admission,
        slice_tokens=lambda: SLICE_TOKENS,
        now_ms=store.engine.now_ms,
        places=EqualityFigures(use or KnownUse(), config.Equality).places,
        giving=giving,
        count_write=WriteRate(store.ledger, lambda: writes_per_minute, Metrics()).count,
        calls=(*OwnAgents(desk, giving.agents, agents_max).calls, *OwnLoans(desk, giving, lambda: loan_days_max).calls),
    )

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            caller, _ = await identify(request.headers, store.directory)
        except Expected as refusal:
            return refused(refusal, DIALECTS["openai"], request_id="r", now_ms=0)
        return await pages.handle(request, caller, request_id="request-7")

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
