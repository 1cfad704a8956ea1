"""What a metric is: its name, its help, its bounded labels, and how those of several processes become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.domain import NANOCREDITS_PER_CREDIT

Labels = tuple[str, ...]
Rows = dict[Labels, float]
"""The values of a counter or gauge, by the values of its labels."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric. `across` says how a gauge of several processes becomes one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()
    across: Literal["sum", "min"] = "sum"
    unit: int = 1
    """The page shows what was counted divided by this: amounts are counted in nanocredits, so that they stay exact."""


def histogram(name: str, help: str, buckets: tuple[float, ...], labels: Labels = ()) -> Definition:
    return Definition(name, "histogram", help, labels, buckets)


def credits(name: str, kind: Literal["counter", "gauge"], help: str, labels: Labels = ()) -> Definition:
    return Definition(name, kind, help, labels, unit=NANOCREDITS_PER_CREDIT)
