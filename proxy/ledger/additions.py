"""Numbers that many processes add to the same hashes, each exactly once, however often an answer is lost.

Every process adds to one of a few shards, so that no key is everybody's; who reads adds the shards up. What was gathered is sent in pieces
of bounded size, one after the other, each with a number that the server compares with the last one it took.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.ledger import keys
from proxy.ledger.engine import Engine

SHARDS: Final = 4
NUMBERS_MAX: Final = 4_000
"""Of one piece: what the server adds in about a millisecond."""
BUNDLE_MAX: Final = 8_000
"""Of what goes together: twice the buckets that a sum over all people can have, and more."""
MARK_MS: Final = 86_400_000
"""How long the number of a process's last piece is remembered."""

Row = tuple[float, float, float]


@dataclass(slots=True)
class Addition:
    """What to add to one field: numbers that stand by themselves, and rows of three by their number."""

    alone: list[float]
    rows: dict[int, list[float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.alone) + 4 * len(self.rows)

    def add(self, alone: tuple[float, ...], rows: Mapping[int, Row]) -> None:
        for n, number in enumerate(alone):
            self.alone[n] += number
        for of, row in rows.items():
            there = self.rows.setdefault(of, [0.0, 0.0, 0.0])
            for n, number in enumerate(row):
                there[n] += number

    def packed(self) -> bytes:
        numbers = [*self.alone]
        for of, row in self.rows.items():
            if any(row):
                numbers += (of, *row)
        return struct.pack(f"<{len(numbers)}d", *numbers)


@dataclass(slots=True)
class _Hash:
    gone_ms: int
    """When it may go."""
    fields_max: int
    """How many fields it may have; 0: any."""
    fields: dict[str, Addition] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(addition.size for addition in self.fields.values())


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

    def add(
        self, name: str, of: str, alone: tuple[float, ...], rows: Mapping[int, Row] | None = None, *, gone_ms: int, fields_max: int = 0
    ) -> None:
        """Gather numbers for a field of a hash; every field of a hash has as many that stand by themselves."""
        gathered = self._gathered.get(name)
        if gathered is None:
            gathered = self._gathered[name] = _Hash(gone_ms, fields_max)
        there = gathered.fields.get(of)
        if there is None:
            there = gathered.fields[of] = Addition([0.0] * len(alone))
        there.add(alone, rows or {})

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
            alone = len(next(iter(gathered.fields.values())).alone)
            values += [max(1, gathered.gone_ms - now_ms), gathered.fields_max, alone, len(gathered.fields)]
            for of, addition in gathered.fields.items():
                values += [of, addition.packed()]
        names = [keys.of_equality(self._shard, name) for name, _ in piece]
        await self._engine.script("add_up", [keys.of_equality(self._shard, f"mark:{self._process}"), *names], values)


def _cut(gathered: dict[str, _Hash]) -> list[Piece]:
    """The same in pieces of about NUMBERS_MAX numbers. What is told of one thing in two generations goes together, where it is not very
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
                room = NUMBERS_MAX
            pieces[-1] += part
            room -= _size(part)
    return pieces


def _parts(bundle: Piece) -> Iterator[Piece]:
    if _size(bundle) <= BUNDLE_MAX:
        yield bundle
        return
    for name, whole in bundle:
        part = _Hash(whole.gone_ms, whole.fields_max)
        for of, addition in whole.fields.items():
            part.fields[of] = addition
            if part.size >= NUMBERS_MAX:
                yield [(name, part)]
                part = _Hash(whole.gone_ms, whole.fields_max)
        if part.fields:
            yield [(name, part)]


def _size(piece: Piece) -> int:
    return sum(whole.size for _, whole in piece)
