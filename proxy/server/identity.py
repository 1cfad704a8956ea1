"""Whose request it is: the one key among the headers, and the account that it stands for.

A key is looked up by the SHA-256 of the whole of it; it is neither kept nor logged, and never goes upstream (`headers.py`). Must not know
what the caller may spend.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from multidict import CIMultiDictProxy

from proxy.domain import Caller
from proxy.errors import Refusal

KEY_HEADERS = ("x-api-key", "x-goog-api-key", "api-key")
"""Where SDKs put a key as it is; beside them stands `Authorization: Bearer`."""

_KEY = re.compile(r"[!-~]{20,256}")
"""Ours are `cl-` and 43 characters; a key of the operator's own making may be anything printable that is not guessed at once."""


class KeyLookup(Protocol):
    """What the ledger's directory offers here."""

    async def caller(self, key_sha256_hex: str) -> Caller | None:
        """The caller that a live key stands for; None for an unknown or revoked one. Raises LedgerUnavailable."""
        ...


async def identify(headers: CIMultiDictProxy[str], lookup: KeyLookup, *, elsewhere: str | None = None) -> tuple[Caller, str]:
    """The caller, and the key that was shown. Raises Refusal invalid_api_key, invalid_request; LedgerUnavailable."""
    key = key_of(headers, elsewhere)
    caller = await lookup.caller(hashlib.sha256(key.encode("ascii")).hexdigest())
    if caller is None:
        raise Refusal("invalid_api_key", "The API key is not known, or was revoked.", hint="Ask whoever runs this proxy for a key.")
    return caller, key


def key_of(headers: CIMultiDictProxy[str], elsewhere: str | None = None) -> str:
    """The one API key of a request. Raises Refusal: invalid_api_key where there is none, invalid_request where there are two."""
    key = elsewhere
    for value in headers.getall("Authorization", ()):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            key = _same(key, token.strip())
    for name in KEY_HEADERS:
        if name in headers:
            for value in headers.getall(name):
                key = _same(key, value.strip())
    if key is None:
        raise Refusal(
            "invalid_api_key",
            "No API key was sent.",
            hint="Send it as Authorization: Bearer <key>, x-api-key, x-goog-api-key or api-key.",
        )
    if _KEY.fullmatch(key) is None:
        raise Refusal("invalid_api_key", "What was sent as the API key does not have the form of one.")
    return key


def _same(before: str | None, key: str) -> str:
    if before is not None and before != key:
        raise Refusal("invalid_request", "Two different API keys were sent.", hint="Send one key, in one header.")
    return key
