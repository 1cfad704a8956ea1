"""Who may call the admin API: tokens, roles, methods, paths."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from proxy.config import Admin, AdminToken
from proxy.errors import SetupError
from proxy.server.admin import Tokens, configured_tokens, token_of
from proxy.server.admin.listener import route_table
from tests.server.admin.bench import ROLES, SECRETS, Client, ClientOf

ROUTES = route_table(version="0")
NEEDS = {
    ("POST", "/accounts"): "operator",
    ("GET", "/accounts"): "viewer",
    ("GET", "/accounts/{id}"): "viewer",
    ("PATCH", "/accounts/{id}"): "operator",
    ("POST", "/accounts/{id}/keys"): "operator",
    ("GET", "/accounts/{id}/keys"): "viewer",
    ("DELETE", "/keys/{key_id}"): "operator",
    ("POST", "/accounts/{id}/grants"): "operator",
    ("GET", "/accounts/{id}/grants"): "viewer",
    ("DELETE", "/accounts/{id}/grants/{grant_id}"): "operator",
    ("POST", "/accounts/{id}/adjustments"): "operator",
    ("POST", "/transfers"): "operator",
    ("GET", "/accounts/{id}/requests"): "viewer",
    ("POST", "/dividends"): "operator",
    ("GET", "/dividends"): "viewer",
    ("GET", "/dividends/{id}"): "viewer",
    ("POST", "/loans"): "operator",
    ("GET", "/loans"): "viewer",
    ("GET", "/loans/{id}"): "viewer",
    ("POST", "/loans/{id}/forgive"): "operator",
    ("GET", "/accounts/{id}/journal"): "viewer",
    ("GET", "/accounts/{id}/holds"): "viewer",
    ("GET", "/plans"): "viewer",
    ("GET", "/plans/{name}"): "viewer",
    ("PUT", "/plans/{name}"): "owner",
    ("GET", "/levels"): "viewer",
    ("GET", "/levels/{name}"): "viewer",
    ("GET", "/equality"): "viewer",
    ("POST", "/equality/recount"): "operator",
    ("GET", "/pools"): "viewer",
    ("GET", "/pools/{name}"): "viewer",
    ("PATCH", "/pools/{name}"): "operator",
    ("GET", "/interventions"): "viewer",
    ("GET", "/interventions/{policy}"): "viewer",
    ("PATCH", "/interventions/{policy}"): "owner",
    ("GET", "/prices"): "viewer",
    ("POST", "/prices"): "owner",
    ("POST", "/audit"): "operator",
    ("GET", "/events"): "viewer",
    ("GET", "/openapi.json"): "viewer",
}


def test_every_route_is_in_the_table_of_roles() -> None:
    """A route that is added must be given its role here, too."""
    assert {(route.method, route.path): route.role for route in ROUTES} == NEEDS


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_its_rank_allows_and_no_more(client_of: ClientOf, role: str) -> None:
    """For each role and route: 403 below the route's role, anything else from it on; the ids are unknown and bodies empty."""
    call = client_of(role)
    for (method, template), needed in NEEDS.items():
        path = "/admin/v1" + template.format(id="nobody", key_id="nokey", grant_id="nogrant", name="noplan", policy="nopolicy")
        reply = await call(method, path, None if method == "GET" else {"unknown": 1})
        allowed = ROLES.index(role) >= ROLES.index(needed)
        assert (reply.status != 403) == allowed, (method, path, reply.text)
        assert reply.status < 500, reply.text


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong-token-of-some-length",
        f"Basic {SECRETS['owner']}",
        SECRETS["owner"],
        f"Bearer {SECRETS['owner'][:-1]}",
        f"Bearer {SECRETS['owner']}x",
        "Bearer caf\xe9-caf\xe9-caf\xe9-caf\xe9",
    ],
)
async def test_without_a_known_token_nothing_is_told(client_of: ClientOf, authorization: str | None) -> None:
    """Every path under /admin/ answers alike, so that nobody learns which there are."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("GET", "/admin/v1/accounts"), ("POST", "/admin/v1/accounts"), ("GET", "/admin/v1/nothing"), ("GET", "/admin/")):
        reply = await client_of(None)(method, path, headers=headers)
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert reply.json["code"] == "invalid_api_key"


async def test_two_authorization_headers_are_refused(address: str) -> None:
    """Which of two would count is nobody's guess."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    line = f"Authorization: Bearer {SECRETS['owner']}\r\n"
    writer.write(f"GET /admin/v1/plans HTTP/1.1\r\nHost: x\r\n{line}{line}Connection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))


async def test_an_api_key_of_an_account_is_no_admin_token(call: Client, client_of: ClientOf) -> None:
    """Callers cannot administer."""
    await call.done("POST", "/accounts", {"id": "user:ann"})
    key = (await call.done("POST", "/accounts/user:ann/keys"))["key"]
    reply = await client_of(None)("GET", "/admin/v1/accounts", headers={"Authorization": f"Bearer {key}"})
    assert reply.status == 401


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND"])
async def test_other_methods_are_not_allowed(call: Client, method: str) -> None:
    """405 with what is allowed."""
    reply = await call(method, "/admin/v1/accounts")
    assert reply.status == 405
    assert reply.headers["Allow"] == "POST, GET"


@pytest.mark.parametrize(
    "path",
    ["/admin/v1", "/admin/v1/", "/admin/v1/accounts/", "/admin/v2/accounts", "//admin/v1/accounts", "/", "/admin", "/x", "/Admin/v1/plans"],
)
async def test_an_unknown_path_is_not_found(call: Client, path: str) -> None:
    """Nothing is guessed: no slash is added, taken away or folded, no case is ignored."""
    reply = await call("GET", path)
    assert (reply.status, reply.json["code"]) == (404, "unknown_path")


def test_tokens_that_could_be_guessed_are_refused_at_the_start() -> None:
    """An empty or short secret is no secret; an unprintable one cannot be sent."""
    for secret in ("", "short", "x" * 15, "x" * 16 + " y", "x" * 16 + "\n", "\xe9" * 16, "x" * 600):
        with pytest.raises(SetupError):
            token_of("t", "viewer", secret)
    with pytest.raises(SetupError, match="no admin token"):
        Tokens([])
    with pytest.raises(SetupError, match="same name"):
        Tokens([token_of("t", "viewer", "a" * 16), token_of("t", "owner", "b" * 16)])
    with pytest.raises(SetupError, match="same secret"):
        Tokens([token_of("t", "viewer", "a" * 16), token_of("u", "owner", "a" * 16)])


def test_only_the_hash_of_a_token_is_kept() -> None:
    """What a memory dump or a log could show is of no use."""
    token = token_of("t", "viewer", "a-secret-of-some-length")
    assert token.sha256 == hashlib.sha256(b"a-secret-of-some-length").digest()
    assert "a-secret" not in repr(token)


def test_tokens_come_from_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unnamed token is the owner's; the others have the role that they are given."""
    monkeypatch.setenv("MAIN", "m" * 20)
    monkeypatch.setenv("DASHBOARD", "d" * 20)
    row = AdminToken(name="dashboard", role="viewer", token_env="DASHBOARD")
    tokens = configured_tokens(Admin(token_env="MAIN", tokens=(row,)))
    assert [(token.name, token.role) for token in tokens] == [("admin", "owner"), ("dashboard", "viewer")]
    assert configured_tokens(Admin()) == ()
    with pytest.raises(SetupError, match="dashboard"):
        configured_tokens(Admin(tokens=(AdminToken(name="dashboard", role="viewer"),)))
    monkeypatch.setenv("DASHBOARD", "")
    with pytest.raises(SetupError, match="DASHBOARD"):
        configured_tokens(Admin(tokens=(row,)))
