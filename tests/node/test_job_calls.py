"""The calls about jobs, as a session of the node answers them; what ends a session ends no job."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hermes_nodes.node.job_files import JobStatus
from hermes_nodes.node.jobs import Jobs
from hermes_nodes.node.runner import Runner
from hermes_nodes.protocol.messages import (
    ExecResult,
    JobKill,
    JobKillResult,
    JobList,
    JobListResult,
    JobRead,
    JobReadResult,
    JobWait,
    Pty,
)
from tests.harness import processes_of
from tests.node.calls_support import Calls, calls_in, exec_
from tests.support import PATIENCE


def new_id() -> str:
    return str(uuid.uuid4())


def jobs_of(calls: Calls) -> Jobs:
    return calls.runner._place.lasting.jobs


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[Calls]:
    async with calls_in(tmp_path) as running:
        yield running
        await asyncio.wait_for(jobs_of(running).close(), PATIENCE)


async def start(calls: Calls, command: str, **fields: Any) -> str:
    request = exec_(command, detach=True, **fields)
    result = await calls.run(request)
    assert isinstance(result, ExecResult)
    assert (result.status, result.job, result.error) == ("started", request.id, None)
    return request.id


def read(job: str, **fields: Any) -> JobRead:
    return JobRead(id=new_id(), job=job, **fields)


async def wait(calls: Calls, job: str) -> ExecResult:
    result = await calls.run(JobWait(id=new_id(), job=job))
    assert isinstance(result, ExecResult)
    return result


async def test_a_wait_is_answered_as_the_command_would_have_been(calls: Calls) -> None:
    job = await start(calls, "exit 3")
    result = await wait(calls, job)
    assert (result.status, result.exit_code, result.signal, result.job) == ("error", 3, None, job)


@pytest.mark.parametrize(
    ("command", "fields", "status", "signal"),
    [
        ("true", {}, "ok", None),
        ("kill -TERM $$", {}, "error", "TERM"),
        ("exec sleep 1000", {"timeout_ms": 200}, "timeout", "INT"),
    ],
)
async def test_every_end_has_its_status(
    calls: Calls, command: str, fields: dict[str, int], status: JobStatus, signal: str | None
) -> None:
    result = await wait(calls, await start(calls, command, **fields))
    assert (result.status, result.signal) == (status, signal)


async def test_what_a_job_prints_is_read_from_an_offset_on(calls: Calls) -> None:
    job = await start(calls, "printf 0123456789; printf aside >&2")
    await wait(calls, job)
    part, aside = read(job, offset=4), read(job, stream="stderr")
    answers = [await calls.run(request) for request in (part, aside)]
    assert [calls.stdout(request) for request in (part, aside)] == [b"456789", b"aside"]
    assert answers == [
        JobReadResult(id=part.id, status="ok", size_bytes=10),
        JobReadResult(id=aside.id, status="ok", size_bytes=5),
    ]


async def test_a_read_without_follow_ends_where_the_output_is_now(calls: Calls) -> None:
    job = await start(calls, "echo up; exec sleep 1000")
    follow = read(job, follow=True)
    calls.runner.start(follow)
    await calls.until_output(follow, b"up\n")
    now = read(job)
    assert (await calls.run(now)).status == "ok"
    assert calls.stdout(now) == b"up\n"
    assert not calls.stream.answer(follow.id).done()
    assert await calls.run(JobKill(id=new_id(), job=job)) is not None
    assert (await asyncio.wait_for(calls.stream.answer(follow.id), PATIENCE)).status == "ok"


async def test_a_kill_says_whether_there_was_something_to_end(calls: Calls) -> None:
    job = await start(calls, "exec sleep 1000")
    first, second = [await calls.run(JobKill(id=new_id(), job=job)) for _ in range(2)]
    assert isinstance(first, JobKillResult)
    assert isinstance(second, JobKillResult)
    assert [(one.status, one.already_ended) for one in (first, second)] == [("ok", False), ("ok", True)]
    assert processes_of(job) == set()
    assert (await wait(calls, job)).status == "cancelled"


@pytest.mark.parametrize("kind", [JobWait, JobRead])
async def test_a_cancel_of_the_watching_leaves_the_job_alone(calls: Calls, kind: type[Any]) -> None:
    job = await start(calls, "exec sleep 1000")
    fields = {"follow": True} if kind is JobRead else {}
    request = kind(id=new_id(), job=job, **fields)
    calls.runner.start(request)
    calls.runner.cancel(request.id)
    result = await asyncio.wait_for(calls.stream.answer(request.id), PATIENCE)
    assert result.status == "cancelled"
    assert jobs_of(calls).get(job).record.status == "running"


async def test_the_end_of_a_session_ends_no_job_and_the_next_session_has_it(calls: Calls) -> None:
    job = await start(calls, "exec sleep 1000")
    waiting = JobWait(id=new_id(), job=job)
    calls.runner.start(waiting)
    await asyncio.wait_for(calls.runner.close(), PATIENCE)
    assert not calls.stream.answer(waiting.id).done()
    place = calls.runner._place
    calls.runner = Runner(place.config, calls.stream, calls.trail, place.lasting)
    listed = await calls.run(JobList(id=new_id()))
    assert isinstance(listed, JobListResult)
    assert [(one["id"], one["status"]) for one in listed.jobs] == [(job, "running")]


@pytest.mark.parametrize(
    "fields", [{"stdin": True}, {"session": "s"}, {"pty": Pty(80, 24)}], ids=["stdin", "session", "pty"]
)
async def test_a_job_has_no_input_no_terminal_and_no_session(calls: Calls, fields: dict[str, Any]) -> None:
    result = await calls.run(exec_("true", detach=True, **fields))
    assert (result.status, result.error, result.exit_code) == ("error", "bad_request", -1)
    assert jobs_of(calls).all() == []


async def test_a_job_is_refused_for_what_any_command_is_refused_for(calls: Calls, tmp_path: Path) -> None:
    result = await calls.run(exec_("true", detach=True, cwd="/no/such/place"))
    assert result.error == "file_not_found"
    async with calls_in(tmp_path / "files", exec=False) as files_only:
        result = await files_only.run(exec_("true", detach=True))
        assert result.error == "permission_denied"


async def test_a_job_that_is_not_there_is_not_found(calls: Calls) -> None:
    for job in (new_id(), "../../etc", ""):
        for request in (read(job), JobWait(id=new_id(), job=job), JobKill(id=new_id(), job=job)):
            result = await calls.run(request)
            assert (result.status, result.error) == ("error", "file_not_found")
    assert {path.name for path in calls.folder.iterdir()} == {"audit.log"}


async def test_a_stream_whose_file_is_gone_is_not_found(calls: Calls) -> None:
    job = await start(calls, "echo x")
    await wait(calls, job)
    (calls.folder / "jobs" / job / "stdout").unlink()
    assert (await calls.run(read(job))).error == "file_not_found"


async def test_every_call_about_a_job_has_its_row_in_the_nodes_own_trail(calls: Calls) -> None:
    job = await start(calls, "exit 3")
    await wait(calls, job)
    await calls.run(JobList(id=new_id()))
    facts = [(row["action"], row["status"], row["exit_code"], row["command"]) for row in calls.rows]
    assert facts == [
        ("exec", "ok", None, "exit 3"),
        ("job", "error", 3, f"job_wait {job}"),
        ("job", "ok", None, "job_list"),
    ]
