"""The requests that one worker has open, so that it can end when the last of them has ended."""

from __future__ import annotations

import asyncio
import contextlib


class OpenRequests:
    """Counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.are_last = False
        """No other is to be let in."""
        self._none_left = asyncio.Event()

    def begun(self) -> None:
        self.count += 1

    def ended(self) -> None:
        self.count -= 1
        if self.are_last and self.count == 0:
            self._none_left.set()

    async def until_none(self, timeout_s: float) -> None:
        """Wait until none is open, or so long."""
        self._none_left.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.count:
                    await self._none_left.wait()
