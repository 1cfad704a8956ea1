"""What accounts count in: one unit for each tree, kept for good, on the model and on each real server."""

from __future__ import annotations

import hashlib

import pytest

from proxy.domain import AccountId, Limit, Path, Plan
from proxy.errors import Refusal
from proxy.ledger import Directory
from proxy.ledger.keys import account as account_key
from tests.support.ledger_bench import Bench

LIMIT = Limit(100, "day")


async def plans(bench: Bench) -> None:
    """`everyone` counts in credits; two others in units of a level."""
    for name in ("small", "smaller"):
        await bench.directory.put_plan(Plan(name, (LIMIT,), unit="small"), operation_id=bench.operation_id())


async def in_units(bench: Bench, name: str, *, parent: str | None = None, plan: str = "small") -> Path:
    return await bench.account(name, parent=parent, plan=plan)


async def test_an_account_counts_in_what_its_plan_says(bench: Bench) -> None:
    """And says so."""
    await plans(bench)
    assert (await bench.state(await bench.account("ann", LIMIT))).unit == "credits"
    assert (await bench.state(await in_units(bench, "org"))).unit == "small"
    assert (await bench.state(await in_units(bench, "bob", parent="org", plan="smaller"))).unit == "small"


async def test_an_account_of_another_unit_is_not_opened_below_one(bench: Bench) -> None:
    """Whichever of them counts in credits, and however deep."""
    await plans(bench)
    await in_units(bench, "org")
    await in_units(bench, "team", parent="org")
    await bench.account("acme", LIMIT)
    refusal = await bench.refused("units_differ", bench.account("ann", LIMIT, parent="team"))
    assert refusal.account == "ann"
    await bench.refused("units_differ", in_units(bench, "bob", parent="acme"))
    with pytest.raises(Refusal, match="no account"):
        await bench.directory.account(AccountId("ann"))


async def test_an_account_keeps_its_unit(bench: Bench) -> None:
    """It may change to a plan of the same unit alone; nothing else of the change is done either."""
    await plans(bench)
    path = await in_units(bench, "ann")
    await bench.directory.update_account(path[-1], plan="smaller", operation_id=bench.operation_id())
    assert ((await bench.state(path)).plan, (await bench.state(path)).unit) == ("smaller", "small")
    change = bench.directory.update_account(path[-1], plan="everyone", weight=7, operation_id=bench.operation_id())
    await bench.refused("units_differ", change)


async def test_a_plan_keeps_its_unit(bench: Bench) -> None:
    """Everything else of it may change."""
    await plans(bench)
    path = await in_units(bench, "ann")
    await bench.directory.put_plan(Plan("small", (Limit(7, "day"),), unit="small"), operation_id=bench.operation_id())
    assert (await bench.state(path)).available_nanocredits == 7
    await bench.refused("units_differ", bench.directory.put_plan(Plan("small", (LIMIT,)), operation_id=bench.operation_id()))
    change = bench.directory.put_plan(Plan("everyone", (), unit="small"), operation_id=bench.operation_id())
    await bench.refused("units_differ", change)


async def test_the_configuration_cannot_change_a_plans_unit_either(bench: Bench) -> None:
    """A file that says so is refused, and the other plans of the file with it."""
    if isinstance(bench.directory, Directory):
        await plans(bench)
        await bench.refused("units_differ", bench.directory.seed_plans((Plan("early", ()), Plan("small", (LIMIT,)))))
        assert "early" not in bench.directory.plans()
        await bench.directory.seed_plans((Plan("small", (LIMIT,), unit="small"),))


async def test_a_transfer_stays_within_its_unit(bench: Bench) -> None:
    """A unit given is a unit received, so what counts in something else can neither give nor take; between trees of one unit it can."""
    await plans(bench)
    ann, bob = await in_units(bench, "ann"), await in_units(bench, "bob", plan="smaller")
    eve = await bench.account("eve", LIMIT)
    for source, target in ((ann, eve), (eve, ann)):
        await bench.refused("units_differ", bench.ledger.transfer(source, target, bench.operation_id(), credits_nanocredits=10))
    await bench.ledger.transfer(ann, bob, bench.operation_id(), credits_nanocredits=10)
    assert ((await bench.totals(ann))["given"], (await bench.totals(bob))["granted"]) == (10, 10)


async def test_a_path_that_mixes_units_all_the_same_has_no_caller(bench: Bench) -> None:
    """However it came to be: its requests are refused, and nothing is charged in the wrong unit."""
    if not isinstance(bench.directory, Directory):
        return
    await plans(bench)
    await in_units(bench, "org")
    path = await in_units(bench, "ann", parent="org")
    _, key = await bench.directory.create_key(path[-1], operation_id="key", key="cl-a-key")
    assert key is not None
    digest = hashlib.sha256(key.encode()).hexdigest()
    found = await bench.directory.caller(digest)
    assert found is not None
    assert found.plan.unit == "small"
    await bench.directory._engine.command("HSET", account_key(path[0], path[-1]), "plan", "everyone")
    await bench.directory.announce_account(path[-1])
    await bench.refused("units_differ", bench.directory.caller(digest))
    await bench.directory._engine.command("HSET", account_key(path[0], path[-1]), "plan", "small")
    await bench.directory.announce_account(path[-1])
