"""Journal entries and balances as audits compare them, read from what is stored. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.domain import AccountId, JournalEntry, Path, Posting
from proxy.ledger import balances, records
from proxy.ledger.checkpoints import position
from proxy.policy.conservation import Stored

_PLACES = {
    "w": "world",
    "l": "left",
    "h": "held",
    "s": "spent",
    "e": "expired",
    "g": "given",
    "r": "revoked",
    "c": "carried",
    "b": "brought",
    "o": "overrun",
    "d": "lowered",
}
"""The places that a posting names, by their letter in the journal's text (see `lua/prelude.lua`)."""


def read_entry(entry_id: bytes, flat: list[bytes]) -> JournalEntry:
    """A row of a journal."""
    fields = {name: value.decode() for name, value in records.pairs(flat).items()}
    path = tuple(AccountId(part) for part in fields["p"].split(" "))
    text, _, memo = fields["t"].partition("\n")
    head, *lines = text.split(";")
    verb, _, amount = head.partition(" ")
    postings = tuple(_postings(path, lines))
    entry = entry_id.decode()
    return JournalEntry(
        entry_id=entry,
        at_ms=position(entry)[0],
        verb=verb,
        id=fields["i"],
        path=path,
        amount_nanocredits=int(amount) if amount else postings[0].amount_nanocredits,
        memo=memo,
        postings=postings,
    )


def _postings(path: Path, lines: list[str]) -> Iterator[Posting]:
    """What an entry says: an amount that is not written is that of the posting before, a source that is not, the level's last."""
    amount = 0
    sources: dict[int, str] = {}
    for line in lines:
        level = int(line[0])
        figure, _, source = line[3:].partition(" ")
        amount = int(figure) if figure else amount
        sources[level] = source or sources[level]
        yield Posting(path[level], sources[level], _PLACES[line[1]], _PLACES[line[2]], amount)


def read_stored(balance: balances.StoredBalance | None, fields: dict[str, bytes], grants: dict[str, bytes]) -> Stored:
    """An account\'s balances, of what a snapshot has of it, as an audit compares them."""
    if balance is None:
        return Stored(totals=dict.fromkeys(records.TOTALS, 0), windows={}, grants={})
    present = {f"{key}#{window.index}": window for key, window in balance.windows.items()}
    past = {name[2:]: balances.read_window(packed) for name, packed in fields.items() if name.startswith("w:")}
    windows = {name: (window.credits + window.carried, window.spent, window.held) for name, window in (present | past).items()}
    places = {}
    for grant_id, text in grants.items():
        parts = text.decode().split(" ", 12)
        _, _, _, _, credits_, spent, held, left, expired, given, revoked = (int(part) for part in parts[:11])
        places[grant_id] = {
            "credits": credits_,
            "spent": spent,
            "held": held,
            "left": left,
            "expired": expired,
            "given": given,
            "revoked": revoked,
        }
    return Stored(totals=records.totals(fields, balance), windows=windows, grants=places)
