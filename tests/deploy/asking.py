"""What Grafana asks for a dashboard, when all its variables stand as they do at first."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from deploy.grafana.model import POOL
from tests.support.prometheus_server import PrometheusServer

JOB: Final = "compute-ledger"
POLL_S: Final = 0.2


async def variables(prometheus: PrometheusServer, *, rate_interval: str, deadline_s: float = 30) -> Mapping[str, str]:
    """A value for each variable. Of pools it is *All*, which stands for what the variable's own query finds, and for nothing else."""
    known = {"$job": JOB, "$window": "day", "$__rate_interval": rate_interval}
    async with asyncio.timeout(deadline_s):
        while True:
            pools = await prometheus.instant(f"group by ({POOL.value}) ({filled_in(POOL.metric, known)})")
            if pools:
                names = sorted(re.escape(series["metric"][POOL.value]) for series in pools)
                return {**known, "$pool": f"({'|'.join(names)})"}
            await asyncio.sleep(POLL_S)  # nothing has been scraped yet


def filled_in(expr: str, values: Mapping[str, str]) -> str:
    """An expression with a value for each variable."""
    for variable, value in values.items():
        expr = expr.replace(variable, value)
    return expr
