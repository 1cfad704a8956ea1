"""Folding: what processes have told (`additions`) is taken into the hashes that it is told of, and read with them.

A reader adds what was told to what the hashes say, as it adds the shards up, and keeps what it has read of it; so folding may wait until
there is enough of it, and costs little of each. One reads what was told and what stands there, adds, and has it written, unless somebody
else has folded since: then it reads again. A piece that was sent twice, because its answer was lost, is known by its number, which stands
with the name of the last fold.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from proxy.ledger import keys
from proxy.ledger.additions import SHARDS, TOLD, Addition, Piece, ToldHash, read_piece
from proxy.ledger.engine import Engine

FOLDED: Final = "folded"
FEW_PIECES: Final = 512
FEW_BYTES: Final = 1_000_000
"""Of what was told in a shard: so much waits without being folded. A fold costs the server as much as a hundred flushes, however much it
takes; who reads for the first time needs some tens of milliseconds for it, beside the requests."""
PIECES_AT_ONCE: Final = 64
PIECES_MAX: Final = 1_024
FIELDS_MAX: Final = 500
"""Of one fold, unless one piece has more fields: at most one millisecond of the server."""
MARK_MS: Final = 86_400_000
"""How long the number of a process's last piece is remembered."""
MARKS_MAX: Final = 1_000
"""Processes whose numbers are remembered, the last ones."""
TRIES_MAX: Final = 1_000
"""Of one shard in one go: somebody else may be faster each time, and then what was told is folded, too."""

Flat = list[bytes]
"""Fields and their values, one after the other, as the server tells a hash."""


class _Folded(msgspec.Struct, array_like=True):
    """What a shard remembers of its folds."""

    fold: str = ""
    """The last one; a name of its own, so that no two states are alike."""
    marks: dict[str, tuple[int, int]] = {}
    """The number of each process's last piece, and when that was folded."""

    def with_numbers(self, numbers: dict[str, int], now_ms: int) -> _Folded:
        """After a fold of pieces up to these numbers."""
        marks = {process: mark for process, mark in self.marks.items() if mark[1] > now_ms - MARK_MS and process not in numbers}
        marks.update({process: (number, now_ms) for process, number in numbers.items()})
        return _Folded(secrets.token_hex(8), dict(list(marks.items())[-MARKS_MAX:]))


_encode: Final = msgspec.msgpack.Encoder().encode
_read_folded: Final = msgspec.msgpack.Decoder(_Folded).decode


@dataclass(slots=True)
class _Taken:
    """What was told, added up; each piece once."""

    folded: _Folded
    pieces: int = 0
    """So many, also those that had been told before."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Each process's last one."""
    hashes: dict[str, ToldHash] = field(default_factory=dict)
    size_bytes: int = 0
    last: list[bytes] = field(default_factory=list)
    """The last piece, as it was told."""

    @classmethod
    def after(cls, folded: bytes | None) -> _Taken:
        """Nothing yet, after a fold as it is stored."""
        return cls(_Folded() if folded is None else _read_folded(folded))

    @property
    def fields(self) -> int:
        return sum(len(told.fields) for told in self.hashes.values())

    async def take(self, told: Sequence[bytes], fields_max: float = float("inf")) -> None:
        """Add what was told, as far as it is of so many fields, beside the requests."""
        for packed in told:
            self.last = [packed]
            self.size_bytes += len(packed)
            self.pieces += 1
            self._add(read_piece(packed))
            if self.fields >= fields_max:
                break
            await asyncio.sleep(0)

    def _add(self, piece: Piece) -> None:
        if piece.number <= self.numbers.setdefault(piece.process, self.folded.marks.get(piece.process, (0, 0))[0]):
            return
        self.numbers[piece.process] = piece.number
        for name, told in piece.hashes.items():
            there = self.hashes.get(name)
            if there is None:
                self.hashes[name] = told
                continue
            there.gone_ms = max(there.gone_ms, told.gone_ms)
            for of, addition in told.fields.items():
                there.add(of, addition.alone, addition.rows)


class Folding:
    """One process's way to read hashes that many add to, and to fold."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[int, tuple[bytes | None, _Taken]] = {}
        """What was read of each shard last, and what had been folded then: what was told since stands behind it."""
        self._reading = [asyncio.Lock() for _ in range(SHARDS)]

    async def read(self, *names: str) -> list[list[Flat]]:
        """All that is known of each hash: what its shards say, and what was told of it since. Raises LedgerUnavailable."""
        shards = await asyncio.gather(*(self._read(shard, names) for shard in range(SHARDS)))
        return [[flat for found in shards for flat in found[n]] for n in range(len(names))]

    async def _read(self, shard: int, names: Sequence[str]) -> list[list[Flat]]:
        folded, told = keys.of_equality(shard, FOLDED), keys.of_equality(shard, TOLD)
        async with self._reading[shard]:
            for _ in range(TRIES_MAX):
                if shard not in self._known:
                    before = await self._engine.command("GET", folded)
                    self._known[shard] = before, _Taken.after(before)
                before, taken = self._known[shard]
                waiting, *flats, after = await self._engine.commands(
                    ("LRANGE", told, max(0, taken.pieces - 1), -1),
                    *(("HGETALL", keys.of_equality(shard, name)) for name in names),
                    ("GET", folded),
                )
                if before != after or waiting[: len(taken.last)] != taken.last:
                    del self._known[shard]  # somebody has folded, or the server has lost something
                    continue
                await taken.take(waiting[len(taken.last) :])
                if taken.pieces < FEW_PIECES and taken.size_bytes < FEW_BYTES:
                    break
                await self.fold((shard,))
            hashes = taken.hashes
            return [[flat, _besides(flat, hashes[name])] if name in hashes else [flat] for name, flat in zip(names, flats, strict=True)]

    async def fold(self, shards: Sequence[int] = range(SHARDS)) -> None:
        """Take in all that was told until now. Raises LedgerUnavailable; nothing is lost or added twice then."""
        await asyncio.gather(*(self._fold(shard) for shard in shards))

    async def _fold(self, shard: int) -> None:
        for _ in range(TRIES_MAX):
            folded = await self._engine.command("GET", keys.of_equality(shard, FOLDED))
            taken = _Taken.after(folded)
            is_all = False
            while not is_all and taken.pieces < PIECES_MAX and taken.fields < FIELDS_MAX:
                start = taken.pieces
                told = await self._engine.command("LRANGE", keys.of_equality(shard, TOLD), start, start + PIECES_AT_ONCE - 1)
                await taken.take(told, FIELDS_MAX)
                is_all = taken.pieces - start == len(told) < PIECES_AT_ONCE
            if not taken.pieces or (await self._write(shard, folded or b"", taken) and is_all):
                return

    async def _write(self, shard: int, folded: bytes, taken: _Taken) -> bool:
        """Add to what stands there, and write it; False where somebody else has folded meanwhile."""
        hashes = list(taken.hashes.items())
        rows: list[Any] = await self._engine.commands(
            *(("HMGET", keys.of_equality(shard, name), *told.fields) for name, told in hashes),
            *(("HLEN", keys.of_equality(shard, name)) for name, told in hashes if told.fields_max),
        )
        now_ms, sizes = self._engine.now_ms(), iter(rows[len(hashes) :])
        values: list[str | bytes | int] = [folded, _encode(taken.folded.with_numbers(taken.numbers, now_ms)), taken.pieces, MARK_MS]
        written = []
        for (name, told), there in zip(hashes, rows, strict=False):
            room = told.fields_max - next(sizes) if told.fields_max else len(there)
            fields: list[str | bytes] = []
            for (of, addition), packed in zip(told.fields.items(), there, strict=True):
                room -= packed is None
                if packed is not None or room >= 0:
                    fields += (of, sum_of(packed, addition))
            if fields:
                written.append(name)
                values += (max(1, told.gone_ms - now_ms), len(fields), *fields)
            await asyncio.sleep(0)
        places = [keys.of_equality(shard, name) for name in (FOLDED, TOLD, *written)]
        reply = await self._engine.script("fold", places, values)
        return bool(reply[0] == b"OK")


def _besides(flat: Flat, told: ToldHash) -> Flat:
    """What was told of a hash, in the form of what the hash says: as much of it as a fold would write."""
    found, there, room = [], set(flat[::2]), told.fields_max - len(flat) // 2 if told.fields_max else len(told.fields)
    for of, addition in told.fields.items():
        field_name = of.encode()
        room -= field_name not in there
        if field_name in there or room >= 0:
            found += [field_name, sum_of(None, addition)]
    return found


def sum_of(packed: bytes | None, addition: Addition) -> bytes:
    """What a field says, as stored, with an addition: those that stand by themselves, then each row behind its number, all as doubles. Rows
    of nothing go."""
    if packed is not None:
        numbers = struct.unpack(f"<{len(packed) // 8}d", packed)
        alone = len(addition.alone)
        stored = iter(numbers[alone:])
        rows = {int(of): [first, second, third] for of, first, second, third in zip(stored, stored, stored, stored, strict=True)}
        whole = Addition(list(numbers[:alone]), rows)
        whole.add(addition.alone, addition.rows)
        addition = whole
    flat = list(addition.alone)
    for of, row in addition.rows.items():
        if row[0] or row[1] or row[2]:
            flat += (of, *row)
    return struct.pack(f"<{len(flat)}d", *flat)
