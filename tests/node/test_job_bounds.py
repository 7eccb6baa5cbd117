"""Detached jobs take so much disk, memory and time of a node, and no more."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hermes_nodes.clock import timestamp
from hermes_nodes.errors import CallFailed
from hermes_nodes.node import jobs as jobs_module
from hermes_nodes.node.job_files import JobFolder, Record
from hermes_nodes.node.job_limits import MAX_KNOWN, MAX_RUNNING, JobLimits
from hermes_nodes.node.job_runs import Job
from hermes_nodes.node.jobs import Jobs, TooMuch
from tests.harness import until
from tests.node.jobs_support import jobs_in, kept, new_id, on_disk, run, start, until_printed
from tests.node.support import names
from tests.support import PATIENCE, files_limited_to

KIB = 1024


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with jobs_in(tmp_path / "jobs") as running:
        yield running


async def test_each_stream_is_kept_up_to_its_bound_and_the_job_goes_on(tmp_path: Path) -> None:
    async with jobs_in(tmp_path, JobLimits(stream_bytes=64 * KIB)) as jobs:
        job = await run(jobs, "head -c 1000000 /dev/zero | tr '\\0' a; echo short >&2; exit 5")
        assert kept(job) == b"a" * 64 * KIB
        assert kept(job, "stderr") == b"short\n"
        assert (job.record.truncated, job.record.exit_code) == (True, 5)


async def test_output_of_exactly_the_bound_is_not_called_cut(tmp_path: Path) -> None:
    async with jobs_in(tmp_path, JobLimits(stream_bytes=64 * KIB)) as jobs:
        job = await run(jobs, f"head -c {64 * KIB} /dev/zero")
        assert (job.streams["stdout"].size, job.record.truncated) == (64 * KIB, False)


async def test_the_oldest_ended_jobs_give_way_where_all_together_are_too_large(tmp_path: Path) -> None:
    async with jobs_in(tmp_path, JobLimits(total_bytes=100 * KIB)) as jobs:
        made = [await run(jobs, f"head -c {40 * KIB} /dev/zero") for _ in range(3)]
        assert jobs.all() == made[1:]
        assert not made[0].folder.path.exists()
        assert not made[2].record.truncated


async def test_with_nothing_to_give_way_the_output_that_comes_is_cut(tmp_path: Path) -> None:
    async with jobs_in(tmp_path, JobLimits(total_bytes=100 * KIB)) as jobs:
        running = await start(jobs, f"head -c {90 * KIB} /dev/zero; exec sleep 1000")
        await until(lambda: running.streams["stdout"].size == 90 * KIB)
        cut = await run(jobs, f"head -c {40 * KIB} /dev/zero")
        assert (cut.streams["stdout"].size, cut.record.truncated) == (10 * KIB, True)


async def test_more_jobs_than_a_node_takes_are_refused(jobs: Jobs) -> None:
    for _ in range(MAX_RUNNING):
        await start(jobs, ["sleep", "1000"])
    with pytest.raises(TooMuch):
        await start(jobs, "true")
    await asyncio.wait_for(jobs.kill(jobs.all()[0]), PATIENCE)
    assert (await run(jobs, "true")).record.status == "ok"


async def test_only_so_many_ended_jobs_are_known(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_KNOWN", 3)
    made = [await run(jobs, "true") for _ in range(5)]
    assert jobs.all() == made[2:]
    assert [job.folder.path.exists() for job in made] == [False, False, True, True, True]


def test_a_list_of_all_that_can_be_known_fits_the_frame_that_it_goes_out_in(tmp_path: Path) -> None:
    moment = timestamp()
    record = Record(
        id=new_id(),
        command="\U0001f600\x00" * 100,
        status="cancelled",
        started_at=moment,
        ended_at=moment,
        exit_code=137,
        signal="RTMIN+10",
        duration_ms=10**12,
        error="\u00e9" * 4000,
    )
    entry = Job(JobFolder(tmp_path, record.id), record, {"stdout": 2**40, "stderr": 2**40}).entry()
    assert len(json.dumps(entry)) * MAX_KNOWN < 250 * KIB
    assert str(entry["command"]).startswith("\U0001f600\x00")


async def test_a_disk_that_refuses_output_is_named_and_the_job_goes_on(jobs: Jobs) -> None:
    with files_limited_to(50 * KIB):
        job = await run(jobs, "head -c 200000 /dev/zero; echo fine >&2; exit 6")
        assert (job.record.exit_code, job.record.truncated) == (6, True)
        assert job.record.error == "its output could not be kept (stdout: File too large)"
        assert (job.streams["stdout"].size, kept(job, "stderr")) == (50 * KIB, b"fine\n")
        assert (await run(jobs, "true")).record.status == "ok"
    assert on_disk(job) == job.record


async def test_a_disk_that_has_no_room_for_a_job_starts_none(jobs: Jobs, tmp_path: Path) -> None:
    with files_limited_to(4 * KIB), pytest.raises(CallFailed, match="can't be kept on the node's disk"):
        await start(jobs, f"touch {tmp_path}/ran")
    assert jobs.all() == []
    assert names(tmp_path / "jobs") == set()
    assert not (tmp_path / "ran").exists()


async def test_an_end_that_a_disk_refused_is_told_and_written_down_later(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    job = await start(jobs, "echo up; exec sleep 1000")
    await until_printed(job, b"up")
    with files_limited_to(10):
        assert await asyncio.wait_for(jobs.kill(job), PATIENCE) is True
    assert "can't be written down yet" in caplog.text
    assert (job.record.status, on_disk(job).status) == ("cancelled", "running")
    await jobs.close()
    assert on_disk(job) == job.record
