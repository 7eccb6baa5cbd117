"""Section 6: how many messages a node may send, and how many calls it may get, in a second."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from hermes_nodes.errors import RateLimited
from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Json, Node
from tests.conformance.operators import Operator, arrived
from tests.conformance.target import OurTarget, Target, our_target

LIMIT = 30


@pytest.fixture(scope="module")
def strict_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    with our_target(tmp_path_factory.mktemp("strict"), rate_limit=LIMIT, ping_seconds=1.0) as target:
        yield target


@pytest.fixture
def our_gateway(strict_gateway: OurTarget) -> OurTarget:
    return strict_gateway


MESSAGES: list[Json] = [
    {"type": "no_such_type"},
    {"type": "no_such_type", "id": "00000000-0000-4000-8000-000000000000"},
    {"type": "pong"},
    {"type": "exec_result", "id": "x", "status": "ok"},
    {"type": "error", "code": 5000, "reason": "internal_error"},
    {"type": "enc", "data": "AAAA"},
    {"type": "hello", "protocol_version": "0.1.0", "node_name": "x"},
]


async def burst(node: Node, message: Json, count: int) -> None:
    for _ in range(count):
        await node.send(message)


# -- messages of a node ---------------------------------------------------------------------------


async def test_as_many_messages_as_the_limit_are_taken(node: Node, gateway: Target) -> None:
    await burst(node, {"type": "no_such_type"}, gateway.rate_limit - 1)
    await node.is_served()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(message["type"]))
async def test_one_more_ends_the_session_with_a_notice(
    node: Node, gateway: Target, pairing: Pairing, message: Json
) -> None:
    await burst(node, message, gateway.rate_limit + 1)
    notice = await node.receive()
    assert {
        key: notice.get(key) for key in ("type", "reason", "code", "node_name", "limit_per_second")
    } == {
        "type": "rate_limit",
        "reason": "rate_limit_exceeded",
        "code": 4004,
        "node_name": pairing.name,
        "limit_per_second": gateway.rate_limit,
    }
    assert await node.closed() == 4004


async def test_pings_count_although_they_are_answered(node: Node, gateway: Target) -> None:
    await burst(node, {"type": "ping", "ts": "now"}, gateway.rate_limit + 1)
    # It need not still answer those that were in time.
    while (message := await node.receive())["type"] == "pong":
        pass
    assert message["type"] == "rate_limit"
    assert await node.closed() == 4004


async def test_the_second_slides(
    our_gateway: OurTarget, peer: Node, gateway: Target, pairing: Pairing
) -> None:
    await peer.log_in(pairing.name, pairing.token)
    await burst(peer, {"type": "no_such_type"}, gateway.rate_limit)
    # The gateway pings whoever has said nothing for a second.
    assert (await peer.receive())["type"] == "ping"
    await burst(peer, {"type": "no_such_type"}, gateway.rate_limit - 1)
    await peer.is_served()


async def test_each_session_has_its_own_count(
    our_gateway: OurTarget, dial: Dial, pairing: Pairing, gateway: Target, encrypted: bool
) -> None:
    for _ in range(3):
        async with dial() as node:
            await node.log_in(pairing.name, pairing.token, encrypted=encrypted)
            await burst(node, {"type": "no_such_type"}, gateway.rate_limit - 1)
            await node.is_served()


async def test_an_answer_to_a_call_is_exempt(operator: Operator, node: Node, gateway: Target) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    await burst(node, {"type": "no_such_type"}, gateway.rate_limit)
    await node.send({"type": "exec_result", "id": request["id"], "status": "ok"})
    assert (await call).status == "ok"


async def test_a_second_answer_to_the_same_call_is_not(
    operator: Operator, node: Node, gateway: Target
) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    answer = {"type": "exec_result", "id": request["id"], "status": "ok"}
    await burst(node, answer, gateway.rate_limit + 2)
    assert (await call).status == "ok"
    assert (await node.receive())["type"] == "rate_limit"
    assert await node.closed() == 4004


# -- calls to a node ------------------------------------------------------------------------------


async def test_one_call_more_than_the_limit_is_refused_to_its_caller(
    operator: Operator, node: Node, gateway: Target
) -> None:
    calls = [operator.exec() for _ in range(gateway.rate_limit + 1)]
    for _ in range(gateway.rate_limit):
        request = await node.request("exec")
        await node.send({"type": "exec_result", "id": request["id"], "status": "ok"})
    done = await asyncio.gather(*calls, return_exceptions=True)
    (refused,) = (one for one in done if isinstance(one, BaseException))
    assert isinstance(refused, RateLimited)
    wait = re.search(r"(\d+) ms", refused.hint)
    assert wait is not None
    assert 0 < int(wait[1]) <= 1001
    await node.is_served()


async def test_a_refused_call_leaves_other_nodes_alone(
    operator: Operator, node: Node, dial: Dial, gateway: Target
) -> None:
    calls = [operator.exec() for _ in range(gateway.rate_limit + 1)]
    other_name = f"{operator.node}-other"
    async with dial() as other:
        await other.log_in(other_name, await operator.pair(other_name))
        call = operator.on(other_name).exec()
        request = await arrived(other, "exec", call)
        await other.send({"type": "exec_result", "id": request["id"], "status": "ok"})
        assert (await call).status == "ok"
    await node.send({"type": "bye"})
    await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_are_counted_beyond_a_reconnect(
    operator: Operator, dial: Dial, pairing: Pairing, gateway: Target
) -> None:
    half = gateway.rate_limit // 2 + 1
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token)
        first = [operator.exec() for _ in range(half)]
        await operator.all_begun(half)
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token)
        second = [operator.exec() for _ in range(half)]
        done, _ = await asyncio.wait(second, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(one.exception(), RateLimited) for one in done)
    await asyncio.gather(*first, *second, return_exceptions=True)
