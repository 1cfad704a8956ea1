"""`seats = "auto"` in front of an upstream that does not say how many requests it serves at a time: found, followed down, found again.

The upstream queues what it cannot serve at once, which makes its answers late, and says 429 to what its queue has no room for.
"""

from __future__ import annotations

import asyncio
import statistics
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
SAMPLE_S = 0.1
PAUSE_S = 0.05
SETTLING_S, MEASURED_S = 6.0, 4.0


class Modest:
    """An upstream that serves `capacity` requests at a time, lets twice as many wait, and refuses the rest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.served = self.refused = 0
        self._now = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def play(self, exchange: Exchange) -> None:
        if self._now >= self.capacity and len(self._waiting) >= 2 * self.capacity:
            self.refused += 1
            await exchange.answer(answers.error("too many requests"), status=429)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._next()
        await turn
        await asyncio.sleep(SERVICE_S)  # what it does in this time is nobody's concern
        self._now -= 1
        self.served += 1
        self._next()
        await exchange.answer(answers.chat("ok", usage=answers.usage(1, 10)))

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


async def seats_over(town: Town, seconds: float) -> list[int]:
    """The number of seats, sampled for so long."""
    ends_s = asyncio.get_running_loop().time() + seconds
    seen = []
    while asyncio.get_running_loop().time() < ends_s:
        seen.append((await town.pool("auto"))["seats"])
        await asyncio.sleep(SAMPLE_S)
    return seen


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
    again when it can do more. Once they have, it is busy and refuses next to nothing."""
    modest = Modest(8)
    upstream.automatic = modest.play
    text = CONFIGURATION.format(base_url=upstream.base_url) + PRICE
    async with serving(tmp_path, text) as deployment, asyncio.TaskGroup() as crowd:
        town = Town(deployment)
        people = [await town.person(name) for name in ("ann", "bob", "cyd")]
        tasks = [crowd.create_task(press(people[number % 3])) for number in range(PARALLEL)]
        for capacity in (8, 3, 12):
            modest.capacity = capacity
            await seats_over(town, SETTLING_S)
            served, refused = modest.served, modest.refused
            seats = await seats_over(town, MEASURED_S)
            served, refused = modest.served - served, modest.refused - refused
            # Answers that come twice as late as they can make fewer of them: up to twice its capacity, and what is added until that shows.
            assert statistics.mean(seats) <= 3 * capacity, seats
            assert served >= 0.8 * capacity * MEASURED_S / SERVICE_S
            assert refused <= 0.1 * served
        for task in tasks:
            task.cancel()
