"""Which levels credits leave on their way from one account to another."""

from __future__ import annotations

import pytest

from proxy.domain import AccountId, Path
from proxy.policy.paths import levels_left


def path(text: str) -> Path:
    return tuple(AccountId(part) for part in text.split())


@pytest.mark.parametrize(
    ("giver", "receiver", "left"),
    [
        ("ann", "bob", "ann"),
        ("org ann", "eve", "org ann"),
        ("org ann", "other eve", "org ann"),
        ("org team ann", "org bob", "team ann"),
        ("org team ann", "org team bob", "ann"),
        ("org", "org ann", "org"),
        ("org ann", "org", "org ann"),
        ("org team ann", "org team", "team ann"),
        ("org team ann", "org", "org team ann"),
    ],
)
def test_credits_leave_every_level_that_does_not_stand_above_both(giver: str, receiver: str, left: str) -> None:
    """Whoever gives, and all above that do not bound what the receiver spends of it: the receiver's own level is raised by it."""
    assert levels_left(path(giver), path(receiver)) == path(left)


@pytest.mark.parametrize(
    ("giver", "receiver", "left"),
    [("org ann", "org", "ann"), ("org team ann", "org", "team ann"), ("org ann", "eve", "org ann"), ("org", "org ann", "org")],
)
def test_what_comes_back_to_a_level_above_does_not_leave_it(giver: str, receiver: str, left: str) -> None:
    """It was taken there, so its grant raises nothing beyond what was."""
    assert levels_left(path(giver), path(receiver), comes_back=True) == path(left)
