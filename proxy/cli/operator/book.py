"""Verbs of plans."""

from __future__ import annotations

import argparse
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.limits import written
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import table

_RULES = ("transfers", "loans", "expired_to_commons", "scavenge")
_SETTINGS = ("limits", "weight", "models", *_RULES, "requests_per_minute", "concurrent_requests", "unit")
_LIMIT_SETTINGS = ("credits", "window", "time_zone", "rollover", "rollover_max")


def list_plans(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/plans", items_max=10_000)
    return Shown(page, _plans(page["items"]), more(page))


def show_plan(client: AdminClient, args: argparse.Namespace) -> Shown:
    plan = client.call("GET", f"/plans/{segment(args.name)}")
    return Shown(plan, _plans([plan]))


def set_plan(client: AdminClient, args: argparse.Namespace) -> Shown:
    """PUT takes a whole plan, so what is not named here is read first."""
    plans = client.pages("/plans", items_max=10_000)["items"]
    plan: dict[str, Any] = next(({name: p[name] for name in _SETTINGS} for p in plans if p["name"] == args.name), {})
    plan["limits"] = [{name: limit[name] for name in _LIMIT_SETTINGS} for limit in plan.get("limits", [])]
    if args.limit or args.no_limits:
        plan["limits"] = args.limit or []
    leaves = {name: getattr(args, name) for name in _RULES}
    named = {"weight": args.weight, "models": args.model, "unit": args.unit, **leaves, "reason": args.reason or None}
    plan.update({name: value for name, value in named.items() if value is not None})
    rates = {"requests_per_minute": args.requests_per_minute, "concurrent_requests": args.concurrent_requests}
    plan.update({name: value or None for name, value in rates.items() if value is not None})
    plan = client.call("PUT", f"/plans/{segment(args.name)}", body=plan)
    return Shown(plan, _plans([plan]))


def _plans(plans: list[dict[str, Any]]) -> str:
    rows = [
        (
            plan["name"],
            plan["weight"],
            plan["unit"],
            " ".join(written(limit) for limit in plan["limits"]) or "unlimited",
            " ".join(plan["models"]),
            plan["transfers"],
            plan["requests_per_minute"] or "-",
            plan["concurrent_requests"] or "-",
        )
        for plan in plans
    ]
    return table("PLAN WEIGHT# UNIT LIMITS MODELS TRANSFERS REQUESTS/MIN# CONCURRENT#", rows)
