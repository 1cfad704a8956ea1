"""Who was counted for a dividend, with the weights of then: pages that stand beside it until they are paid.

A page is written once: of two that count the same one the first is right, and the second reads what that one wrote. It stands under the
hash tag of its dividend, so that whatever keeps the dividend keeps the page that it speaks of. Must not know what anybody gets.
"""

from __future__ import annotations

import zlib

import msgspec

from proxy.ledger import keys
from proxy.ledger.engine import Engine
from proxy.ledger.shares import CountedPage

KEPT_MS = 366 * 86_400_000
"""When a page goes by itself, where nobody goes on with the dividend."""


class Counted:
    """The pages of all dividends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, dividend_id: str, number: int) -> CountedPage | None:
        """A page of a dividend; None where it is not counted yet, or gone."""
        packed = await self._engine.command("GET", keys.counted(dividend_id, number))
        return None if packed is None else msgspec.msgpack.decode(zlib.decompress(packed), type=CountedPage)

    async def note(self, dividend_id: str, number: int, page: CountedPage) -> CountedPage:
        """Write a page unless it stands there; the one that stands there."""
        packed = zlib.compress(msgspec.msgpack.encode(page), level=1)  # long ids have much in common, and there may be a million
        await self._engine.command("SET", keys.counted(dividend_id, number), packed, "NX", "PX", KEPT_MS)
        return await self.read(dividend_id, number) or page

    async def drop(self, dividend_id: str, number: int) -> None:
        """A page is paid; that there is none is no matter."""
        await self._engine.command("UNLINK", keys.counted(dividend_id, number))
