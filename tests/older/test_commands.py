"""Commands on older nodes: what is sent, and what their answers come to, whole or in chunks."""

from typing import Any

import pytest

from hermes_nodes.calls import Call
from hermes_nodes.errors import CallFailed, CallTimeout, PathNotAllowed, ProtocolViolation
from hermes_nodes.protocol.messages import LIMIT_LEGACY, Error, ExecChunk, ExecResult, new_call_id
from hermes_nodes.protocol.stream import STDERR, STDOUT
from tests.older.support import OlderNode, a_command, b64, both, ending, guarded_output, marker_in, whole
from tests.protocol.guard_output import a_line
from tests.protocol.support import NAME
from tests.sessions_support import output

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
    printed = guarded_output(node.hears_command().command, b"out", b"err", exit_code=143, is_late=True)
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
    assert isinstance(ending(call), CallTimeout)
    assert NAME in ending(call).message
    assert "may go on" in ending(call).hint


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_guard_that_says_no_exit_code_fails_the_call(exit_code: int) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    node.answers(call, status="error", exit_code=exit_code, stdout="sh: awk: not found\n")
    assert isinstance(ending(call), CallFailed)
    assert "no exit code" in ending(call).message
    assert "base64" in ending(call).hint


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "raw"])
async def test_a_command_that_never_ran_fails_with_the_nodes_reason(guard: bool) -> None:
    node = OlderNode(guard=guard)
    call = node.starts(a_command())
    node.answers(call, status="error", exit_code=-1, stderr="no such shell\x1b[2J\n")
    assert isinstance(ending(call), CallFailed)
    assert "could not run the command: no such shell" in ending(call).message
    assert "\x1b" not in ending(call).message
    silent = node.starts(a_command())
    node.answers(silent, status="error", exit_code=-1)
    assert "gives no reason" in ending(silent).message


@pytest.mark.parametrize("cut", ["by the node", "by the guard"])
async def test_output_that_was_cut_is_said_to_be(cut: str) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    printed = guarded_output(node.hears_command().command, b"out", is_cut=cut == "by the guard")
    node.answers(call, stdout=printed, truncated=cut == "by the node")
    answer = call.result()
    assert isinstance(answer, ExecResult)
    assert answer.truncated


@pytest.mark.parametrize("session", [None, "s"])
async def test_a_command_that_was_denied_has_not_run(session: str | None) -> None:
    node = OlderNode()
    call = node.starts(a_command(cwd="/srv", session=session))
    node.answers(call, stdout=f"{marker_in(node.hears_command().command)}denied\n")
    assert isinstance(ending(call), PathNotAllowed)
    assert "nothing has run" in ending(call).message
    assert "'/srv'" in ending(call).message
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


@pytest.mark.parametrize("damage", ["QU*D", "some words", "A" * 70_000])
async def test_a_command_whose_output_something_else_has_printed_into_fails(damage: str) -> None:
    node = OlderNode()
    call = node.starts(a_command())
    following = node.starts(a_command())
    marker = marker_in(node.hears_command().command)
    printed = f"{marker}out\n".encode() + a_line(b"ABC", marker) + a_line(damage, marker)
    node.answers(call, stdout=printed.decode().rstrip())
    with pytest.raises(CallFailed, match="damaged"):
        call.result()
    assert following.is_sent


@pytest.mark.parametrize("guard", [True, False], ids=["guarded", "raw"])
async def test_why_a_command_never_ran_may_stand_in_the_errors_detail(guard: bool) -> None:
    node = OlderNode(guard=guard)
    call = node.starts(a_command())
    node.answers(call, status="error", exit_code=-1, error="exec_failed", error_detail="no\x1b shell")
    assert isinstance(ending(call), CallFailed)
    assert "could not run the command: no" in ending(call).message
    assert ending(call).message.endswith("shell")
    named = node.starts(a_command())
    node.answers(named, status="error", exit_code=-1, error="exec_failed")
    assert "could not run the command: exec_failed" in ending(named).message


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
    assert isinstance(ending(call), CallTimeout)


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
