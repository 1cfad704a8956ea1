"""What is kept of files and batches, which outlive the requests that made them: whose they are, where, and what is held for them.

Files and batches stand under the account that they belong to; batches that are under way stand in one list besides, for whoever looks
after them. Everything is bounded and ages out, and every call may be repeated. Must not know what an upstream says of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import msgspec

from proxy.domain import AccountId, Path, Price
from proxy.errors import Refusal
from proxy.ledger import keys
from proxy.ledger.engine import Engine
from proxy.policy.raised_price import raised_amount

KEPT_MS = 30 * 86_400_000
"""How long it is known whose a file or a batch is."""
KEPT_MAX = 1000
"""Files, and batches, of one account."""
OPEN_MAX = 10_000
"""Batches under way, of all accounts."""


class BatchInput(msgspec.Struct, frozen=True):
    """What the requests of a file ask for, and the most that they cost at a price."""

    url: str
    model: str
    lines: int
    input_tokens_counted: int
    """Of all lines together: what is charged for input where usage never comes."""
    bound_nanocredits: int
    price: Price


class KeptFile(msgspec.Struct, frozen=True):
    """A file at an upstream; `input` where it holds requests for a batch."""

    upstream: str
    at_ms: int
    input: BatchInput | None = None


class KeptBatch(msgspec.Struct, frozen=True):
    """A batch at an upstream, and the hold for it."""

    hold_id: str
    path: tuple[AccountId, ...]
    upstream: str
    input_file_id: str
    at_ms: int
    input: BatchInput
    batch_id: str = ""
    """Empty as long as the upstream's answer is not known."""
    person: tuple[AccountId, ...] = ()
    """The path of whom its use is attributed to."""
    price_percent: int = 100
    """Of the input's price, what its budget is debited; this and the next as they were when its hold began."""
    tithe_share: float = 0.0
    """Of what it costs, what its person gives to the commons on top."""

    @property
    def is_agents(self) -> bool:
        """Whether somebody acts for a person with it, who may look after it, too."""
        return bool(self.person) and self.person != self.path

    @property
    def bound_nanocredits(self) -> int:
        """What is held for it."""
        return raised_amount(self.input.bound_nanocredits, self.price_percent)

    @property
    def price(self) -> Price:
        """What its amounts say of themselves. The rates are the input's own: they are raised all together, in the sum."""
        return replace(self.input.price, raised_percent=self.price_percent)


class BatchRecords(Protocol):
    """Whose files and batches are; all raise LedgerUnavailable."""

    async def check_room(self, path: Path) -> None:
        """Raises Refusal invalid_request where an account has too many of either, or all together have."""
        ...

    async def keep_file(self, path: Path, file_id: str, file: KeptFile) -> None: ...

    async def file(self, path: Path, file_id: str) -> KeptFile | None:
        """An account's own file; None where it has none by that id."""
        ...

    async def drop_file(self, path: Path, file_id: str) -> None: ...

    async def open(self, batch: KeptBatch) -> None:
        """A batch is about to be asked for, or (with its id) has begun."""
        ...

    async def batch(self, path: Path, batch_id: str) -> KeptBatch | None:
        """An account's own batch, or one of an agent of its own that is under way; None where it has none by that id."""
        ...

    async def open_batches(self) -> list[KeptBatch]:
        """What has not been settled yet."""
        ...

    async def is_open(self, batch: KeptBatch) -> bool: ...

    async def end(self, batch: KeptBatch, result_file_ids: Iterable[str] = (), *, at_ms: int) -> bool:
        """It needs no looking after any more, and its results are its owner's; whether it was open until now."""
        ...

    async def lease(self, task: str, for_ms: int) -> bool:
        """Whether a task is the caller's for so long, because nobody else has it."""
        ...


class Batches:
    """The records on the ledger's server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def check_room(self, path: Path) -> None:
        for key in (_files(path), _batches(path)):
            if await self._engine.command("HLEN", key) >= KEPT_MAX and not await self._forget_old(key):
                raise Refusal("invalid_request", f"This account has {KEPT_MAX} files or batches already.", hint="Delete old files.")
        if await self._engine.command("HLEN", keys.OPEN_BATCHES) >= OPEN_MAX:
            raise Refusal("invalid_request", f"{OPEN_MAX} batches are under way already.", hint="Wait until some have ended.")

    async def _forget_old(self, key: str) -> int:
        """How many there were that are not kept any longer."""
        before_ms = self._engine.now_ms() - KEPT_MS
        flat = await self._engine.command("HGETALL", key)
        old = [name for name, text in zip(flat[::2], flat[1::2], strict=True) if _decode_age(text).at_ms < before_ms]
        return len(old) if not old else int(await self._engine.command("HDEL", key, *old))

    async def keep_file(self, path: Path, file_id: str, file: KeptFile) -> None:
        await self._keep(_files(path), file_id, file)

    async def file(self, path: Path, file_id: str) -> KeptFile | None:
        text = await self._engine.command("HGET", _files(path), file_id)
        return None if text is None else _decode_file(text)

    async def drop_file(self, path: Path, file_id: str) -> None:
        await self._engine.command("HDEL", _files(path), file_id)

    async def open(self, batch: KeptBatch) -> None:
        if batch.batch_id:
            await self._keep(_batches(batch.path), batch.batch_id, batch)
            if batch.is_agents:
                await self._keep(_batches_of_agents(batch.person), batch.batch_id, batch)
        await self._engine.command("HSET", keys.OPEN_BATCHES, batch.hold_id, _encode(batch))

    async def batch(self, path: Path, batch_id: str) -> KeptBatch | None:
        own, agents = await self._engine.commands(*(("HGET", key, batch_id) for key in (_batches(path), _batches_of_agents(path))))
        text = own or agents
        return None if text is None else _decode_batch(text)

    async def open_batches(self) -> list[KeptBatch]:
        return [_decode_batch(text) for text in await self._engine.command("HVALS", keys.OPEN_BATCHES)]

    async def is_open(self, batch: KeptBatch) -> bool:
        return bool(await self._engine.command("HEXISTS", keys.OPEN_BATCHES, batch.hold_id))

    async def end(self, batch: KeptBatch, result_file_ids: Iterable[str] = (), *, at_ms: int) -> bool:
        for file_id in result_file_ids:
            await self.keep_file(batch.path, file_id, KeptFile(batch.upstream, at_ms))
        if batch.is_agents:
            await self._engine.command("HDEL", _batches_of_agents(batch.person), batch.batch_id)
        return bool(await self._engine.command("HDEL", keys.OPEN_BATCHES, batch.hold_id))

    async def lease(self, task: str, for_ms: int) -> bool:
        return await self._engine.command("SET", keys.lease(task), "-", "NX", "PX", for_ms) is not None

    async def _keep(self, key: str, name: str, record: KeptFile | KeptBatch) -> None:
        await self._engine.command("HSET", key, name, _encode(record))
        await self._engine.command("PEXPIRE", key, KEPT_MS)


class _Age(msgspec.Struct):
    at_ms: int


_encode = msgspec.json.Encoder().encode
_decode_file = msgspec.json.Decoder(KeptFile).decode
_decode_batch = msgspec.json.Decoder(KeptBatch).decode
_decode_age = msgspec.json.Decoder(_Age).decode


def _files(path: Path) -> str:
    return keys.files_of(path[0], path[-1])


def _batches(path: Path) -> str:
    return keys.batches_of(path[0], path[-1])


def _batches_of_agents(person: Path) -> str:
    """Only those under way, so that they are as many as may be at most, whoever's they are."""
    return keys.batches_of_agents(person[0], person[-1])
