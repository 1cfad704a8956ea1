"""The local journal of holds' ends that the ledger could not be told of in time; told later, once, by their ids.

One file for each process, `backlog-<id>.journal` in the data directory, locked while its owner lives; whoever starts next adopts the files
of the dead. A record is a line: CRC-32 in hex, a space, JSON. A torn tail is dropped, what stands before it is kept; a file of another
version is refused. Each record is on disk before `add` returns, and telling one twice changes nothing. Must not know what a record costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path as File
from typing import Literal, Self

import msgspec

from proxy.domain import AccountId, Ledger, Path
from proxy.errors import Failure, LedgerUnavailable, Refusal, SetupError

HEADER = b"compute-ledger backlog 1\n"
MAX_BYTES = 64 * 2**20

log = logging.getLogger(__name__)

Happened = Literal["written", "settled", "refused"]
Observe = Callable[[int, Happened | None], None]
"""Called with how many records wait, and what happened to one of them."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One end of a hold that is still to be told: `settle`, `void`, or (for what ran unheld in an outage) a `charge`."""

    verb: Literal["settle", "void", "charge"]
    path: tuple[str, ...]
    id: str
    spent: int = 0
    """Nanocredits."""
    overrun: int = 0
    memo: str = ""


class BacklogFull(Failure):
    """Nothing more can be noted down, so nothing more may be begun."""

    def __init__(self) -> None:
        super().__init__(
            "ledger_unavailable",
            "The ledger does not answer, and no more ends of requests can be kept for it.",
            hint="Whoever runs this proxy: bring the ledger back, or give the data directory more room.",
            retry_after_s=5.0,
        )


class Backlog:
    """One process's journal, and those that it adopted. Open while it is entered: `async with Backlog(...)`."""

    def __init__(self, directory: File, *, observe: Observe = lambda waiting, happened: None, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._observe = observe
        self._max_bytes = max_bytes
        self._records: deque[Record] = deque()
        self._unwritten: list[Record] = []
        self._writing = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._own: _Journal | None = None
        self._adopted: list[_Journal] = []
        self._broken = False

    async def __aenter__(self) -> Self:
        """Open a journal and adopt those of the dead. Raises SetupError where the directory cannot be written."""
        self._own = await asyncio.to_thread(_Journal.create, self._directory)
        await self.adopt()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave what is still untold on disk, for whoever adopts it."""
        for journal in (*self._adopted, self._own):
            if journal is not None:
                await asyncio.to_thread(journal.close, remove=not self._records)

    @property
    def waiting(self) -> int:
        """How many records are still to be told."""
        return len(self._records)

    def check_room(self) -> None:
        """Raises BacklogFull where a record might not be kept."""
        if self._broken or (self._own is not None and self._own.size_bytes >= self._max_bytes):
            raise BacklogFull

    async def adopt(self) -> None:
        """Take over the journals whose owners are gone."""
        known = {journal.file for journal in (*self._adopted, self._own) if journal is not None}
        for journal, records in await asyncio.to_thread(_adopt, self._directory, known):
            self._adopted.append(journal)
            self._records.extend(records)
        self._observe(len(self._records), None)

    async def add(self, record: Record) -> None:
        """Keep a record: on disk when this returns, or at least in memory where the disk fails (then `check_room` refuses)."""
        assert self._own is not None, "a backlog is entered before it is used"
        self._records.append(record)
        self._unwritten.append(record)
        self._observe(len(self._records), "written")
        async with self._writing:
            if not self._unwritten:  # whoever held the lock before wrote this one along with its own
                return
            batch, self._unwritten = self._unwritten, []
            try:
                await asyncio.to_thread(self._own.append, b"".join(map(_line, batch)))
            except OSError as error:
                self._broken = True
                log.error("cannot write %s: %s; no request is admitted until the ledger was told", self._own.file, error.strerror)

    async def tell(self, ledger: Ledger) -> None:
        """Tell the ledger all that waits; what it does not take now waits on. For a periodic job."""
        if not self._records:
            return
        async with self._telling:
            for _ in range(len(self._records)):
                if not await self._tell_first(ledger):
                    return
            await self._forget_told()

    async def _tell_first(self, ledger: Ledger) -> bool:
        record = self._records[0]
        happened: Happened = "settled"
        try:
            await _tell(ledger, record)
        except LedgerUnavailable:
            return False
        except Refusal as refusal:  # what will never be taken must not stand in the way of the rest
            log.error("the ledger refuses the kept %s of %s: %s", record.verb, record.id, refusal.message)
            happened = "refused"
        self._records.popleft()
        self._observe(len(self._records), happened)
        return True

    async def _forget_told(self) -> None:
        """Empty the journals once nothing waits; a crash before only tells again what changes nothing."""
        assert self._own is not None
        async with self._writing:
            if self._records:
                return
            for journal in self._adopted:
                await asyncio.to_thread(journal.close, remove=True)
            self._adopted.clear()
            try:
                await asyncio.to_thread(self._own.clear)
            except OSError as error:
                log.error("cannot empty %s: %s", self._own.file, error.strerror)
            else:
                self._broken = False


async def _tell(ledger: Ledger, record: Record) -> None:
    path: Path = tuple(AccountId(part) for part in record.path)
    if record.verb == "settle":
        await ledger.settle(path, record.id, spent_nanocredits=record.spent, overrun_nanocredits=record.overrun, memo=record.memo)
    elif record.verb == "void":
        await ledger.void(path, record.id)
    else:
        await ledger.adjust(path, record.id, credits_nanocredits=record.spent, reason=record.memo)


# --- the files -------------------------------------------------------------------------------------------------------------------


class _Journal:
    """An open, locked file of records. Its calls block; run them in a thread."""

    def __init__(self, file: File, descriptor: int) -> None:
        self.file = file
        self.size_bytes = os.fstat(descriptor).st_size
        self._descriptor = descriptor

    @classmethod
    def create(cls, directory: File) -> Self:
        name = f"backlog-{secrets.token_hex(8)}"
        file, unnamed = directory / f"{name}.journal", directory / f"{name}.new"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal = cls(file, descriptor)
            journal.append(HEADER)
            unnamed.rename(file)  # now that it is locked: whoever adopts would take it for one of the dead
            _sync_directory(directory)
        except OSError as error:
            raise SetupError(f"cannot keep a journal in {directory}: {error.strerror}") from error
        return journal

    @classmethod
    def take(cls, file: File) -> tuple[Self, list[Record]] | None:
        """A journal whose owner is gone, and its records; None where it lives, or the file is gone."""
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not file.exists():  # its owner removed it before it let go
                raise BlockingIOError
            records = read(file.read_bytes())
        except BlockingIOError:
            os.close(descriptor)
            return None
        except SetupError as error:
            log.error("%s: %s", file, error)
            os.close(descriptor)
            return None
        return cls(file, descriptor), records

    def append(self, data: bytes) -> None:
        end = self.size_bytes
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], end + written)
            os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, end)
            raise
        self.size_bytes = end + len(data)

    def clear(self) -> None:
        os.ftruncate(self._descriptor, len(HEADER))
        os.fsync(self._descriptor)
        self.size_bytes = len(HEADER)

    def close(self, *, remove: bool) -> None:
        """Once: whoever was closing it may have been cancelled, and the work in its thread goes on."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if remove:
            self.file.unlink(missing_ok=True)
        os.close(descriptor)


def _adopt(directory: File, known: set[File]) -> list[tuple[_Journal, list[Record]]]:
    taken = (_Journal.take(file) for file in sorted(directory.glob("backlog-*.journal")) if file not in known)
    return [journal_and_records for journal_and_records in taken if journal_and_records is not None]


def _sync_directory(directory: File) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def _line(record: Record) -> bytes:
    text = _encode(record)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read(content: bytes) -> list[Record]:
    """The records of a journal's content, up to the first that is torn. Raises SetupError for a version that is not this one."""
    if not content.startswith(HEADER):
        if HEADER.startswith(content):  # torn while it was created
            return []
        raise SetupError("is not a backlog journal of this version; it is left as it is")
    records: list[Record] = []
    for line in content[len(HEADER) :].split(b"\n")[:-1]:
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            break
        records.append(_decode(text))
    return records
