"""A real Prometheus on the configuration and the rules that are shipped, and questions to it over its HTTP API."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
START_TIMEOUT_S = 30.0
POLL_S = 0.05
ATTEMPTS = 3

Series = dict[str, Any]


class PrometheusServer:
    """A running server; `running` starts one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = aiohttp.ClientSession()

    async def ask(self, path: str, **parameters: object) -> Any:
        """The data of an answer of `/api/v1/<path>`; an error fails the test."""
        form = {name: str(value) for name, value in parameters.items()}
        async with self._session.post(f"{self.url}/api/v1/{path}", data=form) as answer:
            document = await answer.json()
        assert document["status"] == "success", f"{form}: {document.get('error')}"
        return document["data"]

    async def instant(self, expr: str) -> list[Series]:
        """The series that an expression gives now."""
        return (await self.ask("query", query=expr))["result"]

    async def over(self, expr: str, *, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """The series that an expression gives between two moments."""
        return (await self.ask("query_range", query=expr, start=start_s, end=end_s, step=step_s))["result"]

    async def rules(self) -> list[dict[str, Any]]:
        """Every rule that is loaded, as it is evaluated."""
        async with self._session.get(f"{self.url}/api/v1/rules") as answer:
            document = await answer.json()
        return [rule for group in document["data"]["groups"] for rule in group["rules"]]

    async def is_ready(self) -> bool:
        try:
            async with self._session.get(f"{self.url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectorError:
            return False

    async def close(self) -> None:
        await self._session.close()


def binary(name: str) -> str:
    """The path of `prometheus` or `promtool`; where there is none the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} at hand: `apt-get install prometheus`, or put a release from prometheus.io on the path")
    return found


@asynccontextmanager
async def running(directory: Path, *, admin_url: str, scrape_s: int) -> AsyncIterator[PrometheusServer]:
    """Prometheus with the shipped configuration, but this target, and scraping more often."""
    shutil.copytree(SHIPPED, directory / "prometheus")
    file = directory / "prometheus" / "prometheus.yml"
    text = re.sub(r"(_interval:) 15s", rf"\1 {scrape_s}s", file.read_text())
    file.write_text(text.replace("127.0.0.1:8081", admin_url.removeprefix("http://")))
    process, server = await _started(file, directory)
    try:
        yield server
    finally:
        await server.close()
        await _stop(process)


async def _started(file: Path, directory: Path) -> tuple[Process, PrometheusServer]:
    """It takes no port of the system's choice, so a free one is looked for, and another where somebody was faster."""
    for attempt in range(ATTEMPTS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        options = (f"--config.file={file}", f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}")
        with (directory / f"prometheus-{attempt}.log").open("wb") as log:
            command = (binary("prometheus"), *options, "--log.level=warn")
            process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True)
        server = PrometheusServer(f"http://{address}")
        if await _is_up(process, server):
            return process, server
        await server.close()
        await _stop(process)
    raise AssertionError((directory / f"prometheus-{attempt}.log").read_text())


async def _is_up(process: Process, server: PrometheusServer) -> bool:
    async with asyncio.timeout(START_TIMEOUT_S):
        while process.returncode is None:
            if await server.is_ready():
                return True
            await asyncio.sleep(POLL_S)  # it says nothing when it is ready; asking is the only way to know
    return False


async def _stop(process: Process) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGTERM)
    await process.wait()
