"""The processes of a run: where they are pinned, what CPU they used, and how much memory they have.

The proxy's worker and the bare pass-through take turns on the first core; load, upstream, the ledger's server and the proxy's
parent share the second, so that what is measured is one worker's own work. The ledger's CPU is reported beside it, never hidden.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_LINES_MAX = 200
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[0], CORES[-1]

CONFIGURATION = """
[listen]
proxy = "127.0.0.1:0"
admin = "127.0.0.1:0"
workers = 1

[ledger]
data_dir = "{directory}/ledger"

[[upstream]]
name = "bench"
base_url = "http://127.0.0.1:{upstream_port}"

[[price]]
model = "*"
input = "1"
output = "4"

[[plan]]
name = "everyone"
limits = [ {{ credits = "1000000", window = "month" }} ]

[[account]]
id = "bench"
key_env = "BENCH_KEY"
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to measure: where it listens, and which process does its work."""

    name: str
    port: int
    key: str
    worker: int
    """Process id."""
    others: dict[str, int]
    """Process ids of what it needs besides, by name."""


@contextmanager
def upstream(interval_s: float) -> Iterator[int]:
    """The canned upstream; gives its port."""
    with _module("tests.bench.upstream", "--interval-s", str(interval_s), core=LOAD_CORE) as (port, _):
        yield port


@contextmanager
def bare(upstream_port: int) -> Iterator[Target]:
    """The bare pass-through."""
    with _module("tests.bench.passthrough", f"http://127.0.0.1:{upstream_port}", core=PROXY_CORE) as (port, process):
        yield Target("bare", port, "none", process.pid, {})


@contextmanager
def enforced(upstream_port: int, directory: Path) -> Iterator[Target]:
    """The proxy as `serve` starts it, with one worker and the embedded ledger."""
    file, log = directory / "config.toml", directory / "serve.log"
    file.write_text(CONFIGURATION.format(directory=directory, upstream_port=upstream_port))
    key = f"cl-{secrets.token_urlsafe(32)}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", str(file)],
            cwd=ROOT,
            env={**os.environ, "BENCH_KEY": key},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
        )
    try:
        port = _wait_until_ready(process)
        commands = {pid: _command(pid) for pid in _descendants(process.pid)}
        worker = next(pid for pid in commands if Path(f"/proc/{pid}/comm").read_text() == "ledger-worker\n")
        ledger = next(pid for pid, command in commands.items() if b"valkey-server" in command[0] or b"redis-server" in command[0])
        others = {"ledger": ledger, "parent": process.pid}
        pin(worker, PROXY_CORE)
        for pid in others.values():
            pin(pid, LOAD_CORE)
        yield Target("enforced", port, key, worker, others)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def load(kind: str, target: Target, **options: float) -> dict[str, float]:
    """Run the load generator to its end; what it measured."""
    finished = subprocess.run(_load_command(kind, target, options), cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True)
    result: dict[str, float] = json.loads(finished.stdout)
    return result


@contextmanager
def open_streams(target: Target, count: int) -> Iterator[None]:
    """Keep `count` silent streams open through a target."""
    command = _load_command("silent", target, {"connections": count})
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"open\n":
            raise SystemExit("the load generator could not open its streams")
        yield
        process.communicate(b"\n", timeout=60)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, all its threads together."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def memory_bytes(pid: int) -> int:
    """Private resident memory."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.MULTILINE))


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _load_command(kind: str, target: Target, options: dict[str, float]) -> list[str]:
    flags = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]
    pinned = ["--core", str(LOAD_CORE)]
    return [sys.executable, "-m", "tests.bench.load", kind, "--port", str(target.port), "--key", target.key, *pinned, *flags]


@contextmanager
def _module(name: str, *arguments: str, core: int) -> Iterator[tuple[int, subprocess.Popen[Any]]]:
    """A module of the benchmark that says its port and serves until its standard input closes."""
    command = [sys.executable, "-m", name, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if len(line) != 2:
            raise SystemExit(f"{name} did not start")
        pin(process.pid, core)
        yield int(line[1]), process
        process.communicate(timeout=10)


def _wait_until_ready(process: subprocess.Popen[bytes]) -> int:
    """The proxy's port, from the line that says `ready`."""
    assert process.stderr is not None
    said = []
    for _ in range(START_LINES_MAX):
        line = process.stderr.readline().decode(errors="replace")
        if not line:
            break
        said.append(line)
        port = re.search(r"127\.0\.0\.1:(\d+)", line)
        if "ready" in line and port:
            return int(port.group(1))
    raise SystemExit("the proxy did not start:\n" + "".join(said))


def _descendants(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], stdout=subprocess.PIPE, check=False).stdout.split()
    children = [int(child) for child in listing]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _command(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
