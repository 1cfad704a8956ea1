"""Verbs of giving: loans, dividends, and what agents ask their people for."""

from __future__ import annotations

import argparse
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.limits import written
from proxy.cli.operator.shown import Shown, more
from proxy.cli.operator.tables import short_time, table


def create_loan(client: AdminClient, args: argparse.Namespace) -> Shown:
    body = {"from": args.source, "to": args.target, "credits": args.credits, "due_at": args.due, "reason": args.reason}
    loan = client.call("POST", "/loans", body=body)
    return Shown(loan, _loans([loan]))


def list_loans(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/loans", query={"account": args.account}, items_max=args.max)
    return Shown(page, _loans(page["items"]), more(page))


def show_loan(client: AdminClient, args: argparse.Namespace) -> Shown:
    loan = client.call("GET", f"/loans/{segment(args.loan_id)}")
    return Shown(loan, _loans([loan]))


def forgive_loan(client: AdminClient, args: argparse.Namespace) -> Shown:
    loan = client.call("POST", f"/loans/{segment(args.loan_id)}/forgive", body={"reason": args.reason})
    return Shown(loan, _loans([loan]))


def _loans(loans: list[dict[str, Any]]) -> str:
    columns = ("loan_id", "from", "to", "credits", "repaid", "state")
    rows = [(*(loan[name] for name in columns), short_time(loan["due_at"]), loan["reason"]) for loan in loans]
    return table("LOAN FROM TO CREDITS# REPAID# STATE DUE REASON", rows)


def create_dividend(client: AdminClient, args: argparse.Namespace) -> Shown:
    body = {"credits": args.credits, "by": args.by, "reason": args.reason, **({"expires_at": args.end} if args.end else {})}
    dividend = client.call("POST", "/dividends", body=body)
    return Shown(dividend, _dividends([dividend]), f"`compute-ledger dividend show {dividend['dividend_id']}` tells how far it came")


def list_dividends(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages("/dividends", items_max=args.max)
    return Shown(page, _dividends(page["items"]), more(page))


def show_dividend(client: AdminClient, args: argparse.Namespace) -> Shown:
    dividend = client.call("GET", f"/dividends/{segment(args.dividend_id)}")
    return Shown(dividend, _dividends([dividend]))


def _dividends(dividends: list[dict[str, Any]]) -> str:
    columns = ("dividend_id", "credits", "by", "state", "accounts", "paid_accounts", "paid", "reason")
    rows = [tuple(dividend[name] for name in columns) for dividend in dividends]
    return table("DIVIDEND CREDITS# BY STATE ENTITLED# PAID# CREDITS-PAID# REASON", rows)


def list_requests(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.pages(f"/accounts/{segment(args.account)}/requests", items_max=args.max)
    rows = []
    for asked in page["items"]:
        limits = " ".join(written(limit) for limit in asked["limits"])
        rows.append((asked["request_id"], asked["agent"], limits, short_time(asked["at"]), asked["reason"]))
    return Shown(page, table("REQUEST AGENT LIMITS AT REASON", rows), more(page))
