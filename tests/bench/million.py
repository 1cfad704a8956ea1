"""A ledger with a million real accounts: `python -m tests.bench.million --accounts 1000000`, half an hour or more, and 2 GB of memory.

Every person is opened with a key as the admin API opens it, in organisations of twenty, every tenth with limits of its own; every tenth has
made a request. Then a proxy starts on it, with nothing prepared for it: it counts all use anew, audits and tells figures, as always.
Measured are what that takes of the ledger's server and of the parent, and what whoever asks must wait meanwhile, and afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.app.use import flushing
from proxy.config import LedgerSection
from proxy.domain import AccountId, Limit, Plan
from proxy.ledger import Store, open_ledger
from proxy.ledger.equality import Counting, read_counting
from proxy.processes.jobs import Job, running
from tests.bench.processes import ROOT, cpu_s, memory_bytes
from tests.support import ledger_server
from tests.support.deployment import Deployment, serving, until
from tests.support.ledger_server import LedgerServer, ledger_binaries

ORGANISATION = 20
"""People of one."""
OPENED_AT_ONCE = 16
EVERY = 10
"""One of so many has limits of its own, and one has made a request."""
COST = 1_000_000
"""Nanocredits of a request."""
SCRAPES = 20
PROBE_S = 0.02
"""Between two of the requests that wait for the server."""
SLOW_US = 200
PLAN = Plan("everyone", (Limit(10**12, "day"), Limit(10**13, "month")))
CONFIGURATION = """
[[upstream]]
name = "nowhere"
base_url = "http://127.0.0.1:9"

[[price]]
model = "*"
input = "1"

[[plan]]
name = "everyone"
limits = [ { credits = "1000", window = "day" }, { credits = "10000", window = "month" } ]
"""


@dataclass(slots=True)
class Waits:
    """How long something took, each time."""

    ms: list[float] = field(default_factory=list)

    async def of(self, act: Callable[[], Awaitable[object]]) -> None:
        began_s = time.perf_counter()
        await act()
        self.ms.append((time.perf_counter() - began_s) * 1000)

    def part(self, share: float) -> float:
        return sorted(self.ms)[math.ceil(share * len(self.ms)) - 1]

    def __str__(self) -> str:
        return f"p50 {self.part(0.5):.1f} ms, p99 {self.part(0.99):.1f} ms, at most {max(self.ms):.1f} ms of {len(self.ms)}"


def verb_of(command: bytes) -> str:
    """A command, or the verb that it calls."""
    words = command.decode(errors="replace").split()
    return words[1].rpartition("_")[2] if words[0] == "FCALL" else words[0]


def say(what: str, found: object) -> None:
    print(f"{what:46} {found}", flush=True)


class Town:
    """The accounts, and who looks at them."""

    def __init__(self, server: LedgerServer, store: Store, people: int) -> None:
        self.server = server
        self.store = store
        self.people = people
        with server.client() as client:
            self.server_pid = int(client.info("server")["process_id"])

    @property
    def accounts(self) -> int:
        return self.people + math.ceil(self.people / ORGANISATION)

    async def open_all(self, openers: int) -> None:
        """Several processes at once open them."""
        await self.store.directory.put_plan(PLAN, operation_id="plan")
        there = self.accounts - self.people
        bounds = [there * n // openers for n in range(openers + 1)]
        command = (sys.executable, "-m", "tests.bench.million", "--accounts", str(self.people), "--url", self.server.url, "--opens")
        processes = [
            await asyncio.create_subprocess_exec(*command, str(first), str(until), cwd=ROOT) for first, until in itertools.pairwise(bounds)
        ]
        ended = [await process.wait() for process in processes]
        assert not any(ended), "all were opened"

    async def open_some(self, organisations: Iterator[int]) -> None:
        """Open organisations with their people, until there are no more."""
        directory = self.store.directory
        for number in organisations:
            organisation = AccountId(f"org:{number:06}")
            await directory.create_account(organisation, plan=PLAN.name, operation_id=organisation)
            for n in range(number * ORGANISATION, min(self.people, (number + 1) * ORGANISATION)):
                person = AccountId(f"person:{n:07}")
                limits = (Limit(10**11, "day"),) if n % EVERY == 1 else None
                account = await directory.create_account(person, parent=organisation, plan=PLAN.name, limits=limits, operation_id=person)
                await directory.create_key(person, operation_id=f"key of {person}")
                if n % EVERY == 0:
                    await self.request(account.path, f"first of {person}")

    async def request(self, path: tuple[AccountId, ...], hold_id: str) -> None:
        await self.store.ledger.hold(path, hold_id, want_nanocredits=COST, least_nanocredits=1)
        await self.store.ledger.settle(path, hold_id, spent_nanocredits=COST)

    @contextlib.asynccontextmanager
    async def probing(self) -> AsyncIterator[Waits]:
        """One request after the other, as long as it lasts, by people all over the town."""
        waits = Waits()

        async def probe() -> None:
            number = len(waits.ms)
            person = AccountId(f"person:{number * 7919 % self.people:07}")
            path = await self.store.directory.path(person)
            await waits.of(lambda: self.request(path, f"probe {time.monotonic_ns()}"))

        async with running(Job("probing", PROBE_S, probe), flushing(self.store), Job("following", 0.25, self.store.directory.refresh)):
            yield waits
            while not waits.ms:  # noqa: ASYNC110 - the job beside sets no event
                await asyncio.sleep(PROBE_S)

    def memory(self) -> int:
        with self.server.client() as client:
            return int(client.info("memory")["used_memory"])

    @contextlib.contextmanager
    def slowest(self, what: str) -> Iterator[None]:
        """Say which commands took the server longest meanwhile."""
        with self.server.client() as client:
            client.config_set("slowlog-max-len", 10_000)
            client.config_set("slowlog-log-slower-than", SLOW_US)
            client.slowlog_reset()
            yield
            found = sorted(client.slowlog_get(10_000), key=lambda entry: -entry["duration"])
        worst = ", ".join(f"{entry['duration'] / 1000:.1f} ms {verb_of(entry['command'])}" for entry in found[:3])
        say(what, worst or f"none above {SLOW_US / 1000} ms")

    @contextlib.contextmanager
    def working(self, what: str, parent_pid: int) -> Iterator[None]:
        """Say what it took of the server and of the parent."""
        pids, began_s = (self.server_pid, parent_pid), time.monotonic()
        before = [cpu_s(pid) for pid in pids]
        yield
        took_s = time.monotonic() - began_s
        used = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
        say(what, f"{took_s:.1f} s; CPU a minute: server {used[0] / took_s * 60:.1f} s, parent {used[1] / took_s * 60:.1f} s")


async def opens(url: str, people: int, numbers: range) -> None:
    """What one of the processes does that open accounts."""
    async with open_ledger(LedgerSection(deadline_ms=60_000), url=url) as store:
        town, organisations = Town(LedgerServer("", Path(url.removeprefix("unix://"))), store, people), iter(numbers)
        async with running(flushing(store), Job("following the ledger", 0.25, store.directory.refresh)):
            await asyncio.gather(*(town.open_some(organisations) for _ in range(OPENED_AT_ONCE)))
        await store.equality.flush()


async def scrape(deployment: Deployment, waits: Waits) -> None:
    for _ in range(SCRAPES):
        await waits.of(deployment.metrics)
        await asyncio.sleep(0.1)


async def measure(town: Town, directory: Path, *, quiet_s: float) -> None:
    """All that a proxy does with it."""
    counted_ms = (await read_counting(town.store.engine)).counted_ms

    async def counting() -> Counting:
        await asyncio.sleep(0.05)
        return await read_counting(town.store.engine)

    began_s = time.monotonic()
    async with serving(directory, CONFIGURATION, workers=1, ledger_url=town.server.url) as deployment:
        say("a proxy is ready after", f"{time.monotonic() - began_s:.1f} s")
        parent, scrapes = deployment.process.pid, Waits()
        with town.slowest("recount, longest commands"), town.working("recount", parent):
            async with town.probing() as requests, asyncio.timeout(3600):
                scraping = asyncio.create_task(scrape(deployment, scrapes))
                done = await until(counting, lambda found: found.counted_ms > counted_ms)
                await scraping
        drift = max(window["of_use"] for window in json.loads(done.drifts))
        say("recount, by itself", f"{(done.counted_ms - done.began_ms) / 1000:.1f} s; it corrected {drift:.4%} of all use")
        say("recount, a hold and a settle beside it", requests)
        say("recount, a scrape beside it", scrapes)

        with town.slowest("afterwards, longest commands"), town.working("afterwards", parent):
            await asyncio.sleep(quiet_s)
        scrapes, shown, pages, found = Waits(), Waits(), Waits(), {}
        await scrape(deployment, scrapes)
        for _ in range(SCRAPES):
            for path in ("equality", "equality?window=half_life&group=plan"):
                await shown.of(lambda path=path: deployment.admin("GET", path))
            for after in ("", f"&after=person:{town.people - 200:07}"):
                await pages.of(lambda after=after: deployment.admin("GET", f"accounts?limit=100{after}"))
        async with town.probing() as requests:
            await asyncio.sleep(min(quiet_s, 10))
        say("a scrape", scrapes)
        say("/admin/v1/equality", shown)
        say("a page of 100 accounts, the first or the last", pages)
        say("a hold and a settle", requests)
        for name, pid in (("parent", parent), ("worker", deployment.workers()[0])):
            say(f"memory of the {name}", f"{memory_bytes(pid) / 1e6:.0f} MB")
        found = await deployment.admin("GET", "equality")
        say("people that are counted, with use", f"{found['accounts']}, {found['active']}")
        say(
            "conservation errors",
            next(line for line in (await deployment.metrics()).splitlines() if line.startswith("compute_ledger_conservation_errors")),
        )
    began_s = time.monotonic()
    async with serving(directory, CONFIGURATION, workers=1, ledger_url=town.server.url):
        say("a proxy is ready again after", f"{time.monotonic() - began_s:.1f} s")


async def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.million", description=__doc__)
    arguments.add_argument("--accounts", type=int, default=1_000_000, help="people")
    arguments.add_argument("--server", choices=[*ledger_binaries()], default=next(iter(ledger_binaries())), help="the ledger server")
    arguments.add_argument("--quiet-s", type=float, default=60.0, help="how long to watch the proxy afterwards")
    arguments.add_argument("--openers", type=int, default=4, help="processes that open accounts")
    arguments.add_argument("--url", help=argparse.SUPPRESS)
    arguments.add_argument("--opens", type=int, nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.opens:
        await opens(given.url, given.accounts, range(*given.opens))
        return
    with tempfile.TemporaryDirectory() as place:
        server_directory, proxy_directory = Path(place) / "server", Path(place) / "proxy"
        server_directory.mkdir()
        proxy_directory.mkdir()
        with ledger_server.running(given.server, ledger_binaries()[given.server], server_directory) as server:
            async with open_ledger(LedgerSection(deadline_ms=60_000), url=server.url) as store:
                town = Town(server, store, given.accounts)
                empty, began_s, cpu_before_s = town.memory(), time.monotonic(), cpu_s(town.server_pid)
                await town.open_all(given.openers)
                took_s, used = time.monotonic() - began_s, town.memory() - empty
                say("people, organisations", f"{town.people}, {town.accounts - town.people}, on {given.server}")
                say("opened in", f"{took_s:.0f} s, {cpu_s(town.server_pid) - cpu_before_s:.0f} s of it CPU of the server")
                say("memory of the server", f"{used / 1e6:.0f} MB, {used / town.accounts:.0f} bytes an account")
                await measure(town, proxy_directory, quiet_s=given.quiet_s)


if __name__ == "__main__":
    asyncio.run(main())
