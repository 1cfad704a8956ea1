"""`compute-ledger check`: everything that can be wrong with a configuration, found at once, before it is served.

Problems keep the proxy from serving as meant, each a line, exit 1. Warnings may be meant, or may pass by themselves. Nothing is
changed, and no ledger is started.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from proxy.app.settings import Source
from proxy.cli.check_levels import level_warnings
from proxy.cli.check_prices import price_warnings
from proxy.cli.serve import overrides
from proxy.config import Config, LedgerSection, Upstream, default_document
from proxy.errors import LedgerUnavailable, SetupError
from proxy.ledger import open_ledger
from proxy.ledger.data_dir import running_url
from proxy.ledger.embedded import find_binary
from proxy.processes import logs
from proxy.server.admin import Tokens, configured_tokens
from proxy.server.tokenizer import text_counter

CONNECT_DEADLINE_S = 3.0


def run(args: argparse.Namespace) -> int:
    """Print each problem and warning; 0 where there is no problem."""
    logs.set_up(verbose=False)
    default = None if args.config is not None else default_document(upstream_url="http://127.0.0.1:11434")
    try:
        settings = Source(args.config, overrides=overrides(args), default=default).read().config
    except SetupError as error:
        return _tell(str(error).splitlines(), [])
    return asyncio.run(_check(settings))


async def _check(settings: Config) -> int:
    problems = [*_token_problems(settings), *_tokenizer_problems(settings), *[line async for line in _ledger_problems(settings.ledger)]]
    now_ms = round(time.time() * 1000)
    warnings = [
        *price_warnings(settings, now_ms),
        *level_warnings(settings, now_ms),
        *_missing_tables(settings),
        *await asyncio.gather(*map(_reach, settings.upstream)),
    ]
    return _tell(problems, [line for line in warnings if line])


def _tell(problems: list[str], warnings: list[str]) -> int:
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in problems:
        print(f"problem: {line}", file=sys.stderr)
    count = len(problems)
    print("the configuration is good" if not count else f"{count} problem{'s' if count > 1 else ''}")
    return 1 if problems else 0


def _token_problems(settings: Config) -> list[str]:
    try:
        tokens = configured_tokens(settings.admin)
        if tokens:
            Tokens(tokens)
    except SetupError as error:
        return str(error).splitlines()
    return []


def _tokenizer_problems(settings: Config) -> Iterator[str]:
    for upstream in settings.upstream:
        if upstream.tokenizer_file is not None:
            try:
                text_counter(upstream.tokenizer_file)
            except SetupError as error:
                yield f"upstream {upstream.name!r}: {error}"


async def _ledger_problems(section: LedgerSection) -> AsyncIterator[str]:
    """What keeps the ledger from being opened, or makes it unsafe."""
    url: str | None = section.url
    if url == "embedded":
        try:
            find_binary()
        except SetupError as error:
            yield str(error)
        url = running_url(section.data_dir.absolute())
    if url is None:
        return  # an embedded ledger that does not run has our own settings
    try:
        async with open_ledger(section, url=url) as store:
            for line in await store.check():
                yield line
    except (SetupError, LedgerUnavailable) as error:
        yield f"[ledger] {error}"


def _missing_tables(settings: Config) -> list[str]:
    lines = []
    if not settings.upstream:
        lines.append("there is no [[upstream]]: every model request is refused")
    if not settings.plan:
        lines.append("there is no [[plan]]: accounts must be given one when they are created")
    return lines


async def _reach(upstream: Upstream) -> str:
    """A warning where nothing answers at an upstream's address; empty where something does."""
    parts = urlsplit(upstream.base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except TimeoutError:
        return f"upstream {upstream.name!r}: {upstream.base_url} does not answer"
    except OSError as error:
        return f"upstream {upstream.name!r}: {upstream.base_url} cannot be reached: {error.strerror or error}"
    writer.close()
    return ""
