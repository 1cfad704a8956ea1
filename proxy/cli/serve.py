"""`compute-ledger serve`: the proxy, and what it tells whoever starts it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from urllib.parse import urlsplit

from proxy.app import nursery, parent
from proxy.app.settings import Overrides, Source
from proxy.config import default_document
from proxy.domain import AccountId
from proxy.errors import Conflict
from proxy.processes import logs

FIRST_ACCOUNT = AccountId("me")

WITHOUT_FILE = """\
compute-ledger runs without a configuration file: {upstream} is asked in every dialect; any model costs 1 credit per million
input tokens and 4 per million output tokens; every account has the plan "everyone", 10 credits a day. Data: {data_dir}
"""
FIRST_KEY = """
Account "me" has an API key, shown this once:

  export OPENAI_BASE_URL={proxy}/v1
  export OPENAI_API_KEY={key}
  curl "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
    -d '{{"model": "MODEL", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""
LATER_KEY = """
Account "me" has its API key since the first start. Another:  {environment}compute-ledger key create me
"""
OWN_TOKEN = "The admin token is in {file}\n"  # noqa: S105  # where it is, not what it is


def run(args: argparse.Namespace) -> int:
    """Serve until asked to stop. Raises SetupError."""
    logs.set_up(verbose=args.verbose)
    default = default_document(upstream_url=args.upstream) if args.upstream is not None else None
    source = Source(args.config, overrides=overrides(args), default=default)

    async def on_ready(ready: parent.Ready) -> None:
        if args.upstream is not None:
            await _greet(ready, upstream=args.upstream)
        if not parent.has_configured_token(ready.config):
            print(OWN_TOKEN.format(file=parent.admin_token_file(ready.config.ledger.data_dir)), flush=True)
        print(f"compute-ledger ready: proxy {ready.proxy_url}, admin {ready.admin_url}", file=sys.stderr, flush=True)
        _tell_service_manager("READY=1")

    with nursery.forked() as bearing:
        return asyncio.run(parent.run(source, bearing, on_ready=on_ready, verbose=args.verbose))


def overrides(args: argparse.Namespace) -> Overrides:
    """What the command line lays over the file."""
    listen = {name: getattr(args, name, None) for name in ("proxy", "admin", "workers")}
    ledger = {"data_dir": None if args.data_dir is None else str(args.data_dir)}
    tables = {"listen": listen, "ledger": ledger}
    return {table: given for table, keys in tables.items() if (given := {k: v for k, v in keys.items() if v is not None})}


async def _greet(ready: parent.Ready, *, upstream: str) -> None:
    """Make the first account and its key, once, and say how to use them."""
    directory = ready.store.directory
    with contextlib.suppress(Conflict):  # it is there, and was changed since
        await directory.create_account(FIRST_ACCOUNT, operation_id="first account")
    _, key = await directory.create_key(FIRST_ACCOUNT, operation_id="first key")
    print(WITHOUT_FILE.format(upstream=upstream, data_dir=ready.config.ledger.data_dir.absolute()), end="")
    if key is not None:
        print(FIRST_KEY.format(proxy=_reachable(ready.proxy_url), key=key), flush=True)
    else:
        environment = "" if ready.admin_url.endswith(":8081") else f"COMPUTE_LEDGER_ADMIN_URL={_reachable(ready.admin_url)} "
        print(LATER_KEY.format(environment=environment), flush=True)


def _reachable(url: str) -> str:
    """The URL as it can be used on this machine, where the listener takes every address."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    parts = urlsplit(url)
    return f"http://{wildcards[parts.hostname]}:{parts.port}" if parts.hostname in wildcards else url


def _tell_service_manager(state: str) -> None:
    """Tell systemd, where it asked to be told (`Type=notify`)."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place and hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + place[1:] if place.startswith("@") else place)
            notify.sendall(state.encode())
