"""Section 4: files of a node without `stream/1`, which travel inside one message."""

import asyncio
import base64
from typing import Any

import pytest

from hermes_nodes.errors import CallFailed, FileTooLarge, HermesNodesError, Unsupported
from tests.conformance.node import Json, Node
from tests.conformance.operators import Operator, arrived
from tests.conformance.test_calls import answer

#: Bytes of content in one call.
MOST_CONTENT = 10_000_000
EVERY_BYTE = bytes(range(256)) * 16


async def test_content_that_was_read_comes_as_it_is(operator: Operator, node: Node) -> None:
    call = operator.read("/bin/x")
    request = await arrived(node, "read", call)
    content = base64.b64encode(EVERY_BYTE).decode()
    await answer(node, request, content_b64=content, size_bytes=len(EVERY_BYTE))
    assert await call == EVERY_BYTE


async def test_ten_megabytes_are_read_whole(operator: Operator, node: Node) -> None:
    content = EVERY_BYTE * (MOST_CONTENT // len(EVERY_BYTE))
    call = operator.read()
    request = await arrived(node, "read", call)
    await answer(node, request, content_b64=base64.b64encode(content).decode(), size_bytes=len(content))
    assert await call == content


async def test_an_answer_just_below_48_mib_is_read(operator: Operator, node: Node) -> None:
    call = operator.read()
    request = await arrived(node, "read", call)
    room = 48 * 1024 * 1024 - 2000
    padding = "x" * (room if node.session_key is None else room * 3 // 4)
    await answer(node, request, content_b64="dGV4dA==", size_bytes=4, padding=padding)
    assert await call == b"text"


async def test_an_empty_file_is_read(operator: Operator, node: Node) -> None:
    call = operator.read()
    await answer(node, await arrived(node, "read", call))
    assert await call == b""


@pytest.mark.parametrize("content", ["!", "AAA", "AA-_", "\u00e9", "AAAA===="])
async def test_content_that_is_no_base64_is_a_failure_or_the_session_s_end(
    operator: Operator, node: Node, content: str
) -> None:
    call = operator.read()
    await answer(node, await arrived(node, "read", call), content_b64=content, size_bytes=3)
    with pytest.raises(HermesNodesError):
        await call


@pytest.mark.parametrize("size", [3, 5, 10**15])
async def test_a_file_that_is_not_as_long_as_its_node_says_is_a_failure(
    operator: Operator, node: Node, size: int
) -> None:
    call = operator.read()
    await answer(node, await arrived(node, "read", call), content_b64="dGV4dA==", size_bytes=size)
    with pytest.raises(CallFailed):
        await call


# -- write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["overwrite", "create", "append"])
async def test_content_arrives_with_its_mode(operator: Operator, node: Node, mode: str) -> None:
    call = operator.write("/srv/x y", EVERY_BYTE, mode=mode)
    request = await arrived(node, "write", call)
    assert request["path"] == "/srv/x y"
    assert request.get("mode", "overwrite") == mode
    assert base64.b64decode(request["content_b64"], validate=True) == EVERY_BYTE
    await answer(node, request, bytes_written=len(EVERY_BYTE))
    assert (await call).size_bytes == len(EVERY_BYTE)


async def test_an_empty_content_is_sent_as_such(operator: Operator, node: Node) -> None:
    call = operator.write(content=b"")
    request = await arrived(node, "write", call)
    # Not left out: a node in the field refuses a write without content.
    assert request["content_b64"]
    assert base64.b64decode(request["content_b64"]) == b""
    await answer(node, request, bytes_written=0)
    assert (await call).size_bytes == 0


async def test_ten_megabytes_are_written_whole(operator: Operator, node: Node) -> None:
    content = EVERY_BYTE * (MOST_CONTENT // len(EVERY_BYTE))
    call = operator.write(content=content)
    request = await arrived(node, "write", call)
    assert base64.b64decode(request["content_b64"], validate=True) == content
    await answer(node, request, bytes_written=len(content))
    assert (await call).size_bytes == len(content)


async def test_more_than_that_is_refused_before_the_node_sees_it(operator: Operator, node: Node) -> None:
    with pytest.raises((FileTooLarge, Unsupported)):
        await operator.write(content=bytes(11 * 1024 * 1024))
    await node.is_served()


@pytest.mark.parametrize("said", [{"bytes_written": 3}, {"bytes_written": 0}, {}])
async def test_a_write_of_fewer_bytes_is_a_failure(operator: Operator, node: Node, said: Json) -> None:
    call = operator.write(content=b"text")
    await answer(node, await arrived(node, "write", call), **said)
    with pytest.raises(CallFailed):
        await call


# -- what failed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_an_error_that_has_no_name_is_a_failure_with_its_detail(
    operator: Operator, node: Node, kind: str
) -> None:
    call: asyncio.Future[Any] = operator.read() if kind == "read" else operator.write()
    request = await arrived(node, kind, call)
    await answer(node, request, status="error", error_detail="because of it")
    with pytest.raises(CallFailed, match="because of it") as failed:
        await call
    assert failed.value.code == "failed"
    await node.is_served()


async def test_a_read_that_failed_is_no_file_even_if_it_has_content(operator: Operator, node: Node) -> None:
    call = operator.read()
    await answer(node, await arrived(node, "read", call), status="error", content_b64="dGV4dA==")
    with pytest.raises(CallFailed) as failed:
        await call
    assert failed.value.code == "failed"
