"""The budget verbs: `domain.Ledger` on a Redis or Valkey server.

Turns paths of account ids into the levels that the scripts take (limits with the window that holds now), and the scripts' answers into
domain types or refusals. Decides nothing about amounts: that is the scripts' alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from proxy.domain import (
    AMOUNT_MAX_NANOCREDITS,
    AccountId,
    Grant,
    Hold,
    Limit,
    Path,
    Settlement,
    Tightest,
)
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys, records
from proxy.ledger.directory import REMEMBERED_MS, Directory, digest
from proxy.ledger.engine import Engine

log = logging.getLogger(__name__)

ENDED_MS = 120_000
"""How long an ended hold is remembered, for repeats; one that is unknown ended long ago."""
EXPIRED_MS = 7 * 86_400_000
"""How long an expired hold waits for its late settle."""
GRANTS_MAX = 256
"""Unfinished grants of one account."""
PRIORITY_MAX = 1_000_000
STALE_TRIES = 4
"""How often a call is made again because an account or a window changed under it."""
SWEEP_ROOTS = 200
SWEEP_HOLDS = 500
CACHED_PATHS_MAX = 50_000

_CHECKED = frozenset({"hold", "extend"})
"""Verbs that must see an account's latest settings."""


@dataclass(frozen=True, slots=True)
class Levels:
    """A path as the scripts take it, and how long it may be sent."""

    keys: list[str]
    rows: list[list[Any]]
    until_ms: int
    generation: int


class RedisLedger:
    """One process's way to the budgets."""

    def __init__(self, engine: Engine, directory: Directory, *, hold_ttl_ms: int) -> None:
        self._engine = engine
        self._directory = directory
        self._levels: dict[Path, Levels] = {}
        self.hold_ttl_ms = hold_ttl_ms

    # --- holds -----------------------------------------------------------------------------------------------------------------

    async def hold(self, path: Path, hold_id: str, *, want_nanocredits: int, least_nanocredits: int) -> Hold:
        _check_amounts(least_nanocredits, want_nanocredits, most=want_nanocredits)
        arguments = {"id": hold_id, "want": want_nanocredits, "least": least_nanocredits, "ttl_ms": self.hold_ttl_ms}
        reply = await self._on_hold("hold", path, hold_id, arguments)
        if reply[0] == "INSUFFICIENT" and reply[8]:  # holds are overdue: what they keep may be what is missing
            await self._expire_root(path[0])
            reply = await self._on_hold("hold", path, hold_id, arguments)
        if reply[0] == "INSUFFICIENT":
            raise _insufficient(path, reply, needed_nanocredits=least_nanocredits)
        return Hold(hold_id, path, reply[2], self._tightest(path, reply[3:]))

    async def debit(self, path: Path, hold_id: str, *, spent_nanocredits: int) -> bool:
        _check_amounts(spent_nanocredits)
        arguments = {"id": hold_id, "spent": spent_nanocredits, "ttl_ms": self.hold_ttl_ms}
        reply = await self._on_hold("debit", path, hold_id, arguments)
        return bool(reply[0] == "OK")

    async def extend(self, path: Path, hold_id: str, *, sequence: int, spent_nanocredits: int, want_nanocredits: int) -> Hold | None:
        _check_amounts(spent_nanocredits, want_nanocredits)
        _check_amounts(sequence, least=1)
        arguments = {
            "id": hold_id,
            "sequence": sequence,
            "spent": spent_nanocredits,
            "want": want_nanocredits,
            "ttl_ms": self.hold_ttl_ms,
        }
        reply = await self._on_hold("extend", path, hold_id, arguments)
        return None if reply[0] == "GONE" else Hold(hold_id, path, reply[2], self._tightest(path, reply[3:]))

    async def settle(self, path: Path, hold_id: str, *, spent_nanocredits: int, overrun_nanocredits: int = 0, memo: str = "") -> Settlement:
        _check_amounts(spent_nanocredits, overrun_nanocredits)
        arguments = {
            "id": hold_id,
            "spent": spent_nanocredits,
            "overrun": overrun_nanocredits,
            "memo": memo,
            "asked": f"{spent_nanocredits} {overrun_nanocredits}",
            "keep_ms": ENDED_MS,
        }
        return _settlement(hold_id, await self._on_hold("settle", path, hold_id, arguments))

    async def void(self, path: Path, hold_id: str) -> Settlement:
        reply = await self._on_hold("void", path, hold_id, {"id": hold_id, "keep_ms": ENDED_MS})
        return _settlement(hold_id, reply)

    async def _on_hold(self, verb: str, path: Path, hold_id: str, arguments: dict[str, Any]) -> list[Any]:
        return await self._run(verb, path, keys.of_hold(path[0], hold_id), arguments, checked=verb in _CHECKED, opens=verb == "hold")

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
        reply = await self._operate("grant", path, grant_id, arguments)
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
        reply = await self._operate("revoke", path, operation_id, {"grant": grant_id, "reason": reason})
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
        reply = await self._operate("adjust", path, operation_id, {"credits": credits_nanocredits, "reason": reason})
        if reply[0] == "EXCEEDS":
            account = path[reply[2]]
            hint = "give back no more than was spent, or add a grant"
            raise Refusal("adjustment_exceeds_spent", f"account {account!r} has spent less than that", account=account, hint=hint)
        return Settlement(operation_id, "settled", int(reply[2]), int(reply[3]))

    async def transfer(self, source: Path, target: Path, operation_id: str, *, credits_nanocredits: int, reason: str = "") -> None:
        _check_amounts(credits_nanocredits, least=1)
        if source[-1] == target[-1]:
            raise Refusal("invalid_request", "the giver and the receiver are the same account", account=source[-1])
        await self._check_room(source[0], target, operation_id)
        arguments = {"credits": credits_nanocredits, "reason": reason, "target": " ".join(target)}
        reply = await self._operate("transfer", source, operation_id, arguments)
        if reply[0] == "INSUFFICIENT" and not reply[3]:
            message = f"account {source[-1]!r} has no limit to give from, and its grants do not suffice"
            raise Refusal("invalid_request", message, account=source[-1])
        if reply[0] == "INSUFFICIENT":
            refusal = _insufficient(source, reply, needed_nanocredits=credits_nanocredits)
            raise Refusal(
                "insufficient_quota",
                f"account {source[-1]!r} has less than that to give",
                account=source[-1],
                limit=refusal.limit,
                needed_nanocredits=credits_nanocredits,
                available_nanocredits=refusal.available_nanocredits,
                resets_at_ms=refusal.resets_at_ms,
            )
        await self._deliver(source[0], operation_id, [part.decode() for part in reply[2:]])

    async def _check_room(self, root: str, target: Path, operation_id: str) -> None:
        """Raises Refusal: account_not_found; conflict where the receiver could not take a new transfer, so that nothing is taken for it."""
        receiver = await self._directory.account(target[-1])
        unfinished = sum(1 for grant in receiver.grants if grant.remaining_nanocredits or grant.held_nanocredits)
        if unfinished >= GRANTS_MAX and not await self._engine.command("EXISTS", keys.operation(root, operation_id)):
            raise _too_many_grants(target)

    async def _deliver(self, root: str, operation_id: str, parts: list[str]) -> None:
        """Give the receiver what a transfer took, one grant for each expiry, then take it out of the outbox."""
        target, reason = records.path_of(parts[0]), parts[1]
        for n in range(2, len(parts), 2):
            arguments = {
                "credits": int(parts[n]),
                "priority": 0,
                "effective": 0,
                "expires": int(parts[n + 1]),
                "reason": reason,
                "grants_max": GRANTS_MAX,
                "late": True,
            }
            reply = await self._operate("grant", target, f"{operation_id}:{n // 2}", arguments)
            if reply[0] in ("TOO_MANY", "TOO_MUCH"):
                raise _too_many_grants(target)
        await self._run("deliver", (AccountId(root),), keys.of_operation(root, operation_id), {"id": operation_id}, checked=False)

    async def set_limits(self, path: Path, operation_id: str, *, limits: tuple[Limit, ...] | None) -> None:
        await self._operate("set_limits", path, operation_id, {"limits": records.encode_limits(limits)})
        await self._directory.announce_account(path[-1])

    async def _operate(self, verb: str, path: Path, operation_id: str, arguments: dict[str, Any]) -> list[Any]:
        head = keys.of_operation(path[0], operation_id)
        asked = {"id": operation_id, "digest": digest(verb, path, arguments), "keep_ms": REMEMBERED_MS, **arguments}
        takes = verb in ("adjust", "transfer")
        reply = await self._run(verb, path, head, asked, checked=takes, opens=verb == "transfer", durable=True)
        if reply[0] == "CONFLICT":
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        return reply

    # --- sweeping --------------------------------------------------------------------------------------------------------------

    def _mark(self, root: str) -> tuple[str | bytes | int, ...]:
        """The command that notes, right behind a call, that this root has something open for the sweeper to look at.

        A sweeper takes the mark away before it looks, so whichever comes first, either it sees what the call opened or the mark stays.
        """
        return ("ZADD", keys.OPEN_ROOTS, "NX", self._engine.now_ms() + self.hold_ttl_ms, root)

    async def expire_due(self) -> int:
        """End the holds whose time is over, in every root, and deliver what is in transit; how many holds ended."""
        ended = 0
        for marks in (keys.SWEPT_ROOTS, keys.OPEN_ROOTS):
            due = await self._engine.command("ZRANGEBYSCORE", marks, "-inf", self._engine.now_ms(), "LIMIT", 0, SWEEP_ROOTS)
            for root in (raw.decode() for raw in due):
                ended += await self._sweep(root)
        return ended

    async def _sweep(self, root: str) -> int:
        """Look at one root. Until that is done it stands among the swept ones, so that a sweeper may die at any point."""
        await self._engine.command("ZADD", keys.SWEPT_ROOTS, self._engine.now_ms() + self.hold_ttl_ms, root)
        await self._engine.command("ZREM", keys.OPEN_ROOTS, root)
        ended = await self._expire_root(root)
        await self._redeliver(root)
        again_ms = await self._next_look_ms(root)
        if again_ms is not None:
            await self._engine.command("ZADD", keys.OPEN_ROOTS, "LT", again_ms, root)
        await self._engine.command("ZREM", keys.SWEPT_ROOTS, root)
        return ended

    async def _expire_root(self, root: str) -> int:
        due = await self._engine.command(
            "ZRANGEBYSCORE", keys.of_root(root, keys.DEADLINES), "-inf", self._engine.now_ms(), "LIMIT", 0, SWEEP_HOLDS
        )
        ended = 0
        for hold_id in (raw.decode() for raw in due):
            packed = await self._engine.command("GET", keys.hold(root, hold_id))
            path = records.path_of(records.read_hold(packed).path) if packed is not None else (AccountId(root),)
            reply = await self._on_hold("expire", path, hold_id, {"id": hold_id, "keep_ms": EXPIRED_MS})
            ended += reply[0] == "OK"
        return ended

    async def _redeliver(self, root: str) -> None:
        outbox = records.pairs(await self._engine.command("HGETALL", keys.of_root(root, keys.OUTBOX)))
        for operation_id, text in outbox.items():
            try:
                await self._deliver(root, operation_id, records.decode_strings(text))
            except Refusal as refusal:  # it waits in the outbox; others must not
                log.warning("transfer %s stays in transit: %s", operation_id, refusal.message)

    async def _next_look_ms(self, root: str) -> int | None:
        """When the root's next hold may be overdue; None where nothing is open."""
        first, in_transit = await self._engine.commands(
            ("ZRANGE", keys.of_root(root, keys.DEADLINES), 0, 0, "WITHSCORES"), ("HLEN", keys.of_root(root, keys.OUTBOX))
        )
        if first:
            return int(float(first[1]))
        return self._engine.now_ms() + 1000 if in_transit else None

    # --- levels ----------------------------------------------------------------------------------------------------------------

    async def _run(
        self,
        verb: str,
        path: Path,
        head: list[str],
        arguments: dict[str, Any],
        *,
        checked: bool,
        opens: bool = False,
        durable: bool = False,
    ) -> list[Any]:
        """One verb, made again with fresh levels where an account or a window has changed since they were read."""
        for attempt in range(STALE_TRIES):
            levels = await self._levels_of(path, anew=attempt > 0)
            arguments["levels"] = levels.rows if checked else [[row[0], -1, row[2]] for row in levels.rows]
            mark = self._mark(path[0]) if opens else ()
            reply = await self._engine.run(verb, head + levels.keys, arguments, then=mark, durable=durable)
            if reply[0] not in ("STALE_ACCOUNT", "STALE_WINDOW"):
                break
        if reply[0] in ("STALE_ACCOUNT", "STALE_WINDOW"):
            raise LedgerUnavailable("the account changes faster than it can be read")
        if reply[0] == "CONFLICT" and verb not in ("grant", "revoke", "adjust", "transfer", "set_limits"):
            raise Conflict(f"the hold {arguments['id']!r} was used before with other arguments")
        if reply[0] == "UNKNOWN":
            raise Refusal("account_not_found", f"there is no account {path[reply[2]]!r}", account=path[reply[2]])
        if reply[0] == "SUSPENDED":
            account = path[reply[2]]
            raise Refusal("account_suspended", f"account {account!r} is {reply[3].decode()}", account=account)
        return reply

    async def _levels_of(self, path: Path, *, anew: bool) -> Levels:
        levels = self._levels.get(path)
        now_ms = self._engine.now_ms()
        current = levels is not None and levels.generation == self._directory.generation and now_ms < levels.until_ms
        if levels is not None and current and not anew:
            return levels
        rows: list[list[Any]] = []
        until_ms = records.NEVER_MS
        for account in path:
            settings = await self._directory.settings(account, anew=anew)
            limits, limit_until_ms = records.limit_rows(self._directory.limits_of(settings), now_ms)
            until_ms = min(until_ms, limit_until_ms)
            rows.append([account, settings.version, limits])
        levels = Levels(keys.levels(path), rows, until_ms, self._directory.generation)
        if len(self._levels) >= CACHED_PATHS_MAX:
            self._levels.clear()
        self._levels[path] = levels
        return levels

    def _tightest(self, path: Path, reply: list[Any]) -> Tightest | None:
        if reply[0] < 0:
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
        hint = "ask for less: a shorter input or a smaller maximum, or have the limit raised"
        return Refusal("request_exceeds_budget", f"the request can never fit the budget of {name}", hint=hint, **details)
    if needed_nanocredits <= available + held:
        hint = "running requests hold what is missing; try again once they end"
        return Refusal("budget_in_flight", f"the budget of {name} is held by running requests", hint=hint, retry_after_s=1.0, **details)
    hint = "wait for the window to turn, or ask for a grant or a higher limit"
    return Refusal("insufficient_quota", f"the budget of {name} is spent", hint=hint, **details)
