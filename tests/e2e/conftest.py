"""One proxy with two workers for all end-to-end tests, in front of one scripted upstream.

Prices are small primes in nanocredits for each token (input 3, output 7, cached input 2, reasoning 11), so that every charge in a test
can be worked out by hand and no two mistakes look alike. Each test opens accounts of its own.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support import scripted_upstream
from tests.support.deployment import Deployment, serving
from tests.support.scripted_upstream import ScriptedUpstream

PRICES = """
[[price]]
model = "*"
input = "0.003"
cached_input = "0.002"
output = "0.007"
reasoning = "0.011"

[[plan]]
name = "everyone"
limits = [ { credits = "1000", window = "day" } ]
"""
UPSTREAMS = """
[[upstream]]
name = "scripted"
base_url = "{scripted}"
models = ["tiny"]

[[upstream]]
name = "shortening"
base_url = "{scripted}"
models = ["short"]
cut = "length"

[[upstream]]
name = "impatient"
base_url = "{scripted}/"
models = ["impatient"]
first_byte_timeout_s = 0.3
idle_timeout_s = 0.3

[[upstream]]
name = "closed"
base_url = "http://127.0.0.1:{closed}"
models = ["closed"]
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def deployment(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> AsyncIterator[Deployment]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and connecting is refused
        upstreams = UPSTREAMS.format(scripted=scripted.base_url, closed=closed.getsockname()[1])
        async with serving(tmp_path_factory.mktemp("proxy"), upstreams + PRICES) as deployment:
            yield deployment


@pytest_asyncio.fixture(loop_scope="session")
async def upstream(scripted: ScriptedUpstream) -> AsyncIterator[ScriptedUpstream]:
    """The upstream behind the proxy, forgetful between tests."""
    yield scripted
    scripted.forget()
