"""What a worker serves: the request handler with its upstreams and backlog, behind the listener on the shared port.

Built from a configuration and a view of the ledger, configured anew while it runs, drained at its end. Must not know of other
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from proxy import config
from proxy.app.intervening import modes_in
from proxy.app.use import configure, flushing, noting_denials
from proxy.config import Config
from proxy.domain import AccountId, Path
from proxy.errors import Failure
from proxy.ledger import Store
from proxy.ledger.backlog import Backlog
from proxy.ledger.batches import Batches
from proxy.ledger.giving import giving_on
from proxy.ledger.interventions import InterventionRecord
from proxy.ledger.pools import BEAT_MS, Pools
from proxy.metrics import Metrics
from proxy.processes.jobs import Job
from proxy.processes.sockets import BACKLOG
from proxy.server.admin.routing import Desk
from proxy.server.agents import OwnAgents
from proxy.server.equality import EqualityFigures
from proxy.server.handler import Proxy
from proxy.server.interventions import Interventions
from proxy.server.lending import OwnLoans
from proxy.server.listener import Listener
from proxy.server.own_interventions import OwnInterventions
from proxy.server.selfservice import SelfService
from proxy.server.upstream import Endpoint
from proxy.server.write_rate import WriteRate

PULSE_S: Final = 0.25
BACKLOG_S: Final = 1.0
BATCHES_S: Final = 0.7
"""Well below the shortest time after which a hold expires."""
ORDERS_S: Final = 1.0
TITHES_S: Final = 1.0
"""How often it is looked whether tithes are to be given; how often they are the configuration says."""
CLOSE_DEADLINE_S: Final = 1.0


class Upstreams:
    """The open endpoints; those that a new configuration leaves as they are keep their connections."""

    def __init__(self) -> None:
        self._open: dict[str, Endpoint] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    async def configure(self, sections: Sequence[config.Upstream]) -> list[Endpoint]:
        """The endpoints for these sections, in their order; what is not among them goes once it has answered all. Raises SetupError."""
        keys = {s.name: _api_key(s) for s in sections}
        before, self._open = self._open, {}
        for section in sections:
            endpoint = before.get(section.name)
            if endpoint is not None and endpoint.section == section and endpoint.api_key == keys[section.name]:
                del before[section.name]
            else:
                endpoint = await Endpoint(section, api_key=keys[section.name]).__aenter__()
            self._open[section.name] = endpoint
        for retired in before.values():
            task = asyncio.get_running_loop().create_task(retired.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        return list(self._open.values())

    async def close(self) -> None:
        for task in self._retiring:
            task.cancel()
        for endpoint in self._open.values():
            await endpoint.__aexit__()


def _api_key(section: config.Upstream) -> str | None:
    return config.read_secret(env=section.api_key_env, file=section.api_key_file, what=f"upstream {section.name!r}")


class Service:
    """Answers what arrives on the proxy's port, from `listen` to `drain`."""

    def __init__(self, settings: Config, store: Store, backlog: Backlog, metrics: Metrics, endpoints: list[Endpoint]) -> None:
        self._settings = settings
        self._store = store
        configure(store, settings)
        self._pools = Pools(store.engine)
        self._proxy = Proxy(
            settings,
            endpoints=endpoints,
            ledger=store.ledger,
            directory=store.directory,
            backlog=backlog,
            batches=Batches(store.engine),
            pools=self._pools,
            metrics=metrics,
            now_ms=store.engine.now_ms,
        )
        self._proxy.seating.denied = noting_denials(store)
        giving = giving_on(store.engine, store.directory, store.ledger, commons=lambda: self._settings.commons)
        self._interventions = self._proxy.interventions = Interventions(
            read_orders=partial(InterventionRecord(store.engine).orders, lambda by_operators: modes_in(self._settings, by_operators)),
            uses=store.standings,
            ledger=store.ledger,
            commons=self._commons,
            metrics=metrics,
            now_ms=store.engine.now_ms,
            in_background=self._proxy.seating.in_background,
        )
        desk = Desk(store.directory, store.ledger, store.journal, giving=giving)
        own_agents = OwnAgents(desk, giving.agents, lambda: self._settings.agents.max_per_person)
        own_loans = OwnLoans(desk, giving, lambda: self._settings.self_service.loan_days_max)
        self._proxy.own_pages = SelfService(
            store.directory,
            store.ledger,
            store.journal,
            admission=lambda: self._proxy.admission,
            slice_tokens=lambda: self._settings.ledger.slice_tokens,
            now_ms=store.engine.now_ms,
            giving=giving,
            places=EqualityFigures(store.equality, lambda: self._settings.equality).places,
            count_write=WriteRate(store.ledger, lambda: self._settings.self_service.writes_per_minute, metrics).count,
            calls=(*own_agents.calls, *own_loans.calls, *OwnInterventions(self._interventions).calls),
        ).handle
        self._listener = Listener(self._proxy.handle, settings.listen)
        self._server: asyncio.Server | None = None
        self._tithes_given_s = time.monotonic()

    async def _commons(self) -> Path | None:
        account = self._settings.commons.account
        return None if account is None else await self._store.directory.path(AccountId(account))

    async def listen(self, listening: socket.socket) -> None:
        """Answer from now on; the pools are told first how they are to be."""
        await self._proxy.seating.beat()
        self._server = await asyncio.get_running_loop().create_server(self._listener, sock=listening, backlog=BACKLOG)

    def hearing(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While this lasts, requests that wait for a seat hear at once that they have it."""
        return self._pools.listen(self._proxy.seating.seated)

    def configure(self, settings: Config, endpoints: list[Endpoint]) -> None:
        """Take over new settings; what runs goes on with the old."""
        self._settings = settings
        configure(self._store, settings)
        self._proxy.configure(settings, endpoints=endpoints)

    def jobs(self) -> tuple[Job, ...]:
        """What must be done again and again while it serves, and while it drains."""
        settler = self._proxy.settler
        return (
            Job("keeping time", PULSE_S, self._proxy.pulse),
            Job("telling the backlog", BACKLOG_S, self._proxy.tell_backlog),
            Job("keeping seats", BEAT_MS / 1000, self._proxy.seating.beat),
            Job("keeping batches", BATCHES_S, settler.keep_alive),
            Job("settling batches", BATCHES_S, settler.look),
            flushing(self._store),
            Job("following interventions", ORDERS_S, self._interventions.refresh),
            Job("giving tithes", TITHES_S, self._give_tithes),
        )

    async def _give_tithes(self) -> None:
        if time.monotonic() - self._tithes_given_s >= self._settings.intervention.tithe.interval_s:
            self._tithes_given_s = time.monotonic()
            await self._interventions.give_tithes()

    async def drain(self, *, timeout_s: float) -> None:
        """Accept no more, refuse what is new on open connections, let what runs finish in time, else cut it; settle everything."""
        assert self._server is not None
        self._server.close()
        await self._proxy.drain(timeout_s=timeout_s)
        with contextlib.suppress(Failure):
            await self._proxy.tell_backlog()
        self._listener.pre_shutdown()  # wakes what idles, which `shutdown` would wait for
        await self._listener.shutdown(CLOSE_DEADLINE_S)
        await self._proxy.finish()
        await self._interventions.give_tithes()  # raises nothing, so that what comes next is done in any case
        with contextlib.suppress(Failure):  # a recount finds what could not be told
            await self._store.equality.flush()
