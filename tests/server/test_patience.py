"""How long whoever is turned away from a pool is told to wait."""

from __future__ import annotations

import pytest

from proxy.config import Upstream
from proxy.ledger.pools import QueueFull
from proxy.server.patience import PATIENCE_MAX_S, Patience

SECTION = Upstream(name="up", base_url="http://x", seats=4, queue_depth_per_account=8)


def full(lag_nanocredits: int) -> QueueFull:
    return QueueFull("up", waiting=8, lag_nanocredits=lag_nanocredits)


def test_the_wait_grows_with_ones_own_lag() -> None:
    """Seats taken for 2 s that serve 100 nanocredits each: 50 a second and seat; 8 of one's own, and what others are to be served first."""
    patience = Patience()
    patience.was_taken("up", 2.0, 100)
    assert patience.full(full(0), SECTION).retry_after_s == pytest.approx(8 * 2 / 4)
    assert patience.full(full(6_000), SECTION).retry_after_s == pytest.approx((8 * 2 + 6_000 / 50) / 4)
    assert patience.timed_out(SECTION, lag_nanocredits=400).retry_after_s == pytest.approx((2 + 8) / 4)


def test_the_latest_pace_counts_a_tenth() -> None:
    """One slow request does not send everybody away for long."""
    patience = Patience()
    patience.was_taken("up", 4.0, 0)
    patience.was_taken("up", 24.0, 0)
    assert patience.timed_out(SECTION, lag_nanocredits=10**9).retry_after_s == pytest.approx(6 / 4)


def test_the_wait_is_bounded() -> None:
    """At least a second, at most an hour; before anything is known a seat is taken for a second."""
    patience = Patience()
    assert patience.timed_out(SECTION, lag_nanocredits=0).retry_after_s == 1.0
    assert patience.full(full(0), SECTION).retry_after_s == 2.0
    patience.was_taken("up", 1.0, 1)
    assert patience.full(full(2**40), SECTION).retry_after_s == PATIENCE_MAX_S
