"""Gateways for the tests of its parts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hermes_nodes.gateway import Gateway
from tests.harness import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
async def gateway(home: Home) -> AsyncIterator[Gateway]:
    """A gateway in this process, with the settings that nobody has changed."""
    async with home.gateway_here() as running:
        yield running
