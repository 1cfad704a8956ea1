"""Who and what there is: accounts by name, API keys, plans, prices, the audit log; with a cache that is never a quarter second behind.

Every change is announced on a stream, which `refresh` follows; what the cache holds is believed only while refreshes succeed, so that a
revoked key stops everywhere within a second even when the ledger falters. Balances are moved elsewhere (`budget`); here they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from proxy.domain import (
    Account,
    AccountId,
    AccountStatus,
    ApiKey,
    Caller,
    Event,
    Limit,
    Path,
    Plan,
    Price,
)
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys, records
from proxy.ledger.engine import Engine

REMEMBERED_MS = 7 * 86_400_000
"""How long an operation id is remembered."""
FRESH_S = 0.9
"""How old the last successful refresh may be for the cache to be believed."""
CACHE_MAX = 100_000
CHANGES_KEPT = 10_000
CHANGES_READ = 1_000
PAGE_MAX = 1_000
_DONE = "done "

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and what to pass as `after` for the next part (None at the end)."""

    items: tuple[T, ...]
    next: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the budget verbs need to know of an account."""

    path: Path
    plan: str
    own_limits: tuple[Limit, ...] | None
    version: int


def digest(*arguments: object) -> str:
    """What tells the arguments of one call from another's."""
    return hashlib.sha1(records.encode(arguments), usedforsecurity=False).hexdigest()


class Directory:
    """The names of the ledger; see the module."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._plans: dict[str, Plan] = {}
        self._api_prices: tuple[Price, ...] = ()
        self._file_prices: tuple[Price, ...] = ()
        self._default_plan: str | None = None
        self._callers: dict[str, Caller | None] = {}
        self._settings: dict[AccountId, Settings] = {}
        self._last_change = "0-0"
        self._fresh_until_s = 0.0
        self.generation = 0
        """Grows whenever anything cached may have changed."""
        self.price_book: tuple[Price, ...] = ()

    # --- the cache -------------------------------------------------------------------------------------------------------------

    def configure(self, *, file_prices: tuple[Price, ...], default_plan: str | None) -> None:
        """Take over what the configuration file says: its price rows, and the plan of accounts that name none."""
        self._file_prices = file_prices
        self._default_plan = default_plan
        self._compose_prices()

    async def start(self) -> None:
        """Read plans and prices, and follow changes from now on."""
        last = await self._engine.command("XREVRANGE", keys.CHANGES, "+", "-", "COUNT", 1)
        self._last_change = last[0][0].decode() if last else "0-0"
        await self._read_book()
        self._fresh_until_s = time.monotonic() + FRESH_S

    async def refresh(self) -> None:
        """Follow what has changed since the last time. Raises LedgerUnavailable."""
        began_s = time.monotonic()
        reply = await self._engine.command("XREAD", "COUNT", CHANGES_READ, "STREAMS", keys.CHANGES, self._last_change)
        changes = reply[0][1] if reply else []
        if changes:
            self._last_change = changes[-1][0].decode()
            self.generation += 1
            kinds = {fields[1] for _, fields in changes}
            if len(changes) == CHANGES_READ or kinds & {b"plan", b"price"}:
                self._callers.clear()
                self._settings.clear()
                await self._read_book()
            for _, fields in changes:
                self._forget(fields[1].decode(), fields[3].decode())
        self._fresh_until_s = began_s + FRESH_S

    def _forget(self, kind: str, name: str) -> None:
        if kind == "key":
            self._callers.pop(name, None)
        elif kind == "account":
            self._settings.pop(AccountId(name), None)
            for cached in [d for d, caller in self._callers.items() if caller is not None and caller.account == name]:
                del self._callers[cached]

    async def announce_account(self, account_id: AccountId) -> None:
        """Tell every process that an account's settings have changed."""
        await self._announce("account", account_id)

    async def _announce(self, kind: str, name: str) -> None:
        await self._engine.command("XADD", keys.CHANGES, "MAXLEN", "~", CHANGES_KEPT, "*", "k", kind, "n", name)
        await self.refresh()

    async def _read_book(self) -> None:
        plans, prices = await self._engine.commands(("HGETALL", keys.PLANS), ("HGETALL", keys.PRICES))
        self._plans = {name: records.decode_plan(_definition(text)) for name, text in records.pairs(plans).items()}
        rows = (records.decode_price(text) for text in records.pairs(prices).values())
        self._api_prices = tuple(sorted(rows, key=lambda row: (row.effective_at_ms, row.model)))
        self._compose_prices()

    def _compose_prices(self) -> None:
        self.price_book = self._file_prices + self._api_prices
        self.generation += 1

    async def caller(self, key_digest: str) -> Caller | None:
        """Whose key has this SHA-256 (hex); None where it is unknown or revoked. Raises LedgerUnavailable on a miss."""
        if time.monotonic() < self._fresh_until_s and key_digest in self._callers:
            return self._callers[key_digest]
        return await self._look_up_caller(key_digest)

    async def _look_up_caller(self, key_digest: str) -> Caller | None:
        generation = self.generation
        key = await self.find_key(key_digest)
        caller = None
        if key is not None:
            settings = await self.settings(key.account)
            caller = Caller(key.account, settings.path, await self._known_plan(settings.plan), key.key_id)
        if generation == self.generation:  # else a change may have come in between, and the next look-up decides
            if len(self._callers) >= CACHE_MAX:
                self._callers.clear()
            self._callers[key_digest] = caller
        return caller

    async def settings(self, account_id: AccountId, *, anew: bool = False) -> Settings:
        """An account's settings, cached. Raises Refusal: account_not_found."""
        cached = self._settings.get(account_id)
        if cached is not None and not anew and time.monotonic() < self._fresh_until_s:
            return cached
        generation = self.generation
        path = cached.path if cached is not None else await self._read_path(account_id)
        plan, limits, version = await self._engine.command("HMGET", keys.account(path[0], account_id), "plan", "limits", "version")
        settings = Settings(path, plan.decode(), records.decode_limits(limits), int(version))
        if anew or generation == self.generation:
            if len(self._settings) >= CACHE_MAX:
                self._settings.clear()
            self._settings[account_id] = settings
            self.generation += anew
        return settings

    async def limits_of(self, settings: Settings) -> tuple[Limit, ...]:
        return settings.own_limits if settings.own_limits is not None else (await self._known_plan(settings.plan)).limits

    # --- accounts ----------------------------------------------------------------------------------------------------------------

    async def path(self, account_id: AccountId) -> Path:
        """An account and all above it, root first. Raises Refusal: account_not_found."""
        cached = self._settings.get(account_id)
        return cached.path if cached is not None else await self._read_path(account_id)

    async def _read_path(self, account_id: AccountId) -> Path:
        text = await self._engine.command("GET", keys.path_of(account_id))
        if text is None:
            raise Refusal("account_not_found", f"there is no account {account_id!r}", account=account_id)
        return records.decode_path(text)

    async def create_account(
        self,
        account_id: AccountId,
        *,
        parent: AccountId | None = None,
        plan: str | None = None,
        weight: int | None = None,
        limits: tuple[Limit, ...] | None = None,
        labels: Mapping[str, str] | None = None,
        operation_id: str,
    ) -> Account:
        """Open an account; one that is there with the same settings is left alone.

        Raises Refusal: conflict (other settings or parent), account_not_found (the parent), not_found (the plan), invalid_request (depth).
        """
        name = plan if plan is not None else self._default_plan
        if name is None:
            raise Refusal("not_found", "there is no plan yet", hint="define a [[plan]], or PUT one under /admin/v1/plans")
        self.plan(name)
        path = (*(await self.path(parent) if parent is not None else ()), account_id)
        if len(path) > 8:
            raise Refusal("invalid_request", "accounts nest at most 8 deep", account=account_id)
        there = await self._engine.command("GET", keys.path_of(account_id))
        if there is not None and records.decode_path(there) != path:
            raise Conflict(f"account {account_id!r} exists under another parent")
        arguments = {
            "plan": name,
            "weight": weight or 0,
            "labels": records.encode(dict(labels or {})).decode(),
            "limits": records.encode_limits(limits),
        }
        reply = await self._operate("open", path, operation_id, arguments)
        if reply[0] == "EXISTS":
            raise Conflict(f"account {account_id!r} exists with other settings", hint="PATCH the account to change it")
        if reply[0] == "SUSPENDED":
            raise Refusal("account_suspended", f"the parent {path[reply[2]]!r} is closed", account=path[reply[2]])
        await self._engine.commands(
            ("SET", keys.path_of(account_id), " ".join(path)),
            ("ZADD", keys.ACCOUNTS, 0, account_id),
            *([("ZADD", keys.children_of(parent), 0, account_id)] if parent is not None else []),
        )
        await self._announce("account", account_id)
        return await self.account(account_id)

    async def update_account(
        self,
        account_id: AccountId,
        *,
        operation_id: str,
        plan: str | None = None,
        weight: int | None = None,
        status: AccountStatus | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Account:
        """Change what is named. Raises Refusal: account_not_found, not_found (the plan), conflict (closed accounts stay closed)."""
        if plan is not None:
            self.plan(plan)
        arguments: dict[str, Any] = {"plan": plan, "weight": weight, "status": status}
        arguments["labels"] = None if labels is None else records.encode(dict(labels)).decode()
        path = await self.path(account_id)
        reply = await self._operate("change", path, operation_id, {k: v for k, v in arguments.items() if v is not None})
        if reply[0] == "CLOSED":
            raise Conflict(f"account {account_id!r} is closed, and stays so", hint="open another account")
        await self._announce("account", account_id)
        return await self.account(account_id)

    async def _operate(self, verb: str, path: Path, operation_id: str, arguments: dict[str, Any]) -> list[Any]:
        """One settings verb on the last account of a path."""
        reply = await self._engine.run(
            verb,
            [*keys.of_operation(path[0], operation_id), *keys.levels(path)],
            {
                "levels": [[account, -1, []] for account in path],
                "id": operation_id,
                "digest": digest(verb, path, arguments),
                "keep_ms": REMEMBERED_MS,
                **arguments,
            },
            durable=True,
        )
        if reply[0] == "CONFLICT":
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        if reply[0] == "UNKNOWN":
            raise Refusal("account_not_found", f"there is no account {path[reply[2]]!r}", account=path[reply[2]])
        return reply

    async def account(self, account_id: AccountId) -> Account:
        """An account with its balances as of now. Raises Refusal: account_not_found."""
        path = await self.path(account_id)
        levels = (await self.snapshot(path))[1]
        amounts = [level.available_nanocredits for level in levels if level.available_nanocredits is not None]
        return dataclasses.replace(levels[-1], available_nanocredits=min(amounts) if amounts else None)

    async def snapshot(self, path: Path) -> tuple[str, tuple[Account, ...]]:
        """Every level of a path at one instant, and the id of the last journal entry before it."""
        reply = await self.raw_snapshot(path)
        levels = []
        for n in range(len(path)):
            fields = records.pairs(reply[3 + 2 * n])
            if "status" not in fields:
                raise Refusal("account_not_found", f"there is no account {path[n]!r}", account=path[n])
            plan = await self._known_plan(fields["plan"].decode())
            levels.append(records.read_account(path[: n + 1], fields, records.pairs(reply[4 + 2 * n]), plan, self._engine.now_ms()))
        return reply[2].decode(), tuple(levels)

    async def raw_snapshot(self, path: Path) -> list[Any]:
        root = path[0]
        return await self._engine.run(
            "audit",
            [keys.of_root(root, "-"), keys.of_root(root, keys.DEADLINES), keys.of_root(root, keys.JOURNAL), *keys.levels(path)],
            {"levels": [[account, -1, []] for account in path]},
        )

    async def accounts(
        self,
        *,
        parent: AccountId | None = None,
        plan: str | None = None,
        status: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Account]:
        """Accounts in the order of their ids, with what is asked of them. A page may be short; only `next` None is the end."""
        index = keys.ACCOUNTS if parent is None else keys.children_of(parent)
        found: list[Account] = []
        for _ in range(20):
            start = "-" if after is None else f"({after}"
            ids = await self._engine.command("ZRANGEBYLEX", index, start, "+", "LIMIT", 0, min(limit, PAGE_MAX) - len(found))
            for raw in ids:
                account = await self.account(AccountId(raw.decode()))
                if (plan is None or account.plan == plan) and (status is None or account.status == status):
                    found.append(account)
                after = account.id
            if not ids:
                return Page(tuple(found), None)
            if len(found) >= limit:
                break
        return Page(tuple(found), after)

    # --- API keys ----------------------------------------------------------------------------------------------------------------

    async def create_key(self, account_id: AccountId, *, operation_id: str, key: str | None = None) -> tuple[ApiKey, str | None]:
        """A new key of an account, shown this once: a repeat of the operation gives the key's record and None.

        `key` is a key of the operator's own making. Raises Refusal: account_not_found; Conflict where the id made another key.
        """
        await self.path(account_id)
        plain = key if key is not None else f"cl-{secrets.token_urlsafe(32)}"
        key_digest = hashlib.sha256(plain.encode()).hexdigest()
        key_id = f"key_{hashlib.sha256(f'{account_id} {operation_id}'.encode()).hexdigest()[:24]}"
        stored = await self._engine.command("GET", keys.digest_of_key(key_id))
        there = await self._read_key(stored.decode()) if stored is not None else None
        if there is not None and key is not None and stored.decode() != key_digest:
            raise Conflict(f"the id {operation_id!r} was used before with another key")
        if there is not None:
            return there, key
        # The last write makes the key valid; a try that dies before it leaves nothing that anyone could use.
        await self._engine.command("SET", keys.digest_of_key(key_id), key_digest)
        await self._engine.command("SADD", keys.keys_of(account_id), key_id)
        created_ms = self._engine.now_ms()
        await self._engine.command("HSET", keys.api_key(key_digest), "id", key_id, "account", account_id, "created", created_ms)
        await self._announce("key", key_digest)
        return ApiKey(key_id, account_id, created_ms), plain

    async def _read_key(self, key_digest: str) -> ApiKey | None:
        key_id, account, created, revoked = await self._engine.command(
            "HMGET", keys.api_key(key_digest), "id", "account", "created", "revoked"
        )
        if key_id is None:
            return None
        return ApiKey(key_id.decode(), AccountId(account.decode()), int(created), None if revoked is None else int(revoked))

    async def find_key(self, key_digest: str) -> ApiKey | None:
        """The key with this SHA-256 (hex), unless it is revoked."""
        key = await self._read_key(key_digest)
        return key if key is not None and key.revoked_at_ms is None else None

    async def keys(self, account_id: AccountId) -> tuple[ApiKey, ...]:
        """All keys of an account, revoked ones too. Raises Refusal: account_not_found."""
        await self.path(account_id)
        found = []
        for key_id in sorted(await self._engine.command("SMEMBERS", keys.keys_of(account_id))):
            stored = await self._engine.command("GET", keys.digest_of_key(key_id.decode()))
            key = await self._read_key(stored.decode()) if stored is not None else None
            if key is not None:
                found.append(key)
        return tuple(sorted(found, key=lambda key: (key.created_at_ms, key.key_id)))

    async def revoke_key(self, key_id: str, *, operation_id: str) -> ApiKey:
        """End a key; again is no change. Raises Refusal: not_found."""
        await self.claim(operation_id, digest("revoke_key", key_id))
        stored = await self._engine.command("GET", keys.digest_of_key(key_id))
        key = await self._read_key(stored.decode()) if stored is not None else None
        if stored is None or key is None:
            raise Refusal("not_found", f"there is no key {key_id!r}")
        await self._engine.command("HSETNX", keys.api_key(stored.decode()), "revoked", self._engine.now_ms())
        await self._announce("key", stored.decode())
        revoked = await self._read_key(stored.decode())
        assert revoked is not None
        return revoked

    async def claim(self, operation_id: str, fingerprint: str) -> bool:
        """Take an id for one act, told by its fingerprint; whether the act is known to be done (see `done`).

        Raises Conflict where the id was taken for another act.
        """
        key = keys.claim(operation_id)
        await self._engine.command("SET", key, fingerprint, "NX", "PX", REMEMBERED_MS)
        held = (await self._engine.command("GET", key) or b"").decode()
        if held.removeprefix(_DONE) != fingerprint:
            raise Conflict(f"the id {operation_id!r} was used before with other arguments")
        return held.startswith(_DONE)

    async def done(self, operation_id: str, fingerprint: str) -> None:
        """Note that the act of a claimed id is done, so that a late repeat does not do it again."""
        await self._engine.command("SET", keys.claim(operation_id), _DONE + fingerprint, "PX", REMEMBERED_MS)

    # --- plans and prices --------------------------------------------------------------------------------------------------------

    def plans(self) -> dict[str, Plan]:
        return dict(self._plans)

    def plan(self, name: str) -> Plan:
        """Raises Refusal: not_found."""
        plan = self._plans.get(name)
        if plan is None:
            raise Refusal("not_found", f"there is no plan {name!r}")
        return plan

    async def _known_plan(self, name: str) -> Plan:
        """An account's plan, which another process may have defined a moment ago."""
        if name not in self._plans:
            await self.refresh()
        return self.plan(name)

    async def put_plan(self, plan: Plan, *, operation_id: str) -> None:
        """Define a plan, or change it for all its accounts; a repeat does not undo what came after. Raises Conflict."""
        fingerprint = digest("put_plan", plan)
        if await self.claim(operation_id, fingerprint):
            return
        marks = records.pairs(await self._engine.command("HGETALL", keys.PLANS))
        mark = _file_mark(marks[plan.name]) if plan.name in marks else ""
        await self._engine.command("HSET", keys.PLANS, plan.name, _stored_plan(plan, mark))
        await self.done(operation_id, fingerprint)
        await self._announce("plan", plan.name)

    async def seed_plans(self, plans: tuple[Plan, ...]) -> None:
        """Take over the file's plans: the later of the file's last change and the admin API's last change wins."""
        stored = records.pairs(await self._engine.command("HGETALL", keys.PLANS))
        for plan in plans:
            mark = digest(plan)
            if plan.name not in stored or _file_mark(stored[plan.name]) != mark:
                await self._engine.command("HSET", keys.PLANS, plan.name, _stored_plan(plan, mark))
                await self._announce("plan", plan.name)

    def prices(self) -> tuple[Price, ...]:
        """Every row, the file's first."""
        return self.price_book

    async def add_price(self, price: Price, *, operation_id: str) -> None:
        """Add a dated row. Raises Conflict where its model and date have one with other values: rows never change."""
        row = dataclasses.replace(price, source="api")
        await self.claim(operation_id, digest("add_price", row))
        name = f"{row.effective_at_ms} {row.model}"
        for there in self.price_book:
            same_place = (there.model, there.effective_at_ms) == (row.model, row.effective_at_ms)
            if same_place and dataclasses.replace(there, source="api") != row:
                raise Conflict(f"{row.model} has a price from that date already", hint="add a row with a later date")
        await self._engine.command("HSETNX", keys.PRICES, name, records.encode(row))
        stored = await self._engine.command("HGET", keys.PRICES, name)
        if records.decode_price(stored) != row:
            raise Conflict(f"{row.model} has a price from that date already", hint="add a row with a later date")
        await self._announce("price", name)

    # --- the audit log -----------------------------------------------------------------------------------------------------------

    async def record_event(
        self,
        *,
        actor: str,
        action: str,
        subject: str,
        before: str = "",
        after: str = "",
        reason: str = "",
        operation_id: str | None = None,
    ) -> None:
        """Write one line of the audit log; one operation id is recorded once."""
        line = ("actor", actor, "action", action, "subject", subject, "before", before, "after", after, "reason", reason)
        mark = keys.event_mark(operation_id or secrets.token_hex(16))
        await self._engine.script("record", [mark, keys.EVENTS], [REMEMBERED_MS, *line], durable=True)

    async def events(self, *, after: str | None = None, limit: int = 100) -> Page[Event]:
        """The audit log, newest first."""
        count = min(limit, PAGE_MAX)
        rows = await self._engine.command("XREVRANGE", keys.EVENTS, "+" if after is None else f"({after}", "-", "COUNT", count)
        events = []
        for entry_id, flat in rows:
            text = {name: value.decode() for name, value in records.pairs(flat).items()}
            events.append(Event(entry_id.decode(), int(entry_id.split(b"-")[0]), **text))
        return Page(tuple(events), events[-1].event_id if len(events) == count else None)


def _stored_plan(plan: Plan, mark: str) -> bytes:
    """A plan, behind the mark of the file's version that it took over."""
    return mark.encode() + b" " + records.encode(plan)


def _file_mark(text: bytes) -> str:
    return text.partition(b" ")[0].decode()


def _definition(text: bytes) -> bytes:
    return text.partition(b" ")[2]
