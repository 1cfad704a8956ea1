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
