"""The calls that people make with their own key, under `/ledger/v1`: a table of them, how one is found, and how one is read.

Reads as strictly as the admin API and finds by the same rule. Must not know what any call does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

from proxy.domain import Caller
from proxy.server.admin.body import read_object
from proxy.server.admin.events import Author
from proxy.server.admin.models import NoQuery
from proxy.server.admin.routing import Export, Method, author_of, read_query, validated

PREFIX = "/ledger/v1"

Answer = BaseModel | Export
Body = TypeVar("Body", bound=BaseModel)
Query = TypeVar("Query", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Asking:
    """A caller who asks for something: the request, whose it is, and the ids in its path."""

    request: web.BaseRequest
    caller: Caller
    ids: Mapping[str, str]
    path: str
    """Its canonical path."""
    claim: Callable[[str, str], Awaitable[object]]
    """Takes an id for one act (`Changes.claim`)."""

    def query(self, model: type[Query]) -> Query:
        """The query as its model says. Raises Mistakes."""
        return read_query(self.request, model)

    async def body(self, model: type[Body]) -> tuple[Body, Author]:
        """The body as its model says, and who acts; such a call has no query. Raises Mistakes; Refusal; what `author` does."""
        self.query(NoQuery)
        body = validated(model, await read_object(self.request))
        return body, await self.author(body)

    async def author(self, *sent: BaseModel) -> Author:
        """Who acts: the caller's own account. Raises Mistakes; Conflict where its Idempotency-Key came with something else before."""
        name = f"account:{self.caller.account}"
        author = author_of(self.request, name=name, scope=name, path=self.path, sent=sent)
        if author.may_repeat:
            await self.claim(*author.claim)
        return author


Act = Callable[[Asking], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class OwnCall:
    """One call: how it is asked for, what it does, and the status of its answer."""

    method: Method
    path: str
    """Below the prefix; `{name}` stands for one id."""
    act: Act
    status: int = 200
    only_reads: bool = False
    """For a call that changes nothing though it is no GET."""

    @property
    def writes(self) -> bool:
        """Whether it changes something, and so counts against its person's rate."""
        return self.method != "GET" and not self.only_reads
