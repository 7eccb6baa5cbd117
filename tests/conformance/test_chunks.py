"""Section 4: `exec_chunk`, which is sent only where both sides list it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator

import pytest

from hermes_nodes.client import ExecResult
from hermes_nodes.errors import NodeDisconnected
from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Json, Node
from tests.conformance.operators import Operator, arrived
from tests.conformance.target import OurTarget, Target, our_target

Course = tuple[Node, "asyncio.Future[ExecResult]", str]


@pytest.fixture(scope="module")
def streaming_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurTarget]:
    with our_target(tmp_path_factory.mktemp("streaming"), legacy_streaming=True) as target:
        yield target


@pytest.fixture
def our_gateway(streaming_gateway: OurTarget) -> OurTarget:
    return streaming_gateway


@pytest.fixture
async def streamer(
    operator: Operator, dial: Dial, pairing: Pairing, encrypted: bool
) -> AsyncIterator[Node]:
    """A node that has agreed on `exec_chunk`."""
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=encrypted, capabilities=["exec_chunk"])
        assert node.hello_ack["capabilities"] == ["exec_chunk"]
        yield node


@pytest.fixture
async def course(operator: Operator, streamer: Node) -> Course:
    """The node, a call that it has got, and the call's id."""
    call = operator.exec()
    request = await arrived(streamer, "exec", call)
    return streamer, call, request["id"]


def chunk(call_id: str, seq: int, data: bytes = b"", **fields: object) -> Json:
    """One that is not the last, unless told otherwise."""
    content = base64.b64encode(data).decode()
    return {"type": "exec_chunk", "id": call_id, "seq": seq, "data": content, "more": True, **fields}


def last(call_id: str, seq: int, data: bytes = b"", **fields: object) -> Json:
    end = {"more": False, "status": "ok", "exit_code": 0, "duration_ms": 5, "truncated": False}
    return chunk(call_id, seq, data, **{**end, **fields})


# -- what is agreed on ----------------------------------------------------------------------------


async def test_a_node_that_does_not_list_it_is_not_offered_it(
    our_gateway: OurTarget, peer: Node, fresh_name: str, encrypted: bool
) -> None:
    assert (await peer.greet(fresh_name, encrypted=encrypted))["capabilities"] == []


async def test_a_chunk_that_was_not_agreed_on_is_out_of_order(operator: Operator, node: Node) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    await node.send(chunk(request["id"], 1, b"x"))
    assert await node.closed() == 4003
    with pytest.raises(NodeDisconnected):
        await call


# -- what comes out -------------------------------------------------------------------------------


async def test_chunks_are_joined_in_their_order(course: Course) -> None:
    node, call, call_id = course
    await node.send(chunk(call_id, 1, b"one "))
    await node.send(chunk(call_id, 2, b"\xff\x00 "))
    await node.send(last(call_id, 3, b"three", status="error", exit_code=3))
    result = await call
    assert (result.stdout_bytes, result.stderr_bytes) == (b"one \xff\x00 three", b"")
    assert (result.status, result.exit_code, result.truncated) == ("error", 3, False)


async def test_one_last_chunk_is_enough(course: Course) -> None:
    node, call, call_id = course
    await node.send(last(call_id, 1, b"", truncated=True))
    result = await call
    assert (result.stdout_bytes, result.status, result.truncated) == (b"", "ok", True)


async def test_fields_that_are_false_or_empty_may_be_left_out(course: Course) -> None:
    node, call, call_id = course
    await node.send({"type": "exec_chunk", "id": call_id, "seq": 1, "data": "eA==", "more": True})
    await node.send({"type": "exec_chunk", "id": call_id, "seq": 2, "status": "ok"})
    result = await call
    assert (result.stdout, result.exit_code) == ("x", 0)


async def test_a_plain_answer_is_taken_all_the_same(course: Course) -> None:
    node, call, call_id = course
    await node.send({"type": "exec_result", "id": call_id, "status": "ok", "stdout": "x", "stderr": "y"})
    result = await call
    assert (result.stdout, result.stderr) == ("x", "y")


async def test_an_error_message_ends_a_call_between_its_chunks(course: Course) -> None:
    node, call, call_id = course
    await node.send(chunk(call_id, 1, b"x"))
    await node.send({"type": "error", "id": call_id, "code": 3002, "reason": "exec_failed", "detail": "no"})
    assert "no" in str(await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 20))
    await node.is_served()


# -- what ends the session ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seqs", [[0], [2], [-1], [1, 1], [1, 3], [1, 2, 1], [2, 1], [None], [10**30]], ids=str
)
async def test_a_gap_or_a_repeat_closes_the_session(course: Course, seqs: list[int | None]) -> None:
    node, call, call_id = course
    for seq in seqs:
        message = {**chunk(call_id, 0, b"x"), "seq": seq}
        await node.send({key: value for key, value in message.items() if value is not None})
    assert await node.closed() == 4003
    with pytest.raises(NodeDisconnected):
        await call


@pytest.mark.parametrize("data", ["!", "eA", "eA=", "e A==", "-_-_", "\u00e9", 1, ["eA=="]], ids=ascii)
async def test_data_that_is_no_base64_closes_the_session(course: Course, data: object) -> None:
    node, call, call_id = course
    await node.send({"type": "exec_chunk", "id": call_id, "seq": 1, "data": data, "more": True})
    assert await node.closed() == 4003
    with pytest.raises(NodeDisconnected):
        await call


# -- what counts ----------------------------------------------------------------------------------


async def test_chunks_of_a_known_call_are_exempt_from_the_rate_limit(
    course: Course, gateway: Target
) -> None:
    node, call, call_id = course
    count = 3 * gateway.rate_limit
    for seq in range(1, count):
        await node.send(chunk(call_id, seq, b"x"))
    await node.send(last(call_id, count, b"x"))
    assert (await call).stdout == "x" * count
    await node.is_served()


async def test_chunks_for_a_call_that_nobody_waits_for_are_ignored(streamer: Node) -> None:
    await streamer.send(chunk("00000000-0000-4000-8000-000000000000", 7, b"x"))
    await streamer.send(last("00000000-0000-4000-8000-000000000000", 9, b"x"))
    await streamer.is_served()


async def test_such_chunks_count(streamer: Node, gateway: Target) -> None:
    for seq in range(1, gateway.rate_limit + 2):
        await streamer.send(chunk("00000000-0000-4000-8000-000000000000", seq, b"x"))
    assert (await streamer.receive())["type"] == "rate_limit"
    assert await streamer.closed() == 4004


async def test_chunks_after_the_last_are_of_no_call(course: Course) -> None:
    node, call, call_id = course
    await node.send(last(call_id, 1, b"x"))
    assert (await call).stdout == "x"
    await node.send(chunk(call_id, 2, b"y"))
    await node.is_served()
