"""A node's jobs without the node: started, followed to their end, looked at on disk."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hermes_nodes.clock import timestamp
from hermes_nodes.node.job_files import JobFolder, Record
from hermes_nodes.node.job_limits import JobLimits
from hermes_nodes.node.job_runs import Job
from hermes_nodes.node.jobs import JobOrder, Jobs
from hermes_nodes.node.processes import command_environment, shell_command
from hermes_nodes.node.spawning import Spawner
from tests.harness import until
from tests.support import PATIENCE


def new_id() -> str:
    return str(uuid.uuid4())


async def start(jobs: Jobs, command: str | list[str], *, time_limit: float | None = None) -> Job:
    job_id = new_id()
    argv = shell_command(command) if isinstance(command, str) else command
    environment = command_environment(job_id, {})
    await jobs.start(
        JobOrder(job_id, str(command), argv[0], argv, "/", environment, time_limit), asyncio.Event()
    )
    return jobs.get(job_id)


async def over(job: Job) -> Record:
    await asyncio.wait_for(job.over.wait(), PATIENCE)
    return job.record


async def run(jobs: Jobs, command: str | list[str], *, time_limit: float | None = None) -> Job:
    job = await start(jobs, command, time_limit=time_limit)
    await over(job)
    return job


async def until_printed(job: Job, text: bytes) -> None:
    await until(lambda: text in kept(job))


def kept(job: Job, name: str = "stdout") -> bytes:
    return (job.folder.path / name).read_bytes()


def on_disk(job: Job) -> Record:
    record = job.folder.read()
    assert record is not None
    return record


def leave(folder: Path, record: Record, stdout: bytes = b"") -> None:
    """A job on disk, as an earlier process of the node has left it."""
    place = JobFolder(folder, record.id)
    place.create(record)
    (place.path / "stdout").write_bytes(stdout)


def ago(days: float) -> str:
    return timestamp(datetime.now(UTC) - timedelta(days=days))


def ended_record(days: float = 0.0) -> Record:
    when = ago(days)
    return Record(id=new_id(), command="true", status="ok", started_at=when, ended_at=when, exit_code=0)


@asynccontextmanager
async def jobs_in(folder: Path, limits: JobLimits | None = None) -> AsyncIterator[Jobs]:
    with closing(Spawner()) as spawner:
        jobs = Jobs(folder, limits or JobLimits(), spawner)
        await jobs.open()
        try:
            yield jobs
        finally:
            await asyncio.wait_for(jobs.close(), PATIENCE)
