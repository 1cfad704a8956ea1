"""The parent process, put together: ledger, seeds, workers, admin listener, periodic jobs, reload, drain.

`run` and `_start` read top to bottom; each resource is a context with one owner, and they end in the reverse order. What a
worker is made of stands in `proxy.app.worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy import __version__
from proxy.app import books
from proxy.app.auditing import AuditWatch
from proxy.app.controller import Controller
from proxy.app.equality import EqualityWatch
from proxy.app.settings import Settings, Source, needing_restart
from proxy.app.use import ParentsUse
from proxy.config import Config, LedgerSection
from proxy.errors import Failure, LedgerUnavailable, SetupError
from proxy.ledger import Store
from proxy.ledger.embedded import EmbeddedLedger
from proxy.ledger.giving import giving_on
from proxy.ledger.pools import Pools
from proxy.metrics import Fleet, Metrics, render
from proxy.processes.channel import Message
from proxy.processes.jobs import Job, running
from proxy.processes.nursery import Nursery
from proxy.processes.signals import Signals
from proxy.processes.sockets import SharedPort, join_address, reserve, split_address
from proxy.processes.workers import Workers
from proxy.server.admin import AdminListener, Tokens, configured_tokens, token_of
from proxy.server.equality import EqualityFigures
from proxy.server.pools import UpstreamPools

log = logging.getLogger(__name__)

REFRESH_S: Final = 0.25
EXPIRE_S: Final = 1.0
LOANS_S: Final = 1.0
COLLECT_S: Final = 1.0
DIVIDENDS_S: Final = 0.2
INTERVENE_S: Final = 0.25
"""How soon after its time a look is taken."""
REPORT_S: Final = 1.0
WATCH_S: Final = 0.5
KEEP_S: Final = 10.0
"""How soon after a row takes effect the index that it sets is kept, whatever becomes of the row."""
TRIM_S: Final = 3600.0
DAY_MS: Final = 86_400_000
SCRAPE_DEADLINE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is to say once everything is up."""

    proxy_url: str
    admin_url: str
    store: Store
    config: Config


OnReady = Callable[[Ready], Awaitable[None]]


async def run(source: Source, nursery: Nursery, *, on_ready: OnReady, verbose: bool = False) -> int:
    """The proxy, from its first breath to its last; the exit code. Raises SetupError, LedgerUnavailable.

    SIGTERM or SIGINT drains: what runs may finish within the configured time, and everything is settled. A second one ends it at once.
    """
    signals = Signals()
    with signals.handled():
        try:
            async with contextlib.AsyncExitStack() as stack:
                with signals.interrupting():
                    parent, ready = await _start(stack, source, nursery, signals, verbose=verbose)
                    await on_ready(ready)
                return await parent.until_stopped()
        except asyncio.CancelledError:
            if signals.stop.is_set():
                return 0
            raise


async def _start(
    stack: contextlib.AsyncExitStack, source: Source, nursery: Nursery, signals: Signals, *, verbose: bool
) -> tuple[Parent, Ready]:
    settings = source.read()
    listen, ledger = settings.config.listen, settings.config.ledger
    metrics = Metrics()
    port = stack.enter_context(reserve(listen.proxy))
    url, lifeline_fds, is_new = await stack.enter_async_context(_ledger_server(ledger, metrics))
    store = await stack.enter_async_context(books.connected(ledger, url=url, metrics=metrics))
    if problems := await store.check():
        raise SetupError("\n".join(problems))
    books.configure(settings.config, store.directory, metrics)
    await books.seed(settings.config, store)
    await Pools(store.engine).learn_age(is_first=is_new)

    parent = Parent(source, settings, store, metrics, signals, nursery, port=port, ledger_url=url, verbose=verbose)
    stack.push_async_callback(parent.equality.figures.close)
    admin = AdminListener(
        directory=store.directory,
        ledger=store.ledger,
        journal=store.journal,
        pools=parent.pools,
        equality=parent.equality.figures,
        giving=parent.giving,
        interventions=parent.controller,
        tokens=_tokens(settings.config),
        readiness=parent.readiness,
        metrics=parent.scrape,
        version=__version__,
    )
    try:
        admin_host, admin_port = await stack.enter_async_context(admin.serve(*split_address(listen.admin)))
    except OSError as error:
        raise SetupError(f"cannot listen on {listen.admin}: {os.strerror(error.errno or 0)}") from error
    inherited_fds = (*lifeline_fds, *(() if port.inherited_fd is None else (port.inherited_fd,)))
    await stack.enter_async_context(parent.workers.running(listen.workers, inherited_fds=inherited_fds))
    await stack.enter_async_context(running(*parent.jobs()))
    return parent, Ready(
        proxy_url=f"http://{join_address(port.host, port.port)}",
        admin_url=f"http://{join_address(admin_host, admin_port)}",
        store=store,
        config=settings.config,
    )


class Parent:
    """What the parent does once it is put together."""

    def __init__(
        self,
        source: Source,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        signals: Signals,
        nursery: Nursery,
        *,
        port: SharedPort,
        ledger_url: str,
        verbose: bool,
    ) -> None:
        self._source = source
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._signals = signals
        self._port = port
        self._ledger_url = ledger_url
        self._verbose = verbose
        self._fleet = Fleet(metrics)
        self._audit = AuditWatch(store, metrics, lambda: self._settings.config.ledger)
        self._reload_again = False
        self.giving = giving_on(store.engine, store.directory, store.ledger, commons=lambda: self._settings.config.commons)
        self.pools = UpstreamPools(Pools(store.engine), lambda: self._settings.config.upstream)
        self._use = ParentsUse(store, self.pools, lambda: self._settings.config)
        figures = EqualityFigures(store.equality, lambda: self._settings.config.equality, self._use.recounter.run)
        self.equality = EqualityWatch(figures, metrics, lambda: [plan.name for plan in self._settings.config.plan])
        self.controller = Controller(
            store,
            uses=store.equality,
            pools=self.pools,
            giving=self.giving,
            metrics=metrics,
            settings=lambda: self._settings.config,
        )
        self.workers = Workers(nursery, orders=self._orders, fleet=self._fleet, metrics=metrics)
        metrics.version_is(__version__)
        metrics.config_reloaded(successful=True)

    def _orders(self) -> Message:
        """What a new worker is told first."""
        how = {"ledger_url": self._ledger_url, "port": dataclasses.asdict(self._port), "verbose": self._verbose}
        return {"do": "start", "origin": dataclasses.asdict(self._settings.origin), **how}

    async def until_stopped(self) -> int:
        """Wait until asked to stop, then drain; the exit code."""
        await self._signals.stop.wait()
        drain_timeout_s = self._settings.config.listen.drain_timeout_s
        log.info("draining: what runs may take up to %.0f s", drain_timeout_s)
        drain = asyncio.ensure_future(self.workers.drain(deadline_s=drain_timeout_s))
        at_once = asyncio.ensure_future(self._signals.stop_now.wait())
        await asyncio.wait((drain, at_once), return_when=asyncio.FIRST_COMPLETED)
        hurried = not drain.done()
        if hurried:
            log.warning("stopping at once; what runs is charged as last recorded when its holds expire")
            self.workers.kill()
        at_once.cancel()
        await drain
        with contextlib.suppress(Failure):  # what it has counted itself
            await self._store.equality.flush()
        return 1 if hurried else 0

    # --- periodic jobs ---------------------------------------------------------------------------------------------------------

    def jobs(self) -> tuple[Job, ...]:
        return (
            Job("following the ledger", REFRESH_S, self._refresh),
            Job("expiring holds", EXPIRE_S, self._expire),
            Job("looking after loans", LOANS_S, self.giving.loans.look),
            Job("handing out dividends", DIVIDENDS_S, self.giving.dividends.step),
            Job("collecting what expired", COLLECT_S, self.giving.collecting.visit),
            Job("keeping the levels' indices", KEEP_S, self._store.directory.keep_levels),
            self._audit.job,
            Job("trimming journals", TRIM_S, self._trim),
            Job("asking the workers", REPORT_S, lambda: self.workers.report(deadline_s=REPORT_S)),
            Job("watching the configuration", WATCH_S, self._reload_if_asked),
            *self._use.jobs(),
            self.equality.job,
            Job("deciding on interventions", INTERVENE_S, self.controller.tick),
        )

    async def _refresh(self) -> None:
        await books.follow(self._settings.config, self._store, self._metrics)

    async def _expire(self) -> None:
        if count := await self._store.ledger.expire_due():
            self._metrics.holds_expired(count)
            self._metrics.credits_moved("debited", self._store.ledger.take_expired_charges())
            log.warning("%d holds expired; they are charged as last recorded", count)

    async def _trim(self) -> None:
        if days := self._settings.config.ledger.journal_days:
            before_ms = self._store.engine.now_ms() - days * DAY_MS
            if count := await self._store.trimmer.trim(before_ms=before_ms, slack_ms=DAY_MS):
                log.info("%d journal entries of more than %d days ago were folded into checkpoints", count, days)

    async def _reload_if_asked(self) -> None:
        if self._signals.reload.is_set() or self._source.has_changed() or self._reload_again:
            self._signals.reload.clear()
            await self._reload()

    async def _reload(self) -> None:
        """Take over the whole of the file, or nothing of it."""
        self._reload_again = True  # should the ledger fail in between
        try:
            settings = self._source.read()
            if lines := needing_restart(self._settings.config, settings.config):
                raise SetupError("\n".join(lines))
            await books.seed(settings.config, self._store)
            await self._store.directory.keep_levels()  # by the rows as they were: the file may have lost one that set an index
        except SetupError as error:
            for line in str(error).splitlines():
                log.error("the configuration stays as it was: %s", line)
            self._metrics.config_reloaded(successful=False)
        else:
            self._settings = settings
            books.configure(settings.config, self._store.directory, self._metrics)
            await self.workers.tell({"do": "configure", "origin": dataclasses.asdict(settings.origin)})
            self._metrics.config_reloaded(successful=True)
            log.info("the configuration was read again and is in force")
        self._reload_again = False

    # --- what the admin listener asks ------------------------------------------------------------------------------------------

    async def readiness(self) -> list[str]:
        """Why the proxy cannot serve now; empty where it can."""
        reasons = []
        if self._signals.stop.is_set():
            reasons.append("the proxy is draining")
        elif not self.workers.count:
            reasons.append("no worker is ready")
        try:
            reasons += await self._store.check()
        except LedgerUnavailable as failure:
            reasons.append(failure.message)
        return reasons

    async def scrape(self) -> tuple[bytes, str]:
        """The metrics of all processes, and their content type."""
        await asyncio.gather(self.workers.report(deadline_s=SCRAPE_DEADLINE_S), self._look_at_pools())
        self.equality.tell_age()
        self._audit.tell_age()
        return await asyncio.to_thread(render, self._fleet.snapshots())  # thousands of series take a while to write

    async def _look_at_pools(self) -> None:
        """Take how the pools stand; while the ledger is away nobody can say."""
        try:
            states = await self.pools.all()
        except LedgerUnavailable:
            states = []
        self._metrics.pools_are(states)


@contextlib.asynccontextmanager
async def _ledger_server(section: LedgerSection, metrics: Metrics) -> AsyncIterator[tuple[str, tuple[int, ...], bool]]:
    """The ledger server's URL, ours for as long as the context lasts where it is embedded; what keeps it alive; whether it is ours and
    began without data."""
    if section.url != "embedded":
        yield section.url, (), False
        return
    async with EmbeddedLedger(section.data_dir, on_restart=metrics.ledger_restarted) as server:
        yield server.url, (server.lifeline_fd,), server.is_new


def has_configured_token(settings: Config) -> bool:
    """Whether the configuration names an admin token; else the proxy makes one for itself."""
    return bool(settings.admin.token_env or settings.admin.token_file or settings.admin.tokens)


def admin_token_file(data_dir: Path) -> Path:
    """Where the admin token is that the proxy made for itself."""
    return data_dir.absolute() / "admin-token"


def _tokens(settings: Config) -> Tokens:
    if has_configured_token(settings):
        return Tokens(configured_tokens(settings.admin))
    return Tokens((token_of("admin", "owner", _own_admin_token(settings.ledger.data_dir)),))


def _own_admin_token(data_dir: Path) -> str:
    file = admin_token_file(data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            fresh = file.with_name(f"{file.name}.{os.getpid()}")  # whole before it has its name, so that nobody reads half a token
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as created:
                created.write(secrets.token_urlsafe(32) + "\n")
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(fresh)
            fresh.unlink()
        return file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SetupError(f"cannot keep the admin token in {file}: {error.strerror}") from error
