"""A whole proxy on 127.0.0.1 for tests: the real listener and handler in front of a scripted upstream, with a ledger of the test's choice.

The periodic jobs run as they do in a worker, only more often, so that a test waits for what happens and never for the clock.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from proxy import config, domain
from proxy.domain import AccountId, Caller, Level, Limit, Plan, Price
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger.backlog import Backlog
from proxy.metrics import Metrics
from proxy.policy.levels import Levels
from proxy.server.handler import Proxy
from proxy.server.listener import Listener
from proxy.server.upstream import Endpoint
from tests.support.model_batches import ModelBatches
from tests.support.model_ledger import ModelLedger
from tests.support.model_pools import ModelPools

KEY = "cl-" + "k" * 43
ACCOUNT = AccountId("user:ann")
PATH = (ACCOUNT,)
UPSTREAM_KEY = "sk-upstream-0123456789abcdef"
RATE_INPUT = 1_000_000
"""Nanocredits per million tokens: one nanocredit for each token of input."""
RATE_OUTPUT = 4_000_000
PULSE_S = 0.01


class Clock:
    """The ledger's time, moved by the test alone."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Book:
    """A directory with the callers and prices that a test writes into it."""

    def __init__(self, price_book: tuple[Price, ...], ledger: ModelLedger) -> None:
        self.price_book = price_book
        self.generation = 0
        """To be raised where an account changes while a request waits."""
        self.is_away = False
        self._ledger = ledger
        self.configured_levels: tuple[Level, ...] = ()
        self.units: dict[AccountId, str] = {}
        """Of accounts that do not count in credits."""
        self.missing: set[AccountId] = set()
        """Accounts that are named somewhere and are not there."""
        self.callers: dict[str, Caller] = {}

    def add(self, key: str, caller: Caller) -> None:
        self.callers[hashlib.sha256(key.encode()).hexdigest()] = caller

    @property
    def levels(self) -> Levels:
        return Levels(self.price_book, self.configured_levels)

    async def path(self, account_id: AccountId) -> domain.Path:
        return (account_id,)

    async def unit(self, account_id: AccountId) -> str:
        if account_id in self.missing:
            raise Refusal("account_not_found", f"there is no account {account_id!r}", account=account_id)
        return self.units.get(account_id, domain.CREDITS)

    async def check_active(self, path: domain.Path) -> None:
        if self.is_away:
            raise LedgerUnavailable
        for account_id in path:
            if (status := (await self._ledger.account(account_id)).status) != "active":
                raise Refusal("account_suspended", f"account {account_id!r} is {status}", account=account_id)

    async def caller(self, key_sha256_hex: str) -> Caller | None:
        return self.callers.get(key_sha256_hex)


class Breakable:
    """A ledger with a line to it that a test may cut (`down`), verb by verb if it likes, or slow down (`gate`)."""

    VERBS = frozenset({"hold", "debit", "extend", "settle", "void", "adjust"})

    def __init__(self, ledger: domain.Ledger) -> None:
        self._ledger = ledger
        self.down: frozenset[str] = frozenset()
        self.loses_answers: frozenset[str] = frozenset()
        """The verb is carried out, and nobody hears of it."""
        self.gates: dict[str, asyncio.Event] = {}
        """A call waits here before it is carried out."""
        self.late: dict[str, asyncio.Event] = {}
        """A call waits here after it was carried out, before anybody hears of it."""
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._ledger, verb)
        if verb not in self.VERBS:
            return call

        async def passed_on(*arguments: Any, **named: Any) -> Any:
            self.calls.append((verb, named))
            if verb in self.gates:
                await self.gates[verb].wait()
            if verb in self.down:
                raise LedgerUnavailable
            answer = await call(*arguments, **named)
            if verb in self.late:
                await self.late[verb].wait()
            if verb in self.loses_answers:
                raise LedgerUnavailable
            return answer

        return passed_on

    def cut(self) -> None:
        self.down = self.VERBS

    def mend(self) -> None:
        self.down = frozenset()


class Proxied:
    """What a test needs at hand."""

    def __init__(
        self,
        proxy: Proxy,
        port: int,
        ledger: Breakable,
        model: ModelLedger,
        batches: ModelBatches,
        pools: ModelPools,
        clock: Clock,
        book: Book,
        metrics: Metrics,
        client: aiohttp.ClientSession,
    ) -> None:
        self.proxy = proxy
        self.pools = pools
        self.port = port
        self.ledger = ledger
        self.model = model
        self.batches = batches
        self.clock = clock
        self.book = book
        self.metrics = metrics
        self.client = client
        self.base_url = f"http://127.0.0.1:{port}"

    def post(self, path: str = "/v1/chat/completions", *, key: str = KEY, json: Any = None, **options: Any) -> Any:
        """A request with a key; use it as aiohttp's: `async with proxied.post(...) as answer`."""
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        return self.client.post(self.base_url + path, json=json, headers=headers, **options)

    async def account(self, account_id: AccountId = ACCOUNT) -> domain.Account:
        return await self.model.account(account_id)

    async def spent(self) -> int:
        return (await self.account()).totals.spent

    async def until(self, happened: Callable[[], Awaitable[bool]]) -> None:
        """Wait until a condition holds; the test's own timeout is the limit."""
        while not await happened():  # noqa: ASYNC110  # nothing says when, so it is asked again and again
            await asyncio.sleep(0.002)

    async def until_settled(self) -> domain.Totals:
        """Wait until no request is under way and no hold is open; the account's totals then."""

        async def settled() -> bool:
            gauges = ("held_credits", "open_requests", "open_streams")
            return all(self.counted(gauge) == 0 for gauge in gauges) and (await self.account()).totals.held == 0

        await self.until(settled)
        return (await self.account()).totals

    def counted(self, metric: str, *labels: str) -> float:
        """The value of a counter or gauge."""
        return sum(numbers[0] for values, numbers in self.metrics.snapshot()[metric] if not labels or tuple(values) == labels)

    def outcomes(self) -> dict[str, float]:
        """How requests ended, and how many."""
        return {values[3]: numbers[0] for values, numbers in self.metrics.snapshot()["requests_total"]}


def chat(*, stream: bool = False, content: str = "hi", **members: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **({"stream": True} if stream else {}), **members}


def price(model: str = "*", **rates: Any) -> Price:
    return Price(model, 0, **{"input": RATE_INPUT, "output": RATE_OUTPUT, **rates})


@asynccontextmanager
async def proxied(
    upstream_url: str,
    directory: Path,
    *,
    credits_nanocredits: int | None = 1_000_000,
    settings: Mapping[str, Any] | None = None,
    upstream: Mapping[str, Any] | None = None,
    upstreams: list[Mapping[str, Any]] | None = None,
    prices: tuple[Price, ...] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> AsyncIterator[Proxied]:
    """A proxy before the upstream. The caller with KEY has `credits_nanocredits` (None: no limit)."""
    sections = upstreams or [{"name": "up", "base_url": upstream_url, **(upstream or {})}]
    configured = config.validate({"upstream": sections, **(settings or {})}, source="test")
    clock = Clock()
    limits = () if credits_nanocredits is None else (Limit(credits_nanocredits, "day"),)
    model = ModelLedger(clock, hold_ttl_s=configured.ledger.hold_ttl_s)
    the_plan = Plan("everyone", **{"limits": limits, **(plan or {})})
    await model.put_plan(the_plan, operation_id="plan")
    await model.create_account(ACCOUNT, parent=None, plan="everyone", weight=None, limits=None, labels={}, operation_id="account")
    book = Book(prices or (price(),), model)
    book.add(KEY, Caller(ACCOUNT, PATH, the_plan, "key-1"))
    metrics = Metrics(pools=[section["name"] for section in sections], models=["tiny"])
    ledger = Breakable(model)

    async with AsyncExitStack() as stack:
        backlog = await stack.enter_async_context(Backlog(directory, observe=metrics.backlog_changed))
        endpoints = [await stack.enter_async_context(Endpoint(section, api_key=UPSTREAM_KEY)) for section in configured.upstream]
        batches = ModelBatches(clock)
        pools = ModelPools(clock)
        proxy = Proxy(
            configured,
            endpoints=endpoints,
            ledger=ledger,
            directory=book,
            backlog=backlog,
            batches=batches,
            pools=pools,
            metrics=metrics,
            now_ms=clock,
        )
        pools.on_seated = proxy.seating.seated
        runner = web.ServerRunner(Listener(proxy.handle, configured.listen), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stack.push_async_callback(runner.cleanup)
        client = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False))
        jobs = asyncio.ensure_future(_jobs(proxy))
        try:
            yield Proxied(proxy, runner.addresses[0][1], ledger, model, batches, pools, clock, book, metrics, client)
            await proxy.drain(timeout_s=0)
        finally:
            jobs.cancel()


async def _jobs(proxy: Proxy) -> None:
    while True:
        await proxy.pulse()
        await proxy.tell_backlog()
        await proxy.seating.beat()
        await asyncio.sleep(PULSE_S)
