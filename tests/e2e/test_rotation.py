"""A token that is rotated: how long the old one lives, and what dies with it."""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest

from hermes_nodes.errors import Unavailable
from hermes_nodes.gateway import Gateway
from hermes_nodes.protocol.handshake import Refused
from hermes_nodes.protocol.messages import Bye, Close
from hermes_nodes.tokens import TokenStore
from tests.gateway.support import pair
from tests.harness import Home, scripted_node
from tests.support import SOON


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("r"))


@pytest.fixture
async def running(own: Home) -> AsyncIterator[Gateway]:
    async with own.gateway_here() as gateway:
        yield gateway


async def rotate(home: Home, grace: float | None = None) -> str:
    return str((await asyncio.to_thread(home.client.rotate, "laptop", grace=grace))["token"])


async def is_admitted(gateway: Gateway, token: str) -> bool:
    async with scripted_node(gateway.url) as node:
        try:
            await node.log_in("laptop", token)
        except Refused:
            return False
    return True


async def test_both_tokens_are_good_until_the_new_one_is_used(own: Home, running: Gateway) -> None:
    old = await pair(own, "laptop")
    new = await rotate(own)
    assert await is_admitted(running, old)
    assert await is_admitted(running, old)
    assert await is_admitted(running, new)
    assert not await is_admitted(running, old)
    assert await is_admitted(running, new)


async def test_a_rotated_token_is_not_alive_on_an_open_socket(own: Home, running: Gateway) -> None:
    old = await pair(own, "laptop")
    async with scripted_node(running.url) as node:
        await node.log_in("laptop", old)
        await rotate(own, grace=0)
        async with asyncio.timeout(SOON):
            assert await node.closed() == Close.REVOKED
    assert not await is_admitted(running, old)


async def test_the_session_of_the_old_token_is_closed_when_the_new_one_is_used(
    own: Home, running: Gateway
) -> None:
    old = await pair(own, "laptop")
    new = await rotate(own)
    async with scripted_node(running.url) as first, scripted_node(running.url) as second:
        await first.log_in("laptop", old)
        await second.log_in("laptop", new)
        async with asyncio.timeout(SOON):
            assert await first.receive() == Bye(reason="revoked")
            assert await first.closed() == Close.REVOKED
        session = running.registry.get("laptop")
        assert session is not None
        assert session.id == second.session_id
    assert not await is_admitted(running, old)


async def test_the_old_token_dies_after_its_grace(own: Home, running: Gateway) -> None:
    old = await pair(own, "laptop")
    async with scripted_node(running.url) as node:
        await node.log_in("laptop", old)
        new = await rotate(own, grace=0.3)
        async with asyncio.timeout(SOON):
            assert await node.closed() == Close.REVOKED
    assert not await is_admitted(running, old)
    assert await is_admitted(running, new)


async def test_rotated_again_within_the_grace_only_the_new_one_is_replaced(
    own: Home, running: Gateway
) -> None:
    old = await pair(own, "laptop")
    lost = await rotate(own, grace=7200)
    new = await rotate(own)
    assert not await is_admitted(running, lost)
    assert await is_admitted(running, old)
    assert await is_admitted(running, new)
    assert not await is_admitted(running, old)


async def test_a_session_of_the_replaced_new_token_is_closed(own: Home, running: Gateway) -> None:
    await pair(own, "laptop")
    second = await rotate(own)
    async with scripted_node(running.url) as node:
        await node.log_in("laptop", second)  # the first is dead now
        await rotate(own, grace=0)
        async with asyncio.timeout(SOON):
            assert await node.closed() == Close.REVOKED


async def test_a_restart_changes_nothing_about_which_tokens_are_good(own: Home) -> None:
    async with own.gateway_here() as gateway:
        old = await pair(own, "laptop")
        new = await rotate(own)
    async with own.gateway_here() as gateway:
        assert await is_admitted(gateway, old)
        assert await is_admitted(gateway, new)
    async with own.gateway_here() as gateway:
        assert not await is_admitted(gateway, old)
        assert await is_admitted(gateway, new)


async def test_a_revoked_pairing_dies_with_all_its_tokens(own: Home, running: Gateway) -> None:
    old = await pair(own, "laptop")
    new = await rotate(own)
    await asyncio.to_thread(own.client.revoke, "laptop")
    assert not await is_admitted(running, old)
    assert not await is_admitted(running, new)


async def test_a_rotation_without_a_gateway_counts_when_it_starts(own: Home) -> None:
    old = own.pair("laptop")
    new = own.ok("rotate", "laptop", "--grace", "0s").strip()
    async with own.gateway_here() as gateway:
        assert not await is_admitted(gateway, old)
        assert await is_admitted(gateway, new)
    assert [row["action"] for row in own.trail(node="laptop")][:2] == ["pair", "rotate"]


def test_nobody_who_is_not_paired_is_rotated(own: Home) -> None:
    own.pair("laptop")
    assert own.run("rotate", "nobody").returncode == 66
    own.ok("revoke", "laptop")
    assert own.run("rotate", "laptop").returncode == 66


async def test_a_grace_can_be_cut_short_by_another_and_not_made_longer(own: Home, running: Gateway) -> None:
    old = await pair(own, "laptop")
    await rotate(own, grace=3600)
    cut = await asyncio.to_thread(own.client.rotate, "laptop", grace=0)
    assert not await is_admitted(running, old)
    assert await is_admitted(running, str(cut["token"]))


async def test_a_store_that_can_not_be_written_lets_the_new_token_in_and_the_old_one_die(
    own: Home, running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise Unavailable("the disk is full")

    old = await pair(own, "laptop")
    new = await rotate(own)
    with monkeypatch.context() as patched:
        patched.setattr(TokenStore, "retire_older", fail)
        assert await is_admitted(running, new)
        assert not await is_admitted(running, old)
    # The next rotation goes by what is known here: the token in use gets a grace, and the dead one none.
    newest = await rotate(own)
    assert await is_admitted(running, new)
    assert not await is_admitted(running, old)
    assert await is_admitted(running, newest)


async def test_whoever_is_just_logging_in_with_a_replaced_token_is_not_let_in(
    own: Home, running: Gateway
) -> None:
    old = await pair(own, "laptop")
    replaced = await rotate(own)
    async with scripted_node(running.url) as node:
        auth = await node.greet("laptop", replaced)
        new = await rotate(own)
        with pytest.raises(Refused):
            await node.prove(auth)
    assert await is_admitted(running, old)
    assert await is_admitted(running, new)
