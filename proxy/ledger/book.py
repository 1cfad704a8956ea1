"""Plans and prices: what the configuration file says, and what the admin API has added since; and what is kept of the levels' indices."""

from __future__ import annotations

import dataclasses

from proxy.domain import Level, Plan, Price
from proxy.errors import Conflict, Refusal
from proxy.ledger import keys, records
from proxy.ledger.changes import Changes, digest
from proxy.ledger.engine import Engine
from proxy.policy.levels import Levels
from proxy.policy.units import check_plan_keeps_unit

KEEP_TRIES = 3


class Book(Changes):
    """The plans and the price rows, kept in memory."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._plans: dict[str, Plan] = {}
        self._api_prices: tuple[Price, ...] = ()
        self._file_prices: tuple[Price, ...] = ()
        self._file_levels: tuple[Level, ...] = ()
        self._default_plan: str | None = None
        self._kept_levels = b""
        """As the server has them."""
        self.price_book: tuple[Price, ...] = ()
        self.levels = Levels()
        """Those of the price book, their indices never above what is kept of them."""

    def configure(self, *, file_prices: tuple[Price, ...], default_plan: str | None, file_levels: tuple[Level, ...] = ()) -> None:
        """Take over what the configuration file says: its price rows and levels, and the plan of accounts that name none."""
        self._file_prices = file_prices
        self._file_levels = file_levels
        self._default_plan = default_plan
        self._compose_prices()

    def _compose_prices(self) -> None:
        self.price_book = self._file_prices + self._api_prices
        self.levels = Levels(self.price_book, self._file_levels, records.decode_levels(self._kept_levels))
        self.generation += 1

    async def _read_book(self) -> None:
        plans, prices, kept = await self._engine.commands(("HGETALL", keys.PLANS), ("HGETALL", keys.PRICES), ("GET", keys.LEVELS))
        self._plans = {name: records.decode_plan(_definition(text)) for name, text in records.pairs(plans).items()}
        rows = (records.decode_price(text) for text in records.pairs(prices).values())
        self._api_prices = tuple(sorted(rows, key=lambda row: (row.effective_at_ms, row.model)))
        self._kept_levels = kept or b""
        self._compose_prices()

    def now_ms(self) -> int:
        """The ledger server's time."""
        return self._engine.now_ms()

    def plans(self) -> dict[str, Plan]:
        return dict(self._plans)

    def plan(self, name: str) -> Plan:
        """Raises Refusal: not_found."""
        plan = self._plans.get(name)
        if plan is None:
            raise Refusal("not_found", f"there is no plan {name!r}")
        return plan

    def unit_of_plan(self, name: str) -> str | None:
        """What a plan's amounts count, which never changes; None where this process does not know the plan."""
        plan = self._plans.get(name)
        return None if plan is None else plan.unit

    async def known_plan(self, name: str) -> Plan:
        """An account's plan, which another process may have defined a moment ago."""
        if name not in self._plans:  # the change may have been read and not yet taken in, so it is no use to ask for changes
            text = await self._engine.command("HGET", keys.PLANS, name)
            if text is not None:
                self._plans.setdefault(name, records.decode_plan(_definition(text)))
        return self.plan(name)

    async def put_plan(self, plan: Plan, *, operation_id: str) -> None:
        """Define a plan, or change it for all its accounts; a repeat does not undo what came after.

        Raises Conflict; Refusal: units_differ.
        """
        fingerprint = digest("put_plan", plan)
        if await self.claim(operation_id, fingerprint):
            return
        stored = await self._engine.command("HGET", keys.PLANS, plan.name)
        if stored is not None:
            check_plan_keeps_unit(records.decode_plan(_definition(stored)), plan)
        mark = "" if stored is None else _file_mark(stored)
        await self._engine.command("HSET", keys.PLANS, plan.name, _stored_plan(plan, mark))
        await self.done(operation_id, fingerprint)
        await self._announce("plan", plan.name)

    async def seed_plans(self, plans: tuple[Plan, ...]) -> None:
        """Take over the file's plans: the later of the file's last change and the admin API's last change wins.

        Raises Refusal: units_differ.
        """
        stored = records.pairs(await self._engine.command("HGETALL", keys.PLANS))
        for plan in plans:
            if plan.name in stored:
                check_plan_keeps_unit(records.decode_plan(_definition(stored[plan.name])), plan)
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
        await self.keep_levels()

    async def keep_levels(self) -> None:
        """Note the indices in force that are not noted yet, so that no row that goes takes them along; every process hears of it.

        To be called again and again, and before rows may go. Of several that note at a time one alone does; the others read what it has
        noted, and go on from there. Raises LedgerUnavailable.
        """
        for _ in range(KEEP_TRIES):
            due = self.levels.to_keep(self.now_ms())
            if not due:
                return
            noted = records.encode({**self.levels.kept, **due})
            await self._engine.script("swap", [keys.LEVELS], [self._kept_levels, noted, 0], durable=True)
            # Also where another was first, for it may have died before it told anybody.
            await self._announce("price", "levels")


def _stored_plan(plan: Plan, mark: str) -> bytes:
    """A plan, behind the mark of the file's version that it took over."""
    return mark.encode() + b" " + records.encode(plan)


def _file_mark(text: bytes) -> str:
    return text.partition(b" ")[0].decode()


def _definition(text: bytes) -> bytes:
    return text.partition(b" ")[2]
