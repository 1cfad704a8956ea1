"""Every token is charged once, however an exchange ends: the table of endings, run through the whole proxy.

Every expected charge is worked out by hand. A token of input costs 3 nanocredits, cached input 2, output 7, reasoning 11. The prompt
`hello` counts ceil(5/4) = 2 tokens, in a message 2 + 4 + 3 = 9 (27 nanocredits; alone 6); what is held for it is its bound, 5 + 8 + 16
in a message (87) and 5 + 4 + 16 alone (75). The answer is `one two three `: three tokens as a stream, ceil(14/4) = 4 as a whole.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.support import openai_answers as answers
from tests.support.deployment import Caller, Deployment
from tests.support.openai_answers import DONE, NO_USAGE
from tests.support.scripted_upstream import EVENT_STREAM, JSON, Exchange, ScriptedUpstream

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(20)]

WORDS = ("one ", "two ", "three ")
STREAMED = ("chat", "completions", "responses")
WHOLE = (*STREAMED, "embeddings")
MESSAGES = [{"role": "user", "content": "hello"}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "stream_options": {"include_usage": True}}),
    "completions": ("/v1/completions", {"prompt": "hello", "stream_options": {"include_usage": True}}),
    "responses": ("/v1/responses", {"input": "hello"}),
    "embeddings": ("/v1/embeddings", {"input": "hello"}),
}

#                     streamed               whole
#  usage              chat  text  responses  chat  text  responses  embeddings
CHARGES = {
    "present":       ((71,   71,   71),       (71,   71,   71,   36)),  # 12 x 3 + 5 x 7; embeddings 12 x 3
    "details":       ((75,   75,   75),       (75,   75,   75,   32)),  # 8 x 3 + 4 x 2 + 3 x 7 + 2 x 11; embeddings 8 x 3 + 4 x 2
    "none used":     ((21,   21,   21),       (0,    0,    0,    0)),   # 0 x 3 + 0 x 7, but three words were seen: 3 x 7
    "below words":   ((57,   57,   57),       (43,   43,   43,   36)),  # 12 x 3 + 1 x 7 as a whole; three words were seen: 3 x 7
    "missing":       ((48,   27,   48),       (55,   34,   55,   6)),   # 27 (6) + 3 x 7; as a whole + 4 x 7
}  # fmt: skip
USAGES = {"present": (12, 5, 0, 0), "details": (12, 5, 4, 2), "none used": (0, 0, 0, 0), "below words": (12, 1, 0, 0)}

ABSURD: dict[str, bytes] = {
    "negative": b'{"%(in)s":-12,"%(out)s":5,"total_tokens":17}',
    "fractional": b'{"%(in)s":12,"%(out)s":5.5,"total_tokens":17}',
    "a string": b'{"%(in)s":"12","%(out)s":5,"total_tokens":17}',
    "a boolean": b'{"%(in)s":12,"%(out)s":true,"total_tokens":17}',
    "infinite": b'{"%(in)s":12,"%(out)s":1e999,"total_tokens":17}',
    "beyond belief": b'{"%(in)s":12,"%(out)s":100000001,"total_tokens":17}',
    "beyond 64 bits": b'{"%(in)s":12,"%(out)s":36893488147419103232,"total_tokens":17}',
    "more details than total": b'{"%(in)s":12,"%(out)s":5,"total_tokens":17,"%(in)s_details":{"cached_tokens":13}}',
    "a list": b"[12,5]",
    "a number": b"17",
    "empty": b"{}",
}
"""None of it may be believed, so what was forwarded is counted instead."""
ABSURD_INPUT = ("negative", "a string", "more details than total", "a list", "a number", "empty")
"""Those whose input is absurd: embeddings have no other."""


def request(operation: str, *, stream: bool = False, **members: Any) -> tuple[str, dict[str, Any]]:
    path, body = REQUESTS[operation]
    body = {"model": "tiny", **body, **members}
    if stream:
        body["stream"] = True
    else:
        body.pop("stream_options", None)
    return path, body


def usage_of(operation: str, kind: str) -> object:
    """What the upstream reports in this row of the table."""
    if kind == "missing":
        return NO_USAGE
    if kind in ABSURD:
        prefix = ("input", "output") if operation == "responses" else ("prompt", "completion")
        names = {b"in": f"{prefix[0]}_tokens".encode(), b"out": f"{prefix[1]}_tokens".encode()}
        return ABSURD[kind] % names
    inputs, outputs, cached, reasoning = USAGES[kind]
    if operation == "responses":
        return answers.responses_usage(inputs, outputs, cached=cached, reasoning=reasoning)
    if operation == "embeddings":
        details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
        return {**answers.embeddings_usage(inputs), **details}
    return answers.usage(inputs, outputs, cached=cached, reasoning=reasoning)


def events_of(operation: str, *, usage: object = NO_USAGE) -> list[bytes]:
    if operation == "responses":
        return answers.response_events(WORDS, usage=usage)
    return (answers.chat_events if operation == "chat" else answers.completion_events)(WORDS, usage=usage)


def whole_of(operation: str, *, usage: object = NO_USAGE) -> bytes:
    if operation == "embeddings":
        return answers.embeddings(1, usage=usage)
    if operation == "responses":
        return answers.response("".join(WORDS), usage=usage)
    return (answers.chat if operation == "chat" else answers.completion)("".join(WORDS), usage=usage)


def until_two_words(operation: str) -> list[bytes]:
    """The events of a stream up to its second word."""
    events = events_of(operation)
    return events[: next(place for place, event in enumerate(events) if b'"two "' in event) + 1]


class Answer:
    """What a caller received, byte for byte, also of an answer that was broken off."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.status = response.status
        self.body = b""
        self.broken = False

    async def read_until(self, expected: bytes) -> None:
        """Wait until exactly these bytes have come."""
        while len(self.body) < len(expected):
            self.body += await self.response.content.readany()
        assert self.body == expected

    async def read_all(self) -> Answer:
        try:
            async for data in self.response.content.iter_any():
                self.body += data
        except aiohttp.ClientError:
            self.broken = True
            self.response.close()
        return self


async def asked(caller: Caller, upstream: ScriptedUpstream, **how: Any) -> tuple[asyncio.Task[Answer], Exchange]:
    """A request under way: the answer that will come, and the upstream's side of it."""
    path, body = request(**how)

    async def ask() -> Answer:
        return Answer(await caller.post(path, body))

    answer = asyncio.create_task(ask())
    return answer, await upstream.next_request()


# --- complete answers, for every kind of usage -----------------------------------------------------------------------------


STREAM_ROWS = [(op, kind, CHARGES[kind][0][n]) for kind in CHARGES for n, op in enumerate(STREAMED)]
STREAM_ROWS += [(op, kind, CHARGES["missing"][0][n]) for kind in ABSURD for n, op in enumerate(STREAMED)]
WHOLE_ROWS = [(op, kind, CHARGES[kind][1][n]) for kind in CHARGES for n, op in enumerate(WHOLE)]
WHOLE_ROWS += [(op, kind, CHARGES["missing"][1][n]) for kind in ABSURD for n, op in enumerate(STREAMED)]
WHOLE_ROWS += [("embeddings", kind, CHARGES["missing"][1][3]) for kind in ABSURD_INPUT]


@pytest.mark.parametrize(("operation", "kind", "spent"), STREAM_ROWS)
async def test_complete_stream(deployment: Deployment, upstream: ScriptedUpstream, operation: str, kind: str, spent: int) -> None:
    """A stream that ends properly is forwarded byte for byte and charged by its usage, or by its words where that lies or lacks."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True)
    for event in events_of(operation, usage=usage_of(operation, kind)):
        await exchange.send(event)
    await exchange.finish()

    received = await (await answer).read_all()

    assert (received.status, received.broken, received.body) == (200, False, bytes(exchange.sent))
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize(("operation", "kind", "spent"), WHOLE_ROWS)
async def test_complete_whole(deployment: Deployment, upstream: ScriptedUpstream, operation: str, kind: str, spent: int) -> None:
    """A whole answer is forwarded byte for byte and charged by its usage, or by its text where that lies or lacks."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation)
    await exchange.answer(whole_of(operation, usage=usage_of(operation, kind)))

    received = await (await answer).read_all()

    assert (received.status, received.broken, received.body) == (200, False, bytes(exchange.sent))
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize("operation", ["chat", "completions"])
async def test_usage_chunk_is_taken_out_again(deployment: Deployment, upstream: ScriptedUpstream, operation: str) -> None:
    """Where the client did not ask for the usage chunk, it is asked for on its behalf, charged by, and taken out."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True, stream_options=None)
    assert exchange.document["stream_options"] == {"include_usage": True}
    for event in events_of(operation, usage=answers.usage(12, 5)):
        await exchange.send(event)
    await exchange.finish()

    assert (await (await answer).read_all()).body == b"".join(events_of(operation))
    assert (await caller.settled()).spent_nanocredits == 12 * 3 + 5 * 7


# --- streams that end in other ways ----------------------------------------------------------------------------------------

TWO_WORDS = [("chat", 27 + 14), ("completions", 6 + 14), ("responses", 27 + 14)]
"""What was forwarded when two words were: the counted input, and 2 x 7."""
INPUT_ALONE = [("chat", 27), ("completions", 6), ("responses", 27)]
BUDGET_OF_TWO_WORDS = {"chat": "0.000000109", "completions": "0.000000097", "responses": "0.000000109"}
"""The input's bound and two words, which might turn out to be reasoning and are held for as such: 87 (75) + 2 x 11."""


@pytest.mark.parametrize(("operation", "spent"), TWO_WORDS)
async def test_stream_cut_by_budget(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """What the budget covers is delivered, then the error event; the upstream is told at once and nothing is overspent."""
    caller = await deployment.open_account(BUDGET_OF_TWO_WORDS[operation])
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True)
    for event in events_of(operation)[: len(until_two_words(operation)) + 1]:
        await exchange.send(event)
    await exchange.client_gone()

    received = await (await answer).read_all()

    covered = b"".join(until_two_words(operation))
    assert received.body.startswith(covered)
    assert b'"code":"insufficient_quota"' in received.body[len(covered) :]
    assert not received.broken
    balance = await caller.settled()
    assert (balance.spent_nanocredits, balance.overrun_nanocredits) == (spent, 7)  # the third word came, and was not forwarded


@pytest.mark.parametrize(("operation", "spent"), TWO_WORDS)
async def test_stream_cut_by_budget_as_length(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """With cut = "length" the stream ends as the model's own length limit would make it end, with true usage."""
    caller = await deployment.open_account(BUDGET_OF_TWO_WORDS[operation])
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True, model="short")
    for event in events_of(operation)[: len(until_two_words(operation)) + 1]:
        await exchange.send(event)

    received = await (await answer).read_all()

    covered = b"".join(until_two_words(operation))
    assert received.body.startswith(covered)
    ending = received.body[len(covered) :]
    assert b"error" not in ending.replace(b'"error":null', b"")
    assert (b'"max_output_tokens"' if operation == "responses" else b'"finish_reason":"length"') in ending
    assert (b'"output_tokens":2' if operation == "responses" else b'"completion_tokens":2') in ending
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize(("operation", "spent"), INPUT_ALONE)
async def test_client_gone_before_first_byte(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """A caller that hangs up while the upstream is still silent pays the input; the upstream is told at once."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True)
    answer.cancel()
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize(("operation", "spent"), TWO_WORDS)
async def test_client_gone_mid_stream(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """A caller that hangs up mid-stream pays what was forwarded; the upstream is told at once."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True)
    for event in until_two_words(operation):
        await exchange.send(event)
    received = await answer
    await received.read_until(bytes(exchange.sent))
    received.response.close()
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize(("operation", "spent"), TWO_WORDS)
async def test_error_event_mid_stream(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """An upstream's own error event is forwarded as it is, and what came before it is charged."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True)
    error = {"type": "error", "code": "overloaded", "message": "busy", "param": None, "sequence_number": 9}
    for event in until_two_words(operation):
        await exchange.send(event)
    await exchange.send(answers.event(error if operation == "responses" else {"error": error}))
    await exchange.finish()

    received = await (await answer).read_all()

    assert (received.broken, received.body) == (False, bytes(exchange.sent))
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize("end", ["reset", "half-closed", "no end marker"])
@pytest.mark.parametrize(("operation", "spent"), TWO_WORDS)
async def test_upstream_vanishes_mid_stream(
    deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int, end: str
) -> None:
    """An upstream that vanishes leaves an error event and a broken answer, never a clean end; what was forwarded is charged."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True)
    for event in until_two_words(operation):
        await exchange.send(event)
    received = await answer
    await received.read_until(bytes(exchange.sent))
    if end == "reset":
        exchange.abort()
    elif end == "half-closed":
        exchange.vanish()
    else:
        await exchange.finish()
    await received.read_all()

    assert b'"code":"upstream_error"' in received.body[len(exchange.sent) :]
    assert received.broken
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize(("operation", "spent"), TWO_WORDS)
async def test_upstream_silent_mid_stream(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """An upstream that falls silent counts as gone after its idle time."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=True, model="impatient")
    for event in until_two_words(operation):
        await exchange.send(event)
    received = await (await answer).read_all()
    await exchange.client_gone()

    assert b'"code":"upstream_timeout"' in received.body[len(exchange.sent) :]
    assert received.broken
    assert (await caller.settled()).spent_nanocredits == spent


# --- what fails before the first byte, streamed or not ---------------------------------------------------------------------

EITHER = [*((operation, True) for operation in STREAMED), *((operation, False) for operation in WHOLE)]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
async def test_upstream_answers_with_an_error(deployment: Deployment, upstream: ScriptedUpstream, status: int) -> None:
    """An upstream's own error passes as it is, and costs nothing, in every operation."""
    caller = await deployment.open_account("1")
    for operation, stream in EITHER:
        answer, exchange = await asked(caller, upstream, operation=operation, stream=stream)
        await exchange.answer(answers.error("no"), status=status)
        received = await (await answer).read_all()
        assert (received.status, received.body) == (status, answers.error("no"))
    assert (await caller.settled()).spent_nanocredits == 0


@pytest.mark.parametrize(("operation", "stream"), EITHER)
async def test_upstream_refuses_connections(deployment: Deployment, operation: str, stream: bool) -> None:
    """An upstream that cannot be reached is a 502 in the dialect's own shape, and costs nothing."""
    caller = await deployment.open_account("1")
    path, body = request(operation, stream=stream, model="closed")
    async with caller.post(path, body) as answer:
        document = await answer.json()
    assert (answer.status, document["error"]["code"]) == (502, "upstream_error")
    assert (await caller.settled()).spent_nanocredits == 0


@pytest.mark.parametrize(("operation", "stream"), EITHER)
async def test_upstream_vanishes_before_the_first_byte(
    deployment: Deployment, upstream: ScriptedUpstream, operation: str, stream: bool
) -> None:
    """An upstream that closes the connection instead of answering is a 502, and costs nothing."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=stream)
    exchange.abort()
    received = await (await answer).read_all()
    assert (received.status, msgspec.json.decode(received.body)["error"]["code"]) == (502, "upstream_error")
    assert (await caller.settled()).spent_nanocredits == 0


@pytest.mark.parametrize(("operation", "stream"), EITHER)
async def test_upstream_silent_before_the_first_byte(
    deployment: Deployment, upstream: ScriptedUpstream, operation: str, stream: bool
) -> None:
    """An upstream that stays silent beyond its time is a 504, and costs nothing."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, stream=stream, model="impatient")
    await exchange.client_gone()
    received = await (await answer).read_all()
    assert received.status == 504
    assert (await caller.settled()).spent_nanocredits == 0


# --- whole answers that end in other ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "spent"), [*INPUT_ALONE, ("embeddings", 6)])
async def test_client_gone_before_a_whole_answer(deployment: Deployment, upstream: ScriptedUpstream, operation: str, spent: int) -> None:
    """A caller that hangs up before a whole answer has come pays the input; the upstream is told at once."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation)
    answer.cancel()
    await exchange.client_gone()
    assert (await caller.settled()).spent_nanocredits == spent


@pytest.mark.parametrize("operation", WHOLE)
async def test_upstream_vanishes_within_a_whole_answer(deployment: Deployment, upstream: ScriptedUpstream, operation: str) -> None:
    """Half a whole answer is a 502, and costs nothing, for none of it is forwarded."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation)
    whole = whole_of(operation)
    await exchange.start(headers={**JSON, "Content-Length": str(len(whole))})
    await exchange.send(whole[:20])
    exchange.abort()
    received = await (await answer).read_all()
    assert received.status == 502
    assert (await caller.settled()).spent_nanocredits == 0


@pytest.mark.parametrize(
    ("operation", "maximum", "spent"),
    [("chat", "max_tokens", 50), ("completions", "max_tokens", 50), ("responses", "max_output_tokens", 50)],
)
async def test_whole_answer_is_lowered_to_the_budget(
    deployment: Deployment, upstream: ScriptedUpstream, operation: str, maximum: str, spent: int
) -> None:
    """What cannot be cut is asked for in the length that the budget pays."""
    caller = await deployment.open_account(BUDGET_OF_TWO_WORDS[operation])
    answer, exchange = await asked(caller, upstream, operation=operation, **{maximum: 1000})
    assert exchange.document[maximum] == 2
    bill = answers.responses_usage(12, 2) if operation == "responses" else answers.usage(12, 2)
    await exchange.answer(whole_of(operation, usage=bill))
    assert (await (await answer).read_all()).status == 200
    assert (await caller.settled()).spent_nanocredits == spent  # 12 x 3 + 2 x 7


@pytest.mark.parametrize(
    ("operation", "maximum"), [("chat", "max_tokens"), ("completions", "max_tokens"), ("responses", "max_output_tokens")]
)
async def test_bill_above_the_stated_maximum(deployment: Deployment, upstream: ScriptedUpstream, operation: str, maximum: str) -> None:
    """Output that an upstream bills above the request's own maximum is overrun, not charged."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation=operation, **{maximum: 4})
    bill = answers.responses_usage(12, 9) if operation == "responses" else answers.usage(12, 9)
    await exchange.answer(whole_of(operation, usage=bill))
    assert (await (await answer).read_all()).status == 200
    balance = await caller.settled()
    assert (balance.spent_nanocredits, balance.overrun_nanocredits) == (12 * 3 + 4 * 7, 5 * 7)


async def test_headers_of_a_whole_answer(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """A whole answer says what it cost and what is left."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation="chat")
    await exchange.answer(whole_of("chat", usage=answers.usage(12, 5)))
    headers = (await (await answer).read_all()).response.headers
    assert headers["X-Ledger-Cost"] == "0.000000071"
    assert headers["X-Ledger-Remaining"] == "0.999999929"
    assert headers["RateLimit-Policy"].startswith('"ever";')
    assert headers["RateLimit"].startswith('"ever";r=')
    assert headers["X-Request-Id"]


async def test_event_stream_that_was_not_asked_for(deployment: Deployment, upstream: ScriptedUpstream) -> None:
    """An upstream that streams although nobody asked is forwarded and charged as the stream that it is."""
    caller = await deployment.open_account("1")
    answer, exchange = await asked(caller, upstream, operation="chat")
    await exchange.start(headers=EVENT_STREAM)
    await exchange.send(b"".join(events_of("chat")))
    await exchange.finish()
    received = await (await answer).read_all()
    assert received.body.endswith(DONE)
    assert (await caller.settled()).spent_nanocredits == 27 + 3 * 7


async def test_books_balance_after_all_this(deployment: Deployment) -> None:
    """After everything above, every account's books balance, and nothing is held."""
    code, said = await deployment.audit()
    assert code == 0, said
    assert " 0 open holds" in said
