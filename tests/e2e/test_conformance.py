"""Every token is charged once, however an exchange ends: the table of dialect, streamed or not, ending and usage, through the whole proxy.

What each operation says and what it must cost stands in `tests/support/speech_*.py`, worked out by hand. The answer is `one two three `,
a token each as a stream, 4 tokens as a whole. Choose a dialect or an operation with `-k anthropic`, `-k openai-chat`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from decimal import Decimal

import aiohttp
import msgspec
import pytest
from _pytest.mark import ParameterSet

from tests.support import openai_answers, speech_openai
from tests.support.deployment import Caller, Deployment, nanocredits
from tests.support.deployments import Deployments
from tests.support.openai_answers import DONE
from tests.support.scripted_upstream import EVENT_STREAM, Exchange, ScriptedUpstream
from tests.support.speech import MISSING, NO_USAGE, TEXT, Charge, Speech
from tests.support.speeches import SPEECHES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(20)]

REQUIRED = ("present", "none used", "below words", MISSING)
BILL_OF_TWO = 12 * 3 + 2 * 7
"""12 tokens of input and 2 of output."""


def rows(speeches: Iterable[Speech], *more: Iterable[object]) -> list[ParameterSet]:
    """A row for each operation and each of the other values, under the operation's name."""
    table: list[list[object]] = [[speech] for speech in speeches]
    for values in more:
        table = [[*row, value] for row in table for value in values]
    return [row_of(*row) for row in table]


def row_of(speech: object, *values: object) -> ParameterSet:
    assert isinstance(speech, Speech)
    words = (str(value) for value in values if not isinstance(value, Charge | int) or isinstance(value, bool))
    return pytest.param(speech, *values, id="-".join((speech.name, *words)))


def charges(speech: Speech) -> dict[str, Charge]:
    """The charge by kind of usage, absurd ones included."""
    return {**dict.fromkeys(speech.absurd, speech.charges[MISSING]), **speech.charges}


STREAMED = [speech for speech in SPEECHES if speech.events is not None]
WHOLE = [speech for speech in SPEECHES if speech.whole is not None]
NAMING = [speech for speech in SPEECHES if speech.names_model]
EITHER = [*((speech, True) for speech in STREAMED), *((speech, False) for speech in WHOLE)]
STREAM_ROWS = [row_of(s, kind, charge.streamed) for s in STREAMED for kind, charge in charges(s).items() if charge.streamed is not None]
WHOLE_ROWS = [row_of(s, kind, charge.whole) for s in WHOLE for kind, charge in charges(s).items() if charge.whole is not None]
BROKEN_ROWS = [row_of(speech, kind) for speech in STREAMED for kind in dict.fromkeys((MISSING, *speech.broken))]


def either(*, naming: bool = False) -> list[ParameterSet]:
    """Every operation, streamed and whole; `naming` leaves out those that cannot name another model than the first."""
    chosen = ((speech, stream) for speech, stream in EITHER if speech in NAMING or not naming)
    return [pytest.param(speech, stream, id=f"{speech.name}-{'streamed' if stream else 'whole'}") for speech, stream in chosen]


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
            self.body += b"".join(self.response.content._buffer)  # what came along with the end is still there
            self.response.close()
        return self


class Asking:
    """An account that asks one operation of one model, and the upstream that it reaches."""

    def __init__(self, caller: Caller, speech: Speech, model: str, upstream: ScriptedUpstream) -> None:
        self.caller = caller
        self._speech = speech
        self._model = model
        self._upstream = upstream

    async def answer(self, *, stream: bool = False, maximum: int | None = None) -> Answer:
        """Ask, and give back the answer when its head has come."""
        path, body, headers = self._speech.asked(self._model, stream=stream, maximum=maximum)
        return Answer(await self.caller.post(path, body, {**self._speech.credential(self.caller.key), **headers}))

    async def start(self, *, stream: bool = False, maximum: int | None = None) -> tuple[asyncio.Task[Answer], Exchange]:
        """A request under way: the answer that will come, and the upstream's side of it."""
        answer = asyncio.create_task(self.answer(stream=stream, maximum=maximum))
        arriving = asyncio.ensure_future(self._upstream.next_request())
        await asyncio.wait((answer, arriving), return_when=asyncio.FIRST_COMPLETED)
        if not arriving.done():
            arriving.cancel()
            pytest.fail(f"the request did not reach the upstream: {(await (await answer).read_all()).body.decode()}")
        return answer, await arriving

    async def spent(self) -> int:
        return (await self.caller.settled()).spent_nanocredits


async def asking(
    deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, *, budget_nanocredits: int = 10**9, model: str = "tiny"
) -> Asking:
    """A new account with so much to spend."""
    deployment = await deployments.serving(speech, model)
    return Asking(await deployment.open_account(f"{Decimal(budget_nanocredits).scaleb(-9):f}"), speech, model, upstream)


async def begin(exchange: Exchange, speech: Speech, events: Iterable[bytes]) -> None:
    """Send these events of a stream."""
    await exchange.start(headers={"Content-Type": speech.media_type})
    for event in events:
        await exchange.send(event)


async def give_whole(exchange: Exchange, speech: Speech, usage: object) -> None:
    assert speech.whole is not None
    await exchange.answer(speech.whole(TEXT, usage), headers={"Content-Type": speech.whole_media_type})


def check_refusal(speech: Speech, received: Answer, status: int, code: str) -> None:
    """The refusal has this status and code, in the dialect's own shape."""
    assert received.status == status
    assert speech.refusal_code(msgspec.json.decode(received.body), status) == code


def check_error_cut(speech: Speech, received: Answer, covered: bytes, code: str) -> None:
    """After what was covered comes the error event with this code, or nothing and a broken connection where there is no such event."""
    assert received.body.startswith(covered)
    if speech.error_cut is None:
        assert (received.body, received.broken) == (covered, True)
    else:
        assert speech.error_cut(code) in received.body[len(covered) :]


# --- complete answers, for every kind of usage -----------------------------------------------------------------------------


@pytest.mark.parametrize("speech", rows(SPEECHES))
async def test_table_is_whole(speech: Speech) -> None:
    """Every operation has a row for each kind of usage, and one at least that is absurd."""
    assert speech.charges.keys() >= set(REQUIRED)
    assert speech.absurd
    assert speech.events or speech.whole


@pytest.mark.parametrize(("speech", "kind", "spent"), STREAM_ROWS)
async def test_complete_stream(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, kind: str, spent: int) -> None:
    """A stream that ends properly is forwarded byte for byte and charged by its usage, or by its words where that lies or lacks."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(stream=True)
    await begin(exchange, speech, speech.stream(kind))
    await exchange.finish()

    received = await (await answer).read_all()

    assert (received.status, received.broken, received.body) == (200, False, bytes(exchange.sent))
    assert received.response.content_type == speech.media_type
    assert await caller.spent() == spent


@pytest.mark.parametrize(("speech", "kind", "spent"), WHOLE_ROWS)
async def test_complete_whole(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, kind: str, spent: int) -> None:
    """A whole answer is forwarded byte for byte and charged by its usage, or by its text where that lies or lacks; it says its cost."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start()
    await give_whole(exchange, speech, speech.usage(kind))

    received = await (await answer).read_all()

    assert (received.status, received.broken, received.body) == (200, False, bytes(exchange.sent))
    assert nanocredits(received.response.headers["X-Ledger-Cost"]) == spent
    assert await caller.spent() == spent


@pytest.mark.parametrize("speech", rows([speech_openai.CHAT, speech_openai.COMPLETIONS]))
async def test_usage_chunk_is_taken_out_again(deployment: Deployment, upstream: ScriptedUpstream, speech: Speech) -> None:
    """Where the client did not ask for the usage chunk, it is asked for on its behalf, charged by, and taken out."""
    caller = await deployment.open_account("1")
    path, body, _ = speech.asked(stream=True)
    assert isinstance(body, dict)
    answer = asyncio.create_task(caller.post(path, {**body, "stream_options": None}))
    exchange = await upstream.next_request()
    assert exchange.document["stream_options"] == {"include_usage": True}
    await begin(exchange, speech, speech.stream("present"))
    await exchange.finish()

    assert (await Answer(await answer).read_all()).body == b"".join(speech.stream(MISSING))
    assert (await caller.settled()).spent_nanocredits == 12 * 3 + 5 * 7


# --- streams that end in other ways ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speech", "kind"), BROKEN_ROWS)
async def test_stream_cut_by_budget(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, kind: str) -> None:
    """What the budget covers is delivered, then the error event; the upstream is told at once and nothing is overspent."""
    caller = await asking(deployments, upstream, speech, budget_nanocredits=speech.two_words_held_nanocredits)
    answer, exchange = await caller.start(stream=True)
    covered = speech.until_two_words(kind)
    await begin(exchange, speech, speech.stream(kind)[: len(covered) + 1])
    await exchange.client_gone()

    received = await (await answer).read_all()

    check_error_cut(speech, received, b"".join(covered), "insufficient_quota")
    assert received.broken is (speech.error_cut is None)
    balance = await caller.caller.settled()
    third_word = speech.word_nanocredits  # it came, and was not forwarded
    assert (balance.spent_nanocredits, balance.overrun_nanocredits) == (speech.broken_nanocredits(kind), third_word)


@pytest.mark.parametrize(("speech", "kind"), BROKEN_ROWS)
async def test_stream_cut_by_budget_as_length(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, kind: str) -> None:
    """With cut = "length" the stream ends as the model's own length limit would make it end, with true usage."""
    caller = await asking(deployments, upstream, speech, budget_nanocredits=speech.two_words_held_nanocredits, model="short")
    answer, exchange = await caller.start(stream=True)
    covered = b"".join(speech.until_two_words(kind))
    await begin(exchange, speech, speech.stream(kind)[: len(speech.until_two_words(kind)) + 1])

    received = await (await answer).read_all()

    assert received.body.startswith(covered)
    ending = received.body[len(covered) :]
    assert b"error" not in ending.replace(b'"error":null', b"")
    assert all(evidence in ending for evidence in speech.length_cut or ()), ending
    assert received.broken is (speech.length_cut is None)
    assert await caller.spent() == speech.broken_nanocredits(kind)


@pytest.mark.parametrize("speech", rows(STREAMED))
async def test_client_gone_before_first_byte(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech) -> None:
    """A caller that hangs up while the upstream is still silent pays the input; the upstream is told at once."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(stream=True)
    answer.cancel()
    await exchange.client_gone()
    assert await caller.spent() == speech.input_nanocredits


@pytest.mark.parametrize(("speech", "kind"), BROKEN_ROWS)
async def test_client_gone_mid_stream(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, kind: str) -> None:
    """A caller that hangs up mid-stream pays what was forwarded; the upstream is told at once."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(stream=True)
    await begin(exchange, speech, speech.until_two_words(kind))
    received = await answer
    await received.read_until(bytes(exchange.sent))
    received.response.close()
    await exchange.client_gone()
    assert await caller.spent() == speech.broken_nanocredits(kind)


@pytest.mark.parametrize("speech", rows(speech for speech in STREAMED if speech.error_event))
async def test_error_event_mid_stream(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech) -> None:
    """An upstream's own error event is forwarded as it is, and what came before it is charged."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(stream=True)
    await begin(exchange, speech, [*speech.until_two_words(), speech.error_event])
    await exchange.finish()

    received = await (await answer).read_all()

    assert (received.broken, received.body) == (False, bytes(exchange.sent))
    assert await caller.spent() == speech.broken_nanocredits()


@pytest.mark.parametrize("end", ["reset", "half-closed", "no end marker"])
@pytest.mark.parametrize(("speech", "kind"), BROKEN_ROWS)
async def test_upstream_vanishes_mid_stream(
    deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, kind: str, end: str
) -> None:
    """An upstream that vanishes leaves an error event and a broken answer, never a clean end; what was forwarded is charged.

    Only where streams have no end marker is one that simply ends a complete one.
    """
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(stream=True)
    await begin(exchange, speech, speech.until_two_words(kind))
    received = await answer
    await received.read_until(bytes(exchange.sent))
    if end == "reset":
        exchange.abort()
    elif end == "half-closed":
        exchange.vanish()
    else:
        await exchange.finish()
    await received.read_all()

    if end == "no end marker" and not speech.end_marked:
        assert (received.broken, received.body) == (False, bytes(exchange.sent))
    else:
        check_error_cut(speech, received, bytes(exchange.sent), "upstream_error")
        assert received.broken
    assert await caller.spent() == speech.broken_nanocredits(kind)


async def test_upstream_silent_mid_stream(deployments: Deployments, upstream: ScriptedUpstream) -> None:
    """An upstream that falls silent counts as gone after its idle time; all operations at once, for the time passes for all."""
    waiting = []
    for speech in (speech for speech in STREAMED if speech in NAMING):
        caller = await asking(deployments, upstream, speech, model="impatient")
        answer, exchange = await caller.start(stream=True)
        await begin(exchange, speech, speech.until_two_words())
        waiting.append((speech, caller, exchange, asyncio.create_task((await answer).read_all())))
    for speech, caller, exchange, reading in waiting:
        received = await reading
        await exchange.client_gone()

        check_error_cut(speech, received, bytes(exchange.sent), "upstream_timeout")
        assert received.broken, speech.name
        assert await caller.spent() == speech.broken_nanocredits(), speech.name


# --- what fails before the first byte, streamed or not ---------------------------------------------------------------------


@pytest.mark.parametrize(("speech", "stream"), either())
async def test_upstream_answers_with_an_error(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, stream: bool) -> None:
    """An upstream's own error passes as it is, whatever its status, and costs nothing."""
    caller = await asking(deployments, upstream, speech)
    for status in (400, 401, 404, 429, 500, 503, 529):
        answer, exchange = await caller.start(stream=stream)
        await exchange.answer(speech.error, status=status)
        received = await (await answer).read_all()
        assert (received.status, received.body) == (status, speech.error)
    assert await caller.spent() == 0


@pytest.mark.parametrize(("speech", "stream"), either())
async def test_budget_that_cannot_pay_the_prompt(
    deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, stream: bool
) -> None:
    """What could never be paid is refused in the dialect's own shape, and the upstream never hears of it."""
    caller = await asking(deployments, upstream, speech, budget_nanocredits=speech.held_nanocredits - 1)
    received = await (await caller.answer(stream=stream)).read_all()
    check_refusal(speech, received, 402, "request_exceeds_budget")
    assert received.response.headers["x-should-retry"] == "false"
    assert upstream.received == []
    assert await caller.spent() == 0


@pytest.mark.parametrize(("speech", "stream"), either(naming=True))
async def test_upstream_refuses_connections(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, stream: bool) -> None:
    """An upstream that cannot be reached is a 502 in the dialect's own shape, and costs nothing."""
    caller = await asking(deployments, upstream, speech, model="closed")
    check_refusal(speech, await (await caller.answer(stream=stream)).read_all(), 502, "upstream_error")
    assert await caller.spent() == 0


@pytest.mark.parametrize(("speech", "stream"), either())
async def test_upstream_vanishes_before_the_first_byte(
    deployments: Deployments, upstream: ScriptedUpstream, speech: Speech, stream: bool
) -> None:
    """An upstream that closes the connection instead of answering is a 502, and costs nothing."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(stream=stream)
    exchange.abort()
    check_refusal(speech, await (await answer).read_all(), 502, "upstream_error")
    assert await caller.spent() == 0


async def test_upstream_silent_before_the_first_byte(deployments: Deployments, upstream: ScriptedUpstream) -> None:
    """An upstream that stays silent beyond its time is a 504, and costs nothing; all operations at once."""
    waiting = []
    for speech, stream in ((speech, stream) for speech, stream in EITHER if speech in NAMING):
        caller = await asking(deployments, upstream, speech, model="impatient")
        waiting.append((speech, caller, *(await caller.start(stream=stream))))
    for speech, caller, answer, exchange in waiting:
        await exchange.client_gone()
        check_refusal(speech, await (await answer).read_all(), 504, "upstream_timeout")
        assert await caller.spent() == 0


# --- whole answers that end in other ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("speech", rows(WHOLE))
async def test_client_gone_before_a_whole_answer(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech) -> None:
    """A caller that hangs up before a whole answer has come pays the input; the upstream is told at once."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start()
    answer.cancel()
    await exchange.client_gone()
    assert await caller.spent() == speech.input_nanocredits


@pytest.mark.parametrize("speech", rows(WHOLE))
async def test_upstream_vanishes_within_a_whole_answer(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech) -> None:
    """Half a whole answer is a 502, and costs nothing, for none of it is forwarded."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start()
    assert speech.whole is not None
    whole = speech.whole(TEXT, NO_USAGE)
    await exchange.start(headers={"Content-Type": speech.whole_media_type, "Content-Length": str(len(whole))})
    await exchange.send(whole[:20])
    exchange.abort()
    check_refusal(speech, await (await answer).read_all(), 502, "upstream_error")
    assert await caller.spent() == 0


@pytest.mark.parametrize("speech", rows(speech for speech in WHOLE if speech.maximum))
async def test_whole_answer_is_lowered_to_the_budget(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech) -> None:
    """What cannot be cut is asked for in the length that the budget pays."""
    caller = await asking(deployments, upstream, speech, budget_nanocredits=speech.two_words_held_nanocredits)
    answer, exchange = await caller.start(maximum=1000)
    assert speech.maximum_in(exchange.document) == 2
    await give_whole(exchange, speech, speech.bill(12, 2))
    assert (await (await answer).read_all()).status == 200
    assert await caller.spent() == BILL_OF_TWO


@pytest.mark.parametrize("speech", rows(speech for speech in WHOLE if speech.maximum))
async def test_bill_above_the_stated_maximum(deployments: Deployments, upstream: ScriptedUpstream, speech: Speech) -> None:
    """Output that an upstream bills above the request's own maximum is overrun, not charged."""
    caller = await asking(deployments, upstream, speech)
    answer, exchange = await caller.start(maximum=4)
    await give_whole(exchange, speech, speech.bill(12, 9))
    assert (await (await answer).read_all()).status == 200
    balance = await caller.caller.settled()
    assert (balance.spent_nanocredits, balance.overrun_nanocredits) == (12 * 3 + 4 * 7, 5 * 7)


async def test_headers_of_a_whole_answer(deployments: Deployments, upstream: ScriptedUpstream) -> None:
    """A whole answer says what it cost and what is left."""
    caller = await asking(deployments, upstream, speech_openai.CHAT)
    answer, exchange = await caller.start()
    await give_whole(exchange, speech_openai.CHAT, openai_answers.usage(12, 5))
    headers = (await (await answer).read_all()).response.headers
    assert headers["X-Ledger-Cost"] == "0.000000071"
    assert headers["X-Ledger-Remaining"] == "0.999999929"
    assert headers["RateLimit-Policy"].startswith('"ever";')
    assert headers["RateLimit"].startswith('"ever";r=')
    assert headers["X-Request-Id"]


async def test_event_stream_that_was_not_asked_for(deployments: Deployments, upstream: ScriptedUpstream) -> None:
    """An upstream that streams although nobody asked is forwarded and charged as the stream that it is."""
    caller = await asking(deployments, upstream, speech_openai.CHAT)
    answer, exchange = await caller.start()
    await exchange.start(headers=EVENT_STREAM)
    await exchange.send(b"".join(speech_openai.CHAT.stream()))
    await exchange.finish()
    received = await (await answer).read_all()
    assert received.body.endswith(DONE)
    assert await caller.spent() == 27 + 3 * 7


async def test_books_balance_after_all_this(deployments: Deployments, deployment: Deployment) -> None:
    """After everything above, every account's books balance, and nothing is held."""
    code, said = await deployment.audit()
    assert code == 0, said
    assert " 0 open holds" in said
    for running in deployments.running.values():
        report = await running.admin("POST", "audit")
        assert (report["balanced"], report["open_holds"]) == (True, 0), report
