"""What persons have used, as one process knows it without asking: for whoever decides by it, request by request.

Moves keep it up to date for whom this process serves; what another process serves is read again after a moment. Bounded.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from proxy.domain import AccountId, Path
from proxy.ledger import keys
from proxy.ledger.balances import packed_uses, read_balance, read_uses
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.moves import Moves
from proxy.ledger.tallying import DAY_MS, present_uses
from proxy.policy.equality import Uses

KEPT_MAX: Final = 20_000
KEPT_S: Final = 5.0
"""How old what was read may be: by so much another process's debits may be missed."""


class Standings:
    """One process's knowledge of persons' uses."""

    def __init__(self, engine: Engine, directory: Directory, moves: Moves) -> None:
        self._engine = engine
        self._directory = directory
        self._moves = moves
        self._read_s: OrderedDict[AccountId, float] = OrderedDict()
        """When each was read last."""

    async def of(self, path: Path) -> Uses | None:
        """What the person used that a path's use counts as, in the windows that hold now; None where it never used anything.

        At most one read in `KEPT_S` seconds for each person. Raises LedgerUnavailable where that read fails.
        """
        person = await self._directory.person(path)
        if person not in self._moves.latest or time.monotonic() - self._read_s.get(person, float("-inf")) >= KEPT_S:
            await self._look(path[0], person)
        uses = read_uses(self._moves.latest.get(person, b""))
        return None if uses is None else present_uses(uses, self._engine.now_ms())

    async def set_aside(self, person: Path) -> int:
        """What an account has given or lent others today (UTC), and what its running requests hold. Raises LedgerUnavailable."""
        root, account = person[0], person[-1]
        packed, (day, gave) = await self._engine.commands(
            ("GET", keys.balance(root, account)), ("HMGET", keys.account(root, account), "gave_on", "gave")
        )
        held = 0 if packed is None else read_balance(packed).held
        return held + (int(gave) if day is not None and int(day) == self._engine.now_ms() // DAY_MS else 0)

    async def _look(self, root: str, person: AccountId) -> None:
        before = self._moves.latest.get(person)
        packed = await self._engine.command("GET", keys.balance(root, person))
        if self._moves.latest.get(person) == before:  # else a move has told something newer meanwhile
            self._moves.keep(person, b"" if packed is None else packed_uses(packed))
        self._read_s[person] = time.monotonic()
        self._read_s.move_to_end(person)
        if len(self._read_s) > KEPT_MAX:
            self._read_s.popitem(last=False)
