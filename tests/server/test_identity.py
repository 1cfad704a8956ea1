"""Which key a request shows, and whose it is."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.domain import Caller, Plan
from proxy.errors import Refusal
from proxy.server.identity import identify, key_of
from tests.support.model_ledger import ModelLedger
from tests.support.proxied import ACCOUNT, KEY, PATH, Book, Clock

OTHER = "cl-" + "o" * 43


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(
    "shown",
    [
        [("Authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer  {KEY} ")],
        [("X-Api-Key", KEY)],
        [("x-goog-api-key", KEY)],
        [("api-key", KEY)],
        [("Authorization", f"Bearer {KEY}"), ("x-api-key", KEY)],
        [("Authorization", "Basic dTpw"), ("x-api-key", KEY)],
    ],
)
def test_key_is_found_where_each_sdk_puts_it(shown: list[tuple[str, str]]) -> None:
    """The same key twice is one key."""
    assert key_of(headers(*shown)) == KEY


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ([], "invalid_api_key"),
        ([("Authorization", KEY)], "invalid_api_key"),
        ([("Authorization", "Bearer ")], "invalid_api_key"),
        ([("Authorization", "Bearer short")], "invalid_api_key"),
        ([("Authorization", "Bearer " + "x" * 257)], "invalid_api_key"),
        ([("Authorization", f"Bearer {KEY} {KEY}")], "invalid_api_key"),
        ([("Authorization", "Bearer cl-\u00e9" + "x" * 42)], "invalid_api_key"),
        ([("Authorization", "Bearer cl-\udcff" + "x" * 42)], "invalid_api_key"),
        ([("x-api-key", "")], "invalid_api_key"),
        ([("Authorization", f"Bearer {KEY}"), ("x-api-key", OTHER)], "invalid_request"),
        ([("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {OTHER}")], "invalid_request"),
        ([("Authorization", f"Bearer {KEY}"), ("api-key", "")], "invalid_request"),
    ],
)
def test_what_is_no_key_or_two_is_refused(shown: list[tuple[str, str]], code: str) -> None:
    """No key and a bad one are the same to the caller; two different ones are ambiguous."""
    with pytest.raises(Refusal) as caught:
        key_of(headers(*shown))
    assert caught.value.code == code
    assert KEY not in caught.value.message


def test_keys_of_an_operators_making_may_have_any_form() -> None:
    """Seeds in the configuration bring their own keys."""
    assert key_of(headers(("x-api-key", "team-red/2026~secret"))) == "team-red/2026~secret"


async def test_caller_is_looked_up_by_the_hash_of_the_whole_key() -> None:
    """A key that shares all but its last character with a known one is unknown."""
    book = Book((), ModelLedger(Clock()))
    book.add(KEY, Caller(ACCOUNT, PATH, Plan("everyone", ()), "key-1"))
    caller, key = await identify(headers(("x-api-key", KEY)), book)
    assert (caller.account, key) == (ACCOUNT, KEY)
    with pytest.raises(Refusal) as caught:
        await identify(headers(("x-api-key", KEY[:-1] + "x")), book)
    assert caught.value.status == 401
