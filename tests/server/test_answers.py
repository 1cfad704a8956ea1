"""The contract's table of refusals: status, code, headers; and the headers of what was let through."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from multidict import CIMultiDict

from proxy.dialects import DIALECTS
from proxy.domain import AccountId, RequestRate, Settlement, Tightest
from proxy.errors import STATUS_BY_CODE, Expected, Failure, LedgerUnavailable, Refusal
from proxy.server import answers

NOW_MS = 1_800_000_000_000
OPENAI = DIALECTS["openai"]
RETRY_HEADERS = ("Retry-After", "retry-after-ms", "x-should-retry")


def advice(refusal: Expected, budget_status: Literal[402, 403, 429] = 402) -> tuple[int, dict[str, str]]:
    response = answers.refused(refusal, OPENAI, request_id="r", now_ms=NOW_MS, budget_status=budget_status)
    return response.status, {name: response.headers[name] for name in RETRY_HEADERS if name in response.headers}


@pytest.mark.parametrize("code", sorted(STATUS_BY_CODE))
def test_every_code_has_its_status_and_shape(code: str) -> None:
    """The body is the dialect's, the id is in the header, whatever the code."""
    response = answers.refused(Refusal(code, "No."), OPENAI, request_id="r-1", now_ms=NOW_MS)
    assert response.status == STATUS_BY_CODE[code]
    assert (response.content_type, response.headers["X-Request-Id"]) == ("application/json", "r-1")
    assert isinstance(response.body, bytes)
    document = msgspec.json.decode(response.body)
    assert document["error"]["code"] == document["compute_ledger"]["code"] == code


@pytest.mark.parametrize(
    ("refusal", "status", "headers"),
    [
        (Refusal("insufficient_quota", "x"), 402, {"x-should-retry": "false"}),
        (Refusal("insufficient_quota", "x", resets_at_ms=NOW_MS + 59_001), 402, {"x-should-retry": "false", "Retry-After": "60"}),
        (Refusal("insufficient_quota", "x", resets_at_ms=NOW_MS + 60_001), 402, {"x-should-retry": "false"}),
        (Refusal("insufficient_quota", "x", resets_at_ms=NOW_MS - 5), 402, {"x-should-retry": "false", "Retry-After": "1"}),
        (Refusal("request_exceeds_budget", "x", resets_at_ms=NOW_MS + 1000), 402, {"x-should-retry": "false"}),
        (Refusal("budget_in_flight", "x", retry_after_s=1.0), 429, {"Retry-After": "1", "retry-after-ms": "1000"}),
        (Refusal("too_many_requests", "x", retry_after_s=60.0), 429, {"Retry-After": "60", "retry-after-ms": "60000"}),
        (Refusal("queue_full", "x", retry_after_s=2.2), 429, {"Retry-After": "3", "retry-after-ms": "2200"}),
        (
            Refusal("queue_timeout", "x", retry_after_s=61),
            429,
            {"Retry-After": "61", "retry-after-ms": "61000", "x-should-retry": "false"},
        ),
        (LedgerUnavailable(), 503, {"Retry-After": "1", "retry-after-ms": "1000"}),
        (Failure("draining", "x"), 503, {"Retry-After": "1", "retry-after-ms": "1000"}),
        (Failure("upstream_error", "x"), 502, {}),
        (Refusal("invalid_api_key", "x"), 401, {}),
    ],
)
def test_advice_on_trying_again(refusal: Expected, status: int, headers: dict[str, str]) -> None:
    """Budgets are not worth retrying unless their window turns within a minute; what clears by itself says when."""
    assert advice(refusal) == (status, headers)


@pytest.mark.parametrize("status", [402, 403, 429])
def test_budget_status_may_be_another(status: Literal[402, 403, 429]) -> None:
    """Shops that branch on 429 or 403 get it for the two budget codes, and for nothing else."""
    assert advice(Refusal("insufficient_quota", "x"), status) == (status, {"x-should-retry": "false"})
    assert advice(Refusal("request_exceeds_budget", "x"), status)[0] == status
    assert advice(Refusal("budget_in_flight", "x"), status)[0] == 429


def test_methods_of_a_path_are_listed() -> None:
    """A 405 names what is allowed."""
    response = answers.refused(Refusal("method_not_allowed", "x"), OPENAI, request_id="r", now_ms=NOW_MS, allow="GET, POST")
    assert response.headers["Allow"] == "GET, POST"


def test_budget_headers() -> None:
    """The tightest limit in whole microcredits and seconds, what is left in credits, and the cost where it is known."""
    tightest = Tightest(AccountId("a"), "month/Europe/Berlin", 5_000_000_000, 1_234_567_899, NOW_MS + 1, 2_678_400)
    headers: CIMultiDict[str] = CIMultiDict()
    answers.add_budget(headers, tightest, request_id="r", now_ms=NOW_MS, settlement=Settlement("h", "settled", 1_500, 0))
    assert dict(headers) == {
        "X-Request-Id": "r",
        "Server": "compute-ledger",
        "X-Ledger-Cost": "0.0000015",
        "RateLimit-Policy": '"month/Europe/Berlin";q=5000000;qu="microcredits";w=2678400',
        "RateLimit": '"month/Europe/Berlin";r=1234567;t=1',
        "X-Ledger-Remaining": "1.234567899",
    }


def test_budget_headers_with_a_rate() -> None:
    """The requests a minute stand beside the tightest limit of credits, or alone; they count in the default unit."""
    rate, policy, left = RequestRate(AccountId("a"), 60, 57, NOW_MS + 2_001), '"requests";q=60;w=60', '"requests";r=57;t=3'
    both: CIMultiDict[str] = CIMultiDict()
    answers.add_budget(both, Tightest(AccountId("a"), "ever", 9_000, 5_000, None, None), request_id="r", now_ms=NOW_MS, rate=rate)
    assert both["RateLimit-Policy"] == f'"ever";q=9;qu="microcredits", {policy}'
    assert both["RateLimit"] == f'"ever";r=5, {left}'
    alone: CIMultiDict[str] = CIMultiDict()
    answers.add_budget(alone, None, request_id="r", now_ms=NOW_MS, rate=rate)
    assert (alone["RateLimit-Policy"], alone["RateLimit"], "X-Ledger-Remaining" in alone) == (policy, left, False)


def test_budget_headers_of_who_counts_in_units_of_a_level() -> None:
    """The same figures, under a unit of their own: nobody may take them for credits."""
    tightest = Tightest(AccountId("a"), "ever", 9_000, 5_000, None, None)
    for unit, named in (("credits", "microcredits"), ("small", "microunits"), ("credits", "microcredits")):
        headers: CIMultiDict[str] = CIMultiDict()
        answers.add_budget(headers, tightest, request_id="r", now_ms=NOW_MS, unit=unit)
        assert (headers["RateLimit-Policy"], headers["RateLimit"]) == (f'"ever";q=9;qu="{named}"', '"ever";r=5')


def test_budget_headers_without_end_or_limit() -> None:
    """A limit that never resets has no seconds; an account without limits has no such headers."""
    endless: CIMultiDict[str] = CIMultiDict({"Server": "upstream"})
    answers.add_budget(endless, Tightest(AccountId("a"), "ever", 10**18, 10**18, None, None), request_id="r", now_ms=NOW_MS)
    assert endless["RateLimit-Policy"] == '"ever";q=999999999999999;qu="microcredits"'
    assert endless["RateLimit"] == '"ever";r=999999999999999'
    assert endless["Server"] == "upstream"
    unlimited: CIMultiDict[str] = CIMultiDict()
    answers.add_budget(unlimited, None, request_id="r", now_ms=NOW_MS)
    assert set(unlimited) == {"X-Request-Id", "Server"}
