"""What was asked for and not served is told by window and by refusal, and idle people from denied ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.domain import AccountId
from proxy.ledger import denials
from proxy.policy.equality import measure
from proxy.policy.tallies import WINDOWS
from tests.support.ledger_bench import Clock
from tests.support.ledger_server import LedgerServer
from tests.support.use_counting import DAY_S, World, open_world


@pytest.fixture
async def world(ledger_server: LedgerServer) -> AsyncIterator[World]:
    async with open_world(ledger_server, Clock()) as world:
        yield world


async def test_who_got_nothing_is_told_from_who_wanted_nothing(world: World) -> None:
    """Of four people one used, one was served a part of what it wanted, one got nothing, one asked for nothing."""
    await world.spend("ann", 100)
    await world.spend("bob", 30)
    noted = [store.equality.denials for store in world.stores]
    noted[0].note(world.paths["bob"], "queue_timeout", 50)
    noted[1].note(world.paths["bob"], "insufficient_quota", 20)
    noted[0].note(world.paths["solo"], "insufficient_quota", 7)
    noted[0].note(world.paths["solo"], "insufficient_quota", 7)
    noted[0].note(world.paths["idle"], "invalid_request", 1000)
    await world.flush()
    for window in ("day", "week", "month", "half_life"):
        state = await world.stores[1].equality.state(window)
        assert state.denied_people == 1
        assert state.least_served_of_demand == 0
        assert state.deficit_nanocredits == {"queue_timeout": 50, "insufficient_quota": 34}
    world.clock.pass_s(DAY_S)
    state = await world.stores[0].equality.state("day")
    assert (state.denied_people, state.least_served_of_demand, dict(state.deficit_nanocredits)) == (0, None, {})
    state = await world.stores[0].equality.state("month")
    assert state.denied_people == 1


async def test_what_is_denied_is_told_in_the_unit_that_it_was_counted_in(world: World) -> None:
    """Neither amounts nor people of one unit stand among those of another."""
    await world.spend("ann", 100)
    noted = world.stores[0].equality.denials
    noted.note(world.paths["ann"], "queue_full", 100)
    noted.note(world.paths["uma"], "queue_full", 9_000, unit="general")
    await world.flush()
    state, units = [await world.stores[1].equality.state("day", None, unit) for unit in (None, "general")]
    assert (state.deficit_nanocredits, state.denied_people, state.least_served_of_demand) == ({"queue_full": 100}, 0, 0.5)
    assert (units.deficit_nanocredits, units.denied_people, units.least_served_of_demand) == ({"queue_full": 9_000}, 1, 0.0)


async def test_what_was_worth_nothing_is_a_denial_all_the_same(world: World) -> None:
    """A free request, or one that rounds down to nothing in a unit, of somebody without use: every figure can still be told."""
    world.stores[0].equality.denials.note(world.paths["idle"], "too_many_requests", 0)
    await world.flush()
    for window in WINDOWS:
        state = await world.stores[1].equality.state(window)
        assert (state.denied_people, state.least_served_of_demand) == (1, 0.0)


async def test_half_served_stays_half_served_while_both_grow_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the half-life what was denied ages as use does, also over the turn of an epoch, until it counts as none."""
    monkeypatch.setattr(denials, "KEPT_S", 0.0)
    await world.spend("ann", 1_000_000)
    world.stores[0].equality.denials.note(world.paths["ann"], "queue_full", 1_000_000)
    world.stores[0].equality.denials.note(world.paths["idle"], "queue_full", 500)
    await world.flush()
    for days in (0, 1, 5, 5, 7):
        world.clock.pass_s(days * DAY_S)
        state = await world.stores[1].equality.state("half_life")
        measured_now = measure(state)
        assert state.denied_people == 1
        assert measured_now.deficit_nanocredits == pytest.approx(measured_now.served_nanocredits, rel=2e-3)
    world.clock.pass_s(40 * DAY_S)
    assert (await world.stores[1].equality.state("half_life")).denied_people == 0


async def test_whoever_is_gone_was_not_denied(world: World) -> None:
    """Its account was closed: in a window in which it used nothing it is neither among the people nor among those who got nothing."""
    await world.spend("solo", 50)
    await world.flush()
    world.clock.pass_s(DAY_S)
    for name in ("idle", "solo"):
        world.stores[0].equality.denials.note(world.paths[name], "queue_full", 5)
        await world.stores[0].directory.update_account(AccountId(name), status="closed", operation_id=f"close-{name}")
    await world.spend("ann", 10)
    await world.flush()
    found = measure(await world.stores[1].equality.state("day"))
    assert (found.people, found.denied, found.idle, found.least_served_of_demand) == (2, 0, 1, 1.0)
    of_month = measure(await world.stores[1].equality.state("month"))
    assert (of_month.people, of_month.denied, of_month.active) == (3, 0, 2)
    assert of_month.least_served_of_demand == pytest.approx(50 / 55)


async def test_an_agents_refusals_are_its_persons(world: World) -> None:
    """The person has used a tenth of what it and its agent wanted."""
    await world.spend("ann", 10)
    world.stores[0].equality.denials.note(world.paths["bot"], "too_many_requests", 90)
    await world.flush()
    state = await world.stores[0].equality.state("day")
    assert (state.denied_people, state.least_served_of_demand) == (0, pytest.approx(0.1))


async def test_denied_people_are_bounded_and_amounts_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more are denied than are kept, what was denied is still told in full."""
    monkeypatch.setattr(denials, "PERSONS_MAX", 2)
    for n in range(4):
        await world.account(f"user-{n}")
        world.stores[0].equality.denials.note(world.paths[f"user-{n}"], "queue_full", 5)
    await world.flush()
    state = await world.stores[0].equality.state("day")
    assert (state.denied_people, state.deficit_nanocredits) == (2, {"queue_full": 20})


async def test_utilisation_is_the_seat_time_taken_of_the_seat_time_there_was(world: World) -> None:
    """Over a window and all proxies; None where no pool has seats."""
    assert (await world.stores[0].equality.state("day")).utilisation is None
    for store, taken in zip(world.stores, (1, 4), strict=True):
        store.equality.denials.seats_were(taken=taken, there=4, seconds=5.0, half_life_days=7)
    await world.flush()
    assert (await world.stores[0].equality.state("day")).utilisation == 5 / 8
    world.clock.pass_s(DAY_S)
    assert (await world.stores[0].equality.state("day")).utilisation is None


async def test_a_process_knows_how_its_people_stand_without_asking_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads a person once, hears of its own debits at once, and of another process's after a moment; windows turn by themselves."""
    standings, path = world.stores[0].standings, world.paths["ann"]
    assert await standings.of(path) is None
    await world.spend("bot", 5, by=0)
    uses = await standings.of(path)
    assert uses is not None
    assert (uses.weight, uses.use_nanocredits["day"]) == (1, 5)
    await world.spend("ann", 7, by=1)
    seen = await standings.of(path)
    assert seen is not None
    assert seen.use_nanocredits["day"] == 5
    monkeypatch.setattr("proxy.ledger.standings.KEPT_S", 0.0)
    seen = await standings.of(path)
    assert seen is not None
    assert seen.use_nanocredits["day"] == 12
    world.clock.pass_s(DAY_S)
    seen = await standings.of(path)
    assert seen is not None
    assert (seen.use_nanocredits["day"], seen.use_nanocredits["month"]) == (0, 12)
