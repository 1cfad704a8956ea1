"""One proxy with two workers for all end-to-end tests, in front of one scripted upstream; each test opens accounts of its own.

`tests/support/deployments.py` holds its prices and its models.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support import scripted_upstream
from tests.support.deployment import Deployment
from tests.support.deployments import Deployments
from tests.support.scripted_upstream import ScriptedUpstream


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def deployments(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> AsyncIterator[Deployments]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and connecting is refused
        async with contextlib.AsyncExitStack() as started:
            yield Deployments(tmp_path_factory.mktemp("proxy"), scripted, closed=closed.getsockname()[1], started=started)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def deployment(deployments: Deployments) -> Deployment:
    """The proxy that all share."""
    return await deployments.serving()


@pytest_asyncio.fixture(loop_scope="session")
async def upstream(scripted: ScriptedUpstream) -> AsyncIterator[ScriptedUpstream]:
    """The upstream behind the proxy, forgetful between tests."""
    yield scripted
    scripted.forget()
