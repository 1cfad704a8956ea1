"""What sharing seats by weight costs in throughput, beside first come first served on the same upstream; `python -m tests.bench.seats`.

Every way goes through the same proxy of two workers to the same upstream, with more callers than seats: `own` lets the upstream queue by
itself, which is first come first served without any hand-over; `one` has all requests from one caller, which is first come first served by
the proxy's queue; `four` shares among four callers. `busy` is the part of the time in which seats were taken; `empty` how long one that
somebody waited for was not. The floor is what a hand-over's way takes without anything done on it: a message through the ledger server
and one request to an idle upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import uvloop

from tests.bench.load import Connection, connect, request
from tests.bench.processes import ROOT, _module, _wait_until_ready
from tests.support.ledger_server import LedgerServer, ledger_binaries, running

SEATS, PARALLEL, CALLERS = 8, 32, 4
FLOOR_ROUNDS = 300
WAYS = {"own": 1, "one": 1, "four": CALLERS}
"""How many callers each way has."""
PACES = ("step", "spread")

UPSTREAM = """
[[upstream]]
name = "{name}"
models = ["{name}"]
base_url = "http://127.0.0.1:{port}"
{seats}
"""
CONFIGURATION = """
[listen]
proxy = "127.0.0.1:0"
admin = "127.0.0.1:0"
workers = 2

[ledger]
url = "{ledger}"
data_dir = "{directory}/data"
{upstreams}
[[price]]
model = "*"
input = "1"
output = "4"

[[plan]]
name = "everyone"
limits = [ {{ credits = "1000000", window = "month" }} ]
{accounts}
"""


@contextmanager
def proxied(directory: Path, ledger: str, upstream_port: int, keys: Sequence[str]) -> Iterator[int]:
    """A proxy of two workers with a pool for each way and pace; gives its port."""
    upstreams = "".join(
        UPSTREAM.format(
            name=f"{way}-{pace}", port=upstream_port, seats="" if way == "own" else f"seats = {SEATS}\nqueue_depth_per_account = 1000"
        )
        for way in WAYS
        for pace in PACES
    )
    accounts = "".join(f'[[account]]\nid = "c{number}"\nkey_env = "BENCH_KEY_{number}"\n' for number in range(len(keys)))
    file, log = directory / "config.toml", directory / "serve.log"
    file.write_text(CONFIGURATION.format(directory=directory, ledger=ledger, upstreams=upstreams, accounts=accounts))
    named = {f"BENCH_KEY_{number}": key for number, key in enumerate(keys)}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", str(file)],
            cwd=ROOT,
            env={**os.environ, **named},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
        )
    try:
        yield _wait_until_ready(process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def press(port: int, model: str, keys: Sequence[str], seconds: float) -> None:
    """Keep so many connections busy for a time, the callers having as many each."""
    ends_s = time.perf_counter() + seconds
    over, open_count = asyncio.Event(), PARALLEL

    def done(connection: Connection) -> None:
        nonlocal open_count
        if connection.broken:
            sys.exit("seats: the proxy closed a connection")
        if time.perf_counter() < ends_s:
            connection.send(asks[connection], 0.0)
        else:
            open_count -= 1
            if not open_count:
                over.set()

    connections = [await connect(port, done) for _ in range(PARALLEL)]
    asks = {connection: request(port, keys[number % len(keys)], model=model) for number, connection in enumerate(connections)}
    for connection in connections:
        connection.send(asks[connection], 0.0)
    await over.wait()
    for connection in connections:
        connection.broken = True
        connection.transport.close()


async def seen(port: int) -> Any:
    """What the upstream's rooms have seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    answer = await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
    writer.close()
    return json.loads(answer)


def busy(room: dict[str, list[float]]) -> float:
    """The part of the time in which seats were taken, from when all were for the first time to when the last ones began."""
    begins_s, ends_s = room["began_s"][SEATS - 1], room["began_s"][-SEATS]
    services = zip(room["began_s"], sorted(room["ended_s"]), strict=True)  # a sum does not ask which service it was that ended
    taken_s = sum(max(0.0, min(end_s, ends_s) - max(began_s, begins_s)) for began_s, end_s in services)
    return taken_s / (SEATS * (ends_s - begins_s))


def empty_ms(room: dict[str, list[float]]) -> list[float]:
    """How long each seat was empty before it was taken again."""
    return [1000 * (began_s - ended_s) for ended_s, began_s in zip(room["ended_s"], room["began_s"][SEATS:], strict=False)]


async def floor_ms(server: LedgerServer, upstream_port: int) -> float:
    """A message from one process' connection to another's, and a request and its answer's first byte, with nothing else done."""
    taken: list[float] = []
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    ears, mouth = await asyncio.open_unix_connection(str(server.socket))
    mouth.write(hiredis.pack_command(("SUBSCRIBE", "bench")))
    await ears.read(2**16)
    there = asyncio.Event()

    def done(_: Connection) -> None:
        there.set()

    upstream = await connect(upstream_port, done)
    ask = request(upstream_port, "none", model="floor-step")
    for _ in range(FLOOR_ROUNDS):
        began_s = time.perf_counter()
        writer.write(hiredis.pack_command(("PUBLISH", "bench", "pool ticket")))
        await ears.read(2**16)
        there.clear()
        upstream.send(ask, began_s)
        await there.wait()
        taken.append(1000 * (time.perf_counter() - began_s))
        await reader.read(2**16)
    for each in (writer, mouth, upstream.transport):
        each.close()
    return statistics.median(taken)


async def measured(port: int, upstream_port: int, keys: Sequence[str], *, rounds: int, seconds: float) -> dict[str, list[Any]]:
    """What each room saw, the ways taking turns so that a busy moment of the machine hits all."""
    rooms: dict[str, list[Any]] = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for pace in PACES:
            for way, callers in WAYS.items():
                name = f"{way}-{pace}"
                await press(port, name, keys[:callers], seconds)
                rooms.setdefault(name, []).append((await seen(upstream_port))[name])
    return rooms


def table(rooms: dict[str, list[Any]], service_s: float) -> str:
    lines = [f"services of {1000 * service_s:.0f} ms, {SEATS} seats, {PARALLEL} requests at a time", ""]
    lines.append(f"{'':16}{'busy':>8}{'of own':>9}{'of one':>9}{'empty p50':>12}{'p90':>8}{'most':>6}")

    def median(name: str, figure: Callable[[Any], float]) -> float:
        return statistics.median(figure(room) for room in rooms[name])

    for pace in PACES:
        for way in WAYS:
            name = f"{way}-{pace}"
            part = median(name, busy)
            gaps = sorted(gap for room in rooms[name] for gap in empty_ms(room))
            of = [part / median(f"{other}-{pace}", busy) for other in ("own", "one")]
            most = max(room["most"] for room in rooms[name])
            lines.append(
                f"{name:16}{part:8.3f}{of[0]:9.3f}{of[1]:9.3f}{statistics.median(gaps):12.2f}{gaps[len(gaps) * 9 // 10]:8.2f}{most:6}"
            )
    return "\n".join(lines)


async def run(*, rounds: int, seconds: float, service_s: float) -> None:
    keys = [f"cl-{secrets.token_urlsafe(32)}" for _ in range(CALLERS)]
    name, binary = next(iter(ledger_binaries().items()))
    cores = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory() as directory,
        running(name, binary, Path(directory)) as server,
        _module("tests.bench.scarce", "--seats", str(SEATS), "--service-s", str(service_s), core=min(cores)) as (upstream_port, upstream),
        _module("tests.bench.scarce", "--seats", str(SEATS), "--service-s", "0", core=max(cores)) as (idle_port, idle),
        proxied(Path(directory), server.url, upstream_port, keys) as port,
    ):
        for process in (upstream, idle):
            os.sched_setaffinity(process.pid, cores)
        await press(port, "four-spread", keys, 2.0)  # warm: connections, caches; a new pool's first second
        await press(port, "one-step", keys[:1], 2.0)
        await seen(upstream_port)
        floor = await floor_ms(server, idle_port)
        rooms = await measured(port, upstream_port, keys, rounds=rounds, seconds=seconds)
        print(table(rooms, service_s))
        print(f"\nMedians of {rounds} round(s) of {seconds:g} s. The floor of a hand-over here: {floor:.2f} ms.")


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.seats", description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--service-s", type=float, default=0.25)
    given = arguments.parse_args()
    uvloop.run(run(rounds=given.rounds, seconds=given.seconds, service_s=given.service_s))


if __name__ == "__main__":
    main()
