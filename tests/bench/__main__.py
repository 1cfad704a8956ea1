"""Runs the benchmark and prints one small table; `--quick` is a smoke test of seconds with rough figures."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import Target, bare, cpu_s, enforced, load, memory_bytes, open_streams, upstream

INTERVAL_S = 0.02
CONNECTIONS = 32

Figures = dict[str, dict[str, list[float]]]
"""Measurement, then target, then one figure for each round."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How long and how much is measured."""

    rounds: int
    json_s: float
    streams: int
    events: int
    rate_s: float
    rate_per_s: float
    silent: int


FULL = Extent(rounds=3, json_s=4, streams=200, events=250, rate_s=4, rate_per_s=500, silent=500)
QUICK = Extent(rounds=1, json_s=1, streams=20, events=25, rate_s=1, rate_per_s=200, silent=50)


def measure_json(target: Target, extent: Extent, figures: Figures) -> None:
    load("json", target, connections=CONNECTIONS, seconds=extent.json_s / 4)  # Warm: connections, caches, first allocations.
    worker_s, others_s = cpu_s(target.worker), {name: cpu_s(pid) for name, pid in target.others.items()}
    result = load("json", target, connections=CONNECTIONS, seconds=extent.json_s)
    figures["requests/s"][target.name].append(result["answers"] / result["seconds"])
    figures["CPU us/request"][target.name].append(1e6 * (cpu_s(target.worker) - worker_s) / result["answers"])
    for name, before_s in others_s.items():
        figures[f"  and in the {name}"][target.name].append(1e6 * (cpu_s(target.others[name]) - before_s) / result["answers"])


def measure_streams(target: Target, extent: Extent, figures: Figures) -> None:
    worker_s, others_s = cpu_s(target.worker), {name: cpu_s(pid) for name, pid in target.others.items()}
    result = load("streams", target, connections=extent.streams, events=extent.events, interval_s=INTERVAL_S)
    figures["CPU us/SSE event"][target.name].append(1e6 * (cpu_s(target.worker) - worker_s) / result["events"])
    for name, before_s in others_s.items():
        figures[f"   and in the {name}"][target.name].append(1e6 * (cpu_s(target.others[name]) - before_s) / result["events"])


def measure_rate(target: Target, extent: Extent, figures: Figures) -> None:
    result = load("rate", target, per_s=extent.rate_per_s, seconds=extent.rate_s)
    for percentile in ("p50_ms", "p99_ms"):
        figures[percentile][target.name].append(result[percentile])


def measure_memory(target: Target, extent: Extent, figures: Figures) -> None:
    with open_streams(target, extent.silent // 20):
        pass  # a worker that was forked makes pages its own by touching them for the first time: that is no stream's memory
    before = memory_bytes(target.worker)
    with open_streams(target, extent.silent):
        figures["KB/open stream"][target.name].append((memory_bytes(target.worker) - before) / extent.silent / 1024)


def measure(extent: Extent) -> Figures:
    """All measurements, the targets taking turns within each round so that a busy moment of the machine hits both."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as directory, upstream(INTERVAL_S) as upstream_port:
        direct = Target("direct", upstream_port, "none", 0, {})
        with bare(upstream_port) as plain, enforced(upstream_port, Path(directory)) as proxy:
            for target in (plain, proxy):
                measure_memory(target, extent, figures)
            for number in range(extent.rounds):
                print(f"round {number + 1} of {extent.rounds}", file=sys.stderr)
                for target in (plain, proxy):
                    measure_json(target, extent, figures)
                for target in (plain, proxy):
                    measure_streams(target, extent, figures)
                for target in (direct, plain, proxy):
                    measure_rate(target, extent, figures)
    return figures


def table(figures: Figures, extent: Extent) -> str:
    """Medians of the rounds, and the ratio of the enforced proxy to the bare pass-through."""
    lines = [f"{'':34}{'bare':>10}{'enforced':>10}{'ratio':>8}"]

    def row(label: str, plain: float | None, proxy: float) -> None:
        digits = 2 if proxy < 10 else 0
        left = f"{plain:10.{digits}f}" if plain is not None else f"{'':10}"
        ratio = f"{proxy / plain:8.2f}" if plain else ""
        lines.append(f"{label:34}{left}{proxy:10.{digits}f}{ratio}")

    medians = {name: {target: statistics.median(rounds) for target, rounds in by.items()} for name, by in figures.items()}
    for name, by_target in medians.items():
        if name in ("p50_ms", "p99_ms"):
            added = {target: by_target[target] - by_target["direct"] for target in ("bare", "enforced")}
            label = f"added latency {name.removesuffix('_ms')}, ms, {extent.rate_per_s:.0f}/s"
            row(label, added["bare"], added["enforced"])
        else:
            row(name, by_target.get("bare"), by_target["enforced"])
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="a few seconds: does it run at all?")
    extent = QUICK if arguments.parse_args().quick else FULL
    figures = measure(extent)
    print(table(figures, extent))
    print(f"\nMedians of {extent.rounds} round(s); one worker on one core; {CONNECTIONS} connections; {extent.streams} streams.")


if __name__ == "__main__":
    main()
