"""Seats go to whoever got least for its weight, organisations first; none idles while anyone waits; every verb may be repeated."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy import shares as shares_module
from proxy.policy.fair_share import Claim, FairPool, Place, Step
from proxy.policy.shares import SCALE, gap_bound

LEASE_MS = 10_000


def pool(seats: int, *, depth: int = 1000, memory: int = 0) -> FairPool:
    return FairPool(seats, depth=depth, lease_ms=LEASE_MS, memory_nanocredits=memory)


def claim(ticket: str, account: str = "", estimate: int = 100, **more: int) -> Claim:
    """A claim of an account without an organisation; by default the account is the ticket's letter."""
    name = account or ticket[0]
    return Claim(ticket, name, name, estimate, **more)


def fill(fair: FairPool, *claims: Claim, now_ms: int = 0) -> None:
    for each in claims:
        fair.enter(each, now_ms=now_ms)


def order(fair: FairPool, *, cost: int = 100, now_ms: int = 0) -> list[str]:
    """Let the seated ticket end until nobody is left; the names in the order in which they were seated."""
    served = []
    while fair.tickets:
        seated = next(name for name, ticket in fair.tickets.items() if ticket.is_seated)
        served.append(seated)
        fair.leave(seated, cost, now_ms=now_ms)
    return served


# --- the order ---------------------------------------------------------------------------------------------------------------------


def test_free_seats_are_given_at_once() -> None:
    """Without contention nobody waits, whatever was used before."""
    fair = pool(2)
    assert [fair.enter(claim(name), now_ms=0).place for name in ("a1", "a2", "a3")] == [Place.SEATED, Place.SEATED, Place.WAITING]


def test_a_modest_caller_goes_before_a_greedy_one() -> None:
    """However many requests the greedy one has in line, the other's next request gets the next seat."""
    fair = pool(1)
    fill(fair, *[claim(f"g{i}") for i in range(30)], claim("m1"))
    assert order(fair)[:3] == ["g0", "m1", "g1"]


def test_shares_follow_the_weights() -> None:
    """Of many equal requests, those of weights 1, 2, 3 and 4 get a tenth, two, three and four tenths."""
    fair = pool(3)
    fill(fair, *[claim(f"{name}{i}", root_weight=weight) for i in range(400) for weight, name in enumerate("abcd", 1)])
    served = Counter(name[0] for name in order(fair)[:400])
    assert all(abs(served[name] - 40 * weight) <= weight for weight, name in enumerate("abcd", 1)), served


def test_a_weight_changed_at_run_time_holds_for_what_is_seated_from_then_on() -> None:
    """The latest claim of an account tells its weight."""
    fair = pool(1)
    fill(fair, *[claim(f"{name}{i}") for i in range(100) for name in "ab"], claim("a100", root_weight=3))
    served = Counter(name[0] for name in order(fair)[:80])
    assert abs(served["a"] - 60) <= 1


def test_organisations_share_first_and_their_accounts_inside() -> None:
    """An organisation with four accounts gets no more than one with a single account; inside it all get alike."""
    fair = pool(1)
    for i in range(50):
        fill(fair, Claim(f"solo{i}", "small", "solo", 100), *[Claim(f"{name}{i}", "large", name, 100) for name in "pqrs"])
    served = Counter(name.rstrip("0123456789") for name in order(fair)[:80])
    assert served == {"solo": 40, "p": 10, "q": 10, "r": 10, "s": 10}


def test_priority_orders_an_account_s_own_queue_only() -> None:
    """An urgent request passes its own account's others, never another account's."""
    fair = pool(1)
    fill(fair, claim("x0"), claim("a1"), claim("a2", priority=9), claim("b1"), claim("a3", priority=9))
    assert order(fair) == ["x0", "a2", "b1", "a3", "a1"]


def test_equals_take_turns() -> None:
    """With equal service, as when charges are too small to count for their weight, whoever was not picked for longest goes first."""
    fair = pool(1)
    fill(fair, *[claim(f"{name}{i}", estimate=0, root_weight=10**6, account_weight=10**6) for name in "abc" for i in range(3)])
    assert "".join(name[0] for name in order(fair, cost=0)) == "a" + "abc" + "abc" + "bc"


def test_requests_that_cost_nothing_keep_nobody_out() -> None:
    """They count as a nanocredit each, so that a paying caller's turn comes."""
    fair = pool(1)
    fill(fair, *[claim(f"z{i}", estimate=0) for i in range(300)], *[claim(f"a{i}", estimate=100) for i in range(3)])
    served = []
    for _ in range(210):
        served += [name for name, ticket in fair.tickets.items() if ticket.is_seated]
        fair.leave(served[-1], 0 if served[-1][0] == "z" else 100, now_ms=0)
    assert Counter(name[0] for name in served) == {"z": 207, "a": 3}


def test_a_caller_back_from_idle_gets_no_more_than_its_share() -> None:
    """What it left unused while away was used by others and is not owed: from its return on both get one seat in two."""
    fair = pool(1)
    fill(fair, *[claim(f"a{i}") for i in range(100)])
    for i in range(50):
        fair.leave(f"a{i}", 100, now_ms=0)
    fill(fair, *[claim(f"b{i}") for i in range(100)])
    assert Counter(name[0] for name in order(fair)[:40]) == {"a": 20, "b": 20}


def test_an_idling_seat_is_not_a_savings_account() -> None:
    """One request that runs for hours does not keep its caller's old service alive: credit is not saved up by seeming busy."""
    fair = pool(2)
    fill(fair, claim("b0"), *[claim(f"a{i}") for i in range(100)])
    for i in range(50):
        fair.leave(f"a{i}", 100, now_ms=0)
    fill(fair, *[claim(f"b{i}") for i in range(1, 40)])
    seated = ["a50"]
    for _ in range(20):
        seated += fair.leave(seated[-1], 100, now_ms=0).seated
    assert Counter(name[0] for name in seated[1:]) == {"a": 10, "b": 10}


def test_memory_lets_service_be_caught_up_so_far() -> None:
    """With a memory of ten requests' cost, a caller back from idle is ten requests ahead, then even."""
    fair = pool(1, memory=1000)
    fill(fair, *[claim(f"a{i}") for i in range(100)])
    for i in range(50):
        fair.leave(f"a{i}", 100, now_ms=0)
    fill(fair, *[claim(f"b{i}") for i in range(100)])
    served = [name[0] for name in order(fair)]
    assert Counter(served[1:11]) == {"b": 10}
    assert Counter(served[12:32]) == {"a": 10, "b": 10}


def test_an_idle_pool_starts_anew() -> None:
    """Once nobody has a ticket, what anyone got before deprived nobody: they are equal, and nothing is kept of them."""
    fair = pool(4)
    fill(fair, *[claim(f"a{i}", estimate=10_000) for i in range(4)])
    for i in range(4):
        fair.leave(f"a{i}", 10_000, now_ms=0)
    assert fair.standings() == []
    assert not any(shares.accounts for shares in fair.shares.values())
    fill(fair, *[claim(f"x{i}") for i in range(4)], *[claim(f"{name}{i}") for i in range(10, 19) for name in "ab"])
    assert [name[0] for name in order(fair)][4:10] == list("ababab")


# --- charges -----------------------------------------------------------------------------------------------------------------------


def test_the_estimate_is_charged_when_seated_and_corrected_at_the_end() -> None:
    """What a request did cost counts in the end; before that its estimate, or its cost so far where that is more."""
    fair = pool(2)
    fill(fair, claim("a1", estimate=500), claim("a2", estimate=500), claim("a3"))
    charged = fair.shares[False].roots.members["a"]
    assert charged.served == 1000 * SCALE
    fair.charge("a1", 300, now_ms=0)
    assert charged.served == 1000 * SCALE
    fair.charge("a1", 700, now_ms=0)
    assert charged.served == 1200 * SCALE
    fair.leave("a2", 20, now_ms=0)
    assert charged.served == (700 + 20 + 100) * SCALE


def test_leaving_the_queue_owes_nothing() -> None:
    """A client that goes while it waits is not charged, and the next one moves up."""
    fair = pool(1)
    fill(fair, claim("x1"), claim("a1"), claim("a2"), claim("b1"))
    assert fair.leave("a1", now_ms=0).place is Place.GONE
    assert fair.shares[False].roots.members["a"].served == 0
    assert order(fair) == ["x1", "a2", "b1"]


def test_a_full_queue_refuses_only_its_own_caller() -> None:
    """The depth counts an account's own waiting tickets."""
    fair = pool(1, depth=2)
    places = [fair.enter(claim(name), now_ms=0).place for name in ("a0", "a1", "a2", "a3", "b1")]
    assert places == [Place.SEATED, Place.WAITING, Place.WAITING, Place.REFUSED, Place.WAITING]
    assert fair.leave("a0", 1, now_ms=0).seated == ("b1",)
    assert fair.leave("b1", 1, now_ms=0).seated == ("a1",)
    assert fair.enter(claim("a3"), now_ms=0).place is Place.WAITING, "a refusal leaves nothing behind"


# --- repetition, leases, seats -----------------------------------------------------------------------------------------------------


def snapshot(fair: FairPool) -> object:
    return repr((fair.tickets, fair.used, fair.shares))


def test_every_verb_may_be_repeated() -> None:
    """The same call again changes nothing and says the same, however late the repetition arrives."""
    fair = pool(1)
    fill(fair, claim("a1"), claim("b1"))
    fair.charge("a1", 150, now_ms=1)
    before = snapshot(fair)
    assert fair.enter(claim("a1", estimate=9), now_ms=2).place is Place.SEATED
    assert fair.enter(claim("b1", estimate=9), now_ms=2).place is Place.WAITING
    fair.charge("a1", 150, now_ms=2)
    fair.charge("a1", 120, now_ms=2)
    fair.charge("b1", 120, now_ms=2)
    assert snapshot(fair) == before
    fair.leave("a1", 200, now_ms=3)
    before = snapshot(fair)
    assert fair.leave("a1", 999, now_ms=4) == Step({"a1": Place.GONE})
    assert fair.enter(claim("a1"), now_ms=4).place is Place.GONE
    assert fair.resume(claim("a1"), 1, now_ms=4).place is Place.GONE
    assert fair.charge("a1", 999, now_ms=4).place is Place.GONE
    assert snapshot(fair) == before
    assert fair.enter(claim("a1"), now_ms=3 + LEASE_MS).place is not Place.GONE, "a lease later the name is free again"


def test_a_dead_worker_s_tickets_are_dropped_after_the_lease() -> None:
    """A seat comes back charged as last reported, a place in the queue for nothing; who still beats keeps both."""
    fair = pool(1)
    fill(fair, claim("a1", estimate=500), claim("a2"), claim("b1"))
    fair.charge("a1", 40, now_ms=9_000)
    assert fair.heartbeat(["b1"], now_ms=9_999).place is Place.WAITING
    step = fair.heartbeat(["b1"], now_ms=10_000)
    assert (step.dropped, step.seated, step.place) == (("a1", "a2"), ("b1",), Place.SEATED)
    assert fair.leave("a1", 500, now_ms=10_001).place is Place.GONE


def test_a_clock_that_steps_back_keeps_leases_short() -> None:
    """After a step back a new ticket's lease counts from the new time."""
    fair = pool(1)
    fill(fair, claim("a1"), now_ms=50_000)
    fill(fair, claim("b1"), now_ms=20_000)
    assert fair.heartbeat([], now_ms=20_000 + LEASE_MS).dropped == ("b1",)


def test_dropping_is_bounded_by_step() -> None:
    """A thousand dead tickets do not make one request slow; each step drops some, and none goes to waste for it."""
    fair = pool(1)
    fill(fair, *[claim(f"a{i:02}") for i in range(20)])
    dropped = [len(fair.charge("nobody", 0, now_ms=LEASE_MS).dropped) for _ in range(4)]
    assert dropped == [8, 8, 4, 0]
    assert (fair.used, fair.waiting) == (0, 0)


def test_a_heartbeat_drops_all_that_is_overdue() -> None:
    """However many a crashed worker had, at seats or waiting: who still beats gets its seat in the first beat after their leases."""
    fair = pool(3)
    fill(fair, *[claim(f"a{i:03}") for i in range(500)])
    fair.enter(claim("b1"), now_ms=LEASE_MS - 1)
    step = fair.heartbeat(["b1"], now_ms=LEASE_MS)
    assert (len(step.dropped), step.place) == (500, Place.SEATED)
    assert (fair.used, fair.waiting) == (1, 0)


def test_a_request_that_runs_takes_its_seat_back() -> None:
    """After a lost heartbeat, or a lost ledger, running requests are seated again whatever the seats, and charged once."""
    fair = pool(1)
    fill(fair, claim("a1", estimate=500))
    fair.charge("a1", 40, now_ms=0)
    fair.enter(claim("b1"), now_ms=5_000)
    assert fair.heartbeat(["b1", "a1"], now_ms=5_000).places == {"b1": Place.WAITING, "a1": Place.SEATED}
    fair.heartbeat(["b1"], now_ms=14_000)
    assert fair.heartbeat(["b1"], now_ms=15_000).dropped == ("a1",)
    resumed = fair.resume(claim("a1", estimate=500), 60, now_ms=15_001)
    assert resumed.place is Place.SEATED
    assert (fair.used, fair.seats) == (2, 1)
    fill(fair, claim("c1"), now_ms=15_001)
    assert fair.leave("b1", 100, now_ms=15_002).seated == (), "nobody is seated beyond the seats"
    assert fair.shares[False].roots.members["a"].served == 500 * SCALE
    assert fair.leave("a1", 70, now_ms=15_003).seated == ("c1",)
    assert fair.shares[False].roots.members["a"].served == 70 * SCALE


def test_seats_may_change_at_any_time() -> None:
    """Fewer seats throw nobody out, none drains the pool, and more are given away at once."""
    fair = pool(2)
    fill(fair, *[claim(f"a{i}") for i in range(5)])
    assert fair.set_seats(0, now_ms=0).seated == ()
    assert fair.leave("a0", 1, now_ms=0).seated == ()
    assert (fair.used, fair.waiting) == (1, 3)
    assert fair.set_seats(3, now_ms=0).seated == ("a2", "a3")


# --- spare capacity ----------------------------------------------------------------------------------------------------------------


def test_spare_callers_take_only_what_nobody_else_wants() -> None:
    """A caller whose budget is used up is seated when no one with a budget waits, and never before one who does."""
    fair = pool(1)
    fill(fair, claim("a1"), replace(claim("s1"), spare=True), claim("a2"), claim("b1"))
    assert order(fair) == ["a1", "b1", "a2", "s1"]


def test_spare_callers_yield_when_a_budget_waits() -> None:
    """As many are told to stop as callers with a budget wait, those seated last first; they hear it at once, and with each report."""
    fair = pool(3)
    fill(fair, *[replace(claim(f"s{i}"), spare=True) for i in range(4)])
    step = fair.enter(claim("a1"), now_ms=0)
    assert (step.place, step.yielding) == (Place.WAITING, ("s2",))
    assert [fair.charge(f"s{i}", 5, now_ms=0).place for i in range(3)] == [Place.SEATED, Place.SEATED, Place.YIELDING]
    assert fair.enter(claim("a2"), now_ms=0).yielding == ("s1",)
    assert fair.heartbeat(["s1", "s3"], now_ms=0).places == {"s1": Place.YIELDING, "s3": Place.WAITING}
    assert fair.leave("s2", 5, now_ms=0).seated == ("a1",)
    assert fair.leave("s0", 5, now_ms=0).seated == ("a2",), "whichever seat comes first"


def test_spare_use_is_not_held_against_a_caller() -> None:
    """What a caller took while nobody wanted it does not put it behind once it has a budget again."""
    fair = pool(1)
    fill(fair, *[replace(claim(f"s{i}", estimate=10_000), spare=True) for i in range(5)])
    for i in range(5):
        fair.leave(f"s{i}", 10_000, now_ms=0)
    fill(fair, *[claim(f"{name}{i}") for i in range(10, 20) for name in "xsa"])
    assert Counter(name[0] for name in order(fair)[:15]) == {"x": 5, "s": 5, "a": 5}


# --- the bound ---------------------------------------------------------------------------------------------------------------------


class Crowd:
    """Random callers, sizes, weights, cancellations, crashes and seat changes; watches what must always hold."""

    def __init__(self, seed: int, *, seats: int, memory: int) -> None:
        self.chance = random.Random(seed)
        self.seats_max = seats
        self.memory = memory
        self.fair = FairPool(seats, depth=12, lease_ms=50, memory_nanocredits=memory)
        self.weights = {name: self.chance.choice((1, 1, 2, 5)) for name in "RSTabcd"}
        self.now_ms = 0
        self.entered = 0
        self.steps: list[Step] = []
        self.gaps: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.widest = self.widest_interval = 0

    def act(self) -> None:
        fair, chance = self.fair, self.chance
        self.now_ms += chance.choice((0, 0, 1, 3))
        alive = list(fair.tickets)
        seated = [name for name in alive if fair.tickets[name].is_seated]
        match chance.choices(("enter", "leave", "charge", "cancel", "beat", "seats"), (50, 40, 20, 5, 30, 2))[0]:
            case "enter":
                self.entered += 1
                root, account = chance.choice("RST"), chance.choice("abcd"[: chance.choice((1, 4))])
                estimate = chance.randrange(1, 1000)
                ask = Claim(str(self.entered), root, account, estimate, self.weights[root], self.weights[account], chance.randrange(2))
                self.steps.append(fair.enter(replace(ask, spare=chance.random() < 0.1), now_ms=self.now_ms))
            case "leave" if seated:
                self.end(chance.choice(seated), chance.randrange(0, 1500))
            case "charge" if seated:
                self.report(chance.choice(seated), chance.randrange(0, 1500))
            case "cancel" if alive:
                self.end(chance.choice(alive), 0)
            case "beat":
                self.steps.append(fair.heartbeat([name for name in alive if chance.random() < 0.97], now_ms=self.now_ms))
            case "seats":
                self.steps.append(fair.set_seats(chance.randrange(0, self.seats_max + 1), now_ms=self.now_ms))
        self.watch()

    def end(self, name: str, cost: int) -> None:
        self.steps.append(self.fair.leave(name, cost, now_ms=self.now_ms))

    def report(self, name: str, cost: int) -> None:
        self.steps.append(self.fair.charge(name, cost, now_ms=self.now_ms))

    def watch(self) -> None:
        fair = self.fair
        seated = [ticket for ticket in fair.tickets.values() if ticket.is_seated]
        assert fair.used == len(seated)
        assert fair.used >= fair.seats or not fair.waiting, "a seat idles while someone waits"
        assert fair.waiting == len(fair.tickets) - len(seated)
        spare_told = sum(ticket.is_told for ticket in seated)
        assert spare_told >= min(fair.shares[False].waiting, sum(ticket.spare for ticket in seated))
        shares = fair.shares[False]
        groups = {"": shares.roots, **shares.accounts}
        now = {}
        for place, group in groups.items():
            waiting = sorted(name for name, member in group.members.items() if member.waiting)
            for f in waiting:
                for g in waiting:
                    if f < g:
                        gap = group.members[f].served - group.members[g].served
                        low, high = self.gaps.get((place, f, g), (gap, gap))
                        now[place, f, g] = (min(low, gap), max(high, gap))
                        self.widest = max(self.widest, abs(gap))
                        self.widest_interval = max(self.widest_interval, now[place, f, g][1] - now[place, f, g][0])
        self.gaps = now


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), seats=st.integers(1, 8), memory=st.sampled_from((0, 0, 700, 20_000)))
def test_those_who_wait_never_drift_apart_further_than_the_bound(seed: int, seats: int, memory: int) -> None:
    """At both levels, whatever comes, goes, crashes or changes: service differs by at most U while two wait, over an interval by 2U."""
    crowd = Crowd(seed, seats=seats, memory=memory)
    for _ in range(400):
        crowd.act()
    bound = gap_bound(seats=seats, estimate_nanocredits=1000, overrun_nanocredits=1500, refund_nanocredits=1000, memory_nanocredits=memory)
    assert crowd.widest <= bound
    assert crowd.widest_interval <= 2 * bound
    crowd.now_ms += 1000
    while crowd.fair.tickets:
        crowd.fair.heartbeat([], now_ms=crowd.now_ms)
    assert (crowd.fair.used, crowd.fair.waiting) == (0, 0)
    assert not any(shares.queues for shares in crowd.fair.shares.values())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), seats=st.integers(1, 16), exact=st.booleans())
def test_the_bound_is_near_to_what_callers_that_never_rest_see(seed: int, seats: int, exact: bool) -> None:
    """With estimates that are exact, two callers who always wait differ by one request at most, however many seats there are."""
    chance, fair = random.Random(seed), pool(seats)
    costs = {f"{name}{i}": chance.randrange(1, 1000) for name in "abcde" for i in range(200)}
    spread = 0 if exact else 100
    for name, cost in costs.items():
        fair.enter(claim(name, estimate=max(1, cost + chance.randint(-spread, spread))), now_ms=0)
    members = fair.shares[False].roots.members
    bound = gap_bound(seats=seats, estimate_nanocredits=1099, overrun_nanocredits=spread, refund_nanocredits=spread)
    for _ in range(500):
        running = [name for name, ticket in fair.tickets.items() if ticket.is_seated]
        name = chance.choice(running)
        fair.leave(name, costs[name], now_ms=0)
        waiting = [member.served for member in members.values() if member.waiting]
        assert max(waiting) - min(waiting) <= bound


@pytest.mark.parametrize(("bookkeeping", "eager", "never"), [("REBASE_ABOVE", 2 * 1000 * SCALE, 2**50), ("FORGET_PER_JOIN", 100, 0)])
@pytest.mark.parametrize("memory", [0, 3000])
def test_bookkeeping_changes_no_decision(bookkeeping: str, eager: int, never: int, memory: int) -> None:
    """When numbers are made small again, and when the idle are forgotten, is nobody's concern."""

    def run(value: int, seed: int) -> Crowd:
        crowd = Crowd(seed, seats=3, memory=memory)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shares_module, bookkeeping, value)
            for _ in range(600):
                crowd.act()
        return crowd

    for seed in range(4):
        one, other = run(eager, seed), run(never, seed)
        assert one.steps == other.steps
        assert one.fair.standings() == other.fair.standings()
