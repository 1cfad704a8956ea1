"""The records of files and batches: the same on every ledger server as in the model that other suites use."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from proxy import config
from proxy.domain import AccountId, Price, Tier
from proxy.errors import Refusal
from proxy.ledger import batches, open_ledger
from proxy.ledger.batches import KEPT_MS, Batches, BatchInput, BatchRecords, KeptBatch, KeptFile
from tests.support import model_batches
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer, ledger_binaries
from tests.support.model_batches import ModelBatches

ANN = (AccountId("acme"), AccountId("ann"))
BOB = (AccountId("acme"), AccountId("bob"))
INPUT = BatchInput("/v1/responses", "tiny", 2, 30, 99, Price("ti*", 5, input=3, output=7, batch_percent=50, tiers=(Tier(9, input=4),)))
BATCH = KeptBatch("hold-1", ANN, "up", "file-1", 1, INPUT, person=ANN, price_percent=135, tithe_share=0.1)


@dataclasses.dataclass
class Bench:
    records: BatchRecords
    clock: Clock


@pytest.fixture(params=["model", *ledger_binaries()])
async def bench(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> AsyncIterator[Bench]:
    clock = Clock()
    if request.param == "model":
        yield Bench(ModelBatches(clock), clock)
        return
    server = ledger_servers(request.param)
    server.flush()
    async with open_ledger(config.LedgerSection(url=server.url, deadline_ms=10_000), now_ms=clock) as store:
        yield Bench(Batches(store.engine), clock)


async def test_a_file_is_its_accounts_own(bench: Bench) -> None:
    """As it was kept, price and all; nobody else's, and nobody's once it is dropped."""
    records, file = bench.records, KeptFile("up", 7, INPUT)
    await records.keep_file(ANN, "file-1", file)
    assert await records.file(ANN, "file-1") == file
    assert await records.file(BOB, "file-1") is None
    assert await records.file(ANN, "file-2") is None
    for _ in range(2):
        await records.drop_file(ANN, "file-1")
    assert await records.file(ANN, "file-1") is None


async def test_a_batch_is_open_from_before_it_is_asked_for_until_it_is_settled(bench: Bench) -> None:
    """Each step may be repeated; its owner knows it by its id, also afterwards, and then has its results."""
    records, begun = bench.records, msgspec.structs.replace(BATCH, batch_id="batch_1")
    await records.open(BATCH)
    assert await records.open_batches() == [BATCH]
    for _ in range(2):
        await records.open(begun)
    assert await records.open_batches() == [begun]
    assert await records.batch(ANN, "batch_1") == begun
    assert await records.batch(BOB, "batch_1") is None
    assert await records.is_open(begun)
    assert [await records.end(begun, ("file-2", "file-3"), at_ms=9) for _ in range(2)] == [True, False]
    assert not await records.is_open(begun)
    assert await records.open_batches() == []
    assert await records.batch(ANN, "batch_1") == begun
    assert await records.file(ANN, "file-3") == KeptFile("up", 9)


async def test_a_batch_from_before_interventions_reached_it_is_as_it_was(bench: Bench) -> None:
    """What a release before has noted down is read, at its own price, and owes nobody anything."""
    kept = msgspec.to_builtins(BATCH)
    for name in ("person", "price_percent", "tithe_share"):
        del kept[name]
    batch = msgspec.convert(kept, KeptBatch)
    await bench.records.open(batch)
    [read] = await bench.records.open_batches()
    assert (read.bound_nanocredits, read.price, read.tithe_share) == (INPUT.bound_nanocredits, INPUT.price, 0)
    assert (BATCH.bound_nanocredits, BATCH.price.raised_percent) == (134, 135)


async def test_a_lease_has_one_holder(bench: Bench) -> None:
    """Until its time is over; each task has its own."""
    assert [await bench.records.lease("look", 10_000) for _ in range(3)] == [True, False, False]
    assert await bench.records.lease("alive", 10_000)


async def test_an_account_has_room_for_so_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files as of batches; what is older than it is kept makes room, and other accounts have their own."""
    for module in (batches, model_batches):
        monkeypatch.setattr(module, "KEPT_MAX", 2)
    records, now_ms = bench.records, bench.clock.now_ms
    for name in ("file-1", "file-2"):
        await records.check_room(ANN)
        await records.keep_file(ANN, name, KeptFile("up", now_ms))
    with pytest.raises(Refusal, match=r"too many|already"):
        await records.check_room(ANN)
    await records.check_room(BOB)
    await records.keep_file(ANN, "file-2", KeptFile("up", now_ms - KEPT_MS - 1))
    await records.check_room(ANN)
    assert await records.file(ANN, "file-2") is None
    for name in ("batch_1", "batch_2"):
        await records.open(msgspec.structs.replace(BATCH, batch_id=name, hold_id=name, at_ms=now_ms))
    with pytest.raises(Refusal):
        await records.check_room(ANN)


async def test_all_together_have_room_for_so_many_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that looking after them stays possible."""
    for module in (batches, model_batches):
        monkeypatch.setattr(module, "OPEN_MAX", 1)
    await bench.records.open(BATCH)
    with pytest.raises(Refusal):
        await bench.records.check_room(BOB)
    await bench.records.end(BATCH, at_ms=0)
    await bench.records.check_room(BOB)


async def test_an_agents_batch_is_its_persons_too_while_it_runs(bench: Bench) -> None:
    """And no other agent's; once it has ended, only whoever made it knows it."""
    agent = (*ANN, AccountId("ann:agents"), AccountId("ann:agent:coder"))
    batch = msgspec.structs.replace(BATCH, path=agent, batch_id="batch_9")
    await bench.records.open(batch)
    other = (*ANN, AccountId("ann:agents"), AccountId("ann:agent:other"))
    assert [await bench.records.batch(path, "batch_9") for path in (agent, ANN, BOB, other)] == [batch, batch, None, None]
    assert await bench.records.end(batch, at_ms=9)
    assert [await bench.records.batch(path, "batch_9") for path in (agent, ANN)] == [batch, None]
