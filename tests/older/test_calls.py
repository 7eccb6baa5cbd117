"""Calls as older nodes take them: what is refused, what is sent, and what their answers come to."""

import base64
import hashlib
from typing import Any

import pytest

from hermes_nodes.calls import Call
from hermes_nodes.errors import (
    CallFailed,
    CallTimeout,
    HermesNodesError,
    PathNotAllowed,
    ProtocolViolation,
    Unsupported,
)
from hermes_nodes.older.limits import check_supported
from hermes_nodes.protocol.guarded import MAX_COMMAND
from hermes_nodes.protocol.messages import (
    LIMIT_LEGACY,
    Error,
    ExecChunk,
    ExecResult,
    JobKill,
    JobList,
    JobRead,
    JobWait,
    ListDir,
    MakeDir,
    Message,
    Pty,
    Read,
    ReadResult,
    Request,
    SessionList,
    SessionReset,
    Stat,
    Write,
    WriteResult,
    new_call_id,
)
from hermes_nodes.protocol.stream import STDERR, STDOUT
from tests.protocol.support import NAME
from tests.sessions_support import (
    OlderNode,
    a_command,
    a_read,
    a_write,
    guarded_output,
    marker_in,
    output,
    whole,
)

ID = new_call_id()
both = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "enc"])


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def error_of(call: Call) -> HermesNodesError:
    with pytest.raises(HermesNodesError) as ended:
        call.result()
    return ended.value


# What is refused

NEVER = [
    (a_command(pty=Pty(80, 24)), "no terminals"),
    (a_command(detach=True), "no detached jobs"),
    (a_command(timeout_ms=999), "from 1s to 595s"),
    (a_command(timeout_ms=0), "from 1s to 595s"),
    (a_command(timeout_ms=595_001), "from 1s to 595s"),
    (a_command(session="s", stdin=True), "session no stdin"),
    (a_command(session="s", env={"A-B": "c"}), "a shell can name"),
    (a_command("x" * (MAX_COMMAND + 1)), "at most 131071 bytes"),
    (a_command("ö" * (MAX_COMMAND // 2 + 1)), "at most 131071 bytes"),
    (a_command(cwd="here"), "absolute path"),
    (Read(id=ID, path="/f", offset=1), "part of a file"),
    (Read(id=ID, path="/f", length=0), "part of a file"),
    (a_write(perm=0), "permissions"),
    (a_write(offset=1), "resume"),
    (SessionReset(id=ID, session="s"), "listed or reset"),
    (SessionList(id=ID), "listed or reset"),
    (Stat(id=ID, path="/"), "`fs`"),
    (ListDir(id=ID, path="/"), "`fs`"),
    (MakeDir(id=ID, path="/"), "`fs`"),
    (JobList(id=ID), "`jobs`"),
    (JobRead(id=ID, job="j"), "`jobs`"),
    (JobWait(id=ID, job="j"), "`jobs`"),
    (JobKill(id=ID, job="j"), "`jobs`"),
]
RAW = [(a_command(stdin=True), "legacy_exec: raw"), (a_command(env={"A-B": "c"}), "a shell can name")]
CASES = [
    *[(request, lack, guard) for request, lack in NEVER for guard in (True, False)],
    *[(request, lack, False) for request, lack in RAW],
]


@pytest.mark.parametrize(("request_", "lack", "guard"), CASES)
def test_what_an_older_node_lacks_is_refused_with_its_name_and_a_way_out(
    request_: Request, lack: str, guard: bool
) -> None:
    with pytest.raises(Unsupported) as refused:
        check_supported("web-1", request_, guard=guard)
    assert "'web-1' runs older node software" in refused.value.message
    assert lack in refused.value.message
    assert "install hermes-nodes" in refused.value.hint
    assert refused.value.exit_status == 69


def test_a_refusal_reads_the_same_as_text() -> None:
    with pytest.raises(Unsupported) as refused:
        check_supported("web-1", SessionList(id=ID), guard=True)
    assert str(refused.value) == refused.value.message


@pytest.mark.parametrize(
    ("request_", "guard"),
    [
        (a_command("x" * MAX_COMMAND), True),
        (a_command(timeout_ms=1_000), True),
        (a_command(timeout_ms=595_000), False),
        (a_command(stdin=True, env={"A-B": "c"}, cwd="/"), True),
        (a_command(session="s", env={"A_1": "c"}, cwd="/"), True),
        (a_command(env={"A_1": "c"}), False),
        (Read(id=ID, path="f"), True),
        (a_write(mode="append", size_bytes=5), True),
    ],
)
def test_what_an_older_node_can_do_is_let_pass(request_: Request, guard: bool) -> None:
    check_supported("web-1", request_, guard=guard)


# Commands


@both
async def test_a_guard_gets_what_the_command_needs_and_the_node_where_it_runs(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    node.starts(a_command("make it", cwd="/srv", env={"A": "b"}, stdin=True), whole(b"in"))
    heard = node.hears_command()
    assert (heard.cwd, heard.env, heard.stdin, heard.timeout_ms) == ("/srv", None, False, 65_000)
    for word in ("make it", "/srv", "A=b", "in"):
        assert "".join(f"\\{byte:03o}" for byte in word.encode()) in (heard.command or "")


async def test_words_go_into_the_guard_as_a_command_of_these_words() -> None:
    node = OlderNode()
    node.starts(a_command("", argv=["ls", "it's"]))
    octal = "".join(f"\\{byte:03o}" for byte in b"""exec ls 'it'"'"'s'""")
    assert octal in (node.hears_command().command or "")


async def test_a_raw_command_is_sent_as_it_is() -> None:
    node = OlderNode(guard=False)
    request = a_command("cd x; make", cwd="/srv", env={"A": "b"}, timeout_ms=5_000)
    call = node.starts(request)
    assert node.hears() == [request]
    node.answers(call, status="error", exit_code=7, stdout="out\ufffd", stderr="err", truncated=True)
    assert await output(call) == {STDOUT: "out\ufffd".encode(), STDERR: b"err"}
    assert call.result() == ExecResult(id=call.id, status="ok", exit_code=7, truncated=True)


async def test_raw_words_are_quoted_for_the_nodes_shell() -> None:
    node = OlderNode(guard=False)
    node.starts(a_command("", argv=["ls", "it's"]))
    assert node.hears_command().command == """ls 'it'"'"'s'"""


async def test_a_command_that_failed_is_an_answer_and_no_failure() -> None:
    node = OlderNode()
    call = node.starts(a_command())
    printed = guarded_output(node.hears_command().command, exit_code=200)
    node.answers(call, status="error", exit_code=1, stdout=printed)
    assert call.result() == ExecResult(id=call.id, status="ok", exit_code=200)


async def test_what_a_shell_says_of_itself_is_not_the_commands_stderr() -> None:
    node = OlderNode()
    call = node.starts(a_command())
    node.answers(call, stdout=guarded_output(node.hears_command().command, b"", b"err"), stderr="bash# ")
    assert (await output(call))[STDERR] == b"err"


@pytest.mark.parametrize("status", ["ok", "error", "timeout"])
async def test_a_guards_time_out_comes_with_its_output(status: str) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    printed = guarded_output(node.hears_command().command, b"out", b"err", exit_code=143, note=";")
    node.answers(call, status=status, stdout=printed)
    assert await output(call) == {STDOUT: b"out", STDERR: b"err"}
    assert call.result() == ExecResult(id=call.id, status="timeout", exit_code=143)


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "raw"])
@pytest.mark.parametrize("as_error", [True, False], ids=["an error", "a result"])
async def test_the_nodes_own_time_out_says_that_the_command_may_go_on(guard: bool, as_error: bool) -> None:
    node = OlderNode(guard=guard)
    call = node.starts(a_command())
    answer = ExecResult(id=call.id, status="timeout", exit_code=-1)
    node.says(Error(id=call.id, code=3001) if as_error else answer)
    assert isinstance(error_of(call), CallTimeout)
    assert NAME in error_of(call).message
    assert "may go on" in error_of(call).hint


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_guard_that_says_no_exit_code_fails_the_call(exit_code: int) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    node.answers(call, status="error", exit_code=exit_code, stdout="sh: awk: not found\n")
    assert isinstance(error_of(call), CallFailed)
    assert "no exit code" in error_of(call).message
    assert "base64" in error_of(call).hint


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "raw"])
async def test_a_command_that_never_ran_fails_with_the_nodes_reason(guard: bool) -> None:
    node = OlderNode(guard=guard)
    call = node.starts(a_command())
    node.answers(call, status="error", exit_code=-1, stderr="no such shell\x1b[2J\n")
    assert isinstance(error_of(call), CallFailed)
    assert "could not run the command: no such shell" in error_of(call).message
    assert "\x1b" not in error_of(call).message
    silent = node.starts(a_command())
    node.answers(silent, status="error", exit_code=-1)
    assert "gives no reason" in error_of(silent).message


@pytest.mark.parametrize("cut", ["by the node", "by the guard"])
async def test_output_that_was_cut_is_said_to_be(cut: str) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    printed = guarded_output(node.hears_command().command, b"out", note="\nQU" * (cut == "by the guard"))
    node.answers(call, stdout=printed, truncated=cut == "by the node")
    answer = call.result()
    assert isinstance(answer, ExecResult)
    assert answer.truncated


@pytest.mark.parametrize("session", [None, "s"])
async def test_a_command_that_was_denied_has_not_run(session: str | None) -> None:
    node = OlderNode()
    call = node.starts(a_command(cwd="/srv", session=session))
    node.answers(call, stdout=f"{marker_in(node.hears_command().command)}denied\n")
    assert isinstance(error_of(call), PathNotAllowed)
    assert "nothing has run" in error_of(call).message
    assert "'/srv'" in error_of(call).message
    assert await output(call) == {STDOUT: b"", STDERR: b""}


@both
async def test_a_session_runs_in_the_nodes_own_shell(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    call = node.starts(a_command("make", session="s", env={"A": "b"}, timeout_ms=9_000))
    heard = node.hears_command()
    assert "eval" in (heard.command or "")
    assert (heard.session, heard.env, heard.timeout_ms) == (None, None, 9_000)
    node.answers(call, stdout="out\n", stderr="err\n", exit_code=2)
    assert await output(call) == {STDOUT: b"out\n", STDERR: b"err\n"}
    assert call.result() == ExecResult(id=call.id, status="ok", exit_code=2)


@pytest.mark.parametrize("damage", ["QU*D\n", "some words\n", "A" * 70_000])
async def test_a_command_whose_output_something_else_has_printed_into_fails(damage: str) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    following = node.starts(a_command())
    marker = marker_in(node.hears_command().command)
    node.answers(call, stdout=f"{marker}out\nQUJD\n{damage}")
    with pytest.raises(CallFailed, match="damaged"):
        call.result()
    assert following.is_sent


@pytest.mark.parametrize("code", [3002, 4000, 5000])
async def test_other_errors_of_a_command_are_passed_on(code: int) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    answer = Error(id=call.id, code=code, reason="why", detail="how")
    node.says(answer)
    assert call.result() == answer


# Output in chunks


def chunk(call: Call, seq: int, data: bytes | str = b"", **fields: Any) -> ExecChunk:
    return ExecChunk(id=call.id, seq=seq, data=data if isinstance(data, str) else b64(data), **fields)


async def test_a_chunk_that_was_not_negotiated_is_a_violation() -> None:
    node = OlderNode()
    call = node.starts(a_command())
    with pytest.raises(ProtocolViolation, match="not negotiated"):
        node.says(chunk(call, 1, more=True))


@both
async def test_chunks_are_passed_on_as_they_come(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted, chunks=True)
    call = node.starts(a_command())
    printed = guarded_output(node.hears_command().command, b"first", b"err", exit_code=4).encode()
    cut = printed.index(b"err\n") - 3
    node.says(chunk(call, 1, printed[:cut], more=True))
    piece = await call.next_output()
    assert piece is not None
    assert (piece[0], bytes(piece[1])) == (STDOUT, b"first")
    assert not call.finished
    node.says(chunk(call, 2, printed[cut:], more=True), chunk(call, 3, status="ok"))
    assert await output(call) == {STDOUT: b"", STDERR: b"err"}
    assert call.result() == ExecResult(id=call.id, status="ok", exit_code=4)
    assert node.session.calls == {}


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "raw"])
async def test_a_command_may_be_answered_in_one_piece_all_the_same(guard: bool) -> None:
    node = OlderNode(chunks=True, guard=guard)
    call = node.starts(a_command())
    command = node.hears_command().command
    node.answers(call, stdout=guarded_output(command, b"out") if guard else "out")
    assert (await output(call))[STDOUT] == b"out"


async def test_raw_chunks_end_with_what_their_last_one_says() -> None:
    node = OlderNode(chunks=True, guard=False)
    call = node.starts(a_command())
    node.says(chunk(call, 1, b"\xff", more=True))
    node.says(chunk(call, 2, b"end", status="error", exit_code=3, truncated=True))
    assert await output(call) == {STDOUT: b"\xffend", STDERR: b""}
    assert call.result() == ExecResult(id=call.id, status="ok", exit_code=3, truncated=True)


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "raw"])
async def test_chunks_can_end_in_a_time_out(guard: bool) -> None:
    node = OlderNode(chunks=True, guard=guard)
    call = node.starts(a_command())
    node.says(chunk(call, 1, status="timeout", exit_code=-1))
    assert isinstance(error_of(call), CallTimeout)


@pytest.mark.parametrize("seqs", [[0], [2], [-1], [1, 1], [1, 3], [1, 2, 1]], ids=str)
async def test_chunks_out_of_order_are_a_violation(seqs: list[int]) -> None:
    node = OlderNode(chunks=True)
    call = node.starts(a_command())
    *before, last = [chunk(call, seq, more=True) for seq in seqs]
    node.says(*before)
    with pytest.raises(ProtocolViolation):
        node.says(last)


@pytest.mark.parametrize("data", ["Q", "QQ", "QU*D", "QUJD\n", "QQ==QQ==", "ö"])
async def test_a_chunk_that_is_not_base64_is_a_violation(data: str) -> None:
    node = OlderNode(chunks=True)
    call = node.starts(a_command())
    with pytest.raises(ProtocolViolation, match="base64"):
        node.says(chunk(call, 1, data, more=True))


async def test_chunks_that_nobody_waits_for_are_ignored() -> None:
    node = OlderNode(chunks=True)
    running, waiting = node.starts(a_command()), node.starts(a_command())
    node.says(chunk(waiting, 9, "not base64"), ExecChunk(id=new_call_id(), seq=9, data="not base64"))
    assert not running.finished
    assert not waiting.finished
    running.cancel()
    node.hears()
    node.says(chunk(running, 1, b"late", more=True), chunk(running, 2, status="ok"))
    assert await running.next_output() is None
    assert waiting.is_sent


async def test_chunks_together_have_the_bound_of_one_message() -> None:
    node = OlderNode(chunks=True)
    call = node.starts(a_command())
    half = bytes(LIMIT_LEGACY // 2)
    node.says(chunk(call, 1, half, more=True), chunk(call, 2, half, more=True))
    with pytest.raises(ProtocolViolation, match="more output"):
        node.says(chunk(call, 3, b"x", more=True))


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
    assert isinstance(error_of(call), CallFailed)
    assert "3 of 4 bytes" in error_of(call).message
    assert await output(call) == {STDOUT: b"", STDERR: b""}


@pytest.mark.parametrize("as_error", [True, False], ids=["an error", "a result"])
async def test_a_file_that_is_too_large_is_refused_with_a_way_out(as_error: bool) -> None:
    node = OlderNode()
    call = node.starts(a_read())
    result = ReadResult(id=call.id, status="error", error="file_too_large")
    node.says(Error(id=call.id, code=2003) if as_error else result)
    assert isinstance(error_of(call), Unsupported)
    assert "at most 10485760 bytes" in error_of(call).message
    assert error_of(call).exit_status == 69


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
    assert isinstance(error_of(call), Unsupported)
    assert "can't write an empty file" in error_of(call).message


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
    assert isinstance(error_of(call), CallFailed)
    assert f"{written} of 3 bytes" in error_of(call).message
    assert "look at the file" in error_of(call).hint
