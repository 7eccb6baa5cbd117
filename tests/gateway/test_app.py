"""The gateway as a whole: how it starts, how it does not, and how it stops."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from hermes_nodes import config
from hermes_nodes.errors import HomeLocked, ListenFailed, SettingsError
from hermes_nodes.gateway import Gateway
from tests.gateway.support import raw_peer
from tests.harness import Home


def test_a_stop_ends_calls_writes_their_rows_and_takes_no_five_seconds(home: Home) -> None:
    # The last one says more than its caller reads.
    commands = ["echo up; sleep 100", "trap '' INT; echo up; sleep 100", "echo up; yes"]
    with home.gateway() as gateway, home.node(gateway, "laptop"), ExitStack() as stack:
        running = [stack.enter_context(home.start("exec", "laptop", command)) for command in commands]
        assert [one.line() for one in running] == ["up\n"] * 3
        with home.rows(action="exec") as rows:
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(5) == 0
            assert [next(rows)["status"] for _ in commands] == ["node_disconnected"] * 3
        ends = [one.end() for one in running]
    assert [code for code, _, _ in ends] == [75] * 3
    assert all(b"the connection to node 'laptop' ended" in stderr for _, _, stderr in ends[:2])
    assert [row["action"] for row in home.trail()][-1] == "stop"
    assert not gateway.socket.exists()


async def test_a_home_has_one_gateway(home: Home, gateway: Gateway) -> None:
    with pytest.raises(HomeLocked, match="gateway"):
        async with home.gateway_here():
            pass
    assert (await asyncio.to_thread(home.client.status))["port"] == gateway.port


async def test_a_port_that_is_taken_is_said(home: Home, gateway: Gateway, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    with pytest.raises(ListenFailed, match=str(gateway.port)):
        async with Gateway(config.load({"port": str(gateway.port)}, other.environ), environ=other.environ):
            pass


async def test_a_start_that_fails_half_way_leaves_nothing_behind(home: Home, tmp_path: Path) -> None:
    settings = config.load(
        {"port": "0"}, {**home.environ, "HERMES_NODES_CONTROL_SOCKET": "/tmp/" + "x" * 150}
    )
    failed = Gateway(settings, environ=home.environ)
    with pytest.raises(SettingsError, match="control socket"):
        await failed.__aenter__()
    assert failed.port != 0
    with pytest.raises(ConnectionError):
        async with raw_peer(failed.host, failed.port):
            pass
    # Its lock is free, too.
    async with home.gateway_here():
        pass


async def test_another_process_at_the_control_socket_is_left_alone(home: Home) -> None:
    path = home.folder / "s"
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    async with server:
        with pytest.raises(ListenFailed, match="another process"):
            async with home.gateway_here(HERMES_NODES_CONTROL_SOCKET=str(path)):
                pass
    assert path.exists()


async def test_starts_and_stops_are_in_the_trail(home: Home) -> None:
    for _ in range(2):
        async with home.gateway_here():
            pass
    assert [row["action"] for row in home.trail()] == ["start", "stop"] * 2


async def test_a_node_is_remembered_over_a_restart(home: Home) -> None:
    async with home.gateway_here():
        token = await asyncio.to_thread(home.client.pair, "laptop")
    async with home.gateway_here():
        (view,) = await asyncio.to_thread(home.client.nodes)
    assert (view["name"], view["state"], view["pairing_id"]) == (
        "laptop",
        "never_seen",
        token["pairing_id"],
    )
