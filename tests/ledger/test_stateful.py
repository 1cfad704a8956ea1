"""The real ledger against the model under random use: verbs, repeats, lost answers, time that passes, limits and plans that change.

After each step both must answer and stand alike, and the promises must hold on the real one. A failure prints the steps that lead to it
and can be seen again with `--hypothesis-seed=N`. The long run: `python -m pytest -m long tests/ledger/test_stateful.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from proxy.domain import Account, AccountId, AccountStatus, Grant, Hold, Limit, OpenHold, Path
from proxy.errors import Refusal
from tests.support.ledger_bench import HOLD_TTL_S, Bench, Clock, open_bench, prove_conservation
from tests.support.ledger_server import LedgerServer, ledger_binaries

TREE = {"org": None, "ann": "org", "agent": "ann", "bob": "org", "solo": None, "free": None}
"""Each account and its parent. Holds of different roots never meet; transfers do."""
PLANS = ("staff", "guest")
GIFT = "gift"
"""The reason that every transfer of this suite gives."""

amounts = st.integers(0, 60)
credits_of_limits = st.sampled_from([100, 30, 60, 0, 200, 1000])
accounts = st.sampled_from(["agent", "ann", "bob", "solo", "org", "free"])
nth = st.integers(0, 7)
ended = st.sampled_from([False, False, False, True])
"""Whether a call may reach a hold that has ended."""
How = Literal["here", "there", "again"]
how = st.sampled_from(["here", "there", "again"])
"""Through one process, through another, or through both: the first answer got lost, so the other asks again."""


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    window = draw(st.sampled_from(["day", "hour", "week", "ever", "30s", "100s"]))
    zone = draw(st.sampled_from(["UTC", "Africa/Cairo"])) if window == "day" else "UTC"
    rollover = "none" if window == "ever" else draw(st.sampled_from(["none", "full", "capped"]))
    return Limit(draw(credits_of_limits), window, zone, rollover, draw(amounts) if rollover == "capped" else 0)


rates = st.fixed_dictionaries(
    {"per_minute": st.sampled_from([None, None, None, 60, 7, 2]), "at_once": st.sampled_from([None, None, None, 5, 2, 1])}
)
"""How many requests a plan lets begin a minute, and run at a time."""
limit_sets = st.lists(limits(), max_size=2, unique_by=lambda limit: limit.key).map(tuple)


def answer(result: object) -> object:
    """What two ledgers must say alike: everything but words."""
    match result:
        case Refusal(code="insufficient_quota" | "request_exceeds_budget" | "budget_in_flight"):
            return result.code, result.account, result.limit, result.needed_nanocredits, result.available_nanocredits, result.resets_at_ms
        case Refusal(code="too_many_requests"):
            return result.code, result.account, result.limit, result.retry_after_s
        case Refusal():
            return result.code
    return result


def standing(account: Account) -> dict[str, object]:
    """An account as it must stand in both ledgers, by the name of each figure: grants in any order."""
    flat: dict[str, object] = {"available": account.available_nanocredits, "status": account.status, "own": account.own_limits}
    flat["requests"] = account.requests_per_minute, account.concurrent_requests, account.running_requests
    rows = [(state.limit.key, state) for state in account.limits] + [(grant.grant_id, grant) for grant in account.grants]
    for name, row in [*rows, ("totals", account.totals)]:
        flat |= {f"{name}.{field}": value for field, value in dataclasses.asdict(row).items()}
    return flat


def differences(real: Account, model: Account) -> dict[str, tuple[object, object]]:
    """Each figure in which two accounts differ: in the real ledger, in the model."""
    one, other = standing(real), standing(model)
    return {name: (one.get(name), other.get(name)) for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def excess(account: Account) -> dict[tuple[str, int], int]:
    """By how much each present window is overspent, as it can be where a limit was lowered under it."""
    return {
        (state.limit.key, state.starts_at_ms): max(
            0, state.spent_nanocredits + state.held_nanocredits - state.limit.credits_nanocredits - state.carried_nanocredits
        )
        for state in account.limits
    }


@dataclasses.dataclass
class Known:
    """A hold that was asked for, and how far it was extended."""

    path: Path
    hold_id: str
    amount: int
    sequence: int = 0


class Comparison(RuleBasedStateMachine):
    """Everything is done to both; the model says what is right."""

    def __init__(self, server: LedgerServer) -> None:
        super().__init__()
        self.clock = Clock()
        self.runner = asyncio.Runner()
        self.open = contextlib.AsyncExitStack()
        self.model = self.run(self.open.enter_async_context(open_bench(None, self.clock)))
        self.real = self.run(self.open.enter_async_context(open_bench(server, self.clock)))
        self.other = self.run(self.open.enter_async_context(open_bench(server, self.clock, empty=False)))
        """Another process on the same ledger."""
        self.holds: list[Known] = []
        self.grants: list[tuple[Path, str]] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.ids = 0
        self.limits_changed = True
        self.before: dict[str, dict[tuple[str, int], int]] = {}

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        try:
            if self.real.paths:
                self.run(prove_conservation(self.real))
                self.run(prove_conservation(self.model))
                self.run(self._check_gifts())
        finally:
            self.run(self.open.aclose())
            self.runner.close()

    # --- both at once ----------------------------------------------------------------------------------------------------------

    async def _ask(self, bench: Bench, verb: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> object:
        try:
            return await getattr(bench.ledger, verb)(*arguments, **named)
        except Refusal as refusal:
            return refusal

    def both(self, verb: str, *arguments: Any, how: How = "here", **named: Any) -> Any:
        """Carry a call out in both ledgers (in the real one twice where its answer gets lost); they must answer alike."""
        if how == "again":
            self.run(self._ask(self.real, verb, arguments, named))
        actual = self.run(self._ask(self.real if how == "here" else self.other, verb, arguments, named))
        expected = self.run(self._ask(self.model, verb, arguments, named))
        assert answer(actual) == answer(expected)
        if (verb, arguments, named) not in self.calls:
            self.calls.append((verb, arguments, named))
        return expected

    def new_id(self, kind: str) -> str:
        self.ids += 1
        return f"{kind}{self.ids}"

    def path(self, account: str) -> Path:
        return self.real.paths[account]

    # --- rules -----------------------------------------------------------------------------------------------------------------

    @initialize(given=st.fixed_dictionaries({name: limit_sets for name in TREE}), plans=st.tuples(limit_sets, limit_sets), requests=rates)
    def open_accounts(
        self, given: dict[str, tuple[Limit, ...]], plans: tuple[tuple[Limit, ...], ...], requests: dict[str, int | None]
    ) -> None:
        for bench in (self.model, self.real):
            for name, plan in zip((*PLANS, "everyone"), (*plans, ()), strict=True):
                self.run(bench.plan(name, *plan, **requests))
            for name, parent in TREE.items():
                self.run(bench.account(name, *given[name], parent=parent, plan="staff" if name == "bob" else None))
        self.run(self.other.directory.refresh())

    @rule(account=accounts, want=amounts, least=st.sampled_from([0, 1, 10]), how=how)
    def hold(self, account: str, want: int, least: int, how: How) -> None:
        hold_id, figures = self.new_id("h"), {"want_nanocredits": want, "least_nanocredits": min(want, least)}
        result = self.both("hold", self.path(account), hold_id, **figures, how=how)
        if isinstance(result, Hold):
            self.holds.append(Known(self.path(account), hold_id, result.amount_nanocredits))

    @rule(account=accounts, least=st.integers(50, 300))
    def hold_much_or_nothing(self, account: str, least: int) -> None:
        self.hold(account=account, want=300, least=least, how="here")

    def pick(self, n: int, ended: bool) -> Known:
        """One of the last holds, of those that are open as long as there are some."""
        still_open = self.model.books.open_hold_ids()
        holds = [hold for hold in self.holds if ended or hold.hold_id in still_open] or self.holds
        return holds[-1 - n % len(holds)]

    @precondition(lambda self: self.holds)
    @rule(n=nth, ended=ended, spent=amounts, how=how)
    def debit(self, n: int, ended: bool, spent: int, how: How) -> None:
        hold = self.pick(n, ended)
        self.both("debit", hold.path, hold.hold_id, spent_nanocredits=spent, how=how)

    @precondition(lambda self: self.holds)
    @rule(n=nth, ended=ended, spent=amounts, want=amounts, how=how)
    def extend(self, n: int, ended: bool, spent: int, want: int, how: How) -> None:
        hold = self.pick(n, ended)
        hold.sequence += 1
        figures = {"sequence": hold.sequence, "spent_nanocredits": spent, "want_nanocredits": want}
        result = self.both("extend", hold.path, hold.hold_id, **figures, how=how)
        if isinstance(result, Hold):
            hold.amount = result.amount_nanocredits

    @precondition(lambda self: self.holds)
    @rule(n=nth, ended=ended, spent=amounts, overrun=st.sampled_from([0, 0, 7]), how=how)
    def settle(self, n: int, ended: bool, spent: int, overrun: int, how: How) -> None:
        hold = self.pick(n, ended)
        self.both("settle", hold.path, hold.hold_id, spent_nanocredits=spent, overrun_nanocredits=overrun, how=how)

    @precondition(lambda self: self.holds)
    @rule(n=nth, ended=ended, how=how)
    def void(self, n: int, ended: bool, how: How) -> None:
        hold = self.pick(n, ended)
        self.both("void", hold.path, hold.hold_id, how=how)

    @rule(
        account=accounts,
        credits=amounts,
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        starts_in_s=st.sampled_from([None, None, 0, 20]),
        ends_in_s=st.sampled_from([30, 15, None, 4000, 200_000, 0]),
        how=how,
    )
    def grant(self, account: str, credits: int, priority: int, starts_in_s: int | None, ends_in_s: int | None, how: How) -> None:
        grant_id = self.new_id("g")
        result = self.both(
            "grant",
            self.path(account),
            grant_id,
            credits_nanocredits=credits,
            priority=priority,
            effective_at_ms=None if starts_in_s is None else self.clock.now_ms + starts_in_s * 1000,
            expires_at_ms=None if ends_in_s is None else self.clock.now_ms + ends_in_s * 1000,
            reason="bonus",
            how=how,
        )
        if isinstance(result, Grant):
            self.grants.append((self.path(account), grant_id))

    @precondition(lambda self: self.grants)
    @rule(n=nth, how=how)
    def revoke(self, n: int, how: How) -> None:
        path, grant_id = self.grants[-1 - n % len(self.grants)]
        self.both("revoke", path, grant_id, operation_id=self.new_id("r"), how=how)

    @rule(account=accounts, credits=st.integers(-20, 60), how=how)
    def adjust(self, account: str, credits: int, how: How) -> None:
        self.both("adjust", self.path(account), self.new_id("a"), credits_nanocredits=credits, how=how)

    @rule(
        giver=accounts,
        taker=accounts,
        credits=amounts,
        into=st.sampled_from(["", "pool"]),
        ends_in_s=st.sampled_from([None, 40]),
        comes_back=st.sampled_from([False, False, True]),
        how=how,
    )
    def transfer(
        self, giver: str, taker: str, credits: int, how: How, into: str = "", ends_in_s: int | None = None, comes_back: bool = False
    ) -> None:
        paths = self.path(giver), self.path(taker)
        expires_at_ms = None if ends_in_s is None else self.clock.now_ms + ends_in_s * 1000
        named = {"into": into, "expires_at_ms": expires_at_ms, "comes_back": comes_back}
        self.both("transfer", *paths, self.new_id("t"), credits_nanocredits=credits, reason=GIFT, how=how, **named)

    @rule(account=accounts, taker=st.sampled_from(["free", "bob"]), how=how)
    def collect(self, account: str, taker: str, how: How) -> None:
        """What has expired goes to another account; who may give to whom is nothing that the ledger knows."""
        if account != taker:
            named = {"expires_at_ms": self.clock.now_ms + 90_000, "reason": GIFT, "into": "pool"}
            self.both("collect", self.path(account), self.path(taker), self.new_id("c"), how=how, **named)

    @rule(account=accounts, given=st.none() | limit_sets, how=how)
    def set_limits(self, account: str, given: tuple[Limit, ...] | None, how: How) -> None:
        self.limits_changed = True
        self.both("set_limits", self.path(account), self.new_id("s"), limits=given, how=how)

    @rule(account=accounts, credits=credits_of_limits, how=how)
    def set_other_credits(self, account: str, credits: int, how: How) -> None:
        """The same windows, with more or less in them."""
        states = self.run(self.model.state(self.path(account))).limits
        given = tuple(dataclasses.replace(state.limit, credits_nanocredits=credits) for state in states)
        self.set_limits(account=account, given=given, how=how)

    @rule(account=accounts, name=st.sampled_from(PLANS), given=st.none() | limit_sets, requests=rates)
    def change_plan(self, account: str, name: str, given: tuple[Limit, ...] | None, requests: dict[str, int | None]) -> None:
        """Another plan for an account, or (with limits) other limits and rates for a plan."""
        self.limits_changed = True
        operation_id = self.new_id("p")
        for bench in (self.model, self.real):
            if given is None:
                self.run(bench.directory.update_account(AccountId(account), plan=name, operation_id=operation_id))
            else:
                self.run(bench.plan(name, *given, **requests))
        self.run(self.other.directory.refresh())  # As every process does four times a second.

    @rule(account=accounts)
    def suspend_for_one_call(self, account: str) -> None:
        self.change_status(account, "suspended")
        self.hold("agent", want=5, least=1, how="here")
        if self.holds:
            self.extend(n=0, ended=False, spent=3, want=5, how="here")
        self.transfer(giver=account, taker="solo", credits=1, how="here")
        self.change_status(account, "active")

    def change_status(self, account: str, status: AccountStatus) -> None:
        for bench in (self.model, self.real):
            self.run(bench.status(account, status))

    @precondition(lambda self: self.calls)
    @rule(n=st.integers(0, 40))
    def repeat_an_old_call(self, n: int) -> None:
        verb, arguments, named = self.calls[-1 - n % len(self.calls)]
        self.limits_changed |= verb == "set_limits"
        self.both(verb, *arguments, **named)

    @precondition(lambda self: self.calls)
    @rule(n=st.integers(0, 40), amount=amounts)
    def repeat_an_old_call_with_another_amount(self, n: int, amount: int) -> None:
        verb, arguments, named = self.calls[-1 - n % len(self.calls)]
        changed = next((name for name in ("want_nanocredits", "spent_nanocredits", "credits_nanocredits") if name in named), None)
        if changed is not None and (verb != "hold" or amount >= named["least_nanocredits"]):
            self.both(verb, *arguments, **{**named, changed: amount})

    @rule(seconds=st.sampled_from([0.001, 1, 10, 29]))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule(seconds=st.sampled_from([HOLD_TTL_S, 3600, 86_400, 4 * 86_400, 8 * 86_400]))
    def time_flies(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule(account=accounts, n=nth, early_ms=st.sampled_from([0, 0, 1]))
    def time_passes_to_a_turn(self, account: str, n: int, early_ms: int) -> None:
        states = self.run(self.model.state(self.path(account))).limits
        turns = [state.resets_at_ms - early_ms for state in states if state.resets_at_ms is not None]
        if turns:
            self.clock.now_ms = max(self.clock.now_ms, turns[n % len(turns)])

    @rule()
    def expire(self) -> None:
        assert self.run(self.real.ledger.expire_due()) == self.run(self.model.ledger.expire_due())

    # --- what must hold after each step ----------------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        if self.real.paths:
            self.run(self._check())

    async def _check(self) -> None:
        paths = self.real.paths.values()
        real = dict(zip(self.real.paths, await asyncio.gather(*(self.real.state(path) for path in paths)), strict=True))
        for name, path in self.real.paths.items():
            assert (name, differences(real[name], await self.model.state(path))) == (name, {})
        holds = await self._open_holds(self.real)
        assert holds == await self._open_holds(self.model)
        for name, account in real.items():
            self._check_no_overspend(name, account)
            self._check_conservation(account)
            own = [hold for hold in holds.values() if account.id in hold.path]
            assert account.totals.held == sum(hold.amount_nanocredits - hold.spent_nanocredits for hold in own)
            assert account.running_requests == len(own)
        self.limits_changed = False

    async def _open_holds(self, bench: Bench) -> dict[str, OpenHold]:
        pages = [await bench.books.holds(AccountId(root), after=None, limit=1000) for root, parent in TREE.items() if parent is None]
        return {hold.hold_id: hold for page in pages for hold in page.items}

    async def _check_gifts(self) -> None:
        """What is given is what arrives, at however many levels either is counted."""
        given = arrived = 0
        for root in (root for root, parent in TREE.items() if parent is None):
            for entry in (await self.real.books.entries(AccountId(root), limit=1000)).items:
                given += entry.amount_nanocredits if entry.verb in ("transfer", "collect") else 0
                arrived += entry.amount_nanocredits if entry.verb == "grant" and entry.memo == GIFT else 0
        assert arrived == given

    def _check_no_overspend(self, name: str, account: Account) -> None:
        """No verb takes what a window does not have: only a lowered limit may leave one overspent, and then nothing adds to it."""
        before, self.before[name] = self.before.get(name, {}), excess(account)
        if not self.limits_changed:
            for window, amount in self.before[name].items():
                assert amount <= before.get(window, 0)

    def _check_conservation(self, account: Account) -> None:
        for grant in account.grants:
            spread = grant.remaining_nanocredits, grant.held_nanocredits, grant.spent_nanocredits
            assert min(spread) >= 0
            assert sum(spread) <= grant.credits_nanocredits
        assert account.totals.granted == sum(grant.credits_nanocredits for grant in account.grants)
        assert account.totals.spent >= 0
        assert account.totals.held >= 0


CHECKS = settings(deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(300)
def test_the_ledger_and_the_model_never_differ(ledger_server: LedgerServer) -> None:
    """Whatever is done, in whatever order, however often: same answers, same balances, and the promises hold."""
    run_state_machine_as_test(lambda: Comparison(ledger_server), settings=settings(CHECKS, max_examples=50, stateful_step_count=40))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ledger_binaries())
def test_the_ledger_and_the_model_never_differ_for_long(ledger_servers: Callable[[str], LedgerServer], name: str) -> None:
    """The same for some minutes on every kind of server."""
    server = ledger_servers(name)
    run_state_machine_as_test(lambda: Comparison(server), settings=settings(CHECKS, max_examples=1200, stateful_step_count=60))
