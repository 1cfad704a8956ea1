"""Verbs that move credits: grant, transfer, adjust."""

from __future__ import annotations

import argparse

from proxy.cli.operator.accounts import grant_table
from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.shown import Shown


def add_grant(client: AdminClient, args: argparse.Namespace) -> Shown:
    body = {"credits": args.credits, "priority": args.priority, "reason": args.reason}
    if args.start:
        body["effective_at"] = args.start
    if args.end:
        body["expires_at"] = args.end
    grant = client.call("POST", f"/accounts/{segment(args.account)}/grants", body=body)
    return Shown(grant, grant_table([grant]))


def list_grants(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.call("GET", f"/accounts/{segment(args.account)}/grants")
    return Shown(page, grant_table(page["items"]))


def revoke_grant(client: AdminClient, args: argparse.Namespace) -> Shown:
    path = f"/accounts/{segment(args.account)}/grants/{segment(args.grant_id)}"
    grant = client.call("DELETE", path, query={"reason": args.reason or None})
    return Shown(grant, grant_table([grant]))


def transfer(client: AdminClient, args: argparse.Namespace) -> Shown:
    body = {"from": args.source, "to": args.target, "credits": args.credits, "reason": args.reason}
    moved = client.call("POST", "/transfers", body=body)
    return Shown(moved, f"{moved['credits']} credits went from {moved['from']} to {moved['to']}  ({moved['id']})")


def adjust(client: AdminClient, args: argparse.Namespace) -> Shown:
    body = {"credits": args.credits, "reason": args.reason}
    adjustment = client.call("POST", f"/accounts/{segment(args.account)}/adjustments", body=body)
    text = f"spent of {adjustment['account']} changed by {adjustment['spent']} credits  ({adjustment['id']})"
    if adjustment["overrun"] != "0":
        text += f"; {adjustment['overrun']} could not be paid and stand as overrun"
    return Shown(adjustment, text)
