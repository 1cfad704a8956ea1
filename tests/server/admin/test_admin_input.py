"""What the admin API refuses to read: each mistake named with its place, and never a 500."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.server.admin.bench import Client

LIMIT = {"credits": 1, "window": "day"}
GRANT = {"credits": 1, "reason": "x"}
PRICE = {"model": "m", "effective": "2026-01-01", "input": 1}

BAD_BODIES: list[tuple[str, str, Any, str]] = [
    ("POST", "/accounts", {}, "id"),
    ("POST", "/accounts", {"id": ""}, "id"),
    ("POST", "/accounts", {"id": None}, "id"),
    ("POST", "/accounts", {"id": 7}, "id"),
    ("POST", "/accounts", {"id": "a b"}, "id"),
    ("POST", "/accounts", {"id": "-a"}, "id"),
    ("POST", "/accounts", {"id": "a\n"}, "id"),
    ("POST", "/accounts", {"id": "é"}, "id"),
    ("POST", "/accounts", {"id": "x" * 129}, "id"),
    ("POST", "/accounts", {"id": "{tag}"}, "id"),
    ("POST", "/accounts", {"id": "a", "budget": 1}, "budget"),
    ("POST", "/accounts", {"id": "a", "parent": "a b"}, "parent"),
    ("POST", "/accounts", {"id": "a", "plan": 1}, "plan"),
    ("POST", "/accounts", {"id": "a", "weight": True}, "weight"),
    ("POST", "/accounts", {"id": "a", "weight": "2"}, "weight"),
    ("POST", "/accounts", {"id": "a", "weight": 1.0}, "weight"),
    ("POST", "/accounts", {"id": "a", "weight": 0}, "weight"),
    ("POST", "/accounts", {"id": "a", "weight": 10**40}, "weight"),
    ("POST", "/accounts", {"id": "a", "labels": []}, "labels"),
    ("POST", "/accounts", {"id": "a", "labels": {"k": 1}}, "labels.k"),
    ("POST", "/accounts", {"id": "a", "labels": {"k": "x" * 257}}, "labels.k"),
    ("POST", "/accounts", {"id": "a", "labels": {"k": "two\nlines"}}, "labels.k"),
    ("POST", "/accounts", {"id": "a", "labels": {f"k{n}": "" for n in range(33)}}, "labels"),
    ("POST", "/accounts", {"id": "a", "limits": LIMIT}, "limits"),
    ("POST", "/accounts", {"id": "a", "limits": "5/day"}, "limits"),
    ("POST", "/accounts", {"id": "a", "limits": [{}]}, "limits[0].credits"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "credits": -1}]}, "limits[0].credits"),
    ("POST", "/accounts", {"id": "a", "limits": [LIMIT, {**LIMIT, "credits": True}]}, "limits[1].credits"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "credits": "1e3"}]}, "limits[0].credits"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "window": "fortnight"}]}, "limits[0].window"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "window": "0s"}]}, "limits[0].window"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "time_zone": "Mars/Olympus"}]}, "limits[0].time_zone"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "time_zone": "../etc/passwd"}]}, "limits[0].time_zone"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "rollover": "half"}]}, "limits[0].rollover"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "rollover": "capped"}]}, "limits[0]"),
    ("POST", "/accounts", {"id": "a", "limits": [{**LIMIT, "spent": "0"}]}, "limits[0].spent"),
    ("POST", "/accounts", {"id": "a", "limits": [LIMIT, LIMIT]}, "body"),
    ("POST", "/accounts", {"id": "a", "limits": [{"credits": 1, "window": f"{n}s"} for n in range(1, 10)]}, "limits"),
    ("PATCH", "/accounts/user:ann", {}, "body"),
    ("PATCH", "/accounts/user:ann", {"reason": "why"}, "body"),
    ("PATCH", "/accounts/user:ann", {"id": "other"}, "id"),
    ("PATCH", "/accounts/user:ann", {"status": "deleted"}, "status"),
    ("PATCH", "/accounts/user:ann", {"status": None}, "status"),
    ("PATCH", "/accounts/user:ann", {"plan": None}, "plan"),
    ("PATCH", "/accounts/user:ann", {"weight": None}, "weight"),
    ("PATCH", "/accounts/user:ann", {"labels": None}, "labels"),
    ("PATCH", "/accounts/user:ann", {"weight": 1, "reason": "x" * 513}, "reason"),
    ("PATCH", "/accounts/user:ann", {"weight": 1, "reason": "\x1b[31mred"}, "reason"),
    ("POST", "/accounts/user:ann/keys", {"key": "cl-mine"}, "key"),
    ("POST", "/accounts/user:ann/grants", {"credits": 1}, "reason"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "reason": ""}, "reason"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": 0}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": "-1"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": "1.0000000001"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": "9007200"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": " 1"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": "1,5"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": "\u0661"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": "NaN"}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": None}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "credits": []}, "credits"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "priority": 1.5}, "priority"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "priority": 10**9}, "priority"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "expires_at": "2027-01-01"}, "expires_at"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "expires_at": "2027-01-01T00:00:00"}, "expires_at"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "expires_at": "2027-02-30T00:00:00Z"}, "expires_at"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "expires_at": 1893456000}, "expires_at"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "effective_at": "1969-12-31T23:59:59Z"}, "effective_at"),
    ("POST", "/accounts/user:ann/grants", {**GRANT, "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
    (
        "POST",
        "/accounts/user:ann/grants",
        {**GRANT, "effective_at": "2030-01-01T00:00:00Z", "expires_at": "2029-01-01T00:00:00Z"},
        "body",
    ),
    ("POST", "/accounts/user:ann/adjustments", {"credits": 0, "reason": "x"}, "credits"),
    ("POST", "/accounts/user:ann/adjustments", {"credits": "--1", "reason": "x"}, "credits"),
    ("POST", "/accounts/user:ann/adjustments", {"credits": "-9007200", "reason": "x"}, "credits"),
    ("POST", "/accounts/user:ann/adjustments", {"credits": 1}, "reason"),
    ("POST", "/transfers", {"from": "user:ann", "credits": 1, "reason": "x"}, "to"),
    ("POST", "/transfers", {"source": "user:ann", "to": "b", "credits": 1, "reason": "x"}, "source"),
    ("POST", "/transfers", {"from": "user:ann", "to": "b", "credits": -1, "reason": "x"}, "credits"),
    ("PUT", "/plans/p", {"name": "p"}, "name"),
    ("PUT", "/plans/p", {"models": []}, "models"),
    ("PUT", "/plans/p", {"models": ["a*b"]}, "models[0]"),
    ("PUT", "/plans/p", {"transfers": 1}, "transfers"),
    ("PUT", "/plans/p", {"transfers": "yes"}, "transfers"),
    ("PUT", "/plans/p", {"limits": None}, "limits"),
    ("PUT", "/plans/p", {"weight": -1}, "weight"),
    ("PUT", "/plans/p", {"requests_per_minute": 0}, "requests_per_minute"),
    ("PUT", "/plans/p", {"concurrent_requests": 1.5}, "concurrent_requests"),
    ("POST", "/prices", {"effective": "2026-01-01", "input": 1}, "model"),
    ("POST", "/prices", {"model": "m", "input": 1}, "effective"),
    ("POST", "/prices", {**PRICE, "effective": "2026-13-01"}, "effective"),
    ("POST", "/prices", {**PRICE, "effective": 2026}, "effective"),
    ("POST", "/prices", {**PRICE, "model": "*x"}, "model"),
    ("POST", "/prices", {**PRICE, "model": ""}, "model"),
    ("POST", "/prices", {**PRICE, "input": -1}, "input"),
    ("POST", "/prices", {**PRICE, "output": "free"}, "output"),
    ("POST", "/prices", {"model": "m", "effective": "2026-01-01"}, "body"),
    ("POST", "/prices", {**PRICE, "source": "file"}, "source"),
    ("POST", "/prices", {**PRICE, "tiers": None}, "tiers"),
    ("POST", "/prices", {**PRICE, "tiers": [{"input": 1}]}, "tiers[0].above_input_tokens"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": True, "input": 1}]}, "tiers[0].above_input_tokens"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": 0, "input": 1}]}, "tiers[0].above_input_tokens"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": 9, "input": -1}]}, "tiers[0].input"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": 9, "second": 1}]}, "tiers[0].second"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": 9}]}, "body"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": n, "input": 1} for n in (9, 8)]}, "body"),
    ("POST", "/prices", {**PRICE, "tiers": [{"above_input_tokens": n, "input": 1} for n in range(1, 18)]}, "tiers"),
    ("POST", "/audit", None, ""),
]


@pytest.fixture(autouse=True)
async def ann(call: Client) -> None:
    await call.done("POST", "/accounts", {"id": "user:ann"})


async def test_each_mistake_in_a_body_is_named_with_its_place(call: Client) -> None:
    """400 with the member that is wrong; nothing is changed and nothing is recorded."""
    for method, path, body, place in BAD_BODIES:
        if body is None:
            continue
        reply = await call(method, f"/admin/v1{path}", body)
        assert (reply.status, reply.json["code"]) == (400, "invalid_request"), (body, reply.text)
        assert place in [mistake["place"] for mistake in reply.json["errors"]], (body, reply.text)
        assert reply.json["detail"].startswith(reply.json["errors"][0]["place"])
    assert [account["id"] for account in (await call.done("GET", "/accounts"))["items"]] == ["user:ann"]
    assert len((await call.done("GET", "/events"))["items"]) == 1


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("limit=0", "?limit"), ("limit=501", "?limit"), ("limit=x", "?limit"), ("limit=1.0", "?limit"), ("limit=-1", "?limit"),
        ("limit=%31%30%30%30%30%30%30%30%30%30%30%30%30", "?limit"), ("limit=+5", "?limit"), ("after=a%20b", "?after"),
        ("status=gone", "?status"), ("plan=%00", "?plan"), ("parent=a/b", "?parent"), ("page=2", "?page"),
        ("limit=1&limit=2", "?"), ("limit", "?"), ("%ff=1", "?"), ("&".join(f"a{n}=1" for n in range(20)), "?"),
    ],
)  # fmt: skip
async def test_each_mistake_in_a_query_is_named(call: Client, query: str, place: str) -> None:
    """400 with the member that is wrong, marked with `?`."""
    reply = await call("GET", f"/admin/v1/accounts?{query}")
    assert reply.status == 400, reply.text
    assert place in [mistake["place"] for mistake in reply.json["errors"]]


@pytest.mark.parametrize(
    "path",
    [
        "/events?after=x", "/events?after=1", "/events?after=99999999999999999999-0", "/accounts/user:ann/journal?after=x",
        "/accounts/user:ann/journal?after=-1", "/accounts/user:ann/journal?after=9999999999999999999999",
        "/accounts/user:ann/holds?after=1e3", "/plans?after=%7B", "/prices?after=1", "/prices?after=x:y",
    ],
)  # fmt: skip
async def test_a_cursor_of_ones_own_making_is_refused(call: Client, path: str) -> None:
    """Only what a page gave as `next` is taken: nothing else reaches the ledger."""
    reply = await call("GET", f"/admin/v1{path}")
    assert (reply.status, reply.json["errors"][0]["place"]) == (400, "?after"), reply.text


async def test_an_empty_query_member_counts_as_absent(call: Client) -> None:
    """The contract writes `?limit=&after=`."""
    page = await call.done("GET", "/accounts?parent=&plan=&status=&limit=&after=")
    assert len(page["items"]) == 1


BAD_TEXTS = [
    b"{",
    b"nonsense",
    b"[]",
    b"null",
    b'"text"',
    b"{} {}",
    b'{"id":"a",}',
    b"{'id':'a'}",
    b'{"id":"a","id":"a"}',
    b'{"id":"a","labels":{"k":"1","k":"2"}}',
    b'{"id":"a","weight":NaN}',
    b'{"id":"a","weight":Infinity}',
    b'{"id":"a","weight":1e999999999999}',
    b'{"id":"a","weight":' + b"9" * 5000 + b"}",
    b'{"id":"a","labels":{"k":"\\ud800"}}',
    b'{"id":"a","\\udc00":1}',
    b'\xef\xbb\xbf{"id":"a"}',
    b'{"id":"\xff"}',
    '{"id":"a"}'.encode("utf-16"),
    b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"id":' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"id":"a\x00"}',
    b"\x00",
]


async def test_a_body_that_is_not_plain_json_is_refused(call: Client) -> None:
    """Unreadable, ambiguous, too deep, or not an object: 400."""
    for text in BAD_TEXTS:
        reply = await call("POST", "/admin/v1/accounts", data=text, headers={"Content-Type": "application/json"})
        assert (reply.status, reply.json["code"]) == (400, "invalid_request"), (text[:50], reply.text[:200])
    assert len((await call.done("GET", "/accounts"))["items"]) == 1


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"])
async def test_a_body_must_be_declared_as_json(call: Client, content_type: str) -> None:
    """415: a form of some other site cannot send this."""
    reply = await call("POST", "/admin/v1/accounts", data=b'{"id":"a"}', headers={"Content-Type": content_type})
    assert (reply.status, reply.json["code"]) == (415, "unsupported_encoding")


async def test_a_body_may_be_declared_with_its_charset(call: Client) -> None:
    """UTF-8 is what JSON is in."""
    reply = await call("POST", "/admin/v1/accounts", data=b'{"id":"a"}', headers={"Content-Type": "Application/JSON; charset=UTF-8"})
    assert reply.status == 201


async def test_a_large_or_compressed_body_is_refused(call: Client) -> None:
    """413 beyond one mebibyte, whether its length was declared or not; 415 for a coding."""
    large = json.dumps({"id": "a", "reason": "x" * 2**20}).encode()
    json_type = {"Content-Type": "application/json"}
    reply = await call("POST", "/admin/v1/accounts", data=io.BytesIO(large), headers=json_type)
    assert (reply.status, reply.json["code"]) == (413, "request_too_large")

    async def chunks() -> Any:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    reply = await call("POST", "/admin/v1/accounts", data=chunks(), headers=json_type)
    assert (reply.status, reply.json["code"]) == (413, "request_too_large")
    reply = await call("POST", "/admin/v1/accounts", data=b"x", headers={**json_type, "Content-Encoding": "gzip"})
    assert (reply.status, reply.json["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"])
async def test_an_idempotency_key_must_be_readable(call: Client, key: str) -> None:
    """Printable ASCII, up to 255 characters."""
    reply = await call("POST", "/admin/v1/accounts", {"id": "a"}, key=key)
    assert (reply.status, reply.json["errors"][0]["place"]) == (400, "Idempotency-Key")
