"""Files on older nodes, both ways."""

import base64

import pytest

from hermes_nodes.calls import Call
from hermes_nodes.errors import CallFailed, ProtocolViolation, Unsupported
from hermes_nodes.protocol.messages import Error, Message, Read, ReadResult, Request, Write, WriteResult
from hermes_nodes.protocol.stream import STDERR, STDOUT
from tests.older.support import OlderNode, a_read, a_write, b64, both, ending, sha256, whole
from tests.sessions_support import output

# Reading


@both
@pytest.mark.parametrize("size", [0, 1, 300_000])
async def test_a_file_is_read_as_it_is(encrypted: bool, size: int) -> None:
    node = OlderNode(encrypted=encrypted)
    content = (bytes(range(256)) * 1200)[:size]
    call = node.starts(a_read("/etc/motd"))
    assert node.hears() == [Read(id=call.id, path="/etc/motd")]
    node.says(ReadResult(id=call.id, status="ok", content_b64=b64(content), size_bytes=size))
    assert (await output(call))[STDOUT] == content
    assert call.result() == ReadResult(id=call.id, status="ok", size_bytes=size, sha256=sha256(content))


async def test_a_file_of_another_size_than_was_said_is_a_failure() -> None:
    node = OlderNode()
    call = node.starts(a_read())
    node.says(ReadResult(id=call.id, status="ok", content_b64="QUJD", size_bytes=4))
    assert isinstance(ending(call), CallFailed)
    assert "3 of 4 bytes" in ending(call).message
    assert await output(call) == {STDOUT: b"", STDERR: b""}


@pytest.mark.parametrize("as_error", [True, False], ids=["an error", "a result"])
async def test_a_file_that_is_too_large_is_refused_with_a_way_out(as_error: bool) -> None:
    node = OlderNode()
    call = node.starts(a_read())
    result = ReadResult(id=call.id, status="error", error="file_too_large")
    node.says(Error(id=call.id, code=2003) if as_error else result)
    assert isinstance(ending(call), Unsupported)
    assert "at most 10485760 bytes" in ending(call).message
    assert ending(call).exit_status == 69


@pytest.mark.parametrize("content", ["Q", "QU*D", "QUJD\n", "ö", "="])
async def test_a_file_that_is_not_base64_is_a_violation(content: str) -> None:
    node = OlderNode()
    call = node.starts(a_read())
    with pytest.raises(ProtocolViolation, match="base64"):
        node.says(ReadResult(id=call.id, status="ok", content_b64=content))


FILE_ERRORS = ["path_not_allowed", "file_not_found", "permission_denied", "io_error", "whatever"]


@pytest.mark.parametrize("name", FILE_ERRORS)
async def test_why_a_file_was_not_read_is_passed_on(name: str) -> None:
    node = OlderNode()
    call = node.starts(a_read())
    answer = ReadResult(id=call.id, status="error", error=name, error_detail="so")
    node.says(answer)
    assert call.result() == answer


@pytest.mark.parametrize("request_", [a_read(), a_write()], ids=["read", "write"])
@pytest.mark.parametrize("code", [2001, 2002, 2004, 5000, 5001])
async def test_an_error_is_passed_on(request_: Request, code: int) -> None:
    node = OlderNode()
    call = node.starts(request_)
    answer = Error(id=call.id, code=code, reason="why")
    node.says(answer)
    assert call.result() == answer


# Writing


@both
@pytest.mark.parametrize("mode", ["overwrite", "create", "append"])
async def test_a_file_is_written_as_it_is(encrypted: bool, mode: str) -> None:
    node = OlderNode(encrypted=encrypted)
    content = bytes(range(256)) * 1200
    call = node.starts(a_write("/tmp/f", mode=mode, size_bytes=len(content)), whole(content))
    (heard,) = node.hears()
    assert isinstance(heard, Write)
    assert (heard.path, heard.mode, heard.size_bytes) == ("/tmp/f", mode, None)
    assert heard.content_b64 == b64(content)
    node.says(WriteResult(id=call.id, status="ok", bytes_written=len(content)))
    expected = WriteResult(id=call.id, status="ok", bytes_written=len(content), sha256=sha256(content))
    assert call.result() == expected


async def test_an_empty_file_has_content_that_decodes_to_nothing() -> None:
    node = OlderNode()
    call = node.starts(a_write(), whole(b""))
    (heard,) = node.hears()
    assert isinstance(heard, Write)
    assert heard.content_b64
    assert base64.b64decode(heard.content_b64) == b""
    node.says(WriteResult(id=call.id, status="ok"))
    assert call.result() == WriteResult(id=call.id, status="ok", sha256=sha256(b""))


def refusals(call: Call) -> list[Message]:
    return [
        Error(id=call.id, code=4000),
        WriteResult(id=call.id, status="error", error="bad_request"),
        WriteResult(id=call.id, status="error"),
    ]


@pytest.mark.parametrize("number", range(3))
async def test_a_node_that_takes_no_empty_file_is_named_for_it(number: int) -> None:
    node = OlderNode()
    call = node.starts(a_write(), whole(b""))
    node.says(refusals(call)[number])
    assert isinstance(ending(call), Unsupported)
    assert "can't write an empty file" in ending(call).message


@pytest.mark.parametrize("number", range(3))
async def test_the_same_refusal_of_a_file_with_content_is_passed_on(number: int) -> None:
    node = OlderNode()
    call = node.starts(a_write(), whole(b"x"))
    node.says(refusals(call)[number])
    assert call.result() == refusals(call)[number]


@pytest.mark.parametrize("content", [b"", b"x"], ids=["empty", "some"])
@pytest.mark.parametrize("name", ["path_not_allowed", "file_not_found", "file_exists", "permission_denied"])
async def test_why_a_file_was_not_written_is_passed_on(name: str, content: bytes) -> None:
    node = OlderNode()
    call = node.starts(a_write(), whole(content))
    answer = WriteResult(id=call.id, status="error", error=name)
    node.says(answer)
    assert call.result() == answer


@pytest.mark.parametrize("written", [0, 2, 4])
async def test_a_file_that_was_written_in_part_is_a_failure(written: int) -> None:
    node = OlderNode()
    call = node.starts(a_write(), whole(b"abc"))
    node.says(WriteResult(id=call.id, status="ok", bytes_written=written))
    assert isinstance(ending(call), CallFailed)
    assert f"{written} of 3 bytes" in ending(call).message
    assert "look at the file" in ending(call).hint
