"""`compute-ledger price import`: the prices that genai-prices knows, as rows for the configuration file, or added over the admin API."""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from proxy.cli.operator.client import AdminClient, CommandFailed, client_from_environment
from proxy.cli.operator.known_prices import Found, Known, Wanted, find
from proxy.domain import Price, Tier, credits_from_nanocredits
from proxy.policy.price_row import KINDS, row_toml
from proxy.policy.pricing import TOKEN_KINDS

ROWS_MAX = 1_000_000
_SUMMARY = "Import the prices that the package genai-prices knows, with their dates and tiers"


def add_to(verbs: Any) -> None:
    """Add the verb; `run` takes the parsed arguments and returns the exit code."""
    parser = verbs.add_parser("import", help=_SUMMARY, description=f"{_SUMMARY}. What a row cannot say is told on standard error.")
    parser.add_argument(
        "--provider",
        action="append",
        default=[],
        metavar="ID",
        help="whose prices; the first named counts first (default: each model's maker)",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="PATTERN",
        help="a model's exact name, or a prefix with one trailing *; may be repeated",
    )
    parser.add_argument(
        "--since", type=_date, metavar="DATE", help="only what is in force on that date, or later (default: all that is known)"
    )
    parser.add_argument(
        "--credits-per-dollar", type=_factor, default=Decimal(1), metavar="CREDITS", help="what a dollar is here (default 1)"
    )
    parser.add_argument(
        "--nearest", action="store_true", help="also models of which some tokens would cost too little, because they have no kind here"
    )
    parser.add_argument("--level", metavar="NAME", help="the level that these models stand for")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--file", type=Path, metavar="PATH", help="write the rows there (default: to standard output)")
    target.add_argument("--apply", action="store_true", help="add the rows over the admin API; those that are there already stay")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
    parser.add_argument("--reason", default="", help="with --apply: why; it stands in the audit log")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the import: 0 done, 1 failed, with one line on standard error beside what there is to tell."""
    wanted = Wanted(tuple(args.provider), tuple(args.model), args.since, args.credits_per_dollar, args.nearest)
    try:
        found = _in_level(find(wanted), args.level)
        for note in found.notes:
            print(note, file=sys.stderr)
        if args.apply:
            print(_apply(client_from_environment(), found, args.reason))
        elif args.file is not None:
            _write(args.file, _text(found, wanted), force=args.force)
            print(f"{_count(found)} written to {args.file}")
        else:
            print(_text(found, wanted), end="")
    except CommandFailed as error:
        print(f"compute-ledger: {error}", file=sys.stderr)
        return 1
    return 0


def _in_level(found: Found, level: str | None) -> Found:
    """The same, all rows naming a level."""
    known = (replace(each, rows=tuple(replace(row, level=level) for row in each.rows)) for each in found.known)
    return replace(found, known=tuple(known))


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2026-01-31") from error


def _factor(text: str) -> Decimal:
    try:
        factor = Decimal(text)
    except InvalidOperation:
        factor = Decimal(0)
    if not factor.is_finite() or not Decimal("1e-6") <= factor <= Decimal("1e6"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.000001 to 1000000")
    return factor


def _count(found: Found) -> str:
    rows = sum(len(known.rows) for known in found.known)
    return f"{rows} {'row' if rows == 1 else 'rows'}"


# --- for the file ------------------------------------------------------------------------------------------------------------------


def _text(found: Found, wanted: Wanted) -> str:
    head = (
        f"# Prices in credits, at {wanted.credits_per_dollar:f} for a dollar, from genai-prices {found.version}.\n"
        "# Made by `compute-ledger price import`; belongs into the configuration file.\n"
    )
    by_source = itertools.groupby(found.known, key=lambda known: known.source)
    return head + "".join(f"\n# {source}\n" + "".join(map(_rows_text, all_known)) for source, all_known in by_source)


def _rows_text(known: Known) -> str:
    return "".join(f"{row_toml(row)}\n" for row in known.rows)


def _write(file: Path, text: str, *, force: bool) -> None:
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise CommandFailed(f"{file} is there already; --force overwrites it") from error
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error


# --- over the admin API ------------------------------------------------------------------------------------------------------------


def _apply(client: AdminClient, found: Found, reason: str) -> str:
    """Add each row that is not there; rows never change, so one that is there with other values stays, and is told."""
    there = {(row["model"], row["effective"]): _values(row) for row in client.pages("/prices", items_max=ROWS_MAX)["items"]}
    added, same, different = 0, 0, 0
    for body in _bodies(found.known):
        known = there.get((body["model"], body["effective"]))
        if known is None:
            key = "price-import-" + hashlib.sha256(json.dumps([body, reason]).encode()).hexdigest()[:32]
            client.with_key(key).call("POST", "/prices", body={**body, "reason": reason})
            added += 1
        elif known == _values(body) | ({} if "level" in body else {"level": known["level"]}):
            same += 1
        else:
            print(f"{body['model']} from {body['effective']}: has another price or level already, which stays", file=sys.stderr)
            different += 1
    return f"{added} added, {same} there already, {different} there with another price"


def _bodies(all_known: tuple[Known, ...]) -> Iterator[dict[str, Any]]:
    """The rows as the API takes them and shows them."""
    for known in all_known:
        for row in known.rows:
            tiers = [{"above_input_tokens": tier.above_input_tokens, **_rates(tier, TOKEN_KINDS)} for tier in row.tiers]
            request = {"request": credits_from_nanocredits(row.request)} if row.request else {}
            level = {"level": row.level} if row.level is not None else {}
            effective = f"{dt.datetime.fromtimestamp(row.effective_at_ms / 1000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
            yield {"model": row.model, "effective": effective, **_rates(row, KINDS), **request, **level, "tiers": tiers}


def _rates(row: Price | Tier, kinds: tuple[str, ...]) -> dict[str, str]:
    return {kind: credits_from_nanocredits(amount) for kind in kinds if (amount := getattr(row, kind)) is not None}


def _values(row: dict[str, Any]) -> dict[str, Any]:
    """What a row charges and stands for, however much of it is spelt out."""
    tiers = [{name: value for name, value in tier.items() if value is not None} for tier in row["tiers"]]
    return {kind: row.get(kind) for kind in KINDS} | {"request": row.get("request", "0"), "level": row.get("level"), "tiers": tiers}
