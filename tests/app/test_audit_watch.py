"""The gauges of the background audit in the parent: what is left to spend is told in credits, or not at all."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from proxy import config
from proxy.app.auditing import AuditWatch
from proxy.domain import NANOCREDITS_PER_CREDIT, AccountId, Limit, Plan, Price
from proxy.ledger import Store, open_ledger
from proxy.metrics import Fleet, Metrics
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer
from tests.test_metrics import page

INDEX_NANOCREDITS = 3 * NANOCREDITS_PER_CREDIT // 10
LEFT = "compute_ledger_left_credits"
LIMIT = Limit(2 * NANOCREDITS_PER_CREDIT, "ever")
PLANS = (Plan("unlimited", ()), Plan("everyone", (LIMIT,)), Plan("units", (LIMIT,), unit="small"), Plan("worthless", (LIMIT,), unit="none"))


class Watched:
    """An audit that is told every second, on a clock of ours."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self._metrics = Metrics()
        self._watch = AuditWatch(store, self._metrics, lambda: config.LedgerSection(audit_interval_s=1))

    async def open(self, name: str, plan: str) -> None:
        await self.store.directory.create_account(AccountId(name), plan=plan, operation_id=name)

    async def told(self) -> dict[str, float]:
        """The page of metrics some seconds later."""
        for _ in range(5):
            self._clock.pass_s(1)
            await self._watch.step()
        return page(Fleet(self._metrics))


@pytest.fixture
async def watched(ledger_server: LedgerServer) -> AsyncIterator[Watched]:
    ledger_server.flush()
    clock = Clock(int(time.time() * 1000) + 60_000)
    async with open_ledger(config.LedgerSection(url=ledger_server.url, deadline_ms=10_000), now_ms=clock) as store:
        price = Price("tiny", 0, input=INDEX_NANOCREDITS, output=INDEX_NANOCREDITS, level="small")
        store.directory.configure(file_prices=(price,), default_plan="everyone")
        for plan in PLANS:
            await store.directory.put_plan(plan, operation_id=f"plan-{plan.name}")
        yield Watched(store, clock)


async def test_where_nobody_has_a_limit_nothing_is_said_of_what_is_left(watched: Watched) -> None:
    """Not that it were 0; and from the first limit on it is said, a used-up one and a suspended account's too."""
    await watched.open("user:free", "unlimited")
    told = await watched.told()
    assert told["compute_ledger_open_holds"] == 0
    assert LEFT not in told
    await watched.open("user:ann", "everyone")
    assert (await watched.told())[LEFT] == 2
    await watched.store.directory.update_account(AccountId("user:ann"), status="suspended", operation_id="suspended")
    assert (await watched.told())[LEFT] == 0
    await watched.store.directory.update_account(AccountId("user:ann"), status="active", plan="unlimited", operation_id="freed")
    assert LEFT not in await watched.told()


async def test_units_of_a_level_are_told_as_the_credits_that_they_are_worth(watched: Watched) -> None:
    """By the index in force; those of a level that has none are left out, and credits are added as they are."""
    await watched.open("user:none", "worthless")
    assert LEFT not in await watched.told()
    await watched.open("user:units", "units")
    assert (await watched.told())[LEFT] == 0.6
    await watched.open("user:ann", "everyone")
    assert (await watched.told())[LEFT] == 2.6
    assert (await watched.store.journal.audit()).left_nanocredits == 26 * NANOCREDITS_PER_CREDIT // 10
