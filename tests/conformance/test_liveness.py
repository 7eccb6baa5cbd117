"""Section 5: pings, silence, and what counts as life."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from hermes_nodes.client import ExecResult
from tests.conformance.conftest import Dial
from tests.conformance.node import Json, Node
from tests.conformance.operators import Operator, arrived
from tests.conformance.target import OurTarget, Target, our_target
from tests.support import PATIENCE

#: A gateway looks after its sessions once a second.
SWEEP_SECONDS = 1.0


@pytest.fixture(scope="module")
def impatient_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    folder = tmp_path_factory.mktemp("impatient")
    with our_target(folder, handshake_seconds=0.7, ping_seconds=0.5, dead_seconds=1.5) as target:
        yield target


@pytest.fixture
def our_gateway(impatient_gateway: OurTarget) -> OurTarget:
    return impatient_gateway


# -- the handshake --------------------------------------------------------------------------------


async def test_a_peer_that_says_nothing_is_refused_in_time(peer: Node, gateway: Target) -> None:
    began = time.monotonic()
    reply = await peer.receive_plain(gateway.handshake_seconds + PATIENCE)
    assert time.monotonic() - began > gateway.handshake_seconds * 0.9
    assert (reply["type"], reply["reason"], reply["code"]) == ("hello_err", "handshake_timeout", 4004)
    assert await peer.closed() == 4004


async def test_a_peer_that_stops_after_hello_ack_is_refused_in_time(greeted: Node, gateway: Target) -> None:
    reply = await greeted.receive_plain(gateway.handshake_seconds + PATIENCE)
    assert (reply["type"], reply["reason"], reply["code"]) == ("auth_err", "handshake_timeout", 4004)
    assert await greeted.closed() == 4004


async def test_websocket_pings_do_not_prolong_the_handshake(peer: Node, gateway: Target) -> None:
    end = asyncio.ensure_future(peer.closed(gateway.handshake_seconds + PATIENCE))
    while not end.done():
        await peer.ws.ping(b"still here")
        await asyncio.wait({end}, timeout=0.1)
    assert await end == 4004


# -- pings of the node ----------------------------------------------------------------------------


async def test_a_ping_is_answered_with_its_time(node: Node) -> None:
    await node.send({"type": "ping", "ts": "2020-01-02T03:04:05.678Z"})
    pong = await node.receive()
    assert (pong["type"], pong["echo_ts"]) == ("pong", "2020-01-02T03:04:05.678Z")
    assert "id" not in pong


@pytest.mark.parametrize("ping_id", ["7", "a" * 64, "00000000-0000-4000-8000-000000000000"])
async def test_a_ping_s_id_comes_back(node: Node, ping_id: str) -> None:
    await node.send({"type": "ping", "id": ping_id, "ts": "now"})
    pong = await node.receive()
    assert (pong["type"], pong["id"], pong["echo_ts"]) == ("pong", ping_id, "now")


async def test_a_ping_without_a_time_is_answered_without_one(node: Node) -> None:
    await node.send({"type": "ping"})
    pong = await node.receive()
    assert pong["type"] == "pong"
    assert not pong.get("echo_ts")


async def test_pings_are_answered_in_their_order(node: Node) -> None:
    times = [f"time {number}" for number in range(20)]
    for ts in times:
        await node.send({"type": "ping", "ts": ts})
    assert [(await node.receive())["echo_ts"] for _ in times] == times


# -- silence --------------------------------------------------------------------------------------


async def test_a_silent_node_is_pinged_and_then_closed(node: Node, gateway: Target) -> None:
    began = time.monotonic()
    ping = await node.receive(gateway.ping_seconds + PATIENCE)
    assert ping["type"] == "ping"
    assert time.monotonic() - began > gateway.ping_seconds * 0.9
    assert await node.closed(gateway.dead_seconds + PATIENCE) == 1000
    assert gateway.dead_seconds * 0.9 < time.monotonic() - began
    assert node.websocket_pings == []


SIGNS: list[Json] = [
    {"type": "ping"},
    {"type": "pong"},
    {"type": "no_such_type"},
    {"type": "exec_result", "id": "x", "status": "ok"},
    {"type": "error", "code": 5000},
]


async def test_any_message_counts_as_life(operator: Operator, dial: Dial, gateway: Target) -> None:
    until = time.monotonic() + gateway.dead_seconds + SWEEP_SECONDS

    async def answers_pings(node: Node, sign: Json) -> None:
        while time.monotonic() < until:
            assert (await node.receive())["type"] == "ping"
            await node.send(sign)

    async def lives(number: int, sign: Json) -> None:
        name = f"{operator.node}-{number}"
        token = await operator.pair(name)
        async with dial() as node:
            await node.log_in(name, token, encrypted=number % 2 == 1)
            await (pings_by_itself(node, until) if sign["type"] == "ping" else answers_pings(node, sign))
            await node.is_served()

    await asyncio.gather(*(lives(number, sign) for number, sign in enumerate(SIGNS * 2)))


async def pings_by_itself(node: Node, until: float) -> None:
    """It gets its pongs and nothing else: nobody pings a node that is not silent."""
    while time.monotonic() < until:
        await node.is_served()
        with pytest.raises(TimeoutError):
            await node.receive(0.1)


async def test_silence_is_allowed_while_a_call_runs(operator: Operator, dial: Dial) -> None:
    idle_name = f"{operator.node}-idle"
    async with AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(a_busy_node(operator, dial, e)) for e in (False, True)]
        idle = await stack.enter_async_context(dial())
        await idle.log_in(idle_name, await operator.pair(idle_name))
        # It has been silent for less long than those that are busy.
        assert await idle.closed() == 1000
        for node, call, call_id in busy:
            await node.send({"type": "exec_result", "id": call_id, "status": "ok", "stdout": "done\n"})
            assert (await call).stdout == "done\n"
        # Now silence counts again.
        assert await asyncio.gather(*(node.closed() for node, _, _ in busy)) == [1000, 1000]


@asynccontextmanager
async def a_busy_node(
    operator: Operator, dial: Dial, encrypted: bool
) -> AsyncIterator[tuple[Node, "asyncio.Future[ExecResult]", str]]:
    """A node with a call that it has not answered yet, and the call's id."""
    theirs = operator.on(f"{operator.node}-{encrypted}")
    token = await operator.pair(theirs.node)
    async with dial() as node:
        await node.log_in(theirs.node, token, encrypted=encrypted)
        call = theirs.exec("sleep 60")
        request = await arrived(node, "exec", call)
        yield node, call, request["id"]
