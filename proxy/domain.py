"""The nouns every floor shares, with their units.

Knows nothing above it: no I/O, no rules. Amounts of budget are integers in nanocredits (1 credit = 10^9), always below 2^53, because the
ledger's scripts calculate in doubles. Ledger times are integers in milliseconds since 1970 (`_ms`), by the ledger server's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from operator import attrgetter
from typing import Literal, NewType, Protocol

from proxy.frozen import dataclass

NANOCREDITS_PER_CREDIT = 1_000_000_000
CREDITS = "credits"
"""The unit of budgets that are in no units of a level; no level has this name."""
AMOUNT_MAX_NANOCREDITS = 2**53 - 1
PATH_DEPTH_MAX = 8
IDENTIFIER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}"

AccountId = NewType("AccountId", str)
Path = tuple[AccountId, ...]
"""An account and all above it, root first: `("org:acme", "user:ann")`."""

AccountStatus = Literal["active", "suspended", "closed"]
AccountKind = Literal["account", "agent"]
"""An agent is a sub-account that acts for the account above it: what it uses counts as that account's own."""
Rollover = Literal["none", "capped", "full"]


# --- what an account may spend -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """Credits that an account may spend in each window.

    `window` is `hour`, `day`, `week` (from Monday), `month`, `ever`, or `<N>s`: N seconds that start at the first use after the window
    before has ended. `time_zone` is an IANA name and shapes the calendar windows alone.
    """

    credits_nanocredits: int
    window: str
    time_zone: str = "UTC"
    rollover: Rollover = "none"
    rollover_max_nanocredits: int = 0

    @property
    def key(self) -> str:
        """What tells one limit of an account from another; two limits of one account never share it."""
        return self.window if self.window == "ever" or self.window.endswith("s") else f"{self.window}/{self.time_zone}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits, a weight and rules that many accounts share."""

    name: str
    limits: tuple[Limit, ...]
    weight: int = 1
    models: tuple[str, ...] = ("*",)
    """Model patterns (exact, or a trailing `*`) that accounts of the plan may use."""
    transfers: bool = False
    """Whether its accounts may give credits away themselves, and lend them."""
    loans: bool = False
    """Whether its accounts may lend credits, though they may not give them away."""
    expired_to_commons: bool = False
    """Whether what its accounts leave unused until it expires goes to the commons."""
    scavenge: bool = False
    """Whether its accounts, once their budget is used up, may take seats that nobody else wants, at the commons' expense."""
    requests_per_minute: int | None = None
    """How many requests each of its accounts may begin a minute, all of them at once if need be; None: as many as come."""
    concurrent_requests: int | None = None
    """How many requests of each of its accounts may run at a time; None: as many as come."""
    unit: str = CREDITS
    """What the amounts of its accounts count: credits, or units of the level of this name. It never changes."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit and what it paid and keeps in its present window."""

    limit: Limit
    spent_nanocredits: int
    held_nanocredits: int
    carried_nanocredits: int
    """Rolled over from windows before; remaining = limit + carried - spent - held, never shown below zero."""
    starts_at_ms: int
    resets_at_ms: int | None
    """None where the window never ends."""

    @property
    def remaining_nanocredits(self) -> int:
        return max(0, self.limit.credits_nanocredits + self.carried_nanocredits - self.spent_nanocredits - self.held_nanocredits)


@dataclass(frozen=True, slots=True)
class Grant:
    """Credits added once; spent after the limits, by priority, then earliest expiry, then age."""

    grant_id: str
    credits_nanocredits: int
    remaining_nanocredits: int
    held_nanocredits: int
    spent_nanocredits: int
    priority: int
    effective_at_ms: int
    expires_at_ms: int | None
    reason: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything an account did since it began, in nanocredits. `held` is the present sum over its open holds."""

    spent: int = 0
    held: int = 0
    granted: int = 0
    expired: int = 0
    given: int = 0
    revoked: int = 0
    adjusted: int = 0
    overrun: int = 0
    collected: int = 0
    """Of `given`: what had expired first, and went to the commons."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who holds a budget: its settings and its balances at one instant."""

    id: AccountId
    path: Path
    plan: str
    status: AccountStatus
    weight: int
    labels: Mapping[str, str]
    own_limits: tuple[Limit, ...] | None
    """None where the plan's limits apply."""
    version: int
    created_at_ms: int
    limits: tuple[LimitState, ...] = ()
    grants: tuple[Grant, ...] = ()
    totals: Totals = Totals()
    available_nanocredits: int | None = 0
    """What could be spent now, every level of the path considered; None where no level has a limit."""
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    """Both as its plan has them; its own limits replace limits of credits alone."""
    kind: AccountKind = "account"
    """What it was opened as; it never changes."""
    running_requests: int = 0
    """As many as it has open holds, those of the accounts below it among them."""
    unit: str = CREDITS
    """What its amounts count, as its plan has it."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as the ledger knows it: never the key itself."""

    key_id: str
    account: AccountId
    created_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The account that a request's credentials stand for."""

    account: AccountId
    path: Path
    plan: Plan
    key_id: str
    weights: tuple[int, int] = (1, 1)
    """Of the path's root among all roots, and of the account itself inside its root."""
    person: Path = ()
    """For an agent, the path of whom it acts for, as whom it waits for seats; empty for everyone else."""


# --- holds ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tightest:
    """The limit of a path that leaves least, and what it leaves; for the response headers."""

    account: AccountId
    limit_key: str
    credits_nanocredits: int
    remaining_nanocredits: int
    resets_at_ms: int | None
    window_s: int | None


@dataclass(frozen=True, slots=True)
class RequestRate:
    """The requests a minute of a path that leave least, and how many of them may begin now; for the response headers."""

    account: AccountId
    requests_per_minute: int
    remaining_requests: int
    restored_at_ms: int
    """When all of them may begin again, if none does meanwhile."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits reserved for one request. `amount` is all that was reserved so far, spent or not."""

    hold_id: str
    path: Path
    amount_nanocredits: int
    tightest: Tightest | None
    rate: RequestRate | None = None
    """As the hold left it; None where no level has one, and after an extension."""


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold as an operator sees it."""

    hold_id: str
    path: Path
    amount_nanocredits: int
    spent_nanocredits: int
    created_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a hold ended. `overrun` is what the request cost beyond what the path could pay."""

    hold_id: str
    state: Literal["settled", "voided", "expired"]
    spent_nanocredits: int
    overrun_nanocredits: int


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of an account's history."""

    entry_id: str
    at_ms: int
    verb: str
    id: str
    path: Path
    amount_nanocredits: int
    memo: str
    postings: tuple[Posting, ...]


@dataclass(frozen=True, slots=True)
class Posting:
    """`amount` moved between two places of one source (a limit's window or a grant) of one account."""

    account: AccountId
    source: str
    origin: str
    target: str
    amount_nanocredits: int


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the audit log: who changed what, from what, to what, and why."""

    event_id: str
    at_ms: int
    actor: str
    action: str
    subject: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit checked, and each account whose books do not balance."""

    accounts: int
    entries: int
    open_holds: int
    broken: tuple[str, ...]
    expired_nanocredits: int = 0
    """What has expired so far, in all accounts."""
    left_nanocredits: int = 0
    """What active accounts without a parent can still spend, all together; those without limits left out."""


# --- seats ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket, one request that wants a seat of a pool, stands."""

    seated: bool
    ahead: int = 0
    """Waiting tickets of its own account that go before it."""
    lag_nanocredits: int = 0
    """What others will be served before it is its account's turn; 0 with a seat."""


@dataclass(frozen=True, slots=True)
class Beats:
    """What a heartbeat tells a worker of its tickets, by pool. Those in none of these wait."""

    seated: Mapping[str, tuple[str, ...]]
    yielding: Mapping[str, tuple[str, ...]]
    """Seated, spare, and told to stop: somebody with a budget waits."""
    unknown: Mapping[str, tuple[str, ...]]
    """Ended, or never entered here: nothing holds a seat for them."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """How a pool stands at one instant."""

    name: str
    seats: int
    used: int
    """With spare tickets; above `seats` only where seats were taken back or taken away."""
    waiting: int
    """Tickets with a budget."""
    callers_waiting: int
    """Accounts that have a ticket waiting."""
    lag_nanocredits: int
    """By how much service per weight the organisations that wait differ; where one waits alone, its accounts."""
    served_nanocredits: int
    """What all requests with a seat have cost."""
    draining: bool
    spare_used: int = 0
    spare_waiting: int = 0


# --- what a request uses and costs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Disjoint counts by kind: `input` leaves out cached and audio input, `output` leaves out reasoning and audio output."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image: int = 0
    character: int = 0
    tool_use: int = 0
    """Uses of the upstream's own tools: a web search, a run of code."""
    milliseconds: int = 0
    """Of audio, or of the upstream's time; priced by the second."""
    bytes: int = 0
    """Priced by the megabyte, of 10^6."""

    @property
    def input_tokens(self) -> int:
        return self.input + self.cached_input + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def output_tokens(self) -> int:
        return self.output + self.reasoning + self.audio_output


USAGE_KINDS: tuple[str, ...] = tuple(f.name for f in fields(Usage))
NO_USAGE = Usage()
counts_of: Callable[[Usage], tuple[int, ...]] = attrgetter(*USAGE_KINDS)
"""All counts, in the order of USAGE_KINDS."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Other rates for requests whose input is longer than so many tokens.

    A kind that is None costs what it does in the row itself; one that both leave out falls back within the tier.
    """

    above_input_tokens: int
    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """One dated, immutable row of the price book: nanocredits per million tokens by kind, or per piece for the units.

    A kind that is None falls back: cached_input, cache_write, audio_input to `input`, cache_write_1h to `cache_write`; reasoning,
    audio_output to `output`. A request is refused, never free, unless the row prices one of the sets of kinds that it needs.
    """

    model: str
    effective_at_ms: int
    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None
    image: int | None = None
    character: int | None = None
    tool_use: int | None = None
    request: int = 0
    second: int | None = None
    megabyte: int | None = None
    batch_percent: int | None = None
    """What a request of a batch costs of all these rates, in percent; None where the model is not served in batches."""
    level: str | None = None
    tiers: tuple[Tier, ...] = ()
    """By `above_input_tokens`, rising; the last one that a request exceeds counts for all of it."""
    source: Literal["file", "api"] = "file"
    unit: str = CREDITS
    """What the rates count. Rows of the book are in credits; those derived from them may be in units of a level."""
    worth_nanocredits: int = NANOCREDITS_PER_CREDIT
    """What one such unit is worth: the level's index when the row was derived."""
    raised_percent: int = 100
    """What an intervention has made of the rates; the work that they stand for is the same."""


@dataclass(frozen=True, slots=True)
class Level:
    """A named class of capability; its models are those whose price rows name it.

    A unit of it is a million blended tokens at its index: `input_parts` of input to `output_parts` of output.
    """

    name: str
    input_parts: int = 3
    output_parts: int = 1
    may_rise: bool = False
    """Whether its index follows prices up as well; else it keeps the least value that it ever had."""
    deflation: float = 10.0
    """By what factor the index is taken to fall in a year of 365.25 days where no later price is known; 1: not at all."""


Measure = Literal["output", "bytes"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a dialect read from a request: all that admission and metering need to know of it."""

    operation: str
    """The dialect's own name of the endpoint: `chat`, `completions`, `responses`, `embeddings`, `models`."""
    model: str
    """As the caller names it; empty where the API has no place for it, so that the upstream's own model is meant."""
    stream: bool
    choices: int
    """How many answers are generated and paid for: `n`, or `best_of` where that is larger."""
    output_tokens_max: int | None
    """Per choice, the largest of the maxima the request names; None where it names none; 0 where the operation has no output."""
    input_tokens_bound: int
    """No fewer than the upstream will count, media by the operator's rule."""
    input_tokens_counted: int
    """What is charged for input when usage never comes."""
    wants_usage: bool = False
    """Whether the client itself asked for the usage chunk of a stream."""
    wants_continuous_usage: bool = False
    """Whether the client itself asked for usage in every chunk of a stream."""
    hides_continuous_usage: bool = False
    """Whether usage in every chunk was asked for in the client's place, and so is taken out again."""
    units: Usage = NO_USAGE
    """What is priced by the piece beside the tokens, at most: images, characters, uses of tools. Charged so where usage never comes."""
    needs: Sequence[Sequence[str]] = (("input", "output"),)
    """Sets of the price row's kinds; the row must price every kind of one of them. A row that prices the request itself always does."""
    measure: Measure = "output"
    """What a stream's pieces are counted in as they are forwarded."""
    divisible: bool = True
    """Whether a maximum in the request can make its output shorter; else all of it is held, or it is refused."""
    unseen_tokens: int = 0
    """Output, over all choices, that the model may compute without sending it: held beside what is forwarded."""
    reports_usage: bool = True
    """Whether the API reports usage at all; where it never does, counting is the rule and nothing to be flagged."""
    timed: bool = False
    """Whether the upstream's time is paid for as well."""
    count_text: Callable[[str], int] | None = None
    """Tokens in a text, by the model's own tokenizer, where the operator has given it: what was written counts so if usage never comes."""


# --- seams -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of upstream bytes that is forwarded or withheld as a whole, and what the dialect read in it."""

    data: bytes
    """Exactly what to forward; empty where the piece is taken out (a usage chunk that the client did not ask for)."""
    output_tokens: int = 0
    """Output counted in this piece, in the call's measure: of tokens at least one per delta with content."""
    usage: Usage | None = None
    """Cumulative usage reported in this piece, when it can be believed."""
    last: bool = False
    """The dialect's end marker: held back until the hold is settled."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a dialect read from a whole, non-streamed answer."""

    usage: Usage | None
    output_tokens_counted: int
    usage_rejected: bool = False
    """Whether the upstream reported usage that cannot be believed."""


class StreamReader(Protocol):
    """Reads one streamed answer; any chunking gives the same pieces, and the pieces' bytes are the stream's."""

    @property
    def deltas(self) -> int:
        """Deltas with content so far: a floor under what the upstream may report."""
        ...

    @property
    def usage_rejected(self) -> bool:
        """Whether the upstream reported usage that cannot be believed."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the dialect's end marker has been seen."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the upstream sent an error event."""
        ...

    def feed(self, chunk: bytes) -> Sequence[Piece]: ...

    def close(self) -> Sequence[Piece]:
        """What is left when the upstream's bytes end."""
        ...


class Ledger(Protocol):
    """The budget verbs. Every call is safe to repeat with the same id; the same id with other arguments raises Conflict.

    All raise `errors.LedgerUnavailable` when the ledger does not answer within the deadline, and `errors.Refusal` for an expected no.
    """

    async def hold(self, path: Path, hold_id: str, *, want_nanocredits: int, least_nanocredits: int) -> Hold:
        """Reserve as much of `want` as every level can pay, at least `least`, at every level of the path in one step.

        In the same step one more request has begun and runs at every level, until its hold ends; how it ends gives nothing back of the
        requests a minute. Raises Refusal: insufficient_quota, request_exceeds_budget, budget_in_flight, too_many_requests,
        account_suspended.
        """
        ...

    async def debit(self, path: Path, hold_id: str, *, spent_nanocredits: int) -> bool:
        """Record the cumulative total spent so far and keep the hold alive; False when the hold is no longer open."""
        ...

    async def extend(self, path: Path, hold_id: str, *, sequence: int, spent_nanocredits: int, want_nanocredits: int) -> Hold | None:
        """Debit, then reserve up to `want` more (possibly 0); the hold as it is now, or None when it is no longer open."""
        ...

    async def settle(self, path: Path, hold_id: str, *, spent_nanocredits: int, overrun_nanocredits: int = 0, memo: str = "") -> Settlement:
        """End a hold at its exact cost and return the rest.

        Cost beyond the hold is paid by what the path has left, and what it cannot pay is booked as overrun, together with
        `overrun_nanocredits`. A hold that has expired before is settled once more by the difference.
        """
        ...

    async def void(self, path: Path, hold_id: str) -> Settlement:
        """End a hold and return all that it did not spend."""
        ...

    async def grant(
        self,
        path: Path,
        grant_id: str,
        *,
        credits_nanocredits: int,
        priority: int = 0,
        effective_at_ms: int | None = None,
        expires_at_ms: int | None = None,
        reason: str = "",
    ) -> Grant: ...

    async def revoke(self, path: Path, grant_id: str, *, operation_id: str, reason: str = "") -> Grant:
        """Take back what a grant has left; what is held of it stays with its hold. Raises Refusal: grant_not_found."""
        ...

    async def adjust(self, path: Path, operation_id: str, *, credits_nanocredits: int, reason: str = "") -> Settlement:
        """Correct what was spent at every level of the path: negative gives back, positive charges.

        A charge is paid like any other; what cannot be paid is overrun. Raises Refusal: adjustment_exceeds_spent.
        """
        ...

    async def transfer(
        self,
        source: Path,
        target: Path,
        operation_id: str,
        *,
        credits_nanocredits: int,
        reason: str = "",
        into: str = "",
        expires_at_ms: int | None = None,
    ) -> None:
        """Give credits away: taken from what `source` has left at its own level, added to `target` as grants.

        What came from a limit expires when that limit's window would have ended, and nothing lasts beyond `expires_at_ms`. `into` is for
        a receiver of very many: what expires at the same time becomes one grant, whose id begins with it. Once it is taken it is on its
        way, also where the receiver cannot have it yet. Raises Refusal: insufficient_quota, units_differ, conflict.
        """
        ...

    async def forgo(self, source: Path, operation_id: str) -> bool:
        """See to it that a transfer that was refused is never made, by whomever; False where it was made after all."""
        ...

    async def collect(self, source: Path, target: Path, operation_id: str, *, expires_at_ms: int, reason: str = "", into: str = "") -> int:
        """Give another account what has expired in `source` since the last time; how much (0 the first time).

        Windows that are over are turned for it. Raises Refusal: account_suspended, units_differ.
        """
        ...

    async def set_limits(self, path: Path, operation_id: str, *, limits: tuple[Limit, ...] | None) -> None:
        """Give an account limits of its own, or (None) its plan's again."""
        ...

    async def expire_due(self) -> int:
        """End every hold whose time is over, charged as last recorded; how many."""
        ...


def credits_from_nanocredits(amount_nanocredits: int) -> str:
    """An amount as people read it: a decimal string in credits, exact, without trailing zeros."""
    sign = "-" if amount_nanocredits < 0 else ""
    whole, fraction = divmod(abs(amount_nanocredits), NANOCREDITS_PER_CREDIT)
    return f"{sign}{whole}.{fraction:09d}".rstrip("0") if fraction else f"{sign}{whole}"


def nanocredits_from_credits(credits: str | int | Decimal) -> int:
    """The exact integer for a decimal amount of credits.

    Raises ValueError where the amount is not a finite number, has more than 9 places or leaves the ledger's range.
    """
    try:
        amount = Decimal(credits)
    except ArithmeticError as error:
        raise ValueError(f"{credits!r} is not a decimal number of credits") from error
    if not amount.is_finite():
        raise ValueError(f"{credits!r} is not a finite number of credits")
    if amount and (not -40 <= amount.adjusted() <= 20 or len(amount.as_tuple().digits) > 28):
        raise ValueError(f"{credits!r} credits have more digits than the ledger can count")
    if abs(amount) > AMOUNT_MAX_NANOCREDITS // NANOCREDITS_PER_CREDIT:
        raise ValueError(f"{credits} credits are beyond the ledger's range of {AMOUNT_MAX_NANOCREDITS // NANOCREDITS_PER_CREDIT}")
    scaled = amount * NANOCREDITS_PER_CREDIT
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{credits} credits have more than 9 decimal places")
    return int(scaled)
