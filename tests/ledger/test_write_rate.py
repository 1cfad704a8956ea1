"""How often a person may change something by self-service: exact over processes, by the same rule as requests a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.domain import Path
from proxy.errors import Refusal
from proxy.ledger import RedisLedger
from tests.support.ledger_bench import Bench, Clock, open_bench, prove_conservation
from tests.support.ledger_server import LedgerServer, ledger_binaries

PER_MINUTE = 6


@pytest.fixture(params=[*ledger_binaries(), pytest.param("cluster", marks=pytest.mark.long)])
async def benches(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> AsyncIterator[tuple[Bench, Bench]]:
    """Two processes on one ledger."""
    server = ledger_servers(request.param)
    async with open_bench(server, Clock()) as bench, open_bench(server, bench.clock, empty=False) as other:
        yield bench, other
        await prove_conservation(bench)


async def writes(bench: Bench, person: Path, tries: int, *, per_minute: int = PER_MINUTE) -> list[Refusal]:
    """Change so often at once; the refusals."""
    assert isinstance(bench.ledger, RedisLedger)
    calls = [bench.ledger.count_write(person, per_minute=per_minute) for _ in range(tries)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert [result for result in results if result is not None] == refusals
    return refusals


async def test_as_many_as_the_rate_says_at_once_then_one_after_the_other(benches: tuple[Bench, Bench]) -> None:
    """Whichever process is asked; whoever is refused is told whose rate it is and when to come again, and has used up nothing."""
    bench, other = benches
    person = await bench.account("ann")
    refusals = [*await writes(bench, person, PER_MINUTE - 2), *await writes(other, person, PER_MINUTE)]
    assert len(refusals) == PER_MINUTE - 2
    for refusal in refusals:
        assert (refusal.code, refusal.status, refusal.account) == ("too_many_requests", 429, "ann")
        assert (refusal.limit, refusal.retry_after_s) == ("writes_per_minute", 60 / PER_MINUTE)
    bench.clock.pass_s(60 / PER_MINUTE - 0.001)
    assert len(await writes(bench, person, 1)) == 1
    bench.clock.pass_s(0.001)
    assert len(await writes(other, person, 2)) == 1
    bench.clock.pass_s(120)
    assert len(await writes(bench, person, PER_MINUTE + 1)) == 1


async def test_each_person_has_a_rate_of_its_own(benches: tuple[Bench, Bench]) -> None:
    """Also inside one organisation; and it is none of the requests that they may begin."""
    bench, _ = benches
    await bench.plan("rated", per_minute=1)
    await bench.account("org")
    ann, bob = await bench.account("ann", parent="org", plan="rated"), await bench.account("bob", parent="org", plan="rated")
    assert len(await writes(bench, ann, PER_MINUTE + 1)) == 1
    assert await writes(bench, bob, PER_MINUTE) == []
    await bench.hold(ann, "h1", 1)
    await bench.refused("too_many_requests", bench.hold(ann, "h2", 1))


async def test_a_rate_that_is_changed_counts_at_once(benches: tuple[Bench, Bench]) -> None:
    """Raised, there is more room now; lowered, nobody waits for longer than the new rate says."""
    bench, other = benches
    person = await bench.account("ann")
    await writes(bench, person, PER_MINUTE)
    assert len(await writes(other, person, 1)) == 1
    [refusal] = await writes(other, person, 1, per_minute=1)
    assert refusal.retry_after_s == 60
    bench.clock.pass_s(6)
    assert await writes(other, person, 1, per_minute=600) == []


async def test_a_clock_that_is_set_back_stops_nobody(benches: tuple[Bench, Bench]) -> None:
    """As a failover may do it: what lies further ahead than any rate reaches no longer counts."""
    bench, other = benches
    person = await bench.account("ann")
    await writes(bench, person, PER_MINUTE)
    bench.clock.pass_s(-3600)
    assert await writes(other, person, PER_MINUTE) == []
