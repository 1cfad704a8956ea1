"""Enrolment: where an account is counted, and whether it is entitled: counted also where it uses nothing.

Entitled is every active account that is a person: no agent, without accounts of others below it, and not the commons. One verb writes it
into the account's uses, which tells a move as every other verb does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from proxy.domain import AccountId, Path
from proxy.errors import Refusal
from proxy.ledger import keys, records
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Call, Engine
from proxy.ledger.marks import mark_of
from proxy.ledger.moves import Moves, is_move

CHILDREN_READ: Final = 100


class Enrolment:
    """One process's way to enrol accounts."""

    def __init__(self, engine: Engine, directory: Directory, moves: Moves) -> None:
        self._engine = engine
        self._directory = directory
        self._moves = moves
        self.commons: AccountId | None = None
        """Who is never entitled."""

    async def enrol(self, paths: Sequence[Path]) -> None:
        """Bring these accounts up to date, all at once. Raises LedgerUnavailable."""
        fields = ("plan", "weight", "labels", "kind", "status")
        rows = await self._engine.commands(
            *(("HMGET", keys.account(path[0], path[-1]), *fields) for path in paths),
            *(("ZCARD", keys.children_of(path[-1])) for path in paths),
        )
        await asyncio.gather(
            *(self._enrol(path, row, children) for path, row, children in zip(paths, rows, rows[len(paths) :], strict=False) if row[0])
        )

    async def _enrol(self, path: Path, row: list[bytes], children: int) -> None:
        plan, weight, labels, kind, status = row
        if records.kind_of(kind) == "agent":
            return
        try:
            weighs = int(weight) or (await self._directory.known_plan(plan.decode())).weight
        except Refusal:
            return  # without a plan it can use nothing, either
        mark = mark_of(weighs, plan.decode(), records.decode_labels(labels), self._moves.era)
        is_entitled = status == b"active" and path[-1] != self.commons and not (children and await self._has_accounts_below(path))
        await self._run(path, mark, is_entitled=is_entitled)

    async def _has_accounts_below(self, path: Path) -> bool:
        """Whether any account right below is no agent of this one."""
        after = "-"
        while ids := await self._engine.command("ZRANGEBYLEX", keys.children_of(path[-1]), after, "+", "LIMIT", 0, CHILDREN_READ):
            names = [AccountId(raw.decode()) for raw in ids]
            kinds = await self._engine.commands(*(("HGET", keys.account(path[0], name), "kind") for name in names))
            if any(records.kind_of(kind) != "agent" for kind in kinds):
                return True
            after = f"({names[-1]}"
        return False

    async def _run(self, path: Path, mark: bytes, *, is_entitled: bool) -> None:
        root, account, era = path[0], path[-1], self._moves.era
        behind = [keys.balance(root, account), keys.of_root(root, keys.DEADLINES), keys.of_root(root, keys.JOURNAL)]
        row: list[Any] = [account, -1, [], 0, 0, mark.decode(), era.generation, era.half_life_days]
        call = Call.on([*behind, keys.account(root, account)], records.pack([row]))
        reply = await self._engine.run("enrol", keys.of_root(root, "-"), call, ("-", "1" if is_entitled else "0"))
        if is_move(reply[-1]):
            self._moves.note(root, account, reply.pop())
