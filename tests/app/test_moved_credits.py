"""Credits that interventions move, on a real ledger: from whom, to whom, once, and the books balance."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from proxy.domain import AccountId, AccountKind, Caller, Limit, Path, Plan
from proxy.errors import LedgerUnavailable, Refusal
from proxy.ledger import Store
from proxy.metrics import Metrics
from proxy.policy.orders import Orders
from proxy.server.interventions import Interventions

COMMONS, ANN, BOT = AccountId("commons"), AccountId("ann"), AccountId("ann.bot")
DAY_MS = 86_400_000


@dataclass
class Moving:
    """Interventions on a ledger with a commons, a person and her agent."""

    store: Store
    orders: Orders
    is_down: bool = False
    interventions: Interventions = field(init=False)

    def __post_init__(self) -> None:
        self.interventions = Interventions(
            read_orders=self._read,
            uses=self.store.standings,
            ledger=self.store.ledger,
            commons=self._commons,
            metrics=Metrics(),
            now_ms=self.store.engine.now_ms,
            in_background=asyncio.ensure_future,
        )

    async def _read(self) -> Orders:
        return self.orders

    async def _commons(self) -> Path:
        if self.is_down:
            raise LedgerUnavailable
        return (COMMONS,)

    async def open(self, *, endowment: int, limit: int) -> tuple[Caller, Caller]:
        directory = self.store.directory
        accounts: tuple[tuple[AccountId, AccountId | None, tuple[Limit, ...], AccountKind], ...] = (
            (COMMONS, None, (), "account"),
            (ANN, None, (Limit(limit, "day"),), "account"),
            (BOT, ANN, (), "agent"),
        )
        for account, parent, limits, kind in accounts:
            await directory.create_account(
                *(account,),
                parent=parent,
                plan="everyone",
                weight=None,
                limits=limits,
                labels={},
                kind=kind,
                operation_id=f"open-{account}",
            )
        if endowment:
            await self.store.ledger.grant((COMMONS,), "endowment", credits_nanocredits=endowment)
        await self.interventions.refresh()
        plan = Plan("everyone", ())
        return Caller(ANN, (ANN,), plan, "key"), Caller(BOT, (ANN, BOT), plan, "key", person=(ANN,))

    async def spend(self, path: Path, amount: int, hold_id: str) -> None:
        await self.store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=amount)
        await self.store.ledger.settle(path, hold_id, spent_nanocredits=amount)

    async def balanced(self) -> None:
        report = await self.store.journal.audit()
        assert report.broken == ()
        assert report.open_holds == 0


TITHE = Orders(0, 0, on=("tithe",), average_nanocredits=100, tithe_nanocredits=100, tithe_share=0.25)
FLOOR = Orders(0, 0, on=("floor",), average_nanocredits=100, floor_nanocredits=50, boost_quarters=16)


def today(store: Store, orders: Orders) -> Orders:
    """The same, made now for this day."""
    now_ms = store.engine.now_ms()
    return replace(orders, at_ms=now_ms, window_starts_at_ms=now_ms - now_ms % DAY_MS)


async def test_a_tithe_is_given_once_whenever_the_ledger_can_be_told(store: Store) -> None:
    """Of what the person and her agent have spent together; what is not there any more is not given."""
    moving = Moving(store, today(store, TITHE))
    ann, bot = await moving.open(endowment=0, limit=1_000)
    await moving.spend((ANN, BOT), 400, "h1")
    treatment = await moving.interventions.treatment(bot)
    assert treatment.tithe_share == 0.25
    for caller, spent in ((ann, 200), (bot, 200)):
        moving.interventions.owe(caller.person or caller.path, treatment.tithe_share, spent)
    moving.is_down = True
    await moving.interventions.give_tithes()
    moving.is_down = False
    for _ in range(3):
        await moving.interventions.give_tithes()
    person, commons = await store.directory.account(ANN), await store.directory.account(COMMONS)
    assert (person.totals.given, commons.totals.granted) == (100, 100)
    assert [grant.remaining_nanocredits for grant in commons.grants] == [100]
    moving.interventions.owe(ann.path, treatment.tithe_share, 4_000)  # a thousand, of which only the half is left
    await moving.interventions.give_tithes()
    assert (await store.directory.account(ANN)).totals.given == 600
    await moving.balanced()


async def test_a_top_up_is_given_once_a_day_however_often_it_is_asked_for(store: Store) -> None:
    """By the same refusal again and again, and by another worker that knows of other uses."""
    moving = Moving(store, today(store, FLOOR))
    ann, bot = await moving.open(endowment=1_000, limit=0)
    other = Moving(store, moving.orders)
    await other.interventions.refresh()
    treatment = await moving.interventions.treatment(ann)
    assert treatment.topup_nanocredits == 50
    refusal = Refusal("insufficient_quota", "none left", account=ANN, available_nanocredits=0)
    assert await moving.interventions.top_up(bot, treatment, refusal)
    await moving.spend((ANN, BOT), 30, "h1")
    less = await other.interventions.treatment(ann)
    assert less.topup_nanocredits == 20
    assert not await other.interventions.top_up(ann, less, refusal)
    person = await store.directory.account(ANN)
    assert (person.totals.granted, person.totals.spent) == (50, 30)
    assert [grant.expires_at_ms for grant in person.grants] == [moving.orders.window_starts_at_ms + DAY_MS]
    await moving.balanced()


async def test_who_gives_away_what_it_has_is_not_topped_up(store: Store) -> None:
    """What went to a friend today counts as if it were used: nobody fills another's purse from the commons."""
    moving = Moving(store, today(store, FLOOR))
    ann, _ = await moving.open(endowment=1_000, limit=80)
    await store.directory.create_account(AccountId("bob"), plan="everyone", limits=(), operation_id="open-bob")
    await store.ledger.transfer((ANN,), (AccountId("bob"),), "gift", credits_nanocredits=80)
    refusal = Refusal("insufficient_quota", "none left", account=ANN, available_nanocredits=0)
    assert not await moving.interventions.top_up(ann, await moving.interventions.treatment(ann), refusal)
    assert (await store.directory.account(ANN)).totals.granted == 0
    await moving.balanced()


async def test_who_holds_what_it_has_is_not_topped_up(store: Store) -> None:
    """What running requests may still give back is not lacking: whoever asks for much at a time gets no more than others."""
    moving = Moving(store, today(store, FLOOR))
    ann, _ = await moving.open(endowment=1_000, limit=40)
    await store.ledger.hold((ANN,), "large", want_nanocredits=40, least_nanocredits=40)
    refusal = Refusal("request_exceeds_budget", "too large", account=ANN, available_nanocredits=0)
    assert await moving.interventions.top_up(ann, await moving.interventions.treatment(ann), refusal)
    await store.ledger.void((ANN,), "large")
    assert (await store.directory.account(ANN)).available_nanocredits == 50
    await moving.balanced()
