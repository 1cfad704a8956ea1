"""Open holds: reading them, and proving that what accounts hold and run is what their open holds keep and count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from proxy.domain import AccountId, OpenHold
from proxy.ledger import balances, keys, records
from proxy.ledger.engine import Engine

BATCH = 500
READINGS = 5
"""How often a moment is looked for in which nothing moves."""


class OpenHolds:
    """The open holds of trees."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, root: str, ids: list[bytes]) -> list[OpenHold | None]:
        """The holds with these ids, None where one is not open any more."""
        rows = await self._engine.commands(*(("GET", keys.hold(root, raw.decode())) for raw in ids))
        found: list[OpenHold | None] = []
        for raw, packed in zip(ids, rows, strict=True):
            hold = balances.read_hold(packed) if packed is not None else None
            is_open = hold is not None and hold.state == "open"
            found.append(_open_hold(raw.decode(), hold) if hold is not None and is_open else None)
        return found

    async def check(self, root: str, busy: Collection[AccountId]) -> tuple[int, list[tuple[AccountId, str]]]:
        """Compare what accounts hold and run with a tree's open holds, at a moment at which nothing moved: how many are open, and who
        differs how. `busy`: who held or ran any just now."""
        journal, deadlines = keys.of_root(root, keys.JOURNAL), keys.of_root(root, keys.DEADLINES)
        count, wrong = 0, list[tuple[AccountId, str]]()
        for _ in range(READINGS):
            wrong.clear()
            before = await self._engine.command("XREVRANGE", journal, "+", "-", "COUNT", 1)
            ids = await self._engine.command("ZRANGE", deadlines, 0, -1)
            count, held, running = len(ids), Counter[AccountId](), Counter[AccountId]()
            for start in range(0, count, BATCH):
                for hold in filter(None, await self.read(root, ids[start : start + BATCH])):
                    running.update(hold.path)
                    held.update(dict.fromkeys(hold.path, hold.amount_nanocredits - hold.spent_nanocredits))
            kept = await self._balances(root, {*busy, *running})
            after = await self._engine.command("XREVRANGE", journal, "+", "-", "COUNT", 1)
            if before != after:
                continue
            for account, balance in kept.items():
                if balance.held != held[account]:
                    wrong.append((account, f"holds {balance.held}, its open holds keep {held[account]} (nanocredits)"))
                if balance.running != running[account]:
                    wrong.append((account, f"counts {balance.running} running requests, has {running[account]} open holds"))
            if not wrong:  # else it may be a hold of nothing, which leaves no trace in the journal
                break
        return count, wrong

    async def _balances(self, root: str, accounts: set[AccountId]) -> dict[AccountId, balances.StoredBalance]:
        found: dict[AccountId, balances.StoredBalance] = {}
        ids = sorted(accounts)
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            rows = await self._engine.commands(*(("GET", keys.balance(root, account)) for account in batch))
            found.update((account, balances.read_balance(packed)) for account, packed in zip(batch, rows, strict=True) if packed)
        return found


def _open_hold(hold_id: str, hold: balances.StoredHold) -> OpenHold:
    return OpenHold(hold_id, records.path_of(hold.path), hold.amount, hold.spent, hold.created, hold.deadline)
