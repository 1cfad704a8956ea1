"""`compute-ledger audit`: proves conservation on the live ledger, beside a proxy that runs or without one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from proxy.app.settings import Source
from proxy.cli.serve import overrides
from proxy.config import LedgerSection
from proxy.domain import AuditReport
from proxy.errors import SetupError
from proxy.ledger import open_ledger
from proxy.ledger.data_dir import running_url
from proxy.ledger.embedded import EmbeddedLedger
from proxy.processes import logs


def run(args: argparse.Namespace) -> int:
    """Print what was checked; 1 with each account whose books do not balance. Raises SetupError, LedgerUnavailable."""
    logs.set_up(verbose=False)
    section = Source(args.config, overrides=overrides(args)).read().config.ledger
    report = asyncio.run(_audit(section))
    print(f"checked {report.accounts} accounts, {report.entries} journal entries, {report.open_holds} open holds")
    for line in report.broken:
        print(f"broken: {line}", file=sys.stderr)
    print("the books balance" if not report.broken else f"the books of {len(report.broken)} accounts do not balance")
    return 1 if report.broken else 0


async def _audit(section: LedgerSection) -> AuditReport:
    async with contextlib.AsyncExitStack() as stack:
        url = await ledger_url(section, stack)
        store = await stack.enter_async_context(open_ledger(section, url=url))
        return await store.journal.audit()


async def ledger_url(section: LedgerSection, stack: contextlib.AsyncExitStack) -> str:
    """Where the ledger answers: an embedded one is that of the proxy that runs on the directory, else started for as long as `stack`."""
    if section.url != "embedded":
        return section.url
    if running := running_url(section.data_dir.absolute()):
        return running
    if not (section.data_dir / "appendonlydir").is_dir():
        raise SetupError(f"there is no ledger in {section.data_dir.absolute()}")
    return (await stack.enter_async_context(EmbeddedLedger(section.data_dir))).url
