"""Section 3: pairings of the older system, of whose tokens only a hash is known."""

from collections.abc import Iterator

import pytest

from tests import older_home as older
from tests.conformance.node import Node, connect
from tests.conformance.replies import auth_err, refusal
from tests.harness import GatewayProcess, Home

NAME = "nas"
INVALID = auth_err("invalid_token", 4001)


@pytest.fixture
def imported(home: Home) -> Iterator[GatewayProcess]:
    """A gateway in a home that the older system has left."""
    older.leave(home.path)
    with home.gateway() as gateway:
        yield gateway


async def authenticate(node: Node, token: str) -> None:
    await node.auth(NAME, **node.credentials(token))


async def test_encryption_is_not_offered_where_nobody_listens_and_the_token_is_shown(
    imported: GatewayProcess,
) -> None:
    async with connect(imported.url) as node:
        ack = await node.greet(NAME, encrypted=True)
        assert not {"ecdh_pub", "salt"} & ack.keys()
        await authenticate(node, older.token(NAME))
        assert (await node.receive_plain())["type"] == "auth_ok"
        await node.is_served()


async def test_a_wrong_token_is_refused_like_any(imported: GatewayProcess) -> None:
    async with connect(imported.url) as node:
        await node.greet(NAME, encrypted=True)
        await authenticate(node, "hnt_nobody")
        assert await refusal(node) == INVALID


async def test_elsewhere_the_token_stays_home_and_the_proof_fails(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    older.leave(home.path)
    # All lines of a test end on this machine, so this one is declared to be another.
    monkeypatch.setattr("hermes_nodes.gateway.nodes._is_protected", lambda _: False)
    async with home.gateway_here() as gateway, connect(gateway.url) as node:
        assert {"ecdh_pub", "salt"} <= (await node.greet(NAME, encrypted=True)).keys()
        await authenticate(node, older.token(NAME))
        assert await refusal(node) == INVALID
