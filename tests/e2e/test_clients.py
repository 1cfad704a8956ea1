"""Other clients that people have work unchanged through `serve`, and every token is charged: curl, Node's, LangChain's, the `llm` command.

A token of input costs 3 nanocredits, of output 7; the upstream bills 10 of input and one of output for each word. Each client shows that a
refusal arrives as its own error with the reason, is not tried again, and that no stream that is cut or breaks off passes for complete.
Nothing is downloaded: what is not there is skipped. For Node's: `npm install openai @anthropic-ai/sdk ai @ai-sdk/openai-compatible`
anywhere, and COMPUTE_LEDGER_NODE_MODULES=<there>/node_modules.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import anthropic_answers, openai_answers
from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import JSON, Exchange, ScriptedUpstream
from tests.support.speech import NO_USAGE

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

WORD = "tok "
TOKENS = 4
BILLED = 10 * 3 + TOKENS * 7
FORWARDED = 9 * 3
"""The prompt of 5 or 6 bytes as it is counted where no bill comes; each word that was forwarded is another 7."""
SHORT = "0.000000197"
"""87 for the input's bound and 10 x 11 for as many tokens."""
POOR = "0.00000005"
SLOWEST_S = 20.0
"""Loading a client takes seconds on a busy machine; a retry after what a server asks for would take minutes."""
NODE_CLIENTS = Path(__file__).parent / "clients" / "node_clients.mjs"
NODE_PACKAGES = {"openai": ["openai"], "anthropic": ["@anthropic-ai/sdk"], "ai": ["ai", "@ai-sdk/openai-compatible"]}
NODE_REFUSALS = {"openai": "APIError", "anthropic": "PaymentRequiredError", "ai": "APICallError"}


async def play(exchange: Exchange) -> None:
    """As many words as are asked for, all billed; for `vanish` two and a crash, for `wait!` three and silence, for `later` a 429."""
    if b'"later"' in exchange.body:
        await exchange.answer(openai_answers.error("later"), status=429, headers={**JSON, "Retry-After": "7200"})
        return
    is_anthropic = exchange.raw_path.partition("?")[0].endswith("/messages")
    words = 2 if b'"vanish"' in exchange.body else 3 if b'"wait!"' in exchange.body else None
    if words is None:
        generating = anthropic_answers.generating if is_anthropic else openai_answers.generating
        await generating(input_tokens=10, word=WORD)(exchange)
        return
    said = (anthropic_answers.message_events if is_anthropic else openai_answers.chat_events)([WORD] * words, usage=NO_USAGE)
    last = max(place for place, event in enumerate(said) if json.dumps(WORD).encode() in event)
    for event in said[: last + 1]:
        await exchange.send(event)
    if words == 2:
        exchange.vanish()
    else:
        await exchange.client_gone()


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = play
    return upstream


async def spent(caller: Caller) -> int:
    return (await caller.settled()).spent_nanocredits


class Ran(NamedTuple):
    """How a command ended and what it said."""

    code: int | None
    output: str
    errors: str


async def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> Ran:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return Ran(process.returncode, output.decode(), errors.decode())


# --- curl ------------------------------------------------------------------------------------------------------------------


async def curl(caller: Caller, prompt: str, *options: str, tokens: int = TOKENS, **members: Any) -> Ran:
    """The one-liner that the manual shows, with these options and members of the request."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on the PATH")
    body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, **members}
    credential = ("-H", f"Authorization: Bearer {caller.key}", "-H", "Content-Type: application/json")
    return await run("curl", "-sS", *options, f"{caller.base_url}/chat/completions", *credential, "-d", json.dumps(body))


async def test_curl(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A whole answer and a stream, as they come."""
    caller = await deployment.open_account("1")
    whole = await curl(caller, "hello")
    assert (whole.code, json.loads(whole.output)["choices"][0]["message"]["content"]) == (0, TOKENS * WORD)
    stream = await curl(caller, "hello", "-N", stream=True)
    assert (stream.code, stream.output.count(f'"content":"{WORD}"'), stream.output.endswith("data: [DONE]\n\n")) == (0, TOKENS, True)
    assert await spent(caller) == 2 * BILLED


async def test_curl_is_refused(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """With --fail-with-body a refusal is its exit code 22 with the reason; --retry does not try it again."""
    caller = await deployment.open_account(POOR)
    refused = await curl(caller, "hello", "--fail-with-body", "--retry", "3", "--verbose")
    reason = json.loads(refused.output)
    assert (refused.code, reason["error"]["code"], refused.errors.count("> POST ")) == (22, "request_exceeds_budget", 1)
    assert "budget" in reason["error"]["message"]
    assert upstream.received == []


async def test_curl_sees_a_stream_break(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A cut stream ends in the error event; one whose upstream vanished ends in it too, and in an exit code."""
    caller = await deployment.open_account(SHORT)
    cut = await curl(caller, "hello", "-N", stream=True, tokens=1000)
    assert (cut.output.count(f'"content":"{WORD}"'), '"code":"insufficient_quota"' in cut.output) == (10, True)
    assert await spent(caller) == FORWARDED + 10 * 7
    caller = await deployment.open_account("1")
    vanished = await curl(caller, "vanish", "-N", stream=True)
    assert vanished.code != 0
    assert '"code":"upstream_error"' in vanished.output
    assert await spent(caller) == FORWARDED + 2 * 7


# --- Node ------------------------------------------------------------------------------------------------------------------


def node_directory(client: str, directory: Path) -> Path:
    """Where Node finds our script and the packages of a client; skips where it cannot."""
    modules = os.environ.get("COMPUTE_LEDGER_NODE_MODULES", "")
    if shutil.which("node") is None:
        pytest.skip("no node on the PATH")
    if not modules:
        pytest.skip("COMPUTE_LEDGER_NODE_MODULES does not say where Node's packages are")
    if missing := [package for package in NODE_PACKAGES[client] if not (Path(modules) / package / "package.json").is_file()]:
        pytest.skip(f"not in COMPUTE_LEDGER_NODE_MODULES: {', '.join(missing)}")
    shutil.copy(NODE_CLIENTS, directory)
    (directory / "node_modules").symlink_to(Path(modules).absolute())
    return directory


@pytest.mark.parametrize("client", NODE_PACKAGES)
async def test_node(deployment: Deployment, upstream: ScriptedUpstream, tmp_path: Path, client: str) -> None:
    """Whole and streamed answers, refusals, a cut, an upstream that vanishes and a caller that leaves, with a client as users have it."""
    directory = node_directory(client, tmp_path)
    callers = {
        "rich": await deployment.open_account("1"),
        "poor": await deployment.open_account(POOR),
        "short": await deployment.open_account(SHORT),
        "leaving": await deployment.open_account("1"),
    }
    keys = json.dumps({name: caller.key for name, caller in callers.items()})
    ran = await run("node", directory / NODE_CLIENTS.name, client, deployment.proxy_url, keys)
    assert ran.code == 0, ran.errors
    report = json.loads(ran.output)

    assert report["whole"]["texts"] == [TOKENS * WORD]
    assert report["stream"]["texts"] == [WORD] * TOKENS
    assert (report["whole"]["error"], report["stream"]["error"]) == (None, None)
    for refused in (report["refused"], report["refusedStream"]):
        assert (refused["texts"], refused["error"]["name"], refused["error"]["status"]) == ([], NODE_REFUSALS[client], 402)
        assert "budget" in refused["error"]["said"]
    assert report["cut"]["texts"] == [WORD] * 10
    assert "insufficient_quota" in report["cut"]["error"]["said"]
    assert report["vanished"]["texts"] == [WORD] * 2
    assert "broke off" in report["vanished"]["error"]["said"]
    assert report["left"]["texts"] == [WORD] * 3
    assert report["throttled"]["error"]["status"] == 429
    tries = {name: attempt["requests"] for name, attempt in report.items()}
    assert tries == dict.fromkeys(report, 1) | {"throttled": 3 if client == "ai" else 1}  # `ai` heeds no header that says not to
    assert all(attempt["seconds"] < SLOWEST_S for attempt in report.values())

    assert await spent(callers["rich"]) == 2 * BILLED + FORWARDED + 2 * 7
    assert await spent(callers["poor"]) == 0
    input_of_cut = 10 * 3 if client == "anthropic" else FORWARDED  # its first event bills the input
    assert await spent(callers["short"]) == input_of_cut + 10 * 7
    assert await spent(callers["leaving"]) == FORWARDED + 3 * 7


# --- Python ----------------------------------------------------------------------------------------------------------------


def needs_module(name: str) -> None:
    """Skip where a package is not installed; importing it to find out would take a second."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


async def test_langchain(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """LangChain's OpenAI client: whole, streamed, refused, cut, broken off, throttled."""
    needs_module("langchain_openai")
    from langchain_openai import ChatOpenAI
    from openai import APIError, APIStatusError, DefaultAsyncHttpxClient, RateLimitError

    rich, poor, short = [await deployment.open_account(credits) for credits in ("1", POOR, SHORT)]
    async with DefaultAsyncHttpxClient() as transport:

        def model(caller: Caller, tokens: int = TOKENS) -> ChatOpenAI:
            wire: Any = {"base_url": caller.base_url, "api_key": caller.key, "http_async_client": transport}
            return ChatOpenAI(model="tiny", max_completion_tokens=tokens, **wire)

        async def collect(texts: list[str], model: ChatOpenAI, prompt: str) -> None:
            async for chunk in model.astream(prompt):
                texts += [chunk.text] if chunk.text else []

        assert (await model(rich).ainvoke("hello")).text == TOKENS * WORD
        texts: list[str] = []
        await collect(texts, model(rich), "hello")
        assert texts == [WORD] * TOKENS
        assert await spent(rich) == 2 * BILLED

        reached = len(upstream.received)
        async with asyncio.timeout(SLOWEST_S):
            with pytest.raises(APIStatusError, match="budget") as refused:
                await model(poor).ainvoke("hello")
            assert (refused.value.status_code, len(upstream.received)) == (402, reached)
            with pytest.raises(RateLimitError):
                await model(rich).ainvoke("later")
            assert len(upstream.received) == reached + 1

        texts.clear()
        with pytest.raises(APIError, match="budget"):
            await collect(texts, model(short, tokens=1000), "hello")
        assert texts == [WORD] * 10
        assert await spent(short) == FORWARDED + 10 * 7
        with pytest.raises(APIError, match="broke off"):
            await collect([], model(rich), "vanish")


async def llm(directory: Path, caller: Caller, prompt: str, *options: str) -> Ran:
    """The `llm` command with a model of ours in a directory of its own."""
    needs_module("llm")
    model = {"model_id": "ledger", "model_name": "tiny", "api_base": caller.base_url, "api_key_name": "ledger"}
    (directory / "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
    command = (sys.executable, "-m", "llm", "-m", "ledger", "--key", caller.key, "-o", "max_tokens", str(TOKENS), *options)
    return await run(*command, prompt, environment={"LLM_USER_PATH": str(directory)})


@pytest.mark.long
async def test_llm_command(deployment: Deployment, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The `llm` command: whole, streamed, refused, broken off; what fails is an exit code and one readable line."""
    caller = await deployment.open_account("1")
    whole, stream = await llm(tmp_path, caller, "hello", "--no-stream"), await llm(tmp_path, caller, "hello")
    assert (whole.code, whole.output.strip(), stream.code, stream.output.strip()) == (
        0,
        (TOKENS * WORD).strip(),
        0,
        (TOKENS * WORD).strip(),
    )
    assert await spent(caller) == 2 * BILLED
    reached = len(upstream.received)
    refused = await llm(tmp_path, await deployment.open_account(POOR), "hello")
    assert (refused.code, len(upstream.received)) == (1, reached)
    assert "budget" in refused.errors
    vanished = await llm(tmp_path, caller, "vanish")
    assert vanished.code == 1
    assert "broke off" in vanished.errors
