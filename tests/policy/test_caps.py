"""When other limits would let an account spend more."""

from __future__ import annotations

import pytest

from proxy.domain import Limit
from proxy.policy.caps import exceeds

DAY, WEEK = Limit(10, "day"), Limit(40, "week")
FULL, CAPPED = Limit(10, "day", rollover="full"), Limit(10, "day", rollover="capped", rollover_max_nanocredits=5)


@pytest.mark.parametrize(
    ("limits", "cap", "more"),
    [
        ((DAY,), (DAY,), False),
        ((Limit(9, "day"),), (DAY,), False),
        ((Limit(11, "day"),), (DAY,), True),
        ((DAY, WEEK), (DAY,), False),
        ((DAY,), (DAY, WEEK), True),
        ((WEEK,), (DAY,), True),
        ((), (DAY,), True),
        ((DAY,), (), False),
        ((FULL,), (DAY,), True),
        ((CAPPED,), (DAY,), True),
        ((CAPPED,), (FULL,), False),
        ((Limit(10, "day", rollover="capped", rollover_max_nanocredits=6),), (CAPPED,), True),
        ((Limit(10, "day", "Asia/Tokyo"),), (DAY,), True),
    ],
)
def test_limits_exceed_a_cap_unless_they_keep_or_lower_all_of_it(limits: tuple[Limit, ...], cap: tuple[Limit, ...], more: bool) -> None:
    """A further limit only narrows; another window, zone or a wider roll-over might let more through."""
    assert exceeds(limits, cap) is more
