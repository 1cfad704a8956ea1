"""A scripted upstream, and a proxy in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support import scripted_upstream
from tests.support.proxied import Proxied, proxied
from tests.support.scripted_upstream import ScriptedUpstream


class Start(Protocol):
    """Starts a proxy before the test's upstream, with the options of `proxied`."""

    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Proxied]: ...


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream.running() as running:
        yield running


@pytest.fixture
def start(upstream: ScriptedUpstream, tmp_path: Path) -> Start:
    def begin(**options: Any) -> AbstractAsyncContextManager[Proxied]:
        return proxied(upstream.base_url, tmp_path / "data", **options)

    return begin
