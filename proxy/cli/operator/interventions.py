"""Verbs of interventions: the policies against inequality under scarcity."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.shown import Shown
from proxy.cli.operator.tables import short_time, table

WIDTH = 80


def list_interventions(client: AdminClient, args: argparse.Namespace) -> Shown:
    shown = client.call("GET", "/interventions")
    figures = shown["figures"]
    seen = "nothing has been looked at yet"
    if shown["looked_at"] is not None:
        seen = (
            f"{'scarce' if shown['scarce'] else 'not scarce'}: {figures['scarcity']:.0%} of the demand waits or is refused; "
            f"{figures['users']} users today, Gini at least {figures['gini']:.2f}, topmost 1% {figures['top1']:.0%}, "
            f"{figures['denied']:.0%} of those who asked got nothing"
        )
    return Shown(shown, "\n".join(textwrap.wrap(seen, WIDTH)) + "\n\n" + _table(shown["items"]))


def set_mode(client: AdminClient, args: argparse.Namespace) -> Shown:
    mode = None if args.mode == "configured" else args.mode
    policy = client.call("PATCH", f"/interventions/{segment(args.policy)}", body={"mode": mode, "reason": args.reason})
    return Shown(policy, _table([policy]))


def _table(policies: list[dict[str, Any]]) -> str:
    rows = [
        (
            policy["policy"],
            policy["mode"],
            "file" if policy["set_by"] == "configuration" else "operator",
            f"{policy['strength']}/{policy['strength_max']}",
            "acts" if policy["active"] else "would act" if policy["proposed"] else "rests",
            short_time(policy["since"]),
        )
        for policy in policies
    ]
    lines = [table("POLICY MODE SET_BY STRENGTH STATE SINCE", rows)]
    for policy in policies:
        if policy["effect"]:
            verb = "does" if policy["active"] else "would do"
            lines += ["", f"{policy['policy']} {verb}:", *_indented(policy["effect"]), *_indented(_reach(policy))]
            lines += _indented(f"because {policy['reason']}")
    return "\n".join(lines)


def _reach(policy: dict[str, Any]) -> str:
    """Whom it reaches, and what that moves."""
    people = f"{policy['people']} {'person' if policy['people'] == 1 else 'people'} now"
    unit = "credits" if policy["unit"] == "credits" else f"units of {policy['unit']}"
    return people if policy["credits_per_day"] == "0" else f"{people}, about {float(policy['credits_per_day']):.4g} {unit} a day"


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
