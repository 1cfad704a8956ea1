"""What a process does again and again so that the statistics of use are kept: it flushes; the parent also recounts, and counts seats."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from proxy.config import Config
from proxy.domain import AccountId, Caller
from proxy.ledger import Store, keys
from proxy.ledger.recount import Recounter
from proxy.processes.jobs import Job
from proxy.server.pools import UpstreamPools

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.9
"""So that with its own time it comes around at least once a second."""
RECOUNT_S: Final = 10.0
SEATS_S: Final = 5.0


def flushing(store: Store) -> Job:
    """Tells what the process has counted."""
    return Job("telling the use of people", FLUSH_S, store.equality.flush)


def noting_denials(store: Store) -> Callable[[Caller, str, int], None]:
    """Notes what a caller was denied, by the refusal's code and in credits: in what its account counts, for so is its use."""
    directory, denials = store.directory, store.equality.denials

    def denied(caller: Caller, code: str, amount_nanocredits: int) -> None:
        unit = caller.plan.unit
        denials.note(caller.path, code, directory.levels.counted_in(unit, amount_nanocredits, store.engine.now_ms()), unit=unit)

    return denied


def configure(store: Store, settings: Config) -> None:
    """Tell a process's own counting who is nobody."""
    commons = settings.commons.account
    store.equality.enrolment.commons = None if commons is None else AccountId(commons)


class ParentsUse:
    """The parent's part of it, by the configuration in force."""

    def __init__(self, store: Store, pools: UpstreamPools, settings: Callable[[], Config]) -> None:
        self._store = store
        self._pools = pools
        self._settings = settings
        self.recounter = Recounter(store.engine, store.equality)
        self._configure()

    def jobs(self) -> tuple[Job, ...]:
        return (
            flushing(self._store),
            Job("counting the use of people anew", RECOUNT_S, self._recount),
            Job("counting seats", SEATS_S, self._look_at_seats),
        )

    def _configure(self) -> None:
        settings = self._settings()
        section = settings.equality
        self.recounter.configure(half_life_days=section.half_life_days, labels=section.labels, hour_utc=section.recount_hour_utc)
        configure(self._store, settings)

    async def _recount(self) -> None:
        self._configure()
        if done := await self.recounter.run_if_due():
            worst = max(done.drifts, key=lambda drift: drift.of_use)
            log.info("the use of %d accounts was counted anew in %.1f s", done.accounts, done.took_ms / 1000)
            if worst.of_use:
                log.warning("what was told of the %s was wrong by %.4f %% of all use", worst.window, 100 * worst.of_use)

    async def _look_at_seats(self) -> None:
        """Count how many seats are taken, for all proxies on this ledger: whoever takes the lease counts for its time."""
        if await self._store.engine.command("SET", keys.lease("equality-seats"), "-", "NX", "PX", round(SEATS_S * 1000)) is None:
            return
        states = await self._pools.all()
        taken, there = sum(min(state.used, state.seats) for state in states), sum(state.seats for state in states)
        if there:
            self._store.equality.denials.seats_were(
                taken=taken, there=there, seconds=SEATS_S, half_life_days=self._store.moves.era.half_life_days
            )
