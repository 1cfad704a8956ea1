"""Verbs of pools: the seats of upstreams that serve only so many requests at a time."""

from __future__ import annotations

import argparse
from typing import Any

from proxy.cli.operator.client import AdminClient, segment
from proxy.cli.operator.shown import Shown
from proxy.cli.operator.tables import table


def list_pools(client: AdminClient, args: argparse.Namespace) -> Shown:
    page = client.call("GET", "/pools")
    return Shown(page, _table(page["items"]))


def show_pool(client: AdminClient, args: argparse.Namespace) -> Shown:
    pool = client.call("GET", f"/pools/{segment(args.pool)}")
    return Shown(pool, _table([pool]))


def drain(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _change(client, args, draining=True)


def reopen(client: AdminClient, args: argparse.Namespace) -> Shown:
    return _change(client, args, draining=False)


def _change(client: AdminClient, args: argparse.Namespace, *, draining: bool) -> Shown:
    pool = client.call("PATCH", f"/pools/{segment(args.pool)}", body={"draining": draining, "reason": args.reason})
    return Shown(pool, _table([pool]))


def _table(pools: list[dict[str, Any]]) -> str:
    rows = [
        (
            pool["name"],
            pool["seats"],
            pool["used"],
            pool["backlog"],
            pool["callers_waiting"],
            pool["lag"],
            pool["served"],
            pool["spare_used"],
            pool["spare_waiting"],
            pool["draining"],
        )
        for pool in pools
    ]
    return table("POOL SEATS# USED# BACKLOG# CALLERS# LAG# SERVED# SPARE_USED# SPARE_WAITING# DRAINING", rows)
