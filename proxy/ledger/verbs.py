"""Runs a verb on a path: with the levels as the scripts take them, again where they have changed, common refusals translated."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from proxy.domain import AMOUNT_MAX_NANOCREDITS, AccountId, Path, Plan
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys, records
from proxy.ledger.changes import REMEMBERED_MS, digest
from proxy.ledger.directory import Directory
from proxy.ledger.engine import Call, Command, Engine
from proxy.ledger.lookups import Settings
from proxy.ledger.marks import Era, mark_of
from proxy.ledger.moves import Moves, is_move

STALE_TRIES = 4
"""How often a call is made again because an account or a window changed under it."""
CACHED_PATHS_MAX = 50_000

_UNANNOUNCED = frozenset({"debit", "extend", "void", "expire", "deliver"})
"""Verbs that go on with what is open, or end it: as long as it was, its root is looked at. All others are announced: what they leave open
a sweeper must find if nobody else ends it, and what they change an audit; a settle may come long after its hold has expired."""

Value = str | bytes | int


@dataclass(frozen=True, slots=True)
class Levels:
    """A path as the scripts take it, packed once, and how long it may be sent."""

    on_hold: Call
    on_operation: Call
    person: AccountId
    """Whom its use is attributed to."""
    until_ms: int
    generation: int
    era: Era


class Verbs:
    """One process's way to run verbs."""

    def __init__(self, engine: Engine, directory: Directory, moves: Moves, *, hold_ttl_ms: int) -> None:
        self._engine = engine
        self._directory = directory
        self._moves = moves
        self._hold_ttl_ms = hold_ttl_ms
        self._levels: dict[Path, Levels] = {}
        self._announced_until_ms: dict[str, int] = {}

    def on_hold(self, verb: str, path: Path, hold_id: str, *values: Value) -> Coroutine[Any, Any, list[Any]]:
        """A verb on a hold. Raises Conflict, Refusal: account_not_found, account_suspended; LedgerUnavailable."""
        return self._run(verb, path, keys.hold(path[0], hold_id), (hold_id, *values))

    def operate(self, verb: str, path: Path, operation_id: str, arguments: dict[str, Any]) -> Coroutine[Any, Any, list[Any]]:
        """A verb with an operation id, durable before it is answered. Raises as `on_hold`."""
        values = (operation_id, digest(verb, path, arguments), REMEMBERED_MS, records.pack(arguments))
        return self._run(verb, path, keys.operation(path[0], operation_id), values, is_operation=True)

    def write(self, person: Path, per_minute: bytes) -> Coroutine[Any, Any, list[Any]]:
        """Count one change that a person makes by self-service. Raises LedgerUnavailable."""
        return self._run("write", person, keys.writes_of(person[0], person[-1]), (person[-1], per_minute))

    async def delivered(self, root: str, operation_id: str) -> None:
        """Take a transfer out of its root's outbox."""
        await self._run("deliver", (AccountId(root),), keys.operation(root, operation_id), (operation_id,), is_operation=True)

    async def _run(self, verb: str, path: Path, first_key: str, values: tuple[Value, ...], *, is_operation: bool = False) -> list[Any]:
        """One verb, made again with fresh levels where an account or a window has changed since they were read."""
        now_ms = self._engine.now_ms()
        announcement = () if verb in _UNANNOUNCED else self._announcement(path[0], now_ms)
        if announcement and verb == "settle":  # which must land even where it cannot be announced, since a server has no memory left
            with contextlib.suppress(LedgerUnavailable):
                await self._engine.commands(*announcement)
                self._note_announced(path[0], now_ms)
            announcement = ()
        levels = self._known_levels(path, now_ms) or await self._read_levels(path)
        for attempt in range(STALE_TRIES):
            if attempt:
                levels = await self._read_levels(path, anew=True)
            call = levels.on_operation if is_operation else levels.on_hold
            reply = await self._engine.run(verb, first_key, call, values, before=announcement, durable=is_operation)
            if reply[0] not in ("STALE_ACCOUNT", "STALE_WINDOW"):
                break
        if is_move(reply[-1]):
            self._moves.note(path[0], levels.person, reply.pop())
        if announcement:
            self._note_announced(path[0], now_ms)
        if reply[0] == "OK":
            return reply
        match reply[0]:
            case "CONFLICT":
                raise Conflict(f"the {'id' if is_operation else 'hold'} {values[0]!r} was used before with other arguments")
            case "STALE_ACCOUNT" | "STALE_WINDOW":
                raise LedgerUnavailable("the account changes faster than it can be read")
            case "UNKNOWN":
                raise Refusal("account_not_found", f"there is no account {path[reply[2]]!r}", account=path[reply[2]])
            case "SUSPENDED":
                account = path[reply[2]]
                raise Refusal("account_suspended", f"account {account!r} is {reply[3].decode()}", account=account)
        return reply

    # --- what sweepers look at ---------------------------------------------------------------------------------------------------

    def _announcement(self, root: str, now_ms: int) -> tuple[Command, ...]:
        """What tells sweepers and auditors, right in front of a call, that this root may have something open, and changes; nothing where
        they know.

        Who looks takes the mark away before that, and puts it back while the root was announced within the last `hold_ttl_ms`. A process
        announces a root again after half of that: so whatever happens meanwhile stands under a mark. That it was announced comes first.
        """
        if now_ms < self._announced_until_ms.get(root, 0):
            return ()
        return (
            ("ZADD", keys.ACTIVE_ROOTS, "GT", now_ms, root),
            ("ZADD", keys.OPEN_ROOTS, "NX", now_ms + self._hold_ttl_ms, root),
            ("ZADD", keys.TOUCHED_ROOTS, "NX", now_ms, root),
        )

    def _note_announced(self, root: str, announced_ms: int) -> None:
        if len(self._announced_until_ms) >= CACHED_PATHS_MAX:
            self._announced_until_ms.clear()
        self._announced_until_ms[root] = announced_ms + self._hold_ttl_ms // 2

    def _known_levels(self, path: Path, now_ms: int) -> Levels | None:
        levels = self._levels.get(path)
        if levels is None or levels.generation != self._directory.generation or now_ms >= levels.until_ms:
            return None
        return levels if levels.era is self._moves.era else None

    async def _read_levels(self, path: Path, *, anew: bool = False) -> Levels:
        now_ms, era = self._engine.now_ms(), self._moves.era
        generation = self._directory.generation  # from before the reading: what changes meanwhile is read again
        rows: list[list[Any]] = []
        until_ms = records.NEVER_MS
        all_settings = [await self._directory.settings(account, anew=anew) for account in path]
        person = _person(all_settings)
        for settings in all_settings:
            plan = await self._directory.plan_of(settings)
            limits, limits_until_ms = records.limit_rows(plan.limits if settings.own_limits is None else settings.own_limits, now_ms)
            until_ms = min(until_ms, limits_until_ms)
            rates = records.rates_row(plan) if settings.kind == "account" else []  # an agent's requests count as its person's
            counted = [*([] if rates else [0, 0]), *person_row(settings, plan, era)] if settings is person else []
            rows.append([settings.path[-1], settings.version, limits, *rates, *counted])
        packed = records.pack(rows)
        calls = Call.on(keys.behind_hold(path), packed), Call.on(keys.behind_operation(path), packed)
        levels = Levels(*calls, person.path[-1], until_ms, generation, era)
        if len(self._levels) >= CACHED_PATHS_MAX:
            self._levels.clear()
        self._levels[path] = levels
        return levels


def _person(levels: list[Settings]) -> Settings:
    """Whom the use of a path is attributed to: its deepest account that is no agent."""
    return next((settings for settings in reversed(levels) if settings.kind != "agent"), levels[0])


def person_row(settings: Settings, plan: Plan, era: Era) -> list[Any]:
    """How a person's level is counted, as the scripts take it."""
    return [mark_of(settings.weight or plan.weight, settings.plan, settings.labels, era).decode(), era.generation, era.half_life_days]


def check_amounts(*amounts_nanocredits: int, least: int = 0, most: int = AMOUNT_MAX_NANOCREDITS) -> None:
    """Raises Refusal: invalid_request, where an amount is no amount that the ledger can count."""
    for amount in amounts_nanocredits:
        if not least <= amount <= most or amount > AMOUNT_MAX_NANOCREDITS:
            raise Refusal("invalid_request", "the amount is outside what the ledger can count", needed_nanocredits=amount)
