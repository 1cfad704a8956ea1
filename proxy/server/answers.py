"""How a no, and the state of the budget, stand in an HTTP answer: status, body in the dialect's words, headers.

The headers that go with each code are decided here and nowhere else (the contract's table). RateLimit fields follow
draft-ietf-httpapi-ratelimit-headers-11, which still changes; they count whole microcredits, rounded down, or (`qu="microunits"`)
millionths of a unit of the level that `X-Ledger-Unit` names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

from aiohttp import web
from multidict import CIMultiDict

from proxy.domain import CREDITS, Price, RequestRate, Settlement, Tightest, credits_from_nanocredits
from proxy.errors import BUDGET_CODES, Expected

WORTH_WAITING_S = 60
"""Beyond this, clients are told not to wait: several SDKs would sleep for as long as `Retry-After` says."""
SERVER = "compute-ledger"
_JSON = "application/json"
_NANOCREDITS_PER_MICROCREDIT = 1000
_STRUCTURED_INTEGER_MAX = 10**15 - 1

BudgetStatus = Literal[402, 403, 429]


class Phrasing(Protocol):
    """What a dialect offers here."""

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes: ...


def refused(
    refusal: Expected,
    phrasing: Phrasing,
    *,
    request_id: str,
    now_ms: int,
    budget_status: BudgetStatus = 402,
    allow: str | None = None,
) -> web.Response:
    """The answer for a refusal or failure; what its amounts count is named where it is not credits. `allow` lists a path's methods, for
    a 405."""
    headers: CIMultiDict[str] = CIMultiDict({"Content-Type": _JSON, "Server": SERVER, "X-Request-Id": request_id})
    headers.update(_advice(refusal, now_ms))
    if refusal.available_nanocredits is not None:
        headers["X-Ledger-Remaining"] = credits_from_nanocredits(refusal.available_nanocredits)
    if refusal.unit is not None:
        headers["X-Ledger-Unit"] = _unit(refusal.unit, refusal.worth_nanocredits)
    if allow is not None:
        headers["Allow"] = allow
    status = budget_status if refusal.code in BUDGET_CODES else refusal.status
    return web.Response(status=status, headers=headers, body=phrasing.refusal_body(refusal, status=status))


def _advice(refusal: Expected, now_ms: int) -> dict[str, str]:
    """Whether and when to try again."""
    if refusal.code in BUDGET_CODES:
        advice = {"x-should-retry": "false"}
        if refusal.code == "insufficient_quota" and refusal.resets_at_ms is not None:
            turns_in_s = max(1, math.ceil((refusal.resets_at_ms - now_ms) / 1000))
            if turns_in_s <= WORTH_WAITING_S:
                advice["Retry-After"] = str(turns_in_s)
        return advice
    wait_s = refusal.retry_after_s
    if wait_s is None and refusal.status == 503:
        wait_s = 1.0
    if wait_s is None:
        return {}
    advice = {"Retry-After": str(max(1, math.ceil(wait_s))), "retry-after-ms": str(max(1, math.ceil(wait_s * 1000)))}
    if wait_s > WORTH_WAITING_S:
        advice["x-should-retry"] = "false"
    return advice


def spare_waiting(headers: CIMultiDict[str]) -> None:
    """Tell clients not to wait for an upstream that asks for more patience than anyone has; several SDKs would sleep for all of it."""
    asked = headers.get("Retry-After", "")
    if asked.isdigit() and int(asked) > WORTH_WAITING_S and "x-should-retry" not in headers:
        headers["x-should-retry"] = "false"


def add_queue(headers: CIMultiDict[str], queued_s: float | None) -> None:
    """How long a request waited for its seat, where seats are counted."""
    if queued_s is not None:
        headers["X-Ledger-Queue-Ms"] = str(round(queued_s * 1000))


def add_price(headers: CIMultiDict[str], price: Price) -> None:
    """What the amounts in the other headers count, and what one of it is worth in credits, where they do not count credits; and by how
    much this caller's price was raised, where it was."""
    if price.unit != CREDITS:
        headers["X-Ledger-Unit"] = _unit(price.unit, price.worth_nanocredits)
    add_factor(headers, price.raised_percent)


def add_factor(headers: CIMultiDict[str], percent: int) -> None:
    """By how much this caller's price was raised, where it was."""
    if percent != 100:
        headers["X-Ledger-Price-Factor"] = f"{percent / 100:.2f}"


def _unit(level: str, worth_nanocredits: int | None) -> str:
    return level if worth_nanocredits is None else f"{level};index={credits_from_nanocredits(worth_nanocredits)}"


def add_interventions(headers: CIMultiDict[str], policies: Sequence[str]) -> None:
    """Which policies have changed how this request was treated, so that none acts in silence, nor where it is refused."""
    if policies:
        headers["X-Ledger-Interventions"] = ", ".join(policies)


def add_budget(
    headers: CIMultiDict[str],
    tightest: Tightest | None,
    *,
    request_id: str,
    now_ms: int,
    rate: RequestRate | None = None,
    settlement: Settlement | None = None,
    unit: str = CREDITS,
) -> None:
    """Our own headers of an answer that was let through; `settlement` where the cost is known before the answer is sent. `unit`: what
    the tightest limit counts."""
    headers["X-Request-Id"] = request_id
    if "Server" not in headers:
        headers["Server"] = SERVER
    if settlement is not None:
        headers["X-Ledger-Cost"] = credits_from_nanocredits(settlement.spent_nanocredits)
    policies, limits = [], []
    if tightest is not None:
        policies.append(_policy(tightest.limit_key, tightest.credits_nanocredits, tightest.window_s, unit))
        limits.append(_limit(tightest, now_ms))
        headers["X-Ledger-Remaining"] = credits_from_nanocredits(tightest.remaining_nanocredits)
    if rate is not None:
        policies.append(f'"requests";q={rate.requests_per_minute};w=60')
        limits.append(f'"requests";r={rate.remaining_requests};t={_seconds_until(rate.restored_at_ms, now_ms)}')
    if policies:
        headers["RateLimit-Policy"], headers["RateLimit"] = ", ".join(policies), ", ".join(limits)


@lru_cache(maxsize=1024)
def _policy(limit_key: str, credits_nanocredits: int, window_s: int | None, unit: str) -> str:
    window = "" if window_s is None else f";w={window_s}"
    counted = "microcredits" if unit == CREDITS else "microunits"
    return f'"{limit_key}";q={_microcredits(credits_nanocredits)};qu="{counted}"{window}'


def _limit(tightest: Tightest, now_ms: int) -> str:
    resets = "" if tightest.resets_at_ms is None else f";t={_seconds_until(tightest.resets_at_ms, now_ms)}"
    return f'"{tightest.limit_key}";r={_microcredits(tightest.remaining_nanocredits)}{resets}'


def _seconds_until(at_ms: int, now_ms: int) -> int:
    return max(0, math.ceil((at_ms - now_ms) / 1000))


def _microcredits(amount_nanocredits: int) -> int:
    return min(_STRUCTURED_INTEGER_MAX, max(0, amount_nanocredits) // _NANOCREDITS_PER_MICROCREDIT)
