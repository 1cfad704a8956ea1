"""Who is entitled to a share: everybody who is a person, as the ledger knows it, and what an account has to give.

A person is an active account that is no agent and has nobody below it but agents: who stands for a team or an organisation has its people
below. Must not know what is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.domain import Account, AccountId, Path
from proxy.ledger import keys, records
from proxy.ledger.agents import switch_of
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine

CHILDREN_READ = 100


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is entitled, as of now."""

    path: Path
    plan: str
    weight: int
    created_at_ms: int


class People:
    """Finds them, page by page."""

    def __init__(self, engine: Engine, directory: Directory) -> None:
        self._engine = engine
        self._directory = directory

    async def page(self, *, after: str, limit: int) -> tuple[list[Person], str | None]:
        """The people among the next accounts in the order of their ids, and the last of these accounts (None: there are no more)."""
        start = f"({after}" if after else "-"
        raw = await self._engine.command("ZRANGEBYLEX", keys.ACCOUNTS, start, "+", "LIMIT", 0, limit)
        accounts = [AccountId(name.decode()) for name in raw]
        texts = await self._engine.commands(*(("GET", keys.path_of(account)) for account in accounts))
        paths = [records.decode_path(text) for text in texts if text is not None]
        fields = ("status", "kind", "plan", "weight", "created")
        rows = await self._engine.commands(*(("HMGET", keys.account(path[0], path[-1]), *fields) for path in paths))
        below = await self._engine.commands(*(("ZRANGE", keys.children_of(path[-1]), 0, 1) for path in paths))
        found = []
        for path, (status, kind, plan, weight, created), children in zip(paths, rows, below, strict=True):
            if status != b"active" or records.kind_of(kind) == "agent":
                continue
            if [child for child in children if child.decode() != switch_of(path[-1])] and await self._has_people_below(path[-1]):
                continue
            own_plan = await self._directory.plan_of(await self._directory.settings(path[-1]))
            found.append(Person(path, plan.decode(), int(weight) or own_plan.weight, int(created)))
        return found, accounts[-1] if len(accounts) == limit else None

    async def open_paths(self, accounts: Sequence[AccountId]) -> list[Path | None]:
        """Where each of some accounts stands; None where it is closed."""
        texts = await self._engine.commands(*(("GET", keys.path_of(account)) for account in accounts))
        paths = [None if text is None else records.decode_path(text) for text in texts]
        there = [path for path in paths if path is not None]
        statuses = await self._engine.commands(*(("HGET", keys.account(path[0], path[-1]), "status") for path in there))
        closed = {path for path, status in zip(there, statuses, strict=True) if status == b"closed"}
        return [None if path in closed else path for path in paths]

    async def _has_people_below(self, account: AccountId) -> bool:
        start = "-"
        while True:
            raw = await self._engine.command("ZRANGEBYLEX", keys.children_of(account), start, "+", "LIMIT", 0, CHILDREN_READ)
            for child in raw:
                if (await self._directory.settings(AccountId(child.decode()))).kind == "account":
                    return True
            if len(raw) < CHILDREN_READ:
                return False
            start = f"({raw[-1].decode()}"


def left_to_give(levels: Sequence[Account], now_ms: int) -> int:
    """What the last of some levels of a path has left to give that leaves them all; without limits that is what its grants have."""
    *above, own = levels
    return min(_left(level, now_ms) for level in (own, *(level for level in above if level.limits)))


def _left(level: Account, now_ms: int) -> int:
    granted = sum(grant.remaining_nanocredits for grant in level.grants if grant.effective_at_ms <= now_ms)
    limited = min((state.remaining_nanocredits for state in level.limits), default=0)
    return limited + granted
