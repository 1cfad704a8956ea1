"""A town whose traffic shows everything that the dashboards tell of.

Use that differs from person to person, budgets that end, seats that are scarce, upstreams that fail and lie, credits that are granted and
given away.

People ask again and again until the context ends; what becomes of it does not matter here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support import openai_answers as answers
from tests.support import prometheus_server, scripted_upstream
from tests.support.deployment import Caller, Deployment, serving
from tests.support.prometheus_server import PrometheusServer
from tests.support.scripted_upstream import Exchange

CHAT = "/v1/chat/completions"
TOKEN_S = 0.003
BURST = 8
"""So many words of a stream come at a time."""
INPUT_TOKENS = 10
INSUFFICIENT = 402
SEATS = 3
COMMON = f"seats = {SEATS}\nqueue_timeout_s = 1\nqueue_depth_per_account = 2\n"
PLANS = """
[intervention]
tick_s = 1
step_s = 15
sustained_s = 2
scarcity_min = 0.02
scarcity_release = 0.01
gini_above = 0.2
gini_release = 0.1

[intervention.cap]
mode = "on"

[[price]]
model = "*"
input = "100"
output = "1000"

[[plan]]
name = "everyone"
limits = [ { credits = "3", window = "day" } ]

[[plan]]
name = "research"
weight = 2
limits = [ { credits = "6", window = "day" } ]
"""
"""A token that is said costs a thousandth of a credit. Policies act at the least occasion, one of them in earnest."""


def configuration(base_url: str, *, closed: int) -> str:
    """Upstreams, prices and plans of the town; on the port `closed` nobody listens."""
    nobody = f"http://127.0.0.1:{closed}"
    upstreams = {
        "local": (base_url, '["local", "lying", "silent", "broken"]', ""),
        "shared": (base_url, '["shared"]', COMMON),
        "closed": (nobody, '["closed", "twice"]', ""),
        "spare": (base_url, '["twice"]', "seats = 2\n"),
    }
    tables = [f'[[upstream]]\nname = "{n}"\nbase_url = "{u}"\nmodels = {m}\n{more}' for n, (u, m, more) in upstreams.items()]
    return "\n".join((*tables, PLANS))


async def play(exchange: Exchange) -> None:
    """What the upstream does, by the model: answer as asked, bill too much, bill nothing, break off."""
    asked = exchange.document
    model, tokens = asked["model"], asked["max_tokens"]
    usage = {"lying": answers.usage(INPUT_TOKENS, 3 * tokens), "silent": answers.NO_USAGE}.get(model, answers.usage(INPUT_TOKENS, tokens))
    if not asked.get("stream"):
        await asyncio.sleep(tokens * TOKEN_S)  # the time that the model takes is what makes seats scarce
        await exchange.answer(answers.chat("word " * tokens, usage=usage))
        return
    await exchange.start()
    for number, data in enumerate(answers.chat_events(["word "] * tokens, usage=usage)):
        if model == "broken" and number == 2:
            exchange.abort()
            return
        if number % BURST == 0:
            await asyncio.sleep(BURST * TOKEN_S)
        await exchange.send(data)
    await exchange.finish()


async def ask(caller: Caller, model: str, tokens: int, *, stream: bool = False, patience_s: float = 30) -> int:
    """One request, its answer read to the end, whatever it is; its status. After `patience_s` the caller hangs up, with status 0."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "stream": stream}
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(patience_s), caller.post(CHAT, body) as answer:
            await answer.read()
            return answer.status
    return 0


@asynccontextmanager
async def watched(directory: Path, *, people: int, pause_s: float, scrape_s: int, tide_s: float = 0) -> AsyncIterator[PrometheusServer]:
    """A proxy in front of the town at work, and Prometheus that looks at it every `scrape_s`."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connecting is refused
        async with scripted_upstream.running() as upstream:
            upstream.automatic = play
            text = configuration(upstream.base_url, closed=closed.getsockname()[1])
            async with (
                serving(directory, text, audit_interval_s=scrape_s) as deployment,
                prometheus_server.running(directory, admin_url=deployment.admin_url, scrape_s=scrape_s) as prometheus,
                busy(deployment, people=people, pause_s=pause_s, tide_s=tide_s),
            ):
                yield prometheus


@asynccontextmanager
async def busy(deployment: Deployment, *, people: int, pause_s: float, tide_s: float = 0, seed: int = 1) -> AsyncIterator[None]:
    """So many people ask, each as often as it likes, beside the town's odd characters.

    `pause_s` is the average between two requests; with `tide_s` it comes and goes in that time.
    """
    chance = random.Random(seed)
    crowd = [await _person(deployment, number) for number in range(people)]
    staff = await deployment.open_account(id="staff", limits=[])
    poor, patron = [await deployment.open_account(credits, id=name) for name, credits in (("poor", "0.03"), ("patron", "20"))]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_use(person, pause_s * chance.lognormvariate(0, 1), tide_s, random.Random(chance.random())))
            for person in crowd[: int(0.9 * people)]  # the others ask for nothing
        ]
        tasks += [
            group.create_task(habit) for habit in (_oddities(deployment, staff, poor, pause_s), _gifts(deployment, patron, poor, pause_s))
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _person(deployment: Deployment, number: int) -> Caller:
    """Two thirds have one plan, the others another; one in twenty has a budget for nothing."""
    plan = "research" if number % 3 == 0 else "everyone"
    return await deployment.open_account("0.0001" if number % 20 == 1 else None, id=f"user:{number}", plan=plan)


async def _use(person: Caller, pause_s: float, tide_s: float, chance: random.Random) -> None:
    while True:
        tide = 1 + 0.6 * math.sin(2 * math.pi * time.monotonic() / tide_s) if tide_s else 1
        await asyncio.sleep(pause_s * tide * chance.expovariate(1))
        model = "shared" if chance.random() < 0.7 else "local"
        status = await ask(person, model, 5 + int(chance.expovariate(1 / 30)), stream=chance.random() < 0.5)
        if status == INSUFFICIENT:
            await asyncio.sleep(5 * pause_s)


async def _oddities(deployment: Deployment, staff: Caller, poor: Caller, pause_s: float) -> None:
    """What goes wrong: budgets that end before and within an answer, impatience, upstreams that lie, say nothing, break off or are away."""
    stranger = Caller(deployment, "nobody", "none", "cl-" + "x" * 43)
    while True:
        await asyncio.gather(
            *(ask(staff, "shared", 40) for _ in range(8)),  # three have a seat, two wait, the queue is full for three
            ask(staff, "shared", 20, patience_s=0.05),
            *(ask(staff, model, 10, stream=True) for model in ("lying", "silent", "broken", "closed", "twice")),
            ask(staff, "lying", 10),
            ask(poor, "local", 500, stream=True),
            ask(stranger, "local", 10),
        )
        await asyncio.sleep(pause_s)


async def _gifts(deployment: Deployment, patron: Caller, poor: Caller, pause_s: float) -> None:
    """Credits are granted, corrected and given away."""
    while True:
        for path, body in (
            (f"accounts/{poor.id}/grants", {"credits": "0.02", "reason": "welcome"}),
            (f"accounts/{patron.id}/adjustments", {"credits": "0.001", "reason": "a request of last week"}),
            ("transfers", {"from": patron.id, "to": poor.id, "credits": "0.005", "reason": "lunch"}),
        ):
            await deployment.admin("POST", path, body)
        await asyncio.sleep(pause_s)
