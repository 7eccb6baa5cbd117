"""What a node says that no node should, and what a caller asks that no node can do: neither gets far."""

import asyncio
import json
from typing import Any, cast

import pytest

from hermes_nodes.call_connection import Json
from hermes_nodes.errors import Busy, CallFailed, NodeDisconnected, UsageError
from hermes_nodes.gateway import Gateway
from hermes_nodes.protocol.codec import Data
from hermes_nodes.protocol.messages import (
    LIMIT_STREAM,
    MAX_CALLS,
    Close,
    ExecResult,
    Ping,
    Pong,
    RateLimit,
    Read,
    ReadResult,
    Write,
    WriteResult,
)
from hermes_nodes.protocol.stream import STDERR, STDOUT
from tests.gateway.support import logged_in, start_exec
from tests.gateway.test_calls import calling, requested
from tests.harness import Home, ScriptedNode, control_request
from tests.test_sessions import Node, an_exec

WRONG_SHA256 = "0" * 64

# -- answers that fit no call -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda call_id: ExecResult(id=call_id, status="started"),
        lambda call_id: ReadResult(id=call_id, status="ok"),
    ],
    ids=["started", "read_result"],
)
async def test_an_answer_that_fits_no_command_ends_the_session_and_leaves_one_row(
    home: Home, gateway: Gateway, answer: Any
) -> None:
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop")
        request = await requested(node)
        await node.send(answer(request.id))
        assert await node.closed() == Close.PROTOCOL
        with pytest.raises(NodeDisconnected):
            await call
    (row,) = home.trail(action="exec")
    assert (row["status"], row["request_id"]) == ("node_disconnected", request.id)


# -- exit codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_code", [256, 512, 2**31, 2**32 - 256])
@pytest.mark.parametrize("status", ["ok", "error"])
async def test_an_exit_code_that_no_command_has_is_a_failure_and_not_a_success(
    home: Home, gateway: Gateway, status: Any, exit_code: int
) -> None:
    async with logged_in(home, gateway) as node:
        with home.start("exec", "laptop", "x") as command:
            request = await requested(node)
            await node.send(ExecResult(id=request.id, status=status, exit_code=exit_code))
            code, _, stderr = await asyncio.to_thread(command.end)
    assert code == 1
    assert str(exit_code) in stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert [row["status"] for row in home.trail(action="exec")] == ["error"]


@pytest.mark.parametrize("exit_code", [256, 2**31])
async def test_an_exit_code_that_no_command_has_is_called_failed_in_the_answer(
    home: Home, gateway: Gateway, exit_code: int
) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        await node.send(ExecResult(id=request.id, status="ok", exit_code=exit_code))
        answer = await caller.answer()
    assert (answer["status"], answer["exit_code"]) == ("failed", None)


async def test_a_command_that_ended_with_0_went_well_whatever_its_node_calls_it(
    home: Home, gateway: Gateway
) -> None:
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop")
        request = await requested(node)
        await node.send(ExecResult(id=request.id, status="error", exit_code=0))
        result = await call
    assert (result.status, result.exit_code) == ("ok", 0)
    (row,) = home.trail(action="exec")
    assert (row["status"], row["exit_code"]) == ("ok", 0)


# -- content that arrives altered ---------------------------------------------------------------------


@pytest.mark.parametrize("sha256", [WRONG_SHA256, "", None])
async def test_a_write_that_its_node_took_for_something_else_has_failed(
    home: Home, gateway: Gateway, sha256: str | None
) -> None:
    async with logged_in(home, gateway) as node:
        call = asyncio.create_task(asyncio.to_thread(home.client.write, "laptop", "/f", b"content"))
        request = await node.receive()
        assert isinstance(request, Write)
        assert await input_of(node) == b"content"
        await node.send(WriteResult(id=request.id, status="ok", bytes_written=7, sha256=sha256))
        with pytest.raises(CallFailed, match="altered"):
            await call


async def input_of(node: ScriptedNode) -> bytes:
    """What comes on channel 0, to its end."""
    content = b""
    while True:
        data = await node.receive()
        assert isinstance(data, Data)
        if not data.payload:
            return content
        content += data.payload


@pytest.mark.parametrize("sha256", [WRONG_SHA256, "", None])
async def test_a_file_that_is_not_what_its_node_has_read_has_failed(
    home: Home, gateway: Gateway, sha256: str | None
) -> None:
    kept = bytearray()
    async with logged_in(home, gateway) as node:
        call = asyncio.create_task(asyncio.to_thread(home.client.read, "laptop", "/f", kept.extend))
        request = await node.receive()
        assert isinstance(request, Read)
        await node.send_data(request.id, STDOUT, b"content")
        await node.send_data(request.id, STDOUT, b"")
        await node.send(ReadResult(id=request.id, status="ok", size_bytes=7, sha256=sha256))
        with pytest.raises(CallFailed, match="altered"):
            await call
    assert kept == b"content"


# -- words --------------------------------------------------------------------------------------------


async def test_a_node_that_says_too_much_is_cut_short_and_moves_no_cursor(
    home: Home, gateway: Gateway
) -> None:
    said = "\x1b[2Jgone\r\n" + "x" * 400_000
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop")
        request = await requested(node)
        await node.send(ExecResult(id=request.id, status="error", exit_code=-1, error_detail=said))
        with pytest.raises(CallFailed) as caught:
            await call
    message = caught.value.message
    assert len(message) < 2000
    assert message.isprintable()
    assert "\N{REPLACEMENT CHARACTER}[2Jgone\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}x" in message


# -- too many messages --------------------------------------------------------------------------------


async def test_pings_in_the_name_of_a_call_count_like_any_others(home: Home, gateway: Gateway) -> None:
    limit = gateway.settings.rate_limit_per_node
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop")
        request = await requested(node)
        for _ in range(limit + 1):
            await node.send(Ping(id=request.id))
        heard = await node.receive()
        while isinstance(heard, Pong):
            heard = await node.receive()
        assert isinstance(heard, RateLimit)
        assert heard.limit_per_second == limit
        assert await node.closed() == Close.LIMIT
        with pytest.raises(NodeDisconnected):
            await call


async def test_small_records_that_wait_for_their_caller_are_kept_as_few() -> None:
    call = Node().session.start(an_exec(), None)
    sent = bytes(number % 256 for number in range(10_000))
    for number in range(len(sent)):
        call.feed(STDOUT, memoryview(sent)[number : number + 1])
    call.feed(STDERR, memoryview(b"other"))
    call.feed(STDOUT, memoryview(b"more"))
    call.feed(STDOUT, memoryview(b""))
    assert len(call._output) < 20
    call.finish(ExecResult(id=call.id, status="ok"))
    pieces = []
    while (piece := await call.next_output()) is not None:
        pieces.append((piece[0], bytes(piece[1])))
    *ones, other, more, end = pieces
    assert {channel for channel, _ in ones} == {STDOUT}
    assert b"".join(content for _, content in ones) == sent
    assert [other, more, end] == [(STDERR, b"other"), (STDOUT, b"more"), (STDOUT, b"")]


# -- requests that no node can do ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"call": "write", "path": "/f", "size_bytes": 2**63},
        {"call": "exec", "command": "x", "timeout_ms": 10**400},
        {"call": "exec", "command": "x\0y"},
        {"call": "exec", "argv": ["x", "\0"]},
        {"call": "exec", "command": "x", "env": {"A": "\0"}},
        {"call": "read", "path": "/f\0"},
        {"call": "exec", "command": "#" * LIMIT_STREAM},
    ],
    ids=["size", "time-out", "command", "argv", "env", "path", "longer than a record"],
)
async def test_a_request_that_can_not_be_is_refused_and_the_nodes_other_call_goes_on(
    home: Home, gateway: Gateway, body: Json
) -> None:
    async with logged_in(home, gateway) as node:
        other = start_exec(home, "laptop")
        request = await requested(node)
        assert await status_of(gateway, body) == 400
        with pytest.raises(UsageError):
            await asyncio.to_thread(home.client.call, {"node": "laptop", **body}, lambda *_: None)
        # The next thing that the node hears of would be the request, if it had been sent.
        await node.send(Ping(id="still here"))
        pong = await node.receive()
        assert isinstance(pong, Pong)
        await node.send(ExecResult(id=request.id, status="ok"))
        assert (await other).exit_code == 0


async def status_of(gateway: Gateway, body: Json) -> int:
    """The HTTP status of a plain request."""
    fields = {key: value for key, value in body.items() if key != "call"}
    head = f"POST /v1/nodes/laptop/{body['call']}"
    status, _, content = await control_request(gateway.control_socket, head, json.dumps(fields).encode())
    assert cast("Json", json.loads(content)["error"])["code"] == "bad_request"
    return status


# -- calls that were given up -------------------------------------------------------------------------


def test_calls_that_were_given_up_keep_no_others_from_being_taken() -> None:
    node = Node()
    given_up = [node.session.start(an_exec(), None) for _ in range(MAX_CALLS)]
    with pytest.raises(Busy):
        node.session.start(an_exec(), None)
    for call in given_up:
        call.abandon()
    taken = [node.session.start(an_exec(), None) for _ in range(MAX_CALLS)]
    assert node.line.closed == []
    assert not any(call.finished for call in taken)


def test_a_node_that_answers_no_call_at_all_is_closed() -> None:
    node = Node()
    for _ in range(2 * MAX_CALLS):
        node.session.start(an_exec(), None).abandon()
    with pytest.raises(NodeDisconnected):
        node.session.start(an_exec(), None)
    assert node.line.closed == [Close.PROTOCOL]
