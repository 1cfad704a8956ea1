"""The benchmark still runs; its figures are for people."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.processes import ROOT


@pytest.mark.long
def test_benchmark_runs() -> None:
    """`python -m tests.bench --quick` prints every row of its table."""
    command = [sys.executable, "-m", "tests.bench", "--quick"]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=50, check=True)
    for row in ("requests/s", "CPU us/request", "CPU us/SSE event", "added latency p50", "added latency p99", "KB/open stream"):
        assert row in finished.stdout


@pytest.mark.long
@pytest.mark.timeout(120)
def test_sharing_seats_costs_no_throughput() -> None:
    """Four callers by weight keep an upstream as busy as one caller's queue does, and nearly as busy as a queue of its own, which has no
    hand-overs; never are more served at a time than there are seats."""
    command = [sys.executable, "-m", "tests.bench.seats", "--rounds", "2", "--seconds", "4"]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=110, check=True)
    for pace in ("step", "spread"):
        row = next(line.split() for line in finished.stdout.splitlines() if line.startswith(f"four-{pace}"))
        of_own, of_one, most = float(row[2]), float(row[3]), int(row[6])
        assert of_one > 0.98
        assert of_own > 0.95  # 0.98 and more on an idle machine
        assert most == 8
