"""What the demo says of seats that stay empty: it has looked, and would have ended otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.cli.demo.seats import Seats
from proxy.cli.demo.town import Unexpected

SEATS = 2
FULL = {"used": 2, "backlog": 3, "spare_waiting": 0}
IDLE = {"used": 0, "backlog": 0, "spare_waiting": 0}
WITHHELD = {"used": 1, "backlog": 1, "spare_waiting": 0}
CAPPED = {"used": 1, "backlog": 0, "spare_waiting": 4}


async def nobody_asks() -> dict[str, Any]:
    raise AssertionError


def looked(*found: dict[str, Any]) -> Seats:
    seats = Seats(nobody_asks, SEATS)
    for pool in found:
        seats.found(pool)
    return seats


@pytest.mark.parametrize("withheld", [WITHHELD, CAPPED])
def test_a_seat_that_stays_empty_is_told(withheld: dict[str, Any]) -> None:
    """Whoever waits, and whatever came after; those count who take only what nobody else wants."""
    with pytest.raises(Unexpected, match="a seat stayed empty"):
        looked(FULL, withheld, withheld, withheld, FULL).check()


def test_a_seat_that_is_empty_for_a_moment_or_that_nobody_wants_is_none() -> None:
    """A look may come between a request that ends and the next."""
    seats = looked(IDLE, IDLE, IDLE, WITHHELD, CAPPED, FULL, WITHHELD, WITHHELD, FULL)
    seats.check()
    assert (seats.used, seats.waiting) == (2, 3)
