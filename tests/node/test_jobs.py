"""Detached jobs of one node: what they print and how they end is kept, within bounds, whatever happens."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hermes_nodes.clock import timestamp
from hermes_nodes.errors import CallFailed, FileMissing, UsageError
from hermes_nodes.node import jobs as jobs_module
from hermes_nodes.node.job_files import Record
from hermes_nodes.node.job_limits import JobLimits
from hermes_nodes.node.jobs import JobOrder, Jobs
from hermes_nodes.node.processes import Command, command_environment
from hermes_nodes.node.tree import ProcessTree
from tests.harness import processes_of, until
from tests.node.jobs_support import (
    ended_record,
    jobs_in,
    kept,
    leave,
    new_id,
    on_disk,
    over,
    run,
    start,
    until_printed,
)
from tests.node.support import names
from tests.support import PATIENCE, mode

#: Deaf to INT and TERM, with a child in a session of its own.
STUBBORN = "trap '' INT TERM; setsid bash -c 'sleep 1000; sleep 1000' & echo up; sleep 1000; sleep 1000"


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with jobs_in(tmp_path / "jobs") as running:
        yield running


# -- output and exit ------------------------------------------------------------------------------


async def test_what_a_job_prints_and_how_it_ends_is_on_disk(jobs: Jobs) -> None:
    job = await run(jobs, "echo out; echo err >&2; exit 3")
    record = on_disk(job)
    assert (record.status, record.exit_code, record.signal) == ("error", 3, None)
    assert (kept(job), kept(job, "stderr")) == (b"out\n", b"err\n")
    assert record == job.record


async def test_only_the_nodes_user_can_read_it(jobs: Jobs) -> None:
    job = await run(jobs, "true")
    assert mode(job.folder.path) == mode(job.folder.path.parent) == 0o700
    assert {mode(file) for file in job.folder.path.iterdir()} == {0o600}


async def test_output_is_kept_byte_for_byte(jobs: Jobs, tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "content").write_bytes(content)
    job = await run(jobs, f"cat {tmp_path}/content; cat {tmp_path}/content >&2")
    assert kept(job) == kept(job, "stderr") == content


async def test_a_signal_that_ends_a_job_is_named(jobs: Jobs) -> None:
    record = await over(await start(jobs, "kill -KILL $$"))
    assert (record.status, record.exit_code, record.signal) == ("error", 137, "KILL")


async def test_a_time_limit_ends_a_job(jobs: Jobs) -> None:
    job = await run(jobs, "echo up; exec sleep 1000", time_limit=0.3)
    assert (job.record.status, job.record.signal) == ("timeout", "INT")
    assert kept(job) == b"up\n"
    assert processes_of(job.record.id) == set()


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
async def test_a_program_that_can_not_be_run_is_a_job_that_says_so(
    jobs: Jobs, program: str, code: int
) -> None:
    job = await run(jobs, [program])
    assert (on_disk(job).status, on_disk(job).exit_code) == ("error", code)
    assert kept(job, "stderr").startswith(program.encode())
    assert job.streams["stderr"].size == len(kept(job, "stderr"))


async def test_what_no_program_can_be_given_starts_nothing_and_leaves_nothing(
    jobs: Jobs, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="can't be started"):
        await start(jobs, ["a\0b"])
    assert jobs.all() == []
    assert names(tmp_path / "jobs") == set()


# -- ending ---------------------------------------------------------------------------------------


async def test_a_kill_leaves_nothing_of_a_stubborn_tree(jobs: Jobs) -> None:
    job = await start(jobs, STUBBORN)
    await until_printed(job, b"up")
    assert await asyncio.wait_for(jobs.kill(job), PATIENCE) is True
    assert processes_of(job.record.id) == set()
    assert (on_disk(job).status, on_disk(job).signal) == ("cancelled", "KILL")


async def test_a_job_that_has_ended_can_be_killed_again_and_stays_as_it_is(jobs: Jobs) -> None:
    job = await run(jobs, "exit 3")
    assert await jobs.kill(job) is False
    assert on_disk(job).status == "error"


async def test_two_kills_at_once_are_one(jobs: Jobs) -> None:
    job = await start(jobs, "exec sleep 1000")
    both = asyncio.gather(jobs.kill(job), jobs.kill(job))
    assert list(await asyncio.wait_for(both, PATIENCE)) == [True, True]


async def test_what_can_not_be_ended_is_said_to_go_on_and_can_be_tried_again(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await start(jobs, "echo up; exec sleep 1000")
    await until_printed(job, b"up")
    with monkeypatch.context() as unkillable:
        unkillable.setattr(Command, "_kill", lambda *_: None)
        jobs._escalation = ()
        with pytest.raises(CallFailed, match="goes on"):
            await asyncio.wait_for(jobs.kill(job), PATIENCE)
    assert job.record.status == "running"
    jobs._escalation = ((signal.SIGKILL, 2.0),)
    assert await asyncio.wait_for(jobs.kill(job), PATIENCE) is True


async def test_what_goes_on_though_its_command_has_ended_is_named_by_the_kill_and_in_the_record(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await start(jobs, "echo up; exec sleep 1000")
    await until_printed(job, b"up")
    kill = Command._kill

    def kill_but_one(command: Command, pids: set[int], sign: signal.Signals) -> None:
        kill(command, pids, sign)
        monkeypatch.setattr(ProcessTree, "members", lambda *_, **__: {4711})

    monkeypatch.setattr(Command, "_kill", kill_but_one)
    jobs._escalation = ((signal.SIGKILL, 0.5),)
    with pytest.raises(CallFailed, match="process 4711 goes on"):
        await asyncio.wait_for(jobs.kill(job), PATIENCE)
    await asyncio.wait_for(job.over.wait(), PATIENCE)
    record = on_disk(job)
    assert (record.status, record.exit_code) == ("cancelled", 137)
    assert "process 4711 goes on" in str(record.error)


async def test_what_a_job_left_in_the_background_is_part_of_it_while_it_holds_its_output(
    jobs: Jobs,
) -> None:
    job = await start(jobs, "sleep 1000 & echo $!; exit 4")
    await until_printed(job, b"\n")
    assert not job.over.is_set()
    await asyncio.wait_for(jobs.kill(job), PATIENCE)
    assert processes_of(job.record.id) == set()
    assert on_disk(job).exit_code == 4


async def test_the_stop_of_the_node_ends_its_jobs_and_says_that_they_are_lost(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        gentle, stubborn = await start(jobs, "echo up; sleep 1000"), await start(jobs, STUBBORN)
        for job in (gentle, stubborn):
            await until_printed(job, b"up")
        async with asyncio.timeout(5):
            await jobs.close()
    for job in (gentle, stubborn):
        record = on_disk(job)
        assert (record.status, record.exit_code) == ("lost", None)
        assert record.error == "its node was stopped while it ran"
        assert kept(job) == b"up\n"
        assert processes_of(record.id) == set()


async def test_a_node_that_is_being_stopped_starts_no_job(jobs: Jobs) -> None:
    jobs.hurry()
    with pytest.raises(CallFailed, match="being stopped"):
        await start(jobs, "true")


# -- age and restarts -----------------------------------------------------------------------------


async def test_ended_jobs_are_removed_when_they_are_old(tmp_path: Path) -> None:
    old, young = ended_record(days=7.1), ended_record(days=6.9)
    for record in (old, young):
        leave(tmp_path, record)
    async with jobs_in(tmp_path) as jobs:
        await until(lambda: not (tmp_path / old.id).exists())
        assert [job.record for job in jobs.all()] == [young]


async def test_age_is_looked_at_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "SWEEP_SECONDS", 0.01)
    async with jobs_in(tmp_path, JobLimits(keep_seconds=0.2)) as jobs:
        running = await start(jobs, "exec sleep 1000")
        job = await run(jobs, "true")
        await until(lambda: not job.folder.path.exists())
        assert jobs.all() == [running]


async def test_jobs_are_found_again_by_the_next_process_of_the_node(tmp_path: Path) -> None:
    async with jobs_in(tmp_path) as jobs:
        before = [await run(jobs, "echo one; exit 1"), await run(jobs, "echo two")]
    async with jobs_in(tmp_path) as jobs:
        assert [job.entry() for job in jobs.all()] == [job.entry() for job in before]
        assert kept(jobs.all()[0]) == b"one\n"


async def test_a_job_whose_node_died_is_lost_and_its_processes_are_ended(tmp_path: Path) -> None:
    record = Record(id=new_id(), command="x", started_at=timestamp())
    leave(tmp_path, record, b"said before")
    # As the node has started it: in a session of its own, with the mark.
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        "trap '' INT; sleep 1000; sleep 1000",
        env=command_environment(record.id, {}),
        start_new_session=True,
    )
    async with jobs_in(tmp_path) as jobs:
        job = jobs.get(record.id)
        ended = await over(job)
        await asyncio.wait_for(process.wait(), PATIENCE)
        assert (ended.status, ended.exit_code) == ("lost", None)
        assert ended.error == "its node ended or was killed while it ran"
        assert on_disk(job) == ended
        assert kept(job) == b"said before"
        assert processes_of(record.id) == set()


async def test_a_damaged_record_is_a_lost_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = ended_record()
    leave(tmp_path, record, b"kept")
    (tmp_path / record.id / "job.json").write_bytes(b'{"id": 3')
    async with jobs_in(tmp_path) as jobs:
        (job,) = jobs.all()
        assert (job.record.id, job.record.status) == (record.id, "lost")
        assert kept(job) == b"kept"
    assert "damaged" in caplog.text


async def test_a_folder_that_never_became_a_job_is_removed_and_others_are_left_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / new_id()).mkdir()
    (tmp_path / "notes").mkdir()
    async with jobs_in(tmp_path) as jobs:
        assert jobs.all() == []
    assert names(tmp_path) == {"notes"}


# -- ids ------------------------------------------------------------------------------------------

NO_IDS = [
    "",
    "..",
    "../../etc",
    "a/b",
    "/etc/passwd",
    "urn:uuid:7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f10",
    "{7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f10}",
    "7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f10\n",
    "7F0C1D6E-8B1C-4C52-9D62-3C5A1D0F9F10",
    "7f0c1d6e-8b1c-1c52-9d62-3c5a1d0f9f10",
]


@pytest.mark.parametrize("job_id", NO_IDS)
async def test_what_is_no_id_is_refused_without_touching_the_disk(
    jobs: Jobs, tmp_path: Path, job_id: str
) -> None:
    with pytest.raises(UsageError):
        await jobs.start(JobOrder(job_id, "true", "true", ["true"], "/", {}, None), asyncio.Event())
    with pytest.raises(FileMissing):
        jobs.get(job_id)
    assert names(tmp_path) == set()


async def test_an_id_can_not_be_given_to_a_second_job(jobs: Jobs) -> None:
    job = await run(jobs, "echo first")
    with pytest.raises(UsageError):
        await jobs.start(JobOrder(job.record.id, "true", "true", ["true"], "/", {}, None), asyncio.Event())
    assert kept(job) == b"first\n"
