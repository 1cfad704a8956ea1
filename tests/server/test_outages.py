"""The ledger goes away, at every moment of a request, and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.server.holding import Reservation
from tests.server.conftest import Start
from tests.server.test_handler import COST, USAGE, Asked, _ended, bound, counted, delta, error_in
from tests.support import openai_answers
from tests.support.openai_answers import DONE
from tests.support.proxied import Proxied, chat, proxied
from tests.support.scripted_upstream import ScriptedUpstream

QUICK = {"ledger": {"deadline_ms": 20}}


async def _backlog(proxied: Proxied) -> float:
    return proxied.counted("settle_backlog")


async def _told(proxied: Proxied) -> bool:
    return await _backlog(proxied) == 0


async def test_no_ledger_no_request(upstream: ScriptedUpstream, start: Start) -> None:
    """Without a hold the upstream is not asked: 503, and when to come again."""
    async with start(settings=QUICK) as proxied:
        proxied.ledger.cut()
        asked = Asked(proxied, chat())
        assert b"ledger_unavailable" in await asked.whole()
        assert asked.answer.status == 503
        assert asked.answer.headers["Retry-After"] == "1"
        assert upstream.received == []


async def test_hold_whose_answer_was_lost_is_voided(upstream: ScriptedUpstream, start: Start) -> None:
    """A hold that was made without anybody hearing of it does not keep its credits."""
    async with start(settings=QUICK) as proxied:
        proxied.ledger.loses_answers = frozenset({"hold"})
        asked = Asked(proxied, chat())
        await asked.whole()
        assert asked.answer.status == 503
        assert (await proxied.until_settled()).held == 0


@pytest.mark.parametrize("verbs", [frozenset({"settle"}), frozenset({"settle", "extend", "debit", "hold", "void", "adjust"})])
async def test_settle_waits_in_the_backlog(upstream: ScriptedUpstream, start: Start, verbs: frozenset[str]) -> None:
    """The client sees a normal end; what it costs is kept on disk, and charged once when the ledger is back."""
    async with start(settings=QUICK) as proxied:
        asked = Asked(proxied, chat(stream=True))
        exchange = await upstream.next_request()
        proxied.ledger.down = verbs
        for data in openai_answers.chat_events(["a ", "b "], usage=USAGE):
            await exchange.send(data)
        await exchange.finish()
        assert (await asked.whole()).endswith(DONE)
        assert await _backlog(proxied) == 1
        assert await proxied.spent() == 0
        proxied.ledger.mend()
        await proxied.until(lambda: _told(proxied))
        assert (await proxied.until_settled()).spent == COST
        assert proxied.counted("settle_backlog_records_total", "settled") == 1


async def test_settle_whose_answer_was_lost_is_charged_once(upstream: ScriptedUpstream, start: Start) -> None:
    """It landed, nobody heard of it, it is told again: the same."""
    async with start(settings=QUICK) as proxied:
        proxied.ledger.loses_answers = frozenset({"settle"})
        asked = Asked(proxied, chat())
        await (await upstream.next_request()).answer(openai_answers.chat("x", usage=USAGE))
        await asked.whole()
        assert await _backlog(proxied) == 1
        proxied.ledger.loses_answers = frozenset()
        await proxied.until(lambda: _told(proxied))
        assert await proxied.spent() == COST


async def test_backlog_of_a_dead_process_is_adopted(upstream: ScriptedUpstream, start: Start, tmp_path: Path) -> None:
    """What one process could not tell, the next one in the same directory tells."""
    async with start(settings=QUICK) as first:
        first.ledger.down = frozenset({"settle"})
        asked = Asked(first, chat())
        await (await upstream.next_request()).answer(openai_answers.chat("x", usage=USAGE))
        await asked.whole()
        async with proxied(upstream.base_url, tmp_path / "data") as second:
            assert await _backlog(second) == 0  # its owner lives
    (journal,) = (tmp_path / "data").glob("backlog-*")
    assert b'"settle"' in journal.read_bytes()
    async with proxied(upstream.base_url, tmp_path / "data") as third:
        await third.until(lambda: _told(third))
        assert [verb for verb, _ in third.ledger.calls] == ["settle"]
    assert list((tmp_path / "data").glob("backlog-*")) == []


async def test_stream_goes_on_inside_its_hold(upstream: ScriptedUpstream, start: Start) -> None:
    """Without the ledger a stream is forwarded as far as it is held, then it is cut: never unmetered, and never silently."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"deadline_ms": 20, "slice_tokens": 4}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        proxied.ledger.cut()
        for n in range(8):
            await exchange.send(delta(f"w{n} "))
        received = await asked.whole()
        assert b"w3 " in received
        assert b"w4 " not in received
        assert error_in(received)["error"]["code"] == "ledger_unavailable"
        proxied.ledger.mend()
        await proxied.until(lambda: _told(proxied))
        assert (await proxied.until_settled()).spent == counted(body, 4)
        assert proxied.counted("cut_streams_total", "ledger") == 1


async def test_extension_whose_answer_was_lost_is_asked_for_again(upstream: ScriptedUpstream, start: Start) -> None:
    """The same extension again, not a second one: what was reserved unheard is used, and nothing is held twice."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"deadline_ms": 20, "slice_tokens": 4}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        proxied.ledger.loses_answers = frozenset({"extend"})
        for n in range(3):
            await exchange.send(delta(f"w{n} "))
        await asked.until(b"w2 ")
        await proxied.until(lambda: _called_times(proxied, "extend", 1))
        proxied.ledger.loses_answers = frozenset()
        for n in range(3, 6):
            await exchange.send(delta(f"w{n} "))
        await asked.until(b"w5 ")
        extensions = [named for verb, named in proxied.ledger.calls if verb == "extend"]
        assert extensions[0]["sequence"] == extensions[1]["sequence"] == 1
        assert extensions[0]["want_nanocredits"] == extensions[1]["want_nanocredits"]
        await exchange.send(DONE)
        await asked.whole()
        assert (await proxied.until_settled()).spent == counted(body, 6)


async def _called_times(proxied: Proxied, verb: str, times: int) -> bool:
    return sum(called == verb for called, _ in proxied.ledger.calls) >= times


async def test_silent_request_keeps_its_hold_alive(upstream: ScriptedUpstream, start: Start) -> None:
    """A hold that hears nothing of its request for long is renewed before it expires."""
    async with start(settings={"ledger": {"hold_ttl_s": 3}}) as proxied:
        asked = Asked(proxied, chat())
        exchange = await upstream.next_request()
        await proxied.until(lambda: _called_times(proxied, "debit", 1))
        await exchange.answer(openai_answers.chat("x", usage=USAGE))
        await asked.whole()
        assert await proxied.spent() == COST


async def test_running_stream_is_debited_as_it_goes(upstream: ScriptedUpstream, start: Start) -> None:
    """While a stream runs the ledger hears what it has certainly spent, so that a crash would not lose it; never more than it will cost."""
    body = chat(stream=True)
    async with start() as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        for n in range(5):
            await exchange.send(delta(f"w{n} "))
        await proxied.until(lambda: _called_times(proxied, "debit", 1))
        assert (await proxied.account()).totals.spent == 5 * 4
        await exchange.send(openai_answers.chat_usage_event(openai_answers.usage(1, 5)) + DONE)
        await asked.whole()
        assert (await proxied.until_settled()).spent == 1 + 5 * 4


async def test_lost_extension_that_was_too_small_is_followed_by_another(upstream: ScriptedUpstream, start: Start) -> None:
    """The extension that is repeated may not cover a large piece; that alone does not mean that the budget is used up."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"deadline_ms": 20, "slice_tokens": 4}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        proxied.ledger.loses_answers = frozenset({"extend"})
        for n in range(3):
            await exchange.send(delta(f"w{n} "))
        await proxied.until(lambda: _called_times(proxied, "extend", 1))
        await asked.until(b"w2 ")
        proxied.ledger.loses_answers = frozenset()
        await exchange.send(delta("x" * 400) + DONE)
        assert (await asked.whole()).endswith(delta("x" * 400) + DONE)
        assert (await proxied.until_settled()).spent == counted(body, 3 + 100)


async def test_hold_that_may_have_expired_covers_nothing_more(upstream: ScriptedUpstream, start: Start) -> None:
    """After as long a silence of the ledger as a hold lives, nothing more is forwarded on it, even inside its slice."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"deadline_ms": 20, "hold_ttl_s": 3}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        await exchange.send(delta("w0 "))
        await asked.until(b"w0 ")
        proxied.ledger.cut()
        (running,) = proxied.proxy._exchanges._open
        running.hold._heard_s -= 3  # as if the silence had lasted
        await proxied.until(lambda: _is_lost(running.hold))
        await exchange.send(delta("w1 "))
        assert error_in(await asked.whole())["error"]["code"] == "ledger_unavailable"
        proxied.ledger.mend()
        await proxied.until(lambda: _told(proxied))
        assert (await proxied.until_settled()).spent == counted(body, 1)


async def _is_lost(hold: Reservation) -> bool:
    return hold._lost


async def test_hold_that_the_ledger_says_is_over_covers_nothing_more(upstream: ScriptedUpstream, start: Start) -> None:
    """Expired behind our back: from the next debit on nothing more is forwarded."""
    body = chat(stream=True)
    async with start() as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        await exchange.send(delta("w0 "))
        await asked.until(b"w0 ")
        proxied.model._now_ms.now_ms += 120_000
        await proxied.model.expire_due()
        (running,) = proxied.proxy._exchanges._open
        await proxied.until(lambda: _is_lost(running.hold))
        await exchange.send(delta("w1 "))
        assert error_in(await asked.whole())["error"]["code"] == "ledger_unavailable"
        assert (await proxied.until_settled()).spent == counted(body, 1)


async def test_expired_hold_is_charged_late_and_ends_the_stream(upstream: ScriptedUpstream, start: Start) -> None:
    """A hold that expired while the ledger was away covers nothing more; what was forwarded is charged once."""
    body = chat(stream=True)
    async with start(settings={"ledger": {"slice_tokens": 4}}) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        clock = proxied.model._now_ms
        clock.now_ms += 120_000
        assert await proxied.model.expire_due() == 1
        for n in range(8):
            await exchange.send(delta(f"w{n} "))
        assert error_in(await asked.whole())["error"]["code"] == "ledger_unavailable"
        assert (await proxied.until_settled()).spent == counted(body, 4)


# --- on_failure = "allow" ------------------------------------------------------------------------------------------------------------


def allowing(amount: str) -> dict[str, Any]:
    return {"ledger": {"deadline_ms": 20, "on_failure": "allow", "allow_max": amount}}


async def test_allowed_requests_are_charged_afterwards(upstream: ScriptedUpstream, start: Start) -> None:
    """With the ledger away requests pass, counted; once it is back they are charged, once."""
    upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    async with start(settings=allowing("1")) as proxied:
        proxied.ledger.cut()
        for stream in (False, True):
            asked = Asked(proxied, chat(stream=stream))
            await asked.whole()
            assert asked.answer.status == 200
        assert proxied.counted("uncounted_requests_total") == 2
        proxied.ledger.mend()
        await proxied.until(lambda: _told(proxied))
        assert (await proxied.until_settled()).spent == 2 * COST


async def test_allowance_is_bounded_and_comes_back(upstream: ScriptedUpstream, start: Start) -> None:
    """No more passes than the bound for one outage; a ledger that answers renews the bound."""
    upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
    body = chat(max_tokens=5)
    most = bound(body, 5)
    async with start(settings=allowing(f"{2 * most / 1e9:.9f}")) as proxied:
        for _ in range(2):
            proxied.ledger.cut()
            statuses = []
            for _ in range(3):
                asked = Asked(proxied, body)
                await asked.whole()
                statuses.append(asked.answer.status)
            assert statuses == [200, 200, 503]
            proxied.ledger.mend()
            asked = Asked(proxied, body)
            await asked.whole()
            assert asked.answer.status == 200
        await proxied.until(lambda: _told(proxied))
        assert (await proxied.until_settled()).spent == 6 * COST


async def test_running_stream_may_use_the_allowance(upstream: ScriptedUpstream, start: Start) -> None:
    """A stream that was held before the outage goes on within the allowance, and pays for all of it in the end."""
    body = chat(stream=True)
    settings = allowing("1")
    settings["ledger"]["slice_tokens"] = 4
    async with start(settings=settings) as proxied:
        asked = Asked(proxied, body)
        exchange = await upstream.next_request()
        proxied.ledger.cut()
        for n in range(12):
            await exchange.send(delta(f"w{n} "))
        await exchange.send(DONE)
        assert (await asked.whole()).endswith(DONE)
        proxied.ledger.mend()
        await proxied.until(lambda: _told(proxied))
        assert (await proxied.until_settled()).spent == counted(body, 12)


async def test_full_backlog_admits_nothing(upstream: ScriptedUpstream, start: Start) -> None:
    """Where no more ends could be kept, no request begins."""
    async with start(settings=QUICK) as proxied:
        proxied.proxy._holds.backlog._max_bytes = 1  # so small that it is full from the start
        asked = Asked(proxied, chat())
        body = msgspec.json.decode(await asked.whole())
        assert (asked.answer.status, body["error"]["code"]) == (503, "ledger_unavailable")
        assert asked.answer.headers["Retry-After"] == "5"
        await proxied.until(lambda: _ended(proxied))
        assert proxied.ledger.calls == []


async def test_cancelled_at_every_moment(upstream: ScriptedUpstream, start: Start) -> None:
    """Wherever a client leaves, nothing stays held and what is charged is one of the amounts that the moment allows."""
    body = chat(stream=True)
    allowed = {0, COST, *(counted(body, n) for n in range(6))}
    async with start(settings={"ledger": {"slice_tokens": 2}}) as proxied:
        before = 0
        for moment in range(1, 40):
            upstream.automatic = openai_answers.generating(input_tokens=10, output_tokens=5)
            asked = Asked(proxied, body)
            for _ in range(moment):
                await asyncio.sleep(0)
            asked.task.cancel()
            await asyncio.gather(asked.task, return_exceptions=True)
            totals = await proxied.until_settled()
            assert totals.spent - before in allowed
            before = totals.spent


async def test_rounds_of_debits_do_not_pile_up(start: Start) -> None:
    """While the ledger is slow to take one round of debits, no further one begins."""

    class Slow:
        rounds = 0
        answered = asyncio.Event()

        async def debit(self) -> None:
            self.rounds += 1
            await self.answered.wait()

    async with start() as proxied:
        slow, holds = Slow(), proxied.proxy._holds
        for _ in range(3):
            holds.debit([slow])
            await asyncio.sleep(0)
        assert slow.rounds == 1
        slow.answered.set()
        await holds.finish()
        holds.debit([slow])
        await holds.finish()
        assert slow.rounds == 2
