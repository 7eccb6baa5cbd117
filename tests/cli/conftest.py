"""One home with a gateway and a connected node, for every test that leaves them as they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import GatewayProcess, Home, NodeProcess


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="session")
def gateway(home: Home) -> Iterator[GatewayProcess]:
    with home.gateway() as running:
        yield running


@pytest.fixture(scope="session")
def node(home: Home, gateway: GatewayProcess) -> Iterator[NodeProcess]:
    """The node `laptop`; beside it `absent` is paired and has never connected."""
    home.pair("absent")
    with home.node(gateway, "laptop", allow=[home.folder]) as running:
        yield running


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    """A home where nothing has been done yet."""
    return Home(tmp_path)
