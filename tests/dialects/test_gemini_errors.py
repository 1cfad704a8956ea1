"""How Gemini's refusals are phrased, and how its lists of models are read and written."""

from __future__ import annotations

import json

import pytest

from proxy.dialects import DIALECTS
from proxy.errors import STATUS_BY_CODE, Expected, LedgerUnavailable, Refusal

GEMINI = DIALECTS["gemini"]


def test_a_refusal_has_googles_shape_and_says_what_helps() -> None:
    """Reason and hint in the message, amounts and times beside it."""
    refusal = Refusal("insufficient_quota", "The budget is spent.", hint="Wait.", account="user:ann", available_nanocredits=1)
    assert json.loads(GEMINI.refusal_body(refusal, status=402)) == {
        "error": {"code": 402, "message": "The budget is spent. Wait.", "status": "RESOURCE_EXHAUSTED"},
        "compute_ledger": {"code": "insufficient_quota", "account": "user:ann", "available": "0.000000001", "hint": "Wait."},
    }


@pytest.mark.parametrize(
    ("status", "name"),
    [
        *((400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (402, "RESOURCE_EXHAUSTED"), (403, "PERMISSION_DENIED")),
        *((404, "NOT_FOUND"), (405, "UNIMPLEMENTED"), (409, "ABORTED"), (413, "INVALID_ARGUMENT"), (415, "INVALID_ARGUMENT")),
        *((422, "FAILED_PRECONDITION"), (429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL"), (502, "UNAVAILABLE"), (503, "UNAVAILABLE")),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_each_status_has_its_name(status: int, name: str) -> None:
    """By the status that is sent, which the operator may have chosen."""
    error = json.loads(GEMINI.refusal_body(Expected("invalid_request", "No."), status=status))["error"]
    assert error == {"code": status, "message": "No.", "status": name}
    assert status in STATUS_BY_CODE.values()


@pytest.mark.parametrize(
    ("refusal", "delay"),
    [
        (Refusal("budget_in_flight", "Later.", retry_after_s=1), "1s"),
        (Refusal("queue_timeout", "Later.", retry_after_s=2.2), "3s"),
        (LedgerUnavailable(), "1s"),
        (Refusal("queue_full", "Later."), None),
        (Refusal("insufficient_quota", "Spent.", retry_after_s=30), None),
    ],
)
def test_only_what_is_worth_retrying_says_when(refusal: Expected, delay: str | None) -> None:
    """In Google's own detail; a budget that is spent is not retried."""
    error = json.loads(GEMINI.refusal_body(refusal, status=refusal.status))["error"]
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]
    assert error.get("details") == (None if delay is None else details)


def test_the_upstreams_key_has_a_header_of_its_own() -> None:
    """Never a query parameter, which proxies log."""
    assert GEMINI.upstream_credential("secret") == ("x-goog-api-key", "secret")


def test_lists_of_models_are_read_and_written() -> None:
    """Names lose their prefix on the way in and get it on the way out."""
    body = GEMINI.models_body(["gemini-2.5-flash", "m"], created_s=0)
    assert GEMINI.listing.read(body) == ["gemini-2.5-flash", "m"]
    assert json.loads(body)["models"][1] == json.loads(GEMINI.model_body("m", created_s=0))
    assert json.loads(GEMINI.model_body("m", created_s=0))["name"] == "models/m"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"models":{}}', b'{"models":[{"id":"m"}]}', b"\xff"])
def test_a_list_that_cannot_be_read_is_empty(body: bytes) -> None:
    """An upstream of another kind lists nothing."""
    assert GEMINI.listing.read(body) == []
