"""Balances and holds as the scripts write them: fixed layouts of little-endian numbers, read back here.

The layouts are those of `lua/prelude_accounts.lua` (HEAD, WINDOW), `lua/prelude_uses.lua` (USES) and `lua/prelude_holds.lua` (HOLD);
amounts and times are whole numbers below 2^53, kept as doubles because Lua has no other. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

_HEAD = Struct("<ddIBHBId")
_WINDOW = Struct("<6didB")
_USES = Struct("<5d")
_HOLD = Struct("<4d")
_ENDS = ("open", "settled", "voided", "expired")


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A limit's window; `resets` is records.NEVER_MS where it never ends."""

    spent: int
    held: int
    credits: int
    carried: int
    starts: int
    resets: int
    index: int

    @property
    def left(self) -> int:
        return self.credits + self.carried - self.spent - self.held


@dataclass(frozen=True, slots=True)
class StoredUses:
    """What a person has used, in the calendar windows of UTC that hold its `day`, and with a half-life."""

    generation: int
    """Of the counting that it is part of."""
    day: int
    """When it last used anything: days from the calendar's first, as `date.toordinal` counts."""
    half_life_days: int
    is_entitled: bool
    """Whether it counts also where it has used nothing."""
    of_day: int
    of_week: int
    of_month: int
    aged: float
    """The sum of its use, each amount times 2^((its time - the epoch's start) / half-life); the epoch is the day's."""
    mark: bytes
    """What decides where it is counted (`ledger.marks`)."""


@dataclass(frozen=True, slots=True)
class StoredBalance:
    """What an account has spent, holds and runs, and the present window of every limit that it ever had, by the limit's key."""

    spent: int
    held: int
    running: int
    """Its open holds."""
    windows: Mapping[str, StoredWindow]
    uses: StoredUses | None = None
    """None where it was never counted as a person's."""


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold, open or ended; what it took from where is the scripts' own business."""

    state: str
    path: str
    amount: int
    spent: int
    created: int
    deadline: int


def read_balance(packed: bytes) -> StoredBalance:
    spent, held, _, _, _, count, running, _ = _HEAD.unpack_from(packed)
    windows, at = {}, _HEAD.size
    for _ in range(count):
        key, window, at = _window_at(packed, at)
        windows[key] = window
    return StoredBalance(int(spent), int(held), running, windows, read_uses(packed[at:]))


def packed_uses(packed: bytes) -> bytes:
    """The uses that a balance ends with, as stored; empty where it has none."""
    at = _HEAD.size
    for _ in range(_HEAD.unpack_from(packed)[5]):
        at = packed.index(0, at + _WINDOW.size) + 1
    return packed[at:]


def read_uses(packed: bytes) -> StoredUses | None:
    """What a balance ends with; None where that is nothing."""
    if not packed:
        return None
    code, of_day, of_week, of_month, aged = _USES.unpack_from(packed)
    rest, is_entitled = divmod(int(code), 2)
    rest, half_life_days = divmod(rest, 1 << 9)
    generation, day = divmod(rest, 1 << 22)
    mark = packed[_USES.size : -1]
    return StoredUses(generation, day, half_life_days, bool(is_entitled), int(of_day), int(of_week), int(of_month), aged, mark)


def read_window(packed: bytes) -> StoredWindow:
    return _window_at(packed, 0)[1]


def _window_at(packed: bytes, at: int) -> tuple[str, StoredWindow, int]:
    *figures, _, _ = _WINDOW.unpack_from(packed, at)
    key, ends = _text_at(packed, at + _WINDOW.size)
    return key, StoredWindow(*map(int, figures)), ends


def _text_at(packed: bytes, at: int) -> tuple[str, int]:
    """A text that ends with a zero, and where the next thing begins."""
    ends = packed.index(0, at)
    return packed[at:ends].decode(), ends + 1


def read_hold(packed: bytes) -> StoredHold:
    path, at = _text_at(packed, 1)
    spent, amount, created, deadline = map(int, _HOLD.unpack_from(packed, at))
    return StoredHold(_ENDS[packed[0]], path, amount, spent, created, deadline)
