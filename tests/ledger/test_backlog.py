"""The local journal: kept through crashes and torn writes, told once, adopted, bounded."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from proxy.domain import AccountId, Limit, Plan
from proxy.errors import LedgerUnavailable, SetupError
from proxy.ledger import backlog
from proxy.ledger.backlog import HEADER, Backlog, BacklogFull, Record
from tests.support.model_ledger import ModelLedger

PATH = (AccountId("org:a"), AccountId("user:b"))
RECORDS = [
    Record("settle", PATH, "hold-1", 30, 4, "tiny"),
    Record("void", PATH, "hold-2"),
    Record("charge", PATH, "hold-3", 12, memo="caf\u00e9\nline"),
]


async def ledger() -> ModelLedger:
    made = ModelLedger(lambda: 0)
    await made.put_plan(Plan("p", (Limit(1000, "ever"),)), operation_id="p")
    for place, account in enumerate(PATH):
        parent = PATH[place - 1] if place else None
        await made.create_account(account, parent=parent, plan="p", weight=None, limits=None, labels={}, operation_id=account)
    for hold in ("hold-1", "hold-2"):
        await made.hold(PATH, hold, want_nanocredits=50, least_nanocredits=1)
    return made


class Seen:
    """What the backlog reports."""

    def __init__(self) -> None:
        self.waiting = -1
        self.events: list[str] = []

    def __call__(self, waiting: int, happened: str | None) -> None:
        self.waiting = waiting
        if happened is not None:
            self.events.append(happened)


def journals(directory: Path) -> list[Path]:
    return sorted(directory.glob("backlog-*.journal"))


async def kept(directory: Path) -> bytes:
    """The file that a process leaves behind with all of RECORDS in it."""
    async with Backlog(directory) as owner:
        for record in RECORDS:
            await owner.add(record)
    (file,) = journals(directory)
    return file.read_bytes()


async def test_records_are_told_once(tmp_path: Path) -> None:
    """Each end lands as it would have in time; the journal is empty afterwards, and the file goes with its owner."""
    seen, books = Seen(), await ledger()
    async with Backlog(tmp_path, observe=seen) as owner:
        for record in RECORDS:
            await owner.add(record)
        assert (owner.waiting, seen.waiting) == (3, 3)
        for _ in range(2):
            await owner.tell(books)
        assert (owner.waiting, seen.waiting) == (0, 0)
        assert seen.events == ["written"] * 3 + ["settled"] * 3
        assert journals(tmp_path)[0].read_bytes() == HEADER
    totals = (await books.account(PATH[-1])).totals
    assert (totals.spent, totals.held, totals.overrun) == (30 + 12, 0, 4)
    assert journals(tmp_path) == []


async def test_records_are_on_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many at once share a write and a sync, and none is missing."""
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        os.fdatasync(descriptor)

    async with Backlog(tmp_path) as owner:
        monkeypatch.setattr(os, "fsync", sync)
        await asyncio.gather(*(owner.add(Record("void", PATH, f"h{n}")) for n in range(50)))
        assert synced[-1] == journals(tmp_path)[0].stat().st_size
        assert len(synced) < 50
        assert {record.id for record in backlog.read(journals(tmp_path)[0].read_bytes())} == {f"h{n}" for n in range(50)}


async def test_ledger_that_is_still_away_changes_nothing(tmp_path: Path) -> None:
    """What it does not take waits on, in its order."""

    class Away(ModelLedger):
        async def settle(self, *arguments: object, **named: object) -> None:
            raise LedgerUnavailable

    async with Backlog(tmp_path) as owner:
        for record in RECORDS:
            await owner.add(record)
        await owner.tell(Away(lambda: 0))
        assert owner.waiting == 3
        await owner.tell(await ledger())
        assert owner.waiting == 0


async def test_record_that_is_refused_does_not_block_the_rest(tmp_path: Path) -> None:
    """An account that is gone, say: it is logged, counted and left behind."""
    seen = Seen()
    async with Backlog(tmp_path, observe=seen) as owner:
        await owner.add(Record("charge", ("user:gone",), "x", 5))
        await owner.add(RECORDS[0])
        await owner.tell(await ledger())
        assert seen.events[2:] == ["refused", "settled"]
        assert owner.waiting == 0


async def test_torn_file_keeps_what_stands_before_the_tear(tmp_path: Path) -> None:
    """Cut at every byte: no record that was whole is lost, none that was not is believed."""
    whole = await kept(tmp_path)
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        expected = RECORDS[: sum(end <= cut for end in ends[1:])]
        assert backlog.read(whole[:cut]) == expected


async def test_flipped_bit_ends_what_is_believed(tmp_path: Path) -> None:
    """A record that is not what was written is never told."""
    whole = await kept(tmp_path)
    for at in range(len(HEADER), len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        read = backlog.read(bytes(damaged))
        assert read == RECORDS[: len(read)]
        assert len(read) < len(RECORDS)


async def test_torn_tail_is_adopted_and_told(tmp_path: Path) -> None:
    """A process that crashed in the middle of a write loses that record alone."""
    whole = await kept(tmp_path)
    (file,) = journals(tmp_path)
    file.write_bytes(whole[:-5])
    books = await ledger()
    async with Backlog(tmp_path) as owner:
        assert owner.waiting == 2
        await owner.tell(books)
        assert len(journals(tmp_path)) == 1
    assert (await books.account(PATH[-1])).totals.spent == 30


@pytest.mark.parametrize("content", [b"compute-ledger backlog 2\n", b"something else", b"\n"])
async def test_file_of_another_version_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """It is neither read nor deleted."""
    stranger = tmp_path / "backlog-00.journal"
    stranger.write_bytes(content)
    with pytest.raises(SetupError):
        backlog.read(content)
    async with Backlog(tmp_path) as owner:
        assert owner.waiting == 0
        await owner.tell(await ledger())
    assert stranger.read_bytes() == content


async def test_file_that_was_only_just_created_is_adopted(tmp_path: Path) -> None:
    """A crash before the header was written leaves nothing to tell, and nothing behind."""
    (tmp_path / "backlog-00.journal").write_bytes(HEADER[:7])
    async with Backlog(tmp_path) as owner:
        await owner.add(RECORDS[0])
        await owner.tell(await ledger())
    assert journals(tmp_path) == []


def _live_and_die(directory: Path, ready: object, end: object) -> None:
    async def live() -> None:
        owner = await Backlog(directory).__aenter__()
        await owner.add(RECORDS[0])
        ready.set()
        await asyncio.to_thread(end.wait)
        os._exit(9)

    asyncio.run(live())


async def test_journal_of_a_living_process_is_not_touched(tmp_path: Path) -> None:
    """While its owner lives nobody else tells its records; when it has died without a word, the next one does."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=_live_and_die, args=(tmp_path, ready, end))
    process.start()
    try:
        await asyncio.to_thread(ready.wait)
        async with Backlog(tmp_path) as owner:
            assert owner.waiting == 0
            end.set()
            await asyncio.to_thread(process.join)
            await owner.adopt()
            assert owner.waiting == 1
            books = await ledger()
            await owner.tell(books)
            assert (await books.account(PATH[-1])).totals.spent == 30
    finally:
        process.kill()
        process.join()


async def test_full_journal_admits_nothing(tmp_path: Path) -> None:
    """Nothing may begin whose end could not be kept; what has begun is kept all the same, and telling makes room."""
    async with Backlog(tmp_path, max_bytes=100) as owner:
        owner.check_room()
        await owner.add(RECORDS[0])
        with pytest.raises(BacklogFull):
            owner.check_room()
        await owner.add(RECORDS[1])
        await owner.tell(await ledger())
        owner.check_room()


async def test_failing_disk_admits_nothing(tmp_path: Path) -> None:
    """A record that could not be written is kept in memory, and nothing new begins until it was told."""
    async with Backlog(tmp_path) as owner:
        assert owner._own is not None
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, owner._own._descriptor)
        os.close(full)
        await owner.add(RECORDS[0])
        assert owner.waiting == 1
        with pytest.raises(BacklogFull):
            owner.check_room()
        books = await ledger()
        await owner.tell(books)
        assert (await books.account(PATH[-1])).totals.spent == 30


async def test_directory_that_cannot_be_written_is_a_setup_error(tmp_path: Path) -> None:
    """Better at the start than with the first outage."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError):
        await Backlog(tmp_path / "file" / "data").__aenter__()


async def test_who_begins_is_not_taken_for_one_of_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to adopt before it is locked; so however many begin at once, none takes or hinders another."""
    unlocked: list[list[Path]] = []

    def locking(descriptor: int, how: int) -> None:
        unlocked.append(journals(tmp_path))
        flock(descriptor, how)

    flock = fcntl.flock
    with monkeypatch.context() as patched:
        patched.setattr(backlog.fcntl, "flock", locking)
        async with Backlog(tmp_path):
            assert unlocked[0] == []
    for _ in range(10):
        backlogs = [Backlog(tmp_path) for _ in range(20)]
        await asyncio.gather(*(each.__aenter__() for each in backlogs))
        assert len(journals(tmp_path)) == len(backlogs)
        await asyncio.gather(*(each.__aexit__() for each in backlogs))
        assert journals(tmp_path) == []
