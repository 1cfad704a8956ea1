"""All redistribution conserves: random sequences of use, gifts, tithes, loans, dividends and expiries, with processes that die in between
and accounts that are suspended, resumed and closed.

After each step the books of every account must balance, and what was given must be what arrived or is on its way. A failure prints the
steps that lead to it and can be seen again with `--hypothesis-seed=N`. The long run: `-m long`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from proxy.config import LedgerSection
from proxy.domain import AccountId, AccountStatus, JournalEntry, Limit, Path, Plan
from proxy.errors import Conflict, LedgerUnavailable, Refusal
from proxy.ledger import keys, open_ledger, records
from proxy.ledger.collecting import Collecting
from proxy.ledger.dividends import Dividends
from proxy.ledger.loans import Loans
from tests.support.dying_ledger import DyingLedger, When
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer

FUND = AccountId("fund")
PEOPLE: dict[str, tuple[str | None, tuple[Limit, ...]]] = {
    "org": (None, (Limit(120, "day"),)),
    "ann": ("org", (Limit(100, "day"),)),
    "bob": ("org", (Limit(60, "day", rollover="full"), Limit(200, "week"))),
    "eve": (None, (Limit(40, "hour"), Limit(300, "month"))),
    "dan": (None, ()),
    "poor": (None, (Limit(0, "ever"),)),
}
"""Each account, what stands above it, and its limits."""

people = st.sampled_from([*PEOPLE, "fund"])
amounts = st.integers(1, 80)
nth = st.integers(0, 5)
DAY_MS = 86_400_000
CLOSED_MAX = 3
"""So many are closed in one run at most: some must be left to give and to lend."""


class Redistribution(RuleBasedStateMachine):
    """One ledger, one clock, and whoever gives, lends, collects and hands out."""

    def __init__(self, server: LedgerServer) -> None:
        super().__init__()
        server.flush()
        self.clock = Clock()
        self.runner = asyncio.Runner()
        self.open = contextlib.AsyncExitStack()
        ledger = open_ledger(LedgerSection(deadline_ms=20_000), url=server.url, now_ms=self.clock)
        self.store = self.run(self.open.enter_async_context(ledger))
        self.ledger = DyingLedger(self.store.ledger)
        self.processes()
        self.paths: dict[str, Path] = {}
        self.bonuses = 0
        self.ids = 0
        self.targets: dict[str, str] = {}
        """Who a gift is for, by its id."""
        self.loan_ids: list[str] = []
        self.dividend_ids: list[str] = []
        self.closed: set[str] = set()
        self.disturbed: set[str] = set()
        """Dividends since which somebody was closed, suspended or resumed: who came or went in between was not counted, or is not paid."""

    def processes(self) -> None:
        """Those that work from now on; whoever died before holds its leases no longer."""
        store, ledger = self.store, self.ledger
        parts: tuple[Any, Any, Any] = (store.engine, store.directory, ledger)
        self.loans = Loans(*parts)
        self.dividends = Dividends(*parts, commons=lambda: FUND)
        self.collecting = Collecting(*parts, commons=lambda: FUND, keep_days=lambda: 3)
        for task in ("dividends", "collecting"):
            self.run(store.engine.command("DEL", keys.lease(task)))

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        try:
            if self.paths:
                self.ledger.dies = None
                self.run(self._heal())
                self.run(self._check(in_transit=0))
        finally:
            self.run(self.open.aclose())
            self.runner.close()

    def attempt(self, call: Any) -> Any:
        """Make a call that may be refused, or in which a process may die."""
        try:
            return self.run(call)
        except (Refusal, Conflict):
            return None
        except LedgerUnavailable:
            self.processes()
            return None

    def new_id(self, kind: str) -> str:
        self.ids += 1
        return f"{kind}{self.ids}"

    # --- rules -----------------------------------------------------------------------------------------------------------------

    @initialize()
    def open_accounts(self) -> None:
        async def opened() -> None:
            directory = self.store.directory
            directory.configure(file_prices=(), default_plan="flows")
            await directory.put_plan(Plan("flows", (), expired_to_commons=True), operation_id="p1")
            await directory.put_plan(Plan("stays", ()), operation_id="p2")
            fund = await directory.create_account(FUND, plan="stays", limits=(Limit(0, "ever"),), operation_id="fund")
            self.paths["fund"] = fund.path
            for name, (parent, limits) in PEOPLE.items():
                above = None if parent is None else AccountId(parent)
                account = await directory.create_account(AccountId(name), parent=above, limits=limits, operation_id=name)
                self.paths[name] = account.path
            await self.collecting.visit()

        self.run(opened())

    @rule(when=st.sampled_from(["before", "between", "after"]))
    def somebody_will_die(self, when: When) -> None:
        self.ledger.dies = when

    @rule(name=people, amount=amounts, keeps=st.booleans())
    def use(self, name: str, amount: int, keeps: bool) -> None:
        """A request that costs so much, or one that runs on, until its hold expires."""
        hold_id, path = self.new_id("h"), self.paths[name]

        async def used() -> None:
            await self.store.ledger.hold(path, hold_id, want_nanocredits=amount, least_nanocredits=1)
            if not keeps:
                await self.store.ledger.settle(path, hold_id, spent_nanocredits=amount)

        self.attempt(used())

    @rule(name=people, amount=amounts, hours=st.sampled_from([None, 1, 30, 100]))
    def grant(self, name: str, amount: int, hours: int | None) -> None:
        expires_at_ms = None if hours is None else self.clock.now_ms + hours * 3_600_000
        self.run(
            self.store.ledger.grant(
                self.paths[name], self.new_id("g"), credits_nanocredits=amount, expires_at_ms=expires_at_ms, reason="bonus"
            )
        )
        self.bonuses += amount

    @rule(giver=people, taker=people, amount=amounts, dies=st.sampled_from([None, None, "between", "after"]))
    def give(self, giver: str, taker: str, amount: int, dies: When | None) -> None:
        """A gift, or (to the fund) a tithe; its process may die with it."""
        self.ledger.dies = dies
        into = "commons" if taker == "fund" else ""
        named = {"credits_nanocredits": amount, "reason": "gift", "into": into}
        gift_id = self.new_id("t")
        self.targets[gift_id] = taker
        self.attempt(self.ledger.transfer(self.paths[giver], self.paths[taker], gift_id, **named))

    @rule(lender=people, borrower=people, amount=amounts, hours=st.sampled_from([1, 20, 50]), accepted=st.booleans())
    def lend(self, lender: str, borrower: str, amount: int, hours: int, accepted: bool) -> None:
        loan_id = self.new_id("loan")
        self.loan_ids.append(loan_id)
        terms = {"credits_nanocredits": amount, "due_at_ms": self.clock.now_ms + hours * 3_600_000, "reason": "", "accepted": accepted}
        self.attempt(self.loans.offer(loan_id, AccountId(lender), AccountId(borrower), **terms))

    @precondition(lambda self: self.loan_ids)
    @rule(n=nth, answer=st.sampled_from(["accept", "accept", "decline", "repay", "repay part", "forgive"]), amount=amounts)
    def answer_loan(self, n: int, answer: str, amount: int) -> None:
        async def answered() -> None:
            loan = await self.loans.find(self.loan_ids[-1 - n % len(self.loan_ids)])
            if answer.startswith("repay"):
                await self.loans.repay(loan, None if answer == "repay" else amount, operation_id=self.new_id("r"))
            else:
                await getattr(self.loans, answer)(loan)

        self.attempt(answered())

    @precondition(lambda self: self.loan_ids and len(self.closed) < CLOSED_MAX)
    @rule(n=nth, side=st.sampled_from(["lender", "borrower"]))
    def close(self, n: int, side: str) -> None:
        """Somebody who lends or borrows, or was to, is closed for good."""

        async def closed() -> None:
            loan = await self.loans.find(self.loan_ids[-1 - n % len(self.loan_ids)])
            name = getattr(loan, side)
            if name != FUND:
                await self.store.directory.update_account(name, status="closed", operation_id=self.new_id("close"))
                self.closed.add(name)
                self.disturbed.update(self.dividend_ids)

        self.attempt(closed())

    @rule(name=st.sampled_from([*PEOPLE]), status=st.sampled_from(["suspended", "active", "active"]))
    def suspend_or_resume(self, name: str, status: AccountStatus) -> None:
        self.attempt(self.store.directory.update_account(AccountId(name), status=status, operation_id=self.new_id("status")))
        self.disturbed.update(self.dividend_ids)

    @rule(amount=st.none() | amounts, by=st.sampled_from(["equal", "weight"]), hours=st.sampled_from([None, 5]))
    def declare(self, amount: int | None, by: Any, hours: int | None) -> None:
        dividend_id = self.new_id("dividend")
        expires_at_ms = None if hours is None else self.clock.now_ms + hours * 3_600_000
        terms = {"credits_nanocredits": amount, "by": by, "expires_at_ms": expires_at_ms, "reason": ""}
        if self.attempt(self.dividends.declare(dividend_id, **terms)) is not None:
            self.dividend_ids.append(dividend_id)

    @rule(job=st.sampled_from(["loans", "dividends", "collecting", "expiry"]))
    def work(self, job: str) -> None:
        """One round of one of the jobs that look after all this."""
        call = {"loans": self.loans.look, "dividends": self.dividends.step, "collecting": self.collecting.visit}
        self.attempt(call.get(job, self.store.ledger.expire_due)())

    @rule(seconds=st.sampled_from([1, 61, 3600, 5 * 3600, 86_400, 9 * 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.clock.pass_s(seconds)

    # --- what must hold ----------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        if self.paths:
            self.run(self._check())

    async def _check(self, *, in_transit: int | None = None) -> None:
        report = await self.store.journal.audit()
        assert report.broken == ()
        entries = [entry async for entry in self._entries()]
        given = sum(entry.amount_nanocredits for entry in entries if entry.verb in ("transfer", "collect"))
        arrived = sum(entry.amount_nanocredits for entry in entries if entry.verb == "grant") - self.bonuses
        for entry in entries:
            if entry.id in self.targets or entry.verb == "collect":
                self._check_leaving(entry)
        on_its_way = await self._in_transit()
        assert arrived <= given <= arrived + on_its_way, "what is in the outbox may have arrived in parts"
        if in_transit is not None:
            assert (on_its_way, given) == (in_transit, arrived)

    async def _entries(self) -> AsyncIterator[JournalEntry]:
        for root in {path[0] for path in self.paths.values()}:
            after: str | None = None
            while True:
                page = await self.store.journal.entries(root, after=after, limit=1000)
                for entry in page.items:
                    yield entry
                if (after := page.next) is None:
                    break

    def _check_leaving(self, entry: JournalEntry) -> None:
        """What somebody gave to an account outside its organisation, the organisation has given, too: so its limits bound it."""
        booked = {posting.account for posting in entry.postings if posting.target == "given"}
        target = self.paths[self.targets.get(entry.id, "fund")]
        for name in booked:
            leaves = {above for above in self.paths[name] if above not in target[:-1]}
            assert leaves <= booked, entry

    async def _in_transit(self) -> int:
        """What stands in the outboxes, whether or not a part of it has arrived."""
        amount = 0
        for root in {path[0] for path in self.paths.values()}:
            outbox = records.pairs(await self.store.engine.command("HGETALL", keys.of_root(root, keys.OUTBOX)))
            amount += sum(int(part) for text in outbox.values() for part in records.decode_strings(text)[4::2])
        return amount

    async def _heal(self) -> None:
        """Everybody looks after what is unfinished, as jobs do in time; then it must all have come to an end."""
        self.clock.pass_s(120)
        await self.store.ledger.expire_due()
        for loan_id in self.loan_ids:
            with contextlib.suppress(Refusal):
                before = await self.loans.find(loan_id)
                await self.loans.look()
                loan = await self.loans.find(loan_id)
                assert loan.state != "opening"
                assert before.repaid_nanocredits <= loan.repaid_nanocredits <= loan.credits_nanocredits
        self.clock.pass_s(DAY_MS // 1000)
        await self.loans.look()
        for loan_id in self.loan_ids:
            with contextlib.suppress(Refusal):
                loan = await self.loans.find(loan_id)
                assert loan.is_over or not self.closed.intersection(self.paths[loan.borrower]), "nobody who is closed owes anything"
        while await self.dividends.step():
            pass
        for dividend_id in self.dividend_ids:
            dividend = await self.dividends.find(dividend_id)
            assert dividend.state == "done"
            assert dividend.paid_nanocredits <= dividend.credits_nanocredits
            assert dividend_id in self.disturbed or dividend.paid_accounts + dividend.unpaid_accounts == dividend.accounts


CHECKS = settings(deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(300)
def test_redistribution_makes_and_loses_nothing(ledger_server: LedgerServer) -> None:
    """Whatever is given, lent, collected and handed out, and whoever dies meanwhile: the books balance after every step."""
    run_state_machine_as_test(lambda: Redistribution(ledger_server), settings=settings(CHECKS, max_examples=20, stateful_step_count=40))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_redistribution_makes_and_loses_nothing_for_long(ledger_server: LedgerServer) -> None:
    """The same for some minutes."""
    run_state_machine_as_test(lambda: Redistribution(ledger_server), settings=settings(CHECKS, max_examples=500, stateful_step_count=60))
