"""What it costs the ledger's server to count use, by the traffic: `python -m tests.bench.counting`.

Everybody's requests, each a hold and a settle two levels deep, one after the other as they come; and each process tells what it has counted
once a second. Compared are the same requests without counting (`uncounted`), counted and never told, and told. All that was told is folded
before the measured seconds, and again, as a part of them, at their end. Nothing waits for a clock: a second is what is asked for in one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

from proxy.app.equality import MEASURE_S
from proxy.config import LedgerSection
from proxy.domain import AccountId, Limit, Plan
from proxy.domain import Path as AccountPath
from proxy.ledger import Store, open_ledger
from tests.bench.server_work import ServerWork, working
from tests.bench.uncounted import uncounted
from tests.support.ledger_server import ledger_binaries

WARM_S = 10
"""Seconds of traffic before anything is measured."""
ORGANISATION = 20
"""People of one."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who asks how often, through how many processes."""

    people: int
    every_s: float
    """Between two requests of one person."""
    processes: int = 1
    at_once: int = 1
    """Requests that share a write."""
    seconds: int = 20

    def requests(self, second: int) -> range:
        """The numbers of a second's requests; everybody has a turn before anybody has two."""
        per_s = self.people / self.every_s
        return range(int(second * per_s), int((second + 1) * per_s))

    def __str__(self) -> str:
        return f"{self.people:6} {self.every_s:5g} {self.processes:5} {self.at_once:5}"


TRAFFIC = (
    Traffic(1, 1, seconds=600),
    Traffic(10, 1),
    Traffic(100, 1),
    Traffic(100, 1, processes=4),
    Traffic(100, 1, processes=16),
    Traffic(50, 1, processes=16, seconds=120),
    Traffic(20, 1, processes=16, seconds=120),
    Traffic(64, 1, processes=64, seconds=60),
    Traffic(1000, 10),
    Traffic(1000, 10, processes=16),
    Traffic(3000, 60, processes=4),
    Traffic(1000, 1, seconds=10),
    Traffic(100, 0.5, at_once=12, seconds=5),
)


class Town:
    """People, and the processes that serve them in turns."""

    def __init__(self, traffic: Traffic, stores: list[Store]) -> None:
        self.traffic = traffic
        self.stores = stores
        self.paths: list[AccountPath] = []
        chance = random.Random(1)
        self.costs = [max(10, int(chance.lognormvariate(13, 1.5))) for _ in range(traffic.people)]

    async def settle_down(self) -> None:
        """Open all accounts."""
        directory = self.stores[0].directory
        await directory.put_plan(Plan("everyone", (Limit(10**15, "day"),)), operation_id="plan")
        for store in self.stores:
            await store.directory.refresh()
        for n in range(self.traffic.people):
            parent = AccountId(f"org:{n // ORGANISATION}")
            if n % ORGANISATION == 0:
                await directory.create_account(parent, plan="everyone", operation_id=parent)
            account = await directory.create_account(AccountId(f"user:{n}"), parent=parent, plan="everyone", operation_id=f"user:{n}")
            self.paths.append(account.path)
        for store in self.stores:
            await store.directory.refresh()

    async def serve(self, second: int) -> None:
        requests = self.traffic.requests(second)
        for start in range(requests.start, requests.stop, self.traffic.at_once):
            some = range(start, min(requests.stop, start + self.traffic.at_once))
            await asyncio.gather(*(self._hold(number) for number in some))
            await asyncio.gather(*(self._settle(number) for number in some))

    def _of(self, number: int) -> tuple[Store, AccountPath, str, int]:
        person = number % len(self.paths)
        return self.stores[number % len(self.stores)], self.paths[person], f"request-{number}", self.costs[person]

    async def _hold(self, number: int) -> None:
        store, path, hold_id, cost = self._of(number)
        await store.ledger.hold(path, hold_id, want_nanocredits=cost, least_nanocredits=1)

    async def _settle(self, number: int) -> None:
        store, path, hold_id, cost = self._of(number)
        await store.ledger.settle(path, hold_id, spent_nanocredits=cost)

    async def tell(self, second: int) -> None:
        """Flush, by this town's seconds."""
        for store in self.stores:
            await store.equality.flush()
        if second % int(MEASURE_S) == 0:  # a reader folds, where there is much
            await self.stores[0].equality.folding.read()


async def measure(work: ServerWork, traffic: Traffic, *, is_told: bool) -> float:
    """The server's work for each request; it has forgotten the verbs, too, with what they keep of paths that they have seen."""
    with work.server.client() as client:
        client.flushall()
        client.script_flush()
        client.execute_command("FUNCTION", "FLUSH")
    section = LedgerSection(url=work.server.url, deadline_ms=60_000)
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_ledger(section)) for _ in range(traffic.processes)]
        town, folding = Town(traffic, stores), stores[0].equality.folding

        async def live(seconds: range) -> None:
            for second in seconds:
                await town.serve(second)
                if is_told:
                    await town.tell(second)
            if is_told:
                await folding.fold()

        await town.settle_down()
        await live(range(WARM_S))
        work.taken()
        measured = range(WARM_S, WARM_S + traffic.seconds)
        await live(measured)
        return work.taken() / sum(len(traffic.requests(second)) for second in measured)


async def compare(work: ServerWork, traffic: Traffic, times: int) -> str:
    """One row of the table: medians, for one run differs from the next by some hundredths, whatever it counts."""
    offs, untold, ons = [], [], []
    for _ in range(times):
        with uncounted():
            offs.append(await measure(work, traffic, is_told=False))
        untold.append(await measure(work, traffic, is_told=False))
        ons.append(await measure(work, traffic, is_told=True))
    off, verbs, on = median(offs), median(untold), median(ons)
    shares = f"{(verbs - off) / off:8.1%} {(on - verbs) / off:8.1%} {(on - off) / off:8.1%}"
    return f"{traffic} {off:10.0f} {verbs:10.0f} {on - verbs:10.0f} {shares}"


async def table(name: str, only: Collection[int] | None = None, times: int = 1) -> None:
    """Print what is added, row by row."""
    with working(name, ledger_binaries()[name]) as work:
        if work.unit == "us":
            print("valgrind is not here: CPU time of the server instead of instructions, which differs with what else the machine does")
        print(f"{name}, in {work.unit} a request")
        print(" people every procs write        off      verbs    telling    verbs  telling     both")
        for n, traffic in enumerate(TRAFFIC):
            if only is None or n in only:
                print(await compare(work, traffic, times), flush=True)


async def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.counting", description=__doc__)
    arguments.add_argument("--server", choices=[*ledger_binaries()], help="the ledger server to measure")
    arguments.add_argument("--only", type=int, nargs="*", help="rows of the table")
    arguments.add_argument("--times", type=int, default=1, help="medians of so many runs")
    given = arguments.parse_args()
    await table(given.server or next(iter(ledger_binaries())), given.only, given.times)


if __name__ == "__main__":
    asyncio.run(main())
