"""Pools over the admin API: how they stand, and draining them."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import Upstream
from proxy.domain import AccountId, Place
from proxy.errors import Refusal
from proxy.ledger import Store
from proxy.ledger.pools import Pools
from tests.server.admin.bench import CREDIT, Client, Health

FRESH = {
    "name": "scarce",
    "seats": 2,
    "used": 0,
    "backlog": 0,
    "callers_waiting": 0,
    "lag": "0",
    "served": "0",
    "spare_used": 0,
    "spare_waiting": 0,
    "draining": False,
}


@pytest.fixture
def pools(store: Store) -> Pools:
    """A worker's; a pool that it meets first gives seats at once, for no other worker can have any."""
    return Pools(store.engine, learning_ms=0)


async def enter(pools: Pools, ticket: str, account: str, *, spare: bool = False) -> Place:
    path = (AccountId(account),)
    return await pools.enter("scarce", ticket, path=path, weights=(1, 1), estimate_nanocredits=CREDIT, seats=2, depth=9, spare=spare)


async def test_pools_are_the_upstreams_with_seats(call: Client, health: Health) -> None:
    """One that nobody has asked for a seat has all of them; what a new configuration says holds at once."""
    assert await call.done("GET", "/pools") == {"items": [FRESH], "next": None}
    assert await call.done("GET", "/pools/scarce") == FRESH
    for name in ("plenty", "none"):
        for method, body in (("GET", None), ("PATCH", {"draining": True})):
            reply = await call(method, f"/admin/v1/pools/{name}", body)
            assert (reply.status, reply.json["code"]) == (404, "not_found")
    health.upstreams = (Upstream(name="plenty", base_url="http://127.0.0.1:1", seats=7),)
    assert [(pool["name"], pool["seats"]) for pool in (await call.done("GET", "/pools"))["items"]] == [("plenty", 7)]


async def test_a_pool_tells_who_sits_and_who_waits(call: Client, pools: Pools) -> None:
    """Seats, backlog, callers, lag per weight, what was served, and the spare ones apart."""
    places = [await enter(pools, f"ann-{n}", "ann") for n in range(4)]
    assert [place.seated for place in places] == [True, True, False, False]
    await enter(pools, "ben-0", "ben")
    await enter(pools, "cat-0", "cat", spare=True)
    await pools.charge("scarce", "ann-0", spent_nanocredits=CREDIT // 2)
    assert await call.done("GET", "/pools/scarce") == {
        **FRESH,
        "used": 2,
        "backlog": 3,
        "callers_waiting": 3,
        "lag": "1",
        "served": "0.5",
        "spare_waiting": 1,
    }


async def test_a_drained_pool_gives_no_seat_until_it_is_opened(call: Client, pools: Pools) -> None:
    """Whoever sits stays, whoever waits goes on waiting, nobody enters; the audit log says who drained it, and why."""
    for n in range(3):
        await enter(pools, f"ann-{n}", "ann")
    drained = await call.done("PATCH", "/pools/scarce", {"draining": True, "reason": "new driver"})
    assert (drained["draining"], drained["used"], drained["backlog"]) == (True, 2, 1)
    with pytest.raises(Refusal, match="drained"):
        await enter(pools, "ben-0", "ben")
    await pools.leave("scarce", "ann-0", spent_nanocredits=CREDIT)
    assert (await call.done("GET", "/pools/scarce"))["used"] == 1
    opened = await call.done("PATCH", "/pools/scarce", {"draining": False})
    assert (opened["draining"], opened["used"], opened["backlog"]) == (False, 2, 0)
    last, first = (await call.done("GET", "/events"))["items"][:2]
    assert first | {"event_id": "", "at": ""} == {
        "event_id": "",
        "at": "",
        "actor": "owner-1",
        "action": "pool.change",
        "subject": "scarce",
        "before": {"draining": False},
        "after": {"draining": True},
        "reason": "new driver",
    }
    assert (last["before"], last["after"]) == ({"draining": True}, {"draining": False})


async def test_a_pool_that_nobody_has_used_is_drained_and_keeps_its_seats(call: Client, pools: Pools) -> None:
    """Draining makes no pool without seats: once it is open they are given."""
    assert (await call.done("PATCH", "/pools/scarce", {"draining": True}))["seats"] == 2
    with pytest.raises(Refusal, match="drained"):
        await enter(pools, "ann-0", "ann")
    assert await call.done("PATCH", "/pools/scarce", {"draining": False}) == FRESH


async def test_a_late_repeat_of_a_drain_does_not_drain_again(call: Client) -> None:
    """With its Idempotency-Key a change is made once; another change with that key is a conflict."""

    async def change(draining: Any, key: str) -> Any:
        return await call("PATCH", "/admin/v1/pools/scarce", {"draining": draining}, key=key)

    for draining, key in ((True, "a"), (False, "b"), (True, "a")):
        reply = await change(draining, key)
        assert reply.status == 200
    assert reply.json["draining"] is False
    assert len((await call.done("GET", "/events"))["items"]) == 2
    assert (await change(False, "a")).status == 409
    assert (await change("yes", "c")).status == 400
