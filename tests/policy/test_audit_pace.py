"""How fast the background audit goes: its shares, its rounds, and what it says of their age."""

from __future__ import annotations

import pytest

from proxy.policy.auditing import Allowance, Figures, Pace, Round, accounts_due, begins_anew, oldest_visit_ms, walked_per_s

PACE = Pace(interval_s=60, walk_s=86_400, visits_per_s=200)
DONE = Round(0, ended_ms=1)


@pytest.mark.parametrize(
    ("accounts", "per_s"),
    [(60, 1.0), (3_000, 50.0), (1_000_000, 50.0), (8_640_000, 100.0), (100_000_000, 100.0)],
)
def test_a_small_book_is_walked_each_interval_and_a_large_one_at_a_bounded_rate(accounts: int, per_s: float) -> None:
    """At most a quarter of all visits unless the period needs more, and never more than half."""
    assert walked_per_s(accounts, DONE, PACE) == pytest.approx(per_s)


def test_the_first_round_goes_as_fast_as_one_may() -> None:
    assert walked_per_s(10, None, PACE) == 100.0


@pytest.mark.parametrize("accounts", [1, 50, 5_000, 200_000])
def test_a_round_keeps_its_pace_and_its_age_is_known(accounts: int) -> None:
    """Second by second: never more than its share at once, done in time, and no visit is older than is said, nor much younger."""
    ids = [f"{n:06}" for n in range(accounts)]
    visited_ms: dict[str, int] = {}
    now, last, at, now_ms, rounds = Round(0), None, 0, 0, 0
    while rounds < 2:
        if begins_anew(now, now_ms=now_ms, pace=PACE):
            now, last, at = Round(now_ms), now, 0
        due = 0 if now.ended_ms else accounts_due(now, last, accounts=accounts, now_ms=now_ms, pace=PACE)
        assert due <= 100
        page, at = ids[at : at + due], at + due
        if due:
            visited_ms.update(dict.fromkeys(page, now_ms))
            now = now.on(page, now_ms=now_ms, accounts=accounts, is_last=len(page) < due)
            rounds += bool(now.ended_ms)
        if now_ms % 50_000 == 0 and (oldest_ms := oldest_visit_ms(now, last)) is not None:
            oldest = min(visited_ms.values())
            assert oldest - (accounts / 50 * 1000 / 20 + 61_000) <= oldest_ms <= oldest
        now_ms += 1000
    assert (now.ended_ms - now.began_ms) / 1000 <= max(62, accounts / 50 + 2)


def test_what_was_missed_is_made_up_for_at_a_bounded_rate() -> None:
    """After an hour in which nobody audited, too."""
    assert accounts_due(Round(0, accounts=10), DONE, accounts=1_000_000, now_ms=3_600_000, pace=PACE) == 100


def test_a_dear_visit_is_paid_off_by_those_after_it() -> None:
    """Over time no more is done than is allowed, and what nobody used is not saved up."""
    allowance = Allowance()
    allowance.refill(0, per_s=10)
    allowance.spend(visits=1, read=2900)
    assert allowance.left == -20
    allowance.refill(2, per_s=10)
    assert allowance.left == 0
    allowance.refill(100, per_s=10)
    assert allowance.left == 10


def test_figures_add_up() -> None:
    assert Figures(1, 2, 3, 4) + Figures(10, 20, 30, 40) - Figures(1, 1, 1, 1) == Figures(10, 21, 32, 43)
