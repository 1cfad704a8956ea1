"""An estimate follows the caller's own recent costs, and never leaves what the request can cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.estimates import Estimates

costs = st.integers(0, 10**9)


def test_without_history_the_estimate_is_the_maximum() -> None:
    """A caller or a model never seen before is charged the worst case until its first request has ended."""
    estimates = Estimates()
    estimates.observe("alice", "small", 10)
    assert estimates.estimate("alice", "large", least_nanocredits=1, most_nanocredits=900) == 900
    assert estimates.estimate("bob", "small", least_nanocredits=1, most_nanocredits=900) == 900


def test_nine_in_ten_recent_costs_are_not_above_the_estimate() -> None:
    """The 90th percentile by nearest rank: of ten costs the ninth."""
    estimates = Estimates()
    for cost in (100, 20, 30, 40, 50, 60, 70, 80, 90, 10):
        estimates.observe("alice", "small", cost)
    assert estimates.estimate("alice", "small", least_nanocredits=0, most_nanocredits=1000) == 90


def test_old_costs_are_forgotten() -> None:
    """Only the last few count, so a caller that changes its habits is soon estimated well again."""
    estimates = Estimates(recent=4)
    for cost in (1000, 1000, 1000, 1000, 5, 5, 5, 5):
        estimates.observe("alice", "small", cost)
    assert estimates.estimate("alice", "small", least_nanocredits=0, most_nanocredits=1000) == 5


def test_remembered_pairs_are_bounded() -> None:
    """The account and model unused for longest is forgotten first."""
    estimates = Estimates(pairs_max=2)
    for account in ("alice", "bob", "alice", "carol"):
        estimates.observe(account, "small", 7)
    known = [
        account
        for account in ("alice", "bob", "carol")
        if estimates.estimate(account, "small", least_nanocredits=0, most_nanocredits=9) == 7
    ]
    assert known == ["alice", "carol"]


@given(history=st.lists(costs, max_size=40), least=costs, spread=costs)
def test_an_estimate_stays_within_what_the_request_can_cost(history: list[int], least: int, spread: int) -> None:
    """Neither below the prompt that is paid anyhow, nor above what the hold covers."""
    estimates = Estimates()
    for cost in history:
        estimates.observe("alice", "small", cost)
    assert least <= estimates.estimate("alice", "small", least_nanocredits=least, most_nanocredits=least + spread) <= least + spread
