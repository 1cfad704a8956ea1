"""How the Anthropic dialect phrases refusals and lists models, in the shapes that its clients read."""

from __future__ import annotations

import json

import pytest

from proxy.dialects import DIALECTS, Paths
from proxy.errors import STATUS_BY_CODE, Failure, Refusal

ANTHROPIC = DIALECTS["anthropic"]
KNOWN_TYPES = {
    *("invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error", "conflict_error"),
    *("request_too_large", "rate_limit_error", "api_error", "overloaded_error", "timeout_error"),
}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid_request", 400, "invalid_request_error"),
        ("invalid_api_key", 401, "authentication_error"),
        ("insufficient_quota", 402, "billing_error"),
        ("insufficient_quota", 403, "permission_error"),
        ("insufficient_quota", 429, "rate_limit_error"),
        ("unknown_path", 404, "not_found_error"),
        ("request_too_large", 413, "request_too_large"),
        ("internal_error", 500, "api_error"),
        ("upstream_error", 502, "api_error"),
        ("draining", 503, "overloaded_error"),
        ("upstream_timeout", 504, "timeout_error"),
    ],
)
def test_a_refusal_has_the_type_of_its_status(code: str, status: int, kind: str) -> None:
    """Also where an operator has budgets refused under another status."""
    document = json.loads(ANTHROPIC.refusal_body(Refusal(code, "No."), status=status))
    assert document == {
        "type": "error",
        "error": {"type": kind, "message": "No.", "details": {"error_code": code}},
        "compute_ledger": {"code": code},
    }


@pytest.mark.parametrize("code", STATUS_BY_CODE)
def test_every_code_has_a_type_that_clients_know(code: str) -> None:
    """None is left to chance."""
    document = json.loads(ANTHROPIC.refusal_body(Failure(code, "No."), status=STATUS_BY_CODE[code]))
    assert document["error"]["type"] in KNOWN_TYPES


def test_the_message_holds_the_advice() -> None:
    """It is what people see; the amounts stand beside it for programs."""
    refusal = Refusal("insufficient_quota", "The budget is used up.", hint="It is renewed at midnight.", needed_nanocredits=5 * 10**8)
    document = json.loads(ANTHROPIC.refusal_body(refusal, status=402))
    assert document["error"]["message"] == "The budget is used up. It is renewed at midnight."
    assert document["compute_ledger"] == {"code": "insufficient_quota", "needed": "0.5", "hint": "It is renewed at midnight."}


def test_models_are_listed_on_one_page() -> None:
    """In the shape of this API, which needs no further page."""
    models = json.loads(ANTHROPIC.models_body(["a", "b"], created_s=1_700_000_000))
    assert models == {
        "data": [
            {"type": "model", "id": "a", "display_name": "a", "created_at": "2023-11-14T22:13:20Z"},
            {"type": "model", "id": "b", "display_name": "b", "created_at": "2023-11-14T22:13:20Z"},
        ],
        "has_more": False,
        "first_id": "a",
        "last_id": "b",
    }
    assert json.loads(ANTHROPIC.models_body([], created_s=0)) == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert json.loads(ANTHROPIC.model_body("b", created_s=1_700_000_000)) == models["data"][1]
    assert ANTHROPIC.listing.read(ANTHROPIC.models_body(["a", "b"], created_s=0)) == ["a", "b"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":[{"name":"a"}]}', b"\xff"])
def test_a_list_that_cannot_be_read_names_no_model(body: bytes) -> None:
    """A listing is worth no failure."""
    assert ANTHROPIC.listing.read(body) == []


def test_its_clients_get_its_own_list_where_another_dialect_has_the_path() -> None:
    """They say so by a header that all of them send."""
    paths = Paths(DIALECTS.values())
    for path in ("/v1/models", "/v1/models/claude"):
        assert paths.find("GET", path, {"anthropic-version": "2023-06-01"}).dialect is ANTHROPIC
        assert paths.find("GET", path, {}).dialect is DIALECTS["openai"]


@pytest.mark.parametrize(
    "path",
    ["/v1/messages/batches", "/v1/messages/batches/b/results", "/v1/complete", "/v1/files", "/v1/skills", "/v1/organizations/usage"],
)
def test_what_has_no_price_here_is_not_served(path: str) -> None:
    """Batches above all: what they start goes on after the request has ended."""
    with pytest.raises(Refusal) as refused:
        Paths([ANTHROPIC]).find("POST", path)
    assert refused.value.code == "unknown_path"
