"""Verbs of equality: how equally use is spread over people, and counting it anew."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from proxy.cli.curve import lorenz_lines
from proxy.cli.operator.client import AdminClient
from proxy.cli.operator.shown import Shown
from proxy.cli.operator.tables import facts, short_time, table

WINDOWS: Final = ("day", "week", "month", "half_life")
AGAIN_S: Final = 0.5


def show(client: AdminClient, args: argparse.Namespace) -> Shown:
    told = client.call("GET", "/equality", query={"window": args.window, "group": args.group, "unit": args.unit})
    parts = [_heading(told), _figures(told), _curve(told), _groups(told) if args.group is not None else ""]
    return Shown(told, "\n\n".join(part for part in parts if part))


def recount(client: AdminClient, args: argparse.Namespace) -> Shown:
    """Waits for the end, however many calls it takes."""
    while (told := client.call("POST", "/equality/recount"))["running"]:
        time.sleep(AGAIN_S)
    rows = [(drift["window"], drift["people"], drift["use"], f"{100 * drift['of_use']:.4f}%") for drift in told["drifts"]]
    counted = f"counted {told['accounts']} accounts anew in {told['took_ms'] / 1000:.1f} s; the figures had drifted by"
    return Shown(told, f"{counted}\n\n{table('WINDOW PEOPLE# CREDITS# OF_USE', rows)}")


def _heading(told: dict[str, Any]) -> str:
    until = f" to {short_time(told['resets_at'])}" if told["resets_at"] else ", older use counts less"
    of = "" if told["unit"] == "credits" else f" in units of {told['unit']}"
    others = ", ".join(f"{people} in {unit}" for unit, people in told["people_by_unit"].items() if unit != told["unit"])
    besides = f"\n  besides these people there are {others}: --unit shows them" if others else ""
    return f"{told['window']}: use per weight{of} from {short_time(told['starts_at'])}{until}{besides}"


def _figures(told: dict[str, Any]) -> str:
    zero = told["zero"]
    pairs: list[tuple[str, object]] = [
        ("people", f"{told['accounts']}: {told['active']} active, {zero['idle']} idle, {zero['denied']} denied all they asked for"),
        ("work", f"{told['demand']} asked for, {told['served']} served, {told['deficit']} not"),
        *((f"  {reason}", credits) for reason, credits in told["deficit_reasons"].items()),
        ("least served", _percent(told["least_served"], "of what it asked for")),
        ("utilisation", _percent(told["utilisation"], "of the seat-time there was")),
    ]
    if told["gini"] is not None:
        shares = told["shares"]
        pairs += [
            ("gini", f"{_interval(told['gini'])}  (0: all the same, 1: one has all)"),
            ("jain", f"{told['jain']:.4f}  (1: all the same)"),
            ("theil", f"{sum(told['theil'].values()):.4f}{_parts(told)}"),
            ("atkinson", f"{told['atkinson']:.4f}"),
            ("top 1 %, 10 %", f"{_percent(shares['top1'])}, {_percent(shares['top10'])} of all use"),
            ("bottom 40 %, 50 %", f"{_percent(shares['bottom40'])}, {_percent(shares['bottom50'])} of all use"),
            ("p90 / p10", _interval(told["p90_p10"], places=2) if told["p90_p10"] else "no use at p10"),
        ]
    if told["drift"] is not None:
        pairs.append(("drift", f"{100 * told['drift']:.4f} % of use, put right by the last recount"))
    return facts(pairs)


def _curve(told: dict[str, Any]) -> str:
    if told["lorenz"] is None:
        return "  nobody has used anything yet: there is nothing to divide"
    plain = "utf" not in (sys.stdout.encoding or "").lower()
    return "\n".join(["  share of all use", *lorenz_lines([(p, share) for p, share in told["lorenz"]], plain=plain)])


def _groups(told: dict[str, Any]) -> str:
    rows = [
        (
            group["name"] or "(without)",
            group["accounts"],
            _percent(group["accounts_share"]),
            _percent(group["use_share"]),
            _interval(group["gini"]) if group["gini"] else None,
        )
        for group in told["groups"]
    ]
    text = table(f"{told['group'].upper()} PEOPLE# OF_PEOPLE# OF_USE# GINI", rows)
    notes = []
    if told["groups_left_out"]:
        notes.append(f"{told['groups_left_out']} more with less use")
    if told["groups_suppressed"]:
        notes.append(f"{told['groups_suppressed']} not shown: too few people, or too much of one")
    return "\n".join([text, *notes])


def _parts(told: dict[str, Any]) -> str:
    theil = told["theil"]
    return f"  ({theil['within']:.4f} within, {theil['between']:.4f} between)" if told["group"] is not None else ""


def _interval(interval: dict[str, float], *, places: int = 4) -> str:
    return f"{interval['low']:.{places}f} to {interval['high']:.{places}f}"


def _percent(share: float | None, of: str = "") -> str:
    return "-" if share is None else f"{100 * share:.1f} % {of}".rstrip()
