"""Recounts: what flushes have lost is found and put right beside full traffic, once over all processes, whoever dies."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxy.domain import CREDITS, AccountId, Plan
from proxy.ledger import keys
from proxy.ledger.additions import SHARDS, Additions
from proxy.ledger.equality import read_counting
from proxy.ledger.folding import FEW_PIECES, Folding
from proxy.ledger.recount import Pace, Recounter
from proxy.ledger.tallying import count, field_of
from proxy.policy.tallies import WINDOWS
from tests.support.deployment import until
from tests.support.faulty_link import faulty_link
from tests.support.ledger_bench import NOON_MS, Clock
from tests.support.ledger_server import LedgerServer, ledger_binaries
from tests.support.use_counting import DAY_S, World, open_world

QUICK = Pace(batch=7, pause_s=0.005, settle_s=0.15)
SEED = 20_261_127


@pytest.fixture(params=[*ledger_binaries()])
async def world(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> AsyncIterator[World]:
    async with open_world(ledger_servers(request.param), Clock()) as world:
        yield world


def recounter(world: World, process: int = 0, pace: Pace = QUICK) -> Recounter:
    store = world.stores[process]
    return Recounter(store.engine, store.equality, pace)


async def test_a_lost_flush_is_found_and_put_right(world: World) -> None:
    """A process dies with moves that it has not told: the recount tells by how much the tallies were wrong, and corrects them."""
    await world.spend("ann", 100)
    await world.spend("solo", 10_000)
    await world.flush()
    await world.spend("ann", 50)
    await world.spend("bob", 40)
    world.stores[0].moves.pending.take(most=10)

    with pytest.raises(AssertionError):
        await world.check()
    done = await recounter(world).run()
    day = next(drift for drift in done.drifts if drift.window == "day")
    # ann was told with 100 and has 150, in another bucket; bob was not told at all.
    assert (day.people, day.use_nanocredits, day.of_use) == (2 + 1, 100 + 150 + 40, pytest.approx(290 / 10_190))
    await world.check()
    assert (await world.stores[1].equality.state("day")).drift == day.of_use

    again = await recounter(world, 1).run()
    assert {(drift.people, drift.use_nanocredits) for drift in again.drifts} == {(0, 0)}
    assert (await world.stores[1].equality.state("week")).drift == 0
    await world.check()


async def test_a_recount_beside_full_traffic_is_exact_and_finds_nothing_wrong(world: World) -> None:
    """Two processes serve and tell all the while; before, during and after it the tallies are what the balances say."""
    for n in range(40):
        await world.account(f"user-{n}", parent=("org:acme", None)[n % 2], plan=("everyone", "triple")[n % 3 == 0])
    names, chance = [*world.paths], random.Random(SEED)
    stopped = asyncio.Event()

    async def serve(process: int) -> None:
        while not stopped.is_set():
            await world.spend(chance.choice(names), chance.choice((1, 90, 12_345)), by=process)
            await asyncio.sleep(0.005)

    async def tell(process: int) -> None:
        while not stopped.is_set():
            await world.stores[process].directory.refresh()
            await world.stores[process].equality.flush()
            await asyncio.sleep(0.03)

    async with asyncio.TaskGroup() as group:
        for process in (0, 0, 1, 1):
            group.create_task(serve(process))
        for process in (0, 1):
            group.create_task(tell(process))
        for process in (0, 1):
            done = await recounter(world, process, dataclasses.replace(QUICK, settle_s=0.4)).run()
            assert {(drift.people, drift.use_nanocredits) for drift in done.drifts} == {(0, 0)}, f"seed {SEED}"
            assert done.accounts == len(names)
        stopped.set()
    await world.flush()
    await world.check()


async def test_a_recount_that_broke_off_is_gone_on_with_where_it_was(world: World) -> None:
    """By another process, in the same generation; the figures that are read meanwhile are the old ones, and right."""
    for n in range(30):
        await world.account(f"user-{n:02}")
        await world.spend(f"user-{n:02}", 10 + n)
    await world.flush()
    first = asyncio.ensure_future(recounter(world, 0, dataclasses.replace(QUICK, pause_s=0.5)).run())
    engine = world.stores[1].engine
    counting = await until(lambda: read_counting(engine), lambda counting: counting.after >= "user-0")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (counting.generation, counting.next) == (1, 2)
    await world.spend("user-29", 5)
    await world.flush()
    await world.check()

    done = await recounter(world, 1).run_if_due()
    assert done is not None
    assert 0 < done.accounts < len(world.paths)
    assert {(drift.people, drift.use_nanocredits) for drift in done.drifts} == {(0, 0)}
    assert (await read_counting(engine)).generation == 2
    await world.check()


async def test_one_recount_runs_at_a_time_and_a_second_waits_for_it(world: World) -> None:
    """Over all processes: who finds one at work when it is due lets it be; who wants one waits, and then has its own."""
    first = asyncio.ensure_future(recounter(world, 0).run())
    engine = world.stores[1].engine
    await until(lambda: engine.command("GET", keys.lease("equality-recount")), lambda holder: holder is not None)
    assert await recounter(world, 1).run_if_due() is None
    await recounter(world, 1).run()
    assert first.done()
    assert (await read_counting(engine)).generation == 3


async def test_a_ledger_that_was_never_counted_is_counted_at_once_and_then_every_night(world: World) -> None:
    """At the configured hour of UTC, once; and whenever it is to be counted in another way."""
    await world.spend("ann", 10)
    nightly = recounter(world)
    nightly.configure(half_life_days=7, labels=(), hour_utc=3)
    assert await nightly.run_if_due() is not None
    assert await nightly.run_if_due() is None
    world.clock.pass_s(14.9 * 3600)
    assert await nightly.run_if_due() is None
    world.clock.pass_s(0.2 * 3600)
    assert await nightly.run_if_due() is not None
    assert await nightly.run_if_due() is None
    nightly.configure(half_life_days=30, labels=("team",), hour_utc=3)
    assert await nightly.run_if_due() is not None
    assert await nightly.run_if_due() is None
    other = recounter(world, 1)
    other.configure(half_life_days=9, labels=(), hour_utc=3)
    assert [await counting.run_if_due() is not None for counting in (other, nightly, other, nightly)] == [True, False, False, False]


async def test_labels_and_another_half_life_are_taken_over_by_a_recount(world: World) -> None:
    """Groups by a label's value, those without it under the empty name; what was used counts by the new half-life from then on."""
    directory = world.stores[0].directory
    await world.spend("ann", 1000)
    await world.spend("solo", 10)
    await directory.update_account(AccountId("ann"), labels={"team": "red"}, operation_id="red")
    await directory.update_account(AccountId("bob"), labels={"team": "red"}, operation_id="too")
    counting = recounter(world)
    counting.configure(half_life_days=1, labels=("team",), hour_utc=3)
    await counting.run_if_due()
    await world.flush()
    state = await world.stores[1].equality.state("half_life", "team")
    assert {name: group.population.people for name, group in state.groups.items()} == {"red": 2, "": 2}
    now_ms = world.clock.now_ms
    assert state.total.tally.use_nanocredits * state.use_scale == pytest.approx(1010)
    world.clock.pass_s(2 * DAY_S)
    state = await world.stores[1].equality.state("half_life", "team")
    assert state.total.tally.use_nanocredits * state.use_scale == pytest.approx(1010 / 4)
    assert state.starts_at_ms == now_ms + DAY_S * 1000


async def test_a_plans_new_weight_is_counted_anew_for_all_its_accounts(world: World) -> None:
    """The change asks for a recount, which weighs every account of the plan as it now is."""
    await world.spend("solo", 10)
    nightly = recounter(world)
    nightly.configure(half_life_days=7, labels=(), hour_utc=3)
    await nightly.run_if_due()
    plan = world.stores[0].directory.plan("triple")
    await world.stores[0].directory.put_plan(Plan("triple", plan.limits, weight=9), operation_id="heavier")
    await world.refresh()
    await world.flush()
    assert await nightly.run_if_due() is not None
    state = await world.stores[1].equality.state("day", "plan")
    assert (state.groups["triple"].population.people, state.groups["triple"].population.weight) == (2, 18)
    await world.check()


async def test_old_generations_go_and_present_ones_do_not_stay_for_ever(world: World) -> None:
    """After a recount nothing of the generation before is left; every key of the new one ends by itself, a while after its window."""
    await world.spend("ann", 100)
    await world.flush()
    await recounter(world).run()
    engine = world.stores[0].engine
    names = [raw.decode() for raw in await engine.command("KEYS", "cl:{equality:*")]
    generations = {name.split("}:")[1].split(":")[0] for name in names if not name.endswith((":folded", ":told"))}
    assert generations == {"2"}
    assert all([await engine.command("PTTL", name) > 0 for name in names])


async def test_an_answer_that_is_lost_counts_once_or_not_at_all_until_the_recount(ledger_server: LedgerServer, tmp_path: Path) -> None:
    """The repeat changes nothing, so it tells no move: use is never told twice; what was not told, the recount finds."""
    async with faulty_link(ledger_server, tmp_path) as link, open_world(ledger_server, Clock(), url=link.url) as world:
        path, ledger = world.paths["ann"], world.stores[0].ledger
        await ledger.hold(path, "h", want_nanocredits=100, least_nanocredits=100)
        link.answers_to_lose = 1
        await ledger.debit(path, "h", spent_nanocredits=30)
        await ledger.settle(path, "h", spent_nanocredits=80)
        await world.flush()
        state = await world.stores[0].equality.state("day")
        assert state.total.tally.use_nanocredits == 50
        await recounter(world).run()
        assert (await world.stores[0].equality.state("day")).total.tally.use_nanocredits == 80
        await world.check()


async def test_what_is_sent_again_is_added_once(ledger_server: LedgerServer, tmp_path: Path) -> None:
    """The server adds it, its answer is lost, and lost again: the third answer says that it was added before."""
    async with faulty_link(ledger_server, tmp_path) as link, open_world(ledger_server, Clock(), url=link.url) as world:
        engine = world.stores[0].engine
        additions = Additions(engine)
        for amount in (5, 7):
            additions.add("0:day:1:totals", "queue_full", (amount,), gone_ms=world.clock.now_ms + 60_000)
            link.answers_to_lose = 2
            await additions.send()
        folding, name = Folding(engine), "0:day:1:totals"

        async def total() -> float:
            (flats,) = await folding.read(name)
            return sum(struct.unpack("<d", packed)[0] for flat in flats for packed in flat[1::2])

        assert await total() == 12
        link.answers_to_lose = 2
        await folding.fold()
        assert link.lost >= 5
        assert await total() == 12
        stored = [await engine.command("HGET", keys.of_equality(shard, name), "queue_full") for shard in range(SHARDS)]
        assert [struct.unpack("<d", packed) for packed in stored if packed is not None] == [(12.0,)]


async def test_whoever_folds_and_reads_at_the_same_time_what_was_told_counts_once(world: World) -> None:
    """Several processes tell, fold and read at once: every reading has all that was told before it, and nothing twice."""
    name, tellers = "0:day:1:totals", [Additions(store.engine) for store in world.stores for _ in range(3)]
    foldings = [Folding(store.engine) for store in world.stores]

    async def total(folding: Folding) -> float:
        (flats,) = await folding.read(name)
        return sum(struct.unpack("<d", packed)[0] for flat in flats for packed in flat[1::2])

    async def tell(teller: Additions) -> None:
        for _ in range(60):
            teller.add(name, "queue_full", (1,), gone_ms=world.clock.now_ms + 60_000)
            await teller.send()

    async def fold(folding: Folding) -> None:
        while not told.done():
            least = sent()
            await folding.fold()
            assert least <= await total(folding) <= 60 * len(tellers)

    def sent() -> int:
        return sum(teller._number - len(teller._pieces) for teller in tellers)

    told = asyncio.gather(*(tell(teller) for teller in tellers))
    await asyncio.gather(told, *(fold(folding) for folding in foldings * 3))
    assert [await total(folding) for folding in foldings] == [60 * len(tellers)] * len(foldings)


async def test_a_reader_reads_once_what_was_told_and_sees_what_others_fold_and_what_the_server_loses(world: World) -> None:
    """What it keeps counts as long as it still stands there, in front of all that was told since; and not a piece longer."""
    name, engine = "0:day:1:totals", world.stores[0].engine
    teller, reader, other = Additions(engine), Folding(engine), Folding(world.stores[1].engine)
    told, folded = keys.of_equality(teller.shard, "told"), keys.of_equality(teller.shard, "folded")

    async def tell(times: int) -> None:
        for _ in range(times):
            teller.add(name, "queue_full", (1,), gone_ms=world.clock.now_ms + 60_000)
            await teller.send()

    async def total(folding: Folding) -> float:
        (flats,) = await folding.read(name)
        return sum(struct.unpack("<d", packed)[0] for flat in flats for packed in flat[1::2])

    await tell(2)
    assert [await total(reader) for _ in range(2)] == [2, 2]
    await tell(1)
    assert await total(reader) == 3
    await other.fold()
    assert await total(reader) == 3
    await tell(1)
    assert await total(reader) == 4
    await other.fold()
    await tell(3)  # more than the reader has seen: the list alone does not tell that it is another one
    assert await total(reader) == 7
    await engine.command("DEL", told)
    assert await total(reader) == 4
    await tell(1)
    assert await total(reader) == 5
    await other.fold()
    await tell(1)
    assert await total(reader) == 6
    (piece,) = await engine.command("LRANGE", told, 0, -1)
    await other.fold()
    await engine.command("RPUSH", told, piece)  # its first answer was lost
    assert await total(reader) == 6
    await other.fold()
    await engine.command("DEL", folded)  # it goes by itself where nobody has folded for a day
    await tell(2)
    assert await total(reader) == 8


async def test_every_process_hears_that_use_is_counted_anew(world: World) -> None:
    """With what else has changed, four times a second; and asks the ledger no more often than that."""
    await world.spend("ann", 10, by=1)
    await world.flush()
    await recounter(world).run()
    assert world.stores[1].moves.era.generation == 1
    await world.refresh()
    await world.flush()
    assert world.stores[1].moves.era.generation == 2
    await world.check()


async def test_what_is_told_is_folded_now_and_then_where_nobody_reads(world: World) -> None:
    """What waits stays bounded, however long nobody looks."""
    for _ in range(FEW_PIECES + 3):
        await world.spend("solo", 5)
        await world.stores[0].equality.flush()
    waiting = [await world.stores[0].engine.command("LLEN", keys.of_equality(shard, "told")) for shard in range(SHARDS)]
    assert sum(waiting) <= FEW_PIECES
    assert (await world.stores[1].equality.state("day")).total.tally.use_nanocredits == 5 * (FEW_PIECES + 3)


async def test_a_verb_counts_whom_it_meets_in_the_new_generation(world: World) -> None:
    """While a recount runs, without waiting for it; a process that has not heard of it does not put a record back."""
    await world.spend("ann", 10)
    await world.spend("bob", 10)
    await world.stores[0].engine.command("HSET", keys.EQUALITY, "next", 2)
    await world.stores[0].equality.learn()
    await world.spend("ann", 1, by=0)
    await world.spend("ann", 1, by=1)
    await world.spend("bob", 1, by=1)
    assert [uses.generation for name in ("ann", "bob") if (uses := await world.uses(name)) is not None] == [2, 1]


async def test_an_empty_ledger_is_counted_too(ledger_server: LedgerServer) -> None:
    """No accounts, no use, no drift."""
    async with open_world(ledger_server, Clock(NOON_MS)) as world:
        ledger_server.flush()
        done = await recounter(world).run()
        assert [drift.window for drift in done.drifts] == list(WINDOWS)
        assert done.accounts == 0


async def test_a_move_into_a_generation_that_its_process_has_not_heard_of_counts_there(world: World) -> None:
    """Whoever tells it late has still told it: of both generations."""
    await world.spend("ann", 10)
    await world.flush()
    await world.stores[0].engine.command("HSET", keys.EQUALITY, "next", 2)
    await world.stores[0].equality.learn()
    await world.spend("ann", 1, by=0)
    hashes = count(world.stores[0].moves.pending.take(most=10), [1], world.clock.now_ms, unit_of=lambda _plan: CREDITS)
    of_day = {name.split(":")[0]: told for name, told in hashes.items() if ":day:" in name and name.endswith(":all")}
    told = {generation: told.groups[field_of("", CREDITS)].tally.sound().use_nanocredits for generation, told in of_day.items()}
    assert told == {"1": 11, "2": 11}
