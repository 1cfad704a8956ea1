"""What passes between a client and an upstream, either way: every end-to-end header but those named here.

Hop-by-hop fields are RFC 9110's and whatever `Connection` names; since nothing here depends on a header that a client sends, naming one
there can only remove it. Names with an underscore never pass, because many servers read `X_User` as `X-User`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from multidict import CIMultiDict, CIMultiDictProxy

SECRET_LENGTH_MIN = 16
"""A shorter upstream key ("none", "test") could stand in any text by chance, so it is not looked for."""

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "http2-settings"}
)
_REQUEST_DROPPED = _HOP_BY_HOP | {
    *("authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie"),  # credentials
    *("host", "content-length", "content-type", "content-encoding", "accept-encoding", "expect"),  # written anew
    *("forwarded", "via", "from", "remote-user", "true-client-ip", "origin", "referer"),  # who and where the caller is
    *("openai-organization", "openai-project", "x-goog-user-project", "x-hf-bill-to"),  # whom the upstream would bill
    *("anthropic-workspace-id", "anthropic-user-profile-id"),  # the same
    *("x-http-method-override", "x-http-method", "x-method-override", "prefer"),  # what would make another request of it
    "x-goog-fieldmask",  # what would hide what it used
}
_REQUEST_DROPPED_PREFIXES = (
    *("x-forwarded-", "x-real-", "x-client-ip", "x-cluster-client-", "x-original-", "x-rewrite-", "x-envoy-", "cf-"),
    *("x-user", "x-auth", "x-remote-", "x-consumer-", "x-authenticated-", "x-ledger-", "x-gateway-", "x-llm-d-", "x-goog-auth"),
    *("x-amz-security-", "x-ms-token-", "proxy-", "sec-"),
    *("x-portkey-", "x-litellm-", "helicone-", "x-vertex-ai-"),  # what other gateways take for orders: another model, place or tier
)
_ANSWER_DROPPED = _HOP_BY_HOP | {
    *("content-length", "content-encoding"),  # written anew
    *("set-cookie", "set-cookie2", "location", "content-location", "refresh"),  # another origin's state and places
    *("alt-svc", "strict-transport-security", "clear-site-data", "public-key-pins"),  # promises about this origin
    *("ratelimit", "ratelimit-policy"),  # ours stand here; the vendors' x-ratelimit-* pass
}
_ANSWER_DROPPED_PREFIXES = ("x-ledger-", "proxy-")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_RENAMED = {"x-request-id": "X-Upstream-Request-Id"}
"""Our own id stands in `X-Request-Id`, for it names the hold and the journal's line; the upstream's is kept beside it."""

REMEMBERED_MAX = 1024


class _Passing(dict[str, bool]):
    """Whether a name passes; remembers what it decided, and as names come from outside, only so many."""

    def __init__(self, dropped: Iterable[str], prefixes: tuple[str, ...]) -> None:
        self._dropped = frozenset(dropped)
        self._prefixes = prefixes

    def __missing__(self, name: str) -> bool:
        lower = name.lower()
        passes = lower not in self._dropped and not lower.startswith(self._prefixes) and "_" not in lower
        if len(self) < REMEMBERED_MAX:
            self[name] = passes
        return passes


_passes_upstream = _Passing(_REQUEST_DROPPED, _REQUEST_DROPPED_PREFIXES)
_passes_to_client = _Passing({*_ANSWER_DROPPED, *_RENAMED}, _ANSWER_DROPPED_PREFIXES)


def for_upstream(headers: CIMultiDictProxy[str], *, caller_key: str) -> str:
    """The lines of a request's head that pass to the upstream, each with its line end."""
    passing = [(name, value) for name, value in headers.items() if _passes_upstream[name]]
    lines = _lines(passing)
    if caller_key in lines or "Connection" in headers or not lines.isascii():
        named = _named_by_connection(headers)
        lines = _lines((n, v) for n, v in passing if n.lower() not in named and caller_key not in v and _is_text(v))
    return lines


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in pairs])


def for_client(headers: CIMultiDictProxy[str], *, secret: str | None) -> CIMultiDict[str]:
    """An answer's headers as the client gets them; one that repeats the upstream's key back is left out."""
    pairs = [(name, value) for name, value in headers.items() if _passes_to_client[name]]
    if not _is_plain("".join([value for _, value in pairs])):
        pairs = [(name, value) for name, value in pairs if _is_text(value)]
    passing = CIMultiDict(pairs)
    for name in _named_by_connection(headers):
        passing.popall(name, None)
    for name, renamed in _RENAMED.items():
        if name in headers and _is_text(headers[name]):
            passing[renamed] = headers[name]
    if secret is not None and len(secret) >= SECRET_LENGTH_MIN:
        for name in [name for name, value in passing.items() if secret in value]:
            passing.popall(name, None)
    return passing


def _named_by_connection(headers: CIMultiDictProxy[str]) -> Collection[str]:
    if "Connection" not in headers:
        return ()
    return {name.strip().lower() for value in headers.getall("Connection") for name in value.split(",")}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_text(value: str) -> bool:
    """Whether a value can be written again: no control in it, and no bytes that are no UTF-8, which arrive as lone surrogates."""
    if _is_plain(value):
        return True
    if _CONTROLS.search(value) is not None:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
