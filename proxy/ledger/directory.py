"""Who there is: accounts by name, opened and changed, with their balances, and API keys; what requests ask of them stands in `lookups`.

Balances are moved elsewhere (`budget`); here they are read.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from proxy.domain import Account, AccountId, AccountKind, AccountStatus, ApiKey, Limit, Path
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys, records
from proxy.ledger.audit_log import AuditLog
from proxy.ledger.changes import PAGE_MAX, REMEMBERED_MS, Page, digest
from proxy.ledger.engine import Call
from proxy.ledger.lookups import Lookups
from proxy.policy.units import check_keeps_unit, check_one_unit


class Directory(Lookups, AuditLog):
    """The names of the ledger; see the module."""

    async def announce_account(self, account_id: AccountId) -> None:
        """Tell every process that an account's settings have changed."""
        await self._announce("account", account_id)

    async def announce_counting(self) -> None:
        """Tell every process that use is counted in another way from now on."""
        await self._announce("counting", "-")

    # --- accounts ----------------------------------------------------------------------------------------------------------------

    async def create_account(
        self,
        account_id: AccountId,
        *,
        parent: AccountId | None = None,
        plan: str | None = None,
        weight: int | None = None,
        limits: tuple[Limit, ...] | None = None,
        labels: Mapping[str, str] | None = None,
        kind: AccountKind = "account",
        operation_id: str,
    ) -> Account:
        """Open an account; one that is there with the same settings is left alone.

        Raises Refusal: conflict (other settings or parent), account_not_found (the parent), not_found (the plan), invalid_request (depth),
        units_differ.
        """
        name = plan if plan is not None else self._default_plan
        if name is None:
            raise Refusal("not_found", "there is no plan yet", hint="define a [[plan]], or PUT one under /admin/v1/plans")
        path = (*(await self.path(parent) if parent is not None else ()), account_id)
        if len(path) > 8:
            raise Refusal("invalid_request", "accounts nest at most 8 deep", account=account_id)
        check_one_unit(self.plan(name), await self._plans_on(path[:-1]), account_id)
        there = await self._engine.command("GET", keys.path_of(account_id))
        if there is not None and records.decode_path(there) != path:
            raise Conflict(f"account {account_id!r} exists under another parent")
        arguments = {
            "plan": name,
            "weight": weight or 0,
            "labels": records.encode(dict(labels or {})).decode(),
            "limits": records.encode_limits(limits),
            "kind": kind,
        }
        reply = await self._operate("open", path, operation_id, arguments)
        if reply[0] == "EXISTS":
            raise Conflict(f"account {account_id!r} exists with other settings", hint="PATCH the account to change it")
        if reply[0] == "SUSPENDED":
            raise Refusal("account_suspended", f"the parent {path[reply[2]]!r} is closed", account=path[reply[2]])
        await self._engine.command("SET", keys.path_of(account_id), " ".join(path))  # before it is listed: who finds it there reads it
        if parent is not None:  # first, so that whoever is listed is found from above, too
            await self._engine.command("ZADD", keys.children_of(parent), 0, account_id)
        await self._engine.command("ZADD", keys.ACCOUNTS, 0, account_id)
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
        """Change what is named.

        Raises Refusal: account_not_found, not_found (the plan), conflict (closed accounts stay closed), units_differ.
        """
        if plan is not None:
            check_keeps_unit(await self.plan_of(await self.settings(account_id)), self.plan(plan), account_id)
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
        values = (operation_id, digest(verb, path, arguments), REMEMBERED_MS, records.pack(arguments))
        call = Call.on(keys.behind_operation(path), records.pack_levels(path))
        reply = await self._engine.run(verb, keys.operation(path[0], operation_id), call, values, durable=True)
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
        return reply[2].decode(), await self.levels_in(reply, path)

    async def check_active(self, path: Path) -> None:
        """Raises Refusal: account_suspended, where an account of a path is not active; account_not_found. LedgerUnavailable."""
        for level in (await self.snapshot(path))[1]:
            if level.status != "active":
                raise Refusal("account_suspended", f"account {level.id!r} is {level.status}", account=level.id)

    async def levels_in(self, reply: list[Any], path: Path) -> tuple[Account, ...]:
        """Every level of a path as a raw snapshot tells it. Raises Refusal: account_not_found."""
        levels = []
        for n in range(len(path)):
            balance, fields, grants = records.read_level(reply, n)
            if balance is None:
                raise Refusal("account_not_found", f"there is no account {path[n]!r}", account=path[n])
            plan = await self.known_plan(fields["plan"].decode())
            levels.append(records.read_account(path[: n + 1], fields, balance, grants, plan, self._engine.now_ms()))
        return tuple(levels)

    async def left_in(self, reply: list[Any], root: Path) -> int | None:
        """What an account without a parent has left to spend, in credits whatever it counts, as a raw snapshot tells it.

        0 where it is not active; None where it has no limit, or nobody can say yet what its unit is worth.
        """
        (account,) = await self.levels_in([*reply[:5]], root)
        if account.available_nanocredits is None:
            return None
        left = account.available_nanocredits if account.status == "active" else 0
        return self.levels.in_credits((await self.known_plan(account.plan)).unit, left, self.now_ms())

    async def raw_snapshot(self, path: Path) -> list[Any]:
        call = Call.on(keys.behind_operation(path), records.pack_levels(path))
        return await self._engine.run("audit", keys.of_root(path[0], "-"), call, ("-",))

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
            for account in await asyncio.gather(*(self.account(AccountId(raw.decode())) for raw in ids)):
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
