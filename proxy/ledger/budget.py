"""The budget verbs: `domain.Ledger` on a Redis or Valkey server.

Each verb is asked for here, or in `transfers`; paths become the levels that the scripts take in `verbs`, answers become domain types or
refusals in `replies`. Decides nothing about amounts: that is the scripts' alone.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from proxy.domain import Grant, Hold, Limit, Path, Settlement
from proxy.errors import Refusal
from proxy.ledger import records
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.moves import Moves
from proxy.ledger.replies import hold_of, insufficient, settlement_of, too_many_requests
from proxy.ledger.sweeper import Sweeper
from proxy.ledger.transfers import GRANTS_MAX, Transfers, too_many_grants
from proxy.ledger.verbs import Verbs, check_amounts

ENDED_MS = 120_000
"""How long an ended hold is remembered, for repeats; one that is unknown ended long ago."""
PRIORITY_MAX = 1_000_000

_one, _two, _three, _four = (Struct(f"<{count}d").pack for count in (1, 2, 3, 4))
"""The numbers of a verb on a hold, as the scripts take them: exact, because they are whole and below 2^53."""


class RedisLedger(Transfers):
    """One process's way to the budgets."""

    def __init__(self, engine: Engine, directory: Directory, moves: Moves, *, hold_ttl_ms: int) -> None:
        super().__init__(engine, directory, Verbs(engine, directory, moves, hold_ttl_ms=hold_ttl_ms))
        self._sweeper = Sweeper(engine, self._verbs, hold_ttl_ms=hold_ttl_ms)
        self.hold_ttl_ms = hold_ttl_ms

    # --- holds -----------------------------------------------------------------------------------------------------------------

    async def hold(self, path: Path, hold_id: str, *, want_nanocredits: int, least_nanocredits: int) -> Hold:
        check_amounts(least_nanocredits, want_nanocredits, most=want_nanocredits)
        numbers = _three(want_nanocredits, least_nanocredits, self.hold_ttl_ms)
        reply = await self._verbs.on_hold("hold", path, hold_id, numbers)
        if reply[0] in ("INSUFFICIENT", "TOO_MANY") and reply[-1]:  # holds are overdue: what they keep may be what is missing
            await self._sweeper.expire_root(path[0])
            reply = await self._verbs.on_hold("hold", path, hold_id, numbers)
        if reply[0] == "INSUFFICIENT":
            raise insufficient(path, reply, needed_nanocredits=least_nanocredits)
        if reply[0] == "TOO_MANY":
            raise too_many_requests(path, reply)
        return hold_of(path, hold_id, reply)

    async def debit(self, path: Path, hold_id: str, *, spent_nanocredits: int) -> bool:
        check_amounts(spent_nanocredits)
        reply = await self._verbs.on_hold("debit", path, hold_id, _two(spent_nanocredits, self.hold_ttl_ms))
        return bool(reply[0] == "OK")

    async def extend(self, path: Path, hold_id: str, *, sequence: int, spent_nanocredits: int, want_nanocredits: int) -> Hold | None:
        check_amounts(spent_nanocredits, want_nanocredits)
        check_amounts(sequence, least=1)
        numbers = _four(sequence, spent_nanocredits, want_nanocredits, self.hold_ttl_ms)
        reply = await self._verbs.on_hold("extend", path, hold_id, numbers)
        return None if reply[0] == "GONE" else hold_of(path, hold_id, reply)

    async def settle(self, path: Path, hold_id: str, *, spent_nanocredits: int, overrun_nanocredits: int = 0, memo: str = "") -> Settlement:
        check_amounts(spent_nanocredits, overrun_nanocredits)
        numbers = _three(spent_nanocredits, overrun_nanocredits, ENDED_MS)
        reply = await self._verbs.on_hold("settle", path, hold_id, numbers, memo)
        return settlement_of(hold_id, reply)

    async def void(self, path: Path, hold_id: str) -> Settlement:
        reply = await self._verbs.on_hold("void", path, hold_id, _two(ENDED_MS, 0))
        return settlement_of(hold_id, reply)

    # --- credits ---------------------------------------------------------------------------------------------------------------

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
    ) -> Grant:
        check_amounts(credits_nanocredits, least=1)
        if abs(priority) > PRIORITY_MAX:
            raise Refusal("invalid_request", f"a priority lies between -{PRIORITY_MAX} and {PRIORITY_MAX}", account=path[-1])
        arguments = {
            "credits": credits_nanocredits,
            "priority": priority,
            "effective": effective_at_ms or 0,
            "expires": records.NEVER_MS if expires_at_ms is None else expires_at_ms,
            "reason": reason,
            "grants_max": GRANTS_MAX,
        }
        reply = await self._verbs.operate("grant", path, grant_id, arguments)
        if reply[0] == "PAST":
            raise Refusal("invalid_request", "a grant must expire in the future, and after it begins", account=path[-1])
        if reply[0] == "TOO_MANY":
            raise too_many_grants(path)
        if reply[0] == "TOO_MUCH":
            raise Refusal("invalid_request", "the account's grants would pass what the ledger can count", account=path[-1])
        try:
            return await self._read_grant(path, grant_id)
        except Refusal:  # a repeat after the grant was used up and dropped from the list
            return _finished_grant(grant_id, arguments)

    async def revoke(self, path: Path, grant_id: str, *, operation_id: str, reason: str = "") -> Grant:
        reply = await self._verbs.operate("revoke", path, operation_id, {"grant": grant_id, "reason": reason})
        if reply[0] == "NO_GRANT":
            raise Refusal("grant_not_found", f"account {path[-1]!r} has no grant {grant_id!r}", account=path[-1])
        return await self._read_grant(path, grant_id)

    async def _read_grant(self, path: Path, grant_id: str) -> Grant:
        for grant in (await self._directory.account(path[-1])).grants:
            if grant.grant_id == grant_id:
                return grant
        raise Refusal("grant_not_found", f"the grant {grant_id!r} is used up and no longer listed", account=path[-1])

    async def adjust(self, path: Path, operation_id: str, *, credits_nanocredits: int, reason: str = "") -> Settlement:
        check_amounts(abs(credits_nanocredits), least=1)
        reply = await self._verbs.operate("adjust", path, operation_id, {"credits": credits_nanocredits, "reason": reason})
        if reply[0] == "EXCEEDS":
            account = path[reply[2]]
            hint = "give back no more than was spent, or add a grant"
            raise Refusal("adjustment_exceeds_spent", f"account {account!r} has spent less than that", account=account, hint=hint)
        return Settlement(operation_id, "settled", int(reply[2]), int(reply[3]))

    async def set_limits(self, path: Path, operation_id: str, *, limits: tuple[Limit, ...] | None) -> None:
        await self._verbs.operate("set_limits", path, operation_id, {"limits": records.encode_limits(limits)})
        await self._directory.announce_account(path[-1])

    # --- self-service ----------------------------------------------------------------------------------------------------------

    async def count_write(self, person: Path, *, per_minute: int) -> None:
        """Count one change that a person, or one of its agents, is about to make by self-service.

        So many may be made a minute, all of them at once after a quiet one. Raises Refusal: too_many_requests.
        """
        reply = await self._verbs.write(person, _one(per_minute))
        if reply[0] == "TOO_MANY":
            raise Refusal(
                "too_many_requests",
                f"Account {person[-1]!r} and its agents have changed as much by self-service as they may: {per_minute} times a minute.",
                hint="Spread changes over the minute; reading is not limited.",
                account=person[-1],
                limit="writes_per_minute",
                retry_after_s=reply[2] / 1000,
            )

    # --- sweeping --------------------------------------------------------------------------------------------------------------

    async def expire_due(self) -> int:
        """End the holds whose time is over, in every root, and deliver what is in transit; how many holds ended."""
        return await self._sweeper.sweep(self._deliver)

    def take_expired_charges(self) -> int:
        """What the holds that this process has ended for their time had spent, since it was last asked."""
        charged, self._sweeper.charged_nanocredits = self._sweeper.charged_nanocredits, 0
        return charged


def _finished_grant(grant_id: str, arguments: dict[str, Any]) -> Grant:
    """A grant that is used up and no longer listed, as far as its arguments tell."""
    expires_ms = arguments["expires"]
    return Grant(
        grant_id=grant_id,
        credits_nanocredits=arguments["credits"],
        remaining_nanocredits=0,
        held_nanocredits=0,
        spent_nanocredits=arguments["credits"],
        priority=arguments["priority"],
        effective_at_ms=arguments["effective"],
        expires_at_ms=None if expires_ms == records.NEVER_MS else expires_ms,
        reason=arguments["reason"],
        created_at_ms=arguments["effective"],
    )
