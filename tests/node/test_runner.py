"""The calls of one session: each gets its one answer and its row, whatever it was and however it ends."""

import asyncio
import hashlib
import json
import os
import uuid
from pathlib import Path

import pytest

from hermes_nodes.node import runner
from hermes_nodes.node.commands import ExecCall
from hermes_nodes.protocol.messages import (
    MAX_CALLS,
    Exec,
    ExecResult,
    ListDir,
    MakeDir,
    Read,
    ReadResult,
    Request,
    Stat,
    Write,
    WriteResult,
)
from tests.harness import processes_of, until
from tests.node.calls_support import Calls, calls_in, exec_
from tests.support import PATIENCE

# -- exec -----------------------------------------------------------------------------------------


async def test_a_command_is_answered_once_both_its_streams_have_ended(calls: Calls) -> None:
    request = exec_("echo out; echo err >&2; exit 3")
    result = await calls.run(request)
    assert isinstance(result, ExecResult)
    assert (result.status, result.exit_code, result.signal, result.truncated) == ("error", 3, None, False)
    assert (calls.stdout(request), calls.stderr(request)) == (b"out\n", b"err\n")


async def test_a_command_runs_at_home_or_where_it_is_told(calls: Calls) -> None:
    home, there, relative = exec_("pwd"), exec_("pwd", cwd="/usr"), exec_("pwd", cwd="~")
    for request in (home, there, relative):
        await calls.run(request)
    said = [calls.stdout(request).decode().strip() for request in (home, there, relative)]
    assert said == [str(Path.home()), "/usr", str(Path.home())]


async def test_a_directory_that_is_not_there_keeps_a_command_from_running(calls: Calls) -> None:
    result = await calls.run(exec_("touch ran", cwd="/no/such/place"))
    assert (result.status, result.exit_code, result.error) == ("error", -1, "file_not_found")


async def test_words_are_run_as_they_are_with_no_shell_between(calls: Calls) -> None:
    request = exec_(argv=["printf", "%s|", "$HOME", "a b", "*"])
    await calls.run(request)
    assert calls.stdout(request) == b"$HOME|a b|*|"


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
async def test_a_program_that_can_not_be_run_is_what_a_shell_says_it_is(
    calls: Calls, program: str, code: int
) -> None:
    request = exec_(argv=[program])
    result = await calls.run(request)
    assert (result.status, result.exit_code) == ("error", code)
    assert calls.stderr(request).startswith(program.encode())


async def test_a_command_longer_than_the_system_takes_is_said_so(calls: Calls) -> None:
    result = await calls.run(exec_("#" * 200_000))
    assert result.exit_code == 126


@pytest.mark.parametrize("request_", [exec_("a\0b"), exec_("true", env={"A=B": "c"})], ids=["NUL", "name"])
async def test_what_can_not_be_given_to_a_program_is_said_so(calls: Calls, request_: Exec) -> None:
    result = await calls.run(request_)
    assert (result.status, result.error, result.exit_code) == ("error", "bad_request", -1)


async def test_a_fault_of_our_own_is_answered_all_the_same(
    calls: Calls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: ExecCall) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ExecCall, "run", fail)
    result = await calls.run(exec_("true"))
    assert (result.status, result.error) == ("error", "internal_error")
    assert "unexpectedly" in caplog.text


async def test_the_nodes_own_secrets_are_not_in_a_commands_environment(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_NODE_TOKEN", "hnt_secret")
    request = exec_("env", env={"GIVEN": "yes"})
    await calls.run(request)
    assert b"hnt_secret" not in calls.stdout(request)
    assert b"GIVEN=yes" in calls.stdout(request)


async def test_a_command_reads_nothing_from_stdin(calls: Calls) -> None:
    request = exec_("cat; echo done")
    await calls.run(request)
    assert calls.stdout(request) == b"done\n"


async def test_a_time_out_ends_the_command_and_keeps_what_it_had_said(calls: Calls) -> None:
    request = exec_(
        "echo before; trap 'echo last words; exit 5' INT; while :; do sleep 0.05; done", timeout_ms=300
    )
    result = await calls.run(request)
    assert (result.status, result.exit_code) == ("timeout", 5)
    assert calls.stdout(request) == b"before\nlast words\n"
    assert processes_of(request.id) == set()


async def test_a_cancel_ends_the_command(calls: Calls) -> None:
    request = exec_("echo up; sleep 1000")
    calls.runner.start(request)
    await calls.until_output(request, b"up\n")
    calls.runner.cancel(request.id)
    result = await asyncio.wait_for(calls.stream.answer(request.id), PATIENCE)
    assert (result.status, result.signal, result.exit_code) == ("cancelled", "INT", 130)


async def test_a_cancel_of_a_call_that_is_not_there_is_nothing(calls: Calls) -> None:
    calls.runner.cancel(str(uuid.uuid4()))
    calls.runner.feed(str(uuid.uuid4()), memoryview(b"late"))


async def test_a_files_only_node_runs_nothing(tmp_path: Path) -> None:
    async with calls_in(tmp_path, exec=False) as calls:
        result = await calls.run(exec_(f"touch {tmp_path}/ran"))
        assert (result.exit_code, result.error) == (-1, "permission_denied")
        assert not (tmp_path / "ran").exists()


# -- files ----------------------------------------------------------------------------------------


async def test_a_file_is_written_from_its_channel_and_read_onto_its_channel(calls: Calls) -> None:
    content = os.urandom(3_000_000)
    path = str(calls.folder / "file")
    write = Write(id=str(uuid.uuid4()), path=path)
    calls.runner.start(write)
    for start in range(0, len(content), 100_000):
        calls.runner.feed(write.id, memoryview(content)[start : start + 100_000])
    calls.runner.feed(write.id, memoryview(b""))
    digest = hashlib.sha256(content).hexdigest()
    written = await asyncio.wait_for(calls.stream.answer(write.id), PATIENCE)
    assert isinstance(written, WriteResult)
    assert (written.status, written.bytes_written, written.sha256) == ("ok", len(content), digest)
    assert calls.stream.taken == len(content)
    read = Read(id=str(uuid.uuid4()), path=path)
    result = await calls.run(read)
    assert isinstance(result, ReadResult)
    assert (result.size_bytes, result.sha256) == (len(content), digest)
    assert calls.stdout(read) == content


@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_a_write_that_does_not_come_to_its_end_leaves_nothing(calls: Calls, end: str) -> None:
    path = calls.folder / "file"
    path.write_text("old")
    write = Write(id=str(uuid.uuid4()), path=str(path))
    calls.runner.start(write)
    calls.runner.feed(write.id, memoryview(b"half of it"))
    if end == "cancel":
        calls.runner.cancel(write.id)
        result = await asyncio.wait_for(calls.stream.answer(write.id), PATIENCE)
        assert result.status == "cancelled"
    else:
        await asyncio.wait_for(calls.runner.close(), PATIENCE)
        assert write.id not in calls.stream.answers
    assert path.read_text() == "old"
    assert {one.name for one in calls.folder.iterdir()} == {"file", "audit.log", "parts"}
    assert not list((calls.folder / "parts").iterdir())


async def test_a_path_that_is_not_allowed_is_refused_before_any_content(calls: Calls) -> None:
    read = await calls.run(Read(id=str(uuid.uuid4()), path="/etc/passwd"))
    write = await calls.run(Write(id=str(uuid.uuid4()), path="/etc/not-ours"))
    assert (read.error, write.error) == ("path_not_allowed", "path_not_allowed")


async def test_what_is_at_a_path_is_told_and_listed(calls: Calls) -> None:
    made = await calls.run(MakeDir(id=str(uuid.uuid4()), path=f"{calls.folder}/new", perm=0o750))
    assert made.status == "ok"
    (calls.folder / "new" / "file").write_text("x")
    stat = await calls.run(Stat(id=str(uuid.uuid4()), path=f"{calls.folder}/new"))
    assert (stat.status, stat.kind, stat.perm) == ("ok", "dir", 0o750)
    listing = ListDir(id=str(uuid.uuid4()), path=f"{calls.folder}/new")
    assert (await calls.run(listing)).status == "ok"
    (entry,) = [json.loads(line) for line in calls.stdout(listing).splitlines()]
    assert (entry["name_b64"], entry["kind"], entry["size_bytes"]) == ("ZmlsZQ==", "file", 1)
    refused = await calls.run(ListDir(id=str(uuid.uuid4()), path="/etc"))
    assert (refused.status, refused.error) == ("error", "path_not_allowed")


@pytest.mark.parametrize(("offset", "whole"), [(0, True), (400_000, True), (400_000, False)])
async def test_a_read_to_the_end_hashes_the_whole_file(calls: Calls, offset: int, whole: bool) -> None:
    content = os.urandom(1_000_000)
    (calls.folder / "file").write_bytes(content)
    length = None if whole else 600_000
    read = Read(id=str(uuid.uuid4()), path=f"{calls.folder}/file", offset=offset, length=length)
    result = await calls.run(read)
    assert calls.stdout(read) == content[offset:]
    assert result.size_bytes == len(content) - offset
    assert result.sha256 == hashlib.sha256(content if whole else content[offset:]).hexdigest()


async def test_a_write_whose_connection_is_lost_can_go_on_in_the_next(calls: Calls) -> None:
    path, content = calls.folder / "file", os.urandom(300_000)
    path.write_text("old")
    first = Write(id=str(uuid.uuid4()), path=str(path), size_bytes=len(content))
    calls.runner.start(first)
    calls.runner.feed(first.id, memoryview(content)[:100_000])
    await until(lambda: calls.stream.taken == 100_000)
    await asyncio.wait_for(calls.runner.close(), PATIENCE)
    assert path.read_text() == "old"
    async with calls_in(calls.folder) as later:
        second = Write(id=str(uuid.uuid4()), path=str(path), size_bytes=len(content), offset=100_000)
        later.runner.start(second)
        later.runner.feed(second.id, memoryview(content)[100_000:])
        later.runner.feed(second.id, memoryview(b""))
        written = await asyncio.wait_for(later.stream.answer(second.id), PATIENCE)
    assert (written.status, written.bytes_written) == ("ok", len(content))
    assert written.sha256 == hashlib.sha256(content).hexdigest()
    assert path.read_bytes() == content


@pytest.mark.parametrize("keep", [False, True])
async def test_a_write_can_be_gone_on_with_only_if_its_caller_vanished(calls: Calls, keep: bool) -> None:
    path = calls.folder / "file"
    write = Write(id=str(uuid.uuid4()), path=str(path), size_bytes=10)
    calls.runner.start(write)
    calls.runner.feed(write.id, memoryview(b"half"))
    await until(lambda: calls.stream.taken == 4)
    calls.runner.cancel(write.id, keep=keep)
    assert (await asyncio.wait_for(calls.stream.answer(write.id), PATIENCE)).status == "cancelled"
    later = Write(id=str(uuid.uuid4()), path=str(path), size_bytes=10, offset=4)
    calls.runner.start(later)
    calls.runner.feed(later.id, memoryview(b" whole"))
    calls.runner.feed(later.id, memoryview(b""))
    result = await asyncio.wait_for(calls.stream.answer(later.id), PATIENCE)
    assert result.error == (None if keep else "file_not_found")
    assert path.exists() == keep


# -- the session ----------------------------------------------------------------------------------


async def test_a_request_that_comes_twice_is_run_once(calls: Calls) -> None:
    request = exec_(f"echo x >> {calls.folder}/count; echo up; sleep 0.2")
    calls.runner.start(request)
    await calls.run(request)
    assert (calls.folder / "count").read_text() == "x\n"


async def test_more_calls_than_a_node_takes_are_busy(calls: Calls) -> None:
    for _ in range(MAX_CALLS):
        calls.runner.start(exec_("sleep 1000"))
    result = await calls.run(exec_("true"))
    assert (result.status, result.error) == ("error", "busy")


@pytest.mark.parametrize(
    "request_",
    [
        exec_("cat", stdin=True),
        exec_("true", detach=True),
        exec_("true", session="s"),
    ],
)
async def test_what_this_node_does_not_list_it_does_not_do(
    calls: Calls, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CAPABILITIES", ["fs"])
    result = await calls.run(request_)
    assert (result.status, result.error) == ("error", "unsupported")


async def test_a_session_that_is_over_ends_its_commands_and_says_nothing(calls: Calls) -> None:
    request = exec_("echo up; sleep 1000")
    calls.runner.start(request)
    await calls.until_output(request, b"up\n")
    await asyncio.wait_for(calls.runner.close(), PATIENCE)
    assert processes_of(request.id) == set()
    assert request.id not in calls.stream.answers


async def test_a_hurry_is_for_calls_that_run_and_for_those_to_come(calls: Calls) -> None:
    deaf = "trap '' INT TERM; echo up; sleep 1000; sleep 1000"
    before, after = exec_(deaf), exec_(deaf)
    calls.runner.start(before)
    await calls.until_output(before, b"up\n")
    calls.runner.hurry()
    calls.runner.start(after)
    await calls.until_output(after, b"up\n")
    async with asyncio.timeout(4):
        await calls.runner.close()
    assert processes_of(before.id) | processes_of(after.id) == set()


async def test_every_call_has_its_row_in_the_nodes_own_trail(calls: Calls) -> None:
    good, bad = exec_("echo four"), exec_("exit 4")
    refused = Read(id=str(uuid.uuid4()), path="/etc/passwd")
    for request in (good, bad, refused):
        await calls.run(request)
    facts = [(row["request_id"], row["action"], row["status"], row["exit_code"]) for row in calls.rows]
    assert facts == [
        (good.id, "exec", "ok", 0),
        (bad.id, "exec", "error", 4),
        (refused.id, "read", "error", None),
    ]
    assert [row["command"] or row["path"] for row in calls.rows] == ["echo four", "exit 4", "/etc/passwd"]
    assert [row["bytes_out"] for row in calls.rows] == [5, 0, 0]


async def test_a_trail_that_can_not_be_written_does_not_keep_an_answer_back(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.trail.close()
    assert (await calls.run(exec_("true"))).status == "ok"
    assert "the node's own trail" in caplog.text


def test_this_node_lists_only_what_it_has() -> None:
    assert runner.CAPABILITIES == ["fs", "jobs", "pty", "session", "stdin"]
