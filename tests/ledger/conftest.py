"""The contract's bench: the model, then the real ledger on each kind of server at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.ledger_bench import Bench, Clock, open_bench, prove_conservation
from tests.support.ledger_server import LedgerServer, ledger_binaries


@pytest.fixture(params=["model", *ledger_binaries(), pytest.param("cluster", marks=pytest.mark.long)])
async def bench(request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> AsyncIterator[Bench]:
    """The model, then the real ledger on each kind of server, in long runs on a cluster, too; after each test its books must balance."""
    server = None if request.param == "model" else ledger_servers(request.param)
    async with open_bench(server, Clock()) as bench:
        yield bench
        await prove_conservation(bench)


@pytest.fixture
async def other(bench: Bench, request: pytest.FixtureRequest, ledger_servers: Callable[[str], LedgerServer]) -> AsyncIterator[Bench]:
    """Another process on the same server, with what it remembers of its own."""
    if request.node.callspec.params["bench"] == "model":
        pytest.skip("the model is one process")
    async with open_bench(ledger_servers(request.node.callspec.params["bench"]), bench.clock, empty=False) as other:
        yield other
