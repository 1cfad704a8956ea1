"""Double entry: folding a journal, and what must hold between the fold and the balances.

A posting moves an amount from one place of a source to another. Sources: `w:<window>` a limit's window that carries the account's totals,
`c:<window>` the same for a further limit that was charged alongside, `g:<grant>`, `f` (an account without limits), `overrun`, `x` (what
had expired in any of them and was collected). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from proxy.domain import JournalEntry

Places = defaultdict[str, int]

OVER = "~"
"""The name under which what the balances no longer name is folded together; no window and no grant can be called so."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An account's balances as the ledger keeps them. `windows`: entitlement, spent (given away included), held."""

    totals: Mapping[str, int]
    windows: Mapping[str, tuple[int, int, int]]
    grants: Mapping[str, Mapping[str, int]]

    @property
    def sources(self) -> Collection[str]:
        """What the balances name: windows, and grants."""
        return {f"{kind}:{name}" for name in self.windows for kind in ("w", "c")} | {f"g:{grant_id}" for grant_id in self.grants}


def _places() -> Places:
    return defaultdict(int)


def _account() -> defaultdict[str, Places]:
    return defaultdict(_places)


@dataclass(slots=True)
class Fold:
    """The sum of the postings so far: account -> source -> place -> nanocredits."""

    accounts: defaultdict[str, defaultdict[str, Places]] = field(default_factory=lambda: defaultdict(_account))

    def add(self, entry: JournalEntry) -> None:
        for posting in entry.postings:
            source = self.accounts[posting.account][posting.source]
            source[posting.origin] -= posting.amount_nanocredits
            source[posting.target] += posting.amount_nanocredits

    def add_of(self, account: str, entry: JournalEntry) -> None:
        """Add what an entry moves in one account alone."""
        for posting in entry.postings:
            if posting.account == account:
                source = self.accounts[account][posting.source]
                source[posting.origin] -= posting.amount_nanocredits
                source[posting.target] += posting.amount_nanocredits

    def compact(self, account: str, sources: Collection[str]) -> None:
        """Fold an account's windows and grants that are over together: they are not among `sources`, and nothing is left or held in them.

        So what is kept grows with the limits and grants that an account has, not with all that it ever had. Sums stay as they are.
        """
        own = self.accounts[account]
        for source in [source for source in own if source[:2] in ("w:", "c:", "g:") and source not in sources]:
            places = own[source]
            if source[2:] != OVER and not places["left"] and not places["held"]:
                over = own[source[:2] + OVER]
                for place, amount in own.pop(source).items():
                    over[place] += amount

    def held_by_account(self) -> dict[str, int]:
        """What each account holds, counted once however many limits were charged."""
        held = {}
        for account, sources in self.accounts.items():
            total = sum(places["held"] for source, places in sources.items() if not source.startswith("c:"))
            if total:
                held[account] = total
        return held


def broken_books(fold: Fold, account: str, stored: Stored) -> list[str]:
    """Each way in which an account's balances differ from its journal, or from what must always hold."""
    sources = fold.accounts[account]
    problems: list[str] = []

    def expect(what: str, folded: int, kept: int) -> None:
        if folded != kept:
            problems.append(f"{what}: the journal says {folded}, the balance is {kept} (nanocredits)")

    own = {source: places for source, places in sources.items() if not source.startswith("c:")}
    for total in ("spent", "held", "overrun", "given", "revoked"):
        expect(total, sum(places[total] for places in own.values()), stored.totals[total])
    expect("collected", sources["x"]["given"] if "x" in sources else 0, stored.totals["collected"])
    expect("expired", sum(places["expired"] for places in sources.values()), stored.totals["expired"])
    granted = -sum(places["world"] for source, places in sources.items() if source.startswith("g:"))
    expect("granted", granted, stored.totals["granted"])

    for name, (entitled, spent, held) in stored.windows.items():
        both = [sources[f"{kind}:{name}"] for kind in ("w", "c") if f"{kind}:{name}" in sources]
        expect(f"window {name} held", sum(places["held"] for places in both), held)
        expect(f"window {name} spent", sum(places["spent"] + places["given"] for places in both), spent)
        past = sum(places["expired"] + places["carried"] for places in both)
        expect(f"window {name} left", sum(places["left"] for places in both) + past, entitled - spent - held)
        lowered = any(places["lowered"] for places in both)
        if entitled - spent - held < 0 and not lowered and not past:
            problems.append(f"window {name}: spent {spent} and held {held} pass the limit of {entitled} (nanocredits)")
        if held < 0:
            problems.append(f"window {name}: holds {held} (nanocredits)")

    for grant_id, kept in stored.grants.items():
        places = sources[f"g:{grant_id}"]
        for place in ("spent", "held", "left", "expired", "given", "revoked"):
            expect(f"grant {grant_id} {place}", places[place], kept[place])
        expect(f"grant {grant_id}", kept["credits"], sum(kept[p] for p in ("spent", "held", "left", "expired", "given", "revoked")))
    for source, places in sources.items():
        if source.startswith("g:") and source[2:] not in stored.grants and (places["left"] or places["held"]):
            problems.append(f"grant {source[2:]} is gone with {places['left']} left and {places['held']} held (nanocredits)")
    return problems
