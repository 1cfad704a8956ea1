"""The one record of interventions: what has been seen and decided, the orders in force, and the modes that operators have set.

One controller at a time looks, whichever process holds the lease at that moment; what it decides counts only where the record is still as
it was read, so that one that is late undoes nothing. Everybody reads it. What this version cannot read of it counts as none, so that the
rules begin anew; each mode that can be read stays. Must not know what the rules are.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
    revision: str = ""
    """Another one whenever a decision is published or a mode is set."""


class InterventionRecord:
    """The record on the ledger's server. Every call raises LedgerUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self) -> Published:
        """All of it."""
        row = pairs(await self._engine.command("HGETALL", keys.INTERVENTIONS))
        modes = _modes({name: row.get(_MODE + name) for name in POLICIES})
        published = Published(modes=modes, revision=row.get("revision", b"").decode())
        try:
            state = msgspec.json.decode(row["state"], type=State) if "state" in row else _FRESH
            return replace(published, state=state, orders=_orders(row.get("orders")))
        except msgspec.ValidationError as error:
            log.warning("the record of interventions cannot be read and counts as none: %s", error)
            return published

    async def is_still(self, revision: str) -> bool:
        """Whether nothing was decided or set since a record of this revision was read."""
        return (await self._engine.command("HGET", keys.INTERVENTIONS, "revision") or b"").decode() == revision

    async def orders(self, modes_in: Callable[[Mapping[PolicyName, Mode]], Mapping[PolicyName, Mode]]) -> Orders | None:
        """The orders in force, without the policies that have got another mode since; None where nothing has been decided yet. `modes_in`
        tells the mode of each from what operators have set."""
        orders, *texts = await self._engine.command("HMGET", keys.INTERVENTIONS, "orders", *(_MODE + name for name in POLICIES))
        try:
            found = _orders(orders)
        except msgspec.ValidationError:
            return None
        if found is None:
            return None
        modes = modes_in(_modes(dict(zip(POLICIES, texts, strict=True))))
        return replace(
            found,
            on=tuple(name for name in found.on if modes[name] == "on"),
            proposed=tuple(name for name in found.proposed if modes[name] == "dry_run"),
        )

    async def publish(self, state: State, orders: Orders, *, since: str) -> bool:
        """Put in force what was decided from a record of this revision; whether it is, because the record is still that one."""
        texts = (msgspec.json.encode(state), msgspec.json.encode(orders))
        return bool(await self._engine.script("publish", [keys.INTERVENTIONS], [since, secrets.token_hex(8), *texts]) == 1)

    async def set_mode(self, policy: PolicyName, mode: Mode | None) -> None:
        """Have a policy in this mode from the next look on, whatever the configuration says; None: as that says. Where it acts otherwise,
        that ends at once."""
        await self._engine.script("set_mode", [keys.INTERVENTIONS], [_MODE + policy, mode or "", secrets.token_hex(8)])

    async def lease(self, for_ms: int) -> bool:
        """Whether the next look is the caller's, because nobody else has taken one for so long."""
        return await self._engine.command("SET", keys.lease("interventions"), "-", "NX", "PX", for_ms) is not None


def _orders(row: bytes | None) -> Orders | None:
    return None if row is None else msgspec.json.decode(row, type=Orders)


def _modes(texts: Mapping[PolicyName, bytes | None]) -> Mapping[PolicyName, Mode]:
    """Those that are set and can be read."""
    modes: dict[PolicyName, Mode] = {}
    for name, text in texts.items():
        if text is None:
            continue
        try:
            modes |= msgspec.convert({name: text.decode()}, type=dict[PolicyName, Mode])
        except msgspec.ValidationError:
            log.warning("the mode that was set of %s cannot be read and counts as none", name)
    return modes
