"""Which headers pass, either way."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.server import headers
from proxy.server.headers import for_client, for_upstream

KEY = "cl-" + "k" * 43
SECRET = "sk-upstream-0123456789"


def passed(*pairs: tuple[str, str]) -> list[str]:
    text = for_upstream(CIMultiDictProxy(CIMultiDict(pairs)), caller_key=KEY)
    assert text == "" or text.endswith("\r\n")
    return text.splitlines()


def returned(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    return list(for_client(CIMultiDictProxy(CIMultiDict(pairs)), secret=SECRET).items())


@pytest.mark.parametrize(
    "name",
    ["Accept", "User-Agent", "OpenAI-Beta", "anthropic-version", "x-stainless-lang", "traceparent", "Idempotency-Key", "X-Request-Id"],
)
def test_end_to_end_headers_pass(name: str) -> None:
    """What a client tells the API goes through as it is."""
    assert passed((name, "value, with: all")) == [f"{name}: value, with: all"]
    assert passed((name, "a"), (name, "b")) == [f"{name}: a", f"{name}: b"]


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "HTTP2-Settings"),
        *("Authorization", "x-api-key", "x-goog-api-key", "api-key", "Cookie", "Host", "Content-Length", "Accept-Encoding", "Expect"),
        *("Forwarded", "X-Forwarded-For", "X-FORWARDED-Host", "X-Real-IP", "X-User", "X-User-Id", "X_User", "X_Forwarded_For"),
        *("X-Auth-Request-User", "Remote-User", "X-Ledger-Account", "X-Gateway-Model-Name-Rewrite", "CF-Connecting-IP", "Via"),
        *("OpenAI-Organization", "OpenAI-Project", "x_api_key", "Proxy-Anything", "Content-Type"),
        *("X-HTTP-Method-Override", "X-Method-Override", "Prefer", "X-HF-Bill-To", "x-portkey-config", "X-Vertex-AI-LLM-Request-Type"),
    ],
)
def test_hop_by_hop_credential_and_identity_headers_do_not_pass(name: str) -> None:
    """In whatever case or spelling; what is ours to say is not the client's."""
    assert passed((name, "x"), (name.lower(), "y"), (name.upper(), "z"), ("Accept", "*/*")) == ["Accept: */*"]


def test_headers_that_connection_names_do_not_pass() -> None:
    """A client can withhold its own headers so, and nothing else, for ours are written afterwards."""
    assert passed(("Connection", "close, X-Mine , authorization"), ("X-Mine", "1"), ("X-Other", "2")) == ["X-Other: 2"]


def test_callers_key_does_not_pass_in_any_header() -> None:
    """A header that repeats the key is left out as a whole."""
    assert passed(("X-Trace", f"id;{KEY}"), ("Accept", "*/*")) == ["Accept: */*"]


def test_bytes_that_are_no_text_do_not_pass() -> None:
    """They could not be written again."""
    assert passed(("X-Bytes", "a\udcffb"), ("X-Name", "Zo\u00eb")) == ["X-Name: Zo\u00eb"]


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Content-Encoding", "Trailer", "Upgrade"),
        *("Set-Cookie", "Location", "Content-Location", "Alt-Svc", "Strict-Transport-Security", "RateLimit", "RateLimit-Policy"),
        *("X-Ledger-Cost", "X_Anything", "Proxy-Status"),
    ],
)
def test_answer_headers_that_are_another_origins_or_ours_do_not_pass(name: str) -> None:
    """Cookies, places and promises of the upstream are not this origin's, and our own are not the upstream's to set."""
    assert returned((name, "x"), ("Content-Type", "application/json")) == [("Content-Type", "application/json")]


def test_answer_headers_pass_with_all_their_values() -> None:
    """The vendors' own headers reach the client, several of a name as several."""
    pairs = [("x-ratelimit-remaining-tokens", "7"), ("openai-processing-ms", "12"), ("X-A", "1"), ("X-A", "2"), ("retry-after", "3")]
    assert returned(*pairs) == pairs


def test_upstreams_request_id_is_kept_beside_ours() -> None:
    """SDKs show `x-request-id`, which is to lead to the journal; the upstream's stays at hand."""
    assert returned(("x-request-id", "req_1")) == [("X-Upstream-Request-Id", "req_1")]


def test_answer_headers_that_control_do_not_pass() -> None:
    """What could end a line stays out of the head that is written for the client; a tab and letters of any script stay in."""
    came = CIMultiDictProxy(
        CIMultiDict({"X-One": "a\rb", "X-Two": "a\x7fb", "X-Three": "a\tb", "X-Four": "na\u00efve", "X-Request-Id": "\r"})
    )
    assert dict(headers.for_client(came, secret=None)) == {"X-Three": "a\tb", "X-Four": "na\u00efve"}


def test_header_that_holds_the_upstreams_key_does_not_pass() -> None:
    """Wherever it stands."""
    assert returned(("X-Echo", f"Bearer {SECRET}"), ("X-Ok", "1")) == [("X-Ok", "1")]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from outside without end."""
    monkeypatch.setattr(headers, "REMEMBERED_MAX", 5)
    passing = headers._Passing({"a"}, ("x-",))
    assert [passing[f"n{i}"] for i in range(20)] == [True] * 20
    assert len(passing) == 5
    assert not passing["A"]
    assert not passing["X-any"]
