"""What all suites of processes share: an endpoint, a way to begin commands, places for their files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.simulation import SimulatedModel, simulated_endpoint
from tests.support.program import Begin
from tests.support.running_proxy import (
    proxies,
)


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    """An endpoint with a fast model `words`, and a slow one, `slow`: 50 tokens a second."""
    async with simulated_endpoint([SimulatedModel("words"), SimulatedModel("slow", tokens_per_s=50)]) as endpoint:
        yield endpoint.base_url


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    async with proxies() as start:
        yield start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
