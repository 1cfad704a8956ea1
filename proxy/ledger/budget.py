"""The budget verbs: `domain.Ledger` on a Redis or Valkey server.

Turns paths of account ids into the levels that the scripts take (limits with the window that holds now), and the scripts' answers into
domain types or refusals. Decides nothing about amounts: that is the scripts' alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Any

from proxy.domain import (
    AMOUNT_MAX_NANOCREDITS,
    Grant,
    Hold,
    Limit,
    Path,
    RequestRate,
    Settlement,
    Tightest,
)
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys, records
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Engine
from proxy.ledger.moves import Moves
from proxy.ledger.sweeper import Sweeper
from proxy.ledger.verbs import Verbs
from proxy.policy.paths import levels_left
from proxy.policy.units import check_transfer

log = logging.getLogger(__name__)

ENDED_MS = 120_000
"""How long an ended hold is remembered, for repeats; one that is unknown ended long ago."""
GRANTS_MAX = 256
"""Unfinished grants of one account, before it can be given another."""
MERGED_MAX = GRANTS_MAX + GRANTS_MAX // 2
"""The same for what is merged with what expires at the same time: so no number of small gifts keeps away what is owed."""
DELIVERED_MAX = 2 * GRANTS_MAX
"""The same for what was taken already: a transfer may arrive in as many parts as its giver has grants."""
UNCOLLECTED_MS = 40 * 86_400_000
"""For so long what has expired may wait to be collected; older is what a plan did not collect, and stays expired."""
PRIORITY_MAX = 1_000_000

_one, _two, _three, _four = (Struct(f"<{count}d").pack for count in (1, 2, 3, 4))
"""The numbers of a verb on a hold, as the scripts take them: exact, because they are whole and below 2^53."""


class RedisLedger:
    """One process's way to the budgets."""

    def __init__(self, engine: Engine, directory: Directory, moves: Moves, *, hold_ttl_ms: int) -> None:
        self._engine = engine
        self._directory = directory
        self._verbs = Verbs(engine, directory, moves, hold_ttl_ms=hold_ttl_ms)
        self._sweeper = Sweeper(engine, self._verbs, hold_ttl_ms=hold_ttl_ms)
        self.hold_ttl_ms = hold_ttl_ms

    # --- holds -----------------------------------------------------------------------------------------------------------------

    async def hold(self, path: Path, hold_id: str, *, want_nanocredits: int, least_nanocredits: int) -> Hold:
        _check_amounts(least_nanocredits, want_nanocredits, most=want_nanocredits)
        numbers = _three(want_nanocredits, least_nanocredits, self.hold_ttl_ms)
        reply = await self._verbs.on_hold("hold", path, hold_id, numbers)
        if reply[0] in ("INSUFFICIENT", "TOO_MANY") and reply[-1]:  # holds are overdue: what they keep may be what is missing
            await self._sweeper.expire_root(path[0])
            reply = await self._verbs.on_hold("hold", path, hold_id, numbers)
        if reply[0] == "INSUFFICIENT":
            raise _insufficient(path, reply, needed_nanocredits=least_nanocredits)
        if reply[0] == "TOO_MANY":
            raise _too_many_requests(path, reply)
        return _hold(path, hold_id, reply)

    async def debit(self, path: Path, hold_id: str, *, spent_nanocredits: int) -> bool:
        _check_amounts(spent_nanocredits)
        reply = await self._verbs.on_hold("debit", path, hold_id, _two(spent_nanocredits, self.hold_ttl_ms))
        return bool(reply[0] == "OK")

    async def extend(self, path: Path, hold_id: str, *, sequence: int, spent_nanocredits: int, want_nanocredits: int) -> Hold | None:
        _check_amounts(spent_nanocredits, want_nanocredits)
        _check_amounts(sequence, least=1)
        numbers = _four(sequence, spent_nanocredits, want_nanocredits, self.hold_ttl_ms)
        reply = await self._verbs.on_hold("extend", path, hold_id, numbers)
        return None if reply[0] == "GONE" else _hold(path, hold_id, reply)

    async def settle(self, path: Path, hold_id: str, *, spent_nanocredits: int, overrun_nanocredits: int = 0, memo: str = "") -> Settlement:
        _check_amounts(spent_nanocredits, overrun_nanocredits)
        numbers = _three(spent_nanocredits, overrun_nanocredits, ENDED_MS)
        reply = await self._verbs.on_hold("settle", path, hold_id, numbers, memo)
        return _settlement(hold_id, reply)

    async def void(self, path: Path, hold_id: str) -> Settlement:
        reply = await self._verbs.on_hold("void", path, hold_id, _two(ENDED_MS, 0))
        return _settlement(hold_id, reply)

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
        _check_amounts(credits_nanocredits, least=1)
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
            raise _too_many_grants(path)
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
        _check_amounts(abs(credits_nanocredits), least=1)
        reply = await self._verbs.operate("adjust", path, operation_id, {"credits": credits_nanocredits, "reason": reason})
        if reply[0] == "EXCEEDS":
            account = path[reply[2]]
            hint = "give back no more than was spent, or add a grant"
            raise Refusal("adjustment_exceeds_spent", f"account {account!r} has spent less than that", account=account, hint=hint)
        return Settlement(operation_id, "settled", int(reply[2]), int(reply[3]))

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
        comes_back: bool = False,
    ) -> None:
        _check_amounts(credits_nanocredits, least=1)
        if source[-1] == target[-1]:
            raise Refusal("invalid_request", "the giver and the receiver are the same account", account=source[-1])
        plans = [await self._directory.plan_of(await self._directory.settings(path[-1])) for path in (source, target)]
        check_transfer(*plans, giver=source[-1], receiver=target[-1])
        await self._check_room(source[0], target, operation_id, most=MERGED_MAX if into else GRANTS_MAX)
        expires_ms = records.NEVER_MS if expires_at_ms is None else expires_at_ms
        arguments = {
            "credits": credits_nanocredits,
            "reason": reason,
            "target": " ".join(target),
            "into": into,
            "expires": expires_ms,
            "from": _first(source, levels_left(source, target, comes_back=comes_back)),
            "arrive": _first(target, levels_left(target, source)) if comes_back else len(target),
        }
        reply = await self._verbs.operate("transfer", source, operation_id, arguments)
        if reply[0] == "INSUFFICIENT" and not reply[3]:
            message = f"account {source[-1]!r} has no limit to give from, and its grants do not suffice"
            raise Refusal("invalid_request", message, account=source[-1])
        if reply[0] == "INSUFFICIENT":
            refusal = _insufficient(source, reply, needed_nanocredits=credits_nanocredits)
            raise Refusal(
                "insufficient_quota",
                f"account {refusal.account!r} has less than that to give",
                hint=None if refusal.account == source[-1] else "What leaves an account counts at every level that it leaves.",
                account=refusal.account,
                limit=refusal.limit,
                needed_nanocredits=credits_nanocredits,
                available_nanocredits=refusal.available_nanocredits,
                resets_at_ms=refusal.resets_at_ms,
            )
        with _in_transit(operation_id):
            await self._deliver(source[0], operation_id, [part.decode() for part in reply[2:]])

    async def forgo(self, source: Path, operation_id: str) -> bool:
        try:
            await self._verbs.operate("forgo", source, operation_id, {})
        except Conflict:
            return False
        return True

    async def collect(self, source: Path, target: Path, operation_id: str, *, expires_at_ms: int, reason: str = "", into: str = "") -> int:
        plans = [await self._directory.plan_of(await self._directory.settings(path[-1])) for path in (source, target)]
        check_transfer(*plans, giver=source[-1], receiver=target[-1])
        arguments = {
            "target": " ".join(target),
            "into": into,
            "expires": expires_at_ms,
            "reason": reason,
            "stale_ms": UNCOLLECTED_MS,
            "from": _first(source, levels_left(source, target)),
            "arrive": len(target),
        }
        reply = await self._verbs.operate("collect", source, operation_id, arguments)
        if len(reply) == 2:
            return 0
        parts = [part.decode() for part in reply[2:]]
        with _in_transit(operation_id):
            await self._deliver(source[0], operation_id, parts)
        return int(parts[4])

    async def _check_room(self, root: str, target: Path, operation_id: str, *, most: int) -> None:
        """Raises Refusal: account_not_found; conflict where the receiver could not take a new transfer, so that nothing is taken for it."""
        receiver = await self._directory.account(target[-1])
        unfinished = sum(1 for grant in receiver.grants if grant.remaining_nanocredits or grant.held_nanocredits)
        if unfinished >= most and not await self._engine.command("EXISTS", keys.operation(root, operation_id)):
            raise _too_many_grants(target)

    async def _deliver(self, root: str, operation_id: str, parts: list[str]) -> None:
        """Give the receiver what a transfer took, one grant for each expiry, then take it out of the outbox."""
        target, arrive, reason, into = records.path_of(parts[0]), int(parts[1]), *parts[2:4]
        for n in range(4, len(parts), 2):
            arguments = {
                "credits": int(parts[n]),
                "priority": 0,
                "effective": 0,
                "expires": int(parts[n + 1]),
                "reason": reason,
                "grants_max": DELIVERED_MAX,
                "late": True,
                **({"into": into} if into else {}),
                **({"from": arrive} if arrive < len(target) else {}),
            }
            reply = await self._verbs.operate("grant", target, f"{operation_id}:{n // 2 - 1}", arguments)
            if reply[0] in ("TOO_MANY", "TOO_MUCH"):
                raise _too_many_grants(target)
        await self._verbs.delivered(root, operation_id)

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


@contextmanager
def _in_transit(operation_id: str) -> Iterator[None]:
    """What is taken is given: where the receiver cannot have it yet it waits in the outbox, and that is no refusal to the giver."""
    try:
        yield
    except Refusal as refusal:
        log.warning("transfer %s stays in transit: %s", operation_id, refusal.message)


def _first(path: Path, last_levels: Path) -> int:
    """The number of the first of some last levels of a path, as the scripts count them."""
    return 1 + len(path) - len(last_levels)


def _check_amounts(*amounts_nanocredits: int, least: int = 0, most: int = AMOUNT_MAX_NANOCREDITS) -> None:
    """Raises Refusal: invalid_request, where an amount is no amount that the ledger can count."""
    for amount in amounts_nanocredits:
        if not least <= amount <= most or amount > AMOUNT_MAX_NANOCREDITS:
            raise Refusal("invalid_request", "the amount is outside what the ledger can count", needed_nanocredits=amount)


def _too_many_grants(path: Path) -> Refusal:
    hint = "revoke some, or let them be spent"
    return Refusal("conflict", f"account {path[-1]!r} has {GRANTS_MAX} unfinished grants", account=path[-1], hint=hint)


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


def _hold(path: Path, hold_id: str, reply: list[Any]) -> Hold:
    """What a verb that takes has answered: the amount, the limit that leaves least (-1: none), after a hold also the rate that does."""
    limit, rate = ([], reply[4:]) if reply[3] < 0 else (reply[3:9], reply[9:])
    return Hold(hold_id, path, reply[2], _tightest(path, limit), _rate(path, rate))


def _tightest(path: Path, reply: list[Any]) -> Tightest | None:
    if not reply:
        return None
    level, key, credits_, remaining, starts_ms, resets_ms = reply
    ends = resets_ms != records.NEVER_MS
    return Tightest(
        account=path[level],
        limit_key=key.decode(),
        credits_nanocredits=credits_,
        remaining_nanocredits=remaining,
        resets_at_ms=resets_ms if ends else None,
        window_s=(resets_ms - starts_ms) // 1000 if ends else None,
    )


def _rate(path: Path, reply: list[Any]) -> RequestRate | None:
    if not reply:
        return None
    level, per_minute, remaining, restored_ms = reply
    return RequestRate(path[level], per_minute, remaining, restored_ms)


def _settlement(hold_id: str, reply: list[Any]) -> Settlement:
    return Settlement(hold_id, reply[2].decode(), reply[3], reply[4])


def _insufficient(path: Path, reply: list[Any], *, needed_nanocredits: int) -> Refusal:
    """Which no it is: never possible, possible once running requests settle, or spent."""
    _, _, level, limit, available, held, capacity, resets_ms, _ = reply
    details: dict[str, Any] = {
        "account": path[level],
        "limit": limit.decode() or None,
        "needed_nanocredits": needed_nanocredits,
        "available_nanocredits": available,
        "resets_at_ms": resets_ms if 0 < resets_ms < records.NEVER_MS else None,
    }
    name = f"account {path[level]!r}"
    if needed_nanocredits > capacity:
        hint = "Ask for less: a shorter input or a smaller maximum; or have the limit raised."
        return Refusal("request_exceeds_budget", f"The request can never fit the budget of {name}.", hint=hint, **details)
    if needed_nanocredits <= available + held:
        hint = "Running requests hold what is missing; try again once they end."
        return Refusal("budget_in_flight", f"The budget of {name} is held by running requests.", hint=hint, retry_after_s=1.0, **details)
    hint = "Wait for the window to turn, or ask for a grant or a higher limit."
    return Refusal("insufficient_quota", f"The budget of {name} is spent.", hint=hint, **details)


def _too_many_requests(path: Path, reply: list[Any]) -> Refusal:
    """Which rate of which account is used up, and when that may be otherwise."""
    _, _, level, which, most, wait_ms, _ = reply
    account = path[level]
    if which == b"running":
        message = f"Account {account!r} already runs {most} requests, as many as its plan lets run at a time."
        hint, limit, retry_after_s = "Try again once one of them has ended.", "concurrent_requests", 1.0
    else:
        message = f"Account {account!r} has begun as many requests as its plan lets begin: {most} a minute."
        hint, limit, retry_after_s = "Spread requests over the minute.", "requests_per_minute", wait_ms / 1000
    return Refusal("too_many_requests", message, hint=hint, account=account, limit=limit, retry_after_s=retry_after_s)
