"""The one record of interventions: what has been seen and decided, the orders in force, and the modes that operators have set.

One controller at a time writes it, whichever process holds the lease at that moment; everybody reads it. A record that this version cannot
read counts as none, so that the rules begin anew. Must not know what the rules are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from proxy.ledger import keys
from proxy.ledger.engine import Engine
from proxy.ledger.records import pairs
from proxy.policy.interventions import Mode, State
from proxy.policy.orders import POLICIES, Orders, PolicyName

log = logging.getLogger(__name__)

_MODE: Final = "mode:"
_FRESH: Final = State()


@dataclass(frozen=True, slots=True)
class Published:
    """What stands in the record."""

    state: State = _FRESH
    orders: Orders | None = None
    """None before the first decision."""
    modes: Mapping[PolicyName, Mode] = field(default_factory=dict)
    """As set at run time; the configuration's hold for the others."""


class InterventionRecord:
    """The record on the ledger's server. Every call raises LedgerUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self) -> Published:
        """All of it."""
        row = pairs(await self._engine.command("HGETALL", keys.INTERVENTIONS))
        modes = {name: row[_MODE + name].decode() for name in POLICIES if _MODE + name in row}
        try:
            return Published(
                state=msgspec.json.decode(row["state"], type=State) if "state" in row else _FRESH,
                orders=_orders(row.get("orders")),
                modes=msgspec.convert(modes, type=dict[PolicyName, Mode]),
            )
        except msgspec.ValidationError as error:
            log.warning("the record of interventions cannot be read and counts as none: %s", error)
            return Published()

    async def orders(self) -> Orders | None:
        """The orders in force; None where nothing has been decided yet."""
        try:
            return _orders(await self._engine.command("HGET", keys.INTERVENTIONS, "orders"))
        except msgspec.ValidationError:
            return None

    async def publish(self, state: State, orders: Orders) -> None:
        """Put a decision in force."""
        fields = ("state", msgspec.json.encode(state), "orders", msgspec.json.encode(orders))
        await self._engine.command("HSET", keys.INTERVENTIONS, *fields)

    async def set_mode(self, policy: PolicyName, mode: Mode | None) -> None:
        """Have a policy in this mode from the next look on, whatever the configuration says; None: as that says."""
        if mode is None:
            await self._engine.command("HDEL", keys.INTERVENTIONS, _MODE + policy)
        else:
            await self._engine.command("HSET", keys.INTERVENTIONS, _MODE + policy, mode)

    async def lease(self, for_ms: int) -> bool:
        """Whether the next look is the caller's, because nobody else has taken one for so long."""
        return await self._engine.command("SET", keys.lease("interventions"), "-", "NX", "PX", for_ms) is not None


def _orders(row: bytes | None) -> Orders | None:
    return None if row is None else msgspec.json.decode(row, type=Orders)
