"""What people and operators do with credits beside spending them, put together: agents, loans, dividends, the commons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy import config
from proxy.domain import AccountId, Ledger
from proxy.ledger.agents import Agents
from proxy.ledger.collecting import Collecting
from proxy.ledger.directory import Directory
from proxy.ledger.dividends import Dividends
from proxy.ledger.engine import Engine
from proxy.ledger.loans import Loans

COMMONS = "commons"
"""The word for the account of the commons, whatever its id is; and what the grants begin with that it merges gifts into."""


@dataclass(frozen=True, slots=True)
class Giving:
    """One process's way to all of it."""

    agents: Agents
    loans: Loans
    dividends: Dividends
    collecting: Collecting
    commons: Callable[[], AccountId | None]
    """The account of the commons; None where there is none."""

    def account_named(self, name: str) -> AccountId:
        """The account that a giver means: by its id, or by the word for the commons."""
        return (self.commons() if name == COMMONS else None) or AccountId(name)

    def merges_into(self, target: AccountId) -> str:
        """The grants that gifts to an account are merged into; empty where each is a grant of its own."""
        return COMMONS if target == self.commons() else ""


def giving_on(engine: Engine, directory: Directory, ledger: Ledger, *, commons: Callable[[], config.Commons]) -> Giving:
    """All of it on one view of the ledger."""

    def account() -> AccountId | None:
        named = commons().account
        return None if named is None else AccountId(named)

    collecting = Collecting(engine, directory, ledger, commons=account, keep_days=lambda: commons().keep_days)
    dividends = Dividends(engine, directory, ledger, commons=account)
    return Giving(Agents(engine, directory), Loans(engine, directory, ledger), dividends, collecting, account)
