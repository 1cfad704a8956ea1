"""Moves: what has changed in persons' uses since the last flush, as the scripts' answers tell it.

A move is a person's uses before and after, as stored. Those of one person that follow one another merge into one; where other processes
have moved it in between they stay apart. What is beyond the bound is dropped and counted: a recount puts that right. Pure: no I/O.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from proxy.domain import AccountId
from proxy.ledger.marks import Era

PENDING_MAX: Final = 50_000
"""Moves between two flushes."""
LATEST_MAX: Final = 20_000
"""Persons whose latest uses are kept."""


_MARK_AT: Final = 41
"""Where the mark of the first uses begins in a move; it ends with a zero."""


def is_move(told: object) -> bool:
    """Whether the last thing that an answer tells is a move."""
    return isinstance(told, bytes) and told[:1] == b"~"


def _split(told: bytes) -> tuple[bytes, bytes]:
    """The uses before, empty where there were none, and after."""
    ends = told.index(0, _MARK_AT) + 1
    return (told[1:ends], told[ends:]) if ends < len(told) else (b"", told[1:])


@dataclass(slots=True)
class Move:
    """One person's uses before and after, as stored; `before` is empty where it had none."""

    root: str
    person: AccountId
    before: bytes
    after: bytes


class Pending:
    """Moves that wait to be told."""

    def __init__(self) -> None:
        self._moves: deque[Move] = deque()
        self._last: dict[AccountId, Move] = {}
        """Each person's last one."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._moves)

    def note(self, root: str, person: AccountId, before: bytes, after: bytes) -> None:
        last = self._last.get(person)
        if last is not None and last.after == before:
            last.after = after
        elif len(self._moves) < PENDING_MAX:
            self._last[person] = move = Move(root, person, before, after)
            self._moves.append(move)
        else:
            self.dropped += 1

    def take(self, most: int) -> list[Move]:
        """The first of them, which are then the taker's."""
        taken = [self._moves.popleft() for _ in range(min(most, len(self._moves)))]
        for move in taken:
            if self._last.get(move.person) is move:
                del self._last[move.person]
        return taken


class Moves:
    """What one process has to tell the statistics."""

    def __init__(self) -> None:
        self.era = Era()
        """How this process has the scripts count."""
        self.latest: OrderedDict[AccountId, bytes] = OrderedDict()
        """Persons' uses as last told, the least recently told first."""
        self.pending = Pending()

    def note(self, root: str, person: AccountId, told: bytes) -> None:
        """Take a move as an answer has told it."""
        before, after = _split(told)
        self.keep(person, after)
        self.pending.note(root, person, before, after)

    def keep(self, person: AccountId, uses: bytes) -> None:
        """Keep a person's uses as the latest that is known."""
        self.latest[person] = uses
        self.latest.move_to_end(person)
        if len(self.latest) > LATEST_MAX:
            self.latest.popitem(last=False)
