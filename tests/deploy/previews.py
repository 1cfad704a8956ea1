"""Draws the previews of the dashboards that the manual shows: `python -m tests.deploy.previews [--minutes N]`.

A proxy in front of a town at work, a real Prometheus that looks at it, and each dashboard drawn from what its queries give at the end.
Needs Prometheus and the extra `previews`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.grafana import model
from deploy.grafana.generate import DASHBOARDS
from tests.deploy.asking import filled_in, variables
from tests.deploy.drawing import Told, draw
from tests.support import watched_town
from tests.support.prometheus_server import PrometheusServer

PREVIEWS: Final = Path(__file__).parents[2] / "deploy" / "grafana" / "previews"
RATE_INTERVAL: Final = "20s"
OF_NOW: Final = (model.Figure, model.Bars, model.Curve)
PEOPLE: Final = 90
PAUSE_S: Final = 6.0
TIDE_S: Final = 100.0
STEP_S: Final = 2


async def main(minutes: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with watched_town.watched(Path(directory), people=PEOPLE, pause_s=PAUSE_S, tide_s=TIDE_S, scrape_s=STEP_S) as prometheus:
            began_s = time.time()
            await asyncio.sleep(60 * minutes)
            values = await variables(prometheus, rate_interval=RATE_INTERVAL)
            results = [await _results(dashboard, prometheus, values, began_s) for dashboard in DASHBOARDS]
    PREVIEWS.mkdir(exist_ok=True)
    for dashboard, result in zip(DASHBOARDS, results, strict=True):
        draw(dashboard, result, PREVIEWS / f"{dashboard.uid.removeprefix('compute-ledger-')}.png")


async def _results(
    dashboard: model.Dashboard, prometheus: PrometheusServer, values: Mapping[str, str], began_s: float
) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = {}
    end_s = time.time()
    for row in dashboard.rows:
        for panel in row.panels:
            told = found.setdefault(f"{row.title}/{panel.title}", [])
            for query in panel.queries:
                expr = filled_in(query.expr, values)
                if isinstance(panel.shape, OF_NOW):
                    answer = [{**series, "values": [series["value"]]} for series in await prometheus.instant(expr)]
                else:
                    answer = await prometheus.over(expr, start_s=began_s, end_s=end_s, step_s=STEP_S)
                for series in answer:
                    labels = series["metric"]
                    name = re.sub(r"\{\{(\w+)\}\}", lambda label, labels=labels: labels.get(label[1], ""), query.legend)
                    told.append(Told(name or panel.title, labels, [(moment, float(value)) for moment, value in series["values"]]))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the town is watched (default: 5)")
    asyncio.run(main(parser.parse_args().minutes))
