"""A worker process: it serves what the parent says, takes orders, and drains at the end.

The orders come over the channel: what to serve, what has changed, when to drain. The end of the channel is the parent's death,
and a reason to drain, too. What is served stands in `proxy.app.service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable
from typing import Final

from proxy.app import books
from proxy.app.service import Service, Upstreams
from proxy.app.settings import Origin, parse
from proxy.config import Config
from proxy.errors import Failure, SetupError
from proxy.ledger import Store
from proxy.ledger.backlog import Backlog
from proxy.metrics import Metrics
from proxy.processes import logs
from proxy.processes.channel import Channel, ChannelClosed, Message
from proxy.processes.jobs import Job, beside, running
from proxy.processes.sockets import SharedPort, listen

try:  # here, so that it is loaded where workers are forked from
    from uvloop import new_event_loop
except ImportError:
    _new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
else:
    _new_loop = new_event_loop  # a quarter more requests a second

log = logging.getLogger(__name__)

REFRESH_S: Final = 0.25
COLLECTED_AFTER: Final = 10_000
"""How many objects more than before are made until cycles are looked for: what a request makes is gone without that."""
ORPHAN_DRAIN_S: Final = 5.0
"""How long what runs may go on after the parent was killed: another may be waiting to take its place."""


def run(channel_fd: int) -> int:
    """Serve what the parent says, until it says to end, or is gone; the exit code."""
    logs.set_up(verbose=False)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_work(socket.socket(fileno=channel_fd)))


async def _work(ours: socket.socket) -> int:
    channel = await Channel.over(ours)
    try:
        orders = await channel.receive()
        await Worker(channel, orders).live()
    except SetupError as error:
        with contextlib.suppress(ChannelClosed):
            await channel.send({"is": "failed", "reason": str(error)})
        return 1
    except ChannelClosed:
        return 0  # the parent was gone before there was anything to drain
    return 0


class Worker:
    """One worker's life."""

    def __init__(self, channel: Channel, orders: Message) -> None:
        self._channel = channel
        self._ledger_url = str(orders["ledger_url"])
        self._port = SharedPort(**orders["port"])
        self._settings = _settings(orders)
        self._metrics = Metrics()
        self._upstreams = Upstreams()
        self._store: Store | None = None
        self._service: Service | None = None
        self._drain_timeout_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        logs.set_up(verbose=bool(orders["verbose"]))

    async def live(self) -> None:
        """From start to exit. Raises SetupError where it cannot start, ChannelClosed where the parent dies meanwhile."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._end(self._settings.listen.drain_timeout_s))
        for number in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)  # the parent's to decide
        async with beside(self._take_orders()), contextlib.AsyncExitStack() as stack:
            service = await self._start(stack)
            gc.freeze()  # what is there now stays, so collections need not look at it again
            gc.set_threshold(COLLECTED_AFTER)
            await self._channel.send({"is": "ready"})
            await service.drain(timeout_s=await self._drain_timeout_s)
            with contextlib.suppress(ChannelClosed):
                await self._report(ticket=0)

    async def _start(self, stack: contextlib.AsyncExitStack) -> Service:
        section = self._settings.ledger
        self._store = store = await stack.enter_async_context(books.connected(section, url=self._ledger_url, metrics=self._metrics))
        books.configure(self._settings, store.directory, self._metrics)
        backlog = await stack.enter_async_context(Backlog(section.data_dir, observe=self._metrics.backlog_changed))
        stack.push_async_callback(self._upstreams.close)
        settings = self._settings
        endpoints = await self._upstreams.configure(settings.upstream)
        self._service = service = Service(settings, store, backlog, self._metrics, endpoints)
        if settings is not self._settings:  # they changed meanwhile
            await self._configure()
        await stack.enter_async_context(running(Job("following the ledger", REFRESH_S, self._refresh), *service.jobs()))
        await stack.enter_async_context(service.hearing())
        await service.listen(listen(self._port))
        return service

    async def _refresh(self) -> None:
        assert self._store is not None
        await books.follow(self._settings, self._store, self._metrics)

    def _end(self, drain_timeout_s: float) -> None:
        if not self._drain_timeout_s.done():
            self._drain_timeout_s.set_result(drain_timeout_s)

    # --- orders ----------------------------------------------------------------------------------------------------------------

    async def _take_orders(self) -> None:
        try:
            while True:
                await self._obey(await self._channel.receive())
        except ChannelClosed:
            if self._service is None:
                raise
            log.warning("the parent is gone; draining")
            self._end(min(ORPHAN_DRAIN_S, self._settings.listen.drain_timeout_s))

    async def _obey(self, order: Message) -> None:
        match order["do"]:
            case "report":
                await self._report(ticket=order["ticket"])
            case "configure":
                self._settings = _settings(order)
                await self._configure()
            case "drain" if self._service is None:
                raise ChannelClosed  # nothing to drain yet, nothing to wait for
            case "drain":
                self._end(self._settings.listen.drain_timeout_s)
            case unknown:
                raise AssertionError(f"the parent said {unknown!r}")

    async def _configure(self) -> None:
        if self._service is None or self._store is None:
            return  # `_start` will see it
        try:
            endpoints = await self._upstreams.configure(self._settings.upstream)
        except SetupError as error:  # the parent has checked it, but a secret may have gone meanwhile
            log.error("the configuration stays as it was: %s", error)
            return
        with contextlib.suppress(Failure):  # what the parent has kept of the levels' indices, before the rows that set them may go
            await self._refresh()
        books.configure(self._settings, self._store.directory, self._metrics)
        self._service.configure(self._settings, endpoints)

    async def _report(self, *, ticket: int) -> None:
        await self._channel.send({"is": "metrics", "ticket": ticket, "snapshot": self._metrics.snapshot()})


def _settings(order: Message) -> Config:
    return parse(Origin(**order["origin"]), name="the parent")
