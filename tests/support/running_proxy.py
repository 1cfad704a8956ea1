"""`compute-ledger serve` as its users run it: a process of its own, real ports, a real ledger.

Everything is asked through the front doors: the callers' port, the admin port, signals, files. Whatever is still there
afterwards is killed.
"""
# ruff: noqa: ASYNC110 - what is waited for happens in another process

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

START_DEADLINE_S = 30.0
DEADLINE_S = 20.0
READY = re.compile(r"^compute-ledger ready: proxy (http://\S+), admin (http://\S+)$", re.MULTILINE)

BASE = """\
[listen]
proxy = "127.0.0.1:0"
admin = "127.0.0.1:0"
workers = {workers}
drain_timeout_s = {drain_timeout_s}
[ledger]
{ledger}
hold_ttl_s = 3
[[upstream]]
name = "local"
base_url = "{upstream}"
[[price]]
model = "*"
input = "1"
output = "4"
[[plan]]
name = "everyone"
limits = [ {{ credits = "10", window = "day" }} ]
[[account]]
id = "ann"
key_env = "ANNS_KEY"
"""
ANNS_KEY = "cl-anns-own-key-of-forty-three-characters-00000"
TOKEN = "an-admin-token-for-the-tests"


class RunningProxy:
    """One start of the program, from its first line to its exit."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.proxy_url = ""
        self.admin_url = ""
        self.said = ""
        """Standard error so far."""
        self.printed = ""
        """Standard output so far."""
        self._reading: list[asyncio.Task[None]] = []
        self._workers_seen: set[int] = set()

    @classmethod
    async def begin(cls, *arguments: str, environment: dict[str, str] | None = None) -> RunningProxy:
        """Start it, and do not wait."""
        env = {**os.environ, "ANNS_KEY": ANNS_KEY, "ADMIN_TOKEN": TOKEN, **(environment or {})}
        command = [sys.executable, "-m", "proxy", *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=env, start_new_session=True)
        started = cls(process)
        assert process.stdout is not None
        assert process.stderr is not None
        started._reading = [
            asyncio.create_task(started._read(process.stdout, "printed")),
            asyncio.create_task(started._read(process.stderr, "said")),
        ]
        return started

    async def _read(self, stream: asyncio.StreamReader, attribute: str) -> None:
        while line := await stream.readline():
            setattr(self, attribute, getattr(self, attribute) + line.decode())

    async def ready(self) -> RunningProxy:
        await until(lambda: READY.search(self.said) or self.process.returncode is not None, deadline_s=START_DEADLINE_S)
        found = READY.search(self.said)
        assert found, self.said
        self.proxy_url, self.admin_url = found.groups()
        self.worker_pids()
        return self

    async def ended(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its exit, and for the last of what it says; its exit code."""
        async with asyncio.timeout(deadline_s):
            await self.process.wait()
            await asyncio.gather(*self._reading)
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """End it and all its workers, whatever they do."""
        self.worker_pids()
        for pid in (*filter(is_worker, self._workers_seen), *([self.process.pid] if self.process.returncode is None else [])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.ended()

    def worker_pids(self) -> list[int]:
        living = [pid for nursery in self.nursery_pids() for pid in children_of(nursery) if is_worker(pid)]
        self._workers_seen.update(living)
        return living

    def nursery_pids(self) -> list[int]:
        """Of the process that bears its workers; none where that was killed, and no worker was needed since."""
        return [pid for pid in children_of(self.process.pid) if is_nursery(pid)]

    # --- its front doors -------------------------------------------------------------------------------------------------------

    async def chat(self, *, model: str = "words", tokens: int = 8, key: str = ANNS_KEY) -> tuple[int, Any]:
        """One chat request, not streamed, on a connection of its own; the status and the answer."""
        async with aiohttp.ClientSession() as session, session.post(**self.chat_request(model=model, tokens=tokens, key=key)) as response:
            return response.status, await response.json()

    def chat_request(self, *, model: str = "words", tokens: int = 8, stream: bool = False, key: str = ANNS_KEY) -> dict[str, Any]:
        body = {"model": model, "max_tokens": tokens, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
        return {"url": f"{self.proxy_url}/v1/chat/completions", "headers": {"Authorization": f"Bearer {key}"}, "json": body}

    async def admin(self, method: str, path: str, *, token: str = TOKEN, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.admin_url}{path}", headers=headers, json=body or None) as response,
        ):
            text = await response.text()
            assert response.status < 400, text
            return json.loads(text)

    async def account(self, name: str = "ann") -> Any:
        return await self.admin("GET", f"/admin/v1/accounts/{name}")

    async def metrics(self) -> dict[str, float]:
        """What a scrape reads, by name, summed over labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/metrics") as response:
            text = await response.text()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix("compute_ledger_")
                sums[name] = sums.get(name, 0.0) + sample.value
        return sums

    async def readiness(self) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/readyz") as response:
            return response.status, await response.json()


async def until(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_worker(pid: int) -> bool:
    return title_of(pid) == "ledger-worker"


def is_nursery(pid: int) -> bool:
    return title_of(pid) == "ledger-nursery"


def title_of(pid: int) -> str:
    """What `ps -o comm` calls it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def configuration(upstream: str, data_dir: Path, *, workers: int = 1, drain_timeout_s: float = 10, ledger: str = "", more: str = "") -> str:
    """A configuration file's text: one upstream, one price for all models, account `ann` with the key ANNS_KEY."""
    ledger = f'data_dir = "{data_dir}"\n{ledger}'
    text = BASE.format(upstream=upstream, workers=workers, drain_timeout_s=drain_timeout_s, ledger=ledger)
    return f'{text}{more}\n[admin]\ntoken_env = "ADMIN_TOKEN"\n'


@contextlib.asynccontextmanager
async def proxies() -> AsyncIterator[Callable[..., Any]]:
    """Gives what starts a proxy with arguments; those that still run at the end are killed."""
    begun: list[RunningProxy] = []

    async def begin(*arguments: str | Path, environment: dict[str, str] | None = None) -> RunningProxy:
        begun.append(await RunningProxy.begin(*map(str, arguments), environment=environment))
        return begun[-1]

    try:
        yield begin
    finally:
        for proxy in begun:
            await proxy.kill()
