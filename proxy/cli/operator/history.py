"""Verbs that tell what happened: journal, holds, the audit log."""

from __future__ import annotations

import argparse
import json
from decimal import Decimal
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.limits import written
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import table

ENTRIES = 20


def journal(client: AdminClient, args: argparse.Namespace) -> Shown:
    path = f"/accounts/{segment(args.account)}/journal"
    if args.csv:
        return Shown(chunks=client.export(path, query={"limit": args.limit}), chunks_only=True)
    page = client.pages(path, items_max=args.limit or ENTRIES)
    rows = [
        (_seconds(entry["at"]), entry["verb"], entry["credits"], _moved(entry, args.account), entry["memo"], entry["id"])
        for entry in page["items"]
    ]
    note = "there are more; --limit shows them, --csv exports all" if page["next"] is not None else ""
    return Shown(page, table("TIME VERB CREDITS# HERE MEMO ID", rows), note)


def _moved(entry: dict[str, Any], account: str) -> str:
    """What the entry came to in this account, for each limit and grant: what it spent or else held or else had more or less of."""
    changes: dict[str, dict[str, Decimal]] = {}
    for posting in entry["postings"]:
        if posting["account"] == account:
            source = "grant" if posting["source"].startswith("g:") else posting["source"].partition("#")[0].removeprefix("w:")
            change = changes.setdefault(source, {})
            for place, sign in ((posting["from"], -1), (posting["to"], 1)):
                change[place] = change.get(place, Decimal(0)) + sign * Decimal(posting["credits"])
    return ", ".join(filter(None, (_outcome(source, change) for source, change in changes.items())))


def _outcome(source: str, change: dict[str, Decimal]) -> str:
    moved = {place: amount for place, amount in change.items() if amount and place != "world"}
    shown = {place: moved[place] for place in moved if place not in ("left", "held")} or {
        place: moved[place] for place in moved if place == "held"
    }
    amounts = " ".join(f"{place} {amount.normalize():f}" for place, amount in (shown or moved).items())
    return f"{amounts} ({source})" if amounts else ""


def _seconds(moment: str) -> str:
    return f"{moment[:10]} {moment[11:19]}Z"


def list_holds(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages(f"/accounts/{segment(args.account)}/holds", items_max=args.max)
    rows = [
        (
            hold["hold_id"],
            " > ".join(hold["path"]),
            hold["credits"],
            hold["spent"],
            _seconds(hold["created_at"]),
            _seconds(hold["expires_at"]),
        )
        for hold in page["items"]
    ]
    return Shown(page, table("HOLD PATH CREDITS# SPENT# SINCE EXPIRES", rows), more(page))


def list_events(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/events", items_max=args.max)
    rows = [
        (
            _seconds(event["at"]),
            event["actor"],
            event["action"],
            event["subject"],
            event["reason"],
            _change(event["before"], event["after"]),
        )
        for event in page["items"]
    ]
    return Shown(page, table("TIME WHO ACTION SUBJECT WHY CHANGE", rows), more(page))


def _change(before: Any, after: Any) -> str:
    """What an event changed: the members that differ, each with what it was and what it is."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return _short(after if after is not None else before)
    names = [name for name in after if before.get(name) != after[name]]
    return ", ".join(f"{name} {_short(before.get(name))} > {_short(after[name])}" for name in names)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_short(member)}" for name, member in value.items() if member not in (None, "0", {}, [])) or "-"
    if isinstance(value, list):
        return "[" + " ".join(written(item) if isinstance(item, dict) and "window" in item else _short(item) for item in value) + "]"
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
