"""Lines over time, drawn in a terminal with braille dots: two by four to a character, nothing but text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character, by row and column of its dots."""

BLANK: Final = 0x2800
LABEL_CELLS: Final = 5

Paint = Callable[[str, int], str]
"""Give a text the colour of the line with that number."""


def chart(title: str, lines: Mapping[str, Sequence[float]], *, top: float, cells: int, rows: int, paint: Paint) -> list[str]:
    """A panel `cells` wide: the title, the lines with their names at their ends, and the scale up to `top`."""
    names = list(lines)
    width = cells - 2 * LABEL_CELLS - 1
    dots = [[0] * width for _ in range(rows)]
    owner = [[0] * width for _ in range(rows)]
    ends: dict[int, list[str]] = {}
    for number, name in enumerate(names):
        heights = [_height(lines[name], x / (2 * width - 1), top, 4 * rows) for x in range(2 * width)]
        for x, (y, before) in enumerate(zip(heights, [heights[0], *heights], strict=False)):
            for each in range(min(before + 1, y), y + 1):
                row, column = rows - 1 - each // 4, x // 2
                dots[row][column] |= DOTS[3 - each % 4][x % 2]
                owner[row][column] = number
        ends.setdefault(rows - 1 - heights[-1] // 4, []).append(name)
    drawn = [title.ljust(cells)[:cells]]
    for row in range(rows):
        scale = _short(top) if row == 0 else "0" if row == rows - 1 else ""
        line = "".join(paint(chr(BLANK + bits), owner[row][x]) if bits else " " for x, bits in enumerate(dots[row]))
        label = _label(ends.get(row, []))
        colour = names.index(ends[row][0]) if row in ends else 0
        drawn.append(f"{scale:>{LABEL_CELLS}}│{line}{paint(label.ljust(LABEL_CELLS), colour)}")
    seconds = f"{max(len(values) for values in lines.values()) - 1} s"
    axis = "0 s" + seconds.rjust(width - 3)
    return [*drawn, " " * LABEL_CELLS + "└" + "─" * width + " " * LABEL_CELLS, " " * (LABEL_CELLS + 1) + axis + " " * LABEL_CELLS]


def _height(values: Sequence[float], along: float, top: float, dots: int) -> int:
    value = values[round(along * (len(values) - 1))]
    return min(dots - 1, int(value / top * (dots - 1) + 0.5)) if top else 0


def _label(names: Sequence[str]) -> str:
    """The names of the lines that end here; from three neighbours on, the first and the last."""
    if len(names) > 2 and ord(names[-1]) - ord(names[0]) == len(names) - 1:
        return f" {names[0]}-{names[-1]}"
    return " " + "".join(names)


def _short(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 1000 else f"{value:.0f}"
