"""One gateway and one node for the tests that do them no harm."""

from collections.abc import Iterator

import pytest

from tests.harness import GatewayProcess, Home, NodeProcess
from tests.network import LOOPBACK


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def gateway(home: Home) -> Iterator[GatewayProcess]:
    with home.gateway(**LOOPBACK) as running:
        yield running


@pytest.fixture(scope="session")
def node(home: Home, gateway: GatewayProcess) -> Iterator[NodeProcess]:
    with home.node(gateway, "laptop", allow=[home.folder]) as running:
        yield running
