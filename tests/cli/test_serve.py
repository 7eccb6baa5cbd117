"""`serve` says where it listens, on one line, when it is ready."""

import pytest

from tests.certificates import Authority
from tests.harness import Home
from tests.network import LOOPBACK


def test_the_line_names_the_nodes_port_and_the_control_socket(empty_home: Home) -> None:
    with empty_home.gateway() as gateway:
        said = f"hermes-nodes: listening on {gateway.url}, control socket {gateway.socket}"
    assert said in gateway.log.splitlines()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_line_names_where_operators_reach_it_as_well(empty_home: Home, scheme: str) -> None:
    tls = Authority(empty_home.folder / "authority").environ if scheme == "https" else {}
    with empty_home.gateway(**LOOPBACK, **tls) as gateway:
        said = (
            f"hermes-nodes: listening on {gateway.url}, control socket {gateway.socket}, "
            f"operators on {gateway.control_url}"
        )
    assert said in gateway.log.splitlines()
    assert gateway.control_url.startswith(f"{scheme}://127.0.0.1:")
