"""The manual's examples do what the manual says: each one succeeds, through `serve`, and is charged; its tables are the program's.

They are read out of README.md, so that it cannot drift away from the clients; only the address, the key and the models are put in. What is
not installed is skipped. For Node's clients see `test_clients`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from proxy import config
from proxy.cli.serve import FIRST_KEY
from proxy.dialects import DIALECTS
from tests.e2e.test_clients import needs_module, node_directory, run
from tests.support.deployment import ROOT, Caller, Deployment
from tests.support.scripted_upstream import Exchange, ScriptedUpstream
from tests.support.speech import TEXT, WORDS
from tests.support.speeches import SPEECHES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

ADDRESS = "http://127.0.0.1:8080"
KEY = "cl-..."
MODELS = ("llama3.2", "claude-sonnet-4-5", "gemini-2.5-flash", "command-a-03-2025")
SAME = "the same"
BILLED = 10 * 3 + 4 * 7
MODULES = {"LangChain": "langchain_openai", "google-genai": "google.genai"}
"""Of the clients that are not imported under their own names."""
NODE_CLIENTS = {"openai": "openai", "anthropic": "anthropic", "Vercel's ai": "ai"}
AGENTS = "coding agents"
HERE = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""Where commands are that were installed with the tests."""
VARIABLES = re.compile(r"(?:OPENAI|ANTHROPIC|GOOGLE|GEMINI|OLLAMA|CO|LLM|LANGCHAIN|LANGSMITH)_\w+")


class Example(NamedTuple):
    """A row of the manual's table of clients."""

    client: str
    language: str
    environment: dict[str, str]
    code: str


MANUAL = (ROOT / "README.md").read_text()


def part(title: str) -> str:
    """One section of the manual."""
    return MANUAL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


POINTING = part("Point a client at it")


def blocks() -> list[str]:
    """What is to be typed into a shell."""
    return re.findall(r"^```sh\n(.*?)^```$", POINTING, re.MULTILINE | re.DOTALL)


def examples() -> Iterator[Example]:
    environment = ""
    for client, given, code in re.findall(r"^\| ([^|]+) \| ([^|]+) \| `([^|]+)` \|$", POINTING, re.MULTILINE):
        environment = environment if given == SAME else given.strip("`")
        name, _, language = client.rpartition(", ")
        yield Example(name, language, dict(variable.split("=", 1) for variable in environment.split()), code)


EXAMPLES = list(examples())


def put_in(text: str, caller: Caller) -> str:
    """An example with what is known only now."""
    for model in MODELS:
        text = text.replace(model, "tiny")
    return text.replace(ADDRESS, caller.deployment.proxy_url).replace(KEY, caller.key)


async def play(exchange: Exchange) -> None:
    """The answer that the API of the path has, for 10 tokens of input and 4 of output."""
    path = exchange.raw_path.partition("?")[0].replace("/v1/models/", "/v1beta/models/")
    speech = next(speech for speech in SPEECHES if speech.ask("tiny", False).path.partition("?")[0] == path)
    usage = speech.bill(10, 4)
    if not exchange.document.get("stream"):
        assert speech.whole is not None
        await exchange.answer(speech.whole(TEXT, usage))
        return
    assert speech.events is not None
    for event in speech.events(WORDS, usage):
        await exchange.send(event)
    await exchange.finish()


@pytest.fixture
def upstream(upstream: ScriptedUpstream) -> ScriptedUpstream:
    upstream.automatic = play
    return upstream


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment) -> Caller:
    return await deployment.open_account("1")


@pytest.fixture(autouse=True)
def environment_of_a_newcomer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have clients of their own set up."""
    for name in filter(VARIABLES.fullmatch, os.environ):
        monkeypatch.delenv(name)


def command_for(example: Example, caller: Caller, directory: Path) -> list[str]:
    """How to run an example; skips where its client is not installed."""
    code = put_in(example.code, caller)
    if example.language == "Python":
        needs_module(MODULES.get(example.client, example.client))
        return [sys.executable, "-c", code]
    if example.language == "Node":
        script = node_directory(NODE_CLIENTS[example.client], directory) / "example.mjs"
        script.write_text(code)
        return ["node", str(script)]
    program = Path(sys.executable).parent / shlex.split(code)[0]
    if not program.exists() and shutil.which(program.name) is None:
        pytest.skip(f"no {program.name} on the PATH")
    return ["sh", "-c", code]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.client}-{example.language}".replace(" ", "_"))
async def test_client(caller: Caller, upstream: ScriptedUpstream, tmp_path: Path, example: Example) -> None:
    """One line, with the variables of its row, prints the model's answer, and its price is charged."""
    if example.client.startswith(AGENTS):  # too much to start; what they send is what Anthropic's client does with these variables
        code = next(other.code for other in EXAMPLES if (other.client, other.language) == ("anthropic", "Python"))
        example = Example("anthropic", "Python", example.environment, code)
    environment = {name: put_in(value, caller) for name, value in example.environment.items()}
    ran = await run(*command_for(example, caller, tmp_path), environment={**environment, **HERE, "HOME": str(tmp_path)})
    assert ran.code == 0, ran.errors
    assert TEXT.strip() in ran.output
    assert (await caller.settled()).spent_nanocredits == BILLED


async def test_shell(caller: Caller, upstream: ScriptedUpstream) -> None:
    """What is to be typed, all in one shell: the variables, then curl; the account shows what its first call cost."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on the PATH")
    serve, *typed = blocks()
    assert serve.startswith("compute-ledger serve --upstream ")
    ran = await run("sh", "-e", "-c", put_in("\n".join(typed), caller))
    assert ran.code == 0, ran.errors
    stream, _, account = ran.output.partition("data: [DONE]\n\n")
    assert all(json.dumps(word) in stream for word in WORDS)
    assert json.loads(account)["spent"] == f"{BILLED / 10**9:.9f}"


async def test_serve_prints_what_the_manual_shows() -> None:
    """The variables that the first start prints are the manual's."""
    printed = {line.strip() for line in FIRST_KEY.format(proxy=ADDRESS, key=KEY).splitlines()}
    shown = [line for line in "".join(blocks()).splitlines() if line.startswith("export ")]
    assert len(shown) == 2
    assert printed.issuperset(shown)


async def test_the_configurations_are_such() -> None:
    """Each configuration that the manual shows can be served as it stands."""
    shown = re.findall(r"^```toml\n(.*?)^```$", MANUAL, re.MULTILINE | re.DOTALL)
    assert shown
    for block in shown:
        config.Config.model_validate(tomllib.loads(block))


def endpoints() -> Iterator[tuple[str, str, str, bool]]:
    """What the manual says is served: dialect, method, path, and whether it is free."""
    for line in part("Endpoints").splitlines():
        if line.startswith("| ") and not line.startswith(("| dialect ", "| none ")):
            dialect, paths, metered, *_ = (cell.strip() for cell in line.strip("|").split("|"))
            for method, path in re.findall("`(?:([A-Z]+) )?(/[^`]*)`", paths):
                yield dialect.split()[0], method or "POST", path, metered.startswith("free")


async def test_the_table_of_endpoints_is_complete() -> None:
    """Every operation of every dialect stands in the manual, under its dialect and as free or not, and nothing else does."""
    assert set(endpoints()) == {
        (
            dialect.name if operation.forwarded else "each",
            operation.method,
            re.sub("^/v1(alpha)?/", "/v1beta/", operation.path) if dialect.name == "gemini" else operation.path,
            operation.free or not operation.forwarded,
        )
        for dialect in DIALECTS.values()
        for operation in dialect.operations
    }


async def test_shared_paths() -> None:
    """The manual lists the paths that several dialects have, and the order in which dialects come."""
    speaking: dict[str, set[str]] = {}
    for dialect in DIALECTS.values():
        for operation in dialect.operations:
            if operation.forwarded:
                speaking.setdefault(operation.path, set()).add(dialect.name)
    shared = {path for path, names in speaking.items() if len(names) > 1}
    (listed,) = re.findall(r"several dialects have a path \(([^)]*)\)", part("Endpoints"))
    assert set(re.findall("`([^`]+)`", listed)) == shared
    assert f"\n{', '.join(DIALECTS)}.\n" in part("Endpoints")


async def test_every_row_is_an_example() -> None:
    """No row of the table is left out for its form."""
    rows = [line for line in POINTING.splitlines() if line.startswith("| ")]
    assert len(EXAMPLES) == len(rows) - 1 >= 12
