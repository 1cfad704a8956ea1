"""Documents that the ledger's server keeps beside the books: what was asked for, lent, or is being handed out.

A document is changed only from what its writer has read, so that several processes may work on one at a time: whoever comes second reads
again. Must not know what a document means.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from proxy.ledger import records
from proxy.ledger.engine import Engine

T = TypeVar("T", bound=msgspec.Struct)


class Documents(Generic[T]):
    """Documents of one kind."""

    def __init__(self, engine: Engine, kind: type[T]) -> None:
        self._engine = engine
        self._kind = kind

    async def read(self, key: str) -> T | None:
        """The document under a key; None where there is none."""
        text = await self._engine.command("GET", key)
        return None if text is None else msgspec.json.decode(text, type=self._kind)

    async def read_all(self, keys: list[str]) -> list[T]:
        """Those of the documents that there are, in the order of their keys."""
        texts = await self._engine.commands(*(("GET", key) for key in keys))
        return [msgspec.json.decode(text, type=self._kind) for text in texts if text is not None]

    async def swap(self, key: str, before: T | None, after: T | None, *, keep_ms: int = 0) -> bool:
        """Write, or (None) drop, a document that still says `before`; whether it says `after` now. `keep_ms`: for how long, 0 for good."""
        texts = ["" if document is None else records.encode(document).decode() for document in (before, after)]
        return bool(await self._engine.script("swap", [key], [*texts, keep_ms], durable=True) == 1)
