"""Verbs of the price book, and tiers as they are written on the command line: `200000:input=2.5,output=15`."""

from __future__ import annotations

import argparse
import datetime as dt
import re
from typing import Any

from proxy.cli.operator.client import AdminClient
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import short_time, table

TOKEN_KINDS = {
    "input": "per million input tokens",
    "output": "per million output tokens",
    "cached_input": "per million input tokens read from a cache",
    "cache_write": "per million input tokens written to a cache",
    "cache_write_1h": "per million input tokens written to a cache for an hour",
    "audio_input": "per million audio input tokens",
    "reasoning": "per million reasoning tokens",
    "audio_output": "per million audio output tokens",
}
KINDS = {
    **TOKEN_KINDS,
    "image": "for each image",
    "character": "for each character of input",
    "tool_use": "for each use of one of the upstream's own tools, or search unit",
    "request": "for each request",
    "second": "for each second",
    "megabyte": "for each megabyte",
}
TIER_FORM = "TOKENS:KIND=CREDITS[,KIND=CREDITS...]"
_TIER = re.compile(r"(?P<above>[0-9]{1,9}):(?P<rates>[a-z0-9_]+=[0-9.]+(,[a-z0-9_]+=[0-9.]+)*)")


def list_prices(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/prices", query={"model": args.model}, items_max=args.max)
    return Shown(page, _prices(page["items"]), more(page))


def add_price(client: AdminClient, args: argparse.Namespace) -> Shown:
    now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    body = {"model": args.model, "effective": args.effective or now, "level": args.level, "reason": args.reason or None}
    body.update({kind: getattr(args, kind) for kind in KINDS}, batch_percent=args.batch_percent, tiers=args.tier)
    price = client.call("POST", "/prices", body={name: value for name, value in body.items() if value is not None})
    return Shown(price, _prices([price]))


def tier(text: str) -> dict[str, Any]:
    """A tier as the API takes it."""
    match = _TIER.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not {TIER_FORM}, such as 200000:input=2.5,output=15")
    rates = [rate.split("=") for rate in match["rates"].split(",")]
    unknown = [kind for kind, _ in rates if kind not in TOKEN_KINDS]
    if unknown or len({kind for kind, _ in rates}) < len(rates):
        raise argparse.ArgumentTypeError(f"{text!r}: each kind once, of {', '.join(TOKEN_KINDS)}")
    return {"above_input_tokens": int(match["above"]), **dict(rates)}


def written(tier: dict[str, Any]) -> str:
    """A tier of the API as it would be written here."""
    rates = ",".join(f"{kind}={tier[kind]}" for kind in TOKEN_KINDS if tier[kind] is not None)
    return f"{tier['above_input_tokens']}:{rates}"


def _prices(prices: list[dict[str, Any]]) -> str:
    """Only the kinds that some row prices have a column, and batches and tiers where some row has them."""
    kinds = [kind for kind in KINDS if kind in ("input", "output") or any(price[kind] not in (None, "0") for price in prices)]
    batched = ["BATCH_PERCENT#"] if any(price["batch_percent"] is not None for price in prices) else []
    tiered = ["TIERS"] if any(price["tiers"] for price in prices) else []
    rows = [
        (
            *(price["model"], short_time(price["effective"]), *(price[kind] for kind in kinds)),
            *(price["batch_percent"] for _ in batched),
            price["level"],
            *(" ".join(map(written, price["tiers"])) for _ in tiered),
            price["source"],
        )
        for price in prices
    ]
    titles = ["MODEL", "FROM", *(f"{kind.upper()}#" for kind in kinds), *batched, "LEVEL", *tiered, "SOURCE"]
    return table(" ".join(titles), rows)
