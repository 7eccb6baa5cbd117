"""A gateway that also listens for operators, on plain loopback."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hermes_nodes.gateway import Gateway
from tests.harness import Home
from tests.security.support import LISTEN


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
async def gateway(home: Home) -> AsyncIterator[Gateway]:
    async with home.gateway_here(**LISTEN) as running:
        yield running
