"""The tables that are there once: who listens where, the ledger, admin tokens, self-service, agents, commons, equality, compatibility."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from proxy import domain
from proxy.config.values import LEDGER_SCHEMES, Address, Amount, Identifier, Section


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
    """How long what has changed waits until it is audited."""
    audit_walk_s: float = Field(default=86_400.0, ge=1, le=31_622_400)
    """How long the audit may take to walk through all accounts, also those that nobody touches."""
    audit_visits_per_s: int = Field(default=200, ge=2, le=100_000)
    """How many accounts the background audit visits in a second at most; what changes faster is audited later, the oldest first."""
    journal_days: int = Field(default=400, ge=0, le=36_500)
    """How long the journal keeps an entry; what is older is folded into a checkpoint, a day later at most, and is in nobody's history any
    more. 0: for ever."""

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


class SelfService(Section):
    """What people do with their own key under `/ledger/`."""

    writes_per_minute: int = Field(default=300, ge=1, le=1_000_000)
    """Calls that change something, of each person and its agents together; as many at once after a quiet minute."""
    loan_days_max: int = Field(default=366, ge=1, le=36_500)
    """In so many days a loan must be due that a person offers; an operator's may last longer."""


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


class Compat(Section):
    budget_status: Literal[402, 429, 403] = 402
