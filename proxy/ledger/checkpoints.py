"""Checkpoints: a root's journal, folded up to an entry, so that what lies before may go and the rest still gives the balances.

A checkpoint is a hash, an account a field, and a pointer to it: which entry it ends with, how many it stands for, and its writer's mark, so
that no two writers ever share a hash. The pointer moves in the same step in which the journal is cut and the hash, which goes by itself
until then, is kept: at any moment the pointer's hash and the journal together are the whole history.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from proxy.ledger import keys
from proxy.ledger.engine import Engine
from proxy.policy.conservation import Fold

BATCH = 500
LEFT_MS = 3_600_000
"""How long a checkpoint that another has followed may still be read, and one may take to be written."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, dict[str, int]]).decode


@dataclass(slots=True)
class Folded:
    """A root's journal up to and with entry `upto`."""

    upto: str = "0-0"
    entries: int = 0
    fold: Fold = field(default_factory=Fold)
    mark: str = ""
    """The checkpoint's that it was read from."""


def position(entry_id: str) -> tuple[int, int]:
    """The place of an entry among all, earlier ones before later ones."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


class Checkpoints:
    """Reads and writes the checkpoints of roots. All raise LedgerUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def upto(self, root: str) -> str:
        """With which entry the root's checkpoint ends; 0-0 where it has none."""
        return (await self.pointer(root))[0]

    async def read(self, root: str) -> Folded:
        """The root's checkpoint, or the beginning of its journal; whoever folds on keeps what is given here."""
        while True:
            upto, entries, mark = await self.pointer(root)
            if not entries:
                return Folded()
            folded = Folded(upto, entries, mark=mark)
            flat = await self._engine.command("HGETALL", keys.checkpoint_at(root, upto, mark))
            for n in range(0, len(flat), 2):
                for source, places in _decode(flat[n + 1]).items():
                    folded.fold.accounts[flat[n].decode()][source].update(places)
            if await self.pointer(root) == (upto, entries, mark):  # else another followed meanwhile, and this one may have been half gone
                return folded

    async def pointer(self, root: str) -> tuple[str, int, str]:
        """With which entry the root's checkpoint ends, for how many it stands, and its writer's mark; 0-0, 0 where it has none."""
        text = await self._engine.command("GET", keys.of_root(root, keys.CHECKPOINT))
        if text is None:
            return "0-0", 0, ""
        upto, entries, mark = text.decode().split(" ")
        return upto, int(entries), mark

    async def write(self, root: str, folded: Folded, *, before: Folded, first_kept: str) -> bool:
        """Put `folded` in the place of the checkpoint that it was folded on from, and cut the journal in front of `first_kept`.

        False, and nothing is changed, where another process has done so meanwhile.
        """
        mark = secrets.token_hex(8)
        key = keys.checkpoint_at(root, folded.upto, mark)
        for rows in _batches(folded):
            await self._engine.command("HSET", key, *rows)
            await self._engine.command("PEXPIRE", key, LEFT_MS)
        pointer, journal = keys.of_root(root, keys.CHECKPOINT), keys.of_root(root, keys.JOURNAL)
        then = f"{before.upto} {before.entries} {before.mark}" if before.entries else ""
        values = [then, f"{folded.upto} {folded.entries} {mark}", first_kept]
        reply = await self._engine.script("cut_journal", [pointer, journal, key], values, durable=True)
        is_done = bool(reply[0] == b"OK")
        if is_done and before.entries:
            await self._engine.command("PEXPIRE", keys.checkpoint_at(root, before.upto, before.mark), LEFT_MS)
        return is_done


def _batches(folded: Folded) -> Iterator[list[str | bytes]]:
    """Accounts and what was folded of them, so many at a time; what has come to 0 is left out, the account itself never."""
    rows: list[str | bytes] = []
    for account, sources in folded.fold.accounts.items():
        kept = {source: {place: amount for place, amount in places.items() if amount} for source, places in sources.items()}
        rows += (account, _encode({source: places for source, places in kept.items() if places}))
        if len(rows) >= 2 * BATCH:
            yield rows
            rows = []
    if rows:
        yield rows
