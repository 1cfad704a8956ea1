"""Verbs of levels: named classes of capability, whose units budgets may count in."""

from __future__ import annotations

import argparse
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import facts, short_time, table


def list_levels(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/levels", items_max=10_000)
    rows = [
        (level["name"], level["index"], short_time(level["since"]), level["model"], len(level["members"]), " ".join(level["plans"]))
        for level in page["items"]
    ]
    return Shown(page, table("LEVEL INDEX# SINCE MODEL MODELS# PLANS", rows), more(page))


def show_level(client: AdminClient, args: argparse.Namespace) -> Shown:
    level = client.call("GET", f"/levels/{segment(args.name)}")
    falls = f"by a factor of {level['deflation']:,.10g} in 365.25 days" if level["deflation"] > 1 else "not at all"
    pairs = [
        ("index", "none yet" if level["index"] is None else f"{level['index']} credits a unit"),
        ("since", short_time(level["since"])),
        ("a unit", f"a million tokens, {level['input_parts']} parts input to {level['output_parts']} of output"),
        ("may rise", level["may_rise"]),
        *([("rises, once, at", short_time(level["rises_at"]))] if level["rises_at"] is not None else []),
        ("planned to fall", f"{falls} after the last price that is known"),
        ("plans", " ".join(level["plans"])),
    ]
    parts = [level["name"], facts(pairs), "", "models", _members(level), "", "how the index moved", _steps(level)]
    return Shown(level, "\n".join(parts))


def _members(level: dict[str, Any]) -> str:
    rows = [(member["model"], member["blended"], short_time(member["effective"])) for member in level["members"]]
    return table("MODEL BLENDED# FROM", rows, indent="  ")


def _steps(level: dict[str, Any]) -> str:
    """Those that lie ahead among them."""
    rows = [(short_time(step["at"]), step["index"], step["model"]) for step in level["steps"]]
    return table("FROM INDEX# MODEL", rows, indent="  ")
