"""The pools of the upstreams whose seats are scarce, as operators and the metrics see them.

Which pools there are is the configuration's to say, and how each stands the ledger's. Must not know who waits for a seat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from proxy import config
from proxy.domain import PoolState
from proxy.errors import Refusal
from proxy.ledger.pools import Pools


class UpstreamPools:
    """A pool for each upstream with a limit, of the configuration in force. Every call raises LedgerUnavailable."""

    def __init__(self, pools: Pools, upstreams: Callable[[], Sequence[config.Upstream]]) -> None:
        self._pools = pools
        self._upstreams = upstreams

    async def all(self) -> list[PoolState]:
        """How each stands, in the configuration's order. One that was never asked for a seat has them all."""
        seats = self._seats()
        return [_as_configured(state, seats[state.name]) for state in await self._pools.states(list(seats))]

    async def one(self, name: str) -> PoolState:
        """How one stands. Raises Refusal: not_found."""
        seats = self._seats_of(name)
        (state,) = await self._pools.states([name])
        return _as_configured(state, seats)

    async def drain(self, name: str, draining: bool) -> None:
        """Give no more seats, or give them again; whoever has one keeps it. Raises Refusal: not_found."""
        first = self._seats_of(name)
        if not await self._pools.configure(name, draining=draining):
            await self._pools.configure(name, seats=first, draining=draining)

    def _seats(self) -> dict[str, int]:
        return {section.name: seats for section in self._upstreams() if (seats := section.first_seats) is not None}

    def _seats_of(self, name: str) -> int:
        seats = self._seats().get(name)
        if seats is None:
            raise Refusal(
                "not_found",
                f"there is no pool {name!r}",
                hint="a pool is an upstream of the configuration that has a limit, such as `seats`",
            )
        return seats


def _as_configured(state: PoolState, seats: int) -> PoolState:
    """A pool that the ledger does not know has no seats there yet."""
    return state if state.seats else dataclasses.replace(state, seats=seats)
