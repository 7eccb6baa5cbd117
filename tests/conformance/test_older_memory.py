"""What the calls to an older node have cost the gateway in memory, once they are over."""

from collections.abc import Iterator

import pytest

from tests.conformance.older_node import Running, older_node
from tests.harness import GatewayProcess, Home, memory_bytes

MIB = 1024 * 1024
#: What all those calls together may leave behind: fewer bytes than a few of them hold at once.
MOST_LEFT = 60 * MIB


@pytest.fixture
def gateway(home: Home) -> Iterator[GatewayProcess]:
    with home.gateway() as gateway:
        yield gateway


@pytest.fixture
def node(home: Home, gateway: GatewayProcess) -> Iterator[Running]:
    with older_node(home, gateway, "older") as node:
        home.client.exec("older", "true")
        yield node


def test_twenty_writes_of_five_megabytes_leave_no_memory_behind(
    home: Home, gateway: GatewayProcess, node: Running
) -> None:
    before = memory_bytes(gateway.process.pid)
    for number in range(20):
        home.client.write("older", str(node.folder / "file"), bytes([number]) * 5 * MIB)
    assert memory_bytes(gateway.process.pid) - before < MOST_LEFT


def test_five_commands_with_seven_megabytes_of_stderr_leave_no_memory_behind(
    home: Home, gateway: GatewayProcess, node: Running
) -> None:
    before = memory_bytes(gateway.process.pid)
    for _ in range(5):
        done = home.client.exec("older", f"head -c {7 * MIB} /dev/zero >&2")
        assert len(done.stderr_bytes) == 7 * MIB
    assert memory_bytes(gateway.process.pid) - before < MOST_LEFT
