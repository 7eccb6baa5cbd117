"""Section 4: a node without `stream/1` gets one call at a time, in order, and not for ever."""

import asyncio
import time

import pytest

from hermes_nodes.errors import Busy, CallFailed
from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Node
from tests.conformance.operators import Operator, arrived
from tests.conformance.test_calls import answer

#: Calls that may wait while one runs.
QUEUE = 64
#: Seconds after its time-out that a call is given up.
GRACE = 5.0


async def test_calls_arrive_one_at_a_time_and_in_order(operator: Operator, node: Node) -> None:
    calls = []
    for number in range(4):
        calls.append(operator.exec(f"echo {number}"))
        await operator.all_begun(number + 1)
    for number, call in enumerate(calls):
        request = await arrived(node, "exec", call)
        assert request["command"] == f"echo {number}"
        # Were the next one sent as well, it would come before the pong.
        await node.is_served()
        await answer(node, request, stdout=f"{number}\n")
        assert (await call).stdout == f"{number}\n"


async def test_calls_of_all_kinds_wait_in_one_queue(operator: Operator, node: Node) -> None:
    running = operator.exec()
    request = await arrived(node, "exec", running)
    reading = operator.read()
    await operator.all_begun(2)
    writing = operator.write()
    await operator.all_begun(3)
    await node.is_served()
    await answer(node, request)
    await answer(node, await arrived(node, "read", reading), content_b64="dGV4dA==", size_bytes=4)
    await answer(node, await arrived(node, "write", writing), bytes_written=4)
    assert (await running).status == "ok"
    assert await reading == b"text"
    assert (await writing).size_bytes == 4


async def test_an_error_message_makes_room_as_well(operator: Operator, node: Node) -> None:
    first = operator.exec()
    request = await arrived(node, "exec", first)
    second = operator.exec()
    await node.send({"type": "error", "id": request["id"], "code": 3002, "reason": "exec_failed"})
    await answer(node, await arrived(node, "exec", second))
    assert (await second).status == "ok"
    with pytest.raises(CallFailed):
        await first


async def test_one_call_more_than_may_wait_is_refused(operator: Operator, node: Node) -> None:
    calls = {operator.exec() for _ in range(1 + QUEUE)}
    await operator.all_begun(1 + QUEUE)
    with pytest.raises(Busy):
        await operator.exec()
    for _ in range(1 + QUEUE):
        await answer(node, await node.request("exec"))
    assert {call.status for call in await asyncio.gather(*calls)} == {"ok"}


async def test_a_call_is_given_up_five_seconds_after_its_time_out(
    operator: Operator, dial: Dial, pairing: Pairing
) -> None:
    began = time.monotonic()
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=True)
        call = operator.exec("sleep 60", timeout=1)
        request = await arrived(node, "exec", call)
        assert (await call).status == "timeout"
        assert 1 + GRACE - 0.2 < time.monotonic() - began < 1 + GRACE + 2
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=True)
        # What is still said of it is nothing to anybody.
        await answer(node, request, stdout="too late\n")
        await node.is_served()
