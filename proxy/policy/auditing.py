"""How fast the background audit goes: what is visited now, and how old the oldest visit is.

Two things are visited: trees in which something has changed, the longest waiting first, and, slowly and one account after the other in the
order of their ids, the whole book: a round. Both together stay below so many visits a second; a round takes at most half of them, so that
neither keeps the other from going on. Pure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

TRAIL: Final = 64
"""So many places of a round are noted with their time: the age of the oldest visit is known to a 64th of a round."""
BRISK: Final = 0.25
"""Of all visits, what a round takes where it could take longer: a small book is walked each time that changes are looked at."""
ROUND_SHARE: Final = 0.5
"""Of all visits, what a round takes at most."""
READ_AS_ONE: Final = 100
"""Journal entries, or open holds, that cost the server about as much as a visit."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often changes are looked at, how long a round may take, and how many visits are made in a second at most."""

    interval_s: float = 60.0
    walk_s: float = 86_400.0
    visits_per_s: int = 200


@dataclass(frozen=True, slots=True)
class Figures:
    """What visits find beside proofs: of one account, or the sum over many."""

    expired_nanocredits: int = 0
    left_nanocredits: int = 0
    open_holds: int = 0
    limited_roots: int = 0
    """Accounts without a parent that have a limit, so that it can be said what is left of it."""

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.expired_nanocredits + other.expired_nanocredits,
            self.left_nanocredits + other.left_nanocredits,
            self.open_holds + other.open_holds,
            self.limited_roots + other.limited_roots,
        )

    def __sub__(self, other: Figures) -> Figures:
        return self + Figures(-other.expired_nanocredits, -other.left_nanocredits, -other.open_holds, -other.limited_roots)


@dataclass(frozen=True, slots=True)
class Round:
    """A walk through the whole book, and how far it came: `after` is the last account that was visited."""

    began_ms: int
    after: str = ""
    accounts: int = 0
    ended_ms: int = 0
    """0 while it goes on."""
    figures: Figures = Figures()
    trail: tuple[tuple[int, str], ...] = ()
    """When it was at which account."""

    def on(self, visited: list[str], *, now_ms: int, accounts: int, is_last: bool) -> Round:
        """The round after these visits, the next in the order of ids. `accounts`: how many there are."""
        after, count = (visited[-1] if visited else self.after), self.accounts + len(visited)
        is_noted = count * TRAIL // max(1, accounts) > self.accounts * TRAIL // max(1, accounts) and len(self.trail) < 2 * TRAIL
        trail = (*self.trail, (now_ms, after)) if is_noted else self.trail
        return dataclasses.replace(self, after=after, accounts=count, trail=trail, ended_ms=now_ms if is_last else 0)


def walked_per_s(accounts: int, last: Round | None, pace: Pace) -> float:
    """How many accounts a round visits in a second: a small book each interval, a larger one within `walk_s`, within its share; the first
    round of all goes as fast as one may."""
    if last is None:
        return ROUND_SHARE * pace.visits_per_s
    brisk = min(accounts / pace.interval_s, BRISK * pace.visits_per_s)
    needed = min(accounts / pace.walk_s, ROUND_SHARE * pace.visits_per_s)
    return max(brisk, needed)


def accounts_due(now: Round, last: Round | None, *, accounts: int, now_ms: int, pace: Pace) -> int:
    """How many accounts a round should visit now, asked each second; what was missed is made up for at its share of all visits."""
    should = int((now_ms - now.began_ms) / 1000 * walked_per_s(accounts, last, pace)) + 1
    return max(0, min(max(1, int(ROUND_SHARE * pace.visits_per_s)), should - now.accounts))


def begins_anew(now: Round, *, now_ms: int, pace: Pace) -> bool:
    """Whether the next round begins: this one has ended, and began an interval ago."""
    return bool(now.ended_ms) and now_ms - now.began_ms >= pace.interval_s * 1000


def oldest_visit_ms(now: Round, last: Round | None) -> int | None:
    """Before when no account was last visited by a round; None where none was ever finished. Who comes after the place of this round was
    last visited when the last round was there."""
    if now.ended_ms:
        return now.began_ms
    if last is None:
        return None
    passed = [at_ms for at_ms, after in last.trail if after <= now.after]
    return passed[-1] if passed else last.began_ms


class Allowance:
    """Visits that may be made now, beside those of the round; unused ones stay for a second. A dear visit is paid off by those after it."""

    def __init__(self) -> None:
        self.left = 0.0
        self._since_s: float | None = None

    def refill(self, now_s: float, *, per_s: float) -> None:
        """Let time pass, up to now."""
        elapsed_s = 1.0 if self._since_s is None else now_s - self._since_s
        self.left = min(per_s, self.left + elapsed_s * per_s)
        self._since_s = now_s

    def spend(self, *, visits: int, read: int) -> None:
        """Account for what was done: visits, and entries or holds that were read."""
        self.left -= visits + read / READ_AS_ONE
