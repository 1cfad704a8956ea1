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


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_ledger_with_many_accounts_is_measured() -> None:
    """`python -m tests.bench.million`, with a few hundred: everybody is opened, counted and in balance."""
    command = [sys.executable, "-m", "tests.bench.million", "--accounts", "300", "--openers", "2", "--quiet-s", "1"]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=140, check=True)
    found = dict(line.split("  ", 1) for line in finished.stdout.splitlines())
    assert found["people, organisations"].split()[:2] == ["300,", "15,"]
    assert found["people that are counted, with use"].split()[0] == "300,"
    assert found["conservation errors"].split()[-1] == "0.0"
    assert "of 20" in found["a scrape"]
