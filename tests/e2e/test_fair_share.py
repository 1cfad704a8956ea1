"""Scarce seats are shared by weight, exactly across processes: two workers of one proxy, and two proxies on one ledger.

Every request costs what it asks for, in tokens, and is estimated at just that; each test has an upstream ("room") of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import redis

from proxy.policy.shares import SCALE, gap_bound
from tests.support import scripted_upstream
from tests.support.deployment import Deployment, serving, until
from tests.support.ledger_server import ledger_binaries, running
from tests.support.scarce_upstream import PRICE, TOKEN_NANOCREDITS, Room, Scarce, Served, Town
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHAPES = ("workers", "proxies")
only_proxies = pytest.mark.parametrize("town", ["proxies"], indirect=True)
SEATS = {"weights": 4, "modest": 2, "families": 2, "idle": 2, "leaving": 1, "paused": 1, "counted": 4}
BEAT_S = 1.0
LEASE_S = 10.0


def configuration(upstream: ScriptedUpstream, seats: Mapping[str, int | None]) -> str:
    tables = [
        f'[[upstream]]\nname = "{name}"\nmodels = ["{name}"]\nbase_url = "{upstream.base_url}"\n'
        + ("" if count is None else f"seats = {count}\nqueue_depth_per_account = 1000\nqueue_timeout_s = 60\n")
        for name, count in seats.items()
    ]
    return "\n".join((*tables, PRICE))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def busy() -> AsyncIterator[ScriptedUpstream]:
    """The upstream behind all proxies here."""
    async with scripted_upstream.running() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=SHAPES)
async def town(request: pytest.FixtureRequest, busy: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """One proxy with two workers, then two proxies with one worker each on one ledger server."""
    directory, text = tmp_path_factory.mktemp(request.param), configuration(busy, SEATS)
    if request.param == "workers":
        async with serving(directory, text) as deployment:
            yield Town(deployment)
        return
    name, binary = next(iter(ledger_binaries().items()))
    with tempfile.TemporaryDirectory() as short, running(name, binary, Path(short)) as server:
        async with contextlib.AsyncExitStack() as stack:
            deployments = []
            for number in range(2):
                (directory / str(number)).mkdir()
                proxy = serving(directory / str(number), text, workers=1, ledger_url=server.url)
                deployments.append(await stack.enter_async_context(proxy))
            yield Town(*deployments)


@pytest_asyncio.fixture(loop_scope="session")
async def room(request: pytest.FixtureRequest, busy: ScriptedUpstream) -> AsyncIterator[Callable[..., Room]]:
    """Opens the room of a test."""

    yield lambda name, *, service_s=0.0: opened(busy, name, seats=SEATS[name], service_s=service_s)
    busy.forget()


def opened(busy: ScriptedUpstream, name: str, *, seats: int, service_s: float = 0.0) -> Room:
    room = Room(name, seats=seats, service_s=service_s)
    busy.automatic = Scarce(room).play
    return room


async def has(room: Room, count: int) -> None:
    """Wait until so many requests have been begun."""

    async def served() -> int:
        return len(room.served)

    await until(served, lambda there: there >= count)


def widest_gap(served: list[Served], one: str, other: str, weights: dict[str, int]) -> float:
    """By how much, in tokens per weight, two were served differently over any stretch."""
    signs = {one: 1 / weights[one], other: -1 / weights[other]}
    levels = list(itertools.accumulate((s.tokens * signs.get(s.who, 0.0) for s in served), initial=0.0))
    return max(levels) - min(levels)


async def test_always_backlogged_callers_share_by_weight(town: Town, room: Callable[..., Room]) -> None:
    """Of 600 requests each of four gets its part by weight within 5 %, in tokens and not in requests; no two ever drift further apart than
    the bound; the upstream never serves more at a time than it has seats."""
    here = room("weights", service_s=0.005)
    tokens = {"w1": 10, "w2": 20, "w3": 10, "w4": 40}
    weights = {name: number for number, name in enumerate(tokens, 1)}
    people = {name: await town.person(name, weight=weights[name]) for name in tokens}
    here.open.clear()
    async with contextlib.AsyncExitStack() as crowd:
        for name, person in people.items():
            await crowd.enter_async_context(person.pressing("weights", 12, tokens=tokens[name]))
        await until(lambda: town.pool("weights"), lambda pool: pool["callers_waiting"] == 4)
        here.open.set()
        await has(here, 620)
    served = here.served[SEATS["weights"] : 600 + SEATS["weights"]]
    total, whole = sum(s.tokens for s in served), sum(weights.values())
    shares = {name: sum(s.tokens for s in served if s.who == name) / total * whole / weights[name] for name in tokens}
    assert all(0.95 <= share <= 1.05 for share in shares.values()), shares
    assert here.most == SEATS["weights"]
    dearest = max(tokens.values())
    at_once = gap_bound(seats=4, estimate_nanocredits=dearest * TOKEN_NANOCREDITS, overrun_nanocredits=0, refund_nanocredits=0)
    bound = 2 * (at_once / SCALE / TOKEN_NANOCREDITS + SEATS["weights"] * dearest)
    gaps = [widest_gap(served, one, other, weights) for one, other in itertools.combinations(tokens, 2)]
    assert max(gaps) <= bound


async def test_a_greedy_neighbour_costs_a_modest_caller_little(town: Town, room: Callable[..., Room]) -> None:
    """With one request at a time a caller waits about as long as one service takes, though 32 of another's wait before it."""
    here = room("modest", service_s=0.02)
    modest, greedy = await town.person("modest"), await town.person("greedy")
    alone = [await modest.ask("modest") for _ in range(20)]
    async with greedy.pressing("modest", 32):
        await until(lambda: town.pool("modest"), lambda pool: pool["backlog"] >= 25)
        beside = [await modest.ask("modest") for _ in range(40)]
    assert {answered.status for answered in (*alone, *beside)} == {200}
    took_alone_s, took_s = (statistics.mean(a.took_s for a in answers) for answers in (alone, beside))
    queued_s = statistics.mean(a.queued_s for a in beside)
    assert took_s < 3 * took_alone_s  # first come first served: 32 / 2 services ahead, 17 times as long
    assert queued_s < 2 * took_alone_s
    assert here.most == SEATS["modest"]


@only_proxies
async def test_organisations_share_first_then_their_accounts(town: Town, room: Callable[..., Room]) -> None:
    """Three accounts of one organisation get as much as the single one of another, by weight among themselves; a weight that is changed
    holds within a second."""
    here = room("families", service_s=0.005)
    for name in ("org:many", "org:one"):
        await town.person(name)
    people = {
        **{name: await town.person(name, parent="org:many", weight=weight) for name, weight in (("m1", 1), ("m2", 1), ("m3", 2))},
        "o1": await town.person("o1", parent="org:one"),
    }
    async with contextlib.AsyncExitStack() as crowd:
        for person in people.values():
            await crowd.enter_async_context(person.pressing("families", 8))
        await until(lambda: town.pool("families"), lambda pool: pool["callers_waiting"] == 4)
        first = len(here.served)
        await has(here, first + 160)
        got = here.tokens(first, first + 160)
        assert {name: got[name] / 1600 for name in people} == pytest.approx({"m1": 1 / 8, "m2": 1 / 8, "m3": 1 / 4, "o1": 1 / 2}, rel=0.1)
        await town.deployments[0].admin("PATCH", "accounts/org:many", {"weight": 3})
        await asyncio.sleep(1.0)  # the promise
        first = len(here.served)
        await has(here, first + 160)
        got = here.tokens(first, first + 160)
        assert got["o1"] / 1600 == pytest.approx(1 / 4, rel=0.1)
    assert here.most == SEATS["families"]


@only_proxies
async def test_whoever_returns_from_idle_gets_no_more_than_its_share(town: Town, room: Callable[..., Room]) -> None:
    """What a caller left to others while it asked for nothing is not made up for."""
    here = room("idle", service_s=0.02)  # long enough that of 16 requests at once some always wait, however busy the machine
    steady, late = await town.person("steady"), await town.person("late")
    async with steady.pressing("idle", 16):
        await has(here, 60)
        async with late.pressing("idle", 16):
            await until(lambda: town.pool("idle"), lambda pool: pool["callers_waiting"] == 2)
            first = len(here.served)  # from here on both always have somebody waiting
            await has(here, first + 80)
    got = here.tokens(first, first + 80)
    assert got["late"] == pytest.approx(400, abs=30)


@only_proxies
async def test_whoever_leaves_the_queue_owes_nothing(town: Town, room: Callable[..., Room]) -> None:
    """Neither credits nor its turn: afterwards it is served as if it had never waited."""
    here = room("leaving")
    other, fickle = await town.person("other"), await town.person("fickle")
    here.open.clear()
    holder = asyncio.create_task((await town.person("holder")).ask("leaving"))
    await has(here, 1)
    waiting = [asyncio.create_task(fickle.ask("leaving")) for _ in range(8)]
    await until(lambda: town.pool("leaving"), lambda pool: pool["backlog"] == 8)
    for task in waiting:
        task.cancel()
    await until(lambda: town.pool("leaving"), lambda pool: pool["backlog"] == 0)
    requests = []
    for number, person in enumerate((other, other, fickle, fickle), 1):
        requests.append(asyncio.create_task(person.ask("leaving")))
        await until(lambda: town.pool("leaving"), lambda pool, number=number: pool["backlog"] == number)
    here.open.set()
    assert {answered.status for answered in await asyncio.gather(holder, *requests)} == {200}
    assert [served.who for served in here.served] == ["holder", "other", "fickle", "other", "fickle"]
    account = await until(lambda: town.deployments[0].account("fickle"), lambda account: account["held"] == "0")
    assert account["spent"] == "0.00002"
    pool = await until(lambda: town.pool("leaving"), lambda pool: pool["used"] == 0)
    assert (pool["served"], pool["backlog"]) == ("0.00005", 0)


@only_proxies
async def test_whoever_is_paused_while_it_waits_is_not_served(town: Town, room: Callable[..., Room]) -> None:
    """Its request was let in before the pause; when its turn comes, the seat goes to whoever is next, and it has cost nothing."""
    here = room("paused")
    paused, patient = await town.person("paused"), await town.person("patient")
    here.open.clear()
    holder = asyncio.create_task((await town.person("before")).ask("paused"))
    await has(here, 1)
    waiting = [asyncio.create_task(paused.ask("paused")) for _ in range(2)]
    await until(lambda: town.pool("paused"), lambda pool: pool["backlog"] == 2)
    waiting.append(asyncio.create_task(patient.ask("paused")))
    await until(lambda: town.pool("paused"), lambda pool: pool["backlog"] == 3)
    await town.deployments[0].admin("PATCH", "accounts/paused", {"status": "suspended"})
    await asyncio.sleep(1.0)  # the promise
    here.open.set()
    assert [answered.status for answered in await asyncio.gather(*waiting)] == [403, 403, 200]
    assert ((await holder).status, [served.who for served in here.served]) == (200, ["before", "patient"])
    account = await until(lambda: town.deployments[0].account("paused"), lambda account: account["held"] == "0")
    assert account["spent"] == "0"


async def test_the_metrics_tell_of_each_pool_once(town: Town, room: Callable[..., Room]) -> None:
    """Every proxy on a ledger tells how the pools stand, and none of its workers tells it again."""
    here = room("counted")
    here.open.clear()
    person = await town.person("counted")
    requests = [asyncio.create_task(person.ask("counted")) for _ in range(6)]
    await until(lambda: town.pool("counted"), lambda pool: pool["backlog"] == 2)
    for deployment in town.deployments:
        page = await deployment.metrics()
        for line in (
            'pool_seats{pool="counted",state="used"} 4.0',
            'pool_seats{pool="counted",state="free"} 0.0',
            'pool_backlog{pool="counted"} 2.0',
        ):
            assert f"compute_ledger_{line}\n" in page
    here.open.set()
    await asyncio.gather(*requests)


async def test_new_numbers_of_seats_hold_for_those_who_wait(busy: ScriptedUpstream, tmp_path: Path) -> None:
    """A new ledger gives its first seat at once. When the configuration gives an upstream more seats they are given away at once; one
    without a limit has no pool any more."""
    here = opened(busy, "growing", seats=3)
    async with serving(tmp_path, configuration(busy, {"growing": 1})) as deployment:
        person = await Town(deployment).person("ann")
        assert (await person.ask("growing")).queued_s < 0.5  # until it is known who has seats: 1.25 s, but nobody can have one
        here.open.clear()
        requests = [asyncio.create_task(person.ask("growing")) for _ in range(5)]
        await until(lambda: deployment.admin("GET", "pools/growing"), lambda pool: pool["backlog"] == 4)
        text = deployment.config_file.read_text()
        deployment.config_file.write_text(text.replace("seats = 1\n", "seats = 3\n"))
        await has(here, 4)
        pool = await deployment.admin("GET", "pools/growing")
        assert (pool["seats"], pool["used"], pool["backlog"]) == (3, 3, 2)
        here.open.set()
        await asyncio.gather(*requests)
        assert here.most == 3
        assert "compute_ledger_pool_seats{" in await deployment.metrics()
        deployment.config_file.write_text(text.replace("seats = 1\n", ""))
        await until(lambda: deployment.admin("GET", "pools"), lambda page: page["items"] == [])
        assert "compute_ledger_pool_seats{" not in await deployment.metrics()


# --- what breaks ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_a_killed_workers_seats_come_back_within_the_lease(busy: ScriptedUpstream, tmp_path: Path) -> None:
    """They are given to those who wait at the others, and nothing is left behind."""
    here = opened(busy, "crash", seats=6)
    here.open.clear()
    async with serving(tmp_path, configuration(busy, {"crash": 6})) as deployment:
        town = Town(deployment)
        person = await town.person("ann")
        requests = [asyncio.create_task(person.ask("crash")) for _ in range(6)]
        await has(here, 6)
        for deaths, worker in enumerate(deployment.workers(), start=1):
            os.kill(worker, signal.SIGKILL)
            killed_s = time.monotonic()
            await asyncio.wait(requests, timeout=0.5)  # the system closes its connections at once
            if lost := 6 - here.now:
                break
            await deployment.replaced(deaths)  # else nobody would take the next requests
        requests += [asyncio.create_task(person.ask("crash")) for _ in range(6)]
        await has(here, 6 + lost)
        assert time.monotonic() - killed_s < LEASE_S + 2 * BEAT_S
        assert here.most == 6
        here.open.set()
        ended = await asyncio.gather(*requests, return_exceptions=True)
        assert sum(isinstance(end, BaseException) for end in ended) == lost
        assert {end.status for end in ended if not isinstance(end, BaseException)} == {200}
        pool = await until(lambda: town.pool("crash"), lambda pool: pool["used"] == 0)
        assert pool["backlog"] == 0


OUTAGES = ["killed", pytest.param("silent", marks=pytest.mark.long), pytest.param("forgetful", marks=pytest.mark.long)]


@pytest.mark.parametrize("outage", OUTAGES)
async def test_seats_survive_the_ledger(busy: ScriptedUpstream, tmp_path: Path, outage: str) -> None:
    """Its server dies, or says nothing for longer than any call waits, or loses the pool, while requests run and wait: never are there more
    at a time than seats for longer than a heartbeat, and afterwards all goes on by itself."""
    here = opened(busy, "outage", seats=3, service_s=2.0 if outage == "forgetful" else 0.2)
    async with serving(tmp_path, configuration(busy, {"outage": 3})) as deployment:
        person = await Town(deployment).person("ann")

        async def persist() -> None:
            while True:
                await person.ask("outage")

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(persist()) for _ in range(12)]
            await has(here, 5 if outage == "forgetful" else 9)
            server = ledger_pid(deployment)
            if outage == "killed":
                os.kill(server, signal.SIGKILL)
            elif outage == "silent":
                os.kill(server, signal.SIGSTOP)
                await asyncio.sleep(1.5)
                os.kill(server, signal.SIGCONT)
            else:
                forget_pool(server, "outage")
            over_s = time.monotonic()
            await has(here, len(here.served) + 12)
            assert time.monotonic() - over_s < 4 * here.service_s + 4 * BEAT_S
            for task in tasks:
                task.cancel()
        assert here.crowded_s < BEAT_S


# --- what it costs -------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_throughput_is_that_of_first_come_first_served(busy: ScriptedUpstream, tmp_path: Path) -> None:
    """With seats, the proxy's queue keeps an upstream as busy as a queue of its own does: at least 0.98 of it; a seat that somebody waits
    for is empty for a few milliseconds."""
    fair = Room("fair", service_s=1.2, spread=0.5)
    rooms = fair, Room("plain", service_s=1.2, spread=0.5, own_seats=8)
    busy.automatic = Scarce(*rooms).play
    async with serving(tmp_path, configuration(busy, {"fair": 8, "plain": None})) as deployment, contextlib.AsyncExitStack() as crowd:
        town = Town(deployment)
        for number in range(4):
            person = await town.person(f"p{number}")
            for room in rooms:
                await crowd.enter_async_context(person.pressing(room.name, 8))
        await asyncio.gather(*(has(room, 108) for room in rooms))
    fair_s, plain_s = (room.served[107].at_s - room.served[7].at_s for room in rooms)
    assert plain_s / fair_s > 0.98
    assert fair.most == 8
    empty_s = [began.at_s - ended_s for ended_s, began in zip(fair.ended_s, fair.served[8:], strict=False)]
    assert statistics.median(empty_s) < 0.02


def ledger_pid(deployment: Deployment) -> int:
    """The embedded ledger's server."""
    children = Path(f"/proc/{deployment.process.pid}/task/{deployment.process.pid}/children").read_text().split()
    (server,) = [int(pid) for pid in children if b"-server" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]
    return server


def forget_pool(server: int, pool: str) -> None:
    """As after a failover to a replica that had not heard of it."""
    title = Path(f"/proc/{server}/cmdline").read_text()
    socket = re.search(r"/[^\s:\0]+\.sock", title)
    assert socket, title
    with redis.Redis(unix_socket_path=socket[0]) as client:
        assert client.delete(*client.scan_iter(f"cl:{{pool:{pool}}}:*", count=1000))
