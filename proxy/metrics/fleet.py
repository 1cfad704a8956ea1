"""The numbers of all processes together, and the page on which Prometheus reads them. Must not know how snapshots travel."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.metrics.counting import Metrics, Snapshot
from proxy.metrics.definition import Definition, Labels
from proxy.metrics.published import BY_NAME, DEFINITIONS

PREFIX: Final = "compute_ledger_"


class Fleet:
    """The numbers of every process: the parent's own, the living workers' last snapshots, and what ended workers had counted."""

    def __init__(self, own: Metrics) -> None:
        self._own = own
        self._living: dict[str, Snapshot] = {}
        self._ended: Snapshot = {}

    def reported(self, process: str, snapshot: Snapshot) -> None:
        """Take a living process's newest snapshot; it replaces the one before."""
        self._living[process] = snapshot

    def ended(self, process: str) -> None:
        """Keep an ended process's counters, so that no sum ever falls, and drop its gauges."""
        last = self._living.pop(process, {})
        counters = {name: rows for name, rows in last.items() if BY_NAME[name].kind != "gauge"}
        self._ended = _sum((self._ended, counters))

    def snapshots(self) -> tuple[Snapshot, ...]:
        """All that `render` needs; none of it changes later, so it may be rendered in a thread."""
        return (self._own.snapshot(), *self._living.values(), self._ended)


def render(snapshots: Collection[Snapshot], accept: str = "") -> tuple[bytes, str]:
    """The page for Prometheus in the format that the scrape's Accept header prefers, and its content type."""
    registry = CollectorRegistry()
    registry.register(_Page(_sum(snapshots)))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _sum(snapshots: Iterable[Snapshot]) -> Snapshot:
    merged: dict[str, dict[Labels, list[float]]] = defaultdict(dict)
    for snapshot in snapshots:
        for name, rows in snapshot.items():
            add = min if BY_NAME[name].across == "min" else operator.add
            into = merged[name]
            for values, numbers in rows:
                labels = tuple(values)  # JSON made a list of it
                before = into.get(labels)
                into[labels] = numbers if before is None else [add(a, b) for a, b in zip(before, numbers, strict=True)]
    return {name: list(rows.items()) for name, rows in merged.items()}


class _Page(Collector):
    def __init__(self, totals: Snapshot) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        for definition in DEFINITIONS:
            yield _family(definition, self._totals.get(definition.name, []))


def _family(definition: Definition, rows: list[tuple[Labels, list[float]]]) -> Metric:
    name, labels = PREFIX + definition.name, definition.labels
    if definition.kind == "histogram":
        histogram = HistogramMetricFamily(name, definition.help, labels=labels)
        for values, numbers in rows:
            histogram.add_metric(values, _cumulative(definition.buckets, numbers[:-1]), numbers[-1])
        return histogram
    family = (CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily)(name, definition.help, labels=labels)
    if not rows and not labels and definition.kind == "counter":
        rows = [((), [0.0])]  # an alert on a counter needs the zero that it rises from
    for values, numbers in rows:
        family.add_metric(values, numbers[0] / definition.unit)
    return family


def _cumulative(buckets: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    bounds = (*(str(bound) for bound in buckets), "+Inf")
    return list(zip(bounds, accumulate(counts), strict=True))
