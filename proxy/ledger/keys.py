"""Every key name of the ledger, in one place.

All state of one tree of accounts lives under one hash tag, so that a script may touch every level of a path on a cluster, too. The
directory (API keys, plans, prices, names) stands outside: those keys are read and written one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

DEADLINES = "d"
OUTBOX = "t"
JOURNAL = "j"

ACCOUNTS = "cl:accounts"
CHANGES = "cl:changes"
OPEN_ROOTS = "cl:open"
SWEPT_ROOTS = "cl:swept"
PLANS = "cl:plans"
PRICES = "cl:prices"
EVENTS = "cl:{events}"


def of_root(root: str, name: str) -> str:
    return f"cl:{{{root}}}:{name}"


def hold(root: str, hold_id: str) -> str:
    return f"cl:{{{root}}}:h:{hold_id}"


def operation(root: str, operation_id: str) -> str:
    return f"cl:{{{root}}}:o:{operation_id}"


def of_operation(root: str, operation_id: str) -> list[str]:
    """What stands before the levels where a verb is known by an operation id."""
    return [operation(root, operation_id), of_root(root, OUTBOX), of_root(root, JOURNAL)]


def of_hold(root: str, hold_id: str) -> list[str]:
    """What stands before the levels where a verb works on a hold."""
    return [hold(root, hold_id), of_root(root, DEADLINES), of_root(root, JOURNAL)]


def levels(path: Sequence[str]) -> list[str]:
    """Three keys for each level, root first: the account, its grants, its journal index."""
    tag = f"cl:{{{path[0]}}}:"
    return [f"{tag}{kind}:{account}" for account in path for kind in ("a", "g", "x")]


def account(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:a:{account_id}"


def journal_index(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:x:{account_id}"


def path_of(account_id: str) -> str:
    return f"cl:account:{account_id}"


def children_of(account_id: str) -> str:
    return f"cl:children:{account_id}"


def api_key(digest: str) -> str:
    return f"cl:key:{digest}"


def digest_of_key(key_id: str) -> str:
    return f"cl:keyid:{key_id}"


def keys_of(account_id: str) -> str:
    return f"cl:keysof:{account_id}"


def claim(operation_id: str) -> str:
    return f"cl:claim:{operation_id}"


def event_mark(operation_id: str) -> str:
    return f"cl:{{events}}:o:{operation_id}"
