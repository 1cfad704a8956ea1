"""What every ledger promises, verb by verb: one suite for the model and for the real ledger on each server at hand.

Amounts are small on purpose, so that each figure can be checked by head. After each test the books must balance (`conftest.bench`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable

import pytest

from proxy.domain import AMOUNT_MAX_NANOCREDITS, AccountId, Limit, Path, Settlement
from proxy.errors import Conflict, Refusal
from proxy.ledger import RedisLedger
from proxy.ledger.moves import Moves
from tests.support.ledger_bench import HOLD_TTL_S, Bench, open_bench
from tests.support.ledger_server import LedgerServer

HOUR_S, DAY_S = 3600, 86_400
ServerByName = Callable[[str], LedgerServer]


def day(credits: int, rollover: str = "none", most: int = 0) -> Limit:
    return Limit(credits, "day", "UTC", rollover, most)


def ever(credits: int) -> Limit:
    return Limit(credits, "ever")


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


def outcome(settlement: Settlement) -> tuple[str, int, int]:
    """How a hold ended, apart from what the path has left."""
    return settlement.state, settlement.spent_nanocredits, settlement.overrun_nanocredits


async def tree(bench: Bench, depth: int, credits: int) -> Path:
    """A chain of accounts that may each spend the same; the path of the last one."""
    path: Path = ()
    for n in range(depth):
        path = await bench.account(f"level:{n}", ever(credits), parent=path[-1] if path else None)
    return path


def above(path: Path) -> list[Path]:
    """The paths of every account on a path, root first."""
    return [path[: n + 1] for n in range(len(path))]


async def grant(bench: Bench, path: Path, grant_id: str, credits: int, **settings: int) -> None:
    await bench.ledger.grant(path, grant_id, credits_nanocredits=credits, **settings)


async def remaining(bench: Bench, path: Path) -> dict[str, int]:
    """What each grant of an account has left."""
    return {grant.grant_id: grant.remaining_nanocredits for grant in (await bench.state(path)).grants}


# --- hold ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 4, 8])
async def test_a_hold_reserves_the_same_at_every_level(bench: Bench, depth: int) -> None:
    """Held, spent and returned amounts are the same from the root down to the account itself."""
    path = await tree(bench, depth, 100)
    hold = await bench.hold(path, "h", 60)
    assert (hold.hold_id, hold.path, hold.amount_nanocredits) == ("h", path, 60)
    for level in above(path):
        assert await bench.totals(level) == {"held": 60}
        assert (await bench.window(level)).remaining_nanocredits == 40
    assert await bench.ledger.debit(path, "h", spent_nanocredits=25)
    for level in above(path):
        assert await bench.totals(level) == {"held": 35, "spent": 25}
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=30)) == ("settled", 30, 0)
    for level in above(path):
        assert await bench.totals(level) == {"spent": 30}
        assert (await bench.state(level)).available_nanocredits == 70


async def test_a_ninth_level_is_refused(bench: Bench) -> None:
    """A path has at most eight accounts."""
    path = await tree(bench, 8, 100)
    with pytest.raises(Refusal):
        await bench.account("level:8", ever(1), parent=path[-1])


async def test_a_hold_gets_what_the_scarcest_level_has_but_no_less_than_it_needs(bench: Bench) -> None:
    """Whichever level that is; the others keep the difference."""
    org = await bench.account("org", day(100))
    ann = await bench.account("ann", day(70), parent="org")
    bob = await bench.account("bob", day(500), parent="org")
    assert (await bench.hold(ann, "h1", 1000, least=70)).amount_nanocredits == 70
    assert (await bench.hold(bob, "h2", 1000, least=1)).amount_nanocredits == 30
    assert [(await bench.totals(path))["held"] for path in (org, ann, bob)] == [100, 70, 30]
    assert [(await bench.state(path)).available_nanocredits for path in (org, ann, bob)] == [0, 0, 0]
    assert (await bench.hold(ann, "h3", 1000, least=0)).amount_nanocredits == 0


async def test_siblings_spend_from_the_same_root(bench: Bench) -> None:
    """What one spends the other no longer has, also where its own limit would allow it."""
    await bench.account("org", day(100))
    ann, bob = [await bench.account(name, day(100), parent="org") for name in ("ann", "bob")]
    await bench.spend(ann, 80)
    refusal = await bench.refused("insufficient_quota", bench.hold(bob, "h", 21))
    assert (refusal.account, refusal.needed_nanocredits, refusal.available_nanocredits) == ("org", 21, 20)
    assert (await bench.window(bob)).remaining_nanocredits == 100


async def test_a_request_that_never_fits_is_told_so(bench: Bench) -> None:
    """request_exceeds_budget: more than the limit and all grants together, even if nothing were in use."""
    path = await bench.account("ann", day(100))
    await grant(bench, path, "bonus", 50)
    refusal = await bench.refused("request_exceeds_budget", bench.hold(path, "h", 151))
    assert (refusal.status, refusal.account, refusal.limit) == (402, "ann", "day/UTC")
    assert (refusal.needed_nanocredits, refusal.available_nanocredits) == (151, 150)
    assert refusal.resets_at_ms == at("2026-11-23T00:00+00:00")
    assert refusal.retry_after_s is None
    assert (await bench.hold(path, "h", 150)).amount_nanocredits == 150


async def test_a_request_that_fits_once_others_settle_may_come_again_soon(bench: Bench) -> None:
    """budget_in_flight: what is missing is held, in limits or in grants."""
    path = await bench.account("ann", day(100))
    await grant(bench, path, "bonus", 50)
    await bench.hold(path, "running", 120)
    refusal = await bench.refused("budget_in_flight", bench.hold(path, "h", 31))
    assert (refusal.status, refusal.retry_after_s, refusal.available_nanocredits) == (429, 1.0, 30)
    await bench.refused("budget_in_flight", bench.hold(path, "h", 150))
    await bench.refused("request_exceeds_budget", bench.hold(path, "h", 151))
    await bench.ledger.debit(path, "running", spent_nanocredits=1)
    await bench.refused("insufficient_quota", bench.hold(path, "h", 150))
    await bench.refused("budget_in_flight", bench.hold(path, "h", 149))


async def test_a_refusal_names_the_level_and_the_limit_that_have_least(bench: Bench) -> None:
    """The first from the root among equals."""
    await bench.account("org", day(90), ever(80))
    ann = await bench.account("ann", ever(80), parent="org")
    bob = await bench.account("bob", ever(79), Limit(200, "hour"), parent="org")
    refusal = await bench.refused("request_exceeds_budget", bench.hold(ann, "h", 81))
    assert (refusal.account, refusal.limit, refusal.resets_at_ms) == ("org", "ever", None)
    refusal = await bench.refused("request_exceeds_budget", bench.hold(bob, "h", 81))
    assert (refusal.account, refusal.limit, refusal.available_nanocredits) == ("bob", "ever", 79)


async def test_every_limit_of_an_account_is_used_at_once(bench: Bench) -> None:
    """The one that leaves least decides; eight are as good as one."""
    limits = [Limit(1000 + n, "day", zone) for n, zone in enumerate(("UTC", "Asia/Tokyo", "Europe/Berlin", "Africa/Cairo"))]
    limits += [Limit(100, "hour"), Limit(300, "week"), Limit(300, "month"), ever(150)]
    path = await bench.account("ann", *limits)
    assert (await bench.hold(path, "h1", 120, least=1)).amount_nanocredits == 100
    await bench.ledger.settle(path, "h1", spent_nanocredits=90)
    states = (await bench.state(path)).limits
    assert [state.limit for state in states] == limits
    assert {state.spent_nanocredits for state in states} == {90}
    bench.clock.pass_s(HOUR_S)
    assert (await bench.hold(path, "h2", 1000, least=60)).amount_nanocredits == 60
    assert [state.held_nanocredits for state in (await bench.state(path)).limits] == [60] * 8


async def test_an_account_without_limits_is_free_and_keeps_its_grants(bench: Bench) -> None:
    """Nothing bounds it but the levels above; its grants are not touched."""
    path = await bench.account("free")
    await grant(bench, path, "bonus", 50)
    hold = await bench.hold(path, "h", 1_000_000)
    assert (hold.amount_nanocredits, hold.tightest) == (1_000_000, None)
    await bench.ledger.settle(path, "h", spent_nanocredits=999_999)
    account = await bench.state(path)
    assert (account.available_nanocredits, account.limits, account.totals.spent) == (None, (), 999_999)
    assert await remaining(bench, path) == {"bonus": 50}
    below = await bench.account("ann", day(10), parent="free")
    assert (await bench.hold(below, "h2", 50, least=0)).amount_nanocredits == 10


async def test_a_limit_of_nothing_allows_nothing(bench: Bench) -> None:
    """A limit of 0 is not the same as no limit."""
    path = await bench.account("ann", day(0))
    await bench.refused("request_exceeds_budget", bench.hold(path, "h", 1))
    assert (await bench.hold(path, "empty", 0)).amount_nanocredits == 0
    assert outcome(await bench.ledger.settle(path, "empty", spent_nanocredits=0)) == ("settled", 0, 0)


async def test_tightest_is_the_limit_that_leaves_least_with_the_grants_of_its_account(bench: Bench) -> None:
    """It carries what the response headers need."""
    await bench.account("org", day(100), Limit(90, "7200s"))
    path = await bench.account("ann", ever(95), parent="org")
    await grant(bench, path[:1], "bonus", 4)
    tightest = (await bench.hold(path, "h1", 10)).tightest
    assert tightest is not None
    assert (tightest.account, tightest.limit_key, tightest.credits_nanocredits) == ("org", "7200s", 90)
    assert (tightest.remaining_nanocredits, tightest.window_s) == (84, 7200)
    assert tightest.resets_at_ms == bench.clock.now_ms + 7_200_000
    await grant(bench, path[:1], "more", 2)
    tightest = (await bench.hold(path, "h2", 1)).tightest
    assert tightest is not None
    assert (tightest.account, tightest.limit_key, tightest.remaining_nanocredits) == ("ann", "ever", 84)
    assert (tightest.resets_at_ms, tightest.window_s) == (None, None)


@pytest.mark.parametrize("status", ["suspended", "closed"])
async def test_no_level_may_be_suspended_or_closed(bench: Bench, status: str) -> None:
    """Checked before the budget; holds that run may go on with what they have, and end."""
    await bench.account("org", day(100))
    path = await bench.account("ann", day(100), parent="org")
    await bench.hold(path, "running", 20)
    await bench.status("org", status)
    refusal = await bench.refused("account_suspended", bench.hold(path, "h", 1000))
    assert (refusal.status, refusal.account) == (403, "org")
    extended = await bench.ledger.extend(path, "running", sequence=1, spent_nanocredits=15, want_nanocredits=10)
    assert extended is not None
    assert extended.amount_nanocredits == 20
    assert outcome(await bench.ledger.settle(path, "running", spent_nanocredits=20)) == ("settled", 20, 0)


async def test_a_suspension_may_end_but_a_closed_account_stays_closed(bench: Bench) -> None:
    """Suspended and active again: the budget is as it was."""
    path = await bench.account("ann", day(100))
    await bench.status("ann", "suspended")
    await bench.refused("account_suspended", bench.hold(path, "h", 80))
    await bench.status("ann", "active")
    assert (await bench.hold(path, "h", 80)).amount_nanocredits == 80
    await bench.status("ann", "closed")
    await bench.refused("conflict", bench.status("ann", "active"))


async def test_unknown_accounts_are_refused(bench: Bench) -> None:
    """By every verb that needs one; the ends of holds just find nothing."""
    nobody = (AccountId("nobody"),)
    path = await bench.account("ann", day(100))
    await bench.refused("account_not_found", bench.hold(nobody, "h", 1))
    await bench.refused("account_not_found", bench.ledger.grant(nobody, "g", credits_nanocredits=1))
    await bench.refused("account_not_found", bench.ledger.adjust(nobody, "a", credits_nanocredits=1))
    await bench.refused("account_not_found", bench.ledger.set_limits(nobody, "s", limits=()))
    await bench.refused("account_not_found", bench.ledger.transfer(path, nobody, "t", credits_nanocredits=1))
    await bench.refused("account_not_found", bench.ledger.transfer(nobody, path, "t", credits_nanocredits=1))
    await bench.refused("account_not_found", bench.directory.account(AccountId("nobody")))


async def test_a_hold_asked_for_again_is_the_same_hold(bench: Bench) -> None:
    """While it runs and after its end, also when the budget would no longer allow it; nothing changes."""
    path = await bench.account("ann", day(100))
    first = await bench.hold(path, "h", 80, least=10)
    before = await bench.everything()
    assert (await bench.hold(path, "h", 80, least=10)).amount_nanocredits == first.amount_nanocredits == 80
    assert await bench.everything() == before
    await bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=0, want_nanocredits=15)
    assert (await bench.hold(path, "h", 80, least=10)).amount_nanocredits == 80
    await bench.ledger.settle(path, "h", spent_nanocredits=70)
    await bench.spend(path, 30)
    await bench.status("ann", "suspended")
    before = await bench.everything()
    assert (await bench.hold(path, "h", 80, least=10)).amount_nanocredits == 80
    assert await bench.everything() == before


async def test_a_hold_asked_for_again_with_other_arguments_is_a_conflict(bench: Bench) -> None:
    """Another amount, another least, another account below the same root: nothing changes."""
    org = await bench.account("org", day(100))
    path = await bench.account("ann", day(100), parent="org")
    await bench.hold(path, "h", 80, least=10)
    await bench.refused("conflict", bench.hold(path, "h", 81, least=10))
    await bench.refused("conflict", bench.hold(path, "h", 80, least=11))
    await bench.refused("conflict", bench.hold(org, "h", 80, least=10))


async def test_a_refused_hold_may_be_asked_for_again(bench: Bench) -> None:
    """A refusal is not remembered, so the same id succeeds once there is room."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "running", 60)
    await bench.refused("budget_in_flight", bench.hold(path, "h", 50))
    await bench.ledger.void(path, "running")
    assert (await bench.hold(path, "h", 40)).amount_nanocredits == 40


@pytest.mark.parametrize(("want", "least"), [(-1, 0), (5, -1), (4, 5), (2**53, 0), (2**53, 2**53)])
async def test_amounts_out_of_range_are_refused(bench: Bench, want: int, least: int) -> None:
    """Nothing is rounded, cut or wrapped."""
    path = await bench.account("free")
    await bench.refused("invalid_request", bench.hold(path, "h", want, least=least))


@pytest.mark.parametrize("amount", [-1, 2**53, 2**64])
async def test_no_verb_takes_an_amount_out_of_range(bench: Bench, amount: int) -> None:
    """Whatever the state of the hold or account; the same hold goes on afterwards."""
    path, other = await bench.account("ann", day(100)), await bench.account("bob", day(100))
    await bench.hold(path, "h", 50)
    back = 2**53 if amount < 0 else -amount
    for verb, arguments, figures in (
        ("debit", (path, "h"), {"spent": amount}),
        ("extend", (path, "h"), {"spent": amount, "want": 1}),
        ("extend", (path, "h"), {"spent": 1, "want": amount}),
        ("settle", (path, "h"), {"spent": amount}),
        ("settle", (path, "h"), {"spent": 1, "overrun": amount}),
        ("grant", (path, "g"), {"credits": amount}),
        ("transfer", (path, other, "t"), {"credits": amount}),
        ("adjust", (path, "a"), {"credits": back}),
    ):
        named = {f"{name}_nanocredits": figure for name, figure in figures.items()}
        if verb == "extend":
            named["sequence"] = 1
        await bench.refused("invalid_request", getattr(bench.ledger, verb)(*arguments, **named))
    assert await bench.ledger.debit(path, "h", spent_nanocredits=1)


async def test_many_at_once_get_exactly_what_there_is(bench: Bench) -> None:
    """Forty callers race for a budget of nineteen; no order of arrival admits a twentieth or turns the nineteenth away."""
    path = await tree(bench, 3, 190)
    results = await asyncio.gather(*(bench.hold(path, f"h{n}", 10) for n in range(40)), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert len(refusals) == 21
    assert {refusal.code for refusal in refusals} == {"budget_in_flight"}
    assert [await bench.totals(level) for level in above(path)] == [{"held": 190}] * 3


# --- debit and extend ----------------------------------------------------------------------------------------------------------


async def test_a_debit_is_a_total(bench: Bench) -> None:
    """Repeats and late arrivals change nothing, and a total beyond the hold counts as the hold."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 50)
    for total, spent in [(20, 20), (20, 20), (10, 20), (35, 35), (0, 35), (51, 50), (AMOUNT_MAX_NANOCREDITS, 50)]:
        assert await bench.ledger.debit(path, "h", spent_nanocredits=total)
        window = await bench.window(path)
        assert (window.spent_nanocredits, window.held_nanocredits) == (spent, 50 - spent)


async def test_a_debit_after_the_end_finds_nothing(bench: Bench) -> None:
    """Neither for a hold that ended nor for one that never was."""
    path = await bench.account("ann", day(100))
    for end in ("settle", "void", "expire"):
        await bench.hold(path, end, 10)
    await bench.ledger.settle(path, "settle", spent_nanocredits=5)
    await bench.ledger.void(path, "void")
    bench.clock.pass_s(HOLD_TTL_S)
    assert await bench.ledger.expire_due() == 1
    before = await bench.everything()
    for hold_id in ("settle", "void", "expire", "never"):
        assert not await bench.ledger.debit(path, hold_id, spent_nanocredits=8)
        assert await bench.ledger.extend(path, hold_id, sequence=1, spent_nanocredits=8, want_nanocredits=1) is None
    assert await bench.everything() == before


async def test_an_extension_adds_to_the_hold_what_there_is(bench: Bench) -> None:
    """As much as is wanted, less, or nothing; it debits in the same step and never refuses."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 50)
    for sequence, (spent, want, amount) in enumerate([(40, 30, 80), (70, 0, 80), (80, 30, 100), (95, 30, 100)], start=1):
        hold = await bench.ledger.extend(path, "h", sequence=sequence, spent_nanocredits=spent, want_nanocredits=want)
        assert hold is not None
        assert (hold.amount_nanocredits, hold.path) == (amount, path)
        assert await bench.totals(path) == {"spent": spent, **({"held": amount - spent} if amount > spent else {})}
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=100)) == ("settled", 100, 0)


async def test_an_extension_asked_for_again_takes_nothing(bench: Bench) -> None:
    """The last one and older ones; what was spent meanwhile still counts."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 10)
    await bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=5, want_nanocredits=10)
    for sequence, spent, want in [(1, 5, 10), (1, 12, 10), (2, 12, 10), (1, 13, 10), (2, 11, 10)]:
        hold = await bench.ledger.extend(path, "h", sequence=sequence, spent_nanocredits=spent, want_nanocredits=want)
        assert hold is not None
    assert hold.amount_nanocredits == 30
    assert await bench.totals(path) == {"spent": 13, "held": 17}


async def test_an_extension_asked_for_again_does_not_debit_what_it_has_cut(bench: Bench) -> None:
    """A total beyond the hold is cut to it; the same call again must not debit the rest from what the extension has taken."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 10)
    for sequence in (1, 1, 2, 1, 2):
        await bench.ledger.extend(path, "h", sequence=sequence, spent_nanocredits=10 + 5 * sequence, want_nanocredits=3)
    assert await bench.totals(path) == {"spent": 13, "held": 3}


async def test_an_extension_asked_for_again_with_another_amount_is_a_conflict(bench: Bench) -> None:
    """Nothing changes, the debit that came along included."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 10)
    await bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=5, want_nanocredits=10)
    again = bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=8, want_nanocredits=11)
    await bench.refused("conflict", again)


async def test_an_extension_is_bounded_by_every_level(bench: Bench) -> None:
    """What the root has left is all that can be added, and it is added everywhere."""
    await bench.account("org", day(100))
    ann, bob = [await bench.account(name, day(100), parent="org") for name in ("ann", "bob")]
    await bench.hold(ann, "h", 40)
    await bench.hold(bob, "other", 35)
    hold = await bench.ledger.extend(ann, "h", sequence=1, spent_nanocredits=0, want_nanocredits=40)
    assert hold is not None
    assert hold.amount_nanocredits == 65
    assert (await bench.totals(ann), await bench.totals(ann[:1])) == ({"held": 65}, {"held": 100})


# --- the three ends ------------------------------------------------------------------------------------------------------------


async def test_settling_spends_the_exact_cost_and_returns_the_rest(bench: Bench) -> None:
    """A cost below what was debited counts as what was debited: debits never shrink."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h1", 40)
    assert outcome(await bench.ledger.settle(path, "h1", spent_nanocredits=30)) == ("settled", 30, 0)
    await bench.hold(path, "h2", 40)
    await bench.ledger.debit(path, "h2", spent_nanocredits=20)
    assert outcome(await bench.ledger.settle(path, "h2", spent_nanocredits=5)) == ("settled", 20, 0)
    assert await bench.totals(path) == {"spent": 50}
    assert (await bench.state(path)).available_nanocredits == 50


async def test_a_cost_beyond_the_hold_is_paid_by_what_the_path_has_left(bench: Bench) -> None:
    """By limits first, then grants; what no level can pay is overrun at every level, with what the caller adds to it."""
    org = await bench.account("org", day(100))
    path = await bench.account("ann", day(60), parent="org")
    await grant(bench, path, "bonus", 15)
    await bench.hold(path, "h1", 50)
    assert outcome(await bench.ledger.settle(path, "h1", spent_nanocredits=65)) == ("settled", 65, 0)
    assert await remaining(bench, path) == {"bonus": 10}
    await bench.hold(path, "h2", 4)
    settlement = await bench.ledger.settle(path, "h2", spent_nanocredits=30, overrun_nanocredits=7)
    assert outcome(settlement) == ("settled", 10, 27)
    assert await bench.totals(path) == {"spent": 75, "granted": 15, "overrun": 27}
    assert await bench.totals(org) == {"spent": 75, "overrun": 27}


async def test_overrun_is_booked_and_not_spent(bench: Bench) -> None:
    """What the upstream billed above its own maximum costs the account nothing."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 40)
    settlement = await bench.ledger.settle(path, "h", spent_nanocredits=40, overrun_nanocredits=500, memo="usage above its maximum")
    assert outcome(settlement) == ("settled", 40, 500)
    assert await bench.totals(path) == {"spent": 40, "overrun": 500}
    assert (await bench.state(path)).available_nanocredits == 60


async def test_a_settlement_asked_for_again_is_the_same(bench: Bench) -> None:
    """Same figures: same answer; other figures, or after a void: a conflict. Nothing changes."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 90)
    await bench.hold(path, "voided", 10)
    await bench.ledger.void(path, "voided")
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=95, overrun_nanocredits=3)) == ("settled", 95, 3)
    before = await bench.everything()
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=95, overrun_nanocredits=3)) == ("settled", 95, 3)
    assert await bench.everything() == before
    await bench.refused("conflict", bench.ledger.settle(path, "h", spent_nanocredits=94, overrun_nanocredits=3))
    await bench.refused("conflict", bench.ledger.settle(path, "h", spent_nanocredits=95))
    await bench.refused("conflict", bench.ledger.settle(path, "voided", spent_nanocredits=0))


async def test_ending_a_hold_that_is_not_known_changes_nothing(bench: Bench) -> None:
    """Its record has aged out: whatever had to be done was done."""
    path = await bench.account("ann", day(100))
    before = await bench.everything()
    settlement = await bench.ledger.settle(path, "gone", spent_nanocredits=50, overrun_nanocredits=5)
    assert outcome(settlement) == ("settled", 0, 0)
    assert (await bench.ledger.void(path, "gone")).spent_nanocredits == 0
    assert await bench.everything() == before


async def test_voiding_returns_all_that_was_not_debited(bench: Bench) -> None:
    """Asked for again: the same answer. After another end: that end's answer, and nothing changes."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 40)
    await bench.ledger.debit(path, "h", spent_nanocredits=15)
    await bench.hold(path, "settled", 40)
    await bench.ledger.settle(path, "settled", spent_nanocredits=10)
    assert outcome(await bench.ledger.void(path, "h")) == ("voided", 15, 0)
    assert await bench.totals(path) == {"spent": 25}
    before = await bench.everything()
    assert outcome(await bench.ledger.void(path, "h")) == ("voided", 15, 0)
    assert outcome(await bench.ledger.void(path, "settled")) == ("settled", 10, 0)
    assert await bench.everything() == before


async def test_a_hold_expires_when_nobody_keeps_it_alive(bench: Bench) -> None:
    """What was debited stays spent, the rest comes back; a debit or an extension renews its time."""
    path = await bench.account("ann", day(100))
    for hold_id in ("silent", "debited", "extended"):
        await bench.hold(path, hold_id, 20)
    await bench.ledger.debit(path, "silent", spent_nanocredits=5)
    bench.clock.pass_s(HOLD_TTL_S - 1)
    await bench.ledger.debit(path, "debited", spent_nanocredits=0)
    await bench.ledger.extend(path, "extended", sequence=1, spent_nanocredits=3, want_nanocredits=0)
    assert await bench.ledger.expire_due() == 0
    bench.clock.pass_s(1)
    assert await bench.ledger.expire_due() == 1
    assert await bench.totals(path) == {"spent": 8, "held": 37}
    open_holds = (await bench.books.holds(path[-1], after=None, limit=10)).items
    assert {hold.hold_id for hold in open_holds} == {"debited", "extended"}
    assert {hold.expires_at_ms for hold in open_holds} == {bench.clock.now_ms + (HOLD_TTL_S - 1) * 1000}
    bench.clock.pass_s(HOLD_TTL_S)
    assert await bench.ledger.expire_due() == 2
    assert await bench.ledger.expire_due() == 0
    assert await bench.totals(path) == {"spent": 8}


async def test_a_hold_expires_however_busy_its_tree_is(bench: Bench) -> None:
    """Others come and go all the time; what a crashed worker left open ends when its time is over, not when all is quiet."""
    org = await bench.account("org", day(10_000))
    path = await bench.account("ann", day(10_000), parent="org")
    await bench.hold(path, "abandoned", 20)
    ended = 0
    for _ in range(10):
        bench.clock.pass_s(HOLD_TTL_S / 6)
        await bench.spend(org, 1)
        await bench.spend(path, 1)
        ended += await bench.ledger.expire_due()
    assert (ended, await bench.totals(path)) == (1, {"spent": 10})


async def test_a_hold_expires_however_quiet_its_tree_was(bench: Bench) -> None:
    """Also when a sweep has just found nothing open there."""
    path = await bench.account("ann", day(100))
    await bench.spend(path, 1)
    bench.clock.pass_s(HOLD_TTL_S * 2 / 3)
    await bench.spend(path, 1)
    bench.clock.pass_s(HOLD_TTL_S / 3)
    assert await bench.ledger.expire_due() == 0
    bench.clock.pass_s(1)
    await bench.hold(path, "abandoned", 20)
    bench.clock.pass_s(HOLD_TTL_S)
    assert await bench.ledger.expire_due() == 1
    assert await bench.totals(path) == {"spent": 2}


async def test_an_overdue_hold_is_no_reason_to_refuse(bench: Bench) -> None:
    """A hold that would be refused ends those whose time is over first."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "overdue", 90)
    await bench.ledger.debit(path, "overdue", spent_nanocredits=5)
    bench.clock.pass_s(HOLD_TTL_S)
    assert (await bench.hold(path, "h", 95)).amount_nanocredits == 95
    assert await bench.totals(path) == {"spent": 5, "held": 95}
    assert await bench.ledger.expire_due() == 0


async def test_a_hold_that_expired_is_settled_late_once(bench: Bench) -> None:
    """By the difference to what was recorded; what the path cannot pay any more is overrun."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 60)
    await bench.ledger.debit(path, "h", spent_nanocredits=20)
    bench.clock.pass_s(HOLD_TTL_S)
    await bench.ledger.expire_due()
    assert outcome(await bench.ledger.void(path, "h")) == ("expired", 20, 0)
    await bench.spend(path, 50)
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=58)) == ("settled", 50, 8)
    before = await bench.everything()
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=58)) == ("settled", 50, 8)
    assert await bench.everything() == before
    await bench.refused("conflict", bench.ledger.settle(path, "h", spent_nanocredits=60))
    assert await bench.totals(path) == {"spent": 100, "overrun": 8}


async def test_a_late_settlement_below_what_was_recorded_keeps_it(bench: Bench) -> None:
    """A debit that was recorded is not taken back by the end that comes after the expiry."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 60)
    await bench.ledger.debit(path, "h", spent_nanocredits=20)
    bench.clock.pass_s(HOLD_TTL_S)
    await bench.ledger.expire_due()
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=0)) == ("settled", 20, 0)
    assert await bench.totals(path) == {"spent": 20}


async def test_open_holds_can_be_listed(bench: Bench) -> None:
    """At every level of their path, with what they hold and spent and until when."""
    org = await bench.account("org", day(100))
    path = await bench.account("ann", day(100), parent="org")
    created_at_ms = bench.clock.now_ms
    await bench.hold(path, "h", 40)
    bench.clock.pass_s(10)
    await bench.ledger.debit(path, "h", spent_nanocredits=15)
    for account in (org, path):
        [hold] = (await bench.books.holds(account[-1], after=None, limit=10)).items
        assert (hold.hold_id, hold.path, hold.amount_nanocredits, hold.spent_nanocredits) == ("h", path, 40, 15)
        assert (hold.created_at_ms, hold.expires_at_ms) == (created_at_ms, bench.clock.now_ms + HOLD_TTL_S * 1000)


async def test_many_tiny_debits_add_up(bench: Bench) -> None:
    """One nanocredit at a time, across limits, grants and extensions, loses and invents nothing."""
    path = await bench.account("ann", ever(40))
    await grant(bench, path, "bonus", 400)
    await bench.hold(path, "h", 10)
    for n in range(1, 201):
        if n % 10 == 0:
            await bench.ledger.extend(path, "h", sequence=n // 10, spent_nanocredits=n, want_nanocredits=11)
        else:
            await bench.ledger.debit(path, "h", spent_nanocredits=n)
    assert await bench.totals(path) == {"spent": 200, "held": 30, "granted": 400}
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=201)) == ("settled", 201, 0)
    assert await remaining(bench, path) == {"bonus": 239}


# --- grants --------------------------------------------------------------------------------------------------------------------


async def test_limits_are_spent_before_grants_and_grants_in_their_order(bench: Bench) -> None:
    """By priority, then earliest expiry, then age, then id."""
    path = await bench.account("ann", day(10))
    soon, late = bench.clock.now_ms + 3_600_000, bench.clock.now_ms + 7_200_000
    await grant(bench, path, "z-oldest", 10)
    bench.clock.pass_s(1)
    await grant(bench, path, "b", 10)
    await grant(bench, path, "a", 10)
    await grant(bench, path, "late", 10, expires_at_ms=late)
    await grant(bench, path, "soon", 10, expires_at_ms=soon)
    await grant(bench, path, "first", 10, priority=-1, expires_at_ms=late)
    await grant(bench, path, "last", 10, priority=1, expires_at_ms=soon)
    order = ["first", "soon", "late", "z-oldest", "a", "b", "last"]
    await bench.hold(path, "h", 80)
    for spent in range(5, 81, 5):
        await bench.ledger.debit(path, "h", spent_nanocredits=spent)
        account = await bench.state(path)
        assert account.limits[0].spent_nanocredits == min(10, spent)
        spent_of = {grant.grant_id: grant.spent_nanocredits for grant in account.grants}
        assert [spent_of[grant_id] for grant_id in order] == [min(10, max(0, spent - 10 * n)) for n in range(1, 8)]


async def test_a_hold_across_limit_and_grants_returns_each_part_to_its_source(bench: Bench) -> None:
    """The cost is paid in the order in which it was held, the rest goes back to the grants it came from."""
    path = await bench.account("ann", day(10))
    await grant(bench, path, "g1", 10)
    await grant(bench, path, "g2", 10, priority=1)
    await bench.hold(path, "h", 25)
    held = {grant.grant_id: grant.held_nanocredits for grant in (await bench.state(path)).grants}
    assert held == {"g1": 10, "g2": 5}
    await bench.ledger.settle(path, "h", spent_nanocredits=13)
    account = await bench.state(path)
    assert {g.grant_id: (g.spent_nanocredits, g.held_nanocredits, g.remaining_nanocredits) for g in account.grants} == {
        "g1": (3, 0, 7),
        "g2": (0, 0, 10),
    }
    assert (account.limits[0].remaining_nanocredits, account.available_nanocredits) == (0, 17)


async def test_each_level_spends_its_own_grants(bench: Bench) -> None:
    """The root pays from its limit what the account pays from a grant."""
    await bench.account("org", day(100))
    path = await bench.account("ann", day(10), parent="org")
    await grant(bench, path, "bonus", 30)
    await bench.spend(path, 35)
    assert (await bench.window(path[:1])).spent_nanocredits == 35
    assert ((await bench.window(path)).spent_nanocredits, await remaining(bench, path)) == (10, {"bonus": 5})


async def test_a_grant_counts_only_from_its_start_to_its_expiry(bench: Bench) -> None:
    """The instant of its expiry no longer belongs to it."""
    path = await bench.account("ann", day(0))
    now_ms = bench.clock.now_ms
    await grant(bench, path, "bonus", 10, effective_at_ms=now_ms + 10_000, expires_at_ms=now_ms + 20_000)
    await bench.refused("request_exceeds_budget", bench.hold(path, "h", 1))
    bench.clock.pass_s(10)
    await bench.hold(path, "h", 4)
    bench.clock.pass_s(9.999)
    assert (await bench.state(path)).available_nanocredits == 6
    bench.clock.pass_s(0.001)
    assert (await bench.state(path)).available_nanocredits == 0
    assert await remaining(bench, path) == {"bonus": 0}
    await bench.refused("request_exceeds_budget", bench.hold(path, "h2", 1))


async def test_what_a_hold_returns_to_an_expired_grant_has_expired(bench: Bench) -> None:
    """What it spent is spent; the rest cannot be used any more and is counted as expired."""
    path = await bench.account("ann", day(0))
    await grant(bench, path, "bonus", 10, expires_at_ms=bench.clock.now_ms + 20_000)
    await bench.hold(path, "h", 8)
    bench.clock.pass_s(30)
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=3)) == ("settled", 3, 0)
    assert await bench.totals(path) == {"granted": 10, "spent": 3, "expired": 5}
    await grant(bench, path, "fresh", 10)
    await bench.spend(path, 1)
    assert await bench.totals(path) == {"granted": 20, "spent": 4, "expired": 7}


async def test_a_grant_asked_for_again_is_granted_once(bench: Bench) -> None:
    """Also after it was used; with other arguments it is a conflict."""
    org = await bench.account("org", day(100))
    path = await bench.account("ann", day(0), parent="org")
    expires_at_ms = bench.clock.now_ms + 50_000

    async def again(path: Path = path, credits: int = 10, priority: int = 2) -> object:
        granted = await bench.ledger.grant(
            path, "bonus", credits_nanocredits=credits, priority=priority, expires_at_ms=expires_at_ms, reason="welcome"
        )
        return dataclasses.replace(granted, remaining_nanocredits=0, held_nanocredits=0, spent_nanocredits=0)

    first = await again()
    await bench.spend(path, 4)
    bench.clock.pass_s(60)
    before = await bench.everything()
    assert await again() == first
    assert await bench.everything() == before
    await bench.refused("conflict", again(credits=11))
    await bench.refused("conflict", again(priority=0))
    await bench.refused("conflict", again(path=org))
    assert (await bench.totals(path))["granted"] == 10


async def test_a_grant_shows_what_it_was_given(bench: Bench) -> None:
    """Its start is now where none was named."""
    path = await bench.account("ann", day(5))
    now_ms = bench.clock.now_ms
    granted = await bench.ledger.grant(path, "bonus", credits_nanocredits=10, priority=3, reason="welcome")
    assert (granted.grant_id, granted.credits_nanocredits, granted.remaining_nanocredits) == ("bonus", 10, 10)
    assert (granted.priority, granted.reason, granted.expires_at_ms) == (3, "welcome", None)
    assert (granted.effective_at_ms, granted.created_at_ms) == (now_ms, now_ms)
    assert (await bench.state(path)).grants == (granted,)
    assert (await bench.state(path)).available_nanocredits == 15


async def test_a_grant_must_be_worth_something(bench: Bench) -> None:
    """Nothing, less than nothing, too much, already expired, or expired before it starts: refused."""
    path = await bench.account("ann", day(5))
    for credits in (0, -1, 2**53):
        await bench.refused("invalid_request", grant(bench, path, "g", credits))
    for expires_at_ms in (bench.clock.now_ms, bench.clock.now_ms - 1):
        await bench.refused("invalid_request", grant(bench, path, "g", 1, expires_at_ms=expires_at_ms))
    never = {"effective_at_ms": bench.clock.now_ms + 1000, "expires_at_ms": bench.clock.now_ms + 1000}
    await bench.refused("invalid_request", grant(bench, path, "g", 1, **never))


async def test_revoking_takes_what_is_left_and_leaves_what_is_held(bench: Bench) -> None:
    """The hold may spend its part; what it returns is revoked too."""
    path = await bench.account("ann", day(0))
    await grant(bench, path, "bonus", 100)
    await bench.spend(path, 10)
    await bench.hold(path, "h", 40)
    revoked = await bench.ledger.revoke(path, "bonus", operation_id="r1", reason="mistake")
    assert (revoked.remaining_nanocredits, revoked.held_nanocredits, revoked.spent_nanocredits) == (0, 40, 10)
    assert await bench.totals(path) == {"granted": 100, "spent": 10, "held": 40, "revoked": 50}
    await bench.refused("request_exceeds_budget", bench.hold(path, "h2", 1))
    await bench.ledger.settle(path, "h", spent_nanocredits=25)
    assert await bench.totals(path) == {"granted": 100, "spent": 35, "revoked": 65}
    before = await bench.everything()
    again = await bench.ledger.revoke(path, "bonus", operation_id="r1", reason="mistake")
    other = await bench.ledger.revoke(path, "bonus", operation_id="r2", reason="again")
    assert again.remaining_nanocredits == other.remaining_nanocredits == 0
    assert await bench.everything() == before


async def test_revoking_what_is_not_there_is_refused(bench: Bench) -> None:
    """And an operation id that revoked another grant is a conflict."""
    path = await bench.account("ann", day(0))
    await grant(bench, path, "g1", 10)
    await grant(bench, path, "g2", 10)
    await bench.refused("grant_not_found", bench.ledger.revoke(path, "g3", operation_id="r"))
    await bench.ledger.revoke(path, "g1", operation_id="r")
    await bench.refused("conflict", bench.ledger.revoke(path, "g2", operation_id="r"))
    assert await remaining(bench, path) == {"g1": 0, "g2": 10}


async def test_revoking_an_expired_grant_counts_as_revoked(bench: Bench) -> None:
    """What it had left leaves once, by the first door."""
    path = await bench.account("ann", day(0))
    await grant(bench, path, "bonus", 10, expires_at_ms=bench.clock.now_ms + 1000)
    bench.clock.pass_s(2)
    await bench.ledger.revoke(path, "bonus", operation_id="r")
    assert await bench.totals(path) == {"granted": 10, "revoked": 10}


@pytest.mark.timeout(120)
async def test_an_account_has_room_for_256_grants_that_are_not_used_up(bench: Bench) -> None:
    """A hold may draw on all of them; used-up ones make room for new ones, and only those."""
    path = await bench.account("ann", day(0))
    for n in range(256):
        await grant(bench, path, f"g{n:03}", 2, priority=n)
    await bench.refused("conflict", grant(bench, path, "one-more", 2))
    await bench.hold(path, "h", 512)
    await bench.refused("conflict", grant(bench, path, "one-more", 2))
    await bench.ledger.settle(path, "h", spent_nanocredits=3)
    assert (await bench.state(path)).available_nanocredits == 509
    await grant(bench, path, "one-more", 2)
    await bench.refused("conflict", grant(bench, path, "two-more", 2))
    left = await remaining(bench, path)
    assert ("g000" in left, left["g001"], left["g002"], left["one-more"], len(left)) == (False, 1, 2, 2, 256)
    before = await bench.everything()
    await grant(bench, path, "g000", 2, priority=0)
    assert await bench.everything() == before
    assert (await bench.totals(path))["granted"] == 514


async def test_grants_that_expired_unused_make_room_too(bench: Bench) -> None:
    """Nobody spent them, so they still look unfinished; they must not block the account for ever."""
    path = await bench.account("ann", day(100))
    for n in range(256):
        await grant(bench, path, f"g{n}", 1, expires_at_ms=bench.clock.now_ms + 1000)
    bench.clock.pass_s(2)
    await grant(bench, path, "welcome-back", 5)
    assert (await bench.state(path)).available_nanocredits == 105
    assert await bench.totals(path) == {"granted": 261, "expired": 256}


# --- windows -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "days", "carried", "expired"),
    [
        (day(100), 1, 0, 70),
        (day(100), 4, 0, 70),
        (day(100, "full"), 1, 70, 0),
        (day(100, "full"), 4, 370, 0),
        (day(100, "capped", 50), 1, 50, 20),
        (day(100, "capped", 50), 4, 50, 20),
        (day(100, "capped", 300), 1, 70, 0),
        (day(100, "capped", 300), 3, 270, 0),
        (day(100, "capped", 300), 9, 300, 0),
        (day(100, "capped", 0), 2, 0, 70),
    ],
)
async def test_what_a_window_leaves_rolls_over_by_the_limits_rule(
    bench: Bench, limit: Limit, days: int, carried: int, expired: int
) -> None:
    """Windows that were skipped add their credits; the part of the last one that is not carried expires at the next use."""
    path = await bench.account("ann", limit)
    await bench.spend(path, 30)
    bench.clock.pass_s(days * DAY_S)
    window = await bench.window(path)
    assert (window.spent_nanocredits, window.held_nanocredits, window.carried_nanocredits) == (0, 0, carried)
    assert (await bench.state(path)).available_nanocredits == 100 + carried
    assert await bench.totals(path) == {"spent": 30}
    await bench.spend(path, 100 + carried)
    window = await bench.window(path)
    assert (window.spent_nanocredits, window.remaining_nanocredits, window.carried_nanocredits) == (100 + carried, 0, carried)
    assert await bench.totals(path) == {"spent": 130 + carried, **({"expired": expired} if expired else {})}


async def test_carried_credits_roll_on(bench: Bench) -> None:
    """From window to window, as long as the rule allows."""
    path = await bench.account("ann", day(100, "full"), Limit(1000, "week", "UTC", "full"))
    for carried in (0, 90, 180, 270):
        account = await bench.state(path)
        assert account.limits[0].carried_nanocredits == carried
        await bench.spend(path, 10)
        bench.clock.pass_s(DAY_S)


async def test_a_turn_does_not_touch_the_other_limits(bench: Bench) -> None:
    """Each limit has windows of its own: the day is new, the week goes on."""
    path = await bench.account("ann", day(50), Limit(60, "week"))
    bench.clock.now_ms = at("2026-11-23T12:00+00:00")
    await bench.spend(path, 45)
    bench.clock.pass_s(DAY_S)
    assert [limit.remaining_nanocredits for limit in (await bench.state(path)).limits] == [50, 15]
    refusal = await bench.refused("insufficient_quota", bench.hold(path, "h", 16))
    assert (refusal.limit, refusal.resets_at_ms) == ("week/UTC", at("2026-11-30T00:00+00:00"))
    assert (await bench.hold(path, "h", 50, least=15)).amount_nanocredits == 15


@pytest.mark.parametrize(
    ("limit", "at_the_turn", "in_the_end"),
    [(day(100), (0, 20), (0, 50)), (day(100, "full"), (20, 0), (50, 0)), (day(100, "capped", 35), (20, 0), (35, 15))],
)
async def test_a_hold_that_is_open_across_a_turn_ends_in_its_own_window(
    bench: Bench, limit: Limit, at_the_turn: tuple[int, int], in_the_end: tuple[int, int]
) -> None:
    """Its cost does not burden the new window; what it returns is carried or expires as if it had been left at the turn."""
    path = await bench.account("ann", limit)
    await bench.hold(path, "h", 80)
    bench.clock.pass_s(DAY_S)
    await bench.hold(path, "turns", 0)
    await bench.ledger.debit(path, "h", spent_nanocredits=40)
    totals = (await bench.state(path)).totals
    assert ((await bench.window(path)).carried_nanocredits, totals.expired) == at_the_turn
    assert (totals.spent, totals.held) == (40, 40)
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=50)) == ("settled", 50, 0)
    window, totals = await bench.window(path), (await bench.state(path)).totals
    assert (window.spent_nanocredits, window.held_nanocredits) == (0, 0)
    assert (window.carried_nanocredits, totals.expired) == in_the_end
    assert (totals.spent, totals.held) == (50, 0)


@pytest.mark.parametrize(("limit", "available"), [(day(100), 100), (day(100, "full"), 340), (day(100, "capped", 50), 150)])
async def test_holds_of_several_old_windows_end_each_in_its_own(bench: Bench, limit: Limit, available: int) -> None:
    """However many windows have passed since, and in whatever order they end."""
    path = await bench.account("ann", limit)
    for n in range(3):
        await bench.hold(path, f"h{n}", 60)
        bench.clock.pass_s(DAY_S)
        for earlier in range(n + 1):
            await bench.ledger.debit(path, f"h{earlier}", spent_nanocredits=5 * (n + 1))
    await bench.hold(path, "turns", 0)
    for n in (1, 0, 2):
        await bench.ledger.settle(path, f"h{n}", spent_nanocredits=20)
    account = await bench.state(path)
    assert (account.available_nanocredits, account.totals.spent, account.totals.held) == (available, 60, 0)


async def test_an_extension_after_a_turn_is_paid_by_the_new_window(bench: Bench) -> None:
    """One hold may have parts of two windows; each is spent and returned where it was taken."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 60)
    bench.clock.pass_s(DAY_S)
    hold = await bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=50, want_nanocredits=30)
    assert hold is not None
    assert hold.amount_nanocredits == 90
    assert (await bench.window(path)).held_nanocredits == 30
    await bench.ledger.settle(path, "h", spent_nanocredits=75)
    window = await bench.window(path)
    assert (window.spent_nanocredits, window.held_nanocredits) == (15, 0)
    assert await bench.totals(path) == {"spent": 75, "expired": 40}


async def test_a_late_settlement_after_a_turn_is_paid_by_the_window_it_finds(bench: Bench) -> None:
    """What the hold had debited stays in its own window; the difference is taken from the present one."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 60)
    await bench.ledger.debit(path, "h", spent_nanocredits=20)
    bench.clock.pass_s(DAY_S)
    await bench.ledger.expire_due()
    assert outcome(await bench.ledger.settle(path, "h", spent_nanocredits=50)) == ("settled", 50, 0)
    assert (await bench.window(path)).spent_nanocredits == 30
    assert (await bench.totals(path))["spent"] == 50


async def test_a_hold_that_expires_before_its_window_is_turned_returns_to_it(bench: Bench) -> None:
    """Nothing has used the account since, so the stored window takes it back and the turn carries it."""
    path = await bench.account("ann", day(100, "full"))
    await bench.hold(path, "h", 60)
    bench.clock.pass_s(DAY_S)
    await bench.ledger.expire_due()
    assert (await bench.window(path)).carried_nanocredits == 100
    assert (await bench.hold(path, "h2", 200)).amount_nanocredits == 200


async def test_only_taking_turns_a_window(bench: Bench) -> None:
    """The ends of holds, grants and refusals leave the books of the last window as they are."""
    path = await bench.account("ann", day(100))
    await bench.hold(path, "h", 60)
    await bench.hold(path, "h2", 10)
    bench.clock.pass_s(DAY_S)
    await bench.ledger.debit(path, "h", spent_nanocredits=10)
    await bench.ledger.extend(path, "h", sequence=1, spent_nanocredits=20, want_nanocredits=0)
    await bench.ledger.settle(path, "h", spent_nanocredits=30)
    await bench.ledger.void(path, "h2")
    await grant(bench, path, "bonus", 5)
    await bench.ledger.revoke(path, "bonus", operation_id="r")
    await bench.refused("request_exceeds_budget", bench.hold(path, "h3", 101))
    assert await bench.totals(path) == {"spent": 30, "granted": 5, "revoked": 5}
    await bench.hold(path, "h4", 1)
    assert await bench.totals(path) == {"spent": 30, "held": 1, "granted": 5, "revoked": 5, "expired": 70}


async def test_windows_of_seconds_start_at_their_first_use(bench: Bench) -> None:
    """Not at the clock's hours: after a pause the next use starts the next one, and nothing is carried for the pause."""
    path = await bench.account("ann", Limit(100, "100s", rollover="full"))
    bench.clock.pass_s(7)
    first_ms = bench.clock.now_ms
    await bench.spend(path, 80)
    bench.clock.pass_s(99.999)
    refusal = await bench.refused("insufficient_quota", bench.hold(path, "h", 21))
    assert (refusal.limit, refusal.resets_at_ms) == ("100s", first_ms + 100_000)
    bench.clock.pass_s(0.001)
    await bench.hold(path, "h", 21)
    window = await bench.window(path)
    assert (window.starts_at_ms, window.resets_at_ms) == (first_ms + 100_000, first_ms + 200_000)
    await bench.ledger.settle(path, "h", spent_nanocredits=21)
    bench.clock.pass_s(100_000)
    window = await bench.window(path)
    assert (window.starts_at_ms, window.resets_at_ms) == (bench.clock.now_ms, bench.clock.now_ms + 100_000)
    assert (window.carried_nanocredits, window.remaining_nanocredits) == (20 + 79, 199)


@pytest.mark.parametrize(("rollover", "most", "available"), [("none", 0, 100), ("full", 0, 150), ("capped", 30, 130)])
async def test_windows_of_seconds_carry_and_take_back_like_others(bench: Bench, rollover: str, most: int, available: int) -> None:
    """A hold that is open across their end returns to the window before, by the limit's rule."""
    path = await bench.account("ann", Limit(100, "10s", "UTC", rollover, most))
    await bench.hold(path, "h", 90)
    bench.clock.pass_s(10)
    await bench.hold(path, "turns", 0)
    await bench.ledger.settle(path, "h", spent_nanocredits=50)
    assert (await bench.state(path)).available_nanocredits == available


async def test_ever_never_turns(bench: Bench) -> None:
    """What was spent of it years ago is still spent."""
    path = await bench.account("ann", ever(100))
    await bench.spend(path, 60)
    bench.clock.pass_s(3650 * DAY_S)
    assert ((await bench.window(path)).resets_at_ms, (await bench.state(path)).available_nanocredits) == (None, 40)
    refusal = await bench.refused("insufficient_quota", bench.hold(path, "h", 41))
    assert (refusal.limit, refusal.resets_at_ms) == ("ever", None)


@pytest.mark.parametrize(
    ("window", "zone", "now", "starts", "resets"),
    [
        ("hour", "UTC", "2026-11-22T12:30+00:00", "2026-11-22T12:00+00:00", "2026-11-22T13:00+00:00"),
        ("hour", "Asia/Kathmandu", "2026-11-22T12:30+00:00", "2026-11-22T12:15+00:00", "2026-11-22T13:15+00:00"),
        ("day", "Europe/Berlin", "2027-03-28T12:00+00:00", "2027-03-28T00:00+01:00", "2027-03-29T00:00+02:00"),
        ("day", "Africa/Cairo", "2027-04-30T12:00+00:00", "2027-04-30T01:00+03:00", "2027-05-01T00:00+03:00"),
        ("week", "America/New_York", "2026-11-22T12:00+00:00", "2026-11-16T00:00-05:00", "2026-11-23T00:00-05:00"),
        ("month", "Pacific/Auckland", "2026-11-30T12:00+00:00", "2026-12-01T00:00+13:00", "2027-01-01T00:00+13:00"),
    ],
)
async def test_calendar_windows_follow_the_clocks_of_their_zone(
    bench: Bench, window: str, zone: str, now: str, starts: str, resets: str
) -> None:
    """The last millisecond before the turn still belongs to the old window, the turn itself to the new one."""
    bench.clock.now_ms = at(now)
    path = await bench.account("ann", Limit(100, window, zone))
    await bench.spend(path, 100)
    state = await bench.window(path)
    assert (state.starts_at_ms, state.resets_at_ms) == (at(starts), at(resets))
    bench.clock.now_ms = at(resets) - 1
    refusal = await bench.refused("insufficient_quota", bench.hold(path, "h", 1))
    assert refusal.resets_at_ms == at(resets)
    bench.clock.now_ms = at(resets)
    assert (await bench.hold(path, "h", 100)).amount_nanocredits == 100


# --- changes of limits ---------------------------------------------------------------------------------------------------------


async def test_a_change_of_credits_applies_to_the_present_window(bench: Bench) -> None:
    """What was spent stays spent; below it nothing is left, and nothing is owed."""
    path = await bench.account("ann", day(100))
    await bench.spend(path, 60)
    await bench.hold(path, "h", 20)
    await bench.limit(path, day(50))
    window = await bench.window(path)
    assert (window.spent_nanocredits, window.held_nanocredits, window.remaining_nanocredits) == (60, 20, 0)
    await bench.refused("request_exceeds_budget", bench.hold(path, "h2", 51))
    await bench.refused("budget_in_flight", bench.hold(path, "h2", 20))
    await bench.ledger.settle(path, "h", spent_nanocredits=10)
    assert (await bench.state(path)).available_nanocredits == 0
    await bench.limit(path, day(200))
    assert (await bench.state(path)).available_nanocredits == 130


async def test_a_window_that_was_lowered_below_its_use_owes_nothing_to_the_next(bench: Bench) -> None:
    """It leaves nothing, and the next one starts with all its credits."""
    path = await bench.account("ann", day(100, "full"))
    await bench.spend(path, 60)
    await bench.limit(path, day(50, "full"))
    await bench.hold(path, "touches", 0)
    bench.clock.pass_s(DAY_S)
    assert ((await bench.window(path)).carried_nanocredits, (await bench.state(path)).available_nanocredits) == (0, 50)
    assert (await bench.hold(path, "h", 50)).amount_nanocredits == 50


async def test_a_change_of_credits_does_not_reach_back(bench: Bench) -> None:
    """What a past window left is counted with the credits that it had; windows skipped since count with those of now."""
    path = await bench.account("ann", day(100, "full"))
    await bench.spend(path, 30)
    bench.clock.pass_s(3 * DAY_S)
    await bench.limit(path, day(500, "full"))
    assert (await bench.window(path)).carried_nanocredits == 70 + 2 * 500
    await bench.spend(path, 1)
    assert (await bench.window(path)).carried_nanocredits == 70 + 2 * 500
    assert (await bench.state(path)).available_nanocredits == 70 + 3 * 500 - 1


async def test_what_returns_to_a_past_window_goes_by_the_rule_that_window_had(bench: Bench) -> None:
    """Also where the limit has another rule since, or is gone for a while."""
    path = await bench.account("ann", day(100, "full"))
    await bench.hold(path, "h1", 60)
    await bench.hold(path, "h2", 30)
    bench.clock.pass_s(DAY_S)
    await bench.limit(path, day(100))
    await bench.hold(path, "turns", 0)
    assert (await bench.totals(path))["expired"] == 10
    await bench.ledger.void(path, "h1")
    assert (await bench.window(path)).carried_nanocredits == 60
    await bench.limit(path)
    await bench.ledger.void(path, "h2")
    await bench.limit(path, day(100))
    assert (await bench.window(path)).carried_nanocredits == 90


async def test_another_window_is_another_limit(bench: Bench) -> None:
    """It starts afresh; the old one keeps its books, ends its holds, and goes on where it stopped if it comes back."""
    path = await bench.account("ann", day(100))
    await bench.spend(path, 60)
    await bench.hold(path, "h", 30)
    await bench.limit(path, Limit(100, "day", "Europe/Berlin"))
    assert (await bench.state(path)).available_nanocredits == 100
    await bench.ledger.settle(path, "h", spent_nanocredits=15)
    assert (await bench.window(path)).spent_nanocredits == 0
    assert (await bench.totals(path)) == {"spent": 75}
    await bench.limit(path, day(100), ever(1000))
    assert [(state.spent_nanocredits, state.held_nanocredits) for state in (await bench.state(path)).limits] == [(75, 0), (0, 0)]


async def test_a_plan_changes_all_its_accounts(bench: Bench) -> None:
    """Unless they have limits of their own; going to another plan or back to it applies at once."""
    await bench.plan("small", day(100))
    await bench.plan("large", day(1000), ever(5000))
    ann, bob = [await bench.account(name, plan="small") for name in ("ann", "bob")]
    await bench.spend(ann, 60)
    await bench.limit(bob, day(7))
    await bench.plan("small", day(200))
    assert [(await bench.state(path)).available_nanocredits for path in (ann, bob)] == [140, 7]
    await bench.ledger.set_limits(bob, "back", limits=None)
    assert ((await bench.state(bob)).own_limits, (await bench.state(bob)).available_nanocredits) == (None, 200)
    await bench.directory.update_account(AccountId("ann"), plan="large", operation_id="up")
    assert [limit.remaining_nanocredits for limit in (await bench.state(ann)).limits] == [940, 5000]
    assert (await bench.hold(ann, "h", 940)).amount_nanocredits == 940


async def test_limits_set_again_are_set_once(bench: Bench) -> None:
    """The repeat of an old change does not undo a newer one; other limits under the same id are a conflict."""
    path = await bench.account("ann", day(100))
    version = (await bench.state(path)).version
    await bench.ledger.set_limits(path, "s1", limits=(day(50),))
    await bench.ledger.set_limits(path, "s2", limits=())
    assert (await bench.state(path)).version == version + 2
    before = await bench.everything()
    await bench.ledger.set_limits(path, "s1", limits=(day(50),))
    assert await bench.everything() == before
    await bench.refused("conflict", bench.ledger.set_limits(path, "s1", limits=(day(51),)))
    await bench.refused("conflict", bench.ledger.set_limits(path, "s1", limits=None))
    assert (await bench.state(path)).own_limits == ()


# --- adjust --------------------------------------------------------------------------------------------------------------------


async def test_a_negative_adjustment_gives_back_what_was_spent(bench: Bench) -> None:
    """At every level, into the present window, even if it was spent in an earlier one."""
    org = await bench.account("org", ever(100))
    path = await bench.account("ann", day(100), Limit(500, "week"), parent="org")
    await bench.spend(path, 80)
    adjusted = await bench.ledger.adjust(path, "a1", credits_nanocredits=-30, reason="the upstream was wrong")
    assert (adjusted.hold_id, *outcome(adjusted)) == ("a1", "settled", -30, 0)
    assert await bench.totals(path) == await bench.totals(org) == {"spent": 50, "adjusted": -30}
    assert [state.spent_nanocredits for state in (await bench.state(path)).limits] == [50, 50]
    bench.clock.pass_s(DAY_S)
    await bench.ledger.adjust(path, "a2", credits_nanocredits=-20)
    assert [state.spent_nanocredits for state in (await bench.state(path)).limits] == [-20, -20]
    assert (await bench.state(path)).available_nanocredits == 70
    assert (await bench.totals(path))["spent"] == 30


async def test_no_more_comes_back_than_was_spent(bench: Bench) -> None:
    """At any level: adjustment_exceeds_spent."""
    await bench.account("org", ever(100))
    ann, bob = [await bench.account(name, ever(100), parent="org") for name in ("ann", "bob")]
    await bench.spend(ann, 10)
    await bench.spend(bob, 40)
    refusal = await bench.refused("adjustment_exceeds_spent", bench.ledger.adjust(ann, "a", credits_nanocredits=-11))
    assert refusal.status == 422
    assert outcome(await bench.ledger.adjust(ann, "a", credits_nanocredits=-10)) == ("settled", -10, 0)
    assert [await bench.totals(path) for path in (ann, ann[:1])] == [{"adjusted": -10}, {"spent": 40, "adjusted": -10}]


async def test_a_positive_adjustment_is_a_charge(bench: Bench) -> None:
    """Paid from limits, then grants; what the path cannot pay is overrun."""
    org = await bench.account("org", ever(1000))
    path = await bench.account("ann", day(50), parent="org")
    await grant(bench, path, "bonus", 20)
    assert outcome(await bench.ledger.adjust(path, "a1", credits_nanocredits=60)) == ("settled", 60, 0)
    assert await remaining(bench, path) == {"bonus": 10}
    assert outcome(await bench.ledger.adjust(path, "a2", credits_nanocredits=25)) == ("settled", 10, 15)
    assert await bench.totals(path) == {"spent": 70, "adjusted": 70, "overrun": 15, "granted": 20}
    assert await bench.totals(org) == {"spent": 70, "adjusted": 70, "overrun": 15}
    before = await bench.everything()
    assert outcome(await bench.ledger.adjust(path, "a2", credits_nanocredits=25)) == ("settled", 10, 15)
    assert await bench.everything() == before
    await bench.refused("conflict", bench.ledger.adjust(path, "a2", credits_nanocredits=26))
    await bench.refused("conflict", bench.ledger.adjust(org, "a2", credits_nanocredits=25))
    await bench.refused("invalid_request", bench.ledger.adjust(path, "a3", credits_nanocredits=0))


async def test_adjusting_an_account_without_limits_moves_its_totals(bench: Bench) -> None:
    """There is no window to correct."""
    path = await bench.account("free")
    await bench.spend(path, 50)
    await bench.ledger.adjust(path, "a1", credits_nanocredits=-20)
    await bench.ledger.adjust(path, "a2", credits_nanocredits=5)
    assert await bench.totals(path) == {"spent": 35, "adjusted": -15}


# --- transfer ------------------------------------------------------------------------------------------------------------------


async def gifts(bench: Bench, path: Path) -> list[tuple[int, int | None, str]]:
    """The grants of an account: credits, expiry, reason."""
    grants = (await bench.state(path)).grants
    return sorted(((g.remaining_nanocredits, g.expires_at_ms, g.reason) for g in grants), key=str)


async def test_a_transfer_takes_from_the_levels_it_leaves_and_expires_with_their_windows(bench: Bench) -> None:
    """The giver's and its organisation's; the day's credits stay the day's, and no limit grows back."""
    org = await bench.account("org", day(1000))
    ann = await bench.account("ann", day(100), Limit(300, "month"), parent="org")
    bob = await bench.account("bob", ever(0))
    await bench.ledger.transfer(ann, bob, "t", credits_nanocredits=40, reason="present")
    tonight = at("2026-11-23T00:00+00:00")
    assert await gifts(bench, bob) == [(40, tonight, "present")]
    assert await bench.totals(ann) == {"given": 40}
    assert (await bench.totals(org), (await bench.state(org)).available_nanocredits) == ({"given": 40}, 960)
    assert await bench.totals(bob) == {"granted": 40}
    assert [state.remaining_nanocredits for state in (await bench.state(ann)).limits] == [60, 260]
    await bench.spend(bob, 40)
    bench.clock.now_ms = tonight
    assert (await bench.state(ann)).available_nanocredits == 100


async def test_a_transfer_takes_limits_first_then_grants_which_keep_their_expiry(bench: Bench) -> None:
    """Parts with the same expiry arrive as one grant; what comes from `ever` never expires."""
    ann = await bench.account("ann", day(10))
    eve = await bench.account("eve", ever(10))
    bob = await bench.account("bob", ever(0))
    tonight, later = at("2026-11-23T00:00+00:00"), at("2026-12-31T00:00+00:00")
    await grant(bench, ann, "a", 10, priority=1, expires_at_ms=tonight)
    await grant(bench, ann, "b", 10, priority=2, expires_at_ms=later)
    await grant(bench, ann, "c", 10, priority=3)
    await bench.ledger.transfer(ann, bob, "t1", credits_nanocredits=35)
    assert await gifts(bench, bob) == sorted([(20, tonight, ""), (10, later, ""), (5, None, "")], key=str)
    assert await remaining(bench, ann) == {"a": 0, "b": 0, "c": 5}
    assert await bench.totals(ann) == {"granted": 30, "given": 35}
    await bench.ledger.transfer(eve, bob, "t2", credits_nanocredits=4)
    assert (4, None, "") in await gifts(bench, bob)


async def test_a_transfer_beyond_what_is_left_is_refused(bench: Bench) -> None:
    """Nothing is taken, nothing arrives; what is held cannot be given."""
    ann, bob = await bench.account("ann", day(100)), await bench.account("bob", day(100))
    await bench.hold(ann, "h", 30)
    refusal = await bench.refused("insufficient_quota", bench.ledger.transfer(ann, bob, "t", credits_nanocredits=71))
    assert (refusal.account, refusal.needed_nanocredits, refusal.available_nanocredits) == ("ann", 71, 70)
    await bench.ledger.transfer(ann, bob, "t", credits_nanocredits=70)
    assert (await bench.state(bob)).available_nanocredits == 170


@pytest.mark.timeout(120)
async def test_a_transfer_needs_room_at_the_receiver(bench: Bench) -> None:
    """Where it could not arrive nothing is taken; the same transfer succeeds once there is room."""
    ann, bob = await bench.account("ann", day(100)), await bench.account("bob", day(0))
    for n in range(256):
        await grant(bench, bob, f"g{n}", 1)
    await bench.refused("conflict", bench.ledger.transfer(ann, bob, "t", credits_nanocredits=40))
    await bench.ledger.revoke(bob, "g0", operation_id="r")
    await bench.ledger.transfer(ann, bob, "t", credits_nanocredits=40)
    assert (await bench.totals(ann), (await bench.state(bob)).available_nanocredits) == ({"given": 40}, 295)


class Interrupted(Exception):
    """The process ended here."""


class NeverDelivers(RedisLedger):
    """A ledger whose process ends between the two steps of a transfer."""

    async def _deliver(self, *_: object) -> None:
        raise Interrupted


async def interrupted_transfer(bench: Bench, giver: Path, taker: Path) -> None:
    """A transfer of 40 that was taken and has not arrived."""
    if not isinstance(bench.ledger, RedisLedger):
        pytest.skip("the model does both steps at once")
    ledger = NeverDelivers(bench.ledger._engine, bench.directory, Moves(), hold_ttl_ms=HOLD_TTL_S * 1000)
    with pytest.raises(Interrupted):
        await ledger.transfer(giver, taker, "t", credits_nanocredits=40)
    assert await bench.totals(taker) == {}


async def test_a_transfer_in_transit_arrives_once(bench: Bench) -> None:
    """Whoever sweeps next delivers it; asking for it again, before or after, delivers it too, and never twice."""
    ann, bob = await bench.account("ann", day(100)), await bench.account("bob", day(0))
    await interrupted_transfer(bench, ann, bob)
    bench.clock.pass_s(HOLD_TTL_S)
    await bench.ledger.expire_due()
    assert (await bench.totals(ann), await bench.totals(bob)) == ({"given": 40}, {"granted": 40})
    before = await bench.everything()
    await bench.ledger.transfer(ann, bob, "t", credits_nanocredits=40)
    await bench.ledger.expire_due()
    assert await bench.everything() == before


async def test_a_transfer_that_arrives_after_its_expiry_is_granted_and_expired(bench: Bench) -> None:
    """What was given is what was granted, also when nobody can use it any more."""
    ann, bob = await bench.account("ann", day(100)), await bench.account("bob", day(0))
    await interrupted_transfer(bench, ann, bob)
    bench.clock.pass_s(2 * DAY_S)
    await bench.ledger.expire_due()
    assert (await bench.totals(ann), await bench.totals(bob)) == ({"given": 40}, {"granted": 40, "expired": 40})
    assert (await bench.state(bob)).available_nanocredits == 0


async def test_a_transfer_that_cannot_arrive_yet_stops_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver has no room: holds everywhere still expire, and it arrives once there is some."""
    monkeypatch.setattr("proxy.ledger.transfers.DELIVERED_MAX", 256)
    ann, bob, zoe = [await bench.account(name, ever(1000)) for name in ("ann", "bob", "zoe")]
    await interrupted_transfer(bench, ann, bob)
    for n in range(256):
        await grant(bench, bob, f"g{n}", 1)
    for path in (ann, zoe):
        await bench.hold(path, "abandoned", 5)
    bench.clock.pass_s(HOLD_TTL_S + 1)
    assert await bench.ledger.expire_due() == 2
    assert (await bench.totals(bob))["granted"] == 256
    await bench.ledger.revoke(bob, "g0", operation_id="r")
    bench.clock.pass_s(HOLD_TTL_S)
    await bench.ledger.expire_due()
    assert (await bench.totals(bob))["granted"] == 296


async def test_a_transfer_asked_for_again_is_made_once(bench: Bench) -> None:
    """Other amounts or other people under the same id are a conflict."""
    ann, bob, cid = [await bench.account(name, day(100)) for name in ("ann", "bob", "cid")]
    await bench.ledger.transfer(ann, bob, "t", credits_nanocredits=40, reason="present")
    before = await bench.everything()
    await bench.ledger.transfer(ann, bob, "t", credits_nanocredits=40, reason="present")
    assert await bench.everything() == before
    await bench.refused("conflict", bench.ledger.transfer(ann, bob, "t", credits_nanocredits=41, reason="present"))
    await bench.refused("conflict", bench.ledger.transfer(ann, cid, "t", credits_nanocredits=40, reason="present"))


async def test_a_transfer_needs_another_account_and_something_to_give(bench: Bench) -> None:
    """To oneself, of nothing, or out of an account that has no limit and too few grants: refused."""
    ann, free = await bench.account("ann", day(100)), await bench.account("free")
    await bench.refused("invalid_request", bench.ledger.transfer(ann, ann, "t", credits_nanocredits=1))
    await bench.refused("invalid_request", bench.ledger.transfer(ann, free, "t", credits_nanocredits=0))
    await bench.refused("invalid_request", bench.ledger.transfer(free, ann, "t", credits_nanocredits=1))
    await grant(bench, free, "bonus", 10)
    await bench.refused("invalid_request", bench.ledger.transfer(free, ann, "t", credits_nanocredits=11))
    await bench.ledger.transfer(free, ann, "t", credits_nanocredits=10)
    assert ((await bench.state(ann)).available_nanocredits, await remaining(bench, free)) == (110, {"bonus": 0})


async def test_giving_from_grants_books_those_that_expired(bench: Bench) -> None:
    """Like every use of grants, also in an account without limits, which otherwise never touches them."""
    free, bob = await bench.account("free"), await bench.account("bob", day(0))
    await grant(bench, free, "old", 10, expires_at_ms=bench.clock.now_ms + 1000)
    await grant(bench, free, "new", 10)
    bench.clock.pass_s(2)
    await bench.ledger.transfer(free, bob, "t", credits_nanocredits=4)
    assert await remaining(bench, free) == {"old": 0, "new": 6}
    assert await bench.totals(free) == {"granted": 20, "given": 4, "expired": 10}


async def test_a_suspended_account_gives_nothing(bench: Bench) -> None:
    """It may not spend, so it may not give its credits to somebody who may."""
    ann, bob = await bench.account("ann", day(100)), await bench.account("bob", day(0))
    await bench.status("ann", "suspended")
    await bench.refused("account_suspended", bench.ledger.transfer(ann, bob, "t", credits_nanocredits=1))


async def test_transfers_within_one_tree_and_back_conserve(bench: Bench) -> None:
    """What all gave is what all got; a gift can be given on and keeps its expiry."""
    await bench.account("org", day(1000))
    ann, bob = [await bench.account(name, day(100), parent="org") for name in ("ann", "bob")]
    await bench.ledger.transfer(ann, bob, "t1", credits_nanocredits=60)
    await bench.ledger.transfer(bob, ann, "t2", credits_nanocredits=150)
    totals = [await bench.totals(path) for path in (ann, bob)]
    assert totals == [{"given": 60, "granted": 150}, {"given": 150, "granted": 60}]
    assert {expires_at_ms for _, expires_at_ms, _ in await gifts(bench, ann)} == {at("2026-11-23T00:00+00:00")}
    assert [(await bench.state(path)).available_nanocredits for path in (ann, bob)] == [190, 10]


# --- several processes -----------------------------------------------------------------------------------------------------------


async def test_processes_share_one_budget(bench: Bench, other: Bench) -> None:
    """Racing through two of them admits exactly what there is, and each may end what the other began."""
    path = await tree(bench, 3, 190)
    holds = [(bench, other)[n % 2].hold(path, f"h{n}", 10) for n in range(40)]
    results = await asyncio.gather(*holds, return_exceptions=True)
    assert sum(isinstance(result, Refusal) for result in results) == 21
    admitted = [n for n, result in enumerate(results) if not isinstance(result, Refusal)]
    for n in admitted:
        await (other, bench)[n % 2].ledger.settle(path, f"h{n}", spent_nanocredits=10)
    assert [await bench.totals(level) for level in above(path)] == [{"spent": 190}] * 3


async def test_a_limit_that_another_process_lowered_binds_at_once(bench: Bench, other: Bench) -> None:
    """No process goes on with limits, or the status, that it remembers."""
    path = await bench.account("ann", day(100))
    await other.hold(path, "h1", 10)
    await bench.limit(path, day(30))
    await other.refused("budget_in_flight", other.hold(path, "h2", 21))
    await bench.limit(path, Limit(15, "day", "Asia/Tokyo"), day(100))
    assert (await other.hold(path, "h3", 100, least=1)).amount_nanocredits == 15
    await bench.status("ann", "suspended")
    await other.refused("account_suspended", other.hold(path, "h4", 1))


async def test_no_charge_beyond_a_hold_goes_by_limits_that_another_process_has_lowered(bench: Bench, other: Bench) -> None:
    """Ending a hold may have to take more: that too goes by the limits of now."""
    path = await bench.account("ann", day(100))
    await other.hold(path, "h", 10)
    await bench.limit(path, day(30))
    assert outcome(await other.ledger.settle(path, "h", spent_nanocredits=50)) == ("settled", 30, 20)
    assert (await bench.window(path)).spent_nanocredits == 30


async def test_a_plan_that_another_process_changed_binds_once_it_is_followed(bench: Bench, other: Bench) -> None:
    """Processes follow changes every quarter of a second; from then on the new limits hold."""
    await bench.plan("small", day(100))
    await other.directory.refresh()
    path = await bench.account("ann", plan="small")
    assert (await other.hold(path, "h1", 60)).amount_nanocredits == 60
    await bench.plan("small", day(70))
    await other.directory.refresh()
    assert (await other.hold(path, "h2", 60, least=1)).amount_nanocredits == 10


async def test_a_plan_that_another_process_has_just_defined_is_known_while_the_change_is_taken_in(bench: Bench, other: Bench) -> None:
    """Whoever asks between the news and the reading of the plan gets the plan."""
    await bench.plan("new", day(100))
    path = await bench.account("ann", plan="new")
    settings = await other.directory.settings(path[-1])
    generation = other.directory.generation
    following = asyncio.create_task(other.directory.refresh())
    while other.directory.generation == generation:  # noqa: ASYNC110 - the moment between the two is what is tested
        await asyncio.sleep(0)
    assert (await other.directory.plan_of(settings)).name == "new"
    await following


async def test_the_ledgers_clock_is_its_servers(ledger_server: LedgerServer) -> None:
    """Outside of simulations nobody else's time decides when holds expire and windows turn."""

    def server_ms() -> int:
        with ledger_server.client() as client:
            seconds, microseconds = client.time()
        return seconds * 1000 + microseconds // 1000

    async with open_bench(ledger_server, clock=None) as bench:
        path = await bench.account("ann", Limit(100, "3600s"))
        before_ms = server_ms()
        await bench.hold(path, "h", 10)
        after_ms = server_ms()
        [hold] = (await bench.books.holds(path[-1], after=None, limit=10)).items
        window = await bench.window(path)
    assert before_ms <= hold.created_at_ms <= after_ms
    assert hold.expires_at_ms == hold.created_at_ms + HOLD_TTL_S * 1000
    assert (window.starts_at_ms, window.resets_at_ms) == (hold.created_at_ms, hold.created_at_ms + 3_600_000)


# --- the edge of the range -----------------------------------------------------------------------------------------------------


async def test_amounts_are_exact_up_to_the_edge_of_the_range(bench: Bench) -> None:
    """2^53 - 1 nanocredits are held, debited and settled to the last one."""
    path = await bench.account("ann", ever(AMOUNT_MAX_NANOCREDITS))
    hold = await bench.hold(path, "h", AMOUNT_MAX_NANOCREDITS, least=AMOUNT_MAX_NANOCREDITS)
    assert hold.amount_nanocredits == AMOUNT_MAX_NANOCREDITS
    await bench.ledger.debit(path, "h", spent_nanocredits=AMOUNT_MAX_NANOCREDITS - 3)
    assert await bench.totals(path) == {"spent": AMOUNT_MAX_NANOCREDITS - 3, "held": 3}
    settlement = await bench.ledger.settle(path, "h", spent_nanocredits=AMOUNT_MAX_NANOCREDITS - 1)
    assert outcome(settlement) == ("settled", AMOUNT_MAX_NANOCREDITS - 1, 0)
    assert await bench.totals(path) == {"spent": AMOUNT_MAX_NANOCREDITS - 1}
    assert (await bench.hold(path, "last", 100, least=1)).amount_nanocredits == 1


async def test_an_account_never_leaves_the_range_in_which_it_is_exact(bench: Bench) -> None:
    """Without limits too: what it spent and holds stays below 2^53, and the rest is refused rather than rounded."""
    path = await bench.account("free")
    await bench.spend(path, AMOUNT_MAX_NANOCREDITS - 10)
    assert (await bench.hold(path, "h", 100, least=0)).amount_nanocredits == 10
    with pytest.raises(Refusal):
        await bench.hold(path, "h2", 1)
    assert await bench.totals(path) == {"spent": AMOUNT_MAX_NANOCREDITS - 10, "held": 10}


async def test_grants_beyond_the_range_are_refused(bench: Bench) -> None:
    """Their sum too: an account cannot be given more than can be counted."""
    path = await bench.account("ann", day(100))
    await grant(bench, path, "g1", AMOUNT_MAX_NANOCREDITS - 5)
    await bench.refused("invalid_request", grant(bench, path, "g2", 6))
    await grant(bench, path, "g2", 5)
    assert (await bench.totals(path))["granted"] == AMOUNT_MAX_NANOCREDITS


async def test_a_carry_stops_at_the_edge_of_the_range(bench: Bench) -> None:
    """A full roll-over of huge windows is cut there."""
    path = await bench.account("ann", day(AMOUNT_MAX_NANOCREDITS // 2, "full"))
    await bench.spend(path, 1)
    bench.clock.pass_s(10 * DAY_S)
    assert (await bench.window(path)).carried_nanocredits == AMOUNT_MAX_NANOCREDITS
    assert (await bench.hold(path, "h", 5)).amount_nanocredits == 5


def test_a_conflict_is_a_refusal_with_a_status_of_its_own() -> None:
    """Callers may catch it as either."""
    assert (Conflict("again").code, Conflict("again").status, issubclass(Conflict, Refusal)) == ("conflict", 409, True)


# --- the audit's figures for all accounts together --------------------------------------------------------------------------------------


async def test_an_audit_tells_what_is_left_to_spend_at_the_top(bench: Bench) -> None:
    """Of accounts without a parent, what is held left out: not again of those below them, nor of the suspended, nor of the unlimited."""
    lab = await bench.account("org:lab", day(100))
    ann = await bench.account("ann", day(50), parent="org:lab")
    bob = await bench.account("bob", ever(40), ever(70))
    await bench.account("eve", ever(1000))
    await bench.account("free")
    await bench.status("eve", "suspended")
    await bench.spend(ann, 10)
    await bench.hold(lab, "h", 5)
    await grant(bench, bob, "g", 3)
    report = await bench.books.audit()
    assert (report.left_nanocredits, report.open_holds) == (100 - 10 - 5 + 40 + 3, 1)
