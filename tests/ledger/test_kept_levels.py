"""Indices of levels that outlast their price rows: over a reload, a restart, and in every process on the ledger's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.config import LedgerSection
from proxy.domain import Level, Price
from proxy.errors import LedgerUnavailable
from proxy.ledger import Directory, keys, open_ledger, records
from proxy.policy.levels import Step
from tests.support.ledger_server import LedgerServer

CREDIT = 1_000_000_000
DEADLINE_MS = 20_000
DEAR = Price("dear", 0, input=CREDIT, output=CREDIT, level="small")
CHEAP = Price("cheap", 0, input=CREDIT // 10, output=CREDIT // 10, level="small")
SMALL = Level("small")


class Process:
    """One process's view of the price book, with a configuration of its own."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    def read(self, *rows: Price, level: Level = SMALL) -> None:
        """Take over a configuration file with these rows."""
        self.directory.configure(file_prices=rows, default_plan=None, file_levels=(level,))

    def index(self) -> float | None:
        index = self.directory.levels.index("small", self.directory.now_ms())
        return None if index is None else index / CREDIT


@pytest.fixture
async def one(ledger_server: LedgerServer) -> AsyncIterator[Process]:
    async with open_ledger(LedgerSection(deadline_ms=DEADLINE_MS), url=ledger_server.url) as store:
        yield Process(store.directory)


@pytest.fixture
async def other(one: Process, ledger_server: LedgerServer) -> AsyncIterator[Process]:
    async with open_ledger(LedgerSection(deadline_ms=DEADLINE_MS), url=ledger_server.url) as store:
        yield Process(store.directory)


async def test_a_row_that_vanishes_over_a_reload_leaves_its_index(one: Process) -> None:
    """Removed, or edited in place, or with all others: who counts in the level is not made poorer."""
    one.read(DEAR, CHEAP)
    await one.directory.keep_levels()
    for rows in ((DEAR,), (DEAR, Price("cheap", 0, input=CREDIT // 2, output=CREDIT // 2, level="small")), ()):
        one.read(*rows)
        assert one.index() == 0.1
        await one.directory.keep_levels()
    one.read(DEAR, Price("new", 0, input=CREDIT // 100, output=CREDIT // 100, level="small"))
    assert one.index() == 0.01


async def test_a_row_that_vanishes_over_a_restart_leaves_its_index(one: Process, ledger_server: LedgerServer) -> None:
    """A process that never saw the row finds what the ledger has kept; also where nothing names the level any more."""
    one.read(DEAR, CHEAP)
    await one.directory.keep_levels()
    async with open_ledger(LedgerSection(deadline_ms=DEADLINE_MS), url=ledger_server.url) as store:
        later = Process(store.directory)
        later.read(DEAR)
        assert later.index() == 0.1
        store.directory.configure(file_prices=(), default_plan=None)
        assert later.index() == 0.1
        assert list(store.directory.levels.by_name) == ["small"]


async def test_every_process_hears_what_is_kept(one: Process, other: Process) -> None:
    """The one that has never seen the row as well."""
    one.read(DEAR, CHEAP)
    other.read(DEAR)
    assert other.index() == 1
    await one.directory.keep_levels()
    await other.directory.refresh()
    assert other.index() == 0.1


async def test_of_several_processes_the_least_index_is_kept(one: Process, other: Process, ledger_server: LedgerServer) -> None:
    """Whoever comes first, with whatever it has read before; nothing that another has noted is lost."""
    for first, second in ((one, other), (other, one)):
        ledger_server.flush()
        for process in (one, other):
            await process.directory.start()
        first.read(DEAR, CHEAP)
        second.read(DEAR, Price("large", 0, input=7 * CREDIT, output=7 * CREDIT, level="large"))
        await asyncio.gather(first.directory.keep_levels(), second.directory.keep_levels())
        for process in (one, other):
            await process.directory.refresh()
            process.read()
            levels = process.directory.levels
            assert {name: levels.index(name, process.directory.now_ms()) for name in ("small", "large")} == {
                "small": CREDIT // 10,
                "large": 7 * CREDIT,
            }


async def test_what_was_noted_and_not_told_is_told_by_whoever_finds_it(one: Process, other: Process, ledger_server: LedgerServer) -> None:
    """As where a process died in between; then everybody reads again."""
    for process in (one, other):
        process.read(DEAR)
    noted = {"small": Step(0, CREDIT // 10, "cheap")}
    with ledger_server.client() as client:
        client.set(keys.LEVELS, records.encode(noted))
    assert (one.index(), other.index()) == (1, 1)
    await one.directory.keep_levels()
    await other.directory.refresh()
    assert (one.index(), other.index()) == (0.1, 0.1)


async def test_a_mistaken_row_is_cured_for_every_process(one: Process, other: Process) -> None:
    """From the instant that the level names on, and only once: what is noted after it is kept like any other."""
    one.read(DEAR, CHEAP)
    await one.directory.keep_levels()
    for process in (one, other):
        await process.directory.refresh()
        process.read(DEAR)
        assert process.index() == 0.1
    cure = Level("small", rises_at_ms=one.directory.now_ms())
    one.read(DEAR, level=cure)
    await asyncio.sleep(0.01)
    assert one.index() == 1
    await one.directory.keep_levels()
    await other.directory.refresh()
    assert other.index() == 1
    for process in (one, other):
        process.read(Price("dear", 0, input=9 * CREDIT, output=9 * CREDIT, level="small"), level=cure)
        assert process.index() == 1


async def test_a_price_over_the_api_is_kept_at_once(one: Process, other: Process) -> None:
    """In what the server has, not only in the row."""
    one.read(DEAR)
    await one.directory.add_price(CHEAP, operation_id="cheap")
    await other.directory.refresh()
    other.read()
    assert other.directory.levels.kept["small"].index_nanocredits == CREDIT // 10
    assert other.index() == 0.1


async def test_what_is_kept_already_is_not_told_again(one: Process) -> None:
    """So that processes need not read everything anew every few seconds."""
    one.read(DEAR, CHEAP)
    await one.directory.keep_levels()
    generation = one.directory.generation
    await one.directory.keep_levels()
    await one.directory.refresh()
    assert one.directory.generation == generation


async def test_a_change_that_could_not_be_read_is_read_the_next_time(one: Process, other: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever asks for changes has all of them, also where another has begun to read them."""
    one.read(DEAR, CHEAP)
    other.read(DEAR)
    await one.directory.keep_levels()
    read, may_read, is_reading = Directory._read_book, asyncio.Event(), asyncio.Event()

    async def failing(_: Directory) -> None:
        raise LedgerUnavailable("for a moment")

    async def waiting(directory: Directory) -> None:
        is_reading.set()
        await may_read.wait()
        await read(directory)

    monkeypatch.setattr(Directory, "_read_book", failing)
    with pytest.raises(LedgerUnavailable):
        await other.directory.refresh()
    assert other.index() == 1
    monkeypatch.setattr(Directory, "_read_book", waiting)
    first = asyncio.create_task(other.directory.refresh())
    await is_reading.wait()
    second = asyncio.create_task(other.directory.refresh())
    await asyncio.wait((second,), timeout=0.05)
    assert not second.done()
    may_read.set()
    await second
    assert other.index() == 0.1
    await first
