"""What the conformance tests start from: a gateway, a pairing of it, and a node on the way to it.

The suite starts its own gateways. With CONFORMANCE_URL, CONFORMANCE_NODE and CONFORMANCE_TOKEN in the
environment it tests the gateway that runs there, leaving out what takes its operator; `target.py` lists
the variables for settings that are not the defaults. There is one pairing then, so run it with `-n 0`; and
let a minute pass between two runs, as failed logins are counted.
"""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from tests.conformance.node import Node, connect
from tests.conformance.operators import Operator
from tests.conformance.target import NODE, TOKEN, URL, OurTarget, Target, foreign_target, our_target
from tests.harness import Home
from tests.support import PATIENCE

#: Fixtures that only a gateway of ours can have.
_OURS = {"our_gateway", "operator", "home"}
_numbers = count(1)


class Pairing(NamedTuple):
    name: str
    token: str


class Dial(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[Node]: ...


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not URL:
        return
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    left_out = [item for item in here if _needs_ours(item)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    for item in here:
        item.add_marker(pytest.mark.timeout(foreign_target().dead_seconds + 2 * PATIENCE))


def _needs_ours(item: pytest.Item) -> bool:
    return bool(_OURS.intersection(getattr(item, "fixturenames", ())))


# -- the gateway ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    """Serves all tests that do no harm to others."""
    with our_target(tmp_path_factory.mktemp("shared")) as target:
        yield target


@pytest.fixture
def our_gateway(shared_gateway: OurTarget) -> OurTarget:
    """A gateway whose operator the suite is; modules that need other settings have their own."""
    return shared_gateway


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> Target:
    return foreign_target() if URL else request.getfixturevalue("our_gateway")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """For a gateway that a test starts by itself."""
    return Home(tmp_path)


# -- the node -------------------------------------------------------------------------------------


@pytest.fixture
def fresh_name() -> str:
    """A name that no other test has."""
    return f"node-{next(_numbers)}"


@pytest.fixture
def pairing(request: pytest.FixtureRequest, fresh_name: str) -> Pairing:
    if URL:
        return Pairing(NODE, TOKEN)
    target: OurTarget = request.getfixturevalue("our_gateway")
    return Pairing(fresh_name, str(target.home.client.pair(fresh_name)["token"]))


def _dial(gateway: Target) -> Dial:
    number = next(_numbers)
    address = f"198.18.{number // 250}.{number % 250 + 1}"
    return lambda: connect(gateway.url, {"X-Forwarded-For": address})


@pytest.fixture
def dial(gateway: Target) -> Dial:
    """Opens connections from an address that no other test has, so that no lockout spreads."""
    return _dial(gateway)


@pytest.fixture
def dials(our_gateway: OurTarget) -> list[Dial]:
    """The same for eleven addresses."""
    return [_dial(our_gateway) for _ in range(11)]


@pytest.fixture
async def peer(dial: Dial) -> AsyncIterator[Node]:
    """A connection on which nothing has been said yet."""
    async with dial() as node:
        yield node


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def encrypted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def greeted(peer: Node, pairing: Pairing, encrypted: bool) -> Node:
    """A peer between `hello_ack` and `auth`."""
    await peer.greet(pairing.name, encrypted=encrypted)
    return peer


@pytest.fixture
async def node(operator_first: None, dial: Dial, pairing: Pairing, encrypted: bool) -> AsyncIterator[Node]:
    """A node that has logged in, without any capability."""
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=encrypted)
        yield node


# -- the operator ---------------------------------------------------------------------------------


@pytest.fixture
async def operator(our_gateway: OurTarget, pairing: Pairing) -> AsyncIterator[Operator]:
    with ThreadPoolExecutor(128, thread_name_prefix="operator") as threads:
        yield Operator(our_gateway.home, pairing.name, threads)


@pytest.fixture
def operator_first(request: pytest.FixtureRequest) -> None:
    """The operator, if there is one, outlives the node: what still waits then ends with it."""
    if "operator" in request.fixturenames:
        request.getfixturevalue("operator")
