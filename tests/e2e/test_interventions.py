"""Interventions end to end: two proxies on one ledger, a scarce upstream, and three people who have used nearly everything.

Policies begin as dry runs, which change nothing; switched on they move the figures; once nothing is scarce they end by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import scripted_upstream
from tests.support.deployment import Deployment, nanocredits, serving, until
from tests.support.ledger_server import ledger_binaries, running
from tests.support.scarce_upstream import PRICE, Person, Room, Scarce, Town
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEAVY, MODEST = ("hal", "hugo", "hera"), tuple(f"mo{n}" for n in range(21))
HEAD_START = 3_000
"""Tokens that the heavy ones have used before anything is scarce; the others have used 30."""
SEATS = 2
STEPS = "\n".join(f"[intervention.{name}]\nsteps_max = 2" for name in ("floor", "cap", "progressive_price", "brake", "tithe", "dividend"))
SETTINGS = f"""
[commons]
account = "commons"
[intervention]
tick_s = 0.2
step_s = 0.3
sustained_s = 0.2
people_min = 10
gini_above = 0.1
gini_release = 0.05
{STEPS}
"""


def configuration(upstream: ScriptedUpstream) -> str:
    limited = {"scarce": f"seats = {SEATS}\nqueue_depth_per_account = 100\nqueue_timeout_s = 60\n", "plenty": ""}
    tables = [
        f'[[upstream]]\nname = "{name}"\nmodels = ["{name}"]\nbase_url = "{upstream.base_url}"\n{limits}'
        for name, limits in limited.items()
    ]
    return "\n".join((*tables, PRICE, SETTINGS))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rooms() -> AsyncIterator[tuple[ScriptedUpstream, Scarce]]:
    scarce = Scarce(Room("scarce", seats=SEATS, service_s=0.01), Room("plenty"))
    async with scripted_upstream.running() as upstream:
        upstream.automatic = scarce.play
        yield upstream, scarce


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def town(rooms: tuple[ScriptedUpstream, Scarce], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    directory = tmp_path_factory.mktemp("interventions")
    name, binary = next(iter(ledger_binaries().items()))
    with tempfile.TemporaryDirectory() as short, running(name, binary, Path(short)) as server:
        async with contextlib.AsyncExitStack() as stack:
            deployments = []
            for number in range(2):
                (directory / str(number)).mkdir()
                proxy = serving(directory / str(number), configuration(rooms[0]), workers=1, ledger_url=server.url)
                deployments.append(await stack.enter_async_context(proxy))
            yield Town(*deployments)


async def policy(town: Town, name: str) -> Any:
    return await town.deployments[0].admin("GET", f"interventions/{name}")


async def gini(town: Town) -> float:
    return float((await town.deployments[0].admin("GET", "interventions"))["figures"]["gini"])


async def switch(town: Town, name: str, mode: str) -> None:
    """Change a mode, and wait until it is in force at full strength, or at rest."""
    await town.deployments[-1].admin("PATCH", f"interventions/{name}", {"mode": mode, "reason": "a test"})
    strength = 2 if mode == "on" else 0
    await until(lambda: policy(town, name), lambda shown: shown["active"] == (mode == "on") and shown["strength"] == strength)


async def spent(town: Town, name: str) -> int:
    return nanocredits((await town.deployments[0].account(name))["spent"])


async def next_served(room: Room, count: int) -> dict[str, int]:
    """Who is served of the next so many, by the number of requests."""
    first = len(room.served)

    async def served() -> int:
        return len(room.served) - first

    await until(served, lambda number: number >= count)
    names = [one.who for one in room.served[first : first + count]]
    return {name: names.count(name) for name in set(names)}


async def factor_of(town: Town, person: Person) -> str | None:
    """By how much a person's price is raised."""
    caller = person._callers[0]
    body = {"model": "plenty", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {caller.key}", "X-Who": person.name}
    async with caller.post("/v1/chat/completions", body, headers) as answer:
        await answer.read()
        assert answer.status == 200
        return answer.headers.get("X-Ledger-Price-Factor")


async def own_treatment(person: Person) -> Any:
    """What a person is told of itself."""
    caller = person._callers[0]
    url, headers = f"{caller.deployment.proxy_url}/ledger/v1/interventions", {"Authorization": f"Bearer {caller.key}"}
    async with caller.deployment.client.get(url, headers=headers) as answer:
        assert answer.status == 200
        return await answer.json()


@contextlib.asynccontextmanager
async def pressing(at_once: Mapping[Person, int]) -> AsyncIterator[None]:
    """Each asks for the scarce upstream so many times at a time, again and again."""

    async def press(person: Person) -> None:
        while True:
            assert (await person.ask("scarce")).status == 200

    tasks = [asyncio.ensure_future(press(person)) for person, count in at_once.items() for _ in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def metric(deployment: Deployment, line: str) -> float:
    page = await deployment.metrics()
    return next(float(found.split()[-1]) for found in page.splitlines() if found.startswith(f"compute_ledger_{line} "))


async def test_from_dry_run_to_effect_to_release(town: Town, rooms: tuple[ScriptedUpstream, Scarce]) -> None:
    """What would be done is shown and not done; what is done moves the figures; what began ends, and the books balance."""
    scarce = rooms[1].rooms["scarce"]
    heavy, modest = [await town.person(name) for name in HEAVY], [await town.person(name) for name in MODEST]
    commons = await town.person("commons")
    await town.deployments[0].admin("POST", "accounts/commons/grants", {"credits": "1", "reason": "endowment"})
    poor = await town.person("poor", limits=[{"credits": "0", "window": "day"}])
    for person in heavy:
        assert (await person.ask("plenty", tokens=HEAD_START)).status == 200
    for person in modest:
        assert (await person.ask("plenty", tokens=30)).status == 200

    async with pressing(dict.fromkeys(heavy, 4) | dict.fromkeys(modest, 1)):
        for name in ("floor", "cap", "progressive_price", "tithe"):
            shown = await until(lambda name=name: policy(town, name), lambda shown: shown["proposed"] and shown["effect"])
            assert not shown["active"]
            assert shown["figures"]["gini"] > 0.5
        got = await next_served(scarce, 240)
        assert all(got[name] >= 3 for name in HEAVY), "in a dry run all are served alike"
        assert await factor_of(town, heavy[0]) is None
        assert (await poor.ask("plenty", tokens=1)).status == 402
        await until(lambda: metric(town.deployments[0], 'intervention_active{policy="cap"}'), lambda value: value == 0)
        await until(lambda: metric(town.deployments[0], 'intervention_proposed{policy="cap"}'), lambda value: value == 1)

        unequal = await gini(town)
        await switch(town, "cap", "on")
        await next_served(scarce, 240)  # workers hear of it within a second, and whoever waits by then keeps the place
        got = await next_served(scarce, 240)
        assert sum(got.get(name, 0) for name in HEAVY) <= 4, "whoever is above the cap takes what nobody else wants"
        await until(lambda: metric(town.deployments[1], 'intervention_active{policy="cap"}'), lambda value: value == 1)
        assert await gini(town) < unequal - 0.02, "the figures move"
        await switch(town, "cap", "off")

        before = await spent(town, "hera")
        await switch(town, "progressive_price", "on")
        factor = await until(lambda: factor_of(town, heavy[2]), lambda factor: factor is not None)
        assert 1.0 < float(factor or 1) <= 4.0
        own = await own_treatment(heavy[2])
        assert (own["policies"], float(own["price_factor"]) > 1, own["stands_back"]) == (["progressive_price"], True, False)
        assert "a price grows with use" in own["effects"][0]
        assert await factor_of(town, modest[0]) is None
        assert await spent(town, "hera") > before
        await switch(town, "progressive_price", "off")

        await switch(town, "floor", "on")
        await until(lambda: poor.ask("plenty", tokens=1), lambda answered: answered.status == 200)
        (topped,) = (await town.deployments[0].account("poor"))["grants"]
        assert "intervention floor" in topped["reason"]

    for name in ("floor", "cap", "progressive_price", "brake", "tithe", "dividend"):
        await until(lambda name=name: policy(town, name), lambda shown: shown["strength"] == 0)
    await until(lambda: metric(town.deployments[0], 'intervention_active{policy="floor"}'), lambda value: value == 0)
    events = (await town.deployments[0].admin("GET", "events?limit=200"))["items"]
    kinds = {(event["subject"], event["action"]) for event in events if event["actor"] == "interventions"}
    assert {("floor", "intervention.start"), ("floor", "intervention.stop"), ("cap", "intervention.start")} <= kinds
    assert commons.name == "commons"
    code, said = await town.deployments[0].audit()
    assert code == 0, said


async def test_where_one_controller_hangs_another_looks(town: Town) -> None:
    """Whichever proxy's it is: looks go on, for the lease of a look is over in a moment."""
    for hanging, other in (town.deployments, reversed(town.deployments)):
        hanging.process.send_signal(signal.SIGSTOP)
        try:

            async def looked_at(other: Deployment = other) -> str:
                return str((await other.admin("GET", "interventions"))["looked_at"])

            before = await looked_at()
            first = await until(looked_at, lambda moment, before=before: moment > before)
            await until(looked_at, lambda moment, first=first: moment > first)
        finally:
            hanging.process.send_signal(signal.SIGCONT)
