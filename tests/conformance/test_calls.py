"""Section 4: commands as they arrive at a node without `stream/1`, and how its answers are taken."""

import asyncio
import shlex
import uuid
from typing import Any

import pytest

from hermes_nodes.errors import (
    CallFailed,
    CallTimeout,
    FileAlreadyThere,
    FileMissing,
    FilePermission,
    FileTooLarge,
    HermesNodesError,
    NodeDisconnected,
    PathNotAllowed,
    Unsupported,
    UsageError,
)
from tests.conformance.node import Json, Node
from tests.conformance.operators import Operator, arrived
from tests.support import PATIENCE


async def answer(node: Node, request: Json, **fields: Any) -> None:
    """The right kind of answer; `ok` unless told otherwise."""
    kind = f"{request['type']}_result"
    answer = {"type": kind, "id": request["id"], "status": "ok"}
    await node.send(answer | fields)


# -- what arrives ---------------------------------------------------------------------------------


async def test_a_command_arrives_as_it_was_asked(operator: Operator, node: Node) -> None:
    command = "printf '%s\\n' \"$HOME\" | sort; # \u00e9\U0001f600"
    call = operator.exec(command, cwd="/srv", env={"A": "1", "B": "two words"}, timeout=90)
    request = await arrived(node, "exec", call)
    wanted = {"command": command, "cwd": "/srv", "env": {"A": "1", "B": "two words"}, "timeout_ms": 90_000}
    assert {key: request.get(key) for key in wanted} == wanted
    await answer(node, request)
    await call


async def test_a_call_s_id_is_a_uuid_of_version_4_and_the_trail_s(operator: Operator, node: Node) -> None:
    calls, ids = [], []
    for _ in range(3):
        call = operator.exec()
        request = await arrived(node, "exec", call)
        assert uuid.UUID(request["id"]).version == 4
        assert str(uuid.UUID(request["id"])) == request["id"]
        await answer(node, request)
        calls.append(await call)
        ids.append(request["id"])
    assert [call.request_id for call in calls] == ids
    rows = operator.home.trail(action="exec", node=operator.node)
    assert [row["request_id"] for row in rows] == ids
    assert len(set(ids)) == 3


async def test_a_command_without_a_time_out_gets_one_of_a_minute(operator: Operator, node: Node) -> None:
    call = operator.exec("true")
    request = await arrived(node, "exec", call)
    assert request["timeout_ms"] == 60_000
    assert not {"argv", "stdin", "pty", "session", "detach"} & request.keys()
    assert not request.get("cwd")
    assert not request.get("env")
    await answer(node, request)
    await call


@pytest.mark.parametrize("seconds", [1, 2.5, 595])
async def test_a_time_out_is_sent_in_milliseconds(operator: Operator, node: Node, seconds: float) -> None:
    call = operator.exec("true", timeout=seconds)
    request = await arrived(node, "exec", call)
    assert request["timeout_ms"] == seconds * 1000
    await answer(node, request)
    await call


@pytest.mark.parametrize("seconds", [0.999, 595.001, 3600])
async def test_a_time_out_that_the_node_can_t_keep_is_refused(
    operator: Operator, node: Node, seconds: float
) -> None:
    with pytest.raises((UsageError, Unsupported)):
        await operator.exec("true", timeout=seconds)
    await node.is_served()


async def test_an_argv_arrives_as_a_command_that_a_shell_takes_apart_again(
    operator: Operator, node: Node
) -> None:
    argv = ["printf", "%s\\n", "two words", "it's", '"$HOME"', "*", "", "-n", "new\nline"]
    call = operator.exec(argv)
    request = await arrived(node, "exec", call)
    assert "argv" not in request
    assert shlex.split(request["command"]) == argv
    await answer(node, request)
    await call


async def test_a_read_arrives_with_its_path(operator: Operator, node: Node) -> None:
    call = operator.read("/etc/host name")
    request = await arrived(node, "read", call)
    assert request["path"] == "/etc/host name"
    assert uuid.UUID(request["id"]).version == 4
    assert not {"offset", "length"} & request.keys()
    await answer(node, request)
    assert await call == b""


# -- how a command ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status", "exit_code"),
    [
        ({"status": "ok", "exit_code": 0}, "ok", 0),
        ({"status": "ok"}, "ok", 0),
        ({"status": "error", "exit_code": 1}, "error", 1),
        ({"status": "error", "exit_code": 255}, "error", 255),
        ({"status": "error", "exit_code": 137}, "error", 137),
    ],
)
async def test_an_exit_is_told_as_it_was(
    operator: Operator, node: Node, said: Json, status: str, exit_code: int
) -> None:
    call = operator.exec()
    await answer(node, await arrived(node, "exec", call), **said)
    result = await call
    assert (result.status, result.exit_code, result.error) == (status, exit_code, None)


async def test_output_comes_as_it_was_sent(operator: Operator, node: Node) -> None:
    stdout, stderr = "a\n\x00\x1b[0m\u00e9\n" * 1000, "warning: \u20ac\n"
    call = operator.exec()
    await answer(node, await arrived(node, "exec", call), stdout=stdout, stderr=stderr, exit_code=0)
    result = await call
    assert (result.stdout, result.stderr, result.truncated) == (stdout, stderr, False)


async def test_ten_megabytes_of_output_come_whole(operator: Operator, node: Node) -> None:
    stdout = "x" * 10_000_000
    call = operator.exec()
    await answer(node, await arrived(node, "exec", call), stdout=stdout, truncated=True)
    result = await call
    assert len(result.stdout) == len(stdout)
    assert result.truncated


async def test_a_time_out_on_the_node_is_told_with_what_was_printed(operator: Operator, node: Node) -> None:
    call = operator.exec("sleep 9", timeout=5)
    await answer(node, await arrived(node, "exec", call), status="timeout", exit_code=-1, stdout="so far\n")
    result = await call
    assert (result.status, result.stdout) == ("timeout", "so far\n")


async def test_a_command_that_never_ran_is_a_failure(operator: Operator, node: Node) -> None:
    call = operator.exec()
    await answer(node, await arrived(node, "exec", call), status="error", exit_code=-1)
    with pytest.raises(CallFailed):
        await call


async def test_why_a_command_never_ran_is_told(operator: Operator, node: Node) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    await answer(node, request, status="error", exit_code=-1, error_detail="because of \x1b[31mred")
    with pytest.raises(CallFailed, match="because of") as failed:
        await call
    assert "\x1b" not in failed.value.message


# -- errors ---------------------------------------------------------------------------------------

NAMED: dict[str, type[HermesNodesError]] = {
    "path_not_allowed": PathNotAllowed,
    "file_not_found": FileMissing,
    "file_exists": FileAlreadyThere,
    "permission_denied": FilePermission,
    "io_error": CallFailed,
    "no_such_error": CallFailed,
}
CODES: dict[int, type[HermesNodesError]] = {
    2001: PathNotAllowed,
    2002: FileMissing,
    2004: CallFailed,
    3002: CallFailed,
    4000: HermesNodesError,
    5000: HermesNodesError,
    5001: HermesNodesError,
    9999: CallFailed,
}


def begin(operator: Operator, kind: str) -> "asyncio.Future[Any]":
    """A call of that kind."""
    begun: dict[str, Any] = {"exec": operator.exec, "read": operator.read, "write": operator.write}
    future: asyncio.Future[Any] = begun[kind]()
    return future


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_named_error_is_told_by_its_name(
    operator: Operator, node: Node, kind: str, name: str
) -> None:
    call = begin(operator, kind)
    request = await arrived(node, kind, call)
    await answer(node, request, status="error", error=name, error_detail="because of \x1b[31mred")
    with pytest.raises(NAMED[name], match="because of") as failed:
        await call
    assert "\x1b" not in failed.value.message
    await node.is_served()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["exec", "read", "write"])
async def test_an_error_message_ends_its_call(operator: Operator, node: Node, kind: str, code: int) -> None:
    call = begin(operator, kind)
    request = await arrived(node, kind, call)
    await node.send(
        {"type": "error", "id": request["id"], "code": code, "reason": "r", "detail": "because of it"}
    )
    with pytest.raises(CODES[code], match="because of it"):
        await call
    await node.is_served()


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("said", [{"code": 2003}, {"error": "file_too_large"}], ids=["code", "name"])
async def test_a_file_that_is_too_large_is_told_so(
    operator: Operator, node: Node, kind: str, said: Json
) -> None:
    call = begin(operator, kind)
    request = await arrived(node, kind, call)
    if "code" in said:
        await node.send({"type": "error", "id": request["id"], **said})
    else:
        await answer(node, request, status="error", **said)
    with pytest.raises((FileTooLarge, Unsupported)):
        await call
    await node.is_served()


@pytest.mark.parametrize("kind", ["exec", "read", "write"])
async def test_the_code_of_a_time_out_ends_its_call_as_one(
    operator: Operator, node: Node, kind: str
) -> None:
    call = begin(operator, kind)
    request = await arrived(node, kind, call)
    await node.send({"type": "error", "id": request["id"], "code": 3001, "reason": "exec_timeout"})
    if kind == "exec":
        assert (await call).status == "timeout"
    else:
        with pytest.raises(CallTimeout):
            await call
    await node.is_served()


async def test_an_error_without_an_id_ends_no_call(operator: Operator, node: Node) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    await node.send({"type": "error", "code": 5000, "reason": "internal_error", "detail": "elsewhere"})
    await node.is_served()
    assert not call.done()
    await answer(node, request)
    assert (await call).status == "ok"


async def test_an_answer_to_another_call_ends_none(operator: Operator, node: Node) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    await answer(node, {**request, "id": str(uuid.uuid4())}, exit_code=7)
    await node.is_served()
    assert not call.done()
    await answer(node, request)
    assert (await call).exit_code == 0


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [("exec", "read_result"), ("exec", "write_result"), ("read", "exec_result"), ("write", "read_result")],
)
async def test_an_answer_of_another_kind_is_out_of_order(
    operator: Operator, node: Node, kind: str, wrong: str
) -> None:
    call = begin(operator, kind)
    request = await arrived(node, kind, call)
    await node.send({"type": wrong, "id": request["id"], "status": "ok"})
    assert await node.closed() == 4003
    with pytest.raises(NodeDisconnected):
        await asyncio.wait_for(call, PATIENCE)


async def test_a_ping_is_answered_while_a_call_runs(operator: Operator, node: Node) -> None:
    call = operator.exec()
    request = await arrived(node, "exec", call)
    await node.is_served()
    await answer(node, request)
    await call
