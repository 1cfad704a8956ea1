"""No path unmetered: whatever these APIs have, a request is charged, free on purpose, answered by the proxy, or refused.

`tests/support/api_paths` lists every endpoint of each API, a path and its methods a line. What is served of them stands below; everything
else must be refused in the dialect's own shape, and never reach the upstream, which here serves every dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from yarl import URL

from proxy.dialects import DIALECTS, Operation
from tests.support.deployment import Caller, Deployment
from tests.support.scripted_upstream import Exchange, ScriptedUpstream
from tests.support.speech import HELLO, Asked, Json, bearer
from tests.support.speeches import SPEECHES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

LISTS = sorted((Path(__file__).parents[1] / "support" / "api_paths").glob("*.txt"))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
AT_ONCE = 16

METERED = """
/v1/chat/completions /v1/completions /v1/responses /v1/embeddings
/v1/audio/speech /v1/audio/transcriptions /v1/audio/translations
/v1/images/generations /v1/images/edits /v1/images/variations
/v1/moderations /v1/rerank /v1/score /score /classify /pooling
/v1/messages
/v1beta/models/{id}:generateContent /v1beta/models/{id}:streamGenerateContent
/v1beta/models/{id}:embedContent /v1beta/models/{id}:batchEmbedContents
/v1/models/{id}:generateContent /v1/models/{id}:streamGenerateContent
/v1/models/{id}:embedContent /v1/models/{id}:batchEmbedContents
/v1alpha/models/{id}:generateContent /v1alpha/models/{id}:streamGenerateContent
/v1alpha/models/{id}:embedContent /v1alpha/models/{id}:batchEmbedContents
/api/chat /api/generate /api/embed /api/embeddings
/v2/chat /v2/embed /v2/rerank
/completion /completions /infill /embedding /embeddings /rerank /reranking
/ /generate /generate_stream
/embed /embed_all /embed_sparse /predict /similarity
/v2/models/{id}/infer /v2/models/{id}/generate /v2/models/{id}/generate_stream
"""
"""Every POST that is charged."""

FREE = """
POST /v1/messages/count_tokens
POST /v1beta/models/{id}:countTokens
POST /v1/models/{id}:countTokens
POST /v1alpha/models/{id}:countTokens
POST /api/show
GET /api/version
POST /tokenize
POST /detokenize
POST /apply-template
POST /chat_tokenize
POST /decode
GET /health
GET /info
GET /v2
GET /v2/health/live
GET /v2/health/ready
GET /v2/models/{id}
GET /v2/models/{id}/ready
"""
"""Forwarded and not charged, for they use nothing of a model."""

ANSWERED = """
GET /v1/models
GET /v1/models/{id}
GET /v1beta/models
GET /v1beta/models/{id}
GET /v1alpha/models
GET /v1alpha/models/{id}
GET /api/tags
"""
"""Answered by the proxy itself: what the caller may use."""

SOCKETS = """
GET /v1/realtime
"""
"""Charged as long as they are open; without an upgrade to a socket they are refused as any other."""

KEPT = """
POST /v1/files
GET /v1/files/{id}
DELETE /v1/files/{id}
GET /v1/files/{id}/content
POST /v1/batches
GET /v1/batches/{id}
POST /v1/batches/{id}/cancel
"""
"""What an account keeps at the upstream: nobody else reaches it, and here nobody owns any; a batch is charged when it has run."""

MESSAGES = [{"role": "user", "content": HELLO}]
PARTS = {"parts": [{"text": HELLO}]}
BODIES: Mapping[str, Json] = {
    "/v1/messages": {"model": "tiny", "max_tokens": 8, "messages": MESSAGES},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": MESSAGES},
    ":generateContent": {"contents": [PARTS]},
    ":streamGenerateContent": {"contents": [PARTS]},
    ":countTokens": {"contents": [PARTS]},
    ":embedContent": {"content": PARTS},
    ":batchEmbedContents": {"requests": [{"model": "models/tiny", "content": PARTS}]},
    "/api/show": {"model": "tiny"},
    "/completion": {"prompt": HELLO},
    "/completions": {"prompt": HELLO},
    "/infill": {"input_prefix": HELLO, "input_suffix": HELLO},
    "/embedding": {"content": HELLO},
    "/embeddings": {"input": HELLO},
    "/rerank": {"query": HELLO, "documents": [HELLO]},
    "/reranking": {"query": HELLO, "documents": [HELLO]},
    "/tokenize": {"content": HELLO},
    "/detokenize": {"tokens": [1]},
    "/apply-template": {"messages": MESSAGES},
    "/score": {"text_1": HELLO, "text_2": HELLO},
    "/classify": {"input": HELLO},
    "/pooling": {"input": HELLO},
    "/": {"inputs": HELLO},
    "/generate": {"inputs": HELLO},
    "/generate_stream": {"inputs": HELLO},
    "/chat_tokenize": {"messages": MESSAGES},
    "/embed": {"inputs": HELLO},
    "/embed_all": {"inputs": HELLO},
    "/embed_sparse": {"inputs": HELLO},
    "/predict": {"inputs": HELLO},
    "/similarity": {"inputs": {"source_sentence": HELLO, "sentences": [HELLO]}},
    "/decode": {"ids": [1]},
    "/v2/models/{id}/infer": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [HELLO]}]},
    "/v2/models/{id}/generate": {"text_input": HELLO},
    "/v2/models/{id}/generate_stream": {"text_input": HELLO},
}
"""A request for each that is served, by its path or by how that ends; those of the conformance table are taken from there."""


class Endpoint(NamedTuple):
    method: str
    path: str
    """With `{id}` in place of names."""

    @property
    def named(self) -> str:
        return self.path.replace("{id}", "tiny")


def _endpoints(lines: str) -> set[Endpoint]:
    return {Endpoint(*line.split()) for line in lines.split("\n") if line}


SERVED_METERED = {Endpoint("POST", path) for path in METERED.split()}
SERVED_FREE, SERVED_ANSWERED = _endpoints(FREE), _endpoints(ANSWERED)
SERVED = SERVED_METERED | SERVED_FREE | SERVED_ANSWERED


def listed(names: Path) -> Iterator[Endpoint]:
    """Every endpoint in a list, by every method, also those that it does not have."""
    for line in names.read_text().splitlines():
        if not line.startswith("#"):
            yield from (Endpoint(method, line.split()[0]) for method in METHODS)


def request_for(endpoint: Endpoint) -> Asked:
    """A request that an upstream would take; for what is not served, one that most of its API would."""
    if endpoint.method[0] != "P":
        return Asked(endpoint.named, b"")
    for speech in SPEECHES:
        path, body, headers = speech.asked(stream=speech.whole is None)
        if path.partition("?")[0] == endpoint.named and not speech.alone:
            return Asked(endpoint.named, body, headers)
    method = ":" + endpoint.path.rpartition(":")[2]  # of Gemini, whose paths end in one
    document = BODIES.get(endpoint.path) or BODIES.get(method)
    return Asked(endpoint.named, document or {"model": "tiny", "messages": MESSAGES, "input": HELLO, "prompt": HELLO})


async def ask(
    caller: Caller, method: str, asked: Asked, credential: Mapping[str, str] | None = None
) -> tuple[aiohttp.ClientResponse, bytes]:
    """A request just as it is written, and its answer."""
    body = asked.body if isinstance(asked.body, bytes) else msgspec.json.encode(asked.body)
    credential = bearer(caller.key) if credential is None else credential
    headers = {"Content-Type": "application/json", **credential, **asked.headers}
    url = URL(caller.deployment.proxy_url + asked.path, encoded=True)
    async with caller.deployment.client.request(method, url, data=body or None, headers=headers, allow_redirects=False) as answer:
        return answer, await answer.read()


def reason_in(path: str, body: bytes) -> str:
    """The reason that a client of this path's API finds in a refusal; asserts its shape."""
    document = msgspec.json.decode(body)
    assert document["compute_ledger"]["code"]
    return str(_readable(path, document))


def _readable(path: str, document: Any) -> object:
    if path.startswith("/api/"):
        return document["error"]  # Ollama: a sentence
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        assert document["type"] == "error"
        return document["error"]["message"]
    if path.startswith(("/v1beta/", "/v1alpha/")):
        assert document["error"]["code"] >= 400
        assert document["error"]["status"]
        return document["error"]["message"]
    error = document.get("error")  # most native servers: a sentence or an object with one
    return error["message"] if isinstance(error, dict) else document.get("message") or error


async def upstream_that_answers(exchange: Exchange) -> None:
    await exchange.answer(b"[]" if ":stream" in exchange.raw_path else b"{}")


async def check_all_refused(deployment: Deployment, upstream: ScriptedUpstream, requests: Iterable[tuple[str, Asked]]) -> None:
    """Each is a 4xx with a reason that its client can read, nothing reaches the upstream, and nothing is spent."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("1")
    free = asyncio.Semaphore(AT_ONCE)

    async def check(method: str, asked: Asked) -> None:
        async with free:
            answer, said = await ask(caller, method, asked)
        assert 400 <= answer.status < 500, (method, asked.path, answer.status, said)
        assert method == "HEAD" or reason_in(asked.path, said), (method, asked.path, said)

    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(check(*request))
    assert [(exchange.method, exchange.raw_path) for exchange in upstream.received] == []
    assert (await caller.settled()).spent_nanocredits == 0


def rows(endpoints: Iterable[Endpoint]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("endpoint", sorted(endpoints), ids=" ".join)


@pytest.mark.parametrize("names", LISTS, ids=lambda names: names.stem)
async def test_what_is_not_served_is_refused(deployment: Deployment, upstream: ScriptedUpstream, names: Path) -> None:
    """By every method, each path of an API that nobody serves here is a 4xx in its dialect's shape, and goes nowhere."""
    refused = [endpoint for endpoint in listed(names) if endpoint not in SERVED]
    assert len(refused) > len(METHODS)
    await check_all_refused(deployment, upstream, ((endpoint.method, request_for(endpoint)) for endpoint in refused))


def kind_of(operation: Operation) -> str:
    if operation.kept or operation.socket:
        return "kept" if operation.kept else "socket"
    return "answered" if not operation.forwarded else "free" if operation.free else "metered"


async def test_every_operation_is_listed() -> None:
    """Each operation of each dialect stands above as what it is: charged, free on purpose, answered by the proxy, a socket, or kept."""
    listed: dict[str, set[Endpoint]] = {
        "metered": SERVED_METERED,
        "free": SERVED_FREE,
        "answered": SERVED_ANSWERED,
        "socket": _endpoints(SOCKETS),
        "kept": _endpoints(KEPT),
    }
    found: dict[str, set[Endpoint]] = {kind: set() for kind in listed}
    for operation in (operation for dialect in DIALECTS.values() for operation in dialect.operations):
        found[kind_of(operation)].add(Endpoint(operation.method, operation.path.replace("{model}", "{id}")))
    for kind, endpoints in listed.items():
        assert found[kind] == endpoints, kind


@rows(SERVED_METERED)
async def test_metered(deployment: Deployment, upstream: ScriptedUpstream, endpoint: Endpoint) -> None:
    """It reaches the upstream once, under its own path, and costs something even where the upstream says nothing of usage."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("1")
    _, said = await ask(caller, endpoint.method, request_for(endpoint))
    assert [(e.method, e.raw_path.partition("?")[0]) for e in upstream.received] == [(endpoint.method, endpoint.named)], said
    assert (await caller.settled()).spent_nanocredits > 0


@rows(SERVED_METERED)
async def test_metered_costs_more_than_nothing_is_left(deployment: Deployment, upstream: ScriptedUpstream, endpoint: Endpoint) -> None:
    """Without a budget it is refused, in its dialect's shape, and goes nowhere."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("0")
    answer, said = await ask(caller, endpoint.method, request_for(endpoint))
    assert (answer.status, bool(reason_in(endpoint.path, said))) == (402, True)
    assert upstream.received == []


@rows(SERVED_FREE)
async def test_free_on_purpose(deployment: Deployment, upstream: ScriptedUpstream, endpoint: Endpoint) -> None:
    """It reaches the upstream once, also of an account that has nothing, and costs nothing."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("0")
    answer, said = await ask(caller, endpoint.method, request_for(endpoint))
    assert (answer.status, said) == (200, b"{}")
    assert [(e.method, e.raw_path) for e in upstream.received] == [(endpoint.method, endpoint.named)]
    assert (await caller.settled()).spent_nanocredits == 0


@rows(SERVED_ANSWERED)
async def test_answered_by_the_proxy(deployment: Deployment, upstream: ScriptedUpstream, endpoint: Endpoint) -> None:
    """It names the models that the caller may use, and the upstream is asked for no more than its own list."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("0")
    answer, said = await ask(caller, endpoint.method, request_for(endpoint))
    assert (answer.status, b"tiny" in said) == (200, True)
    assert {exchange.method for exchange in upstream.received} <= {"GET"}


@pytest.mark.parametrize("credential", [{}, {"Authorization": "Bearer cl-" + "x" * 43}], ids=["no key", "unknown key"])
async def test_nothing_is_served_without_a_key(deployment: Deployment, upstream: ScriptedUpstream, credential: dict[str, str]) -> None:
    """What is served, charged or not, is served to account holders alone."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("1")
    for endpoint in sorted(SERVED):
        answer, said = await ask(caller, endpoint.method, request_for(endpoint), credential)
        assert (answer.status, bool(reason_in(endpoint.path, said))) == (401, True), endpoint
    assert upstream.received == []


def odd_spellings(path: str) -> Iterator[str]:
    """What some server on the way might take for the same path."""
    before, _, last = path.rpartition("/")
    yield from (path + "/", path + "//", "/" + path, path.replace("/", "//"), before + "//" + last)
    yield from ("/." + path, before + "/./" + last, before + "/x/../" + last, "/x/.." + path, path + "/.", path + "/..", path + "/x")
    yield from (path + ";x", path + "%00", path + "%20", path + "%0d%0a", path + "%2f", path + "\\", "/" + path[1:].replace("/", "\\"))
    yield from (path + "?x=1", path + "?api_key=x", path + "?", path + "%3Fx=1")
    if last:
        yield from (
            f"{before}/%{ord(last[0]):02x}{last[1:]}",
            "/" + path[1:].replace("/", "%2f"),
            f"{before}/%2e/{last}",
            f"{before}/%2e%2e{path}",
        )
        yield from (before + "/" + last.swapcase(), path + ".json", before + "/" + last + ":x", "/v1" + path, "/openai" + path)


async def test_odd_spellings(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """No other spelling of a path that is charged passes it by: each is refused, or is another path that is itself served."""
    served = {endpoint.named for endpoint in SERVED}
    spelt = sorted((e, odd) for e in SERVED_METERED for odd in set(odd_spellings(e.named)) if odd.rstrip("?") not in served)
    await check_all_refused(deployment, upstream, ((e.method, request_for(e)._replace(path=odd)) for e, odd in spelt))


async def test_no_other_socket_opens(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A request to become a socket is refused wherever none is served."""
    served = {endpoint.path for endpoint in SERVED | _endpoints(SOCKETS) if endpoint.method == "GET"}
    paths = {endpoint.path for names in LISTS for endpoint in listed(names)} - served
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}
    asked = (Asked(Endpoint("GET", path).named, b"", upgrade) for path in sorted(paths))
    await check_all_refused(deployment, upstream, (("GET", request) for request in asked))


TARGETS = (
    "POST http://elsewhere/v1/chat/completions",
    "POST {url}/v1/chat/completions",
    "POST v1/chat/completions",
    "POST *",
    "OPTIONS *",
    "CONNECT elsewhere:443",
    "TRACE /v1/chat/completions",
    "PROPFIND /v1/chat/completions",
    "post /v1/chat/completions",
    "POST /v1/chat/completions#x",
    "POST /v1/chat\x00/completions",
    "POST /v1/chät/completions",
)


@pytest.mark.parametrize("target", TARGETS)
async def test_odd_targets(deployment: Deployment, upstream: ScriptedUpstream, target: str) -> None:
    """What no client would send is refused or not answered at all, and the upstream never hears of it."""
    upstream.automatic = upstream_that_answers
    caller = await deployment.open_account("1")
    url = URL(deployment.proxy_url)
    body = msgspec.json.encode(request_for(Endpoint("POST", "/v1/chat/completions")).body)
    head = f"Host: {url.authority}\r\nAuthorization: Bearer {caller.key}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"{target.format(url=url)} HTTP/1.1\r\n{head}".encode() + body)
    said = await reader.read()
    writer.close()
    assert not said or 400 <= int(said.split(b" ", 2)[1]) < 600, said
    assert upstream.received == []
    assert (await caller.settled()).spent_nanocredits == 0
