"""The admin API's pipeline: a table of routes, and the one way a request goes through it.

Who is it > which route > may they > what did they send > act > answer. The same table and the same models make the OpenAPI
document. A path is taken as it came: split at its slashes, each part percent-decoded once, each id checked.
"""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from pydantic import BaseModel, ValidationError

from proxy import domain
from proxy.errors import Expected, Refusal
from proxy.ledger import Directory, Journal
from proxy.ledger.giving import Giving
from proxy.server.admin.body import read_object
from proxy.server.admin.events import Author
from proxy.server.admin.models import NoBody, NoQuery
from proxy.server.admin.problems import Mistake, Mistakes, mistakes_of
from proxy.server.admin.tokens import Role, Token, Tokens
from proxy.server.equality import EqualityFigures
from proxy.server.interventions import Control
from proxy.server.pools import UpstreamPools

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
QUERY_MEMBERS_MAX = 16
IDEMPOTENCY_KEY_PATTERN = r'"?[!#-\[\]-~ ]{1,255}"?'
PREFIX = "/admin/v1"

log = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)
Query = TypeVar("Query", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Desk:
    """What routes act on."""

    directory: Directory
    ledger: domain.Ledger
    journal: Journal
    pools: UpstreamPools | None = None
    giving: Giving | None = None
    equality: EqualityFigures | None = None
    interventions: Control | None = None
    """All None where nothing but a caller's own account may be acted on."""

    @property
    def gives(self) -> Giving:
        """For routes that are there only where there is one."""
        assert self.giving is not None, "whoever has these routes has it"
        return self.giving


@dataclass(frozen=True, slots=True)
class Ask(Generic[Body, Query]):
    """One request that may do what it asks, read and checked."""

    author: Author
    ids: Mapping[str, str]
    body: Body
    query: Query
    wants_csv: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """An answer that is streamed as a file."""

    name: str
    content_type: str
    chunks: AsyncIterator[bytes]


Act = Callable[[Desk, Ask[Any, Any]], Awaitable[BaseModel | Export]]


@dataclass(frozen=True, slots=True)
class Route:
    """One call of the API: what it takes, who may, what it answers."""

    method: Method
    path: str
    """Below `/admin/v1`; `{name}` stands for one id."""
    role: Role
    act: Act
    answer: type[BaseModel]
    body: type[BaseModel]
    query: type[BaseModel]
    status: int
    refusals: tuple[str, ...]
    """Codes beyond those that any call may get."""
    csv: bool

    @property
    def mutates(self) -> bool:
        return self.method != "GET"


def route(
    method: Method,
    path: str,
    role: Role,
    *,
    answer: type[BaseModel],
    body: type[Body] = NoBody,  # type: ignore[assignment]  # a type variable has no default before Python 3.13
    query: type[Query] = NoQuery,  # type: ignore[assignment]  # as above
    status: int = 200,
    refusals: tuple[str, ...] = (),
    csv: bool = False,
) -> Callable[[Callable[[Desk, Ask[Body, Query]], Awaitable[BaseModel | Export]]], Route]:
    """Make the route that a function carries out; its name and docstring stand in the OpenAPI document."""

    def with_act(act: Callable[[Desk, Ask[Body, Query]], Awaitable[BaseModel | Export]]) -> Route:
        return Route(method, path, role, act, answer, body, query, status, refusals, csv)

    return with_act


def bearer_of(request: web.BaseRequest, tokens: Tokens) -> Token:
    """Whose request it is. Raises Refusal: invalid_api_key."""
    values = request.headers.getall("Authorization", [])
    scheme, _, secret = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    token = tokens.find(secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None
    if token is None:
        raise Refusal(
            "invalid_api_key",
            "there is no admin token, or none that is known",
            hint="send Authorization: Bearer <admin token>; API keys of accounts do not count here",
        )
    return token


class Placed(Protocol):
    """What is found by a request's method and path."""

    @property
    def method(self) -> Method: ...

    @property
    def path(self) -> str: ...


Place = TypeVar("Place", bound=Placed)


def find(
    routes: Sequence[Place], method: str, raw_path: str, *, prefix: str = PREFIX, hint: str = f"{PREFIX}/openapi.json lists what there is"
) -> tuple[Place, dict[str, str]]:
    """The route for a request and the ids in its path. Raises Refusal: unknown_path, method_not_allowed; Mistakes."""
    parts = raw_path.removeprefix(prefix).split("/")
    found = [route for route in routes if raw_path.startswith(f"{prefix}/") and _fits(route.path.split("/"), parts)]
    if not found:
        raise Refusal("unknown_path", "there is nothing at this path", hint=hint)
    for route in found:
        if route.method == method:
            return route, _ids(route.path.split("/"), parts)
    raise MethodNotAllowed(tuple(route.method for route in found))


class MethodNotAllowed(Refusal):
    """The path is there, the method is not."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("method_not_allowed", f"this path takes {', '.join(allowed)}")
        self.allowed = allowed


def _fits(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(t == p or (t[:1] == "{" and p) for t, p in zip(template, parts, strict=True))


def _ids(template: list[str], parts: list[str]) -> dict[str, str]:
    ids = {}
    for place, part in zip(template, parts, strict=True):
        if not place.startswith("{"):
            continue
        value = unquote(part, errors="replace")
        if not re.fullmatch(domain.IDENTIFIER_PATTERN, value):
            message = "must be 1 to 128 letters, digits or . _ : @ - and start with a letter or digit"
            raise Mistakes((Mistake(place=place, message=message),))
        ids[place.strip("{}")] = value
    return ids


async def read(request: web.BaseRequest, route: Route, ids: dict[str, str], token: Token) -> Ask[Any, Any]:
    """What a request asks for. Raises Refusal; Mistakes."""
    query = read_query(request, route.query)
    body: BaseModel = NoBody()
    if route.mutates and route.body is not NoBody:
        body = validated(route.body, await read_object(request))
    return Ask(
        author=author_of(request, name=token.name, scope=f"admin:{token.name}", path=route.path.format(**ids), sent=(query, body)),
        ids=ids,
        body=body,
        query=query,
        wants_csv=route.csv and wants_csv(request),
    )


async def respond(request: web.BaseRequest, answer: BaseModel | Export, *, status: int = 200) -> web.StreamResponse:
    """The answer on the wire. An export that breaks off ends in a broken connection, so that nobody takes it for the whole."""
    if isinstance(answer, BaseModel):
        return web.Response(status=status, body=answer.model_dump_json(by_alias=True).encode(), content_type="application/json")
    headers = {"Content-Type": answer.content_type, "Content-Disposition": f'attachment; filename="{answer.name}"'}
    response = web.StreamResponse(status=status, headers={**headers, "Cache-Control": "no-store"})
    await response.prepare(request)
    try:
        async for chunk in answer.chunks:
            await response.write(chunk)
        await response.write_eof()
    except Expected as error:
        log.error("export %s broke off: %s", answer.name, error.message)
        if request.transport is not None:
            request.transport.abort()
    return response


def wants_csv(request: web.BaseRequest) -> bool:
    """Whether the first type that the client accepts is CSV."""
    return request.headers.get("Accept", "").split(",")[0].split(";")[0].strip().lower() == "text/csv"


def read_query(request: web.BaseRequest, model: type[Query]) -> Query:
    """The query as its model says; an empty value counts as absent. Raises Mistakes."""
    _, _, text = request.raw_path.partition("?")
    try:
        pairs = parse_qsl(text, strict_parsing=bool(text), errors="strict", max_num_fields=QUERY_MEMBERS_MAX, keep_blank_values=True)
    except ValueError as error:
        raise Mistakes((Mistake(place="?", message="cannot be read as a query"),)) from error
    members = {name: value for name, value in pairs if value}
    if len(members) != len([value for _, value in pairs if value]):
        raise Mistakes((Mistake(place="?", message="names a member twice"),))
    try:
        return model.model_validate(members)
    except ValidationError as error:
        raise mistakes_of(error, prefix="?") from None


def validated(model: type[Body], document: dict[str, Any] | None) -> Body:
    """The body as its model says; no body counts as an empty object. Raises Mistakes."""
    try:
        return model.model_validate({} if document is None else document)
    except ValidationError as error:
        raise mistakes_of(error) from None


def author_of(request: web.BaseRequest, *, name: str, scope: str, path: str, sent: Sequence[BaseModel]) -> Author:
    """Who acts, with ids drawn from the scope, the Idempotency-Key, the method and the path; random ones without a key.

    Raises Mistakes where the key cannot be read.
    """
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        new = f"op-{uuid.uuid4().hex}"
        return Author(name, new, new)
    if len(keys) != 1 or not re.fullmatch(IDEMPOTENCY_KEY_PATTERN, keys[0]):
        raise Mistakes((Mistake(place="Idempotency-Key", message="must be one header of 1 to 255 printable ASCII characters"),))
    key = keys[0].strip('"')
    operation_id = f"op-{_digest(scope, key, request.method, path)}"
    return Author(name, operation_id, f"{operation_id}:{_digest(*(model.model_dump_json() for model in sent))}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
