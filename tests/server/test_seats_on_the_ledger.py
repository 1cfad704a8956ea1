"""What seats cost on the way to a real ledger server: nothing that anybody waits for, while there is one free."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy import config
from proxy.domain import AccountId
from proxy.ledger import open_ledger
from proxy.ledger.backlog import Backlog
from proxy.ledger.batches import Batches
from proxy.ledger.pools import Pools
from proxy.metrics import Metrics
from proxy.server.handler import Proxy
from proxy.server.listener import Listener
from proxy.server.upstream import Endpoint
from tests.support import openai_answers as answers
from tests.support.ledger_server import LedgerServer
from tests.support.proxied import chat, price
from tests.support.scripted_upstream import ScriptedUpstream


class CountingLink:
    """Relays to the ledger server and counts what is sent there. Whoever waits for an answer sends nothing more before it has it, so what
    is sent together is one round trip."""

    def __init__(self, server: LedgerServer) -> None:
        self._server = server
        self.batches: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(str(self._server.socket))

        async def relay(source: asyncio.StreamReader, target: asyncio.StreamWriter, seen: list[bytes]) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 20):
                    seen.append(data)
                    target.write(data)
            target.close()

        await asyncio.gather(relay(reader, to_server, self.batches), relay(from_server, writer, []))


@contextlib.asynccontextmanager
async def serving(link_url: str, upstream: ScriptedUpstream, directory: Path, **section: Any) -> AsyncIterator[tuple[str, str]]:
    """A proxy without its periodic jobs, so that nothing is sent to the ledger but for requests; its address and a key."""
    settings = config.validate({"upstream": [{"name": "up", "base_url": upstream.base_url, **section}]}, source="test")
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_ledger(config.LedgerSection(deadline_ms=20_000), url=link_url))
        store.directory.configure(file_prices=(price(),), default_plan=None)
        await store.directory.seed_plans((config.PlanRow(name="everyone").to_plan(),))
        account = AccountId("ann")
        await store.directory.create_account(
            account, parent=None, plan="everyone", weight=None, limits=None, labels={}, operation_id="open"
        )
        _, key = await store.directory.create_key(account, operation_id="key")
        assert key is not None
        backlog = await stack.enter_async_context(Backlog(directory, observe=metrics.backlog_changed))
        endpoints = [await stack.enter_async_context(Endpoint(section, api_key=None)) for section in settings.upstream]
        proxy = Proxy(
            settings,
            endpoints=endpoints,
            ledger=store.ledger,
            directory=store.directory,
            backlog=backlog,
            batches=Batches(store.engine),
            pools=Pools(store.engine, learning_ms=0),
            metrics=metrics,
            now_ms=store.engine.now_ms,
        )
        runner = web.ServerRunner(Listener(proxy.handle, settings.listen), shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions", key
        await proxy.drain(timeout_s=0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_free_seat_costs_no_round_trip(
    ledger_server: LedgerServer, upstream: ScriptedUpstream, tmp_path: Path, stream: bool
) -> None:
    """It is asked for with the hold in one batch and given back with the settlement in another: as many batches as without seats."""
    upstream.automatic = answers.generating(input_tokens=10, output_tokens=5)
    link = CountingLink(ledger_server)
    listener = await asyncio.start_unix_server(link.serve, str(tmp_path / "l"))
    batches: dict[str, list[int]] = {}
    async with listener:
        for name, section in (("plain", {}), ("scarce", {"seats": 2})):
            ledger_server.flush()
            async with (
                serving(f"unix://{tmp_path}/l", upstream, tmp_path / name, **section) as (url, key),
                aiohttp.ClientSession() as client,
            ):
                for _ in range(3):  # of which the first finds nothing in any cache
                    link.batches.clear()
                    async with client.post(
                        url, json=chat(stream=stream, max_tokens=10), headers={"Authorization": f"Bearer {key}"}
                    ) as answer:
                        assert answer.status == 200
                        await answer.read()
                    while b"settle" not in b"".join(link.batches):  # noqa: ASYNC110 - it may come after the answer
                        await asyncio.sleep(0.002)
                batches[name] = [data.count(b"\r\n*") + 1 for data in link.batches]
    assert len(batches["scarce"]) == len(batches["plain"]), batches
    assert batches["scarce"] == [count + 1 for count in batches["plain"]]
