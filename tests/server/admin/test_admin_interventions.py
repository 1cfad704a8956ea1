"""Interventions over the admin API and the command line: what is shown of a dry run, and a mode that is changed."""

from __future__ import annotations

import asyncio
import re

import pytest

from proxy.ledger import Store, keys
from proxy.policy.orders import POLICIES
from tests.cli.test_operator import execute
from tests.server.admin.bench import COMMONS, SECRETS, Client, Health, controller_of
from tests.support.known_use import KnownUse, Person


async def scarce_and_unequal(store: Store, strength: int = 2) -> None:
    """Looks until the dry runs are at this strength."""
    use = KnownUse([Person(f"user:{n}", 40_000_000_000 if n < 5 else 1_000_000_000) for n in range(100)])
    controller = controller_of(store, use)
    await controller.tick()
    while (await controller.standing()).published.state.policies["cap"].strength < strength:
        use.deficit_nanocredits["queue_timeout"] = use.deficit_nanocredits.get("queue_timeout", 0) + 100_000_000_000
        await store.engine.command("DEL", keys.lease("interventions"))
        await controller.tick()


async def test_before_the_first_look_nothing_is_proposed(call: Client) -> None:
    """Every policy stands there, a dry run at strength 0."""
    shown = await call.done("GET", "/interventions")
    assert [item["policy"] for item in shown["items"]] == list(POLICIES)
    assert (shown["looked_at"], shown["scarce"], shown["next"]) == (None, False, None)
    for item in shown["items"]:
        assert (item["mode"], item["set_by"], item["strength"], item["active"], item["proposed"], item["effect"]) == (
            *("dry_run", "configuration", 0, False, False),
            "",
        )


async def test_a_dry_run_shows_what_it_would_do_and_why(call: Client, store: Store) -> None:
    """With the figures of its last step, and the line in credits."""
    await scarce_and_unequal(store)
    shown = await call.done("GET", "/interventions")
    assert shown["scarce"]
    assert shown["figures"]["users"] == 100
    assert shown["figures"]["gini"] == pytest.approx(200 / 295 - 0.05, abs=1e-3)
    cap = await call.done("GET", "/interventions/cap")
    assert cap == next(item for item in shown["items"] if item["policy"] == "cap")
    assert (cap["mode"], cap["strength"], cap["active"], cap["proposed"]) == ("dry_run", 2, False, True)
    assert "credits per weight today takes only seats that nobody else wants" in cap["effect"]
    assert "Gini is 0.6" in cap["reason"]
    assert (cap["people"], cap["credits_per_day"]) == (5, "0")
    price = await call.done("GET", "/interventions/progressive_price")
    assert price["people"] == 5
    assert float(price["credits_per_day"]) > 0


async def test_an_owner_changes_a_mode_and_it_is_written_down(call: Client, store: Store) -> None:
    """Who, from what, to what, why; null gives it back to the configuration."""
    changed = await call.done("PATCH", "/interventions/tithe", {"mode": "on", "reason": "agreed in council"}, key="once")
    assert (changed["mode"], changed["set_by"]) == ("on", "operator")
    await call.done("PATCH", "/interventions/tithe", {"mode": "on", "reason": "agreed in council"}, key="once")
    back = await call.done("PATCH", "/interventions/tithe", {"mode": None})
    assert (back["mode"], back["set_by"]) == ("dry_run", "configuration")
    events = [event for event in (await call.done("GET", "/events"))["items"] if event["action"] == "intervention.change"]
    assert [(event["subject"], event["before"], event["after"], event["reason"]) for event in reversed(events)] == [
        ("tithe", {"mode": "dry_run"}, {"mode": "on"}, "agreed in council"),
        ("tithe", {"mode": "on"}, {"mode": "dry_run"}, ""),
    ]


async def test_what_needs_a_commons_is_not_switched_on_without_one(call: Client, store: Store, health: Health) -> None:
    """The refusal says what to do, and the same call is done once that is."""
    health.commons = None
    body = {"mode": "on", "reason": "agreed"}
    reply = await call("PATCH", "/admin/v1/interventions/tithe", body, key="later")
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    assert "[commons]" in reply.json["hint"]
    health.commons = COMMONS
    assert (await call.done("PATCH", "/interventions/tithe", body, key="later"))["mode"] == "on"


@pytest.mark.parametrize("body", [{}, {"mode": "always"}, {"mode": 1}, {"modes": "on"}])
async def test_what_is_no_mode_is_refused(call: Client, body: dict[str, object]) -> None:
    """With the place of the mistake."""
    assert (await call("PATCH", "/admin/v1/interventions/cap", body)).status == 400


async def test_an_unknown_policy_is_not_found(call: Client) -> None:
    """The hint names those that there are."""
    reply = await call("PATCH", "/admin/v1/interventions/tax", {"mode": "on"})
    assert (reply.status, reply.json["code"]) == (404, "not_found")
    assert "progressive_price" in reply.json["hint"]


async def test_the_command_line_lists_and_sets(
    address: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table and sentences within 80 columns."""
    monkeypatch.setenv("COMPUTE_LEDGER_ADMIN_URL", address)
    monkeypatch.setenv("COMPUTE_LEDGER_ADMIN_TOKEN", SECRETS["owner"])
    await scarce_and_unequal(store)
    assert await asyncio.to_thread(execute, "intervention list") == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines()), out
    assert "cap would do:" in out
    assert "  5 people now\n" in out
    assert re.search(r"5 people now, about [0-9.e+]+ credits a day", out)
    assert "scarce: " in out
    assert await asyncio.to_thread(execute, "intervention set cap off --reason enough") == 0
    assert "operator" in capsys.readouterr().out
    assert await asyncio.to_thread(execute, "intervention set cap configured") == 0
    assert "file" in capsys.readouterr().out
    assert await asyncio.to_thread(execute, "intervention set cap sometimes") == 2
