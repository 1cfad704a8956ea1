"""The same lines as a PNG picture, with nothing but the standard library: smooth lines on white, and letters of three by five dots."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from math import hypot
from typing import Final

COLOURS: Final = (
    (31, 119, 180),
    (214, 39, 40),
    (44, 160, 44),
    (148, 103, 189),
    (255, 127, 14),
    (23, 150, 160),
    (140, 86, 75),
    (90, 90, 90),
)
INK: Final = (40, 40, 40)
GRID: Final = (226, 226, 226)
WIDTH, HEIGHT, MARGIN, LETTER = 560, 380, 56, 2

LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ .,-/:"
ROWS: Final = (
    "7555726227717477171755711747177475771122757577571725755656563444365556746477464434553557557222711152556554444757755655552555265644"
    "25573656553421672222555575555255775552555522271247000000000200024007001124402020"
)
FONT: Final = {letter: ROWS[5 * place : 5 * place + 5] for place, letter in enumerate(LETTERS)}
"""Five rows of three dots, each row an octal digit."""

Colour = tuple[int, int, int]


class Canvas:
    """Pixels, and the few strokes that a chart needs; x to the right, y downwards."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pixels = bytearray(b"\xff" * (3 * width * height))

    def dot(self, x: int, y: int, colour: Colour, strength: float = 1.0) -> None:
        at = 3 * (y * self.width + x)
        for part in range(3):
            self._pixels[at + part] = round(self._pixels[at + part] * (1 - strength) + colour[part] * strength)

    def box(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        for row in range(y, y + height):
            for column in range(x, x + width):
                self.dot(column, row, colour)

    def text(self, x: int, y: int, text: str, colour: Colour = INK) -> None:
        for letter in text.upper():
            for row, bits in enumerate(FONT.get(letter, FONT[" "])):
                for column in range(3):
                    if int(bits) & (4 >> column):
                        self.box(x + column * LETTER, y + row * LETTER, LETTER, LETTER, colour)
            x += 4 * LETTER

    def curve(self, x: int, heights: Sequence[float], colour: Colour, *, thickness: float = 2.2) -> None:
        """One height for each column from x on; a pixel is as strong as the line covers it."""
        for column, y in enumerate(heights):
            slope = heights[min(column + 1, len(heights) - 1)] - heights[max(column - 1, 0)]
            reach = int(thickness * hypot(1, slope / 2)) + 2
            for row in range(int(y) - reach, int(y) + reach + 1):
                strength = thickness / 2 + 0.5 - abs(row - y) / hypot(1, slope / 2)
                if strength > 0 and 0 <= row < self.height:
                    self.dot(x + column, row, colour, min(1.0, strength))

    def png(self) -> bytes:
        """The file: signature, header (8 bit RGB), the rows without filter, end."""
        rows = b"".join(b"\0" + self._pixels[3 * self.width * y : 3 * self.width * (y + 1)] for y in range(self.height))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
        parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def picture(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Panels side by side on one scale, each with a title and a line for each name."""
    canvas = Canvas(WIDTH * len(panels), HEIGHT)
    top = max(max(values) for lines in panels.values() for values in lines.values()) or 1
    floor, height, width = HEIGHT - MARGIN, HEIGHT - 2 * MARGIN, WIDTH - 2 * MARGIN
    for number, (title, lines) in enumerate(panels.items()):
        left = number * WIDTH + MARGIN
        canvas.text(left, MARGIN // 2, title)
        for quarter in range(5):
            y = floor - height * quarter // 4
            canvas.box(left, y, width, 1, GRID if quarter else INK)
            canvas.text(left - 40, y - 5, f"{top * quarter / 4000:.0f}k".rjust(4))
        seconds = max(len(values) for values in lines.values()) - 1
        canvas.text(left, floor + 12, "0 S")
        canvas.text(left + width - 40, floor + 12, f"{seconds} S".rjust(5))
        label_y = float(HEIGHT)
        for line, (name, values) in sorted(enumerate(lines.items()), key=lambda each: each[1][1][-1]):
            colour = COLOURS[line % len(COLOURS)]
            canvas.curve(left, [floor - height * values[x * seconds // (width - 1)] / top for x in range(width)], colour)
            label_y = min(label_y - 14, floor - height * values[-1] / top)
            canvas.text(left + width + 8, round(label_y) - 5, name, colour)
    return canvas.png()
