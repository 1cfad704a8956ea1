"""Numbers that many processes add to the same hashes, each exactly once, however often an answer is lost.

Every process adds to one of a few shards, so that no key is everybody's; who reads adds the shards up. What was gathered is sent in pieces
of bounded size, one after the other, each with a number that the server compares with the last one it took.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from proxy.ledger import keys
from proxy.ledger.engine import Engine

SHARDS: Final = 4
FIELDS_MAX: Final = 400
"""Of one piece: what the server does in well under a millisecond or two."""
BUNDLE_MAX: Final = 2_000
"""Of what goes together: twice the buckets that a sum over all people can have, and more."""
MARK_MS: Final = 86_400_000
"""How long the number of a process's last piece is remembered."""


@dataclass(slots=True)
class _Hash:
    gone_ms: int
    """When it may go."""
    fields_max: int
    """How many fields it may have; 0: any."""
    numbers: dict[str, list[float]] = field(default_factory=dict)


Piece = list[tuple[str, _Hash]]


class Additions:
    """What one process has gathered and not yet sent."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = secrets.token_hex(8)
        self._shard = int(self._process, 16) % SHARDS
        self._number = 0
        self._gathered: dict[str, _Hash] = {}
        self._pieces: deque[Piece] = deque()
        self._sending = asyncio.Lock()

    def add(self, name: str, of: str, numbers: tuple[float, ...], *, gone_ms: int, fields_max: int = 0) -> None:
        """Gather numbers for a field of a hash; a field has always as many."""
        gathered = self._gathered.get(name)
        if gathered is None:
            gathered = self._gathered[name] = _Hash(gone_ms, fields_max)
        there = gathered.numbers.get(of)
        if there is None:
            gathered.numbers[of] = list(numbers)
        else:
            for n, number in enumerate(numbers):
                there[n] += number

    async def send(self) -> None:
        """Add all that was gathered. Raises LedgerUnavailable; what is left then is sent the next time, and still once."""
        async with self._sending:
            gathered, self._gathered = self._gathered, {}
            self._pieces.extend(_cut(gathered))
            while self._pieces:
                await self._send(self._pieces[0])
                self._pieces.popleft()
                self._number += 1

    async def _send(self, piece: Piece) -> None:
        values: list[str | bytes | int] = [self._number + 1, MARK_MS]
        now_ms = self._engine.now_ms()
        for _, gathered in piece:
            values += [max(1, gathered.gone_ms - now_ms), gathered.fields_max, len(gathered.numbers)]
            for of, numbers in gathered.numbers.items():
                values += [of, struct.pack(f"<{len(numbers)}d", *numbers)]
        names = [keys.of_equality(self._shard, name) for name, _ in piece]
        await self._engine.script("add_up", [keys.of_equality(self._shard, f"mark:{self._process}"), *names], values)


def _cut(gathered: dict[str, _Hash]) -> list[Piece]:
    """The same in pieces of about FIELDS_MAX fields. What is told of one thing in two generations goes together, where it is not very
    much, so that who compares them finds both told or neither."""
    bundles: dict[str, Piece] = {}
    for name, whole in gathered.items():
        bundles.setdefault(name.partition(":")[2], []).append((name, whole))
    pieces: list[Piece] = []
    room = 0
    for bundle in bundles.values():
        for part in _parts(bundle):
            if room <= 0:
                pieces.append([])
                room = FIELDS_MAX
            pieces[-1] += part
            room -= _fields_of(part)
    return pieces


def _parts(bundle: Piece) -> Iterator[Piece]:
    if _fields_of(bundle) <= BUNDLE_MAX:
        yield bundle
        return
    for name, whole in bundle:
        fields = list(whole.numbers.items())
        for start in range(0, len(fields), FIELDS_MAX):
            yield [(name, _Hash(whole.gone_ms, whole.fields_max, dict(fields[start : start + FIELDS_MAX])))]


def _fields_of(piece: Piece) -> int:
    return sum(len(whole.numbers) for _, whole in piece)
