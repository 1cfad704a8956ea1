"""The upstreams, and endpoints that no dialect knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from proxy.config.values import Amount, BaseUrl, Dialect, Identifier, ModelName, ModelPattern, OpaquePath, Section

SEATS_AT_FIRST = 16
"""Of a pool whose number of seats is not given: enough to find out quickly, few enough to do no harm."""


class Upstream(Section):
    name: Identifier
    base_url: BaseUrl
    dialects: tuple[Dialect, ...] | None = None
    """Which APIs it speaks; omitted: every one."""
    models: tuple[ModelPattern, ...] = ("*",)
    aliases: dict[ModelName, ModelName] = Field(default_factory=dict, max_length=1000)
    """Names that callers may use instead: `fast = "llama3.1:8b"`; each is served here under the name that it stands for."""
    default_model: ModelName | None = None
    """What serves requests of APIs that have no place for a model's name; omitted: the only exact name in `models`."""
    api_key_env: str | None = None
    api_key_file: Path | None = None
    seats: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] | None = None
    """Requests that it serves at a time; "auto": as many as it keeps up with, between the two bounds; omitted: no limit."""
    seats_min: int = Field(default=1, ge=1, le=1_000_000)
    seats_max: int = Field(default=256, ge=1, le=1_000_000)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """What it serves in a minute, where it counts tokens: a seat stays taken until its request's tokens have had their time."""
    memory_credits: Amount = 0
    """How much a caller may be ahead by what it left unused before; 0: nothing is saved up."""
    queue_timeout_s: float = Field(default=30.0, ge=0, le=3600)
    queue_depth_per_account: int = Field(default=64, ge=0, le=100_000)
    missing_usage: Literal["count", "estimate"] = "count"
    tokenizer_file: Path | None = None
    """The model's tokenizer.json, which then counts the text that is charged where usage never comes; omitted: its bytes do."""
    cut: Literal["error", "length"] = "error"
    connect_timeout_s: float = Field(default=10.0, gt=0, le=300)
    first_byte_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    idle_timeout_s: float = Field(default=300.0, gt=0, le=86_400)
    """Silence between two bytes of an answer after which the upstream counts as gone."""
    total_timeout_s: float = Field(default=3600.0, gt=0, le=86_400)
    output_tokens_max: int = Field(default=32_768, ge=1, le=10_000_000)
    """What a non-streamed request that names no maximum is held for, per answer."""
    image_tokens: int = Field(default=8_192, ge=0, le=10_000_000)
    audio_tokens: int = Field(default=16_384, ge=0, le=10_000_000)
    file_tokens: int = Field(default=131_072, ge=0, le=10_000_000)
    stored_tokens: int | None = Field(default=None, ge=0, le=10_000_000)
    """At most so many tokens stand behind a reference to input that the upstream keeps (an earlier response, a file by its id);
    omitted: such references are refused."""
    tool_use_tokens: int | None = Field(default=None, ge=0, le=10_000_000)
    """At most so many tokens of input come back from each use of the upstream's own tools (a web search, a page fetched); omitted: such
    tools are refused."""
    unseen_tokens: int = Field(default=0, ge=0, le=10_000_000)
    """What its models may compute unseen for each streamed answer (hidden reasoning), held beside what is forwarded; what goes beyond the
    hold is overrun."""
    continuous_usage: bool = False
    """Whether it reports usage in every chunk of a stream when asked to, as vLLM does."""
    connections_max: int = Field(default=4096, ge=1, le=100_000)

    @model_validator(mode="after")
    def _check_seats(self) -> Self:
        if self.seats_min > self.seats_max:
            raise ValueError("seats_min is above seats_max")
        return self

    @property
    def first_seats(self) -> int | None:
        """The seats to begin with; None where nothing limits it."""
        if isinstance(self.seats, int):
            return self.seats
        if self.seats is None and self.tokens_per_minute is None:
            return None
        return min(self.seats_max, max(self.seats_min, SEATS_AT_FIRST))


class Opaque(Section):
    """An endpoint that no dialect knows, priced by the request, the second or the megabyte."""

    path: OpaquePath
    methods: Annotated[tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...], Field(min_length=1)] = ("POST",)
    upstream: Identifier
    model: ModelName
    """The name under which it is priced and allowed."""
    query: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = ()
    """Names of the query parameters that may come with it."""
    free: bool = False
    """Whether it costs nothing: forwarded for any caller, and neither held nor charged."""
