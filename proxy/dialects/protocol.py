"""What a dialect is: the seam between the wire of one API and everything above.

Owns the nouns that all dialects share and the `compute_ledger` member of an error body. Knows no API; the dialects implement this, and
`proxy.dialects` holds the table of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal, Protocol
from urllib.parse import quote

from proxy.dialects.counting import MediaRule
from proxy.dialects.listing import Listing
from proxy.domain import Answer, Call, Piece, StreamReader, Usage, credits_from_nanocredits
from proxy.errors import Expected
from proxy.frozen import dataclass

MODEL_NAME_LENGTH_MAX = 256


MODEL_IN_PATH = "{model}"
ID_IN_PATH = "{id}"
REST_OF_PATH = "/*"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint of a dialect."""

    name: str
    dialect: str
    method: Method
    path: str
    """Canonical, and what is appended to the upstream's base URL.

    `{model}` in it stands for a model's name, `{id}` for the id of what is kept, `/*` at its end for all that begin so; whoever finds
    the latter gets the path itself.
    """
    output: Literal["tokens", "none"] = "tokens"
    forwarded: bool = True
    """False where the proxy answers by itself."""
    free: bool = False
    """Whether it uses nothing of a model (versions, tokens counted): forwarded for any caller, and neither held nor charged."""
    query: frozenset[str] = frozenset()
    """Names of the query parameters that may come with it; they are forwarded, except `key`, which is the caller's."""
    marker: str = ""
    """A header by which a client says that it means this dialect's operation, where several have the same path."""
    passes_content_type: bool = False
    """Whether the body is forwarded under the client's own Content-Type; else it is JSON."""
    socket: bool = False
    """Whether it is a conversation over a WebSocket, which begins with this request."""
    upstream: str = ""
    """The one upstream that serves it, where the operator says so; else any that speaks the dialect."""
    kept: bool = False
    """Whether it is about what outlives a request: files and batches, of which the proxy keeps whose they are."""

    def path_to(self, name: str) -> str:
        """The path at the upstream for a model by this name, or for what is kept by this id."""
        return self.path.replace(ID_IN_PATH if self.kept else MODEL_IN_PATH, quote(name, safe="@:+~"))


@dataclass(frozen=True, slots=True)
class Request:
    """What came to an operation, for a dialect to read."""

    operation: Operation
    body: bytes
    model: str | None = None
    """The model that the path names, or the id of what is kept, where it does."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What the operation lets through of the query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """As the client sent them; names in any case."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What must be different in the body that is forwarded."""

    output_tokens_max: int | None = None
    """Per choice: no maximum may be above it, and one must be there."""
    model: str | None = None
    """The upstream's own name of the model, where the caller's is an alias."""
    continuous_usage: bool = False
    """Whether usage is to be asked for in every chunk, of an upstream that can do so."""


NO_CHANGES = Changes()


class Reader(StreamReader, Protocol):
    """A stream reader that can also end the stream in the dialect's own words.

    What it returns may follow any piece that was forwarded whole, instead of the pieces after it; `unsent` are those that were read
    and will not be forwarded. None where the form of the answer has no words for it; then the connection is broken off.
    """

    def cut_by_error(self, refusal: Expected, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """The error event and the end marker, so that the official clients raise."""
        ...

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes | None:
        """The end that the model's own length limit would make, with the usage that is charged. What `unsent` closed is closed here."""
        ...


class Dialect(Protocol):
    """One API: how to read its requests, answers and usage, and how to phrase ours."""

    @property
    def name(self) -> str: ...

    @property
    def operations(self) -> Sequence[Operation]:
        """Every endpoint."""
        ...

    @property
    def listing(self) -> Listing | None:
        """Where an upstream lists its models; None where the API has no such list."""
        ...

    def parse_request(self, request: Request, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        ...

    def rewrite(self, call: Call, request: Request, changes: Changes) -> bytes | None:
        """The body to forward instead, or None to forward it as it came.

        Beside the changes, usage is asked for in streams; nothing else changes. The name of a model in the path is not its business.
        """
        ...

    def read_stream(self, call: Call, media_type: str) -> Reader | None:
        """A reader for an answer of this media type (lower case, without parameters); None where it does not come as a stream."""
        ...

    def read_answer(self, call: Call, body: bytes, media_type: str) -> Answer:
        """What a whole answer used and holds."""
        ...

    def refusal_body(self, refusal: Expected, *, status: int) -> bytes:
        """The body of a request that is refused or failed under this status."""
        ...

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        ...

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes:
        """The list of models that a caller may use."""
        ...

    def model_body(self, model: str, *, created_s: int) -> bytes:
        """One model that a caller may use."""
        ...


def ledger_member(refusal: Expected) -> dict[str, str]:
    """The `compute_ledger` member of an error body: amounts as decimal credits, or units of the level that `unit` names; times in RFC
    3339. What does not apply is left out."""
    members = {
        "code": refusal.code,
        "account": refusal.account,
        "limit": refusal.limit,
        "needed": _credits(refusal.needed_nanocredits),
        "available": _credits(refusal.available_nanocredits),
        "unit": refusal.unit,
        "resets_at": None if refusal.resets_at_ms is None else utc_time(refusal.resets_at_ms),
        "hint": refusal.hint,
    }
    return {name: value for name, value in members.items() if value is not None}


def utc_time(at_ms: int) -> str:
    """A time as RFC 3339 in UTC, with milliseconds only where there are any: `2026-11-23T00:00:00Z`."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=at_ms)
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds").replace("+00:00", "Z")


def _credits(amount_nanocredits: int | None) -> str | None:
    return None if amount_nanocredits is None else credits_from_nanocredits(amount_nanocredits)
