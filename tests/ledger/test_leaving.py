"""What leaves an organisation: its own limits bound it, whoever gives it away and however. On the model, and on each server at hand."""

from __future__ import annotations

import asyncio

from proxy.domain import Limit, Path
from proxy.errors import Refusal
from tests.support.ledger_bench import Bench

DAY_S = 86_400
DAY_MS = DAY_S * 1000


def day(credits: int) -> Limit:
    return Limit(credits, "day")


def ever(credits: int) -> Limit:
    return Limit(credits, "ever")


async def gifts(bench: Bench, path: Path) -> list[tuple[int, int | None]]:
    """The grants of an account, the first to expire first: what they have left, and until when."""
    found = [(grant.remaining_nanocredits, grant.expires_at_ms) for grant in (await bench.state(path)).grants]
    return sorted(found, key=lambda gift: (gift[1] is None, gift[1]))


async def available(bench: Bench, path: Path) -> int | None:
    return (await bench.state(path)).available_nanocredits


async def test_gifts_never_take_more_out_of_an_organisation_than_its_own_limit(bench: Bench) -> None:
    """Its people have 10 each, it has 23: two of them may give all that they have; the others are told who lacks what."""
    org, eve = await bench.account("org", day(23)), await bench.account("eve", ever(0))
    people = [await bench.account(f"p{n}", day(10), parent="org") for n in range(5)]

    async def give(n: int) -> Refusal | None:
        try:
            await bench.ledger.transfer(people[n], eve, f"t{n}", credits_nanocredits=10)
        except Refusal as refusal:
            return refusal
        return None

    answers = await asyncio.gather(*(give(n) for n in range(5)))
    refused = [(no.code, no.account, no.needed_nanocredits, no.available_nanocredits) for no in answers if no is not None]
    assert refused == [("insufficient_quota", "org", 10, 3)] * 3
    assert (await bench.totals(org), await bench.totals(eve)) == ({"given": 20}, {"granted": 20})
    other = people[answers.index(next(no for no in answers if no is not None))]
    await bench.ledger.transfer(other, eve, "rest", credits_nanocredits=3)
    refusal = await bench.refused("insufficient_quota", bench.hold(other, "h", 1))
    assert refusal.account == "org", "what was given away is nobody's to spend"


async def test_what_an_organisation_has_spent_or_holds_cannot_leave_it(bench: Bench) -> None:
    """One limit bounds it all together."""
    await bench.account("org", day(23))
    ann, bob = [await bench.account(name, day(20), parent="org") for name in ("ann", "bob")]
    eve = await bench.account("eve", ever(0))
    await bench.spend(ann, 10)
    await bench.hold(ann, "h", 5)
    refusal = await bench.refused("insufficient_quota", bench.ledger.transfer(bob, eve, "t", credits_nanocredits=9))
    assert (refusal.account, refusal.available_nanocredits) == ("org", 8)
    await bench.ledger.transfer(bob, eve, "t", credits_nanocredits=8)


async def test_what_stays_below_a_level_is_not_charged_there(bench: Bench) -> None:
    """It counts there once it is spent. A level without limits keeps nothing back, and tells how much has left it."""
    org = await bench.account("org", day(100))
    team, guild = await bench.account("team", day(30), parent="org"), await bench.account("guild", parent="org")
    ann, amy = [await bench.account(name, day(20), parent="team") for name in ("ann", "amy")]
    bob = await bench.account("bob", day(20), parent="guild")
    await bench.ledger.transfer(ann, amy, "t1", credits_nanocredits=5)
    assert (await bench.totals(org), await bench.totals(team)) == ({}, {})
    await bench.ledger.transfer(ann, bob, "t2", credits_nanocredits=6)
    await bench.ledger.transfer(bob, amy, "t3", credits_nanocredits=7)
    assert (await bench.totals(org), await bench.totals(team), await bench.totals(guild)) == ({}, {"given": 6}, {"given": 7})
    refusal = await bench.refused("insufficient_quota", bench.hold(amy, "h", 25))
    assert (refusal.account, refusal.available_nanocredits) == ("team", 24)
    await bench.spend(amy, 24)
    assert await bench.totals(org) == {"spent": 24}


async def test_a_gift_to_the_organisation_itself_does_not_raise_what_it_may_spend(bench: Bench) -> None:
    """What its own people give it has left it, too."""
    org = await bench.account("org", day(20))
    for name in ("ann", "bob"):
        path = await bench.account(name, day(9), parent="org")
        await bench.ledger.transfer(path, org, f"from {name}", credits_nanocredits=9)
    assert (await bench.totals(org), await available(bench, org)) == ({"given": 18, "granted": 18}, 20)


async def test_a_gift_lasts_no_longer_than_it_would_at_any_level(bench: Bench) -> None:
    """In parts: by the organisation's day, by the organisation's grant, by the giver's own grant."""
    org = await bench.account("org", day(5))
    ann, eve = await bench.account("ann", ever(8), parent="org"), await bench.account("eve", ever(0))
    tonight = (bench.clock.now_ms // DAY_MS + 1) * DAY_MS
    soon, later = tonight + 2 * DAY_MS, tonight + 5 * DAY_MS
    await bench.ledger.grant(org, "lasts longer", credits_nanocredits=30, expires_at_ms=later)
    await bench.ledger.grant(ann, "ends sooner", credits_nanocredits=9, expires_at_ms=soon)
    await bench.ledger.transfer(ann, eve, "t", credits_nanocredits=15)
    assert await gifts(bench, eve) == [(5, tonight), (7, soon), (3, later)]
    assert (await bench.totals(org), await bench.totals(ann)) == ({"given": 15, "granted": 30}, {"given": 15, "granted": 9})


async def test_nothing_leaves_a_suspended_organisation(bench: Bench) -> None:
    """Neither gifts nor what has expired, until it is active again."""
    org, eve = await bench.account("org", day(20)), await bench.account("eve", ever(0))
    ann = await bench.account("ann", day(10), parent="org")
    later = bench.clock.now_ms + 90 * DAY_MS
    await bench.ledger.collect(ann, eve, "c1", expires_at_ms=later)
    bench.clock.pass_s(DAY_S)
    await bench.status("org", "suspended")
    refusal = await bench.refused("account_suspended", bench.ledger.transfer(ann, eve, "t", credits_nanocredits=1))
    assert refusal.account == "org"
    refusal = await bench.refused("account_suspended", bench.ledger.collect(ann, eve, "c2", expires_at_ms=later))
    assert refusal.account == "org"
    await bench.status("org", "active")
    await bench.ledger.transfer(ann, eve, "t", credits_nanocredits=1)
    assert (await bench.totals(org))["given"] == 1


async def test_what_was_lent_comes_back_from_who_is_closed(bench: Bench) -> None:
    """Closed itself, or below who is, also where it is suspended; gifts stay refused, and who is only suspended keeps what it has."""
    await bench.account("org", day(20))
    ann, eve = await bench.account("ann", day(10), parent="org"), await bench.account("eve", ever(5))
    await bench.status("ann", "suspended")
    refusal = await bench.refused("account_suspended", bench.ledger.transfer(ann, eve, "t1", credits_nanocredits=1, comes_back=True))
    assert refusal.account == "ann"
    await bench.status("org", "closed")
    refusal = await bench.refused("account_suspended", bench.ledger.transfer(ann, eve, "t2", credits_nanocredits=1))
    assert refusal.account == "org"
    await bench.ledger.transfer(ann, eve, "t3", credits_nanocredits=4, comes_back=True)
    await bench.status("eve", "closed")
    await bench.refused("account_suspended", bench.ledger.transfer(eve, ann, "t4", credits_nanocredits=9))
    await bench.ledger.transfer(eve, ann, "t4 again", credits_nanocredits=9, comes_back=True)
    assert (await bench.totals(ann), await bench.totals(eve)) == ({"given": 4, "granted": 9}, {"given": 9, "granted": 4})


async def test_what_comes_back_restores_every_level_that_it_had_left(bench: Bench) -> None:
    """Those that have limits, as grants, and once: asked for again, or by another process, it changes nothing."""
    org = await bench.account("org", day(20))
    free = await bench.account("free", parent="org")
    ann, eve = await bench.account("ann", day(15), parent="free"), await bench.account("eve", day(50))
    await bench.ledger.transfer(ann, eve, "lent", credits_nanocredits=12)
    assert (await available(bench, org), await available(bench, eve)) == (8, 62)
    for _ in range(2):
        await bench.ledger.transfer(eve, ann, "back", credits_nanocredits=12, comes_back=True)
        assert (await bench.totals(org), await bench.totals(ann)) == ({"given": 12, "granted": 12},) * 2
        assert (await bench.totals(free), await bench.totals(eve)) == ({"given": 12}, {"given": 12, "granted": 12})
    await bench.spend(ann, 15)
    assert await available(bench, org) == 5


async def test_what_was_given_for_good_restores_nothing_above_who_gets_it(bench: Bench) -> None:
    """An organisation's limit is its own: gifts to its people are spent within it."""
    org = await bench.account("org", day(20))
    ann, eve = await bench.account("ann", day(15), parent="org"), await bench.account("eve", day(50))
    await bench.ledger.transfer(eve, ann, "t", credits_nanocredits=12)
    assert (await bench.totals(org), await bench.totals(ann)) == ({}, {"granted": 12})
    refusal = await bench.refused("request_exceeds_budget", bench.hold(ann, "h", 21))
    assert refusal.account == "org"


async def test_what_expires_flows_out_only_as_far_as_it_expired_at_every_level(bench: Bench) -> None:
    """Five people leave 10 each unused, their organisation 20; what it has spent has not expired."""
    org, fund = await bench.account("org", day(20)), await bench.account("fund", ever(0))
    people = [await bench.account(f"p{n}", day(10), parent="org") for n in range(5)]

    async def collected() -> list[int]:
        later = bench.clock.now_ms + 9 * DAY_MS
        return [await bench.ledger.collect(path, fund, bench.operation_id(), expires_at_ms=later) for path in people]

    assert await collected() == [0] * 5, "the first visit only begins"
    bench.clock.pass_s(DAY_S)
    assert await collected() == [10, 10, 0, 0, 0]
    assert await bench.totals(org) == {"given": 20, "collected": 20}
    await bench.spend(people[0], 4)
    await bench.spend(people[4], 9)
    bench.clock.pass_s(DAY_S)
    assert sum(await collected()) == 7, "of the 20 only so much has expired"
    assert (await bench.totals(org), await available(bench, fund)) == ({"given": 27, "collected": 27, "spent": 13}, 27)


async def test_what_expired_in_an_organisation_flows_once_though_it_is_collected_there_too(bench: Bench) -> None:
    """Whichever is asked first: what its people leave unused, and the rest of its own."""
    org, fund = await bench.account("org", day(30)), await bench.account("fund", ever(0))
    people = [await bench.account(f"p{n}", day(10), parent="org") for n in range(2)]
    flowed = []
    for n, paths in enumerate([[org, *people], [org, *people], [*people, org]]):
        bench.clock.pass_s(DAY_S if n else 0)
        later = bench.clock.now_ms + 9 * DAY_MS
        flowed.append([await bench.ledger.collect(path, fund, bench.operation_id(), expires_at_ms=later) for path in paths])
    assert flowed == [[0, 0, 0], [30, 0, 0], [20, 10, 0]]
