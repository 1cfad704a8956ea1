"""Lorenz's curve in a terminal: what share of all use the lowest share of people has, beside the line of equal use.

Drawn in braille dots, two by four to a character, or in ASCII where the terminal knows no other letters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

CELLS: Final = 48
ROWS: Final = 12
LABEL_CELLS: Final = 6
BLANK: Final = 0x2800
DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character, by row and column of its dots."""
EQUAL_EVERY: Final = 3
"""Of the line of equal use every third dot is drawn, so that the curve stands out."""

Points = Sequence[tuple[float, float]]


def lorenz_lines(points: Points, *, cells: int = CELLS, rows: int = ROWS, plain: bool = False) -> list[str]:
    """The curve through (0, 0) and these points, with its axes; straight between the points."""
    through = [(0.0, 0.0), *((population, share) for population, share in points if population > 0)]
    drawn = _plain(through, cells, rows) if plain else _braille(through, cells, rows)
    labels = {0: "100 %", rows // 2: "50 %", rows - 1: "0"}
    bar, corner, floor = ("|", "+", "-") if plain else ("│", "└", "─")
    lines = [f"{labels.get(row, '').rjust(LABEL_CELLS)} {bar}{line}".rstrip() for row, line in enumerate(drawn)]
    axis = f"{'0'.ljust(cells // 2 - 1)}50 %".ljust(cells - 5) + "100 % of people"
    return [*lines, f"{' ' * LABEL_CELLS} {corner}{floor * cells}", f"{' ' * LABEL_CELLS}  {axis}"]


def _share(points: Points, population: float) -> float:
    place = min(max(1, bisect_left(points, (population,))), len(points) - 1)
    (left, low), (right, high) = points[place - 1], points[place]
    return low + (high - low) * min(1.0, (population - left) / (right - left)) if right > left else high


def _braille(points: Points, cells: int, rows: int) -> list[str]:
    wide, high = 2 * cells, 4 * rows
    bits = [[0] * cells for _ in range(rows)]

    def dot(x: int, y: int) -> None:
        bits[rows - 1 - y // 4][x // 2] |= DOTS[3 - y % 4][x % 2]

    before = 0
    for x in range(wide):
        at = x / (wide - 1)
        y = round(_share(points, at) * (high - 1))
        for each in range(min(before + 1, y), y + 1):
            dot(x, each)
        before = y
        if x % EQUAL_EVERY == 0:
            dot(x, round(at * (high - 1)))
    return ["".join(chr(BLANK + cell) for cell in row) for row in bits]


def _plain(points: Points, cells: int, rows: int) -> list[str]:
    letters = [[" "] * cells for _ in range(rows)]
    for x in range(cells):
        at = x / (cells - 1)
        letters[rows - 1 - round(at * (rows - 1))][x] = "."
        letters[rows - 1 - round(_share(points, at) * (rows - 1))][x] = "*"
    return ["".join(row) for row in letters]
