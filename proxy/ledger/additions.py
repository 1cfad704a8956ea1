"""Numbers that many processes add to the same hashes, each exactly once, however often an answer is lost.

Every process tells them to one of a few shards, so that no key is everybody's: one command appends what it has gathered to the shard's list
(*told*), whatever that is of, in pieces of bounded size, each with a number. Who reads the hashes adds up the shards and what was told,
and takes it into them where there is much of it (`folding`). So telling costs the server next to nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from proxy.ledger import keys
from proxy.ledger.engine import Engine

SHARDS: Final = 2
TOLD: Final = "told"
NUMBERS_MAX: Final = 4_000
"""Of one piece: what a process adds in about a millisecond."""
BUNDLE_MAX: Final = 8_000
"""Of what goes together: twice the buckets that a sum over all people can have, and more."""

Row = tuple[float, float, float]


class Addition(msgspec.Struct, array_like=True):
    """What to add to one field: numbers that stand by themselves, and rows of three by their number."""

    alone: list[float]
    rows: dict[int, list[float]] = {}

    @property
    def size(self) -> int:
        return len(self.alone) + 4 * len(self.rows)

    def add(self, alone: tuple[float, ...] | list[float], rows: Mapping[int, Row | list[float]]) -> None:
        for n, number in enumerate(alone):
            self.alone[n] += number
        for of, (first, second, third) in rows.items():
            there = self.rows.get(of)
            if there is None:
                self.rows[of] = [first, second, third]
            else:
                there[0] += first
                there[1] += second
                there[2] += third


class ToldHash(msgspec.Struct, array_like=True):
    """What to add to one hash."""

    gone_ms: int
    """When it may go."""
    fields_max: int
    """How many fields it may have; 0: any."""
    fields: dict[str, Addition] = {}

    @property
    def size(self) -> int:
        return sum(addition.size for addition in self.fields.values())

    def add(self, of: str, alone: tuple[float, ...] | list[float], rows: Mapping[int, Row | list[float]]) -> None:
        there = self.fields.get(of)
        if there is None:
            there = self.fields[of] = Addition([0.0] * len(alone))
        there.add(alone, rows)


class Piece(msgspec.Struct, array_like=True):
    """What one process tells at once."""

    process: str
    number: int
    """Larger than that of any before; the same where it is sent again."""
    hashes: dict[str, ToldHash]


_encode: Final = msgspec.msgpack.Encoder().encode
read_piece: Final = msgspec.msgpack.Decoder(Piece).decode


class Additions:
    """What one process has gathered and not yet sent."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = secrets.token_hex(8)
        self.shard = int(self._process, 16) % SHARDS
        self._told = 0
        """Pieces that wait in the shard, with the last one of this process."""
        self._number = 0
        self._gathered: dict[str, ToldHash] = {}
        self._pieces: deque[bytes] = deque()
        self._sending = asyncio.Lock()

    def add(
        self, name: str, of: str, alone: tuple[float, ...], rows: Mapping[int, Row] | None = None, *, gone_ms: int, fields_max: int = 0
    ) -> None:
        """Gather numbers for a field of a hash; a field has the same number of those that stand by themselves whenever it is told of."""
        gathered = self._gathered.get(name)
        if gathered is None:
            gathered = self._gathered[name] = ToldHash(gone_ms, fields_max)
        gathered.add(of, alone, rows or {})

    async def send(self) -> None:
        """Tell all that was gathered. Raises LedgerUnavailable; what is left then is sent the next time, and still counts once."""
        async with self._sending:
            gathered, self._gathered = self._gathered, {}
            for hashes in _cut(gathered):
                self._number += 1
                self._pieces.append(_encode(Piece(self._process, self._number, hashes)))
            while self._pieces:
                self._told = await self._engine.command("RPUSH", keys.of_equality(self.shard, TOLD), self._pieces[0])
                self._pieces.popleft()

    def is_much(self, pieces: int) -> bool:
        """Whether so many wait, for instance because nobody reads, that they should be folded."""
        told, self._told = self._told, 0
        return told >= pieces


def _cut(gathered: dict[str, ToldHash]) -> list[dict[str, ToldHash]]:
    """The same in pieces of about NUMBERS_MAX numbers. What is told of one thing in two generations goes together, where it is not very
    much, so that who compares them finds both told or neither."""
    bundles: dict[str, dict[str, ToldHash]] = {}
    for name, whole in gathered.items():
        bundles.setdefault(name.partition(":")[2], {})[name] = whole
    pieces: list[dict[str, ToldHash]] = []
    room = 0
    for bundle in bundles.values():
        for part in _parts(bundle):
            if room <= 0 or part.keys() & pieces[-1].keys():
                pieces.append({})
                room = NUMBERS_MAX
            pieces[-1].update(part)
            room -= _size(part)
    return pieces


def _parts(bundle: dict[str, ToldHash]) -> Iterator[dict[str, ToldHash]]:
    if _size(bundle) <= BUNDLE_MAX:
        yield bundle
        return
    for name, whole in bundle.items():
        part = ToldHash(whole.gone_ms, whole.fields_max)
        for of, addition in whole.fields.items():
            part.fields[of] = addition
            if part.size >= NUMBERS_MAX:
                yield {name: part}
                part = ToldHash(whole.gone_ms, whole.fields_max)
        if part.fields:
            yield {name: part}


def _size(piece: dict[str, ToldHash]) -> int:
    return sum(whole.size for whole in piece.values())
