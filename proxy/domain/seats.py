"""Seats of an upstream, as those who wait for one see them."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.frozen import dataclass


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
class Adapted:
    """What became of a move of a pool's seats."""

    seats: int
    cut_s: float
    """When they were last cut, by the asking process's clock; long ago where they never were."""


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
