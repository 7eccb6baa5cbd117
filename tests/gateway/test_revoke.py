"""A revoked pairing is out in under a second, whatever its node does."""

import asyncio
from typing import Any

import pytest

from hermes_nodes.gateway import Gateway
from hermes_nodes.link import send_frame
from hermes_nodes.protocol.codec import Frame
from hermes_nodes.protocol.handshake import Refused
from hermes_nodes.protocol.messages import Bye
from tests.gateway.support import pair
from tests.harness import Home, ScriptedNode, holds_connection, scripted_node, until
from tests.support import SOON


async def revoke(home: Home, name: str) -> None:
    await asyncio.to_thread(home.client.revoke, name)


async def assert_out(home: Home, gateway: Gateway, node: ScriptedNode, name: str) -> None:
    """Revoke, and see at once: the row, the socket closed, nobody registered."""
    with home.rows(action="disconnect", node=name) as rows:
        async with asyncio.timeout(SOON):
            await revoke(home, name)
            assert gateway.registry.get(name) is None
            await until(lambda: not holds_connection(gateway.port, node.port))
            row = await asyncio.to_thread(next, rows)
    assert (row["error"], row["session_id"]) == ("revoked", node.session_id)


async def test_a_node_that_reads_nothing_and_answers_nothing_is_out(home: Home, gateway: Gateway) -> None:
    token = await pair(home, "mute")
    async with scripted_node(gateway.url) as node:
        await node.log_in("mute", token)
        await assert_out(home, gateway, node, "mute")


async def test_a_node_whose_buffers_are_full_is_out(home: Home, gateway: Gateway) -> None:
    token = await pair(home, "stuffed")
    async with scripted_node(gateway.url) as node:
        await node.log_in("stuffed", token)
        node.stop_reading()
        content = bytes(200_000)
        writes = [
            asyncio.create_task(asyncio.to_thread(home.client.write, "stuffed", "/f", content))
            for _ in range(5)
        ]
        session = gateway.registry.get("stuffed")
        assert session is not None
        # What windows let through fits into the kernel's buffers; more is put behind it.
        transport = session._link._ws._ws._req.transport  # type: ignore[union-attr]
        await until(lambda: len(session.calls) == len(writes))
        while transport.get_write_buffer_size() < 1_000_000:
            transport.write(bytes(1_000_000))
        await assert_out(home, gateway, node, "stuffed")
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(result).__name__ for result in results} == {"NodeDisconnected"}


async def test_a_revocation_wins_against_a_handshake_that_is_half_done(
    home: Home, gateway: Gateway
) -> None:
    token = await pair(home, "half")
    async with scripted_node(gateway.url) as node:
        auth = await node.greet("half", token)
        await revoke(home, "half")
        with pytest.raises(Refused, match="invalid_token"):
            await node.prove(auth)
        assert await node.closed() == 4001
    assert gateway.registry.get("half") is None
    assert home.trail(action="connect") == []


async def test_a_pairing_made_anew_during_a_handshake_does_not_admit_the_old_token(
    home: Home, gateway: Gateway
) -> None:
    token = await pair(home, "half")
    async with scripted_node(gateway.url) as node:
        auth = await node.greet("half", token)
        await pair(home, "half", force=True)
        with pytest.raises(Refused, match="invalid_token"):
            await node.prove(auth)
        assert await node.closed() == 4001
    assert gateway.registry.get("half") is None


@pytest.mark.parametrize("anew", [False, True])
async def test_a_revocation_wins_while_auth_ok_is_being_written(
    home: Home, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    token = await pair(home, "late")

    async def write_slowly(ws: Any, frame: Frame) -> None:
        await send_frame(ws, frame)
        if b"auth_ok" in frame.data:
            await (pair(home, "late", force=True) if anew else revoke(home, "late"))

    monkeypatch.setattr("hermes_nodes.gateway.nodes.send_frame", write_slowly)
    async with scripted_node(gateway.url) as node:
        await node.log_in("late", token)
        assert await node.receive() == Bye(reason="revoked")
        assert await node.closed() == 4006
    assert gateway.registry.get("late") is None
    assert home.trail(action="connect") == []


async def test_a_pairing_that_expires_ends_its_session(
    home: Home, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setattr("hermes_nodes.gateway.app.TICK", 0.05)
    token = await pair(home, "guest", expires_in=0.5)
    with home.rows(action="disconnect") as rows:
        async with scripted_node(gateway.url) as node:
            await node.log_in("guest", token)
            assert await node.receive() == Bye(reason="revoked")
            assert await node.closed() == 4006
        assert (await asyncio.to_thread(next, rows))["error"] == "expired"
