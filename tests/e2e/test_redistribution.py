"""Tithe, dividend and changed bounds through a whole proxy of two workers, whose seats are all taken while others wait.

Three requests hold the seats or wait for one until the test ends: so compute is scarce for as long as the test likes, and nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_upstream
from tests.support.deployment import Deployment, nanocredits, serving, until
from tests.support.scarce_upstream import PRICE, TOKEN_NANOCREDITS, Person, Room, Scarce, Town

pytestmark = pytest.mark.asyncio(loop_scope="session")

OFF = ("floor", "cap", "brake")
BOUNDS = """
[commons]
account = "commons"
[intervention]
tick_s = 0.1
step_s = 0.1
sustained_s = 0.1
people_min = 5
gini_above = 0.2
gini_release = 0.1
"""
USED, MODEST = 3_000, 30
"""Tokens that one has used, and the five others."""


def configuration(base_url: str, policies: str) -> str:
    rooms = [
        f'[[upstream]]\nname = "{name}"\nmodels = ["{name}"]\nbase_url = "{base_url}"\n{limited}'
        for name, limited in {"scarce": "seats = 1\nqueue_timeout_s = 120\n", "plenty": ""}.items()
    ]
    off = "".join(f'[intervention.{name}]\nmode = "off"\n' for name in OFF)
    return "\n".join((*rooms, PRICE, BOUNDS, off, policies))


class Unequal:
    """A deployment in which one has used nearly all, and somebody waits."""

    def __init__(self, town: Town, rich: Person, modest: list[Person]) -> None:
        self.deployment: Deployment = town.deployments[0]
        self.town = town
        self.rich = rich
        self.modest = modest

    async def policy(self, name: str) -> Any:
        return await self.deployment.admin("GET", f"interventions/{name}")

    async def grants(self, name: str) -> list[Any]:
        return list((await self.deployment.account(name))["grants"])

    async def headers(self, person: Person, tokens: int = 1) -> dict[str, str]:
        """Of an answer, with what it says of interventions."""
        caller = person._callers[0]
        body = {"model": "plenty", "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
        sent = {"Authorization": f"Bearer {caller.key}", "X-Who": person.name, "Connection": "close"}  # so that each worker is met
        async with caller.post("/v1/chat/completions", body, sent) as answer:
            await answer.read()
            assert answer.status == 200
            return dict(answer.headers)

    def change(self, *changes: tuple[str, str], signalled: bool = True) -> None:
        """Write another configuration file, and have it read."""
        text = self.deployment.config_file.read_text()
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        self.deployment.config_file.write_text(text)
        if signalled:
            self.deployment.process.send_signal(signal.SIGHUP)

    async def said(self) -> str:
        return "".join(self.deployment.said)


@contextlib.asynccontextmanager
async def unequal(directory: Path, policies: str) -> AsyncIterator[Unequal]:
    """A town where compute is scarce and unequally spread for as long as this lasts."""
    scarce = Scarce(Room("scarce"), Room("plenty"))
    scarce.rooms["scarce"].open.clear()
    async with scripted_upstream.running() as upstream:
        upstream.automatic = scarce.play
        async with serving(directory, configuration(upstream.base_url, policies)) as deployment:
            town = Town(deployment)
            await town.person("commons", limits=[{"credits": "0", "window": "ever"}])
            rich, modest = await town.person("rich", limits=[{"credits": "1", "window": "ever"}]), []
            for n in range(5):
                modest.append(await town.person(f"modest{n}"))
            for person, tokens in ((rich, USED), *((one, MODEST) for one in modest)):
                assert (await person.ask("plenty", tokens=tokens)).status == 200
            waiting = [asyncio.create_task(one.ask("scarce")) for one in modest[:3]]
            try:
                yield Unequal(town, rich, modest)
            finally:
                scarce.rooms["scarce"].open.set()
                await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_tithe_is_taken_and_dealt_to_everybody(tmp_path: Path) -> None:
    """By the workers' and the parent's own jobs: from whoever is far above the average, half of what he spends on top, then to all in
    equal parts; the books balance."""
    policies = """
        [intervention.progressive_price]
        mode = "off"
        [intervention.tithe]
        mode = "on"
        steps_max = 1
        of_average = 1
        share = 0.5
        interval_s = 1
        [intervention.dividend]
        mode = "on"
        steps_max = 1
    """
    async with unequal(tmp_path, policies) as there:
        deployment = there.deployment
        headers = await until(lambda: there.headers(there.rich, 101), lambda headers: "X-Ledger-Interventions" in headers)
        assert headers["X-Ledger-Interventions"] == "tithe"
        tithe = 101 * TOKEN_NANOCREDITS // 2
        assert nanocredits((await until(lambda: deployment.account("rich"), lambda shown: shown["given"] != "0"))["given"]) == tithe
        assert "X-Ledger-Interventions" not in await there.headers(there.modest[0])
        [given] = [entry for entry in (await deployment.admin("GET", "accounts/rich/journal"))["items"] if entry["verb"] == "transfer"]
        assert (given["id"].partition(":")[0], given["memo"], nanocredits(given["credits"])) == ("tithe", "intervention tithe", tithe)

        people = ("rich", *(person.name for person in there.modest))
        for name in people:
            [grant] = await until(partial(there.grants, name), bool)
            assert (nanocredits(grant["credits"]), grant["reason"].startswith("dividend intervention:")) == (tithe // len(people), True)
        commons = await until(lambda: deployment.account("commons"), lambda shown: shown["given"] != "0")
        assert nanocredits(commons["given"]) == tithe // len(people) * len(people)
        [dividend] = (await deployment.admin("GET", "dividends"))["items"]
        assert dividend["dividend_id"].startswith("intervention:")
        acts = {(event["subject"], event["action"]) for event in (await deployment.admin("GET", "events"))["items"]}
        assert {("tithe", "intervention.start"), ("dividend", "intervention.deal")} <= acts
        code, said = await deployment.audit()
        assert code == 0, said


async def test_bounds_and_modes_change_while_it_runs_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    """A dry run is switched on, bounded otherwise by a changed file, and made a dry run again; every mistake in the tables is told, and
    what was in force stays so."""
    price = '[intervention.progressive_price]\nmode = "{}"\nsteps_max = 1\ntheta = 1\nkappa = 10\nprice_max = {}\n'
    others = "".join(f'[intervention.{name}]\nmode = "off"\n' for name in ("tithe", "dividend"))
    dry, low, high, dry_again = (price.format(*row) for row in (("dry_run", 1.5), ("on", 1.5), ("on", 3), ("dry_run", 3)))
    async with unequal(tmp_path, f"{dry}{others}") as there:

        async def factor() -> str | None:
            return (await there.headers(there.rich)).get("X-Ledger-Price-Factor")

        async def factors() -> set[str | None]:
            return set(await asyncio.gather(*(factor() for _ in range(8))))

        shown = await until(lambda: there.policy("progressive_price"), lambda shown: shown["proposed"])
        assert (shown["active"], await factors()) == (False, {None})
        there.change((dry, low))
        await until(factors, lambda seen: seen == {"1.50"})
        there.change((low, high), signalled=False)
        await until(factors, lambda seen: seen == {"3.00"})

        bad = high.replace("price_max = 3", "price_max = 0.5").replace("kappa = 10", "kappa = 0.1")
        there.change((high, bad))
        await until(there.said, lambda said: "intervention.progressive_price.price_max" in said)
        there.change((bad, dry_again), ("gini_release = 0.1", "gini_release = 0.3"))
        await until(there.said, lambda said: "gini_release must be below gini_above" in said)
        assert (await there.said()).count("the configuration stays as it was: ") >= 2
        assert "compute_ledger_config_last_reload_successful 0.0" in await there.deployment.metrics()
        assert await factors() == {"3.00"}

        there.change(("gini_release = 0.3", "gini_release = 0.1"))
        await until(factors, lambda seen: seen == {None})
        await until(lambda: there.policy("progressive_price"), lambda shown: shown["proposed"] and not shown["active"])
        assert "compute_ledger_config_last_reload_successful 1.0" in await there.deployment.metrics()
        code, said = await there.deployment.audit()
        assert code == 0, said
