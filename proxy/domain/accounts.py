"""Who holds a budget: limits and plans, accounts with their balances, keys and callers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from proxy.domain.amounts import CREDITS, AccountId, Path
from proxy.frozen import dataclass

AccountStatus = Literal["active", "suspended", "closed"]

AccountKind = Literal["account", "agent"]
"""An agent is a sub-account that acts for the account above it: what it uses counts as that account's own."""

Rollover = Literal["none", "capped", "full"]


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
