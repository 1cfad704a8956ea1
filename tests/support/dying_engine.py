"""An engine whose process dies at the call that a test names: of all that it sends one after the other, the rest never leaves it."""

from __future__ import annotations

from typing import Any

from proxy.errors import LedgerUnavailable
from proxy.ledger.engine import Engine


class DyingEngine:
    """Passes everything on until it dies, and nothing more after that. Commands that are sent together go one by one, so that it may die
    between them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left: int | None = None

    def dies_in(self, calls: int) -> None:
        """It lives again, until its nth call from now on, which is not carried out."""
        self._left = calls

    @property
    def lives(self) -> bool:
        return self._left != 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def _count(self) -> None:
        if self._left is None:
            return
        self._left = max(0, self._left - 1)
        if not self._left:
            raise LedgerUnavailable("the process has died")

    async def run(self, *arguments: Any, **named: Any) -> list[Any]:
        self._count()
        return await self._engine.run(*arguments, **named)

    async def script(self, *arguments: Any, **named: Any) -> Any:
        self._count()
        return await self._engine.script(*arguments, **named)

    async def command(self, *command: str | bytes | int) -> Any:
        self._count()
        return await self._engine.command(*command)

    async def commands(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        return [await self.command(*command) for command in commands]
