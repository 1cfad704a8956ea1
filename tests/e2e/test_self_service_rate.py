"""How often people may change something with their own key, through a whole proxy: exact over workers, told, changed while it runs."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import Caller, serving, until
from tests.support.scripted_upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")

PER_MINUTE = 11
RATE = f"[self_service]\nwrites_per_minute = {PER_MINUTE}"


def configuration(scripted: ScriptedUpstream) -> str:
    return f"""
        [[upstream]]
        name = "scripted"
        base_url = "{scripted.base_url}"
        [[price]]
        model = "*"
        input = "1"
        output = "1"
        [[plan]]
        name = "everyone"
        transfers = true
        limits = [ {{ credits = "10", window = "day" }} ]
        {RATE}
    """


async def call(caller: Caller, method: str, path: str, body: object = None) -> tuple[int, Any, Any]:
    """Status, document and headers of one call under `/ledger/v1/`, on a connection of its own, so that each worker is met."""
    headers = {"Authorization": f"Bearer {caller.key}", "Connection": "close"}
    url = f"{caller.deployment.proxy_url}/ledger/v1/{path}"
    async with caller.deployment.client.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_a_persons_changes_are_bounded_with_those_of_its_agents(tmp_path: Path, scripted: ScriptedUpstream) -> None:
    """Of 40 changes at once, by a person and an agent of it, exactly as many are made as the rate has left, whatever they are; nobody's
    reading is, nor another person; a new rate counts without a restart."""
    async with serving(tmp_path, configuration(scripted), workers=2) as deployment:
        ann, bob = await deployment.open_account(), await deployment.open_account()
        _, opened, _ = await call(ann, "POST", "agents", {"name": "boss", "cap": "1", "may_open_agents": True})
        boss = Caller(deployment, opened["id"], opened["key_id"], opened["key"])
        changes = (
            (ann, "POST", "transfers", {"to": bob.id, "credits": "0.001"}),
            (ann, "PATCH", "agents", {"limits": [{"credits": "1", "window": "day"}]}),
            (boss, "POST", "agents", {"cap": "0.1"}),
            (ann, "POST", "loans", {"to": "nobody", "credits": "1", "due_at": "2100-01-01T00:00:00Z"}),  # counts although it is refused
        )
        asked = {"path": "/v1/chat/completions", "body": {"model": "m", "messages": [{"role": "user", "content": "hello"}]}}
        reads = ((ann, "GET", "account"), (boss, "GET", "agents"), (ann, "GET", "journal"), (ann, "POST", "estimate", asked))

        results = await asyncio.gather(*(call(*changes[n % 4]) for n in range(40)), *(call(*reads[n % 4]) for n in range(40)))
        refused = [(document, headers) for status, document, headers in results[:40] if status == 429]
        assert len(refused) == 40 - (PER_MINUTE - 1)
        for document, headers in refused:
            told = document["compute_ledger"]
            assert (told["code"], told["account"], told["limit"]) == ("too_many_requests", ann.id, "writes_per_minute")
            assert f"{PER_MINUTE} times a minute" in document["error"]["message"]
            assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["Retry-After"]) <= 6000
        assert Counter(status for status, _, _ in results[40:]) == {200: 40}
        assert (await call(bob, "POST", "transfers", {"to": ann.id, "credits": "0.001"}))[0] == 200
        metrics = await deployment.metrics()
        assert f"compute_ledger_writes_refused_total {len(refused):.1f}" in metrics

        text = deployment.config_file.read_text()
        deployment.config_file.write_text(text.replace(RATE, "[self_service]\nwrites_per_minute = 0"))
        deployment.process.send_signal(signal.SIGHUP)
        await until(lambda: said(deployment.said), lambda lines: "self_service.writes_per_minute" in lines)
        deployment.config_file.write_text(text.replace(RATE, "[self_service]\nwrites_per_minute = 60000"))
        deployment.process.send_signal(signal.SIGHUP)
        await until(lambda: said(deployment.said), lambda lines: "was read again and is in force" in lines)
        await until(lambda: every_change(ann, changes[0]), lambda statuses: statuses == {200})


async def said(lines: Any) -> str:
    return "".join(lines)


async def every_change(caller: Caller, change: tuple[Any, ...]) -> set[int]:
    """The statuses of many more changes at once."""
    return {status for status, _, _ in await asyncio.gather(*(call(*change) for _ in range(30)))}
