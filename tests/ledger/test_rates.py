"""How many requests an account may begin a minute and run at a time: exact, at every level, given back by the ends of holds alone.

One suite for the model and for the real ledger on each server at hand (`conftest.bench`).
"""

from __future__ import annotations

import asyncio

import pytest

from proxy.domain import AccountId, Limit, Path, RequestRate
from tests.support.ledger_bench import HOLD_TTL_S, Bench


async def account(bench: Bench, *, per_minute: int | None = None, at_once: int | None = None) -> Path:
    """One that may spend what it likes, but not as often."""
    await bench.plan("rated", per_minute=per_minute, at_once=at_once)
    return await bench.account("ann", plan="rated")


async def running(bench: Bench, *paths: Path) -> list[int]:
    return [(await bench.state(path)).running_requests for path in paths]


async def begun(bench: Bench, path: Path, tries: int) -> int:
    """How many of so many requests may begin now; each is over at once."""
    results = [await asyncio.gather(bench.spend(path, 1), return_exceptions=True) for _ in range(tries)]
    refusals = [result for [result] in results if result is not None]
    assert {getattr(refusal, "limit", refusal) for refusal in refusals} <= {"requests_per_minute"}
    return tries - len(refusals)


# --- at a time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["settle", "void", "expire"])
async def test_each_end_of_a_hold_makes_room_for_one_request(bench: Bench, end: str) -> None:
    """However a hold ends, once; a repeat of its end makes no second place."""
    path = await account(bench, at_once=2)
    await bench.hold(path, "h1", 10)
    bench.clock.pass_s(1)
    await bench.hold(path, "h2", 10)
    refusal = await bench.refused("too_many_requests", bench.hold(path, "h3", 10))
    assert (refusal.status, refusal.account, refusal.limit, refusal.retry_after_s) == (429, "ann", "concurrent_requests", 1.0)
    for _ in range(2):
        match end:
            case "settle":
                await bench.ledger.settle(path, "h1", spent_nanocredits=4)
            case "void":
                await bench.ledger.void(path, "h1")
            case "expire":
                bench.clock.pass_s(0 if await running(bench, path) == [1] else HOLD_TTL_S - 1)
                await bench.ledger.expire_due()
        assert await running(bench, path) == [1]
    await bench.hold(path, "h3", 10)
    await bench.refused("too_many_requests", bench.hold(path, "h4", 10))


async def test_what_a_crashed_worker_ran_stops_counting_when_its_holds_expire(bench: Bench) -> None:
    """Without anyone sweeping: the next request finds them overdue."""
    path = await account(bench, at_once=2)
    await bench.hold(path, "h1", 10)
    await bench.hold(path, "h2", 10)
    bench.clock.pass_s(HOLD_TTL_S)
    await bench.hold(path, "h3", 10)
    assert await running(bench, path) == [1]


async def test_a_late_settle_does_not_count_twice(bench: Bench) -> None:
    """A hold that has expired was counted then, though its settle still charges."""
    path = await account(bench, at_once=2)
    await bench.hold(path, "late", 10)
    bench.clock.pass_s(HOLD_TTL_S)
    await bench.ledger.expire_due()
    await bench.hold(path, "h1", 10)
    await bench.hold(path, "h2", 10)
    assert (await bench.ledger.settle(path, "late", spent_nanocredits=7)).spent_nanocredits == 7
    assert await running(bench, path) == [2]
    await bench.refused("too_many_requests", bench.hold(path, "h3", 10))


async def test_a_repeated_hold_counts_once_and_is_answered_though_no_more_may_run(bench: Bench) -> None:
    """Its first answer was lost: the caller has the place already, and none more."""
    path = await account(bench, per_minute=2, at_once=1)
    first = await bench.hold(path, "h", 10)
    assert await bench.hold(path, "h", 10) == first
    assert await running(bench, path) == [1]
    await bench.ledger.void(path, "h")
    assert await begun(bench, path, 3) == 1


async def test_nothing_but_holds_counts(bench: Bench) -> None:
    """Debits, extensions, corrections and transfers begin no request; a hold of nothing does."""
    await bench.plan("rated", Limit(100, "ever"), per_minute=2, at_once=2)
    path = await bench.account("ann", plan="rated")
    other = await bench.account("bob", plan="rated")
    await bench.hold(path, "h", 0)
    await bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=0, want_nanocredits=10)
    await bench.ledger.debit(path, "h", spent_nanocredits=5)
    await bench.ledger.adjust(path, "a", credits_nanocredits=3)
    await bench.ledger.transfer(path, other, "t", credits_nanocredits=5)
    assert await running(bench, path, other) == [1, 0]
    assert (await bench.hold(path, "h2", 1)).rate == RequestRate(AccountId("ann"), 2, 0, bench.clock.now_ms + 60_000)


async def test_every_level_counts_what_runs_below_it(bench: Bench) -> None:
    """An organisation's limit is shared by its members, each of whom may have less; the first full level from the root is named."""
    await bench.plan("organisation", at_once=3)
    await bench.plan("member", at_once=2)
    org = await bench.account("org", plan="organisation")
    ann, bob = [await bench.account(name, plan="member", parent="org") for name in ("ann", "bob")]
    await bench.hold(ann, "a1", 1)
    await bench.hold(ann, "a2", 1)
    assert (await bench.refused("too_many_requests", bench.hold(ann, "a3", 1))).account == "ann"
    await bench.hold(bob, "b1", 1)
    assert (await bench.refused("too_many_requests", bench.hold(ann, "a3", 1))).account == "org"
    assert (await bench.refused("too_many_requests", bench.hold(bob, "b2", 1))).account == "org"
    assert await running(bench, org, ann, bob) == [3, 2, 1]
    await bench.ledger.settle(ann, "a1", spent_nanocredits=1)
    await bench.hold(bob, "b2", 1)
    assert await running(bench, org, ann, bob) == [3, 1, 2]


async def test_a_limit_that_comes_later_counts_what_runs_already(bench: Bench) -> None:
    """Requests are counted whether they are limited or not, so a changed plan is exact from its first request on."""
    path = await account(bench)
    for n in range(5):
        await bench.hold(path, f"h{n}", 1)
    await bench.plan("rated", at_once=4)
    for n in range(2):
        await bench.refused("too_many_requests", bench.hold(path, "h5", 1))
        await bench.ledger.void(path, f"h{n}")
    await bench.hold(path, "h5", 1)
    await bench.plan("rated")
    await bench.hold(path, "h6", 1)


async def test_limits_of_its_own_leave_an_account_the_rates_of_its_plan(bench: Bench) -> None:
    """They replace limits of credits alone; the account shows what applies."""
    path = await account(bench, per_minute=5, at_once=1)
    await bench.limit(path, Limit(100, "day"))
    await bench.hold(path, "h1", 1)
    await bench.refused("too_many_requests", bench.hold(path, "h2", 1))
    state = await bench.state(path)
    assert (state.requests_per_minute, state.concurrent_requests, state.running_requests) == (5, 1, 1)


async def test_too_many_at_once_is_said_before_what_the_budget_lacks(bench: Bench) -> None:
    """Who comes too often is told so first, whatever is left to spend."""
    await bench.plan("rated", Limit(10, "ever"), at_once=1)
    path = await bench.account("ann", plan="rated")
    await bench.hold(path, "h1", 10)
    await bench.refused("too_many_requests", bench.hold(path, "h2", 10))
    await bench.ledger.settle(path, "h1", spent_nanocredits=10)
    await bench.refused("insufficient_quota", bench.hold(path, "h2", 10))


# --- a minute ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [1, 7, 60])
async def test_a_whole_minutes_requests_may_begin_at_once(bench: Bench, per_minute: int) -> None:
    """And not one more until the rate has made up for one; the refusal says to the millisecond when."""
    path = await account(bench, per_minute=per_minute)
    assert await begun(bench, path, per_minute + 2) == per_minute
    refusal = await bench.refused("too_many_requests", bench.hold(path, "h", 1))
    assert refusal.retry_after_s is not None
    wait_ms = round(refusal.retry_after_s * 1000)
    assert wait_ms == -(-60_000 // per_minute)
    bench.clock.now_ms += wait_ms - 1
    await bench.refused("too_many_requests", bench.hold(path, "h", 1))
    bench.clock.now_ms += 1
    await bench.hold(path, "h", 1)
    await bench.refused("too_many_requests", bench.hold(path, "h2", 1))


async def test_over_time_exactly_the_rate_is_let_through(bench: Bench) -> None:
    """Whoever asks all the time gets the burst, then the rate, however the minute divides: 7 at once, then 7 in each minute."""
    path = await account(bench, per_minute=7)
    assert await begun(bench, path, 8) == 7
    bench.clock.now_ms += 1  # A request's share of the minute is a whole number of microseconds, rounded up.
    for _ in range(4):
        in_this_minute = 0
        for _ in range(60):
            bench.clock.pass_s(1)
            in_this_minute += await begun(bench, path, 1)
        assert in_this_minute == 7


async def test_a_quiet_minute_gives_no_more_than_its_own(bench: Bench) -> None:
    """What nobody used in an hour is not saved up."""
    path = await account(bench, per_minute=3)
    assert await begun(bench, path, 2) == 2
    bench.clock.pass_s(3600)
    assert await begun(bench, path, 9) == 3


@pytest.mark.parametrize("end", ["settle", "void"])
async def test_how_a_request_ends_gives_no_rate_back(bench: Bench, end: str) -> None:
    """Also where it was never sent: what is counted is that it began."""
    path = await account(bench, per_minute=1)
    await bench.hold(path, "h1", 10)
    await (bench.ledger.void(path, "h1") if end == "void" else bench.ledger.settle(path, "h1", spent_nanocredits=0))
    await bench.refused("too_many_requests", bench.hold(path, "h2", 10))


async def test_a_refused_request_uses_nothing_of_the_rate(bench: Bench) -> None:
    """Neither one that the rate refuses, nor one that the budget does."""
    await bench.plan("rated", Limit(10, "ever"), per_minute=2)
    path = await bench.account("ann", plan="rated")
    for n in range(5):
        await bench.refused("request_exceeds_budget", bench.hold(path, f"large{n}", 11))
    assert await begun(bench, path, 5) == 2
    bench.clock.pass_s(30)
    assert await begun(bench, path, 5) == 1


async def test_the_level_that_makes_one_wait_longest_is_named(bench: Bench) -> None:
    """So that whoever waits as told is not told again at the next level; and what is left is that of the level with least."""
    await bench.plan("organisation", per_minute=3)
    await bench.plan("member", per_minute=2)
    org = await bench.account("org", plan="organisation")
    ann, bob = [await bench.account(name, plan="member", parent="org") for name in ("ann", "bob")]
    assert (await bench.hold(ann, "a1", 1)).rate == RequestRate(AccountId("ann"), 2, 1, bench.clock.now_ms + 30_000)
    assert (await bench.hold(ann, "a2", 1)).rate == RequestRate(AccountId("ann"), 2, 0, bench.clock.now_ms + 60_000)
    assert (await bench.hold(bob, "b1", 1)).rate == RequestRate(AccountId("org"), 3, 0, bench.clock.now_ms + 60_000)
    refusal = await bench.refused("too_many_requests", bench.hold(ann, "a3", 1))
    assert (refusal.account, refusal.retry_after_s) == ("ann", 30.0)
    refusal = await bench.refused("too_many_requests", bench.hold(bob, "b2", 1))
    assert (refusal.account, refusal.retry_after_s) == ("org", 20.0)
    bench.clock.pass_s(30)
    await bench.hold(ann, "a3", 1)
    assert await running(bench, org) == [4]


async def test_of_levels_that_wait_alike_the_first_is_named(bench: Bench) -> None:
    """From the root."""
    await bench.plan("rated", per_minute=1)
    await bench.account("org", plan="rated")
    path = await bench.account("ann", plan="rated", parent="org")
    assert (await bench.hold(path, "h", 1)).rate == RequestRate(AccountId("org"), 1, 0, bench.clock.now_ms + 60_000)
    assert (await bench.refused("too_many_requests", bench.hold(path, "h2", 1))).account == "org"


async def test_another_rate_counts_what_has_begun_of_its_own_minute(bench: Bench) -> None:
    """After a change as much of the minute is used up as before it."""
    path = await account(bench, per_minute=10)
    assert await begun(bench, path, 5) == 5
    await bench.plan("rated", per_minute=4)
    assert await begun(bench, path, 5) == 2
    await bench.plan("rated", per_minute=1000)
    bench.clock.pass_s(6)
    assert await begun(bench, path, 200) == 100


async def test_a_clock_that_is_set_back_locks_nobody_out(bench: Bench) -> None:
    """After a failover it may be earlier: nobody waits for the time from before to come again, but for a minute at most."""
    path = await account(bench, per_minute=6)
    assert await begun(bench, path, 9) == 6
    bench.clock.pass_s(-30)
    assert await begun(bench, path, 9) == 0
    bench.clock.pass_s(40)
    assert await begun(bench, path, 9) == 1
    bench.clock.pass_s(-3600)
    assert await begun(bench, path, 9) == 6


# --- several processes -----------------------------------------------------------------------------------------------------------


async def test_processes_share_one_count(bench: Bench, other: Bench) -> None:
    """Racing through two of them lets exactly as many run as may, and each may end what the other began."""
    path = await account(bench, at_once=7)
    await other.directory.refresh()
    holds = [(bench, other)[n % 2].hold(path, f"h{n}", 1) for n in range(40)]
    results = await asyncio.gather(*holds, return_exceptions=True)
    admitted = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
    assert (len(admitted), await running(bench, path)) == (7, [7])
    for n in admitted:
        await (other, bench)[n % 2].ledger.void(path, f"h{n}")
    assert await running(bench, path) == [0]


async def test_processes_share_one_rate(bench: Bench, other: Bench) -> None:
    """The same for how many begin."""
    path = await account(bench, per_minute=11)
    await other.directory.refresh()
    holds = [(bench, other)[n % 2].hold(path, f"h{n}", 1) for n in range(40)]
    results = await asyncio.gather(*holds, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 11
