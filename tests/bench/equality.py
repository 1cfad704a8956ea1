"""What it costs to know how equal a million people's use is: `python -m tests.bench.equality`.

A real ledger server holds full tallies of 1,000,000 people, in twenty plans, all buckets from a thousandth of a credit to a thousand, in
every shard, four half-lives deep. Measured are reading and measuring a window as the parent does it every few seconds, the admin API's own
figures, and a scrape, which only reads what was measured last. Then what counting adds to each request (`counting`), which takes minutes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from proxy.app.equality import EqualityWatch
from proxy.config import Equality, LedgerSection
from proxy.domain import CREDITS
from proxy.ledger import Store, open_ledger
from proxy.ledger.additions import SHARDS, Additions
from proxy.ledger.folding import Folding
from proxy.ledger.tallying import ALL, Counted, Hash, day_of, entitled_name, field_of, gone_ms, index_on, name_of
from proxy.metrics import Fleet, Metrics, render
from proxy.policy.tallies import BUCKETS_PER_DOUBLING, WINDOWS, Bucket, Octave, Tally
from proxy.server.equality import EqualityFigures
from tests.bench import counting
from tests.support.ledger_server import ledger_binaries, running

PEOPLE = 1_000_000
PLANS = tuple(f"plan-{n}" for n in range(20))
BUCKETS = range(160, 320)
EPOCHS = 4
HALF_LIFE_DAYS = 7
TIMES = 9


async def fill(store: Store) -> None:
    """Tallies as the flushes of very many processes would leave them."""
    now_ms = store.engine.now_ms()
    each = PEOPLE // len(PLANS) // len(BUCKETS) // SHARDS
    for shard in range(SHARDS):
        writer = Additions(store.engine)
        writer.shard = shard
        for dimension, groups in ((ALL, ("",)), ("plan", PLANS)):
            crowd = each * len(PLANS) // len(groups)
            fields = [field_of(group, CREDITS) for group in groups]
            entitled = {field: Counted(people=crowd * len(BUCKETS), weight=crowd * len(BUCKETS)) for field in fields}
            hashes = {entitled_name(1, dimension): Hash(now_ms + 10**9, entitled)}
            for window in WINDOWS:
                index = index_on(window, day_of(now_ms), HALF_LIFE_DAYS)
                deep = EPOCHS if window == "half_life" else 1
                for ago in range(deep):
                    name = name_of(1, window, index - ago, HALF_LIFE_DAYS, dimension)
                    used = {field: Counted(crowd_of(crowd // deep)) for field in fields}
                    hashes[name] = Hash(gone_ms(window, index, HALF_LIFE_DAYS), used)
            for name, told in hashes.items():
                for row in told.fields():
                    writer.add(name, *row, gone_ms=told.gone_ms)
        await writer.send()
        await Folding(store.engine).fold((shard,))


def crowd_of(each: int) -> Tally:
    """So many people in every bucket."""
    buckets = {number: Bucket(each, each, each * 2.0 ** ((number + 0.5) / 8)) for number in BUCKETS}
    octaves = {number // BUCKETS_PER_DOUBLING: Octave(log=1e19, square=1e25, concentration=1e27) for number in BUCKETS}
    return Tally(buckets, octaves, root=1e15)


async def least_ms(act: Callable[[], Awaitable[object]]) -> float:
    """The least time of several: what it costs when nothing else runs."""
    times = []
    for _ in range(TIMES):
        began_s = time.perf_counter()
        await act()
        times.append((time.perf_counter() - began_s) * 1000)
    return min(times)


async def longest_wait_ms(act: Callable[[], Awaitable[object]]) -> float:
    """The longest that anything else had to wait while something was done several times."""
    waits = [0.0]

    async def tick() -> None:
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(0)
            waits.append((time.perf_counter() - began_s) * 1000)

    ticking = asyncio.create_task(tick())
    for _ in range(len(WINDOWS)):
        await act()
    ticking.cancel()
    return max(waits)


async def main() -> None:
    name, binary = next(iter(ledger_binaries().items()))
    with tempfile.TemporaryDirectory() as directory, running(name, binary, Path(directory)) as server:
        async with open_ledger(LedgerSection(deadline_ms=60_000), url=server.url) as store:
            await fill(store)
            figures, metrics = EqualityFigures(store.equality, Equality), Metrics()
            watch = EqualityWatch(figures, metrics, lambda: PLANS)

            async def scrape() -> None:
                render(Fleet(metrics).snapshots())

            print(f"{(await figures.of('day')).people} people, {len(PLANS)} plans, {len(BUCKETS)} buckets, {SHARDS} shards, {name}")
            for window in WINDOWS:
                alone = await least_ms(partial(figures.of, window))
                by_plan = await least_ms(partial(figures.of, window, "plan"))
                print(f"{window:10} read and measured in {alone:6.1f} ms, by plan in {by_plan:6.1f} ms")
            await watch.measure()
            print(f"nobody else in the process waits longer than {await longest_wait_ms(watch.measure):4.1f} ms for it")
            print(f"the day and another, every 5 s: {await least_ms(watch.measure):6.1f} ms at least")
            print(f"a scrape:                       {await least_ms(scrape):6.1f} ms")
    await counting.table(name)


if __name__ == "__main__":
    asyncio.run(main())
