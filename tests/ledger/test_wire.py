"""The connection to the ledger's server: when what is called goes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop

from proxy.ledger.connection import connector
from proxy.ledger.wire import SENT_TOGETHER_MAX, Wire
from tests.support.ledger_server import LedgerServer

PATIENCE_S = 10.0


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_server_works_on_the_first_calls_while_more_are_made(
    ledger_server: LedgerServer, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Of many calls in one tick of the loop, the first have been carried out before the tick is over; the last few wait for its end."""

    async def calls() -> None:
        wire = Wire(connector(ledger_server.url, password=None, timeout_s=PATIENCE_S), deadline_s=PATIENCE_S)
        wire.start()
        try:
            await wire.connected.wait()
            with ledger_server.client() as onlooker:
                answers = [wire.send("INCR", "calls") for _ in range(2 * SENT_TOGETHER_MAX + 1)]
                until_s = time.monotonic() + PATIENCE_S
                while (seen := int(onlooker.get("calls") or 0)) < 2 * SENT_TOGETHER_MAX and time.monotonic() < until_s:
                    pass  # no await: the loop's tick goes on
            assert seen == 2 * SENT_TOGETHER_MAX
            assert await asyncio.gather(*answers) == list(range(1, 2 * SENT_TOGETHER_MAX + 2))
        finally:
            await wire.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(calls())
