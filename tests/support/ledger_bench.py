"""A bench for any ledger: the plain-Python model, or the real one on a server, under a clock that tests turn."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from proxy import config, domain
from proxy.domain import AccountId, Limit, Path, Plan
from proxy.errors import Refusal
from proxy.ledger import open_ledger
from tests.support.ledger_server import LedgerServer
from tests.support.model_ledger import ModelLedger

HOLD_TTL_S = 60
NOON_MS = 1_795_348_800_000
"""Sunday, 22 November 2026, 12:00 UTC."""


class Clock:
    """The ledger's time, which passes only when a test says so."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


@dataclasses.dataclass
class Bench:
    """A ledger with its directory and books, and short words for what tests do with them."""

    clock: Clock
    """Stands still where the server's own is used."""
    ledger: domain.Ledger
    directory: Any
    books: Any
    """Who answers `holds` and `audit`."""
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)
    _operations: int = 0

    def operation_id(self) -> str:
        self._operations += 1
        return f"operation-{self._operations}"

    async def plan(self, name: str, *limits: Limit, per_minute: int | None = None, at_once: int | None = None) -> None:
        plan = Plan(name, limits, requests_per_minute=per_minute, concurrent_requests=at_once)
        await self.directory.put_plan(plan, operation_id=self.operation_id())

    async def account(self, name: str, *limits: Limit, parent: str | None = None, plan: str | None = None) -> Path:
        """A new account with limits of its own, or a plan's where one is named; its path."""
        account = await self.directory.create_account(
            AccountId(name),
            parent=None if parent is None else AccountId(parent),
            plan=plan or "everyone",
            weight=None,
            limits=None if plan else limits,
            labels={},
            operation_id=self.operation_id(),
        )
        self.paths[name] = account.path
        return account.path

    async def status(self, name: str, status: domain.AccountStatus) -> None:
        await self.directory.update_account(AccountId(name), status=status, operation_id=self.operation_id())

    async def limit(self, path: Path, *limits: Limit) -> None:
        await self.ledger.set_limits(path, self.operation_id(), limits=limits)

    async def state(self, path: Path) -> domain.Account:
        return await self.directory.account(path[-1])

    async def totals(self, path: Path) -> dict[str, int]:
        """The totals of an account that are not 0."""
        totals = dataclasses.asdict((await self.state(path)).totals)
        return {name: amount for name, amount in totals.items() if amount}

    async def window(self, path: Path, key: str | None = None) -> domain.LimitState:
        """The present window of an account's limit, its only one where no key is given."""
        limits = (await self.state(path)).limits
        [window] = [state for state in limits if key in (None, state.limit.key)]
        return window

    async def spend(self, path: Path, amount: int) -> None:
        """A request that cost an amount and is over."""
        hold_id = self.operation_id()
        await self.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
        await self.ledger.settle(path, hold_id, spent_nanocredits=amount)

    async def hold(self, path: Path, hold_id: str, want: int, least: int | None = None) -> domain.Hold:
        least = want if least is None else least
        return await self.ledger.hold(path, hold_id, want_nanocredits=want, least_nanocredits=least)

    async def everything(self) -> list[Any]:
        """All that can be seen of all accounts: what a refusal and a repeat leave as it is."""
        accounts = [await self.state(path) for path in self.paths.values()]
        return [*accounts, *[(await self.books.holds(path[-1], after=None, limit=100)).items for path in self.paths.values()]]

    async def refused(self, code: str, call: Awaitable[object]) -> Refusal:
        """Await a call that must be refused with a code, and change nothing."""
        before = await self.everything()
        with pytest.raises(Refusal) as caught:
            await call
        assert caught.value.code == code
        assert await self.everything() == before
        return caught.value


@contextlib.asynccontextmanager
async def open_bench(server: LedgerServer | None, clock: Clock | None, *, empty: bool = True) -> AsyncIterator[Bench]:
    """A bench on a server, emptied first or as it is, or (None) on the model; without a clock the server's own counts."""
    if server is None:
        assert clock is not None
        model = ModelLedger(clock, hold_ttl_s=HOLD_TTL_S)
        bench = Bench(clock, model, model, model)
        await bench.plan("everyone")
        yield bench
        return
    if empty:
        server.flush()
    section = config.LedgerSection(url=server.url, hold_ttl_s=HOLD_TTL_S, deadline_ms=10_000)
    async with open_ledger(section, now_ms=clock) as store:
        bench = Bench(clock or Clock(), store.ledger, store.directory, store.journal)
        if empty:
            await bench.plan("everyone")
        yield bench


async def prove_conservation(bench: Bench) -> None:
    """The books balance, and what an account holds is what its open holds have left."""
    report = await bench.books.audit()
    assert report.broken == ()
    for path in bench.paths.values():
        holds = (await bench.books.holds(path[-1], after=None, limit=1000)).items
        assert (await bench.state(path)).totals.held == sum(hold.amount_nanocredits - hold.spent_nanocredits for hold in holds)
