"""The seats of pools, shared by all workers: leases on the ledger server, given to those who were served least.

Pick, charge and seat are one atomic script per pool (`lua/pool_*.lua`, the rule of `policy/fair_share.py`), so replicas agree exactly.
What a worker has entered it keeps until it leaves, so that its heartbeat can take its seats back after the server has lost them. Knows
nothing of holds, nor of what a seat is for.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy.domain import Adapted, Beats, Path, Place, PoolState
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys
from proxy.ledger.engine import Call, Engine
from proxy.ledger.listening import listening
from proxy.policy.adaptive_seats import Move

LEASE_MS: Final = 10_000
"""How long a seat stays taken, and a ticket waits, unless it is heard of again."""
BEAT_MS: Final = 1_000
"""How often a worker beats: a message or nine beats may be lost, and nothing is."""
LEARNING_MS: Final = BEAT_MS * 5 // 4
"""How long a pool that the server may have lost gives no seat: until every worker has beaten, and was answered."""
TICKETS_PER_CALL: Final = 500
PRIORITY_MAX: Final = 499


class QueueFull(Refusal):
    """The account has as many waiting tickets as it may; `lag_nanocredits`: what others will be served before it is its turn."""

    def __init__(self, pool: str, *, waiting: int, lag_nanocredits: int) -> None:
        super().__init__("queue_full", f"{waiting} requests of this account wait for the pool {pool!r} already")
        self.lag_nanocredits = lag_nanocredits


@dataclass(slots=True)
class _Ticket:
    """A ticket of this worker, from its enter to its leave: what it takes to enter it again."""

    path: Path
    weights: tuple[int, int]
    estimate_nanocredits: int
    seats: int
    depth: int
    priority: int
    spare: bool
    seated: bool = False
    spent_nanocredits: int = 0


class Pools:
    """One worker's way to the pools. Every call may be repeated; all raise LedgerUnavailable."""

    def __init__(self, engine: Engine, *, lease_ms: int = LEASE_MS, learning_ms: int = LEARNING_MS) -> None:
        self._engine = engine
        self._lease_ms = lease_ms
        self._learning_ms = learning_ms
        self._channel = keys.seats_of_worker(secrets.token_hex(8))
        self._calls: dict[str, Call] = {}
        self._memory_nanocredits: dict[str, int] = {}
        """As this worker set it, for a pool that the server has lost."""
        self._seen: set[str] = set()
        """Pools that the server has known: one that it knows no more is lost. Bounded by the configuration."""
        self._since_ms: int | None = None
        """Since when the server has lost nothing; None where that is not known."""
        self._tickets: dict[tuple[str, str], _Ticket] = {}
        self.subscribed = asyncio.Event()
        """Whether messages arrive at present."""

    async def enter(
        self,
        pool: str,
        ticket: str,
        *,
        path: Path,
        weights: Sequence[int],
        estimate_nanocredits: int,
        seats: int,
        depth: int,
        priority: int = 0,
        spare: bool = False,
    ) -> Place:
        """Ask for a seat. Whoever enters must leave, whatever comes of it, but for a refusal.

        `weights`: of the path's root and of its account. `seats`: of a pool that the server does not know. `depth`: how many tickets of
        the account may wait. `priority`: the higher go first among the account's own. `spare`: takes what nobody with a budget wants.

        Raises QueueFull; Refusal: draining; Conflict where the ticket has ended before; LedgerUnavailable.
        """
        entered = _Ticket(path, (weights[0], weights[-1]), estimate_nanocredits, seats, depth, priority, spare)
        known = self._tickets.setdefault((pool, ticket), entered)
        try:
            reply = await self._enter(pool, ticket, known)
        except Refusal:
            self._tickets.pop((pool, ticket), None)
            raise
        # The message of its hand-over may have overtaken the answer that it waits.
        return Place(True) if known.seated else Place(False, reply[2], reply[3])

    async def charge(self, pool: str, ticket: str, *, spent_nanocredits: int) -> bool:
        """Say what a request has cost so far, in all; whether it may go on.

        It may not where it is spare and somebody with a budget waits, nor where its lease has run out: then nothing holds its seat until
        the next beat takes it back.
        """
        known = self._tickets.get((pool, ticket))
        if known is not None:
            known.spent_nanocredits = max(known.spent_nanocredits, spent_nanocredits)
        reply = await self._run(pool, "pool_charge", ticket, spent_nanocredits, *_account(known))
        return reply[0] in ("SEATED", "WAITING")

    async def leave(self, pool: str, ticket: str, *, spent_nanocredits: int | None) -> None:
        """End a ticket, waiting or seated; its seat goes to the next. None: nothing was sent, so nothing is owed."""
        known = self._tickets.pop((pool, ticket), None)
        await self._run(pool, "pool_leave", ticket, spent_nanocredits or 0, *_account(known))

    async def learn_age(self, *, is_first: bool = False) -> None:
        """Learn since when the server has kept what it has; who finds no mark makes one. To be called again and again.

        A pool that is not there on a server that has lost nothing for a while was never there, and nobody has a seat of it. `is_first`:
        nobody can have used this server before.
        """
        made_ms = 0 if is_first else self._engine.now_ms()
        _, mark = await self._engine.commands(("SET", keys.SINCE, made_ms, "NX"), ("GET", keys.SINCE))
        self._since_ms = None if mark is None else int(mark)

    async def number_among_workers(self) -> tuple[int, int]:
        """Which of the workers that listen this one is, from 0, and how many there are."""
        channels = sorted(await self._engine.command("PUBSUB", "CHANNELS", keys.seats_of_worker("*")))
        own = self._channel.encode()
        return (channels.index(own), len(channels)) if own in channels else (len(channels), len(channels) + 1)

    def took(self, pool: str, ticket: str) -> None:
        """A ticket that entered has a seat that the server does not know of: the next beat that it answers says so."""
        known = self._tickets.get((pool, ticket))
        if known is not None:
            known.seated = True

    def _learning_left_ms(self, pool: str) -> int:
        """How long the pool gives no seat if the server does not know it."""
        if pool in self._seen or self._since_ms is None:
            return self._learning_ms
        return max(0, min(self._learning_ms, self._since_ms + self._learning_ms - self._engine.now_ms()))

    async def beat(self, tickets: Mapping[str, Sequence[str]]) -> Beats:
        """Renew the leases of this worker's tickets, by pool, and hear where they are. What the server has lost is entered again.

        Also of a pool in which it has none: so that whatever is due there is done.
        """
        seated: dict[str, tuple[str, ...]] = {}
        yielding: dict[str, tuple[str, ...]] = {}
        unknown: dict[str, tuple[str, ...]] = {}
        standings = await asyncio.gather(*(self._beat(pool, names) for pool, names in tickets.items()))
        for pool, standing in zip(tickets, standings, strict=True):
            seated[pool] = tuple(name for name, letter in standing.items() if letter in "SY")
            yielding[pool] = tuple(name for name, letter in standing.items() if letter == "Y")
            unknown[pool] = tuple(name for name, letter in standing.items() if letter == "G")
        return Beats(seated, yielding, unknown)

    async def states(self, pools: Sequence[str]) -> list[PoolState]:
        """How pools stand, in the order asked; zeros for one that the server does not know."""
        replies = await asyncio.gather(*(self._run(pool, "pool_state") for pool in pools))
        return [_state(pool, reply) for pool, reply in zip(pools, replies, strict=True)]

    async def configure(
        self, pool: str, *, seats: int | None = None, memory_nanocredits: int | None = None, draining: bool | None = None
    ) -> bool:
        """Set a pool up, or change what is not None; False for one that the server does not know and that is given no seats.

        Nobody loses a seat that he has; a draining pool gives none and lets nobody enter.
        """
        if memory_nanocredits is not None:
            self._memory_nanocredits[pool] = memory_nanocredits
        values = ("" if value is None else int(value) for value in (seats, memory_nanocredits, draining))
        reply = await self._run(pool, "pool_configure", *values, self._learning_left_ms(pool))
        is_known = bool(reply[0] == "OK")
        if is_known:
            self._seen.add(pool)
        return is_known

    async def adapt(self, pool: str, move: Move, *, least: int, most: int) -> Adapted | None:
        """Move the number of seats between two bounds; what it is then. None for a pool that the server does not know.

        Several workers that hear the same no cut it once. The move's times are this process's `time.monotonic`.
        """
        age_ms = math.ceil((time.monotonic() - move.sent_s) * 1000)
        sent_ms = max(0, self._engine.now_ms() - age_ms)
        values = (move.answers, move.percent, int(move.is_no), move.back_to, least, most, sent_ms)
        status, now_ms, *found = await self._run(pool, "pool_adapt", *values)
        if status != "OK":
            return None
        seats, cut_ms = found
        return Adapted(seats, time.monotonic() - (now_ms - cut_ms) / 1000)

    def listen(self, on_seated: Callable[[str, str], None]) -> AbstractAsyncContextManager[None]:
        """Hear at once of this worker's tickets that were seated, by pool and ticket, for as long as the context lasts.

        What is lost while the connection is, the next beat tells.
        """

        def hear(message: bytes) -> None:
            pool, _, ticket = message.decode().partition(" ")
            known = self._tickets.get((pool, ticket))
            if known is not None and not known.seated:
                known.seated = True
                on_seated(pool, ticket)

        return listening(self._engine.connect, self._channel, hear, self.subscribed)

    # --- carrying out ------------------------------------------------------------------------------------------------------------

    async def _run(self, pool: str, verb: str, *values: str | int) -> list[Any]:
        call = self._calls.get(pool)
        if call is None:
            behind = [keys.of_pool(pool, name) for name in ("order", "leases", "ended")]
            call = self._calls[pool] = Call.on(behind, str(self._lease_ms).encode())
        return await self._engine.run(verb, keys.of_pool(pool, "records"), call, values)

    async def _enter(self, pool: str, name: str, ticket: _Ticket) -> list[Any]:
        """Ask for a ticket's seat; or, where it had one, say that it has it still, for its request runs, whatever the server knows."""
        reply = await self._run(
            pool,
            "pool_enter",
            name,
            *_account(ticket),
            *ticket.weights,
            ticket.estimate_nanocredits,
            max(-PRIORITY_MAX, min(PRIORITY_MAX, ticket.priority)),
            self._channel,
            ticket.seats,
            self._learning_left_ms(pool),
            ticket.depth,
            ticket.spent_nanocredits if ticket.seated else "",
            self._memory_nanocredits.get(pool, 0),
        )
        self._seen.add(pool)
        match reply[0]:
            case "FULL":
                raise QueueFull(pool, waiting=reply[2], lag_nanocredits=reply[3])
            case "DRAINING":
                raise Refusal("draining", f"the pool {pool!r} is being drained")
            case "GONE":
                raise Conflict(f"the ticket {name!r} has ended before")
            case "SEATED" | "YIELDING":
                ticket.seated = True
        return reply

    async def _beat(self, pool: str, names: Sequence[str]) -> dict[str, str]:
        """A letter for each ticket: S seated, Y told to stop, W waits, G unknown."""
        chunks = [names[first : first + TICKETS_PER_CALL] for first in range(0, len(names), TICKETS_PER_CALL)] or [()]
        letters = await asyncio.gather(*(self._beat_until_done(pool, chunk) for chunk in chunks))
        standing = dict(zip(names, "".join(letters), strict=True))
        lost = [name for name, letter in standing.items() if self._is_lost(pool, name, letter)]
        standing.update(zip(lost, await asyncio.gather(*(self._enter_again(pool, name) for name in lost)), strict=True))
        for name, letter in standing.items():
            known = self._tickets.get((pool, name))
            if known is not None and letter in "SY":
                known.seated = True
        return standing

    async def _beat_until_done(self, pool: str, names: Sequence[str]) -> str:
        """The letters of some tickets, once nothing is due any more: each call drops a bounded part of what is overdue."""
        while True:
            reply = await self._run(pool, "pool_beat", *names)
            if reply[0] == "OK":
                self._seen.add(pool)
            if not reply[3]:
                letters: str = reply[2].decode()
                return letters

    def _is_lost(self, pool: str, name: str, letter: str) -> bool:
        """Whether the server knows less of a ticket than this worker: nothing at all, or that it waits while its request runs."""
        known = self._tickets.get((pool, name))
        return known is not None and (letter == "G" or (letter == "W" and known.seated))

    async def _enter_again(self, pool: str, name: str) -> Literal["S", "Y", "W", "G"]:
        """A ticket that the server has lost."""
        ticket = self._tickets[pool, name]
        try:
            reply = await self._enter(pool, name, ticket)
        except Refusal:
            return "G"
        letters: Mapping[str, Literal["S", "Y", "W"]] = {"SEATED": "S", "YIELDING": "Y", "WAITING": "W"}
        return letters[reply[0]]


def _account(ticket: _Ticket | None) -> tuple[str, str, str]:
    """Whose a ticket is: its class, root and account."""
    return ("", "", "") if ticket is None else ("+" if ticket.spare else "", ticket.path[0], ticket.path[-1])


def _state(pool: str, reply: Sequence[Any]) -> PoolState:
    if reply[0] != "OK":
        return PoolState(pool, 0, 0, 0, 0, 0, 0, False)
    seats, used, waiting, callers, spare_used, spare_waiting, lag, served, draining = reply[2:]
    return PoolState(
        name=pool,
        seats=seats,
        used=used,
        waiting=waiting,
        callers_waiting=callers,
        lag_nanocredits=lag,
        served_nanocredits=served,
        draining=bool(draining),
        spare_used=spare_used,
        spare_waiting=spare_waiting,
    )
