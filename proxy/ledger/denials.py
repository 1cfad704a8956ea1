"""What was asked for and not served, by window: how much, by which refusal, and by whom; so idleness is told from denial.

Who was denied stands in hashes of bounded size: beyond it only amounts are counted. They are read now and then, each person's use with
them, and what they say is kept until the next time.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.domain import CREDITS, AccountId, Path
from proxy.errors import Refusal
from proxy.ledger import keys
from proxy.ledger.additions import Additions
from proxy.ledger.balances import read_balance
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.folding import Folding
from proxy.ledger.tallying import DAY_MS, day_of, gone_ms, index_on, name_of, present_uses, starts_ms
from proxy.policy.tallies import WINDOWS, WindowName

COUNTED: Final = frozenset(
    {"insufficient_quota", "request_exceeds_budget", "budget_in_flight", "queue_full", "queue_timeout", "too_many_requests"}
)
"""Refusals that withhold what was asked for: for want of budget, of seats, or by a rate."""
PERSONS_MAX: Final = 10_000
"""Denied persons in one shard of one window."""
PENDING_MAX: Final = 10_000
KEPT_S: Final = 15.0
EPOCHS_READ: Final = 4
"""Half-lives after which what was denied counts as none."""
BATCH: Final = 500
_SEATS: Final = "seats"


@dataclass(frozen=True, slots=True)
class Denied:
    """What is known of those who were denied something in a window."""

    without_use: int = 0
    """Who asked and got nothing at all."""
    least_served_of_demand: float | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of a window that belong to no person."""

    deficit_nanocredits: Mapping[str, int] = field(default_factory=dict)
    utilisation: float | None = None


class Denials:
    """One process's count of what was not served, and what all of them have counted."""

    def __init__(self, engine: Engine, directory: Directory, additions: Additions, folding: Folding) -> None:
        self._engine = engine
        self._directory = directory
        self._additions = additions
        self._folding = folding
        self._pending: dict[tuple[Path, str, str], int] = {}
        """By path, the refusal's code, and unit."""
        self._denied: dict[tuple[WindowName, str], Denied] = {}
        """By window and unit."""
        self._read_at_s = float("-inf")

    def note(self, path: Path, code: str, amount_nanocredits: int, *, unit: str = CREDITS) -> None:
        """Count a refusal with what it withheld, as estimated, in the account's unit. Others than those for want of something are none."""
        key = path, code, unit
        if code in COUNTED and (key in self._pending or len(self._pending) < PENDING_MAX):
            self._pending[key] = self._pending.get(key, 0) + amount_nanocredits

    async def gather(self, half_life_days: int) -> None:
        """Hand over what was noted. Raises LedgerUnavailable."""
        for path, code, unit in list(self._pending):
            try:
                person = await self._directory.person(path)
            except Refusal:  # nobody is there any more: the amount alone counts
                person = path[-1]
            amount = self._pending.pop((path, code, unit))
            for name, gone, scale in self._places("denied", half_life_days):
                self._additions.add(name, " ".join((path[0], person, unit)), (amount * scale,), gone_ms=gone, fields_max=PERSONS_MAX)
            for name, gone, scale in self._places("totals", half_life_days):
                self._additions.add(name, f"{code} {unit}", (amount * scale,), gone_ms=gone)

    def seats_were(self, *, taken: int, there: int, seconds: float, half_life_days: int) -> None:
        """Count how many seats were taken, and how many there were, for some time."""
        for name, gone, scale in self._places("totals", half_life_days):
            self._additions.add(name, _SEATS, (taken * seconds * scale, there * seconds * scale), gone_ms=gone)

    def _places(self, what: str, half_life_days: int) -> Iterator[tuple[str, int, float]]:
        """The hash of each window that holds now, when it may go, and how often an amount of now counts there: in the half-life, like use,
        so often as makes up for the halving since the epoch's start."""
        today = day_of(self._engine.now_ms())
        for window in WINDOWS:
            index = index_on(window, today, half_life_days)
            scale = 1 / self._aged(half_life_days) if window == "half_life" else 1.0
            yield name_of(0, window, index, half_life_days, what), gone_ms(window, index, half_life_days), scale

    def _aged(self, half_life_days: int) -> float:
        """What is left by now of what happened when the present epoch started."""
        now_ms = self._engine.now_ms()
        starts = starts_ms("half_life", index_on("half_life", day_of(now_ms), half_life_days), half_life_days)
        return float(2.0 ** -((now_ms - starts) / (half_life_days * DAY_MS)))

    async def _sums(self, window: WindowName, half_life_days: int, what: str) -> dict[str, list[float]]:
        """What a window's hash says, field by field; of the half-life as of the present epoch's start, without what was long ago."""
        sums: dict[str, list[float]] = {}
        index = index_on(window, day_of(self._engine.now_ms()), half_life_days)
        epochs = range(EPOCHS_READ if window == "half_life" else 1)
        names = [name_of(0, window, index - ago, half_life_days, what) for ago in epochs]
        for ago, flats in enumerate(await self._folding.read(*names)):
            for flat in flats:
                for n in range(0, len(flat), 2):
                    numbers = struct.unpack(f"<{len(flat[n + 1]) // 8}d", flat[n + 1])
                    there = sums.setdefault(flat[n].decode(), [0.0] * len(numbers))
                    for at, number in enumerate(numbers):
                        there[at] += number * 0.5**ago
        return sums

    async def totals(self, window: WindowName, unit: str, half_life_days: int) -> Totals:
        """A window's sums as they stand, in a unit."""
        sums = await self._sums(window, half_life_days, "totals")
        scale = self._aged(half_life_days) if window == "half_life" else 1.0
        taken, seats = sums.pop(_SEATS, (0.0, 0.0))
        deficit = {name.split(" ")[0]: round(amount * scale) for name, (amount,) in sums.items() if name.split(" ")[1] == unit}
        return Totals(deficit, taken / seats if seats else None)

    async def denied(self, window: WindowName, unit: str, half_life_days: int) -> Denied:
        """What was found of those who count in a unit when it was last looked at, at most some seconds ago."""
        if time.monotonic() - self._read_at_s >= KEPT_S:
            await self._look(half_life_days)
        return self._denied.get((window, unit), Denied())

    async def _look(self, half_life_days: int) -> None:
        """Read all who were denied anything, and what each of them used; costs by them, which is bounded. Who has gone does not count."""
        amounts = {window: await self._sums(window, half_life_days, "denied") for window in WINDOWS}
        used = await self._used({person for found in amounts.values() for person in found})
        shares: dict[tuple[WindowName, str], list[float]] = {}
        for window, found in amounts.items():
            for person, (amount,) in found.items():
                is_entitled, uses = used[person]
                if (use := uses.get(window, 0.0)) > 0 or is_entitled:
                    served = use / (use + amount) if use > 0 else 0.0
                    shares.setdefault((window, person.rpartition(" ")[2]), []).append(served)
        self._denied = {of: Denied(sum(1 for share in there if share <= 0), min(there)) for of, there in shares.items()}
        self._read_at_s = time.monotonic()

    async def _used(self, persons: set[str]) -> dict[str, tuple[bool, Mapping[WindowName, float]]]:
        """Whether each is entitled, and what it used."""
        ordered, now_ms = sorted(persons), self._engine.now_ms()
        used: dict[str, tuple[bool, Mapping[WindowName, float]]] = {}
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            places = [person.split(" ") for person in batch]
            rows = await self._engine.commands(*(("GET", keys.balance(root, AccountId(account))) for root, account, _ in places))
            for person, packed in zip(batch, rows, strict=True):
                uses = read_balance(packed).uses if packed is not None else None
                used[person] = (False, {}) if uses is None else (uses.is_entitled, present_uses(uses, now_ms).use_nanocredits)
        return used
