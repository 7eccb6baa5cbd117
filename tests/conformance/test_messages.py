"""Section 1 after `auth_ok`: what a session reads, what it ignores, and what ends it."""

import json
import struct
from contextlib import suppress

import pytest

from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Json, Node, seal
from tests.conformance.replies import DEEP, NO_OBJECTS

LIMIT_AFTER_AUTH = 48 * 1024 * 1024
#: The messages that a node may send, with fields that are as they should be.
KNOWN: dict[str, Json] = {
    "ping": {"id": "x"},
    "pong": {"echo_ts": "now"},
    "exec_result": {"id": "x", "status": "ok", "exit_code": 0, "stdout": "", "duration_ms": 1},
    "read_result": {"id": "x", "status": "ok", "content_b64": "", "size_bytes": 0},
    "write_result": {"id": "x", "status": "ok", "bytes_written": 0},
    "error": {"id": "x", "code": 4000, "reason": "bad_request", "detail": "no"},
}


# -- what ends a session --------------------------------------------------------------------------


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
async def test_a_message_that_is_no_object_closes_the_session(node: Node, text: str) -> None:
    await node.send_content(text.encode())
    assert await node.closed() == 4003


async def test_a_binary_message_closes_the_session(node: Node) -> None:
    await node.send_binary(b'{"type": "ping"}')
    assert await node.closed() == 4003


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ping", "id", 1),
        ("ping", "ts", 1),
        ("ping", "ts", "t" * 65),
        ("pong", "echo_ts", {}),
        ("bye", "reason", 1),
        ("exec_result", "id", 1),
        ("exec_result", "status", "fine"),
        ("exec_result", "status", 1),
        ("exec_result", "exit_code", "0"),
        ("exec_result", "exit_code", 0.5),
        ("exec_result", "exit_code", 10**30),
        ("exec_result", "stdout", 1),
        ("exec_result", "stderr", ["x"]),
        ("exec_result", "duration_ms", "1"),
        ("exec_result", "truncated", "no"),
        ("read_result", "content_b64", 1),
        ("read_result", "size_bytes", "1"),
        ("write_result", "bytes_written", {}),
        ("write_result", "error", 1),
        ("error", "code", "4000"),
        ("error", "reason", 1),
        ("error", "detail", []),
    ],
)
async def test_a_field_of_a_wrong_type_closes_the_session(
    node: Node, kind: str, field: str, value: object
) -> None:
    await node.send({"type": kind, **KNOWN.get(kind, {}), field: value})
    assert await node.closed() == 4003


@pytest.mark.parametrize("kind", ["exec_result", "read_result", "write_result"])
async def test_an_answer_without_an_id_closes_the_session(node: Node, kind: str) -> None:
    await node.send({"type": kind, "status": "ok"})
    assert await node.closed() == 4003


async def test_nesting_in_an_unknown_field_has_an_end(node: Node) -> None:
    await node.send_content(f'{{"type": "ping", "x": {DEEP}}}'.encode())
    assert await node.closed() == 4003


# -- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KNOWN)
async def test_unknown_fields_are_ignored_on_every_message(node: Node, kind: str) -> None:
    await node.send({"type": kind, **KNOWN[kind], "colour": "blue", "nested": {"a": [1, None]}, "x": 1e308})
    if kind == "ping":
        assert (await node.receive())["type"] == "pong"
    await node.is_served()


@pytest.mark.parametrize("kind", KNOWN)
async def test_a_time_is_never_needed_nor_understood(node: Node, kind: str) -> None:
    await node.send({"type": kind, **KNOWN[kind], "ts": "the day before yesterday"})
    if kind == "ping":
        assert (await node.receive())["echo_ts"] == "the day before yesterday"
    await node.is_served()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "no_such_type"},
        {"type": "no_such_type", "id": "x", "anything": [{}]},
        {"type": ""},
        {"type": "PING"},
        {"type": "x" * 10_000},
        {"type": "ping\u0000"},
        {"type": "\ud83d\ude00"},
        # What only a gateway, or only a handshake, says.
        {"type": "hello", "protocol_version": "9.0.0", "node_name": "x"},
        {"type": "auth", "node_name": "x", "token": "y"},
        {"type": "exec", "id": "x", "command": "id"},
        {"type": "cancel", "id": "x"},
        {"type": "rate_limit", "reason": "x", "code": 4004},
        {"type": "auth_ok", "session_id": "x"},
    ],
    ids=lambda message: ascii(message["type"])[:20],
)
async def test_an_unknown_type_is_ignored(node: Node, message: Json) -> None:
    await node.send(message)
    await node.is_served()


@pytest.mark.parametrize("kind", ["exec_result", "read_result", "write_result", "error"])
async def test_an_answer_to_no_call_is_ignored(node: Node, kind: str) -> None:
    await node.send({"type": kind, **KNOWN[kind], "id": "00000000-0000-4000-8000-000000000000"})
    await node.is_served()


async def test_an_error_without_an_id_is_ignored(node: Node) -> None:
    await node.send({"type": "error", "code": 5000, "reason": "internal_error", "detail": "\x1b[31mno"})
    await node.is_served()


async def test_fields_that_are_zero_false_or_empty_may_be_left_out(node: Node) -> None:
    await node.send({"type": "exec_result", "id": "x", "status": "ok"})
    await node.send({"type": "read_result", "id": "x", "status": "ok"})
    await node.send({"type": "write_result", "id": "x", "status": "ok"})
    await node.send({"type": "error", "id": "x"})
    await node.is_served()


async def test_a_websocket_ping_is_answered(node: Node) -> None:
    await node.ws.ping(b"there?")
    pong = await node.ws.receive(20)
    assert pong.data == b"there?"


# -- sizes ----------------------------------------------------------------------------------------


def of_size(node: Node, size: int) -> bytes:
    """A ping that is so many bytes on the wire, but for the few that base64 may leave over."""
    empty = json.dumps({"type": "ping", "ts": "now", "padding": ""}).encode()
    if node.session_key is None:
        return empty[:-2] + b"x" * (size - len(empty)) + b'"}'
    envelope = len(json.dumps({"type": "enc", "data": seal(node.session_key, b"")}))
    content = (size - envelope) // 4 * 3
    return empty[:-2] + b"x" * (content - len(empty)) + b'"}'


async def test_a_message_just_below_48_mib_is_read(node: Node) -> None:
    await node.send_content(of_size(node, LIMIT_AFTER_AUTH))
    assert (await node.receive())["echo_ts"] == "now"


async def test_a_message_over_48_mib_closes_the_connection(node: Node) -> None:
    with suppress(ConnectionError):  # it need not be read to its end
        await node.send_content(of_size(node, LIMIT_AFTER_AUTH + 8))
    assert await node.closed() == 1009


async def test_a_node_with_stream_1_may_send_512_kib(dial: Dial, pairing: Pairing) -> None:
    async with dial() as node:
        await node.greet(pairing.name, encrypted=True, capabilities=["stream/1"])
        await node.auth(pairing.name, **node.credentials(pairing.token))
        assert (await node.receive_plain())["type"] == "auth_ok"
        await node.send_binary(struct.pack("!Q", 0) * (512 * 1024 // 8) + b"\0")
        assert await node.closed() == 1009


async def test_a_record_that_does_not_open_closes_a_stream_session(dial: Dial, pairing: Pairing) -> None:
    async with dial() as node:
        await node.greet(pairing.name, encrypted=True, capabilities=["stream/1"])
        await node.auth(pairing.name, **node.credentials(pairing.token))
        assert (await node.receive_plain())["type"] == "auth_ok"
        await node.send_binary(bytes(512 * 1024))
        assert await node.closed() == 4003
