"""How a process comes by its books: connected to the ledger, told of the file's prices and plans, its accounts seeded.

Seeding again changes nothing that was changed at run time: an account that exists stays as it is. Must not know where the
configuration came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Final

from proxy import config
from proxy.app.counting import CountingLedger
from proxy.config import Config, LedgerSection
from proxy.domain import AccountId
from proxy.errors import Conflict, LedgerUnavailable, Refusal, SetupError
from proxy.ledger import Directory, Store, open_ledger
from proxy.metrics import Metrics

log = logging.getLogger(__name__)

CONNECT_PAUSE_S: Final = 0.5


@contextlib.asynccontextmanager
async def connected(section: LedgerSection, *, url: str, metrics: Metrics) -> AsyncIterator[Store]:
    """A process's view of the ledger. A ledger that is away when the process starts is waited for, not done without."""
    async with contextlib.AsyncExitStack() as stack:
        waiting = False
        while True:
            try:
                store = await stack.enter_async_context(open_ledger(section, url=url, observe=metrics.ledger_called))
                break
            except LedgerUnavailable as failure:
                if not waiting:
                    log.warning("waiting for the ledger: %s", failure.message)
                waiting = True
                await asyncio.sleep(CONNECT_PAUSE_S)
        metrics.ledger_is_up(True)
        yield dataclasses.replace(store, ledger=CountingLedger(store, metrics))


def configure(settings: Config, directory: Directory, metrics: Metrics) -> None:
    """Tell a process's own objects of the file's prices, its default plan and the names that may be labels."""
    prices = tuple(row.to_price() for row in settings.price)
    levels = tuple(row.to_level() for row in settings.level)
    default_plan = settings.plan[0].name if settings.plan else None
    directory.configure(file_prices=prices, default_plan=default_plan, file_levels=levels)
    directory.believes_longer = settings.ledger.on_failure == "allow"
    label(settings, directory, metrics)


def label(settings: Config, directory: Directory, metrics: Metrics) -> None:
    """Take the names of the upstreams, and of the models that are priced or served, as labels of the metrics."""
    models = {price.model for price in directory.price_book}.union(*(upstream.models for upstream in settings.upstream))
    metrics.configured(pools=[upstream.name for upstream in settings.upstream], models=models)


async def follow(settings: Config, store: Store, metrics: Metrics) -> None:
    """Take over what has changed in the ledger since the last time. Raises LedgerUnavailable."""
    before = store.directory.generation
    try:
        await store.directory.refresh()
    except LedgerUnavailable:
        metrics.ledger_is_up(False)
        raise
    metrics.ledger_is_up(True)
    if store.directory.generation != before:
        label(settings, store.directory, metrics)


async def seed(settings: Config, store: Store) -> None:
    """Put the file's plans and accounts into the ledger. Raises LedgerUnavailable; SetupError where the ledger refuses a row."""
    try:
        await store.directory.seed_plans(tuple(row.to_plan() for row in settings.plan))
        for row in settings.account:
            await _seed_account(row, store.directory)
    except Refusal as refusal:
        raise SetupError(f"the configuration does not fit the ledger: {refusal.message}") from refusal


async def _seed_account(row: config.AccountRow, directory: Directory) -> None:
    account_id = AccountId(row.id)
    try:
        await directory.create_account(
            account_id,
            parent=AccountId(row.parent) if row.parent is not None else None,
            plan=row.plan,
            weight=row.weight,
            limits=None if row.limits is None else tuple(limit.to_limit() for limit in row.limits),
            labels=row.labels,
            operation_id=f"seed:{_digest(row.model_dump_json())}",
        )
    except Conflict:
        log.debug("account %s is in the ledger with settings of its own, which stay", account_id)
    key = config.read_secret(env=row.key_env, file=None, what=f"key of account {row.id!r}")
    if key is not None:
        await directory.create_key(account_id, operation_id=f"seed:{_digest(key)}", key=key)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
