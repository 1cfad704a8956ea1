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
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy.grafana.generate import DASHBOARDS, DIRECTORY, files
from deploy.grafana.panels import equality
from tests.deploy.asking import filled_in, variables
from tests.support import watched_town
from tests.support.prometheus_server import PrometheusServer

on_one_loop = pytest.mark.asyncio(loop_scope="module")

PEOPLE = 60
PAUSE_S = 2.5
MANUAL = Path(__file__).parents[2] / "README.md"
RATE_INTERVAL = "10s"
SELECTOR = re.compile(r"[a-z_:]*compute_ledger_[a-z_:0-9]+(?:\{[^}]*\})?")
DEADLINE_S = 40.0
OF_NOW = {"stat", "bargauge", "xychart"}
"""Panels that show how it stands, and nothing of how it came to that."""
UNITS = {"short", "percentunit", "s", "reqps", "ops", "cps"}
"""Those of Grafana's that are used."""


@dataclass(frozen=True, slots=True)
class Query:
    """An expression without variables, and whether it is asked of this moment alone."""

    expr: str
    is_of_now: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """Prometheus, since when it has been scraping, and how the dashboards' variables stand."""

    prometheus: PrometheusServer
    since_s: float
    variables: Mapping[str, str]

    async def is_told(self, query: Query) -> bool:
        """Whether it gives any number now; one that is asked over time, whether it has since the beginning."""
        if query.is_of_now:
            points = [series["value"] for series in await self.prometheus.instant(query.expr)]
        else:
            found = await self.prometheus.over(query.expr, start_s=self.since_s, end_s=time.time(), step_s=1)
            points = [point for series in found for point in series["values"]]
        return any(math.isfinite(float(value)) for _, value in points)

    async def untold(self, queries: Iterable[Query]) -> set[Query]:
        """Which queries still give nothing when all that the traffic shows has been seen."""
        silent, deadline_s = set(queries), time.monotonic() + DEADLINE_S
        while silent and time.monotonic() < deadline_s:
            asked = list(silent)
            told = await asyncio.gather(*map(self.is_told, asked))
            silent = {query for query, is_told in zip(asked, told, strict=True) if not is_told}
            await asyncio.sleep(0.5)
        return silent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A proxy in front of a town at work, and Prometheus that looks at it once a second."""
    directory = tmp_path_factory.mktemp("watched")
    async with watched_town.watched(directory, people=PEOPLE, pause_s=PAUSE_S, scrape_s=1) as prometheus:
        since_s = time.time()
        yield Watched(prometheus, since_s, await variables(prometheus, rate_interval=RATE_INTERVAL))


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel as its file has it, and where it is."""
    for path in sorted(DIRECTORY.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield f"{path.stem}: {panel['title']}", panel


def queries(values: Mapping[str, str]) -> dict[Query, str]:
    """Every panel query as Grafana asks it, and where it is."""
    targets = ((where, target) for where, panel in panels() for target in panel["targets"])
    return {Query(filled_in(target["expr"], values), target["instant"]): f"{where} ({target['refId']})" for where, target in targets}


def behind_variables() -> Iterator[str]:
    """What the choices of every dashboard's variables are looked up in, or stand for."""
    yield from (f'compute_ledger_gini{{window="{window}"}}' for window in equality.WINDOW.values.values())
    for path in DIRECTORY.glob("*.json"):
        document = json.loads(path.read_text())
        yield from (variable["definition"] for variable in document["templating"]["list"] if variable["type"] == "query")


def selectors(exprs: Iterable[str]) -> set[Query]:
    return {Query(selector) for expr in exprs for selector in SELECTOR.findall(expr)}


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
        told = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert told["unit"] in UNITS, where
    for dashboard in DASHBOARDS:
        document = json.loads((DIRECTORY / f"{dashboard.uid}.json").read_text())
        taken = [cell for panel in document["panels"] for cell in _cells(panel["gridPos"])]
        assert len(taken) == len(set(taken)), dashboard.uid
        assert document["schemaVersion"] == 42


def test_what_stands_under_now_is_asked_of_now() -> None:
    """Else "up" would be shown for hours after all is dead: over a range the last value is the last that there ever was."""
    for where, panel in panels():
        is_of_now = panel["type"] in OF_NOW
        assert {(target["instant"], target["range"]) for target in panel["targets"]} == {(is_of_now, not is_of_now)}, where
        assert panel["type"] != "stat" or panel["options"]["graphMode"] == "none", where


def test_every_panel_says_for_which_grafana_it_is_written() -> None:
    """The one that the manual names. Of an older one than 11.1, or of none, Grafana would rewrite how the Lorenz curve finds its fields,
    and draw nothing."""
    (named,) = re.findall(r"written for Grafana (\d+\.\d+)", MANUAL.read_text())
    for where, panel in panels():
        version = panel["pluginVersion"]
        assert version.startswith(f"{named}."), where
        assert [int(part) for part in version.split(".")] >= [11, 1], where


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    return ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"]))


@on_one_loop
@pytest.mark.timeout(120)  # on a busy machine the town takes a while to do all that it does
async def test_every_panel_shows_something(watched: Watched) -> None:
    """Its query is understood and gives a number, and so does each selector in it, and what its variables are looked up in."""
    wanted = queries(watched.variables)
    looked_up = [filled_in(expr, watched.variables) for expr in behind_variables()]
    silent = await watched.untold({*wanted, *selectors(query.expr for query in wanted), *selectors(looked_up)})
    assert sorted((wanted.get(query, "a selector"), query.expr) for query in silent) == []


@on_one_loop
@pytest.mark.timeout(120)  # on a busy machine the town takes a while to do all that it does
async def test_every_rule_is_of_metrics_that_exist(watched: Watched) -> None:
    """Recording rules give something; alerts are evaluated without an error, and each selector in them finds something. Whatever people
    do, nothing critical is the matter."""
    rules = await watched.prometheus.rules()
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    silent = await watched.untold({*map(Query, recorded), *selectors(rule["query"] for rule in rules)})
    assert not silent
    rules = await watched.prometheus.rules()
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} >= {"ComputeLedgerDown", "ComputeLedgerSeatsWithheld"}
    alarming = 'ALERTS{severity="critical", alertstate="firing"}'
    assert await watched.prometheus.over(alarming, start_s=watched.since_s, end_s=time.time(), step_s=1) == []
