"""The gauges of equality in the parent: taken every few seconds, told with their age."""

from __future__ import annotations

import pytest

from proxy import config
from proxy.app.equality import EqualityWatch
from proxy.errors import LedgerUnavailable
from proxy.metrics import Fleet, Metrics
from proxy.policy.equality import WindowState
from proxy.policy.tallies import WINDOWS, WindowName
from proxy.server.equality import EqualityFigures
from tests.support.known_use import KnownUse, Person
from tests.test_metrics import page


class Ledger(KnownUse):
    """Known use that may be away."""

    away = False

    async def state(self, window: WindowName, group: str | None = None, unit: str | None = None) -> WindowState:
        if self.away:
            raise LedgerUnavailable("the ledger is away")
        return await super().state(window, group, unit)


async def test_gauges_are_taken_and_grow_old() -> None:
    """-1 before the first time; what was measured last stays while the ledger is away; a scrape reads no window."""
    ledger, metrics = Ledger([Person(f"p{n}", 5, groups={"plan": "everyone"}) for n in range(25)]), Metrics()
    watch = EqualityWatch(EqualityFigures(ledger, config.Equality), metrics, lambda: ["everyone"])
    watch.tell_age()
    assert page(Fleet(metrics))["compute_ledger_equality_age_seconds"] == -1
    await watch.measure()
    assert sorted(ledger.asked) == sorted((window, "plan") for window in WINDOWS)
    ledger.away = True
    with pytest.raises(LedgerUnavailable):
        await watch.measure()
    watch.tell_age()
    shown = page(Fleet(metrics))
    assert 0 <= shown["compute_ledger_equality_age_seconds"] < 60
    assert shown["compute_ledger_accounts{state=active,window=day}"] == 25
    assert shown["compute_ledger_group_use_share{plan=everyone,window=month}"] == 1
    assert len(ledger.asked) == len(WINDOWS)


async def test_the_day_is_taken_every_time_and_the_others_in_turn() -> None:
    """After the first time two windows at most are read, and none is left out for long."""
    ledger, metrics = Ledger([Person(f"p{n}", 5) for n in range(25)]), Metrics()
    watch = EqualityWatch(EqualityFigures(ledger, config.Equality), metrics, list)
    await watch.measure()
    rounds = []
    for _ in range(3):
        ledger.asked.clear()
        await watch.measure()
        rounds.append({window for window, _ in ledger.asked})
    assert all("day" in windows and len(windows) == 2 for windows in rounds)
    assert set().union(*rounds) == set(WINDOWS)
