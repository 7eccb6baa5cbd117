"""A call's way through the gateway: what ends it, whatever its node and its caller do, and its one row."""

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from hermes_nodes import sessions
from hermes_nodes.call_connection import Json
from hermes_nodes.errors import CallFailed, Unsupported, from_wire
from hermes_nodes.gateway import Gateway, calls
from hermes_nodes.protocol import control
from hermes_nodes.protocol.messages import Cancel, Error, Exec, ExecResult, Window, Write
from hermes_nodes.protocol.stream import INITIAL_WINDOW
from tests.gateway.support import logged_in, start_exec
from tests.harness import Home, ScriptedNode
from tests.support import PATIENCE, SOON


class Caller:
    """The other end of an upgraded call, which reads only when a test says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.output = {1: bytearray(), 2: bytearray()}

    def send(self, kind: int, payload: bytes = b"", channel: int = 0) -> None:
        self.writer.write(control.frame(kind, payload, channel))

    async def answer(self) -> Json:
        """The final answer, with the output before it in ``output``."""
        async with asyncio.timeout(PATIENCE):
            while True:
                size, kind, channel = struct.unpack(">IBB", await self.reader.readexactly(6))
                payload = await self.reader.readexactly(size)
                if kind == control.DATA:
                    self.output[channel] += payload
                elif kind == control.ANSWER:
                    return cast("Json", json.loads(payload))

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]


@asynccontextmanager
async def calling(gateway: Gateway, **body: Any) -> AsyncIterator[Caller]:
    """A call of that body, upgraded."""
    content = json.dumps({"call": "exec", "node": "laptop", **body}).encode()
    head = (
        f"POST /v1/call HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {control.UPGRADE}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_unix_connection(gateway.control_socket)
    try:
        writer.write(head.encode() + content)
        answered = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert answered.startswith(b"HTTP/1.1 101 "), answered
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """A gateway that gives its nodes less time to end a call."""
    for module in (calls, sessions):
        monkeypatch.setattr(module, "END_GRACE", 0.3)
    return 0.3


async def requested(node: ScriptedNode) -> Exec:
    request = await node.receive()
    assert isinstance(request, Exec)
    return request


async def fill_windows(node: ScriptedNode, call_id: str) -> None:
    """As much output as a caller may leave unread: more than the kernel takes for it."""
    for channel in (1, 2):
        for _ in range(4):
            await node.send_data(call_id, channel, bytes(INITIAL_WINDOW // 4))


async def next_row(rows: Iterator[dict[str, object]]) -> dict[str, object]:
    return await asyncio.to_thread(next, rows)


# -- callers ------------------------------------------------------------------------------------------


async def test_a_caller_slower_than_the_time_out_gets_all_that_came_in_time(
    home: Home, gateway: Gateway, impatient: float
) -> None:
    with home.rows(action="exec") as rows:
        async with (
            logged_in(home, gateway) as node,
            calling(gateway, command="x", timeout_ms=100) as caller,
        ):
            caller.stop_reading()
            request = await requested(node)
            await fill_windows(node, request.id)
            await node.send(ExecResult(id=request.id, exit_code=3, status="error"))
            # Nothing is told while nobody reads: the time passes in which the gateway must not give up.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(next_row(rows), 0.1 + impatient + 0.2)
            caller.go_on_reading()
            answer = await caller.answer()
    assert (answer["status"], answer["exit_code"]) == ("error", 3)
    assert [len(stream) for stream in caller.output.values()] == [INITIAL_WINDOW] * 2


async def test_a_lost_node_is_written_down_though_its_caller_reads_nothing(
    home: Home, gateway: Gateway, strict: None
) -> None:
    with home.rows(action="exec") as rows:
        async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
            caller.stop_reading()
            request = await requested(node)
            await fill_windows(node, request.id)
            node.ws._response.close()
            async with asyncio.timeout(SOON):
                assert (await next_row(rows))["status"] == "node_disconnected"
            caller.go_on_reading()
            assert (await caller.answer())["status"] == "node_disconnected"


async def test_a_caller_who_reads_gets_the_last_words_of_a_lost_node(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        await fill_windows(node, request.id)
        node.ws._response.close()
        assert (await caller.answer())["status"] == "node_disconnected"
        assert len(caller.output[1]) > 0


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that waits less for callers who take nothing more."""
    assert calls.LAST_OUTPUT_SECONDS < 2
    monkeypatch.setattr(calls, "LAST_OUTPUT_SECONDS", 0.2)


async def test_a_cancel_is_heard_while_output_waits_for_its_reader(
    home: Home, gateway: Gateway, strict: None
) -> None:
    with home.rows(action="exec") as rows:
        async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
            caller.stop_reading()
            request = await requested(node)
            await fill_windows(node, request.id)
            caller.send(control.CANCEL)
            while not isinstance(await node.receive(), Cancel):
                pass
            await node.send(ExecResult(id=request.id, status="cancelled", exit_code=130, signal="INT"))
            async with asyncio.timeout(SOON):
                row = await next_row(rows)
    assert (row["status"], row["exit_code"]) == ("cancelled", 130)


async def test_what_a_cancelled_command_still_said_reaches_a_caller_who_reads(
    home: Home, gateway: Gateway
) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        caller.send(control.CANCEL)
        assert await node.receive() == Cancel(id=request.id)
        await node.send_data(request.id, 1, b"last words\n")
        await node.send(ExecResult(id=request.id, status="cancelled", exit_code=130))
        answer = await caller.answer()
    assert (answer["status"], bytes(caller.output[1])) == ("cancelled", b"last words\n")


async def test_output_that_was_dropped_does_not_pass_for_a_whole_one(
    home: Home, gateway: Gateway, strict: None
) -> None:
    """The command has ended well before its caller cancels, who then does not take the rest."""
    with home.rows(action="exec") as rows:
        async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
            caller.stop_reading()
            request = await requested(node)
            await fill_windows(node, request.id)
            await node.send(ExecResult(id=request.id, status="ok"))
            await node.ws.ping()
            await node.ws.receive()  # so far the gateway has read
            caller.send(control.CANCEL)
            assert (await next_row(rows))["status"] == "cancelled"
            caller.go_on_reading()
            answer = await caller.answer()
    assert (answer["status"], answer["exit_code"]) == ("cancelled", 0)
    assert sum(map(len, caller.output.values())) < 2 * INITIAL_WINDOW


async def test_a_caller_that_hangs_up_ends_the_call(home: Home, gateway: Gateway) -> None:
    with home.rows(action="exec") as rows:
        async with logged_in(home, gateway) as node:
            async with calling(gateway, command="x"):
                request = await requested(node)
            assert await node.receive() == Cancel(id=request.id)
            await node.send(ExecResult(id=request.id, status="cancelled", exit_code=130))
            assert (await next_row(rows))["status"] == "cancelled"


async def test_half_a_hang_up_is_one(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        caller.writer.write_eof()
        assert await node.receive() == Cancel(id=request.id)


@pytest.mark.parametrize("end", ["asked", "half-closed", "aborted"])
async def test_a_node_keeps_what_a_caller_that_vanished_has_sent(
    home: Home, gateway: Gateway, end: str
) -> None:
    async with (
        logged_in(home, gateway) as node,
        calling(gateway, call="write", path="x", size_bytes=9) as caller,
    ):
        request = await node.receive()
        assert isinstance(request, Write)
        if end == "asked":
            caller.send(control.CANCEL)
            caller.writer.write_eof()
        elif end == "half-closed":
            caller.writer.write_eof()
        else:
            caller.writer.transport.abort()
        assert await node.receive() == Cancel(id=request.id, keep=end != "asked")


async def test_input_that_nobody_asked_for_changes_nothing(
    home: Home, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        caller.send(control.DATA, b"input")
        caller.send(control.END)
        caller.send(99, b"from a newer client")
        await node.send(ExecResult(status="ok", id=request.id))
        assert (await caller.answer())["status"] == "ok"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_input_beyond_its_window_ends_the_connection(home: Home, gateway: Gateway) -> None:
    async with (
        logged_in(home, gateway) as node,
        calling(gateway, call="write", path="/tmp/x") as caller,
    ):
        request = await node.receive()
        assert isinstance(request, Write)
        # The node grants nothing, so what fits is the first window here and the first one there.
        for _ in range(9):
            caller.send(control.DATA, bytes(INITIAL_WINDOW // 4))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.answer()
        await until_cancelled(node, request.id)


async def test_a_frame_longer_than_any_ends_the_connection(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        caller.writer.write(control.header(control.DATA, control.MAX_FRAME + 1))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.answer()
        await until_cancelled(node, request.id)


async def until_cancelled(node: ScriptedNode, call_id: str) -> None:
    """Past the data that came before it."""
    while (message := await node.receive()) != Cancel(id=call_id):
        assert not isinstance(message, Exec)


async def test_a_quiet_call_shows_that_it_lives(
    home: Home, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_nodes.gateway.connection.ALIVE_EVERY", 0.1)
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        await requested(node)
        for _ in range(2):
            head = await asyncio.wait_for(caller.reader.readexactly(6), SOON)
            assert head == control.frame(control.ALIVE)


# -- nodes --------------------------------------------------------------------------------------------


async def test_a_node_that_does_not_end_a_cancelled_call_is_not_waited_for(
    home: Home, gateway: Gateway, impatient: float
) -> None:
    async with logged_in(home, gateway) as node:
        async with calling(gateway, command="x") as caller:
            request = await requested(node)
            caller.send(control.CANCEL)
            assert await node.receive() == Cancel(id=request.id)
            answer = await caller.answer()
        assert answer["status"] == "cancelled"
        assert "did not confirm" in str(cast("Json", answer["error"])["hint"])
        # What still comes is dropped, and granted for, so that the node can come to its end.
        await send_as_granted(node, request.id, 4 * INITIAL_WINDOW)
        await node.send(ExecResult(id=request.id, status="cancelled", exit_code=130))
        (view,) = await asyncio.to_thread(home.client.nodes, "laptop")
        assert view["state"] == "connected"
    assert [row["status"] for row in home.trail(action="exec")] == ["cancelled"]


async def send_as_granted(node: ScriptedNode, call_id: str, size: int) -> None:
    """That much output, in pieces for which there is credit."""
    piece = bytes(INITIAL_WINDOW // 4)
    credit = INITIAL_WINDOW
    for _ in range(size // len(piece)):
        while credit < len(piece):
            grant = await node.receive()
            assert isinstance(grant, Window)
            credit += grant.bytes
        credit -= len(piece)
        await node.send_data(call_id, 1, piece)


async def test_a_node_that_does_not_keep_a_time_out_is_not_waited_for(
    home: Home, gateway: Gateway, impatient: float
) -> None:
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop", timeout=0.1)
        request = await requested(node)
        assert request.timeout_ms == 100
        result = await call
        assert (result.status, result.exit_code) == ("timeout", None)
    assert [row["status"] for row in home.trail(action="exec")] == ["timeout"]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"status": "error", "exit_code": -1, "error": "permission_denied"}, "permission_denied"),
        ({"status": "error", "exit_code": -1, "error": "no such word"}, "failed"),
        ({"status": "error", "exit_code": -1, "error": "busy"}, "busy"),
        ({"status": "error", "exit_code": -1, "error": "unsupported"}, "unsupported"),
    ],
)
async def test_what_a_node_could_not_do_reaches_the_caller_as_its_own_error(
    home: Home, gateway: Gateway, said: dict[str, Any], code: str
) -> None:
    async with logged_in(home, gateway) as node, calling(gateway, command="x") as caller:
        request = await requested(node)
        await node.send(ExecResult(id=request.id, error_detail="be\x1b[2Jware", **said))
        answer = await caller.answer()
    error = cast("Json", answer["error"])
    assert error["code"] == code
    assert from_wire(error).message.isprintable()


async def test_an_error_message_ends_the_call_that_it_names(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway) as node:
        call = start_exec(home, "laptop")
        request = await requested(node)
        await node.send(Error(code=5000, reason="about nothing"))
        await node.send(Error(id=request.id, code=3002, reason="exec_failed", detail="no shell"))
        with pytest.raises(CallFailed, match="no shell"):
            await call


async def test_nothing_is_asked_of_a_node_that_it_does_not_list(home: Home, gateway: Gateway) -> None:
    async with logged_in(home, gateway), calling(gateway, command="x", stdin=True) as caller:
        error = from_wire(cast("Json", (await caller.answer())["error"]))
        assert isinstance(error, Unsupported)
