"""Credits reserved for requests, and the history of what became of them."""

from __future__ import annotations

from typing import Literal

from proxy.domain.amounts import AccountId, Path
from proxy.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Tightest:
    """The limit of a path that leaves least, and what it leaves; for the response headers."""

    account: AccountId
    limit_key: str
    credits_nanocredits: int
    remaining_nanocredits: int
    resets_at_ms: int | None
    window_s: int | None


@dataclass(frozen=True, slots=True)
class RequestRate:
    """The requests a minute of a path that leave least, and how many of them may begin now; for the response headers."""

    account: AccountId
    requests_per_minute: int
    remaining_requests: int
    restored_at_ms: int
    """When all of them may begin again, if none does meanwhile."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits reserved for one request. `amount` is all that was reserved so far, spent or not."""

    hold_id: str
    path: Path
    amount_nanocredits: int
    tightest: Tightest | None
    rate: RequestRate | None = None
    """As the hold left it; None where no level has one, and after an extension."""


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold as an operator sees it."""

    hold_id: str
    path: Path
    amount_nanocredits: int
    spent_nanocredits: int
    created_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a hold ended. `overrun` is what the request cost beyond what the path could pay."""

    hold_id: str
    state: Literal["settled", "voided", "expired"]
    spent_nanocredits: int
    overrun_nanocredits: int


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of an account's history."""

    entry_id: str
    at_ms: int
    verb: str
    id: str
    path: Path
    amount_nanocredits: int
    memo: str
    postings: tuple[Posting, ...]


@dataclass(frozen=True, slots=True)
class Posting:
    """`amount` moved between two places of one source (a limit's window or a grant) of one account."""

    account: AccountId
    source: str
    origin: str
    target: str
    amount_nanocredits: int


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the audit log: who changed what, from what, to what, and why."""

    event_id: str
    at_ms: int
    actor: str
    action: str
    subject: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit checked, and each account whose books do not balance."""

    accounts: int
    entries: int
    open_holds: int
    broken: tuple[str, ...]
    expired_nanocredits: int = 0
    """What has expired so far, in all accounts."""
    left_nanocredits: int = 0
    """What active accounts without a parent can still spend, all together and in credits; those without limits left out."""
