"""Tables for people: columns aligned, numbers at their decimal points, times to the minute. Knows no command and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.domain import CREDITS

GAP = "  "


def table(titles: str, rows: Sequence[Sequence[object]], *, indent: str = "") -> str:
    """Lines with a heading: text to the left, and numbers (titles that end in `#`) with their decimal points below each other."""
    cells = [[_cell(value) for value in row] for row in rows]
    parts = []
    for n, title in enumerate(titles.split()):
        values = [row[n] for row in cells]
        parts.append(_numbers(title.rstrip("#"), values) if title.endswith("#") else _texts(title, values))
    lines = [(indent + GAP.join(line)).rstrip() for line in zip(*parts, strict=True)]
    return "\n".join(lines if rows else [*lines, f"{indent}(none)"])


def _texts(title: str, values: list[str]) -> list[str]:
    width = max(map(len, (title, *values)))
    return [text.ljust(width) for text in (title, *values)]


def _numbers(title: str, values: list[str]) -> list[str]:
    split = [value.partition(".") for value in values]
    fraction = max((len(point) + len(places) for _, point, places in split), default=0)
    aligned = [whole + (point + places).ljust(fraction) for whole, point, places in split]
    width = max(map(len, (title, *aligned)))
    return [text.rjust(width) for text in (title, *aligned)]


def facts(pairs: Sequence[tuple[str, object]], *, indent: str = "  ") -> str:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{indent}{name.ljust(width)}{GAP}{_cell(value)}".rstrip() for name, value in pairs)


def in_words(unit: str) -> str:
    """What amounts count, after a number."""
    return CREDITS if unit == CREDITS else f"units of {unit}"


def short_time(moment: str | None) -> str:
    """A time to the minute, in UTC."""
    return "-" if moment is None else f"{moment[:10]} {moment[11:16]}Z"


def _cell(value: object) -> str:
    """Text without anything that a terminal would obey."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else "?" for c in str(value))
