"""Verbs of plans and prices."""

from __future__ import annotations

import argparse
import datetime as dt
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.limits import written
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import short_time, table

KINDS = {
    "input": "per million input tokens",
    "output": "per million output tokens",
    "cached_input": "per million input tokens read from a cache",
    "cache_write": "per million input tokens written to a cache",
    "audio_input": "per million audio input tokens",
    "reasoning": "per million reasoning tokens",
    "audio_output": "per million audio output tokens",
    "image": "for each image",
    "request": "for each request",
    "second": "for each second",
    "megabyte": "for each megabyte",
}
_SETTINGS = ("limits", "weight", "models", "transfers")
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
    named = {"weight": args.weight, "models": args.model, "transfers": args.transfers, "reason": args.reason or None}
    plan.update({name: value for name, value in named.items() if value is not None})
    plan = client.call("PUT", f"/plans/{segment(args.name)}", body=plan)
    return Shown(plan, _plans([plan]))


def _plans(plans: list[dict[str, Any]]) -> str:
    rows = [
        (
            plan["name"],
            plan["weight"],
            " ".join(written(limit) for limit in plan["limits"]) or "unlimited",
            " ".join(plan["models"]),
            plan["transfers"],
        )
        for plan in plans
    ]
    return table("PLAN WEIGHT# LIMITS MODELS TRANSFERS", rows)


def list_prices(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/prices", query={"model": args.model}, items_max=args.max)
    return Shown(page, _prices(page["items"]), more(page))


def add_price(client: AdminClient, args: argparse.Namespace) -> Shown:
    now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    body = {"model": args.model, "effective": args.effective or now, "level": args.level, "reason": args.reason or None}
    body.update({kind: getattr(args, kind) for kind in KINDS})
    price = client.call("POST", "/prices", body={name: value for name, value in body.items() if value is not None})
    return Shown(price, _prices([price]))


def _prices(prices: list[dict[str, Any]]) -> str:
    """Only the kinds that some row prices have a column."""
    kinds = [kind for kind in KINDS if kind in ("input", "output") or any(price[kind] not in (None, "0") for price in prices)]
    rows = [
        (price["model"], short_time(price["effective"]), *(price[kind] for kind in kinds), price["level"], price["source"])
        for price in prices
    ]
    titles = " ".join(f"{kind.upper()}#" for kind in kinds)
    return table(f"MODEL FROM {titles} LEVEL SOURCE", rows)
