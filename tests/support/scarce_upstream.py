"""Upstreams that serve only so many requests at a time, and a crowd of callers that want more than that.

`Scarce.play` is a scripted upstream's `automatic`: the model of a request says which room it goes to, and the room notes who was served,
in which order, and how many at a time. Requests ask for as many tokens as they want to cost, and nothing else costs anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import Exchange

CHAT = "/v1/chat/completions"
WHO = "X-Who"
TOKEN_NANOCREDITS = 1000
GOLDEN = 0.6180339887498949
"""The multiples of this, whole parts left out, are spread evenly."""
PRICE = '[[price]]\nmodel = "*"\ninput = "0"\noutput = "1"\n[[plan]]\nname = "everyone"\nlimits = []\n'


@dataclass(frozen=True, slots=True)
class Served:
    """A request that the upstream has begun to serve."""

    who: str
    tokens: int
    at_s: float


class Room:
    """One upstream, and the seats that it ought to have. With `own_seats` it makes requests wait itself, first come first served; by
    `spread` services are longer or shorter, in a sequence that is always the same."""

    def __init__(
        self, name: str, *, seats: int | None = None, service_s: float = 0.0, spread: float = 0.0, own_seats: int | None = None
    ) -> None:
        self.name = name
        self.seats = seats
        self.service_s = service_s
        self.spread = spread
        self.open = asyncio.Event()
        """Nobody's service ends before this is set."""
        self.open.set()
        self.served: list[Served] = []
        self.ended_s: list[float] = []
        self.now = 0
        self.most = 0
        self.crowded_s = 0.0
        """The longest time for which it served more than `seats` at once."""
        self._crowded_since_s: float | None = None
        self._own = asyncio.Semaphore(own_seats) if own_seats else contextlib.nullcontext()

    async def serve(self, exchange: Exchange) -> None:
        async with self._own:
            tokens = exchange.document["max_tokens"]
            service_s = self.service_s * (1 - self.spread + 2 * self.spread * (len(self.served) * GOLDEN % 1))
            self.served.append(Served(exchange.headers[WHO], tokens, time.monotonic()))
            try:
                self._count(1)
                await asyncio.sleep(service_s)  # what it does in this time is nobody's concern
                await self.open.wait()
            finally:
                self._count(-1)  # before the answer's last byte, after which another may come at once
                self.ended_s.append(time.monotonic())
            await exchange.answer(answers.chat("ok", usage=answers.usage(1, tokens)))

    def _count(self, step: int) -> None:
        self.now += step
        self.most = max(self.most, self.now)
        is_crowded = self.seats is not None and self.now > self.seats
        if is_crowded and self._crowded_since_s is None:
            self._crowded_since_s = time.monotonic()
        elif not is_crowded and self._crowded_since_s is not None:
            self.crowded_s = max(self.crowded_s, time.monotonic() - self._crowded_since_s)
            self._crowded_since_s = None

    def tokens(self, first: int = 0, last: int | None = None) -> Counter[str]:
        """What each was served, of the requests from one to another."""
        total: Counter[str] = Counter()
        for served in self.served[first:last]:
            total[served.who] += served.tokens
        return total


class Scarce:
    """All rooms, by name."""

    def __init__(self, *rooms: Room) -> None:
        self.rooms = {room.name: room for room in rooms}

    async def play(self, exchange: Exchange) -> None:
        await self.rooms[exchange.document["model"]].serve(exchange)


@dataclass(frozen=True, slots=True)
class Answered:
    """How one request went."""

    status: int
    queued_s: float
    took_s: float


class Person:
    """A caller, known at every proxy, who asks each in turn."""

    def __init__(self, name: str, callers: Sequence[Caller]) -> None:
        self.name = name
        self._callers = callers
        self._asked = 0

    async def ask(self, room: str, *, tokens: int = 10) -> Answered:
        began_s = time.monotonic()
        self._asked += 1
        caller = self._callers[self._asked % len(self._callers)]
        body = {"model": room, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
        headers = {"Authorization": f"Bearer {caller.key}", WHO: self.name}
        async with caller.post(CHAT, body, headers) as answer:
            await answer.read()
            queued_s = int(answer.headers.get("X-Ledger-Queue-Ms", 0)) / 1000
            return Answered(answer.status, queued_s, time.monotonic() - began_s)

    @contextlib.asynccontextmanager
    async def pressing(self, room: str, parallel: int, *, tokens: int = 10) -> AsyncIterator[None]:
        """So many requests at a time, one after another, for as long as the context lasts."""

        async def press() -> None:
            while True:
                assert (await self.ask(room, tokens=tokens)).status == 200

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(press()) for _ in range(parallel)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()


class Town:
    """Proxies on one ledger."""

    def __init__(self, *deployments: Deployment) -> None:
        self.deployments = deployments

    async def person(self, name: str, **members: Any) -> Person:
        """A new account with a key; `name` is its id."""
        first = await self.deployments[0].open_account(id=name, **members)
        return Person(name, [Caller(deployment, first.id, first.key_id, first.key) for deployment in self.deployments])

    async def pool(self, name: str) -> Any:
        return await self.deployments[-1].admin("GET", f"pools/{name}")
