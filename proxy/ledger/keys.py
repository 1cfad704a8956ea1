"""Every key name of the ledger, in one place.

All state of one tree of accounts lives under one hash tag, so that a script may touch every level of a path on a cluster, too. The
directory (API keys, plans, prices, names) stands outside: those keys are read and written one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

DEADLINES = "d"
OUTBOX = "t"
JOURNAL = "j"
CHECKPOINT = "k"
PROOF = "p"
"""What audits have folded of a tree, and how far."""
UNPROVED = "u"
"""Whose books an audit has still to compare with what is folded."""
GONE = "n"
"""How many entries have gone from each account's index of the journal."""

ACCOUNTS = "cl:accounts"
CHANGES = "cl:changes"
OPEN_ROOTS = "cl:open"
ACTIVE_ROOTS = "cl:active"
SWEPT_ROOTS = "cl:swept"
TOUCHED_ROOTS = "cl:touched"
AUDITED_ROOTS = "cl:auditing"
AUDITS = "cl:audits"
PLANS = "cl:plans"
PRICES = "cl:prices"
LEVELS = "cl:levels"
"""The index of each level as it was noted last."""
EVENTS = "cl:{events}"
LOANS = "cl:loans"
COLLECTING = "cl:collecting"
DIVIDENDS = "cl:dividends"
OPEN_DIVIDENDS = "cl:opendividends"
LOANS_DUE = "cl:due"
EQUALITY = "cl:{equality}:state"
INTERVENTIONS = "cl:{equality}:interventions"
OPEN_BATCHES = "cl:batches"
SINCE = "cl:since"
"""Since when the server has kept what it has, in milliseconds: a loss takes this with it."""


def of_root(root: str, name: str) -> str:
    return f"cl:{{{root}}}:{name}"


def checkpoint_at(root: str, upto: str, mark: str) -> str:
    """The checkpoint that stands for the root's journal up to and with an entry, by its writer's mark."""
    return f"cl:{{{root}}}:k:{upto}:{mark}"


def beginning_proof(root: str, mark: str) -> str:
    """What audits will have folded of a tree, while it is copied from a checkpoint."""
    return f"cl:{{{root}}}:p:{mark}"


def hold(root: str, hold_id: str) -> str:
    return f"cl:{{{root}}}:h:{hold_id}"


def operation(root: str, operation_id: str) -> str:
    return f"cl:{{{root}}}:o:{operation_id}"


def behind_hold(path: Sequence[str]) -> list[str]:
    """The keys behind the first where a verb works on a hold."""
    return _behind(path, DEADLINES)


def behind_operation(path: Sequence[str]) -> list[str]:
    """The keys behind the first where a verb is known by an operation id."""
    return _behind(path, OUTBOX)


def _behind(path: Sequence[str], name: str) -> list[str]:
    """Every balance, root first, so that one read takes them all; what the root has; each account and, but the root's, its index."""
    tag = f"cl:{{{path[0]}}}:"
    balances = [f"{tag}b:{account}" for account in path]
    accounts = [f"{tag}{kind}:{account}" for account in path for kind in ("a", "x")]
    del accounts[1]  # the whole journal is the root's own
    return [*balances, f"{tag}{name}", f"{tag}{JOURNAL}", *accounts]


def of_pool(pool: str, name: str) -> str:
    return f"cl:{{pool:{pool}}}:{name}"


def seats_of_worker(worker: str) -> str:
    """The channel on which a worker hears which of its tickets were seated."""
    return f"cl:seats:{worker}"


def of_equality(shard: int, name: str) -> str:
    """What is told of how equal use is: a shard of one of its hashes."""
    return f"cl:{{equality:{shard}}}:{name}"


def account(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:a:{account_id}"


def balance(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:b:{account_id}"


def journal_index(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:x:{account_id}"


def path_of(account_id: str) -> str:
    return f"cl:account:{account_id}"


def children_of(account_id: str) -> str:
    return f"cl:children:{account_id}"


def agents_of(person: str) -> str:
    return f"cl:agents:{person}"


def agents_being_opened_by(person: str) -> str:
    return f"cl:agents-opening:{person}"


def openers_of(person: str) -> str:
    """The agents of a person that may open agents of their own."""
    return f"cl:openers:{person}"


def raises_of(person: str) -> str:
    """Requests for a higher cap that wait for a person's answer."""
    return f"cl:raises:{person}"


def raise_request(request_id: str) -> str:
    return f"cl:raise:{request_id}"


def raise_of(agent: str) -> str:
    """The last request of an agent."""
    return f"cl:raiseof:{agent}"


def loan(loan_id: str) -> str:
    return f"cl:loan:{loan_id}"


def loans_of(account_id: str) -> str:
    """What an account lends and borrows, or did."""
    return f"cl:loans:{account_id}"


def dividend(dividend_id: str) -> str:
    return f"cl:{{dividend:{dividend_id}}}:state"


def counted(dividend_id: str, page: int) -> str:
    """Who was counted for a dividend: a page of them."""
    return f"cl:{{dividend:{dividend_id}}}:{page}"


def unfinished_loans_of(account_id: str) -> str:
    return f"cl:unfinished:{account_id}"


def api_key(digest: str) -> str:
    return f"cl:key:{digest}"


def digest_of_key(key_id: str) -> str:
    return f"cl:keyid:{key_id}"


def keys_of(account_id: str) -> str:
    return f"cl:keysof:{account_id}"


def writes_of(root: str, person: str) -> str:
    """Until when a person's rate of changes by self-service is used up."""
    return f"cl:{{{root}}}:writes:{person}"


def files_of(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:files:{account_id}"


def batches_of(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:batches:{account_id}"


def batches_of_agents(root: str, account_id: str) -> str:
    return f"cl:{{{root}}}:agents-batches:{account_id}"


def lease(task: str) -> str:
    return f"cl:lease:{task}"


def claim(operation_id: str) -> str:
    return f"cl:claim:{operation_id}"


def event_mark(operation_id: str) -> str:
    return f"cl:{{events}}:o:{operation_id}"
