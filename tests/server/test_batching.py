"""Files and batches: held at their bound, settled by their output, shown to their owner alone, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from proxy.dialects import Request
from proxy.domain import AccountId, Caller, Plan
from proxy.errors import Refusal
from proxy.server import batch_settling
from proxy.server.batch_settling import ASK_MS, GIVE_UP_MS, LOST_MS, BatchSettler
from tests.server.conftest import Start
from tests.server.test_handler import call_of
from tests.support import model_batches
from tests.support import openai_answers as answers
from tests.support.batching_upstream import BatchingUpstream, Json, line, lines, output
from tests.support.proxied import ACCOUNT, KEY, PATH, RATE_INPUT, RATE_OUTPUT, UPSTREAM_KEY, Proxied, chat, price
from tests.support.scripted_upstream import JSON, Exchange, ScriptedUpstream

ROW = price(batch_percent=50)
"""A token of input costs half a nanocredit in a batch, one of output two."""
OTHER_KEY = "cl-" + "o" * 43
AGENT_KEYS = ("cl-" + "a" * 43, "cl-" + "b" * 43)
HELLO = chat(max_tokens=10)
TWO = lines(line("1", HELLO), line("2", HELLO))
BOUND = -(-2 * (call_of(HELLO).input_tokens_bound * 1 + 10 * 4) // 2)
USAGE = answers.usage(10, 5)
DONE = output("1", answers.chat("hi", usage=USAGE)) + output("2", answers.chat("hi", usage=USAGE))
COST = 2 * (10 * 1 + 5 * 4) // 2


@pytest.fixture
def batching(upstream: ScriptedUpstream) -> BatchingUpstream:
    kept = BatchingUpstream()
    upstream.automatic = kept.play
    return kept


@pytest.fixture
async def proxied(start: Start, batching: BatchingUpstream) -> AsyncIterator[Proxied]:
    async with start(prices=(ROW,)) as proxied:
        proxied.book.add(OTHER_KEY, Caller(AccountId("user:bob"), (AccountId("user:bob"),), Plan("everyone", ()), "key-2"))
        yield proxied


async def asked(proxied: Proxied, method: str, path: str, *, key: str = KEY, **options: Any) -> tuple[int, Any]:
    """Status and document of one request."""
    headers = {"Authorization": f"Bearer {key}"}
    async with proxied.client.request(method, proxied.base_url + path, headers=headers, **options) as answer:
        body = await answer.read()
        return answer.status, msgspec.json.decode(body) if body[:1] in (b"{", b"[") else body


async def upload(proxied: Proxied, content: bytes = TWO, *, key: str = KEY, purpose: str = "batch") -> tuple[int, Any]:
    form = aiohttp.FormData({"purpose": purpose})
    form.add_field("file", content, filename="in.jsonl")
    return await asked(proxied, "POST", "/v1/files", key=key, data=form)


async def content(proxied: Proxied, file_id: str) -> bytes:
    async with proxied.client.get(f"{proxied.base_url}/v1/files/{file_id}/content", headers={"x-api-key": KEY}) as answer:
        return await answer.read()


def creation(file_id: str = "file-1", **members: Any) -> Json:
    return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **members}


async def begin(proxied: Proxied, **members: Any) -> tuple[int, Any]:
    return await asked(proxied, "POST", "/v1/batches", json=creation(**members))


async def begun(proxied: Proxied, content: bytes = TWO) -> None:
    """A batch under way: `batch_1` of `file-1`."""
    assert (await upload(proxied, content))[0] == 200
    assert (await begin(proxied))[0] == 200


async def look(proxied: Proxied, after_ms: int = ASK_MS) -> None:
    """One round of the settler, some time later."""
    proxied.clock.now_ms += after_ms
    await proxied.proxy.settler.look()


async def balance(proxied: Proxied) -> tuple[int, int, int]:
    totals = (await proxied.account()).totals
    return totals.held, totals.spent, totals.overrun


# --- the usual way -------------------------------------------------------------------------------------------------------------------


async def test_a_batch_is_held_at_its_bound_and_settled_by_its_output(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Nothing is spent before; then exactly what its lines used, at the percentage of the row, rounded once."""
    await begun(proxied)
    assert await balance(proxied) == (BOUND, 0, 0)
    assert batching.files["file-1"] == TWO
    await look(proxied)
    assert await balance(proxied) == (BOUND, 0, 0)
    batching.end("batch_1", DONE, ran=2)
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)
    assert proxied.counted("credits_total", "debited") == COST
    assert proxied.counted("tokens_total", "tiny", "output") == 10


async def test_the_owner_is_shown_a_batch_after_it_is_settled(
    proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream
) -> None:
    """Whoever reads the account then sees what it cost; the results are the owner's, to the byte."""
    await begun(proxied)
    batching.end("batch_1", DONE, errors=b"", ran=2)
    status, batch = await asked(proxied, "GET", "/v1/batches/batch_1")
    assert (status, batch) == (200, batching.batches["batch_1"])
    assert await balance(proxied) == (0, COST, 0)
    assert await content(proxied, batch["output_file_id"]) == DONE
    assert (await asked(proxied, "GET", f"/v1/files/{batch['error_file_id']}"))[0] == 200
    upstream.received.clear()
    assert await asked(proxied, "GET", "/v1/batches/batch_1") == (200, batch)
    assert await balance(proxied) == (0, COST, 0)
    assert len(upstream.received) == 1  # its output is not counted again


async def test_of_many_that_ask_at_once_one_counts_the_output(
    proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream
) -> None:
    """It may be large; the others wait for it."""
    await begun(proxied)
    batching.end("batch_1", DONE)
    all_have_asked = asyncio.Barrier(8)

    async def play(exchange: Exchange) -> None:
        if not exchange.raw_path.endswith("/content"):
            await all_have_asked.wait()
        await batching.play(exchange)

    upstream.automatic = play
    asking = [asked(proxied, "GET", "/v1/batches/batch_1") for _ in range(8)]
    assert {status for status, _ in await asyncio.gather(*asking)} == {200}
    assert sum(exchange.raw_path.endswith("/content") for exchange in upstream.received) == 1
    assert await balance(proxied) == (0, COST, 0)


async def test_a_cancelled_batch_costs_what_it_has_done(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Its owner cancels it; the hold stays until it has ended."""
    await begun(proxied)
    status, batch = await asked(proxied, "POST", "/v1/batches/batch_1/cancel")
    assert (status, batch["status"]) == (200, "cancelling")
    assert (await balance(proxied))[0] == BOUND
    batching.end("batch_1", output("1", answers.chat("hi", usage=USAGE)), status="cancelled")
    await look(proxied)
    assert await balance(proxied) == (0, COST // 2, 0)


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
async def test_a_batch_of_which_nothing_ran_costs_nothing(proxied: Proxied, batching: BatchingUpstream, status: str) -> None:
    """All of its hold is returned."""
    await begun(proxied)
    batching.end("batch_1", None, status=status, ran=0)
    await look(proxied)
    assert await balance(proxied) == (0, 0, 0)


async def test_files_are_shown_and_deleted(proxied: Proxied, batching: BatchingUpstream) -> None:
    """By their owner; then they are gone here as they are there."""
    await upload(proxied)
    assert (await asked(proxied, "GET", "/v1/files/file-1"))[1]["bytes"] == len(TWO)
    assert await content(proxied, "file-1") == TWO
    assert (await asked(proxied, "DELETE", "/v1/files/file-1"))[1]["deleted"] is True
    assert batching.files == {}
    assert (await asked(proxied, "GET", "/v1/files/file-1"))[1]["error"]["code"] == "not_found"


# --- what is counted -----------------------------------------------------------------------------------------------------------------


async def test_lines_without_believable_usage_count_by_what_they_hold(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Their input by the average of the file; the other lines by their usage."""
    await begun(proxied, lines(*(line(str(n), HELLO) for n in range(3))))
    text = "x" * 20
    batching.end(
        "batch_1",
        output("0", answers.chat("hi", usage=USAGE)) + output("1", answers.chat(text)) + output("2", answers.chat(text, usage={"a": 1})),
    )
    await look(proxied)
    counted = call_of(HELLO).input_tokens_counted
    assert (await balance(proxied))[1] == -(-(10 + 20 + 2 * (counted + 5 * 4)) // 2)
    assert proxied.counted("usage_flagged_total", "missing") == 1
    assert proxied.counted("usage_flagged_total", "absurd") == 1


async def test_what_costs_more_than_its_bound_is_overrun(proxied: Proxied, batching: BatchingUpstream) -> None:
    """The upstream wrote more than was asked for; the caller pays what was held."""
    await begun(proxied)
    batching.end("batch_1", output("1", answers.chat("hi", usage=answers.usage(0, BOUND))))
    await look(proxied)
    assert await balance(proxied) == (0, BOUND, BOUND)


async def test_every_choice_is_held(proxied: Proxied, batching: BatchingUpstream) -> None:
    """A request for several answers may cost as much as several."""
    body = chat(max_tokens=10, n=3)
    await begun(proxied, lines(line("1", body)))
    assert (await balance(proxied))[0] == -(-(call_of(body).input_tokens_bound + 30 * 4) // 2)


async def test_no_more_is_read_than_was_asked_for(proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream) -> None:
    """An output without an end does not keep anyone."""
    await begun(proxied)
    batching.end("batch_1", DONE)

    async def endless(exchange: Exchange) -> None:
        if exchange.raw_path.endswith("/content"):
            await exchange.send(DONE)
        else:
            await batching.play(exchange)

    upstream.automatic = endless
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_coded_output_is_counted_by_what_it_says(
    proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream, is_whole: bool
) -> None:
    """Though nobody asked for it; one that breaks off within is read again later."""
    await begun(proxied)
    batching.end("batch_1", DONE)
    coded = gzip.compress(output("1", answers.chat("hi", usage=USAGE)))

    async def code(exchange: Exchange) -> None:
        if exchange.raw_path.endswith("/content"):
            await exchange.answer(coded if is_whole else coded[:-1], headers={**JSON, "Content-Encoding": "gzip"})
        else:
            await batching.play(exchange)

    upstream.automatic = code
    await look(proxied)
    assert await balance(proxied) == ((0, COST // 2, 0) if is_whole else (BOUND, 0, 0))


async def test_lines_that_nobody_asked_for_cost_nothing(proxied: Proxied, batching: BatchingUpstream) -> None:
    """A batch has no more answers than requests."""
    await begun(proxied)
    batching.end("batch_1", DONE + 10 * DONE)
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)


async def test_a_line_too_long_to_keep_counts_by_its_bytes(
    proxied: Proxied, batching: BatchingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, for all of it; the lines after it count as ever."""
    monkeypatch.setattr(batch_settling, "LINE_MAX_BYTES", 1000)
    long = chat(max_tokens=10_000)
    await begun(proxied, lines(line("1", long), line("2", HELLO), line("3", long), line("4", long)))
    batching.end("batch_1", b"x" * 3999 + b"\n" + output("2", answers.chat("hi", usage=USAGE)) + b"x" * 2399 + b"\n" + b"x" * 2000)
    await look(proxied)
    counted = call_of(long).input_tokens_counted
    assert (await balance(proxied))[1] == -(-(3 * counted + (1000 + 600 + 500) * 4 + 10 + 20) // 2)


@pytest.mark.parametrize("is_named", [True, False])
async def test_an_output_that_is_gone_costs_the_bound(proxied: Proxied, batching: BatchingUpstream, is_named: bool) -> None:
    """Nothing becomes free because nobody can read it any more, or because it was never named."""
    await begun(proxied)
    batching.end("batch_1", DONE if is_named else None)
    batching.files.clear()
    await look(proxied)
    assert await balance(proxied) == (0, BOUND, 0)


# --- what is refused -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        (lines(line("1", chat(stream=True))), "invalid_request", "stream"),
        (lines(line("1", HELLO), line("2", {**HELLO, "model": "other"})), "invalid_request", "other"),
        (lines(line("1", {**HELLO, "service_tier": "priority"})), "invalid_request", "Line 1"),
        (lines(line("1", {"messages": []})), "invalid_request", "model"),
        (b"{}", "invalid_request", "custom_id"),
    ],
)
async def test_what_a_file_must_not_ask_for(proxied: Proxied, upstream: ScriptedUpstream, content: bytes, code: str, word: str) -> None:
    """The same as in a request of its own, and streams; it is not forwarded."""
    status, refused = await upload(proxied, content)
    assert (status, refused["error"]["code"]) == (400, code)
    assert word in refused["error"]["message"]
    assert upstream.received == []


async def test_files_for_anything_else_are_refused(proxied: Proxied, upstream: ScriptedUpstream) -> None:
    """They would be input that later requests use unseen."""
    status, refused = await upload(proxied, purpose="user_data")
    assert (status, refused["error"]["code"]) == (400, "invalid_request")
    assert "purpose" in refused["compute_ledger"]["hint"]
    assert upstream.received == []


async def test_a_model_must_be_priced_for_batches(start: Start, upstream: ScriptedUpstream) -> None:
    """Else the hint is the row to add; its ordinary requests go on."""
    async with start(prices=(price(),)) as proxied:
        status, refused = await upload(proxied)
        assert (status, refused["error"]["code"]) == (403, "model_not_priced")
        assert "batch_percent = 50" in refused["compute_ledger"]["hint"]
    assert upstream.received == []


async def test_the_plan_must_have_the_model(start: Start, upstream: ScriptedUpstream) -> None:
    """As for any request."""
    async with start(prices=(ROW,), plan={"models": ("small",)}) as proxied:
        status, refused = await upload(proxied)
        assert (status, refused["error"]["code"]) == (403, "model_not_allowed")


async def test_aliases_cannot_be_used(start: Start, upstream: ScriptedUpstream) -> None:
    """A file is forwarded as it came, and its upstream knows only its own names."""
    async with start(prices=(ROW,), upstream={"aliases": {"tiny": "llama"}}) as proxied:
        status, refused = await upload(proxied)
        assert (status, refused["error"]["code"]) == (400, "invalid_request")
        assert "llama" in refused["compute_ledger"]["hint"]


async def test_what_is_anothers_is_not_found(proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream) -> None:
    """Files, batches and results, by any of their paths; the upstream is not asked."""
    await begun(proxied)
    batching.end("batch_1", DONE)
    await look(proxied)
    upstream.received.clear()
    result = batching.batches["batch_1"]["output_file_id"]
    paths = [("GET", "/v1/batches/batch_1"), ("POST", "/v1/batches/batch_1/cancel"), ("GET", "/v1/batches/batch_2")]
    for file_id in ("file-1", result, "file-9"):
        paths += [("GET", f"/v1/files/{file_id}"), ("GET", f"/v1/files/{file_id}/content"), ("DELETE", f"/v1/files/{file_id}")]
    for method, path in paths:
        status, refused = await asked(proxied, method, path, key=OTHER_KEY)
        assert (status, refused["error"]["code"]) == (404, "not_found"), path
    status, refused = await asked(proxied, "POST", "/v1/batches", key=OTHER_KEY, json=creation())
    assert (status, refused["error"]["code"]) == (404, "not_found")
    assert upstream.received == []


async def test_the_results_of_a_batch_are_nobodys_before_it_is_settled(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Else they could be had, or be deleted, before they are counted."""
    await begun(proxied)
    batching.end("batch_1", DONE)
    assert (await asked(proxied, "GET", f"/v1/files/{batching.batches['batch_1']['output_file_id']}"))[0] == 404


async def test_a_batch_that_the_budget_cannot_pay_is_refused(start: Start, batching: BatchingUpstream) -> None:
    """At its bound, whole or not at all: never, or not now."""
    async with start(prices=(ROW,), credits_nanocredits=BOUND) as proxied:
        await upload(proxied, TWO + lines(line("3", HELLO)))
        assert (await begin(proxied))[1]["error"]["code"] == "request_exceeds_budget"
        await upload(proxied)
        assert (await begin(proxied, file_id="file-2"))[0] == 200
        status, refused = await begin(proxied, file_id="file-2")
        assert (status, refused["error"]["code"]) == (429, "budget_in_flight")
        assert list(batching.batches) == ["batch_1"]


async def test_a_batch_goes_where_its_requests_go(proxied: Proxied) -> None:
    """The endpoint is the one that the file was priced for."""
    await upload(proxied)
    status, refused = await begin(proxied, endpoint="/v1/embeddings")
    assert (status, refused["error"]["code"]) == (400, "invalid_request")


async def test_a_file_keeps_its_price_or_is_refused(proxied: Proxied) -> None:
    """Its bound was worked out at the price of then."""
    await upload(proxied)
    proxied.book.price_book = (price(batch_percent=60),)
    status, refused = await begin(proxied)
    assert (status, refused["error"]["code"]) == (409, "conflict")


async def test_the_plan_of_now_must_have_the_model_of_a_file(proxied: Proxied) -> None:
    """It may have changed since the upload."""
    await upload(proxied)
    proxied.book.add(KEY, Caller(ACCOUNT, PATH, Plan("other", (), models=("small",)), "key-1"))
    status, refused = await begin(proxied)
    assert (status, refused["error"]["code"]) == (403, "model_not_allowed")


async def test_an_account_has_room_for_so_many(proxied: Proxied, batching: BatchingUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files and of batches; neither is forwarded beyond that."""
    monkeypatch.setattr(model_batches, "KEPT_MAX", 1)
    await upload(proxied)
    assert (await upload(proxied))[0] == 400
    assert (await begin(proxied))[0] == 400
    assert (list(batching.files), list(batching.batches)) == (["file-1"], [])


async def test_a_batch_itself_has_no_estimate(proxied: Proxied) -> None:
    """Its requests have."""
    dialect, operation, _ = proxied.proxy.admission.paths.find("POST", "/v1/batches")
    with pytest.raises(Refusal, match="no cost of its own"):
        proxied.proxy.admission.read(dialect, Request(operation, b"{}"))


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
async def test_lists_are_refused(proxied: Proxied, path: str) -> None:
    """The upstream's would show what is others'."""
    assert (await asked(proxied, "GET", path))[0] == 405


async def test_a_file_that_the_upstream_has_lost_can_be_deleted(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Then it takes no room here either."""
    await upload(proxied)
    batching.files.clear()
    assert "error" in (await asked(proxied, "DELETE", "/v1/files/file-1"))[1]
    assert (await asked(proxied, "DELETE", "/v1/files/file-1"))[1]["error"]["code"] == "not_found"


async def test_the_upstreams_key_is_never_shown(proxied: Proxied, upstream: ScriptedUpstream) -> None:
    """Not even where the upstream repeats it."""

    async def repeat(exchange: Exchange) -> None:
        await exchange.answer(answers.encode({"id": "file-1", "key": UPSTREAM_KEY}))

    upstream.automatic = repeat
    assert (await upload(proxied))[0] == 502


# --- what breaks ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 429])
async def test_a_refused_upload_or_creation_is_shown_and_costs_nothing(proxied: Proxied, batching: BatchingUpstream, status: int) -> None:
    """In the upstream's own words; the hold is returned at once."""
    batching.refuses["POST /v1/files"] = status
    assert (await upload(proxied))[0] == status
    assert (await begin(proxied))[0] == 404
    del batching.refuses["POST /v1/files"]
    await upload(proxied)
    batching.refuses["POST /v1/batches"] = status
    code, refused = await begin(proxied)
    assert (code, refused["error"]["message"]) == (status, "not now")
    assert await balance(proxied) == (0, 0, 0)


@pytest.mark.parametrize("was_begun", [True, False])
async def test_a_creation_that_may_have_happened_is_looked_for(proxied: Proxied, batching: BatchingUpstream, was_begun: bool) -> None:
    """In the upstream's list, once nobody waits for its answer: found, it is its owner's and is settled; else the hold is returned."""
    await upload(proxied)
    (batching.fails if was_begun else batching.refuses)["POST /v1/batches"] = 500
    assert (await begin(proxied))[0] == 500
    await look(proxied)
    assert await balance(proxied) == (BOUND, 0, 0)
    if was_begun:
        batching.end("batch_1", DONE)
    await look(proxied, LOST_MS)
    assert await balance(proxied) == (0, COST if was_begun else 0, 0)
    assert (await asked(proxied, "GET", "/v1/batches/batch_1"))[0] == (200 if was_begun else 404)


async def test_of_several_batches_of_one_file_each_is_found_once(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Also on a later page of the list, and beside others' files."""
    await upload(proxied)
    batching.fails["POST /v1/batches"] = 502
    for _ in range(2):
        await begin(proxied)
    del batching.fails["POST /v1/batches"]
    for _ in range(2):
        await begin(proxied)
    costs = [5, 6, 7, 8]
    for cost, batch_id in zip(costs, batching.batches, strict=True):
        batching.end(batch_id, output("1", answers.chat("hi", usage=answers.usage(2 * cost, 0))))
    for _ in range(3):
        await look(proxied, LOST_MS)
    assert await balance(proxied) == (0, sum(costs), 0)


@pytest.mark.parametrize("down", ["open", "begin", "begun"])
async def test_a_worker_that_dies_between_hold_and_record_loses_nothing(proxied: Proxied, batching: BatchingUpstream, down: str) -> None:
    """What was not noted down before it was asked for was never asked for; what was, is found."""
    await upload(proxied)
    proxied.batches.down = frozenset({down})
    assert (await begin(proxied))[0] == 503
    proxied.batches.down = frozenset()
    assert list(batching.batches) == ([] if down == "open" else ["batch_1"])
    for batch_id in batching.batches:
        batching.end(batch_id, DONE)
    await look(proxied, LOST_MS)
    assert await balance(proxied) == (0, 0 if down == "open" else COST, 0)


async def test_hanging_up_does_not_undo_a_creation(proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream) -> None:
    """What is on its way is seen through, and is its owner's."""
    await upload(proxied)
    upstream.automatic = None
    asking = asyncio.create_task(begin(proxied))
    exchange = await upstream.next_request()
    asking.cancel()
    await proxied.until(lambda: _none_open(proxied))
    await batching.play(exchange)
    upstream.automatic = batching.play

    async def is_known() -> bool:
        return (await asked(proxied, "GET", "/v1/batches/batch_1"))[0] == 200

    await proxied.until(is_known)
    assert await balance(proxied) == (BOUND, 0, 0)


async def _none_open(proxied: Proxied) -> bool:
    return proxied.proxy.open_requests == 0


async def test_an_output_that_cannot_be_read_now_is_read_later(
    proxied: Proxied, batching: BatchingUpstream, upstream: ScriptedUpstream
) -> None:
    """The hold stays as long; the owner is told that the upstream failed, and nothing is charged twice."""
    await begun(proxied)
    batching.end("batch_1", DONE)
    content = f"GET /v1/files/{batching.batches['batch_1']['output_file_id']}/content"
    batching.refuses[content] = 500
    status, refused = await asked(proxied, "GET", "/v1/batches/batch_1")
    assert (status, refused["error"]["code"]) == (502, "upstream_error")

    async def vanish(exchange: Exchange) -> None:
        if exchange.raw_path.endswith("/content"):
            await exchange.start(200, {**JSON, "Content-Length": str(len(DONE))})
            await exchange.send(DONE[:-1])
            exchange.vanish()
        else:
            await batching.play(exchange)

    upstream.automatic = vanish
    await look(proxied)
    assert await balance(proxied) == (BOUND, 0, 0)
    upstream.automatic = batching.play
    batching.refuses.clear()
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)


async def test_the_ledger_may_be_away_when_a_batch_ends(proxied: Proxied, batching: BatchingUpstream) -> None:
    """It is settled once it is back; also where only the record of it was lost, and then once."""
    await begun(proxied)
    batching.end("batch_1", DONE)
    proxied.ledger.cut()
    assert (await asked(proxied, "GET", "/v1/batches/batch_1"))[0] == 503
    proxied.ledger.mend()
    proxied.batches.down = frozenset({"end"})
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)
    proxied.batches.down = frozenset()
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)
    assert (await asked(proxied, "GET", f"/v1/files/{batching.batches['batch_1']['output_file_id']}"))[0] == 200


async def test_a_hold_lasts_as_long_as_its_batch(proxied: Proxied, batching: BatchingUpstream) -> None:
    """It is kept alive; and where nobody could do so, the batch is settled all the same."""
    await begun(proxied)
    for _ in range(10):
        proxied.clock.now_ms += 20_000
        await proxied.proxy.settler.keep_alive()
        await proxied.model.expire_due()
    assert await balance(proxied) == (BOUND, 0, 0)
    proxied.clock.now_ms += 100_000
    await proxied.model.expire_due()
    assert await balance(proxied) == (0, 0, 0)
    batching.end("batch_1", DONE)
    await look(proxied)
    assert await balance(proxied) == (0, COST, 0)


async def test_the_upstream_is_asked_at_most_once_a_minute(proxied: Proxied, upstream: ScriptedUpstream) -> None:
    """Whichever worker asks, and however often they look."""
    await begun(proxied)
    await look(proxied)
    upstream.received.clear()
    other = BatchSettler(  # as another worker has it
        *(proxied.batches, proxied.proxy._holds),
        admission=lambda: proxied.proxy.admission,
        owe=lambda person, share, debited: None,
        now_ms=proxied.clock,
    )
    for _ in range(5):
        await look(proxied, ASK_MS // 12)
        proxied.clock.now_ms += ASK_MS // 12
        await other.look()
    assert upstream.received == []
    await look(proxied)
    assert len(upstream.received) == 1


async def test_a_batch_that_never_ends_costs_its_bound(proxied: Proxied, batching: BatchingUpstream) -> None:
    """After longer than any provider takes."""
    await begun(proxied)
    batching.batches.clear()
    await look(proxied, GIVE_UP_MS)
    assert (await balance(proxied))[0] == BOUND
    await look(proxied)
    assert await balance(proxied) == (0, BOUND, 0)


async def test_embeddings_in_a_batch(start: Start, batching: BatchingUpstream) -> None:
    """Held and charged for their input alone."""
    async with start(prices=(ROW,), credits_nanocredits=1000) as proxied:
        body = {"model": "tiny", "input": "hello"}
        await upload(proxied, lines(line("1", body, url="/v1/embeddings")))
        assert (await begin(proxied, endpoint="/v1/embeddings"))[0] == 200
        held = call_of(body, "/v1/embeddings").input_tokens_bound
        assert (await balance(proxied))[0] == -(-held // 2)
        batching.end("batch_1", output("1", answers.embeddings(1, usage=answers.embeddings_usage(7))))
        await look(proxied)
        assert await balance(proxied) == (0, 4, 0)


async def test_requests_are_counted_as_any_other(proxied: Proxied, batching: BatchingUpstream) -> None:
    """By upstream and model."""
    await begun(proxied)
    await asked(proxied, "GET", "/v1/batches/batch_2")
    assert proxied.counted("requests_total", "up", "openai", "tiny", "complete") == 2
    assert proxied.outcomes()["not_found"] == 1


async def test_a_batch_of_an_account_in_units_costs_its_price_divided_by_the_index(start: Start, batching: BatchingUpstream) -> None:
    """The index of the upload counts to the end; one that has changed before the batch began is a price that has changed."""
    leveled = price("tiny", batch_percent=50, level="small")
    async with start(prices=(leveled,), plan={"unit": "small"}, credits_nanocredits=10**9) as proxied:
        index = (3 * RATE_INPUT + RATE_OUTPUT) // 4
        await begun(proxied)
        proxied.book.price_book = (leveled, price("rival", level="small", input=1000, output=1000))
        batching.end("batch_1", DONE, ran=2)
        await look(proxied)
        held, spent, overrun = await balance(proxied)
        assert (held, overrun) == (0, 0)
        assert 0 <= spent - COST * 10**9 // index <= 1
        assert proxied.counted("credits_total", "debited") == COST
        (settled,) = [named for verb, named in proxied.ledger.calls if verb == "settle"]
        assert settled["memo"].endswith("output=10 level:small@0.00175")
        _, file = await upload(proxied)
        proxied.book.price_book = (leveled, price("rival", level="small", input=1, output=1))
        status, refusal = await asked(proxied, "POST", "/v1/batches", json=creation(file["id"]))
        assert (status, refusal["error"]["code"]) == (409, "conflict")
        await proxied.ledger.adjust((ACCOUNT,), "all", credits_nanocredits=10**9 - spent)
        _, file = await upload(proxied)
        status, refusal = await asked(proxied, "POST", "/v1/batches", json=creation(file["id"]))
        assert (status, refusal["compute_ledger"]["unit"]) == (402, "small")


# --- whose they are ------------------------------------------------------------------------------------------------------------------


async def test_a_paused_account_uploads_nothing(proxied: Proxied, batching: BatchingUpstream) -> None:
    """Neither is a file taken nor a batch begun; what runs goes on, is shown, and can be cancelled."""
    await begun(proxied)
    await proxied.model.update_account(ACCOUNT, operation_id="p", status="suspended")
    for status, answer in (await upload(proxied), await begin(proxied)):
        assert (status, answer["error"]["code"]) == (403, "account_suspended")
    assert list(batching.files) == ["file-1"]
    assert (await asked(proxied, "POST", "/v1/batches/batch_1/cancel"))[0] == 200


async def test_a_person_sees_and_cancels_what_its_agent_runs(proxied: Proxied, batching: BatchingUpstream) -> None:
    """As long as it runs; nobody else does, another agent no more than a stranger."""
    for number, name in enumerate(("coder", "other")):
        agent = AccountId(f"user:ann:agent:{name}")
        await proxied.model.create_account(
            agent, parent=ACCOUNT, plan="everyone", weight=None, limits=(), labels={}, operation_id=f"open-{name}"
        )
        caller = Caller(agent, (ACCOUNT, agent), Plan("everyone", ()), f"key-{number}", person=PATH)
        proxied.book.add(AGENT_KEYS[number], caller)
    assert (await upload(proxied, key=AGENT_KEYS[0]))[0] == 200
    assert (await asked(proxied, "POST", "/v1/batches", key=AGENT_KEYS[0], json=creation()))[0] == 200
    for key in (OTHER_KEY, AGENT_KEYS[1]):
        assert (await asked(proxied, "POST", "/v1/batches/batch_1/cancel", key=key))[0] == 404
    assert (await asked(proxied, "GET", "/v1/batches/batch_1"))[0] == 200
    assert (await asked(proxied, "POST", "/v1/batches/batch_1/cancel"))[0] == 200
    batching.end("batch_1", DONE, ran=2)
    await look(proxied)
    assert (await asked(proxied, "GET", "/v1/batches/batch_1"))[0] == 404
    assert (await asked(proxied, "GET", "/v1/batches/batch_1", key=AGENT_KEYS[0]))[0] == 200


async def test_a_batch_that_is_refused_is_demand_that_was_not_met(start: Start, batching: BatchingUpstream) -> None:
    """With all that it might have cost; what has begun is not."""
    denied: list[tuple[AccountId, str, int]] = []
    async with start(prices=(ROW,), credits_nanocredits=BOUND) as proxied:
        proxied.proxy.seating.denied = lambda caller, code, amount: denied.append((caller.account, code, amount))
        await begun(proxied)
        assert denied == []
        assert (await begin(proxied))[0] in (402, 429)
        assert [(account, amount) for account, _, amount in denied] == [(ACCOUNT, BOUND)]
