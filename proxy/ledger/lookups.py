"""What requests ask of accounts and keys: whose key it is, which settings apply; kept, and never a quarter second behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from proxy.domain import AccountId, AccountKind, ApiKey, Caller, Limit, Path, Plan
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger import keys, records
from proxy.ledger.book import Book
from proxy.ledger.callers import KeptCallers
from proxy.ledger.engine import Engine
from proxy.policy.units import check_one_unit

SETTINGS_MAX = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the budget verbs need to know of an account."""

    path: Path
    plan: str
    own_limits: tuple[Limit, ...] | None
    version: int
    weight: int
    """0 where the plan's applies."""
    kind: AccountKind = "account"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Lookups(Book):
    """What one process has looked up; see the module."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._callers = KeptCallers()
        self._settings: dict[AccountId, Settings] = {}
        self.countings = 0
        """Grows whenever use may be counted in another way."""

    async def _forget_all(self) -> None:
        self.countings += 1
        self._callers.clear()
        self._settings.clear()
        await self._read_book()

    def _forget(self, kind: str, name: str) -> None:
        if kind == "key":
            self._callers.forget(name)
        elif kind == "account":
            self._settings.pop(AccountId(name), None)
            self._callers.forget_account(name)
        elif kind == "counting":
            self.countings += 1

    async def caller(self, key_digest: str) -> Caller | None:
        """Whose key has this SHA-256 (hex); None where it is unknown or revoked.

        Raises on a miss LedgerUnavailable; Refusal: units_differ, where the accounts of its path do not count in one unit.
        """
        kept = self._callers.get(key_digest)
        if key_digest in self._callers and (self._is_fresh or (kept is not None and self._is_away and self.believes_longer)):
            return kept
        try:
            return await self._look_up_caller(key_digest)
        except LedgerUnavailable:
            if kept is None or not self.believes_longer:
                raise
            return kept

    async def _look_up_caller(self, key_digest: str) -> Caller | None:
        generation = self.generation
        key = await self.find_key(key_digest)
        caller = None
        if key is not None:
            settings = await self.settings(key.account)
            person = await self._person(settings)
            plan = await self.known_plan(person.plan)
            check_one_unit(plan, await self._plans_on(settings.path), key.account)
            weight = person.weight or plan.weight
            weights = (await self._root_weight(person.path) if len(person.path) > 1 else weight, weight)
            caller = Caller(key.account, settings.path, plan, key.key_id, weights, () if person is settings else person.path)
        if generation == self.generation:  # else a change may have come in between, and the next look-up decides
            self._callers.keep(key_digest, caller)
        return caller

    async def _person(self, settings: Settings) -> Settings:
        """Whom an account acts for: the nearest above an agent that is none; itself where it is no agent."""
        for above in reversed(settings.path[:-1]):
            if settings.kind == "account":
                break
            settings = await self.settings(above)
        return settings

    async def person(self, path: Path) -> AccountId:
        """Whom the use of a path is attributed to. Raises Refusal: account_not_found."""
        return (await self._person(await self.settings(path[-1]))).path[-1]

    async def _root_weight(self, path: Path) -> int:
        root = await self.settings(path[0])
        return root.weight or (await self.known_plan(root.plan)).weight

    async def settings(self, account_id: AccountId, *, anew: bool = False) -> Settings:
        """An account's settings, cached. Raises Refusal: account_not_found."""
        cached = self._settings.get(account_id)
        if cached is not None and not anew and self._is_fresh:
            return cached
        generation = self.generation
        path = cached.path if cached is not None else await self._read_path(account_id)
        fields = ("plan", "limits", "version", "weight", "kind", "labels")
        plan, limits, version, weight, kind, labels = await self._engine.command("HMGET", keys.account(path[0], account_id), *fields)
        settings = Settings(
            path,
            plan.decode(),
            records.decode_limits(limits),
            int(version),
            int(weight),
            records.kind_of(kind),
            records.decode_labels(labels),
        )
        if anew or generation == self.generation:
            if len(self._settings) >= SETTINGS_MAX:
                self._settings.clear()
            self._settings[account_id] = settings
            self.generation += anew
        return settings

    async def plan_of(self, settings: Settings) -> Plan:
        return await self.known_plan(settings.plan)

    async def _plans_on(self, path: Path) -> list[Plan]:
        """The plans of all accounts of a path."""
        return [await self.plan_of(await self.settings(account_id)) for account_id in path]

    async def unit(self, account_id: AccountId) -> str:
        """What an account's amounts count. Raises Refusal: account_not_found."""
        return (await self.plan_of(await self.settings(account_id))).unit

    async def path(self, account_id: AccountId) -> Path:
        """An account and all above it, root first. Raises Refusal: account_not_found."""
        cached = self._settings.get(account_id)
        return cached.path if cached is not None else await self._read_path(account_id)

    async def _read_path(self, account_id: AccountId) -> Path:
        text = await self._engine.command("GET", keys.path_of(account_id))
        if text is None:
            raise Refusal("account_not_found", f"there is no account {account_id!r}", account=account_id)
        return records.decode_path(text)

    async def find_key(self, key_digest: str) -> ApiKey | None:
        """The key with this SHA-256 (hex), unless it is revoked."""
        key = await self._read_key(key_digest)
        return key if key is not None and key.revoked_at_ms is None else None

    async def _read_key(self, key_digest: str) -> ApiKey | None:
        key_id, account, created, revoked = await self._engine.command(
            "HMGET", keys.api_key(key_digest), "id", "account", "created", "revoked"
        )
        if key_id is None:
            return None
        return ApiKey(key_id.decode(), AccountId(account.decode()), int(created), None if revoked is None else int(revoked))
