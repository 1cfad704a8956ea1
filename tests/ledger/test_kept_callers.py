"""What a process keeps of callers is let go with whatever it was made from, and costs nothing for changes that concern nobody kept."""

from __future__ import annotations

import time

import pytest

from proxy.domain import AccountId, Caller, Limit, Plan
from proxy.ledger import callers
from proxy.ledger.callers import KeptCallers

PLAN = Plan("everyone", (Limit(1, "ever"),))


def caller(*path: str) -> Caller:
    accounts = tuple(AccountId(name) for name in path)
    return Caller(accounts[-1], accounts, PLAN, "key")


def test_a_change_lets_go_whoever_has_the_account_on_its_path_and_nobody_else() -> None:
    """An organisation's all its people, a person's its agents, too; a key's itself."""
    kept = KeptCallers()
    paths = {"ann": ("acme", "ann"), "bot": ("acme", "ann", "bot"), "bob": ("acme", "bob"), "solo": ("solo",)}

    def after(change: str) -> set[str]:
        for digest, path in paths.items():
            kept.keep(digest, caller(*path))
        kept.keep("unknown", None)
        kept.forget_account(change)
        return {digest for digest in (*paths, "unknown") if digest in kept}

    assert after("acme") == {"solo", "unknown"}
    assert after("ann") == {"bob", "solo", "unknown"}
    assert after("bot") == {"ann", "bob", "solo", "unknown"}
    assert after("nobody") == {*paths, "unknown"}
    kept.keep("ann", caller("ann"))  # moved out of its organisation
    kept.forget_account("acme")
    assert "ann" in kept
    kept.forget("ann")
    assert "ann" not in kept
    assert kept.get("solo") == caller("solo")


def test_a_thousand_changes_beside_a_hundred_thousand_callers_take_a_moment() -> None:
    """As while accounts are opened by a script: everybody's requests go on beside it."""
    kept = KeptCallers()
    for n in range(100_000):
        kept.keep(f"{n:064x}", caller(f"org:{n // 20}", f"user:{n}"))
    began_s = time.process_time()
    for n in range(1_000):
        kept.forget_account(f"new:{n}")
        kept.forget_account(f"user:{n}")
    assert time.process_time() - began_s < 0.5  # looking at every caller takes some twenty seconds
    assert f"{0:064x}" not in kept
    assert f"{1_000:064x}" in kept


def test_no_more_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor anything about those that are no longer kept."""
    monkeypatch.setattr(callers, "CALLERS_MAX", 3)
    kept = KeptCallers()
    for n in range(10):
        kept.keep(str(n), caller("acme", str(n)))
    assert [n for n in range(10) if str(n) in kept] == [9]
    for n in range(10):
        kept.forget(str(n))
    assert not kept._on
