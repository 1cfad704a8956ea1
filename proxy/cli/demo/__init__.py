"""`compute-ledger demo`: the whole story on one machine, with the real proxy and a simulated model; nothing else is needed.

The proxy is started exactly as `serve` starts it, with two workers and an embedded ledger in a temporary directory, and goes on running
after the story until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import aiohttp

from proxy.app import nursery, parent
from proxy.app.settings import Document, Source
from proxy.cli.demo.screen import Screen
from proxy.cli.demo.story import Story
from proxy.cli.demo.town import (
    DEAR_MODEL,
    DEAR_PRICE,
    DEAR_SEATS,
    DEAR_UPSTREAM,
    MODEL,
    PRICE,
    SCARCE_MODEL,
    SCARCE_SEATS,
    SCARCE_UPSTREAM,
    Person,
    Town,
    Unexpected,
)
from proxy.errors import SetupError
from proxy.processes.nursery import Nursery
from proxy.simulation import SimulatedEndpoint, SimulatedModel, simulated_endpoint

WORKERS = 2
TOKENS_PER_S = 30.0
ENDLESS_TOKENS = 100_000
BRIEF_MODEL, BRIEF_TOKENS = "helper", 60
STORY_S = 90.0
"""How long the story takes at its own pace."""
FIXED_S = 15.0
"""What starting, some hundred requests, and a day's inequality in a minute's time take at any pace, on a busy machine."""
SHORTEST_PACE = 0.05
DRAIN_S = 1
INTERVENTION = {
    "tick_s": 0.2,
    "step_s": 0.2,
    "sustained_s": 0.2,
    "cap": {"steps_max": 1},
    **{name: {"mode": "off"} for name in ("floor", "progressive_price", "brake", "tithe", "dividend")},
}
"""Quick enough to be watched; one policy is enough to see what they do."""
STOP_TIMEOUT_S = 15.0

SNIPPETS = """\
Yours for now. user:you may spend 1 credit an hour: a thousand words.

  export OPENAI_BASE_URL={proxy}/v1
  export OPENAI_API_KEY={key}
  curl -N $OPENAI_BASE_URL/chat/completions \\
    -H "Authorization: Bearer $OPENAI_API_KEY" \\
    -d '{{"model": "{model}", "stream": true,
         "messages": [{{"role": "user", "content": "Hi"}}]}}'

As the operator:

  export COMPUTE_LEDGER_ADMIN_URL={admin}
  export COMPUTE_LEDGER_ADMIN_TOKEN={token}
  {command} account list
  {command} journal user:nora
"""


def run(args: argparse.Namespace) -> int:
    """Show the demo. Raises SetupError."""
    with nursery.forked() as bearing:
        return asyncio.run(_demo(bearing, port=args.port or 0, seconds=args.seconds))


async def _demo(bearing: Nursery, *, port: int, seconds: float | None) -> int:
    screen = Screen()
    pace = 1.0 if seconds is None else min(1.0, max(SHORTEST_PACE, 0.9 * (seconds - FIXED_S) / STORY_S))
    speed = TOKENS_PER_S / pace
    models = [
        SimulatedModel(MODEL, tokens_per_s=speed, answer_tokens=ENDLESS_TOKENS),
        SimulatedModel(BRIEF_MODEL, tokens_per_s=speed, answer_tokens=BRIEF_TOKENS),
        SimulatedModel(SCARCE_MODEL, tokens_per_s=speed, answer_tokens=BRIEF_TOKENS, seats=SCARCE_SEATS),
        SimulatedModel(DEAR_MODEL, tokens_per_s=TOKENS_PER_S, answer_tokens=BRIEF_TOKENS, seats=DEAR_SEATS),  # scarce at any pace
    ]
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compute-ledger-demo-")))
        stack.enter_context(screen.cursor_hidden())
        endpoint = await stack.enter_async_context(simulated_endpoint(models))
        ready: asyncio.Future[parent.Ready] = asyncio.get_running_loop().create_future()

        async def on_ready(started: parent.Ready) -> None:
            ready.set_result(started)

        source = Source(None, overrides={}, default=_document(endpoint, directory, port=port))
        proxy = asyncio.ensure_future(parent.run(source, bearing, on_ready=on_ready))
        told = asyncio.Event()
        story = asyncio.ensure_future(_tell(screen, ready, endpoint, told, pace=pace))
        await asyncio.wait((proxy, story), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not (proxy.done() or story.done()):  # a busy machine may need longer than the pace allows for; a story is told to its end
            ending = asyncio.ensure_future(told.wait())
            await asyncio.wait((proxy, story, ending), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
        return await _stop(screen, proxy, story)


async def _stop(screen: Screen, proxy: asyncio.Task[int], story: asyncio.Task[None]) -> int:
    """End both; the proxy in its own orderly way. The exit code."""
    failure = story.exception() if story.done() else None
    if failure is not None:
        await asyncio.wait((proxy,), timeout=DRAIN_S + 1)  # a proxy that was told to stop fails the story's requests
        if proxy.done():
            failure = None
    story.cancel()
    if not proxy.done():
        signal.raise_signal(signal.SIGTERM)
    await asyncio.wait((proxy, story), timeout=STOP_TIMEOUT_S)
    code = proxy.result()
    if isinstance(failure, (Unexpected, aiohttp.ClientError)):
        raise SetupError(f"this should not have happened: {failure}") from failure
    if failure is not None:
        raise failure
    screen.say("Stopped. Nothing is left behind.")
    return code


def _document(endpoint: SimulatedEndpoint, directory: Path, *, port: int) -> Document:
    """The demo's configuration."""
    reached = {"base_url": endpoint.base_url, "dialects": ["openai"]}
    return {
        "listen": {"proxy": f"127.0.0.1:{port}", "admin": "127.0.0.1:0", "workers": WORKERS, "drain_timeout_s": DRAIN_S},
        "ledger": {"data_dir": str(directory), "slice_tokens": 32},
        "upstream": [
            {"name": SCARCE_UPSTREAM, "models": [SCARCE_MODEL], "seats": SCARCE_SEATS, **reached},
            {"name": DEAR_UPSTREAM, "models": [DEAR_MODEL], "seats": DEAR_SEATS, **reached},
            {"name": "simulation", **reached},
        ],
        "price": [PRICE, DEAR_PRICE],
        "intervention": INTERVENTION,
        "plan": [{"name": "everyone", "limits": [{"credits": "1", "window": "hour"}]}],
    }


async def _tell(
    screen: Screen, ready: asyncio.Future[parent.Ready], endpoint: SimulatedEndpoint, told: asyncio.Event, *, pace: float
) -> None:
    """The story, and then the live account of whoever watches; `told` is set in between."""
    started = await ready
    token = parent.admin_token_file(started.config.ledger.data_dir).read_text().strip()
    screen.print(screen.paint("compute-ledger", "1") + ": everyone gets a share of scarce compute that they really have.")
    screen.say(
        f"Running here: the proxy at {started.proxy_url} with {WORKERS} workers, an embedded ledger, and a simulated model "
        f"that says {TOKENS_PER_S / pace:.0f} words a second."
    )
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        town = Town(session, proxy_url=started.proxy_url, admin_url=started.admin_url, token=token)
        await Story(screen, town, pace=pace, generated_tokens=lambda: endpoint.generated_tokens).tell()
        you = await town.open("user:you", "1", window="hour")
        screen.chapter("Your turn")
        addresses = {"proxy": started.proxy_url, "admin": started.admin_url}
        snippets = SNIPPETS.format(**addresses, key=you.key, token=token, model=BRIEF_MODEL, command=_command())
        screen.print(*snippets.splitlines())
        told.set()
        await _watch(screen, you)


def _command() -> str:
    """How this program was called, for what is to be called next."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "compute-ledger" and called.parent != Path() else "compute-ledger"


async def _watch(screen: Screen, you: Person) -> None:
    """Show what the watcher spends, until the demo is stopped."""

    def draw() -> list[str]:
        return [f"user:you has spent {you.spent} of {you.limit} credits, {you.held} are held"]

    async with screen.moving(draw, refresh=you.refresh):
        await asyncio.Event().wait()
