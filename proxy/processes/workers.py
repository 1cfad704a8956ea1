"""The worker processes, seen from the parent: started, watched, replaced when they die, asked, drained.

Owns their sockets and exit. A worker is forked by the nursery and has one end of a channel; it is in a session of its own, so that
Ctrl-C in a terminal reaches the parent alone, which then drains. Must not know what workers do with what they are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from proxy.errors import SetupError
from proxy.metrics import Fleet, Metrics
from proxy.processes.channel import Channel, ChannelClosed, Message
from proxy.processes.jobs import beside
from proxy.processes.nursery import Child, NoBirth, Nursery

log = logging.getLogger(__name__)

START_DEADLINE_S: Final = 120.0
PAUSE_FIRST_S: Final = 0.1
PAUSE_LAST_S: Final = 5.0
SOUND_LIFE_S: Final = 60.0
TELL_DEADLINE_S: Final = 5.0
EXIT_DEADLINE_S: Final = 15.0
"""How long a worker may take to end beyond the time that it was given to drain."""


class Worker:
    """One worker process, alive or ended."""

    def __init__(self, name: str, process: Child, channel: Channel) -> None:
        self.name = name
        self.process = process
        self.ready = asyncio.Event()
        self.reason: str | None = None
        """Why it could not start, in its own words."""
        self.ended = asyncio.Event()
        self._channel = channel
        self._tickets = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}

    @classmethod
    async def start(cls, name: str, nursery: Nursery, *, inherited_fds: Sequence[int]) -> Worker:
        """Raises NoBirth."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await nursery.bear((theirs.fileno(), *inherited_fds))
            except BaseException:
                ours.close()
                raise
        return cls(name, process, await Channel.over(ours))

    async def tell(self, message: Message) -> None:
        """Say something; nothing where the worker has ended, or does not listen."""
        with contextlib.suppress(ChannelClosed, TimeoutError):
            async with asyncio.timeout(TELL_DEADLINE_S):
                await self._channel.send(message)

    async def listen(self, fleet: Fleet) -> None:
        """Take what the worker says until it ends."""
        try:
            while True:
                message = await self._channel.receive()
                match message.pop("is"):
                    case "ready":
                        self.ready.set()
                    case "failed":
                        self.reason = str(message["reason"])
                    case "metrics":
                        fleet.reported(self.name, message["snapshot"])
                        if answer := self._asked.pop(message["ticket"], None):
                            answer.set_result(None)
                    case unknown:
                        raise AssertionError(f"a worker said {unknown!r}")
        except ChannelClosed:
            await self.process.told.wait()
            self.ended.set()
        finally:
            for answer in self._asked.values():
                answer.cancel()
            await self._channel.close()

    async def report(self, *, deadline_s: float) -> None:
        """Have the fleet know the worker's numbers of now; those of before remain where it does not answer in time."""
        ticket = next(self._tickets)
        answer = self._asked[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(deadline_s):
                await self.tell({"do": "report", "ticket": ticket})
                await asyncio.wait([answer])
        except TimeoutError:
            pass
        finally:
            self._asked.pop(ticket, None)

    def kill(self) -> None:
        if not self.ended.is_set():
            self.process.kill()


class Workers:
    """As many workers as were asked for, for as long as they are not drained."""

    def __init__(self, nursery: Nursery, *, orders: Callable[[], Message], fleet: Fleet, metrics: Metrics) -> None:
        """`orders` gives a new worker's first message."""
        self._nursery = nursery
        self._orders = orders
        self._inherited_fds: Sequence[int] = ()
        self._fleet = fleet
        self._metrics = metrics
        self._living: dict[int, Worker] = {}
        self._draining = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, count: int, *, inherited_fds: Sequence[int]) -> AsyncIterator[None]:
        """The workers run as long as the context lasts, and all are ready when it begins; `inherited_fds` stay open in each.

        Raises SetupError with a worker's own words where one cannot start.
        """
        self._inherited_fds = inherited_fds
        first: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(count)]
        try:
            async with beside(*(self._keep(number, started) for number, started in enumerate(first, start=1))):
                try:
                    await asyncio.gather(*first)
                    yield
                finally:
                    self._draining.set()
                    for started in first:
                        started.cancel()
        finally:
            self._nursery.close()

    @property
    def count(self) -> int:
        """How many are ready."""
        return sum(worker.ready.is_set() for worker in self._living.values())

    async def tell(self, message: Message) -> None:
        """Say something to every living worker."""
        await asyncio.gather(*(worker.tell(message) for worker in self._living.values()))

    async def report(self, *, deadline_s: float) -> None:
        """Have the fleet know every worker's numbers of now, as far as they answer in time."""
        await asyncio.gather(*(w.report(deadline_s=deadline_s) for w in self._living.values() if w.ready.is_set()))
        self._metrics.workers_are(self.count)

    async def drain(self, *, deadline_s: float) -> None:
        """Have every worker finish what runs, and end; one that has not ended by then is killed, and its holds expire."""
        self._draining.set()
        await self.tell({"do": "drain"})
        ends = [asyncio.ensure_future(worker.ended.wait()) for worker in self._living.values()]
        if ends:
            await asyncio.wait(ends, timeout=deadline_s + EXIT_DEADLINE_S)
        for worker in self._living.values():
            if not worker.ended.is_set():
                log.error("worker %s did not end in time; killing it, its holds will expire", worker.name)
                worker.kill()
        if ends:
            await asyncio.wait(ends)

    def kill(self) -> None:
        """End every worker at once; what they held expires."""
        self._draining.set()
        for worker in self._living.values():
            worker.kill()

    async def _keep(self, number: int, first: asyncio.Future[None]) -> None:
        """Keep one worker alive: start it, and start another when it dies, with growing pauses where they die young."""
        pause_s = PAUSE_FIRST_S
        for life in itertools.count(1):
            began = time.monotonic()
            try:
                worker = await self._live(f"{number}.{life}", number, first)
            except NoBirth as error:
                reason: str | None = str(error)
                end = "could not be started"
            else:
                reason = worker.reason
                end = f"ended (status {'unknown' if worker.process.status is None else worker.process.status})"
            if self._draining.is_set():
                return
            if not first.done():
                first.set_exception(SetupError(reason or f"worker {number} {end}"))
                return
            log.error("worker %s.%d %s%s; starting another", number, life, end, f": {reason}" if reason else "")
            self._metrics.worker_restarted()
            pause_s = PAUSE_FIRST_S if time.monotonic() - began > SOUND_LIFE_S else min(PAUSE_LAST_S, pause_s * 2)
            await asyncio.sleep(pause_s)
            if self._draining.is_set():
                return

    async def _live(self, name: str, number: int, first: asyncio.Future[None]) -> Worker:
        """One worker's life, from start to exit. Raises NoBirth."""
        if self._nursery.is_gone:
            self._nursery = Nursery.started()
        worker = await Worker.start(name, self._nursery, inherited_fds=self._inherited_fds)
        self._living[number] = worker
        try:
            await worker.tell(self._orders())
            async with beside(self._watch_start(worker, first)):
                await worker.listen(self._fleet)
        finally:
            if not worker.ended.is_set():
                worker.kill()
                await asyncio.shield(worker.process.told.wait())
                worker.ended.set()
            del self._living[number]
            self._fleet.ended(worker.name)
            self._metrics.workers_are(self.count)
        return worker

    async def _watch_start(self, worker: Worker, first: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await worker.ready.wait()
        except TimeoutError:
            worker.reason = f"it was not ready within {START_DEADLINE_S:.0f} s"
            worker.kill()
            return
        self._metrics.workers_are(self.count)
        if not first.done():
            first.set_result(None)
