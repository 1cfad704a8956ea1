"""The nouns every floor shares, with their units, and the seams between floors.

Knows nothing above it: no I/O, no rules. Ledger times are integers in milliseconds since 1970 (`_ms`), by the ledger server's clock. By
subject: `amounts`, `accounts`, `holds` with their history, `seats`, `usage` with prices, `seams`; all of it is imported from here.
"""

from proxy.domain.accounts import Account, AccountKind, AccountStatus, ApiKey, Caller, Grant, Limit, LimitState, Plan, Rollover, Totals
from proxy.domain.amounts import (
    AMOUNT_MAX_NANOCREDITS,
    CREDITS,
    IDENTIFIER_PATTERN,
    NANOCREDITS_PER_CREDIT,
    PATH_DEPTH_MAX,
    AccountId,
    Path,
    credits_from_nanocredits,
    nanocredits_from_credits,
)
from proxy.domain.holds import AuditReport, Event, Hold, JournalEntry, OpenHold, Posting, RequestRate, Settlement, Tightest
from proxy.domain.seams import Answer, Ledger, Piece, StreamReader
from proxy.domain.seats import Adapted, Beats, Place, PoolState
from proxy.domain.usage import NO_USAGE, USAGE_KINDS, Call, Level, Measure, Price, Tier, Usage, counted_in, counts_of

__all__ = [
    "AMOUNT_MAX_NANOCREDITS",
    "CREDITS",
    "IDENTIFIER_PATTERN",
    "NANOCREDITS_PER_CREDIT",
    "NO_USAGE",
    "PATH_DEPTH_MAX",
    "USAGE_KINDS",
    "Account",
    "AccountId",
    "AccountKind",
    "AccountStatus",
    "Adapted",
    "Answer",
    "ApiKey",
    "AuditReport",
    "Beats",
    "Call",
    "Caller",
    "Event",
    "Grant",
    "Hold",
    "JournalEntry",
    "Ledger",
    "Level",
    "Limit",
    "LimitState",
    "Measure",
    "OpenHold",
    "Path",
    "Piece",
    "Place",
    "Plan",
    "PoolState",
    "Posting",
    "Price",
    "RequestRate",
    "Rollover",
    "Settlement",
    "StreamReader",
    "Tier",
    "Tightest",
    "Totals",
    "Usage",
    "counted_in",
    "counts_of",
    "credits_from_nanocredits",
    "nanocredits_from_credits",
]
