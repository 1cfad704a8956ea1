"""Verbs of accounts, their API keys and their limits."""

from __future__ import annotations

import argparse
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.limits import written
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import facts, in_words, short_time, table
from proxy.domain import CREDITS


def create(client: AdminClient, args: argparse.Namespace) -> Shown:
    body = {"id": args.account, "parent": args.parent, **_settings(args)}
    if args.limit:
        body["limits"] = args.limit
    return _shown(client.call("POST", "/accounts", body=_given(body)))


def list_(client: AdminClient, args: argparse.Namespace) -> Shown:
    query = {"parent": args.parent, "plan": args.plan, "status": args.status}
    page = client.pages("/accounts", query=query, items_max=args.max)
    unit = ["unit"] if any(account["unit"] != CREDITS for account in page["items"]) else []
    rows = [
        (
            account["id"],
            account["kind"],
            account["plan"],
            *(account[name] for name in unit),
            account["status"],
            account["weight"],
            "unlimited" if account["available"] is None else account["available"],
            account["held"],
            account["spent"],
            " ".join(written(limit) for limit in account["limits"]) or "-",
        )
        for account in page["items"]
    ]
    titles = ["ACCOUNT KIND PLAN", *(name.upper() for name in unit), "STATUS WEIGHT# AVAILABLE# HELD# SPENT# LIMITS"]
    return Shown(page, table(" ".join(titles), rows), more(page))


def show(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _shown(client.call("GET", f"/accounts/{segment(args.account)}"))


def change(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _patch(client, args, _given(_settings(args)))


def suspend(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _patch(client, args, {"status": "suspended"})


def resume(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _patch(client, args, {"status": "active"})


def close(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _patch(client, args, {"status": "closed"})


def show_limits(client: AdminClient, args: argparse.Namespace) -> Shown:
    account = client.call("GET", f"/accounts/{segment(args.account)}")
    return Shown({"items": account["limits"], "next": None}, _limits(account))


def set_limits(client: AdminClient, args: argparse.Namespace) -> Shown:
    limits = None if args.from_plan else args.limit
    body = {"limits": limits, **({"reason": args.reason} if args.reason else {})}
    account = client.call("PATCH", f"/accounts/{segment(args.account)}", body=body)
    return Shown(account, _limits(account))


def create_key(client: AdminClient, args: argparse.Namespace) -> Shown:
    key = client.call("POST", f"/accounts/{segment(args.account)}/keys", body=_given({"reason": args.reason or None}))
    if key["key"] is None:
        return Shown(key, f"{key['key_id']} was created before under this idempotency key; its secret is not shown again")
    return Shown(key, key["key"], f"{key['key_id']}: keep the key now, it is not shown again")


def list_keys(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.call("GET", f"/accounts/{segment(args.account)}/keys")
    rows = [(key["key_id"], short_time(key["created_at"]), short_time(key["revoked_at"])) for key in page["items"]]
    return Shown(page, table("KEY CREATED REVOKED", rows))


def revoke_key(client: AdminClient, args: argparse.Namespace) -> Shown:
    key = client.call("DELETE", f"/keys/{segment(args.key_id)}", query={"reason": args.reason or None})
    return Shown(key, f"{key['key_id']} of {key['account']} is revoked since {short_time(key['revoked_at'])}")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    labels = dict(args.label) if args.label else None
    return {"plan": args.plan, "weight": args.weight, "labels": labels, "reason": args.reason or None}


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _patch(client: AdminClient, args: argparse.Namespace, changes: dict[str, Any]) -> Shown:
    body = {**changes, **({"reason": args.reason} if args.reason else {})}
    return _shown(client.call("PATCH", f"/accounts/{segment(args.account)}", body=body))


def _shown(account: dict[str, Any]) -> Shown:
    available = "unlimited" if account["available"] is None else f"{account['available']} {in_words(account['unit'])}"
    pairs = [
        ("path", " > ".join(account["path"])),
        ("status", account["status"]),
        ("kind", account["kind"]),
        ("plan", account["plan"]),
        ("weight", account["weight"]),
        ("labels", ", ".join(f"{name}={value}" for name, value in sorted(account["labels"].items()))),
        ("created", short_time(account["created_at"])),
        ("available", available),
    ]
    totals = ("spent", "held", "granted", "given", "expired", "revoked", "adjusted", "overrun")
    pairs.append(("in total", "  ".join(f"{name} {account[name]}" for name in totals if account[name] != "0") or "nothing yet"))
    parts = [account["id"], facts(pairs), "", _limits(account)]
    if account["grants"]:
        parts += ["", "grants", grant_table(account["grants"], indent="  ")]
    return Shown(account, "\n".join(parts))


def _limits(account: dict[str, Any]) -> str:
    heading = "limits (its own)" if account["own_limits"] else f"limits (of plan {account['plan']})"
    if not account["limits"]:
        return f"{heading}: none"
    rows = [
        (written(limit), limit["remaining"], limit["spent"], limit["held"], limit["carried"], short_time(limit["resets_at"]))
        for limit in account["limits"]
    ]
    return heading + "\n" + table("LIMIT REMAINING# SPENT# HELD# CARRIED# RESETS", rows, indent="  ")


def grant_table(grants: list[dict[str, Any]], *, indent: str = "") -> str:
    rows = [
        (
            grant["grant_id"],
            grant["credits"],
            grant["remaining"],
            grant["priority"],
            short_time(grant["effective_at"]),
            short_time(grant["expires_at"]),
            grant["reason"],
        )
        for grant in grants
    ]
    return table("GRANT CREDITS# REMAINING# PRIORITY# STARTS EXPIRES REASON", rows, indent=indent)
