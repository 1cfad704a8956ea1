"""What the ledger server keeps of a pool, read from its records: the same figures as `FairPool` has."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import msgspec
import redis

from proxy.ledger import keys

REBASE_BY = 2**49


@dataclasses.dataclass(frozen=True)
class StoredTicket:
    """A ticket with or without a seat; an ended one has its cumulative cost alone."""

    state: str
    cumulative: int
    charged: int = 0
    told: bool = False


@dataclasses.dataclass(frozen=True)
class StoredMember:
    """An account or an organisation: what it was served above the floor of its group, which is all of it that can be observed."""

    above_floor: int
    waiting: int
    seated: int


@dataclasses.dataclass
class StoredPool:
    """A pool as the scripts wrote it down."""

    seats: int = 0
    used: int = 0
    waiting: int = 0
    callers: int = 0
    spare_used: int = 0
    spare_waiting: int = 0
    told: int = 0
    rebased: int = 0
    """How often the organisations' numbers were counted from a new base."""
    marks: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many there are in the order, by kind."""
    members: dict[str, StoredMember] = dataclasses.field(default_factory=dict)
    tickets: dict[str, StoredTicket] = dataclasses.field(default_factory=dict)


def _values(packed: bytes) -> list[Any]:
    """The values that `cmsgpack.pack` wrote one behind the other: a list but for its head, so one is put in front."""
    for count in range(1, 33):
        try:
            values: list[Any] = msgspec.msgpack.decode(b"\xdc" + count.to_bytes(2, "big") + packed)
        except msgspec.DecodeError:
            continue
        return values
    raise AssertionError(f"not a record: {packed!r}")


def read_pool(client: redis.Redis, pool: str) -> StoredPool | None:
    """None where the server knows no such pool."""
    records = {field.decode(): _values(packed) for field, packed in client.hgetall(keys.of_pool(pool, "records")).items()}
    own = records.pop("", None)
    if own is None:
        return None
    stored = StoredPool(*own[:7], rebased=own[17])
    stored.marks.update(mark[:1].decode() for mark in client.zrange(keys.of_pool(pool, "order"), 0, -1))
    clocks = {"": (own[13], own[17]), "+": (own[18], own[22]) if len(own) > 18 else (0, 0)}
    for field, values in records.items():
        if field.startswith(":"):
            ended = values[0] == 2
            stored.tickets[field[1:]] = (
                StoredTicket("ended", values[2])
                if ended
                else StoredTicket(("waiting", "seated")[values[0]], values[8], values[9], values[12] == 1)
            )
            continue
        parent = field.rpartition("/")[0]
        clock, shifts = (
            clocks[parent] if parent in ("", "+") else (records[f"+/{parent[1:]}" if parent[0] == "+" else f"/{parent}"][6:11:4])
        )
        served = values[0] - (shifts - values[1]) * REBASE_BY
        stored.members[field] = StoredMember(served - max(0, clock - own[11]), values[3], values[4])
    return stored
