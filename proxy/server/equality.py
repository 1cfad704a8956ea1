"""How equal use is, as the metrics, operators and people see it: the ledger's states, measured.

Which groups there are and how large they must be is the configuration's to say. A person's place is told from states that may be some
seconds old, so that asking costs the ledger one read. Must not know how the ledger keeps its tallies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol

from proxy import config
from proxy.domain import Path
from proxy.policy.equality import Equality, Recount, Standing, Uses, WindowState, is_told, measure, standing
from proxy.policy.tallies import WINDOWS, WindowName

KEPT_S: Final = 5.0
"""How old the states may be that places are told from."""
RECOUNT_WAIT_S: Final = 20.0
"""How long a call may wait for a recount; operators' clients wait longer for an answer."""
PLAN: Final = "plan"
ORGANISATION: Final = "organisation"


class EqualityStates(Protocol):
    """What the ledger knows of use. Every call raises LedgerUnavailable."""

    async def state(self, window: WindowName, group: str | None = None, unit: str | None = None) -> WindowState:
        """A window as it stands, divided by `plan`, `organisation` or a configured label, or by nothing; of those who count in one unit
        (None: the one that most people count in)."""
        ...

    async def standing(self, path: Path) -> Uses | None:
        """What the person used that a path's use counts as; None where nothing is known of it."""
        ...


RunRecount = Callable[[], Coroutine[Any, Any, Recount]]
"""Counts all use anew, and corrects what had been told wrong."""
ReadPlaces = Callable[[Path], Awaitable[Mapping[WindowName, Standing | None]]]
"""Where the person of a path stands in each window."""


class EqualityFigures:
    """The states, measured by the configuration in force. Every call raises LedgerUnavailable."""

    def __init__(self, states: EqualityStates, section: Callable[[], config.Equality], recount: RunRecount | None = None) -> None:
        """Without `recount` the figures can only be looked at."""
        self._states = states
        self._section = section
        self._run_recount = recount
        self._recount: asyncio.Task[Recount] | None = None
        self._kept: dict[str, tuple[float, Mapping[WindowName, WindowState]]] = {}
        """By unit: when they were read, and what. Bounded by the units that accounts have."""
        self._reading = asyncio.Lock()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What people can be divided by."""
        return (PLAN, ORGANISATION, *self._section().labels)

    async def of(self, window: WindowName, group: str | None = None, unit: str | None = None) -> Equality:
        """A window as it stands now, by one of the dimensions or by none; of those who count in a unit (None: in the commonest)."""
        return measure(await self._states.state(window, group, unit), group_min=self._section().group_min)

    def may_be_told(self, found: Equality) -> bool:
        """Whether those who count in a unit may be told of as a group may, where others count in another."""
        are_all = found.people >= sum(found.state.people_by_unit.values())
        return are_all or is_told(found.state.total, group_min=self._section().group_min)

    async def recount(self) -> Recount | None:
        """Count all use anew, or wait for the recount that is at work; None where it takes longer than a caller may wait.

        What a recount found is told to whoever asks next, even if nobody waited for its end.
        """
        if self._recount is None:
            assert self._run_recount is not None, "whoever may recount has what does"
            self._recount = asyncio.get_running_loop().create_task(self._run_recount())
        task = self._recount
        done, _ = await asyncio.wait((task,), timeout=RECOUNT_WAIT_S)
        if not done:
            return None
        if self._recount is task:
            self._recount = None
        return task.result()

    async def close(self) -> None:
        """A recount that is at work ends; it goes on where it stopped when it is asked for again."""
        if self._recount is not None:
            self._recount.cancel()
            await asyncio.wait((self._recount,))

    async def places(self, path: Path) -> Mapping[WindowName, Standing | None]:
        """Where the person of a path stands in each window, among those who count in its unit; None where too few are counted to say."""
        uses = await self._states.standing(path)
        if uses is None:
            return dict.fromkeys(WINDOWS)
        states = await self._recent_states(uses.unit)
        return {window: self._place(states[window], uses) for window in WINDOWS}

    def _place(self, state: WindowState, uses: Uses) -> Standing | None:
        use_nanocredits = uses.use_nanocredits.get(state.window, 0)
        return standing(state.total, use_nanocredits=use_nanocredits, weight=uses.weight, group_min=self._section().group_min)

    async def _recent_states(self, unit: str) -> Mapping[WindowName, WindowState]:
        async with self._reading:  # however many ask at once, it is read once
            read_s, kept = self._kept.get(unit, (float("-inf"), {}))
            if time.monotonic() - read_s >= KEPT_S:
                kept = {window: await self._states.state(window, None, unit) for window in WINDOWS}
                self._kept[unit] = time.monotonic(), kept
        return kept
