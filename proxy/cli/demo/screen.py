"""What the demo puts on the terminal: sentences, bars that move, and nothing but ANSI and the standard library.

On a terminal a moving part is drawn again in place and then stays as it ended, so that the story can be read back; elsewhere it is
printed once, as it ended. Knows nothing of accounts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TextIO

WIDTH_MAX: Final = 100
FRAME_S: Final = 0.1
BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"


class Screen:
    """Where the story is told."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self.is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self.is_terminal and "NO_COLOR" not in os.environ
        self._plain_letters = "utf" not in (out.encoding or "").lower()

    @property
    def width(self) -> int:
        return min(WIDTH_MAX, shutil.get_terminal_size((80, 24)).columns) if self.is_terminal else WIDTH_MAX

    # --- parts of a line -----------------------------------------------------------------------------------------------------

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and text else text

    def bar(self, parts: Sequence[tuple[float, str, str]], *, cells: int) -> str:
        """A bar whose parts are shares of 1, each with its letter and colour; what is left of it is dotted."""
        drawn, filled, share = "", 0, 0.0
        for size, letter, colour in parts:
            share += size
            end = min(cells, round(share * cells))
            if size > 0 and end == filled and end < cells and share < 1:
                end += 1  # something is never shown as nothing
            drawn += self.paint(self.letter(letter) * (end - filled), colour)
            filled = max(filled, end)
        return drawn + self.paint(self.letter("·") * (cells - filled), DIM)

    def letter(self, letter: str) -> str:
        """A letter, or what stands for it where the terminal knows ASCII alone."""
        return {"█": "#", "▒": "+", "·": ".", "✓": "Y", "─": "-"}.get(letter, letter) if self._plain_letters else letter

    # --- lines -----------------------------------------------------------------------------------------------------------------

    def chapter(self, title: str) -> None:
        """A new part of the story."""
        rule = self.letter("─") * max(3, self.width - len(title) - 5)
        self.print("", f"{self.letter('─') * 3} {self.paint(title, BOLD)} {self.paint(rule, DIM)}")

    def say(self, text: str) -> None:
        """A paragraph."""
        self.print(*self.wrapped(text))

    def wrapped(self, text: str, *, indent: str = "") -> list[str]:
        return textwrap.wrap(text, self.width - 1, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)

    def print(self, *lines: str) -> None:
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()

    # --- what moves ------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def moving(self, draw: Callable[[], Sequence[str]], *, refresh: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Draw some lines again and again as long as the block runs, and once more at its end; `refresh` fetches what they show."""
        drawn: list[str] = []

        def frame() -> None:
            nonlocal drawn
            lines = list(draw())
            if lines == drawn:  # else what someone has marked to copy would be lost
                return
            if drawn:
                self._out.write(f"\x1b[{len(drawn)}F\x1b[J")
            self.print(*lines)
            drawn = lines

        async def animate() -> None:
            while True:
                await refresh()
                frame()
                await asyncio.sleep(FRAME_S)

        animation = asyncio.ensure_future(animate()) if self.is_terminal else None
        try:
            yield
        finally:
            if animation is not None:
                animation.cancel()
                await asyncio.wait([animation])
        await refresh()
        frame()

    @contextmanager
    def cursor_hidden(self) -> Iterator[None]:
        """No cursor flickers while things move."""
        if self.is_terminal:
            self._out.write("\x1b[?25l")
        try:
            yield
        finally:
            if self.is_terminal:
                self._out.write("\x1b[?25h")
                self._out.flush()
