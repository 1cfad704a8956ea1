"""What a dialect is: the seam between the wire of one API and everything above.

Owns the nouns that all dialects share and the `compute_ledger` member of an error body. Knows no API; the dialects implement this, and
`proxy.dialects` holds the table of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.dialects.counting import MediaRule
from proxy.domain import Answer, Call, Piece, StreamReader, Usage, credits_from_nanocredits
from proxy.errors import Expected

MODEL_NAME_LENGTH_MAX = 256


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint of a dialect."""

    name: str
    dialect: str
    method: Literal["GET", "POST"]
    path: str
    """Canonical; also what is appended to the upstream's base URL."""
    output: Literal["tokens", "none"] = "tokens"
    forwarded: bool = True
    """False where the proxy answers by itself."""
    model: str | None = None
    """The model that the path names, where it does."""

    @property
    def needs_output_price(self) -> bool:
        return self.output == "tokens"


class Reader(StreamReader, Protocol):
    """A stream reader that can also end the stream in the dialect's own words.

    What it returns may follow any piece that was forwarded whole, instead of the pieces after it.
    """

    def cut_by_error(self, refusal: Expected) -> bytes:
        """The error event and the end marker, so that the official clients raise."""
        ...

    def cut_by_length(self, usage: Usage, *, unsent: Sequence[Piece] = ()) -> bytes:
        """The end that the model's own length limit would make, with the usage that is charged.

        `unsent` are the pieces that were read and will not be forwarded, so that what they closed is closed here instead.
        """
        ...


class Dialect(Protocol):
    """One API: how to read its requests, answers and usage, and how to phrase ours."""

    @property
    def name(self) -> str: ...

    @property
    def operations(self) -> Sequence[Operation]:
        """Every endpoint. A path that ends in `/*` stands for all that begin so; what follows is the name of a model."""
        ...

    def parse_request(self, operation: Operation, body: bytes, media: MediaRule) -> Call:
        """What the request asks for. Raises Refusal: invalid_request."""
        ...

    def rewrite(self, call: Call, body: bytes, *, output_tokens_max: int | None) -> bytes | None:
        """The body to forward instead, or None to forward it as it came.

        Every maximum in the request is lowered to `output_tokens_max` (per choice), one is added where there is none, and usage is asked
        for in streams; nothing else changes.
        """
        ...

    def read_stream(self, call: Call) -> Reader:
        """A reader for one streamed answer."""
        ...

    def read_answer(self, call: Call, body: bytes) -> Answer: ...

    def refusal_body(self, refusal: Expected) -> bytes: ...

    def upstream_credential(self, api_key: str) -> tuple[str, str]:
        """Name and value of the header that carries the upstream's key."""
        ...

    def models_body(self, models: Sequence[str], *, created_s: int) -> bytes: ...

    def model_body(self, model: str, *, created_s: int) -> bytes: ...


def ledger_member(refusal: Expected) -> dict[str, str]:
    """The `compute_ledger` member of an error body: amounts as decimal credits, times in RFC 3339; what does not apply is left out."""
    members = {
        "code": refusal.code,
        "account": refusal.account,
        "limit": refusal.limit,
        "needed": _credits(refusal.needed_nanocredits),
        "available": _credits(refusal.available_nanocredits),
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
