"""What the budget verbs have answered, as domain types and refusals. Pure: no I/O."""

from __future__ import annotations

from typing import Any

from proxy.domain import Hold, Path, RequestRate, Settlement, Tightest
from proxy.errors import Refusal
from proxy.ledger import records


def hold_of(path: Path, hold_id: str, reply: list[Any]) -> Hold:
    """What a verb that takes has answered: the amount, the limit that leaves least (-1: none), after a hold also the rate that does."""
    limit, rate = ([], reply[4:]) if reply[3] < 0 else (reply[3:9], reply[9:])
    return Hold(hold_id, path, reply[2], _tightest(path, limit), _rate(path, rate))


def _tightest(path: Path, reply: list[Any]) -> Tightest | None:
    if not reply:
        return None
    level, key, credits_, remaining, starts_ms, resets_ms = reply
    ends = resets_ms != records.NEVER_MS
    return Tightest(
        account=path[level],
        limit_key=key.decode(),
        credits_nanocredits=credits_,
        remaining_nanocredits=remaining,
        resets_at_ms=resets_ms if ends else None,
        window_s=(resets_ms - starts_ms) // 1000 if ends else None,
    )


def _rate(path: Path, reply: list[Any]) -> RequestRate | None:
    if not reply:
        return None
    level, per_minute, remaining, restored_ms = reply
    return RequestRate(path[level], per_minute, remaining, restored_ms)


def settlement_of(hold_id: str, reply: list[Any]) -> Settlement:
    return Settlement(hold_id, reply[2].decode(), reply[3], reply[4])


def insufficient(path: Path, reply: list[Any], *, needed_nanocredits: int) -> Refusal:
    """Which no it is: never possible, possible once running requests settle, or spent."""
    _, _, level, limit, available, held, capacity, resets_ms, _ = reply
    details: dict[str, Any] = {
        "account": path[level],
        "limit": limit.decode() or None,
        "needed_nanocredits": needed_nanocredits,
        "available_nanocredits": available,
        "resets_at_ms": resets_ms if 0 < resets_ms < records.NEVER_MS else None,
    }
    name = f"account {path[level]!r}"
    if needed_nanocredits > capacity:
        hint = "Ask for less: a shorter input or a smaller maximum; or have the limit raised."
        return Refusal("request_exceeds_budget", f"The request can never fit the budget of {name}.", hint=hint, **details)
    if needed_nanocredits <= available + held:
        hint = "Running requests hold what is missing; try again once they end."
        return Refusal("budget_in_flight", f"The budget of {name} is held by running requests.", hint=hint, retry_after_s=1.0, **details)
    hint = "Wait for the window to turn, or ask for a grant or a higher limit."
    return Refusal("insufficient_quota", f"The budget of {name} is spent.", hint=hint, **details)


def too_many_requests(path: Path, reply: list[Any]) -> Refusal:
    """Which rate of which account is used up, and when that may be otherwise."""
    _, _, level, which, most, wait_ms, _ = reply
    account = path[level]
    if which == b"running":
        message = f"Account {account!r} already runs {most} requests, as many as its plan lets run at a time."
        hint, limit, retry_after_s = "Try again once one of them has ended.", "concurrent_requests", 1.0
    else:
        message = f"Account {account!r} has begun as many requests as its plan lets begin: {most} a minute."
        hint, limit, retry_after_s = "Spread requests over the minute.", "requests_per_minute", wait_ms / 1000
    return Refusal("too_many_requests", message, hint=hint, account=account, limit=limit, retry_after_s=retry_after_s)
