"""`seats = "auto"` in front of an upstream that does not say how many requests it serves at a time: found, followed down, found again.

The upstream queues what it cannot serve at once, which makes its answers late, and says 429 to what its queue has no room for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import openai_answers as answers
from tests.support import scripted_upstream
from tests.support.deployment import serving
from tests.support.scarce_upstream import PRICE, Person, Town
from tests.support.scripted_upstream import Exchange, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICE_S = 0.1
PARALLEL = 30
PAUSE_S = 0.05
SETTLING, MEASURED = 60, 40
"""Answers for each request that the upstream serves at a time: so many pass in about the same number of its services, on any machine."""


class Modest:
    """An upstream that serves `capacity` requests at a time, lets twice as many wait, and refuses the rest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.served = self.refused = 0
        self.busy_s = self.crowd_s = 0.0
        """Requests times seconds: of those that it served, and of all that it had."""
        self._now = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._noted_s = time.monotonic()
        self._came = asyncio.Condition()

    async def play(self, exchange: Exchange) -> None:
        if self._now >= self.capacity and len(self._waiting) >= 2 * self.capacity:
            self.refused += 1
            await exchange.answer(answers.error("too many requests"), status=429)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.note()
        self._waiting.append(turn)
        self._next()
        await turn
        await asyncio.sleep(SERVICE_S)  # what it does in this time is nobody's concern
        self.note()
        self._now -= 1
        self.served += 1
        self._next()
        async with self._came:
            self._came.notify_all()
        await exchange.answer(answers.chat("ok", usage=answers.usage(1, 10)))

    def note(self) -> None:
        """Add up what it has had until now."""
        now_s = time.monotonic()
        self.busy_s += self._now * (now_s - self._noted_s)
        self.crowd_s += (self._now + len(self._waiting)) * (now_s - self._noted_s)
        self._noted_s = now_s

    async def has_served(self, more: int) -> None:
        """Wait until it has served so many more."""
        until = self.served + more
        async with self._came:
            await self._came.wait_for(lambda: self.served >= until)

    def _next(self) -> None:
        while self._waiting and self._now < self.capacity:
            self._now += 1
            self._waiting.popleft().set_result(None)


@pytest_asyncio.fixture(loop_scope="session")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as upstream:
        yield upstream


async def press(person: Person) -> None:
    """Ask again and again; after a refusal a moment later."""
    while True:
        if (await person.ask("auto")).status == 429:
            await asyncio.sleep(PAUSE_S)


CONFIGURATION = """
[[upstream]]
name = "auto"
models = ["auto"]
base_url = "{base_url}"
seats = "auto"
queue_depth_per_account = 1000
queue_timeout_s = 60
"""


@pytest.mark.long
async def test_an_upstreams_capacity_is_found_followed_and_found_again(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """From more seats than it can serve they come down to what keeps it busy without long queues; they follow when it can do less, and
    again when it can do more. Once they have, it is busy and refuses next to nothing. All is measured at the upstream, for what the proxy
    and the machine take is no queue of its."""
    modest = Modest(8)
    upstream.automatic = modest.play
    text = CONFIGURATION.format(base_url=upstream.base_url) + PRICE
    async with serving(tmp_path, text) as deployment, asyncio.TaskGroup() as crowd:
        town = Town(deployment)
        people = [await town.person(name) for name in ("ann", "bob", "cyd")]
        tasks = [crowd.create_task(press(people[number % 3])) for number in range(PARALLEL)]
        for capacity in (8, 3, 12):
            modest.capacity = capacity
            await modest.has_served(SETTLING * capacity)
            modest.note()
            began_s, busy_s, crowd_s = time.monotonic(), modest.busy_s, modest.crowd_s
            served, refused = modest.served, modest.refused
            await modest.has_served(MEASURED * capacity)
            modest.note()
            took_s = time.monotonic() - began_s
            served, refused = modest.served - served, modest.refused - refused
            busy, had = (modest.busy_s - busy_s) / took_s, (modest.crowd_s - crowd_s) / took_s
            figures = f"capacity {capacity}: busy {busy:.1f}, had {had:.1f} in the mean, served {served}, refused {refused}"
            assert busy >= 0.8 * capacity, figures
            # Answers that come twice as late as they can make fewer of them: up to twice its capacity, and what is added until that shows.
            assert had <= 2.5 * capacity, figures
            assert refused <= 0.05 * served, figures
        for task in tasks:
            task.cancel()
