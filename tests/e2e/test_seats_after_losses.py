"""A ledger server of the operator's own dies under load and comes back, with or without the pools: no seat is given twice.

Two proxies on one server; every request goes to an upstream that notes how many it serves at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.test_fair_share import BEAT_S, LEASE_S, configuration, has, opened
from tests.support import scripted_upstream
from tests.support.deployment import nanocredits, serving, until
from tests.support.ledger_server import DurableServer, ledger_binaries
from tests.support.scarce_upstream import TOKEN_NANOCREDITS, Person, Town
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEATS, PARALLEL = 3, 12
AWAY_S = 0.5
PAUSE_S = 0.02


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as upstream:
        yield upstream


async def persist(person: Person) -> None:
    """Ask again and again, whatever the answer."""
    while True:
        if (await person.ask("lost")).status != 200:
            await asyncio.sleep(PAUSE_S)  # the ledger is away: nobody asks without pause then


def come_back(server: DurableServer, *, knows_pools: bool) -> None:
    """The server starts on what it had written; or a replica does that had heard of everything but the pools."""
    if not knows_pools:
        with server.start(aside=True).client() as client:
            assert client.delete("cl:since", *client.scan_iter("cl:{pool:*", count=1000)) > 2
        server.stop()
    server.start()


@contextlib.asynccontextmanager
async def proxies(upstream: ScriptedUpstream, directory: Path, **how: Any) -> AsyncIterator[tuple[DurableServer, Town]]:
    """Two proxies of a worker each, and the server that they share."""
    async with contextlib.AsyncExitStack() as stack:
        server = DurableServer(next(iter(ledger_binaries().values())), Path(stack.enter_context(tempfile.TemporaryDirectory())))
        server.start()
        stack.callback(server.stop)
        deployments = []
        for number in range(2):
            place = directory / str(number)
            place.mkdir()
            text = configuration(upstream, {"lost": SEATS})
            deployments.append(await stack.enter_async_context(serving(place, text, workers=1, ledger_url=server.url, **how)))
        yield server, Town(*deployments)


@pytest.mark.long
@pytest.mark.parametrize(("knows_pools", "service_s"), [pytest.param(True, 1.2, id="restart"), pytest.param(False, 2.5, id="failover")])
async def test_seats_survive_the_operators_own_server(
    upstream: ScriptedUpstream, tmp_path: Path, knows_pools: bool, service_s: float
) -> None:
    """It is killed while requests run and wait, and starts again: never are there more at a time than seats for longer than a heartbeat;
    all goes on by itself; nothing is left behind, and the books balance."""
    here = opened(upstream, "lost", seats=SEATS, service_s=service_s)
    async with proxies(upstream, tmp_path) as (server, town):
        people = [await town.person(name) for name in ("ann", "bob")]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(persist(people[number % 2])) for number in range(PARALLEL)]
            await has(here, SEATS + 1)
            server.kill()
            await asyncio.sleep(AWAY_S)  # what runs goes on meanwhile
            come_back(server, knows_pools=knows_pools)
            back_s = time.monotonic()
            await has(here, len(here.served) + 2 * SEATS)
            assert time.monotonic() - back_s < 3 * service_s + 4 * BEAT_S
            for task in tasks:
                task.cancel()
        assert here.crowded_s < BEAT_S
        began_s = time.monotonic()
        pool = await until(lambda: town.pool("lost"), lambda pool: pool["used"] == 0 and pool["backlog"] == 0)
        assert pool["seats"] == SEATS
        assert time.monotonic() - began_s < LEASE_S + 2 * BEAT_S
        for person in people:
            await until(lambda person=person: town.deployments[0].account(person.name), lambda account: account["held"] == "0")
        code, said = await town.deployments[0].audit()
        assert code == 0, said


def given_alone(metrics: str) -> int:
    """How many seats a proxy's workers have given by themselves."""
    found = re.search(r'seats_given_alone_total\{pool="lost"\} (\d+)', metrics)
    return int(found[1]) if found else 0


@pytest.mark.long
async def test_an_outage_may_be_bridged(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Where it is allowed, requests go on without the ledger: from each worker at most its part of the seats, beside those that ran before;
    each is charged once when the ledger is back, and the seats are its own to give again."""
    here = opened(upstream, "lost", seats=SEATS, service_s=0.5)
    async with proxies(upstream, tmp_path, on_failure="allow") as (server, town):
        people = [await town.person(name) for name in ("ann", "bob")]
        is_over = asyncio.Event()
        answered = 0

        async def go_on(person: Person) -> None:
            nonlocal answered
            while not is_over.is_set():
                status = (await person.ask("lost")).status
                answered += status == 200

        async with asyncio.TaskGroup() as group:
            for number in range(PARALLEL):
                group.create_task(go_on(people[number % 2]))
            await has(here, 2 * SEATS)
            server.kill()
            for deployment in town.deployments:
                await until(deployment.metrics, given_alone)
            await has(here, len(here.served) + 2 * SEATS)  # those that ran before have ended then, late as they may have begun
            here.most = here.now
            await has(here, len(here.served) + 4 * SEATS)
            assert here.most <= SEATS
            server.start()
            await has(here, len(here.served) + 4 * SEATS)
            is_over.set()
        assert here.crowded_s < BEAT_S
        assert sum([given_alone(await each.metrics()) for each in town.deployments]) >= 4 * SEATS
        tokens = here.tokens()
        for person in people:
            owed = tokens[person.name] * TOKEN_NANOCREDITS
            await until(
                lambda person=person: town.deployments[0].account(person.name),
                lambda account, owed=owed: account["held"] == "0" and nanocredits(account["spent"]) == owed,
            )
        pool = await until(lambda: town.pool("lost"), lambda pool: pool["used"] == 0 and pool["backlog"] == 0)
        assert pool["seats"] == SEATS
        assert answered == len(here.served)
        code, said = await town.deployments[0].audit()
        assert code == 0, said
