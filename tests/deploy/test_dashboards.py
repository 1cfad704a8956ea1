"""The shipped dashboards and rules, asked of a real Prometheus that scrapes a real proxy under traffic.

A panel is whole when its query gives a number. An alert is silent when all is well, so of it, as of every expression, each selector is
asked by itself: a metric or a label that does not exist gives nothing there.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from deploy.grafana.generate import DASHBOARDS, DIRECTORY, files
from deploy.grafana.panels import equality
from tests.support import watched_town
from tests.support.prometheus_server import PrometheusServer

on_one_loop = pytest.mark.asyncio(loop_scope="module")

PEOPLE = 60
PAUSE_S = 2.5
VARIABLES = {"$job": "compute-ledger", "$pool": ".*", "$window": "day", "$__rate_interval": "10s"}
SELECTOR = re.compile(r"[a-z_:]*compute_ledger_[a-z_:0-9]+(?:\{[^}]*\})?")
DEADLINE_S = 40.0


@dataclass(frozen=True, slots=True)
class Watched:
    """Prometheus, and since when it has been scraping."""

    prometheus: PrometheusServer
    since_s: float

    async def is_told(self, expr: str) -> bool:
        """Whether an expression has given any number since the beginning."""
        found = await self.prometheus.over(expr, start_s=self.since_s, end_s=time.time(), step_s=1)
        return any(math.isfinite(float(value)) for series in found for _, value in series["values"])

    async def untold(self, exprs: set[str]) -> set[str]:
        """Which expressions still give nothing when all that the traffic shows has been seen."""
        deadline_s = time.monotonic() + DEADLINE_S
        while exprs and time.monotonic() < deadline_s:
            told = await asyncio.gather(*map(self.is_told, sorted(exprs)))
            exprs = {expr for expr, is_told in zip(sorted(exprs), told, strict=True) if not is_told}
            await asyncio.sleep(0.5)
        return exprs


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A proxy in front of a town at work, and Prometheus that looks at it once a second."""
    directory = tmp_path_factory.mktemp("watched")
    async with watched_town.watched(directory, people=PEOPLE, pause_s=PAUSE_S, scrape_s=1) as prometheus:
        yield Watched(prometheus, time.time())


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel as its file has it, and where it is."""
    for path in sorted(DIRECTORY.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield f"{path.stem}: {panel['title']}", panel


def queries() -> dict[str, str]:
    """Every panel query, and where it is."""
    targets = ((where, target) for where, panel in panels() for target in panel["targets"])
    return {filled_in(target["expr"]): f"{where} ({target['refId']})" for where, target in targets}


def behind_variables() -> Iterator[str]:
    """What the choices of every dashboard's variables are looked up in, or stand for."""
    yield from (f'compute_ledger_gini{{window="{window}"}}' for window in equality.WINDOW.values.values())
    for path in DIRECTORY.glob("*.json"):
        document = json.loads(path.read_text())
        yield from (variable["definition"] for variable in document["templating"]["list"] if variable["type"] == "query")


def filled_in(expr: str) -> str:
    """An expression with a value for each variable."""
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr


def selectors(exprs: Iterator[str]) -> set[str]:
    return {selector for expr in exprs for selector in SELECTOR.findall(expr)}


def test_the_files_are_what_the_generator_writes() -> None:
    """`python -m deploy.grafana.generate` would change nothing, and there is no file that it does not write."""
    assert {path: path.read_text() for path in DIRECTORY.glob("*.json")} == files()


def test_every_panel_says_what_it_shows() -> None:
    """A sentence, a unit, the chosen data source, and places that do not overlap; nothing is asked of a caller."""
    for where, panel in panels():
        assert re.fullmatch(r"[A-Z0-9].*\.", panel["description"]), where
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}, where
        assert all(target["legendFormat"] for target in panel["targets"]), where
        assert not re.search(r"caller|account=|user=", json.dumps(panel["targets"])), where
    for dashboard in DASHBOARDS:
        document = json.loads((DIRECTORY / f"{dashboard.uid}.json").read_text())
        taken = [cell for panel in document["panels"] for cell in _cells(panel["gridPos"])]
        assert len(taken) == len(set(taken)), dashboard.uid
        assert document["schemaVersion"] == 42


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    return ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"]))


@on_one_loop
@pytest.mark.timeout(120)  # on a busy machine the town takes a while to do all that it does
async def test_every_panel_shows_something(watched: Watched) -> None:
    """Its query is understood and gives a number, and so does each selector in it, and what its variables are looked up in."""
    wanted = queries()
    silent = await watched.untold({*wanted, *selectors(iter(wanted)), *selectors(map(filled_in, behind_variables()))})
    assert sorted((wanted.get(expr, "a selector"), expr) for expr in silent) == []


@on_one_loop
@pytest.mark.timeout(120)  # on a busy machine the town takes a while to do all that it does
async def test_every_rule_is_of_metrics_that_exist(watched: Watched) -> None:
    """Recording rules give something; alerts are evaluated without an error, and each selector in them finds something. Whatever people
    do, nothing critical is the matter."""
    rules = await watched.prometheus.rules()
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    silent = await watched.untold({*recorded, *selectors(rule["query"] for rule in rules)})
    assert not silent
    rules = await watched.prometheus.rules()
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} >= {"ComputeLedgerDown", "ComputeLedgerSeatsWithheld"}
    alarming = 'ALERTS{severity="critical", alertstate="firing"}'
    assert await watched.prometheus.over(alarming, start_s=watched.since_s, end_s=time.time(), step_s=1) == []
