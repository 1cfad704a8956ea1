"""What a dashboard and its panels say. Which ones there are stands in `panels/`; how Grafana is told, in `classic`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

RED, ORANGE, GREEN, BLUE, GREY = "red", "orange", "green", "blue", "#8e8e8e"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its series are named. `$job`, `$pool`, `$window` are the dashboard's variables."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """Series over time. `colours` are by legend; `dashed` names series that are bounds rather than figures."""

    colours: Mapping[str, str] = field(default_factory=dict)
    stacked: bool = False
    filled_between: tuple[str, str] | None = None
    """The legends of a lower and an upper bound, with the band between them filled."""
    dashed: tuple[str, ...] = ()
    logarithmic: bool = False
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """The value now, large, or nothing. `colours` are by the value from which they count; the first is the one below all."""

    colours: Sequence[tuple[float | None, str]] = ((None, BLUE),)
    names: Mapping[str, str] = field(default_factory=dict)
    """What is shown instead of a value, such as "up" for 1."""


@dataclass(frozen=True, slots=True)
class Bars:
    """The value of each series now, as bars on one scale."""


@dataclass(frozen=True, slots=True)
class Heat:
    """A histogram over time; the query gives its buckets, by `le`."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The values now against a number that stands in a label, with the straight line between the corners beside them."""

    label: str
    x: str
    y: str
    straight: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `width` of 24 columns, `height` in rows. `unit` is Grafana's name of one."""

    title: str
    description: str
    queries: Sequence[Query]
    shape: Lines | Figure | Bars | Heat | Curve = field(default_factory=Lines)
    unit: str = "short"
    width: int = 12
    height: int = 8
    least: float | None = None
    most: float | None = None
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, placed from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable with fixed values, by the label that a person sees; the first is chosen at first."""

    name: str
    label: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lookup:
    """A variable with the values of a metric's label. With `several`, any number of them, at first all."""

    name: str
    label: str
    metric: str
    value: str
    several: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """All of one dashboard; `uid` is also its file's name."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Choice | Lookup] = ()
    since: str = "now-6h"


JOB: Final = Lookup("job", "Job", "compute_ledger_build_info", "job")
POOL: Final = Lookup("pool", "Pool", 'compute_ledger_pool_seats{job="$job"}', "pool", several=True)
