"""The TOML file as frozen models: every key, default and bound, with units in the names.

All problems are reported at once, each on a line with its place in the file. Secrets come only by `*_env` or `*_file` and are read by
`read_secret`; they are never printed. Knows nobody but `domain` and `errors`.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import tomllib
import zoneinfo
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from proxy import domain
from proxy.errors import SetupError

Dialect = Literal["openai", "anthropic", "gemini", "ollama", "cohere", "vllm", "llamacpp", "tgi", "sglang", "tei", "kserve"]
LEDGER_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
WINDOW_SECONDS_MAX = 366 * 86_400
PRICE_TIERS_MAX = 16
PRICED_ALONE = ("input", "output", "audio_input", "audio_output", "image", "character", "tool_use", "second", "megabyte")
"""Kinds of which a price row needs one, unless it prices the request; the others only go with them."""


def _nanocredits(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError('give an amount of credits as a decimal string, such as "12.5"')
    return domain.nanocredits_from_credits(str(value))


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _window(value: str) -> str:
    if value in ("hour", "day", "week", "month", "ever"):
        return value
    seconds = re.fullmatch(r"([1-9][0-9]{0,8})s", value)
    if seconds is None or int(seconds.group(1)) > WINDOW_SECONDS_MAX:
        raise ValueError('must be hour, day, week, month, ever, or a number of seconds such as "18000s"')
    return value


def _time_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'{value!r} is not an IANA time zone, such as "Europe/Berlin"') from error
    return value


def _pattern(value: str) -> str:
    if not value or "*" in value[:-1] or len(value) > 256 or not value.isprintable():
        raise ValueError("must be a model's exact name, or a prefix with one trailing *")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("must be http(s)://host[:port][/path], without user, query or fragment")
    return value.rstrip("/")


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return value


Nanocredits = Annotated[int, BeforeValidator(_nanocredits)]
Amount = Annotated[int, BeforeValidator(_nanocredits), AfterValidator(_not_negative)]
Identifier = Annotated[str, Field(pattern=f"^{domain.IDENTIFIER_PATTERN}$")]
ModelPattern = Annotated[str, AfterValidator(_pattern)]
Address = Annotated[str, AfterValidator(_address)]


def _opaque_path(value: str) -> str:
    plain = re.fullmatch(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~:@!$&'()+,=-]+)+(?:/\*)?", value)
    if plain is None or len(value) > 512 or value.startswith("/ledger/"):
        raise ValueError("must be a plain absolute path outside /ledger/, exact or with a trailing /*")
    return value


def _model_name(value: str) -> str:
    if not value or "*" in value or len(value) > 256 or not value.isprintable():
        raise ValueError("must be a model's exact name")
    return value


ModelName = Annotated[str, AfterValidator(_model_name)]


def level_name(value: str) -> str:
    """A level's name as it is; ValueError where it would be taken for the unit that is none of a level."""
    if value == domain.CREDITS:
        raise ValueError(f"no level may be called {domain.CREDITS}")
    return value


LevelName = Annotated[Identifier, AfterValidator(level_name)]


class Section(BaseModel):
    """A table of the file: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=False)


class Listen(Section):
    proxy: Address = "127.0.0.1:8080"
    admin: Address = "127.0.0.1:8081"
    workers: int = Field(default=1, ge=1, le=256)
    body_max_bytes: int = Field(default=32 * 2**20, ge=1024, le=2**30)
    header_timeout_s: float = Field(default=75.0, gt=0, le=3600)
    """How long a connection may idle, or dribble a request's head, before it is closed."""
    body_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """How long a request's body may take, and how long a client may leave unread what it is sent."""
    drain_timeout_s: float = Field(default=30.0, ge=0, le=3600)
    """How long running requests may go on after SIGTERM; then they are cut and settled."""


class LedgerSection(Section):
    url: str = "embedded"
    password_env: str | None = None
    password_file: Path | None = None
    data_dir: Path = Path("ledger-data")
    hold_ttl_s: int = Field(default=60, ge=3, le=3600)
    slice_tokens: int = Field(default=256, ge=1, le=65_536)
    deadline_ms: int = Field(default=1000, ge=20, le=60_000)
    """How long one call may take, repeats included, before it counts as failed."""
    on_failure: Literal["refuse", "allow"] = "refuse"
    allow_max: Amount = domain.NANOCREDITS_PER_CREDIT
    """With on_failure = "allow": credits that one worker lets through unpaid in one outage."""
    audit_interval_s: float = Field(default=60.0, ge=1, le=86_400)
    journal_days: int = Field(default=400, ge=0, le=36_500)
    """How long the journal keeps an entry; what is older is folded into a checkpoint, and is in nobody's history any more. 0: for ever."""

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.url != "embedded" and urlsplit(self.url).scheme not in LEDGER_SCHEMES:
            raise ValueError(f'url must be "embedded" or start with one of: {", ".join(s + "://" for s in LEDGER_SCHEMES)}')
        return self


class Admin(Section):
    token_env: str | None = None
    token_file: Path | None = None
    tokens: tuple[AdminToken, ...] = ()


class AdminToken(Section):
    name: Identifier
    role: Literal["viewer", "operator", "owner"]
    token_env: str | None = None
    token_file: Path | None = None


class Agents(Section):
    """Sub-accounts that people open for what acts for them."""

    max_per_person: int = Field(default=10_000, ge=0, le=1_000_000)
    """Open at a time, those of agents among them; 0: nobody opens any."""


class Commons(Section):
    """The account that what nobody uses flows to, that pays for spare seats, and that dividends come from."""

    account: Identifier | None = None
    keep_days: int = Field(default=31, ge=1, le=200)
    """How long it keeps what expired elsewhere and flowed to it."""


class Equality(Section):
    """How use is told of: how equally it is spread over people, in groups, and to each person of itself."""

    half_life_days: int = Field(default=7, ge=1, le=365)
    """Beside the day, the week and the month: use of so many days ago counts half."""
    labels: tuple[Identifier, ...] = Field(default=(), max_length=8)
    """Names of accounts' labels whose values are groups, as plans and organisations are."""
    group_min: int = Field(default=20, ge=2, le=1_000_000)
    """Nothing is told of a group with fewer people."""
    recount_hour_utc: int = Field(default=3, ge=0, le=23)
    """When all use is counted anew each night."""

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if reserved := {"plan", "organisation"}.intersection(self.labels):
            raise ValueError(f"labels: {min(reserved)} is a group without being a label")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: one stands twice")
        return self


class Intervention(Section):
    """One policy against inequality under scarcity: whether it acts, and in how many steps it reaches its full strength."""

    mode: Literal["off", "dry_run", "on"] = "dry_run"
    steps_max: int = Field(default=4, ge=1, le=16)


class FloorPolicy(Intervention):
    """Whoever is below a share of the average goes first, and is topped up from the commons where he is refused for want of budget."""

    of_average: float = Field(default=0.5, gt=0, le=1)
    boost_max: float = Field(default=4, ge=1, le=4)
    """How many times a weight counts at most."""


class CapPolicy(Intervention):
    """Whoever is above the level at which all could be served takes only the seats that nobody else wants."""

    of_average: float = Field(default=1, ge=1, le=100)
    """The level is never lower than so many times the average."""


class PricePolicy(Intervention):
    """A budget is debited more the further its use is above the average: 1 + kappa x (x / average - theta)^beta."""

    theta: float = Field(default=2, ge=1, le=100)
    kappa: float = Field(default=0.5, gt=0, le=10)
    beta: float = Field(default=1, ge=0.25, le=4)
    price_max: float = Field(default=4, ge=1, le=10)


class BrakePolicy(Intervention):
    """Where the topmost hundredth of the users has more than a share of all use, its weight counts less: share / what it has."""

    share_above: float = Field(default=0.2, gt=0, lt=1)
    weight_min: float = Field(default=0.25, ge=0.25, le=1)


class TithePolicy(Intervention):
    """Whoever is above so many times the average gives a share of what he spends on top, from what he has left, to the commons."""

    of_average: float = Field(default=2, ge=1, le=100)
    share: float = Field(default=0.1, gt=0, le=0.5)


class DividendPolicy(Intervention):
    """What the commons has beyond a reserve is dealt to everyone who is entitled, in equal parts."""

    reserve_credits: Amount = 0
    interval_s: float = Field(default=86_400, ge=60, le=31 * 86_400)


class Interventions(Section):
    """When the policies begin and end: under scarcity, and where use is unequal or people are refused. Shares are 0 to 1."""

    tick_s: float = Field(default=5, ge=0.1, le=60)
    step_s: float = Field(default=300, ge=0.1, le=86_400)
    """Each policy grows or eases by one step in so long."""
    sustained_s: float = Field(default=60, ge=0, le=86_400)
    """How long scarcity must last to count, and be over to count as over."""
    scarcity_min: float = Field(default=0.1, gt=0, le=1)
    """The share of the demand that is not served, or of the requests that wait."""
    scarcity_release: float = Field(default=0.05, ge=0, lt=1)
    gini_above: float = Field(default=0.5, gt=0, le=1)
    gini_release: float = Field(default=0.4, ge=0, lt=1)
    denied_above: float = Field(default=0.1, gt=0, le=1)
    """The share of those who asked today that got nothing."""
    denied_release: float = Field(default=0.05, ge=0, lt=1)
    people_min: int = Field(default=20, ge=2, le=1_000_000)
    """Fewer users than this say nothing about equality."""
    floor: FloorPolicy = FloorPolicy()
    cap: CapPolicy = CapPolicy()
    progressive_price: PricePolicy = PricePolicy()
    brake: BrakePolicy = BrakePolicy()
    tithe: TithePolicy = TithePolicy()
    dividend: DividendPolicy = DividendPolicy()

    @model_validator(mode="after")
    def _check_bands(self) -> Self:
        for begins, ends in (("scarcity_min", "scarcity_release"), ("gini_above", "gini_release"), ("denied_above", "denied_release")):
            if getattr(self, ends) >= getattr(self, begins):
                raise ValueError(f"{ends} must be below {begins}, so that small changes switch nothing")
        return self


class Compat(Section):
    budget_status: Literal[402, 429, 403] = 402


SEATS_AT_FIRST = 16
"""Of a pool whose number of seats is not given: enough to find out quickly, few enough to do no harm."""


class Upstream(Section):
    name: Identifier
    base_url: Annotated[str, AfterValidator(_base_url)]
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


class TokenRates(Section):
    """Credits per million tokens, by kind."""

    input: Amount | None = None
    output: Amount | None = None
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    audio_input: Amount | None = None
    reasoning: Amount | None = None
    audio_output: Amount | None = None


class PriceTier(TokenRates):
    above_input_tokens: int = Field(ge=1, le=100_000_000)


class PriceRow(TokenRates):
    model: ModelPattern
    effective: dt.date | dt.datetime = dt.date(1970, 1, 1)
    image: Amount | None = None
    character: Amount | None = None
    tool_use: Amount | None = None
    request: Amount = 0
    second: Amount | None = None
    megabyte: Amount | None = None
    batch_percent: int | None = Field(default=None, ge=1, le=100)
    """What a request of a batch costs of all these rates; without it, the model is not served in batches."""
    level: LevelName | None = None
    """The named class of capability that the model stands for."""
    tier: tuple[PriceTier, ...] = Field(default=(), max_length=PRICE_TIERS_MAX)
    """Other rates, for requests whose whole input is longer; the last tier that a request exceeds counts for all of its tokens."""

    @model_validator(mode="after")
    def _check_priced(self) -> Self:
        check_priced(self.to_price())
        return self

    def to_price(self, source: Literal["file", "api"] = "file") -> domain.Price:
        row = self.model_dump(exclude={"effective", "tier"})
        tiers = tuple(domain.Tier(**tier.model_dump()) for tier in self.tier)
        return domain.Price(effective_at_ms=milliseconds(self.effective), source=source, tiers=tiers, **row)


def check_priced(price: domain.Price) -> None:
    """Raises ValueError where a row prices nothing that a request could need, or where its tiers are in no order or price nothing."""
    if not price.request and all(getattr(price, kind) is None for kind in PRICED_ALONE):
        raise ValueError(f"prices nothing; give at least one of request, {', '.join(PRICED_ALONE)}")
    above = 0
    for tier in price.tiers:
        if tier.above_input_tokens <= above:
            raise ValueError("the tiers must rise, each above_input_tokens beyond the one before it")
        above = tier.above_input_tokens
        if tier == domain.Tier(above):
            raise ValueError(f"the tier above {above} input tokens prices nothing")


class LevelRow(Section):
    """How the index of a level is found; a level that rows name and that has no section has these defaults."""

    name: LevelName
    input_parts: int = Field(default=3, ge=0, le=1_000_000)
    """Of a blended token: so many parts input to `output_parts` parts output."""
    output_parts: int = Field(default=1, ge=0, le=1_000_000)
    may_rise: bool = False
    deflation: float = Field(default=10.0, ge=1, le=1_000_000, allow_inf_nan=False)
    """By what factor its index is taken to fall in 365.25 days, where no later price is known; 1: not at all."""

    @model_validator(mode="after")
    def _check_blend(self) -> Self:
        if not self.input_parts + self.output_parts:
            raise ValueError("input_parts and output_parts are both 0, so that there is nothing to price")
        return self

    def to_level(self) -> domain.Level:
        return domain.Level(**dict(self))


class LimitRow(Section):
    credits: Amount
    window: Annotated[str, AfterValidator(_window)] = "day"
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    rollover: Literal["none", "capped", "full"] = "none"
    rollover_max: Amount | None = None

    @model_validator(mode="after")
    def _check_rollover(self) -> Self:
        if (self.rollover == "capped") != (self.rollover_max is not None):
            raise ValueError('rollover_max belongs to rollover = "capped", which needs it')
        if self.window == "ever" and self.rollover != "none":
            raise ValueError('a limit for window = "ever" has nothing to roll over')
        return self

    def to_limit(self) -> domain.Limit:
        return domain.Limit(self.credits, self.window, self.time_zone, self.rollover, self.rollover_max or 0)


def unique_limits(rows: tuple[LimitRow, ...]) -> tuple[LimitRow, ...]:
    """The rows as given; ValueError where two share a window, for then the smaller alone would count."""
    keys = [row.to_limit().key for row in rows]
    if len(set(keys)) != len(keys):
        raise ValueError(f"two limits share the window {max(keys, key=keys.count)}; keep the smaller one")
    return rows


LimitRows = Annotated[tuple[LimitRow, ...], Field(max_length=8), AfterValidator(unique_limits)]


RequestCount = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of a minute, or of a moment."""


class PlanRow(Section):
    name: Identifier
    weight: int = Field(default=1, ge=1, le=1_000_000)
    limits: LimitRows = ()
    models: tuple[ModelPattern, ...] = ("*",)
    transfers: bool = False
    loans: bool = False
    expired_to_commons: bool = False
    scavenge: bool = False
    requests_per_minute: RequestCount | None = None
    concurrent_requests: RequestCount | None = None
    unit: Identifier = domain.CREDITS
    """What its amounts count: credits, or units of the level of this name."""

    def to_plan(self) -> domain.Plan:
        limits = tuple(row.to_limit() for row in self.limits)
        return domain.Plan(**(dict(self) | {"limits": limits}))


class Opaque(Section):
    """An endpoint that no dialect knows, priced by the request, the second or the megabyte."""

    path: Annotated[str, AfterValidator(_opaque_path)]
    methods: Annotated[tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...], Field(min_length=1)] = ("POST",)
    upstream: Identifier
    model: ModelName
    """The name under which it is priced and allowed."""
    query: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = ()
    """Names of the query parameters that may come with it."""
    free: bool = False
    """Whether it costs nothing: forwarded for any caller, and neither held nor charged."""


class AccountRow(Section):
    id: Identifier
    parent: Identifier | None = None
    plan: Identifier | None = None
    weight: int | None = Field(default=None, ge=1, le=1_000_000)
    limits: LimitRows | None = None
    labels: dict[Identifier, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict, max_length=32)
    key_env: str | None = None
    """An API key of the operator's own making for this account, from the environment."""


class Config(Section):
    """The whole file."""

    listen: Listen = Listen()
    ledger: LedgerSection = LedgerSection()
    admin: Admin = Admin()
    compat: Compat = Compat()
    agents: Agents = Agents()
    commons: Commons = Commons()
    equality: Equality = Equality()
    intervention: Interventions = Interventions()
    upstream: tuple[Upstream, ...] = ()
    opaque: tuple[Opaque, ...] = ()
    price: tuple[PriceRow, ...] = ()
    level: tuple[LevelRow, ...] = ()
    plan: tuple[PlanRow, ...] = ()
    account: tuple[AccountRow, ...] = ()

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        problems = [*_repeated("upstream", [u.name for u in self.upstream]), *_repeated("plan", [p.name for p in self.plan])]
        problems += _repeated("account", [a.id for a in self.account])
        problems += _repeated("opaque", [f"{method} {o.path}" for o in self.opaque for method in o.methods])
        upstreams = {u.name for u in self.upstream}
        problems += [f"opaque {o.path}: there is no upstream {o.upstream!r}" for o in self.opaque if o.upstream not in upstreams]
        problems += _repeated("price", [_dated(price) for price in self.price])
        problems += [*_repeated("level", [level.name for level in self.level]), *self._mixed_units()]
        plans = {p.name for p in self.plan}
        earlier: set[str] = set()
        for account in self.account:
            if account.plan is not None and account.plan not in plans:
                problems.append(f"account {account.id}: there is no plan {account.plan!r}")
            if account.parent is not None and account.parent not in earlier:
                problems.append(f"account {account.id}: its parent {account.parent!r} must stand before it")
            earlier.add(account.id)
        if self.commons.account is None and (scavenging := [p.name for p in self.plan if p.scavenge]):
            problems.append(f"plan {scavenging[0]}: scavenge needs an account in [commons] that pays")
        if self.commons.account is None and (flowing := [p.name for p in self.plan if p.expired_to_commons]):
            problems.append(f"plan {flowing[0]}: expired_to_commons needs an account in [commons]")
        if self.account and not self.plan:
            problems.append("accounts need at least one [[plan]]")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _mixed_units(self) -> list[str]:
        """Accounts that would count in another unit than the account above them."""
        unit_of_plan = {plan.name: plan.unit for plan in reversed(self.plan)}
        default = self.plan[0].unit if self.plan else domain.CREDITS
        units = {a.id: default if a.plan is None else unit_of_plan.get(a.plan, default) for a in self.account}
        return [
            f"account {a.id}: counts in {units[a.id]}, its parent {a.parent} in {units[a.parent]}; all accounts of a tree count in one unit"
            for a in self.account
            if a.parent in units and units[a.id] != units[a.parent]
        ]


Admin.model_rebuild()
Config.model_rebuild()


def _repeated(table: str, names: list[str]) -> list[str]:
    return [f"{table} {name!r} stands twice" for name in sorted({n for n in names if names.count(n) > 1})]


def _dated(price: PriceRow) -> str:
    """A row's model and its instant, whichever way that is written."""
    at_s = milliseconds(price.effective) / 1000
    return f"{price.model} from {dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat(timespec='milliseconds')}"


def milliseconds(moment: dt.date | dt.datetime) -> int:
    """Milliseconds since 1970; a date, or a time without a zone, counts in UTC."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day, tzinfo=dt.UTC)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)


def read_text(file: Path) -> str:
    """What a file says. Raises SetupError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file}: {error}") from error


def parse(text: str, *, source: str) -> dict[str, Any]:
    """The document that a text is. Raises SetupError where it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{source}: {error}") from error


def validate(document: dict[str, Any], *, source: str) -> Config:
    """The configuration in a parsed document. Raises SetupError with one line for each problem."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        lines = (f"{source}: {_place(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise SetupError("\n".join(lines)) from None


def _place(location: tuple[int | str, ...]) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    return f"{place}: " if place else ""


def read_secret(*, env: str | None, file: Path | None, what: str) -> str | None:
    """The secret that a pair of `*_env` and `*_file` keys names; None where neither is set.

    Raises SetupError where the variable or file is missing or empty: an empty secret would be no secret.
    """
    if env is not None:
        value = os.environ.get(env, "").strip()
        if not value:
            raise SetupError(f"{what}: the environment variable {env} is not set")
        return value
    if file is not None:
        try:
            value = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{what}: cannot read {file}: {error}") from error
        if not value:
            raise SetupError(f"{what}: {file} is empty")
        return value
    return None


def default_document(*, upstream_url: str) -> dict[str, Any]:
    """What `serve --upstream URL` runs on without a file: one upstream, one price row for every model, one plan."""
    return {
        "upstream": [{"name": "upstream", "base_url": upstream_url}],
        "price": [{"model": "*", "input": "1", "output": "4"}],
        "plan": [{"name": "everyone", "limits": [{"credits": "10", "window": "day"}]}],
    }
