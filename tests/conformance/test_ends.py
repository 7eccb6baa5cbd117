"""Section 5: how a session ends, with which words and code, and what becomes of its calls."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from hermes_nodes.errors import NodeDisconnected
from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Json, Node, connect, transport_of
from tests.conformance.operators import Operator, arrived
from tests.conformance.target import OurTarget
from tests.gateway.support import CONTINUATION, TEXT, frame, frame_header, raw_peer
from tests.harness import Home, until
from tests.support import SOON

#: Seconds in which whatever ends a session fails its calls.
FAILS_WITHIN = SOON


def text_frame(message: Json) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


# -- bye ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [{}, {"reason": "shutdown"}, {"reason": ""}, {"reason": "\x1b" * 5000}])
async def test_a_node_that_says_bye_is_closed(node: Node, reason: Json) -> None:
    await node.send({"type": "bye", **reason})
    assert await node.closed() == 1000


async def test_a_revoked_node_is_told_so(operator: Operator, node: Node) -> None:
    await operator.revoke()
    bye = await node.receive()
    assert (bye["type"], bye["reason"]) == ("bye", "revoked")
    assert await node.closed() == 4006


async def test_nodes_whose_pairing_expires_are_told_the_same(
    operator: Operator, dial: Dial, fresh_name: str
) -> None:
    async def is_told(encrypted: bool) -> None:
        name = f"{fresh_name}-{encrypted}"
        token = await operator.pair(name, expires_in=0.8)
        async with dial() as node:
            await node.log_in(name, token, encrypted=encrypted)
            bye = await node.receive()
            assert (bye["type"], bye["reason"]) == ("bye", "revoked")
            assert await node.closed() == 4006

    await asyncio.gather(is_told(False), is_told(True))


async def test_a_gateway_that_stops_tells_its_nodes(home: Home) -> None:
    with home.gateway() as gateway:
        plain_token, sealed_token = home.pair("plain"), home.pair("sealed")
        async with connect(gateway.url) as plain, connect(gateway.url) as sealed:
            await plain.log_in("plain", plain_token)
            await sealed.log_in("sealed", sealed_token, encrypted=True)
            gateway.process.send_signal(signal.SIGTERM)
            for node in (plain, sealed):
                bye = await node.receive()
                assert (bye["type"], bye["reason"]) == ("bye", "server_shutdown")
                assert await node.closed() == 4005


async def test_a_token_that_was_revoked_never_gets_in_again(
    operator: Operator, node: Node, dial: Dial, pairing: Pairing, encrypted: bool
) -> None:
    await operator.revoke()
    assert await node.closed() == 4006
    async with dial() as again:
        await again.greet(pairing.name, encrypted=encrypted)
        await again.auth(pairing.name, **again.credentials(pairing.token))
        assert (await again.receive_plain())["reason"] == "invalid_token"


# -- peers that do not answer a close -------------------------------------------------------------


async def test_a_node_that_does_not_answer_a_close_is_cut(our_gateway: OurTarget, pairing: Pairing) -> None:
    where = urlsplit(our_gateway.url)
    async with raw_peer(str(where.hostname), where.port or 0) as peer:
        await peer.upgrade()
        hello = {"type": "hello", "protocol_version": "0.1.0", "node_name": pairing.name}
        auth = {"type": "auth", "node_name": pairing.name, "token": pairing.token}
        await peer.send(b"".join(map(text_frame, (hello, auth, {"type": "bye"}))))
        # It reads to the end of the connection and never closes it by itself.
        said = await asyncio.wait_for(peer.rest(), 5.0)
    assert b'"auth_ok"' in said
    assert said.endswith(b"\x88\x02" + (1000).to_bytes(2, "big"))


async def test_a_message_in_several_frames_is_one_message(our_gateway: OurTarget) -> None:
    where = urlsplit(our_gateway.url)
    hello = b'{"type": "hello", "protocol_version": "7.0.0", "node_name": "x"}'
    async with raw_peer(str(where.hostname), where.port or 0) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, hello[:9], last=False) + frame(CONTINUATION, hello[9:20], last=False))
        await peer.send(frame(CONTINUATION, hello[20:]))
        assert await peer.close_code() == 4002


# -- calls in flight ------------------------------------------------------------------------------


async def says_bye(node: Node, operator: Operator) -> None:
    await node.send({"type": "bye", "reason": "going"})


async def closes(node: Node, operator: Operator) -> None:
    await node.ws.close()


async def vanishes(node: Node, operator: Operator) -> None:
    transport_of(node).abort()


async def begins_a_message_that_is_too_long(node: Node, operator: Operator) -> None:
    transport_of(node).write(frame_header(TEXT, 48 * 1024 * 1024 + 1))


async def talks_nonsense(node: Node, operator: Operator) -> None:
    await node.send_text("nonsense")


async def talks_too_much(node: Node, operator: Operator) -> None:
    for _ in range(101):
        await node.send({"type": "no_such_type"})


async def is_revoked(node: Node, operator: Operator) -> None:
    await operator.revoke()


ENDS = [
    says_bye,
    closes,
    vanishes,
    begins_a_message_that_is_too_long,
    talks_nonsense,
    talks_too_much,
    is_revoked,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_calls_in_flight_fail_with_their_session(
    operator: Operator, node: Node, end: Callable[[Node, Operator], Awaitable[None]]
) -> None:
    running = operator.exec("sleep 60")
    await arrived(node, "exec", running)
    calls: list[asyncio.Future[Any]] = [running, operator.exec("sleep 61"), operator.read()]
    await operator.all_begun(len(calls))
    await end(node, operator)
    for call in calls:
        with pytest.raises(NodeDisconnected):
            await asyncio.wait_for(call, FAILS_WITHIN)


async def test_calls_in_flight_fail_when_the_gateway_stops(home: Home) -> None:
    with home.gateway(HERMES_NODES_LEGACY_EXEC="raw") as gateway:
        token = home.pair("laptop")
        async with connect(gateway.url) as node:
            await node.log_in("laptop", token)
            call = asyncio.create_task(asyncio.to_thread(home.client.exec, "laptop", "sleep 60"))
            await arrived(node, "exec", call)
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises(NodeDisconnected):
                await asyncio.wait_for(call, FAILS_WITHIN)


async def test_each_call_that_failed_so_is_in_the_trail(operator: Operator, node: Node) -> None:
    call = operator.exec("sleep 60")
    request = await arrived(node, "exec", call)
    await node.send({"type": "bye"})
    with pytest.raises(NodeDisconnected):
        await call
    rows = operator.home.trail
    await until(lambda: bool(rows(action="exec", node=operator.node)))
    (row,) = rows(action="exec", node=operator.node)
    assert (row["status"], row["request_id"]) == ("node_disconnected", request["id"])
