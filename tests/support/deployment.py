"""The proxy as an operator runs it: `compute-ledger serve` in its own processes, on ports and a directory of its own.

Everything goes through what users touch: the configuration file, the admin API, the proxy's listener, the commands. Nothing here knows
how the proxy is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
LINES_KEPT = 200
POLL_S = 0.01
TOKEN = "operator-token-for-tests-0123456789"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has spent since it began, and what its requests cost beyond that."""

    spent_nanocredits: int
    overrun_nanocredits: int


class Deployment:
    """A running proxy, with an operator's and a caller's view of it."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.config_file = directory / "config.toml"
        self.proxy_url = ""
        self.admin_url = ""
        self.said: deque[str] = deque(maxlen=LINES_KEPT)
        self._accounts = 0
        self._admin = aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"})
        self.client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))

    # --- as an operator ----------------------------------------------------------------------------------------------------

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """One call of the admin API under `/admin/v1/`; its answer."""
        async with self._admin.request(method, f"{self.admin_url}/admin/v1/{path}", json=body) as answer:
            assert answer.status < 300, f"{method} {path}: {answer.status} {await answer.text()}"
            return await answer.json() if answer.status != 204 else None

    async def open_account(self, credits: str | None = None, **members: Any) -> Caller:
        """A new account with a key; `credits` is a limit that never resets, None leaves it the plan's."""
        self._accounts += 1
        account_id = members.pop("id", f"user:{self._accounts}")
        if credits is not None:
            members["limits"] = [{"credits": credits, "window": "ever"}]
        await self.admin("POST", "accounts", {"id": account_id, **members})
        key = await self.admin("POST", f"accounts/{account_id}/keys")
        return Caller(self, account_id, key["key_id"], key["key"])

    async def account(self, account_id: str) -> Any:
        return await self.admin("GET", f"accounts/{account_id}")

    async def metrics(self) -> str:
        async with self._admin.get(f"{self.admin_url}/metrics") as answer:
            return await answer.text()

    async def audit(self) -> tuple[int, str]:
        """Exit code and output of `compute-ledger audit` beside the running proxy."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "audit", "--config", str(self.config_file)),
            cwd=ROOT,
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for nursery in _children(self.process.pid, "ledger-nursery") for pid in _children(nursery, "ledger-worker")]

    async def replaced(self, deaths: int, *, workers: int = 2) -> None:
        """Wait until so many workers have died, and all have successors that accept requests."""
        names = re.compile(r"^compute_ledger_(workers|worker_restarts_total) (\d+)", re.MULTILINE)
        await until(self.metrics, lambda text: dict(names.findall(text)) == {"workers": str(workers), "worker_restarts_total": str(deaths)})

    async def close(self) -> None:
        await self._admin.close()
        await self.client.close()


class Caller:
    """An account and its key, as whoever uses them sees the proxy."""

    def __init__(self, deployment: Deployment, account_id: str, key_id: str, key: str) -> None:
        self.deployment = deployment
        self.id = account_id
        self.key_id = key_id
        self.key = key
        self.base_url = f"{deployment.proxy_url}/v1"

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Any:
        """A request; use it as aiohttp's: `async with caller.post("/v1/...", {...}) as answer`.

        The body is sent as it is where it is bytes, else as JSON; `headers` hold the credential where they are given.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {"Authorization": f"Bearer {self.key}"})}
        return self.deployment.client.post(URL(self.deployment.proxy_url + path, encoded=True), data=data, headers=headers)

    async def settled(self) -> Balance:
        """The balance once nothing is held any more; the test's own timeout is the limit."""
        account = await until(lambda: self.deployment.account(self.id), lambda account: account["held"] == "0")
        return Balance(nanocredits(account["spent"]), nanocredits(account["overrun"]))


def _children(pid: int, title: str) -> list[int]:
    """The processes that this one has started, and that `ps -o comm` calls so."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and (entry / "comm").read_text() == f"{title}\n":
                found.append(int(entry.name))
    return found


T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T]], satisfied: Callable[[T], bool]) -> T:
    """Ask again and again until the answer satisfies; the test's own timeout is the limit."""
    while not satisfied(answer := await ask()):  # noqa: ASYNC110 - what is asked of is another process, which sets no event here
        await asyncio.sleep(POLL_S)
    return answer


def nanocredits(credits: str) -> int:
    """The exact integer for an amount as the API writes it."""
    return int(Decimal(credits) * 10**9)


def environment() -> dict[str, str]:
    return {**os.environ, "TEST_ADMIN_TOKEN": TOKEN}


@asynccontextmanager
async def serving(
    directory: Path,
    configuration: str,
    *,
    workers: int = 2,
    hold_ttl_s: int = 60,
    ledger_url: str = "embedded",
    audit_interval_s: float = 60,
    on_failure: str = "refuse",
) -> AsyncIterator[Deployment]:
    """A proxy with two workers, an embedded ledger and a configuration of `[[upstream]]`, `[[price]]` and `[[plan]]` tables."""
    listen = f'[listen]\nproxy = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = {workers}\ndrain_timeout_s = 2\n'
    times = f"hold_ttl_s = {hold_ttl_s}\naudit_interval_s = {audit_interval_s}\n"
    failing = f'on_failure = "{on_failure}"\n'
    ledger = f'[ledger]\nurl = "{ledger_url}"\ndata_dir = "{directory}/ledger"\n{times}{failing}'
    (directory / "config.toml").write_text(f'{listen}\n{ledger}\n[admin]\ntoken_env = "TEST_ADMIN_TOKEN"\n\n{configuration}')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(directory / "config.toml")),
        cwd=ROOT,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    deployment = Deployment(process, directory)
    listening = asyncio.ensure_future(_listen(deployment))
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not deployment.proxy_url:
                assert not listening.done(), "the proxy did not start:\n" + "".join(deployment.said)
                await asyncio.sleep(POLL_S)
        yield deployment
    finally:
        await deployment.close()
        await _stop(process)
        await listening
    assert process.returncode == 0, f"the proxy ended with {process.returncode}:\n" + "".join(deployment.said)


async def _listen(deployment: Deployment) -> None:
    assert deployment.process.stderr is not None
    while line := (await deployment.process.stderr.readline()).decode(errors="replace"):
        deployment.said.append(line)
        addresses = re.findall(r"http://[\d.:]+", line)
        if "ready" in line and len(addresses) == 2:
            deployment.admin_url, deployment.proxy_url = addresses[1], addresses[0]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
