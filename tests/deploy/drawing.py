"""Draws a dashboard as a picture, from what its queries gave: near enough to Grafana's to know what one will see there.

Knows the panels and their results; nothing of where these came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib import dates, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy import asarray
from PIL import Image

from deploy.grafana import model
from deploy.grafana.classic import COLUMNS, dashboard_json

WIDTH, ROW, GAP, DOTS_PER_INCH = 1440, 36, 8, 100
MARGIN, HEAD, FOOT, TITLE = 14, 34, 52, 56
SCALE_WIDTH = 52
COLOURS = 200
INK, FAINT, LINE, CARD, GROUND = "#24292e", "#767d86", "#e3e6ea", "#ffffff", "#f4f5f7"
NAMED = {"red": "#d92b3a", "orange": "#f08c1c", "green": "#3f9c46", "blue": "#2f6fd0"}
PALETTE = (
    "#2f6fd0",
    "#f08c1c",
    "#3f9c46",
    "#a352cc",
    "#d92b3a",
    "#12a3a3",
    "#c2a200",
    "#8f5a3c",
    "#e377c2",
    "#6b7684",
    "#1b3f8b",
    "#8fbf3f",
    "#f2a5a5",
    "#5f4bb6",
    "#0b6e4f",
    "#e0b04c",
    "#7fb8e6",
    "#9c1c5a",
    "#52d1b2",
    "#4a3b2a",
    "#c8a2e0",
    "#b5651d",
    "#a3a948",
    "#ff6f61",
)
LEGEND_LINES = 2
MORE_WIDTH = 60

rcParams["font.family"] = "DejaVu Sans"


@dataclass(frozen=True, slots=True)
class Told:
    """One series: its name in the legend, its labels, and its values by moment (seconds)."""

    name: str
    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def latest(self) -> float:
        return next((value for _, value in reversed(self.points) if math.isfinite(value)), math.nan)


def draw(dashboard: model.Dashboard, results: Mapping[str, Sequence[Told]], path: Path) -> None:
    """Write a PNG of a dashboard; `results` are by the title of the row and the panel, joined by a slash."""
    placed = dashboard_json(dashboard)["panels"]
    height = TITLE + ROW * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in placed) + GAP
    picture = Picture(figsize=(WIDTH / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH, facecolor=GROUND)
    canvas = _Canvas(picture, height)
    canvas.write(MARGIN, 14, f"compute-ledger: {dashboard.title}", size=14, weight="bold")
    canvas.write(MARGIN, 38, dashboard.description, size=8.5, colour=FAINT)
    places = iter(placed)
    for row in dashboard.rows:
        heading = next(places)["gridPos"]
        canvas.write(MARGIN, TITLE + heading["y"] * ROW + 12, row.title, size=9.5, weight="bold")
        for panel in row.panels:
            canvas.panel(panel, next(places)["gridPos"], results[f"{row.title}/{panel.title}"])
    drawn = FigureCanvasAgg(picture)
    drawn.draw()
    image = Image.fromarray(asarray(drawn.buffer_rgba())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)  # a third of the size, and nobody sees it


class _Canvas:
    """A picture measured in pixels from its upper left corner."""

    def __init__(self, picture: Picture, height: int) -> None:
        self._picture = picture
        self._height = height

    def write(self, x: float, y: float, text: str, *, size: float, colour: str = INK, **more: Any) -> None:
        self._picture.text(x / WIDTH, 1 - y / self._height, text, fontsize=size, color=colour, va=more.pop("va", "top"), **more)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        axes = self._picture.add_axes((x / WIDTH, 1 - (y + height) / self._height, width / WIDTH, height / self._height))
        axes.patch.set_alpha(0)
        axes.tick_params(length=0, labelsize=7, colors=FAINT)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes

    def panel(self, panel: model.Panel, place: Mapping[str, int], told: Sequence[Told]) -> None:
        unit = (WIDTH - 2 * GAP) / COLUMNS
        x, y = GAP + place["x"] * unit, TITLE + place["y"] * ROW
        width, height = place["w"] * unit - GAP, place["h"] * ROW - GAP
        card = self.axes(x, y, width, height)
        card.set_xlim(0, width)
        card.set_ylim(0, height)
        card.set_axis_off()
        rounded = FancyBboxPatch((1, 1), width - 2, height - 2, boxstyle="round,pad=0,rounding_size=4", fc=CARD, ec=LINE, lw=1)
        card.add_patch(rounded)
        self.write(x + 10, y + 9, panel.title, size=8.5)
        inside = (x + 10, y + HEAD, width - 20, height - HEAD - 8)
        match panel.shape:
            case model.Lines() as lines:
                self._lines(panel, lines, told, *inside)
            case model.Figure() as figure:
                self._figure(panel, figure, told, *inside)
            case model.Bars():
                self._bars(panel, told, *inside)
            case model.Heat():
                self._heat(panel, told, *inside)
            case model.Curve() as curve:
                self._curve(panel, curve, told, *inside)

    # --- shapes ----------------------------------------------------------------------------------------------------------------

    def _lines(self, panel: model.Panel, lines: model.Lines, told: Sequence[Told], x: float, y: float, width: float, height: float) -> None:
        axes = self.axes(x + SCALE_WIDTH, y, width - SCALE_WIDTH, height - FOOT)
        shown = [series for series in told if any(math.isfinite(value) for _, value in series.points)]
        colours = _colours(shown, lines.colours)
        style = "steps-post" if lines.stepped else "default"
        if lines.stacked:
            _stack(axes, shown, colours, stepped=lines.stepped)
        else:
            for series in shown:
                dashes = "--" if series.name in lines.dashed else "-"
                axes.plot(*_moments(series), color=colours[series.name], lw=1.6, ls=dashes, drawstyle=style)
        if lines.filled_between:
            low, high = (next(series for series in shown if series.name == name) for name in lines.filled_between)
            axes.fill_between(*_moments(low), _moments(high)[1], color=colours[low.name], alpha=0.25, lw=0)
        _time_axis(axes)
        if lines.logarithmic:
            axes.set_yscale("log")
            axes.minorticks_off()
        else:
            _bound(axes, panel)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, panel.unit)))
        self._legend([(series.name, colours[series.name]) for series in shown], x, y + height - 20, width)

    def _legend(self, names: Sequence[tuple[str, str]], x: float, y: float, width: float) -> None:
        left, line = x, 0
        for number, (name, colour) in enumerate(names):
            needed = 18 + 6.2 * len(name) + 12
            is_last = number == len(names) - 1
            room = width if line + 1 < LEGEND_LINES or is_last else width - MORE_WIDTH
            if left + needed > x + room:
                if line + 1 == LEGEND_LINES:
                    self.write(left, y, f"+{len(names) - number} more", size=7, colour=FAINT, va="center")
                    break
                left, line, y = x, line + 1, y + 13
            self.write(left, y, "▬", size=7, colour=colour, va="center")
            self.write(left + 16, y, name, size=7, colour=INK, va="center")
            left += needed

    def _figure(
        self, panel: model.Panel, figure: model.Figure, told: Sequence[Told], x: float, y: float, width: float, height: float
    ) -> None:
        each = width / max(1, len(told))
        for number, series in enumerate(told):
            value = series.latest
            colour = next((c for least, c in reversed(figure.colours) if least is None or value >= least), model.GREY)
            colour = NAMED.get(colour, colour)
            text = figure.names.get(f"{value:g}") or text_of(value, panel.unit, panel.decimals)
            size = 21 if len(told) == 1 else 16
            self.write(
                x + number * each + each / 2 - 4, y + height * 0.42, text, size=size, colour=colour, weight="bold", va="center", ha="center"
            )
            if len(told) > 1:
                self.write(x + number * each + each / 2 - 4, y - 4, series.name, size=7, colour=FAINT, ha="center", va="center")

    def _bars(self, panel: model.Panel, told: Sequence[Told], x: float, y: float, width: float, height: float) -> None:
        most = panel.most or max((series.latest for series in told), default=1) or 1
        each = height / max(1, len(told))
        for number, series in enumerate(told):
            thick = min(26.0, each * 0.42)
            middle = y + each * (number + 0.62)
            self.write(x, middle - thick / 2 - 8, series.name, size=8, colour=INK, va="center")
            self.write(
                x + width, middle - thick / 2 - 8, text_of(series.latest, panel.unit, 1), size=9, weight="bold", va="center", ha="right"
            )
            axes = self.axes(x, middle - thick / 2, width, thick)
            axes.set_xlim(0, most)
            axes.set_axis_off()
            axes.barh([0], [most], color=LINE, height=1, alpha=0.6)
            axes.barh([0], [series.latest], color=PALETTE[number % len(PALETTE)], height=1)

    def _heat(self, panel: model.Panel, told: Sequence[Told], x: float, y: float, width: float, height: float) -> None:
        axes = self.axes(x + SCALE_WIDTH, y, width - SCALE_WIDTH, height - FOOT + 16)
        ordered = sorted(told, key=lambda series: float(series.labels["le"]))
        moments, _ = _moments(max(ordered, key=lambda series: len(series.points)))
        columns = [dict(series.points) for series in ordered]
        times = sorted({moment for column in columns for moment in column})
        counts = [[max(0.0, column.get(t, 0) - (columns[n - 1].get(t, 0) if n else 0)) for t in times] for n, column in enumerate(columns)]
        top = max(n for n, row in enumerate(counts) if any(row)) + 1
        cells = [[value if value > 0 else math.nan for value in row] for row in counts[:top]]
        axes.pcolormesh(dates.date2num(moments), range(top), cells, cmap="Blues", vmin=-0.2 * max(map(max, counts)), shading="nearest")
        axes.set_yticks(range(top), [f"≤ {text_of(float(series.labels['le']), panel.unit)}" for series in ordered[:top]])
        _time_axis(axes)
        axes.grid(visible=False)

    def _curve(self, panel: model.Panel, curve: model.Curve, told: Sequence[Told], x: float, y: float, width: float, height: float) -> None:
        axes = self.axes(x + SCALE_WIDTH, y, width - SCALE_WIDTH - 8, height - FOOT - 14)
        points = sorted((float(series.labels[curve.label]), series.latest) for series in told)
        xs, ys = zip(*points, strict=True)
        axes.plot([0, 1], [0, 1], color=model.GREY, lw=1.2, ls="--")
        axes.fill_between(xs, ys, xs, color=NAMED["blue"], alpha=0.12, lw=0)
        axes.plot(xs, ys, color=NAMED["blue"], lw=2, marker="o", ms=4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, panel.unit)))
        axes.grid(color=LINE, lw=0.8)
        axes.set_xlabel(curve.x, fontsize=7.5, color=FAINT, labelpad=4)
        self._legend([(curve.y, NAMED["blue"]), (curve.straight, model.GREY)], x, y + height - 12, width)


# --- axes, colours and numbers -------------------------------------------------------------------------------------------------------


def _moments(series: Told) -> tuple[list[datetime], list[float]]:
    return [datetime.fromtimestamp(moment, UTC) for moment, _ in series.points], [value for _, value in series.points]


def _stack(axes: Axes, shown: Sequence[Told], colours: Mapping[str, str], *, stepped: bool) -> None:
    step, style = ("post", "steps-post") if stepped else (None, "default")
    times = sorted({moment for series in shown for moment, _ in series.points})
    moments = [datetime.fromtimestamp(moment, UTC) for moment in times]
    below = [0.0] * len(times)
    for series in shown:
        values = dict(series.points)
        above = [b + (v if math.isfinite(v := values.get(t, 0.0)) else 0.0) for b, t in zip(below, times, strict=True)]
        axes.fill_between(moments, below, above, color=colours[series.name], alpha=0.45, lw=0, step=step)
        axes.plot(moments, above, color=colours[series.name], lw=1.2, drawstyle=style)
        below = above


def _time_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.MinuteLocator())
    axes.tick_params(axis="x", pad=5)
    axes.grid(color=LINE, lw=0.8)
    axes.margins(x=0)


def _bound(axes: Axes, panel: model.Panel) -> None:
    low, high = axes.get_ylim()
    if not axes.dataLim.height:  # nothing but zeros, say
        high = max(high, 1.0)
    axes.set_ylim(low if panel.least is None else panel.least, high if panel.most is None else panel.most)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))


def _colours(shown: Sequence[Told], fixed: Mapping[str, str]) -> dict[str, str]:
    free = [colour for colour in PALETTE if colour not in {NAMED.get(colour, colour) for colour in fixed.values()}]
    names = [series.name for series in shown if series.name not in fixed]
    chosen = {name: free[number % len(free)] for number, name in enumerate(names)}
    return chosen | {name: NAMED.get(colour, colour) for name, colour in fixed.items()}


def text_of(value: float, unit: str, decimals: int | None = None) -> str:
    """A number as Grafana writes it in this unit, about."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "no data"
    if unit == "percentunit":
        return f"{_short(100 * value, decimals)} %"
    if unit == "s":
        return _duration(value, decimals)
    suffix = {"reqps": " req/s", "ops": " ops/s", "cps": " c/s"}.get(unit, "")
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if abs(value) >= size:
            return _short(value / size, decimals) + letter + suffix
    return _short(value, decimals) + suffix


def _duration(seconds: float, decimals: int | None) -> str:
    for size, letter in ((86_400, " d"), (3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms")):
        if abs(seconds) >= size:
            return _short(seconds / size, decimals) + letter
    return f"{_short(seconds * 1e6, decimals)} µs" if seconds else "0 s"


def _short(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
