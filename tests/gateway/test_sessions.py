"""The life of a node's session, seen by a node that does only what the test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from hermes_nodes.errors import NodeDisconnected
from hermes_nodes.gateway import Gateway
from hermes_nodes.protocol.codec import Frame
from hermes_nodes.protocol.messages import Bye, Exec, ExecResult, Ping, Pong
from tests.gateway.support import logged_in, pair, start_exec
from tests.harness import Home, scripted_node
from tests.support import SOON


async def test_the_newer_of_two_connections_wins(home: Home, gateway: Gateway) -> None:
    token = await pair(home, "twin")
    with home.rows(action="disconnect") as rows:
        old, new = await twins(home, gateway, token)
        first, second = [await asyncio.to_thread(next, rows) for _ in range(2)]
    assert [first["session_id"], first["error"]] == [old, "replaced"]
    assert second["session_id"] == new


async def twins(home: Home, gateway: Gateway, token: str) -> tuple[str, str]:
    async with scripted_node(gateway.url) as old, scripted_node(gateway.url) as new:
        await old.log_in("twin", token)
        call = start_exec(home, "twin")
        assert isinstance(await old.receive(), Exec)
        await new.log_in("twin", token)
        async with asyncio.timeout(SOON):
            with pytest.raises(NodeDisconnected):
                await call
        assert await old.receive() == Bye(reason="replaced")
        assert await old.closed() == 1000
        (view,) = await asyncio.to_thread(home.client.nodes, "twin")
        assert (view["session_id"], view["replaced"]) == (new.session_id, 1)
        return old.session_id, new.session_id


async def test_a_node_that_says_goodbye_is_closed_and_gone(home: Home, gateway: Gateway) -> None:
    with home.rows(action="disconnect") as rows:
        async with logged_in(home, gateway) as node:
            call = start_exec(home, "laptop")
            assert isinstance(await node.receive(), Exec)
            await node.send(Bye(reason="going home"))
            assert await node.closed() == 1000
            async with asyncio.timeout(SOON):
                with pytest.raises(NodeDisconnected):
                    await call
        assert (await asyncio.to_thread(next, rows))["error"] == "bye going home"


async def test_what_a_node_gives_as_its_reason_can_not_forge_the_log(
    home: Home, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with home.rows(action="disconnect") as rows:
        async with logged_in(home, gateway) as node:
            await node.send(Bye(reason="\x1b[2J\nnode 'victim' connected" + "x" * 5000))
            assert await node.closed() == 1000
        await asyncio.to_thread(next, rows)
    said = [record.getMessage() for record in caplog.records if "disconnected" in record.getMessage()]
    assert said
    assert all(message.isprintable() and len(message) < 500 for message in said)


async def test_a_ping_is_answered_with_its_time(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node:
        await node.send(Ping(ts="2030-01-01T00:00:00.000Z", id="7"))
        pong = await node.receive()
        assert isinstance(pong, Pong)
        assert (pong.echo_ts, pong.id) == ("2030-01-01T00:00:00.000Z", "7")
        await node.ws.ping(b"websocket")
        assert (await node.ws.receive()).data == b"websocket"


@pytest.fixture
async def attentive(home: Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway that soon misses who is silent."""
    monkeypatch.setattr("hermes_nodes.gateway.app.TICK", 0.05)
    async with home.gateway_here(
        HERMES_NODES_HEARTBEAT_SWEEP_INTERVAL_SECONDS="0.2", HERMES_NODES_HEARTBEAT_STALE_SECONDS="0.6"
    ) as running:
        yield running


async def test_a_silent_node_is_pinged_and_then_closed(home: Home, attentive: Gateway) -> None:
    with home.rows(action="disconnect") as rows:
        async with logged_in(home, attentive) as node:
            call = start_exec(home, "laptop")
            assert isinstance(await node.receive(), Exec)
            assert isinstance(await node.receive(), Ping)
            assert await node.closed() == 1000
            with pytest.raises(NodeDisconnected):
                await call
        assert (await asyncio.to_thread(next, rows))["error"] == "silent"


async def test_a_node_that_answers_pings_stays(home: Home, attentive: Gateway) -> None:
    async with logged_in(home, attentive) as node:
        for _ in range(4):  # longer than a silent one may stay
            assert isinstance(await node.receive(), Ping)
            await node.send(Pong())
        assert attentive.registry.get("laptop") is not None


@pytest.mark.parametrize(
    "frame",
    [
        Frame(b'{"type": "ping"}', binary=False),
        Frame(b"\x00" * 100, binary=True),
        Frame(b"", binary=True),
    ],
)
async def test_what_is_not_a_sealed_record_ends_the_session(
    home: Home, gateway: Gateway, frame: Frame
) -> None:
    async with logged_in(home, gateway) as node:
        await node.send_frame(frame)
        assert await node.closed() == 4003


async def test_a_record_that_comes_twice_ends_the_session(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node:
        assert node.codec is not None
        frame = node.codec.encode(Ping())
        await node.send_frame(frame)
        await node.send_frame(frame)
        assert await node.closed() == 4003


async def test_more_output_than_was_granted_ends_the_session(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node, stalled_caller(gateway, "laptop"):
        request = await node.receive()
        assert isinstance(request, Exec)
        for _ in range(100):
            await node.send_data(request.id, 1, bytes(126 * 1024))
        assert await node.closed() == 4003


@asynccontextmanager
async def stalled_caller(gateway: Gateway, name: str) -> AsyncIterator[None]:
    """An `exec` whose caller is there and reads nothing."""
    _, writer = await asyncio.open_unix_connection(gateway.control_socket)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    body = b'{"command": "yes"}'
    head = f"POST /v1/nodes/{name}/exec HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        yield
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_node_that_is_busy_sending_still_hears_why_it_was_closed(home: Home) -> None:
    async with (
        home.gateway_here(HERMES_NODES_RATE_LIMIT="1000000") as gateway,
        logged_in(home, gateway) as node,
    ):
        call = start_exec(home, "laptop", "yes")
        request = await node.receive()
        assert isinstance(request, Exec)
        revoking = asyncio.create_task(asyncio.to_thread(home.client.revoke, "laptop"))
        with suppress(ConnectionError):
            while not revoking.done():
                await node.send_data("11111111-2222-4333-8444-555555555555", 1, bytes(100_000))
                await asyncio.sleep(0)
        assert await node.receive() == Bye(reason="revoked")
        assert await node.closed() == 4006
        with pytest.raises(NodeDisconnected):
            await call


async def test_a_message_over_512_kib_ends_a_stream_session(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node:
        await node.send_frame(Frame(bytes(512 * 1024 + 1), binary=True))
        assert await node.closed() == 1009


async def test_a_session_that_is_logged_in_is_no_longer_held_to_the_limits_of_a_handshake(
    home: Home, gateway: Gateway
) -> None:
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop", "yes")
        request = await node.receive()
        assert isinstance(request, Exec)
        for _ in range(2):
            await node.send_data(request.id, 1, b"y" * 126 * 1024)
        await node.send_data(request.id, 1, b"")
        await node.send_data(request.id, 2, b"")
        await node.send(ExecResult(status="ok", id=request.id))
        result = await call
        assert (result.status, len(result.stdout_bytes)) == ("ok", 2 * 126 * 1024)


async def test_answers_to_calls_that_nobody_made_are_dropped_and_counted(
    home: Home, gateway: Gateway
) -> None:
    async with logged_in(home, gateway) as node:
        await node.send(ExecResult(status="ok", id="11111111-2222-4333-8444-555555555555"))
        await node.send_data("11111111-2222-4333-8444-555555555555", 1, b"whose?")
        await node.send(Ping())
        assert isinstance(await node.receive(), Pong)


async def test_a_data_record_never_comes_where_none_was_asked_for(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node:
        start = start_exec(home, "laptop")
        request = await node.receive()
        assert isinstance(request, Exec)
        await node.send_data(request.id, 0, b"stdin?")
        assert await node.closed() == 4003
        with pytest.raises(NodeDisconnected):
            await start


async def test_a_stopping_gateway_tells_its_nodes(home: Home) -> None:
    async with home.gateway_here() as gateway, logged_in(home, gateway) as node:
        call = start_exec(home, "laptop")
        assert isinstance(await node.receive(), Exec)
        stopping = asyncio.create_task(gateway.__aexit__(None, None, None))
        assert await node.receive() == Bye(reason="server_shutdown")
        assert await node.closed() == 4005
        with pytest.raises(NodeDisconnected):
            await call
        await stopping
    assert [row["status"] for row in home.trail(action="exec")] == ["node_disconnected"]
    assert [row["action"] for row in home.trail()][-1] == "stop"


async def test_a_node_without_streams_is_shown_as_not_encrypted(home: Home, gateway: Gateway) -> None:
    token = await pair(home, "old")
    async with scripted_node(gateway.url) as node:
        await node.send_text('{"type": "hello", "protocol_version": "0.1.0", "node_name": "old"}')
        assert (await node.receive_json())["capabilities"] == []
        await node.send_text(f'{{"type": "auth", "node_name": "old", "token": "{token}"}}')
        assert (await node.receive_json())["type"] == "auth_ok"
        (view,) = await asyncio.to_thread(home.client.nodes, "old")
        assert (view["state"], view["encrypted"]) == ("connected", False)
        await node.send_text('{"type": "surprise", "id": "1"}')
        await node.send_text('{"type": "ping", "ts": "then"}')
        assert (await node.receive_json())["echo_ts"] == "then"
