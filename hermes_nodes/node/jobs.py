"""All detached jobs of a node: started here, kept on disk, found again after a restart."""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from hermes_nodes.clock import timestamp
from hermes_nodes.errors import CallCancelled, CallFailed, FileMissing, UsageError
from hermes_nodes.node.ends import given_up
from hermes_nodes.node.job_files import STREAMS, JobFolder, Record, is_job_id, stored_jobs
from hermes_nodes.node.job_limits import MAX_KNOWN, MAX_RUNNING, JobLimits
from hermes_nodes.node.job_output import Disk, KeptStream, Recorder, Room
from hermes_nodes.node.job_runs import Job, JobRun, outcome
from hermes_nodes.node.leftovers import end_leftovers
from hermes_nodes.node.processes import ESCALATION, QUICK_ESCALATION, Command, Escalation
from hermes_nodes.node.spawning import Spawner, is_scarcity
from hermes_nodes.node.tree import birth

log = logging.getLogger(__name__)

#: Seconds between two looks for jobs that have been kept long enough.
SWEEP_SECONDS = 3600.0
#: Seconds in which every job is ended and written down when the node stops; a disk that hangs gets no more.
STOP_SECONDS = 6.0
_DIED = "its node ended or was killed while it ran"


class TooMuch(Exception):
    """More than a node takes, now; says what of."""


class JobOrder(NamedTuple):
    """A job that is to be started; ``time_limit`` in seconds."""

    id: str
    #: What the record says of the command.
    summary: str
    program: str
    #: Begins with what the program is called.
    argv: list[str]
    cwd: str
    environment: Mapping[str, str]
    time_limit: float | None


class Jobs:
    """The jobs of one node, for its whole life: ``open`` takes over what is on disk, ``close`` ends all."""

    def __init__(self, folder: Path, limits: JobLimits, spawner: Spawner) -> None:
        self._folder = folder
        self._limits = limits
        self._spawner = spawner
        self._jobs: dict[str, Job] = {}
        #: On their way into the above.
        self._starting: set[str] = set()
        self._kept_bytes = 0
        self._disk = Disk()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        #: Ended, with a disk that would not have their records.
        self._unsaved: set[str] = set()
        self._escalation: Escalation = ESCALATION
        self._stopping = False

    # -- the node's life --

    async def open(self) -> None:
        """Take over the jobs on disk. Those that ran when the node died are ended, and said to be lost."""
        try:
            found = await self._disk.run(_stored, self._folder)
        except OSError as error:
            log.error("the jobs in %s can't be read: %s", self._folder, error)  # noqa: TRY400
            found = []
        for job in found:
            self._jobs[job.record.id] = job
            self._kept_bytes += job.kept_bytes
            if not job.over.is_set():
                self._own(self._recover(job))
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    def hurry(self) -> None:
        """The node is being stopped: end all jobs within seconds, and begin no more."""
        if self._stopping:
            return
        self._stopping = True
        self._escalation = QUICK_ESCALATION
        for job in self._jobs.values():
            if job.end is not None:
                self._own(_ended(job))

    async def close(self) -> None:
        """End all jobs, and write down that they were."""
        self.hurry()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        self._own(self._save())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        for task in self._tasks:
            log.error(
                "a job could not be ended in %d s: the next start of the node looks for it", STOP_SECONDS
            )
            task.cancel()
        self._disk.close()

    # -- what is asked for --

    def all(self) -> list[Job]:
        """The oldest first."""
        return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Raises FileMissing. Nothing but the jobs that are known is looked at, least of all a path."""
        job = self._jobs.get(job_id)
        if job is None:
            raise FileMissing("there is no such job")
        return job

    async def start(self, order: JobOrder, cancelled: asyncio.Event) -> None:
        """Start a job; it goes on by itself. ``cancelled`` ends the wait for its start.

        Raises TooMuch, UsageError for what can't be started at all, CallFailed if the disk refuses,
        CallCancelled.
        """
        self._admit(order.id)
        self._starting.add(order.id)
        try:
            await self._make_place()
            job, files = await self._disk.run(_created, self._folder, order)
            await self._launch(job, files, order, cancelled)
        except OSError as error:
            raise CallFailed(f"the job can't be kept on the node's disk: {error.strerror}") from error
        finally:
            self._starting.discard(order.id)

    async def kill(self, job: Job) -> bool:
        """End a job's whole tree; False if it had ended before. Raises CallFailed if it can't be ended."""
        if job.over.is_set():
            return False
        if job.end is not None and (problem := await job.end("cancelled")):
            raise CallFailed(problem)
        await job.over.wait()
        return True

    async def open_stream(self, kept: KeptStream) -> tuple[int, Disk]:
        """A descriptor to read it from, and where to do that; raises OSError."""
        return await self._disk.run(kept.folder.open_stream, kept.name, os.O_RDONLY), self._disk

    # -- running --

    def _admit(self, job_id: str) -> None:
        if not is_job_id(job_id) or job_id in self._jobs or job_id in self._starting:
            raise UsageError("a job's id must be a UUID of version 4 that no other job has")
        if self._stopping:
            raise CallFailed("the node is being stopped")
        running = sum(not job.over.is_set() for job in self._jobs.values())
        if running + len(self._starting) >= MAX_RUNNING:
            raise TooMuch(f"{MAX_RUNNING} jobs are running, which is all it takes")

    async def _launch(self, job: Job, files: list[int], order: JobOrder, cancelled: asyncio.Event) -> None:
        try:
            command = await self._command(order, cancelled)
        except (OSError, TooMuch, UsageError, CallCancelled) as error:
            for fd in files:
                os.close(fd)
            if not isinstance(error, OSError):
                await self._disk.run(job.folder.remove)
                raise
            self._jobs[order.id] = job
            await self._not_run(job, order.program, error)
        else:
            self._jobs[order.id] = job
            self._follow(job, command, files, order.time_limit)

    async def _command(self, order: JobOrder, cancelled: asyncio.Event) -> Command:
        """Raises what ``start`` does, and OSError for what a shell would say of the program."""
        starting = asyncio.create_task(
            Command.start(
                self._spawner,
                order.id,
                order.argv,
                cwd=order.cwd,
                environment=order.environment,
                program=order.program,
            )
        )
        if await given_up(starting, cancelled) is not None:
            raise CallCancelled("the call was cancelled before its job began")
        try:
            return starting.result()
        except ValueError as error:  # a NUL character, or a variable's name that is none
            raise UsageError(f"the command can't be started: {error}") from error
        except OSError as error:
            if is_scarcity(error):
                raise TooMuch(f"it can't start a process: {error.strerror}") from error
            raise

    def _follow(self, job: Job, command: Command, files: list[int], time_limit: float | None) -> None:
        parts = zip((command.stdout, command.stderr), files, job.streams.values(), strict=True)
        room = Room(self._take_room, self._give_room)
        most = self._limits.stream_bytes
        recorders = [Recorder(pipe, fd, kept, self._disk, most, room) for pipe, fd, kept in parts]
        run = JobRun(command, recorders, escalation=lambda: self._escalation)
        job.end = run.end
        self._own(self._run(job, command, run, time_limit))
        if self._stopping:
            self._own(_ended(job))

    async def _run(self, job: Job, command: Command, run: JobRun, time_limit: float | None) -> None:
        started = time.monotonic()
        pid = command.process.pid
        born = await self._disk.run(birth, pid)
        job.record = msgspec.structs.replace(job.record, pid=pid, birth=born)
        try:
            await self._disk.run(job.folder.write, job.record)
        except OSError as error:  # on Linux its mark is enough to find it by
            log.warning("the record of job %s can't be written: %s", job.record.id, error)
        try:
            why = await run.follow(time_limit)
        finally:
            command.leave()
        duration_ms = int((time.monotonic() - started) * 1000)
        await self._close(job, outcome(job, command, why, duration_ms, run.unended))

    async def _not_run(self, job: Job, program: str, error: OSError) -> None:
        """What a shell does with a program that it can't run: a line on stderr, and 127 or 126."""
        line = f"{program}: {error.strerror}\n".encode()
        with suppress(OSError):
            await self._disk.run((job.folder.path / "stderr").write_bytes, line)
            job.streams["stderr"].grow(len(line))
            self._kept_bytes += len(line)
        code = 127 if isinstance(error, FileNotFoundError) else 126
        await self._close(job, job.ended("error", exit_code=code, duration_ms=0))

    async def _recover(self, job: Job) -> None:
        """End what is left of a job whose node died, and say so of it."""
        record = job.record
        left = await end_leftovers(record.id, record.pid, record.birth, lambda: self._escalation)
        goes_on = f"; it goes on as process {min(left)}" if left else ""
        await self._close(job, job.ended("lost", error=_DIED + goes_on))

    async def _close(self, job: Job, record: Record) -> None:
        # Written first, so that nobody is told an end which a restart would deny.
        try:
            await self._disk.run(job.folder.finish, record)
        except OSError as error:
            log.error("the end of job %s can't be written down yet: %s", record.id, error)  # noqa: TRY400
            self._unsaved.add(record.id)
        job.close(record)

    def _own(self, work: Coroutine[object, object, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job failed unexpectedly", exc_info=error)

    # -- bounds --

    async def _take_room(self, amount: int) -> int:
        """How many of so many bytes may be kept; the oldest jobs that have ended give way."""
        while self._kept_bytes + amount > self._limits.total_bytes and (oldest := self._oldest_ended()):
            await self._remove(oldest)
        granted = max(0, min(amount, self._limits.total_bytes - self._kept_bytes))
        self._kept_bytes += granted
        return granted

    def _give_room(self, amount: int) -> None:
        self._kept_bytes -= amount

    async def _make_place(self) -> None:
        while len(self._jobs) + len(self._starting) > MAX_KNOWN and (oldest := self._oldest_ended()):
            await self._remove(oldest)

    def _oldest_ended(self) -> Job | None:
        ended = [job for job in self._jobs.values() if job.over.is_set()]
        return min(ended, key=lambda job: job.record.ended_at or "", default=None)

    async def _remove(self, job: Job) -> None:
        del self._jobs[job.record.id]
        self._unsaved.discard(job.record.id)
        self._kept_bytes -= job.kept_bytes
        try:
            await self._disk.run(job.folder.remove)
        except OSError as error:
            log.warning("the job %s can't be removed: %s", job.folder.path, error)

    async def _save(self) -> None:
        """Write down the ends that a disk has refused."""
        for job in [self._jobs[job_id] for job_id in self._unsaved]:
            with suppress(OSError):
                await self._disk.run(job.folder.finish, job.record)
                self._unsaved.discard(job.record.id)

    async def _sweep_for_ever(self) -> None:
        while True:
            await self._sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def _sweep(self) -> None:
        """Remove what has been kept long enough."""
        await self._save()
        oldest = timestamp(datetime.now(UTC) - timedelta(seconds=self._limits.keep_seconds))
        for job in self.all():
            if job.over.is_set() and (job.record.ended_at or "") < oldest and job.record.id in self._jobs:
                await self._remove(job)


def _created(jobs: Path, order: JobOrder) -> tuple[Job, list[int]]:
    """A new job on disk, and descriptors to write its two streams."""
    record = Record(id=order.id, command=order.summary, started_at=timestamp())
    folder = JobFolder(jobs, order.id)
    folder.create(record)
    files: list[int] = []
    try:
        files.extend(folder.open_stream(name, os.O_WRONLY | os.O_APPEND) for name in STREAMS)
    except OSError:  # no descriptors left
        for fd in files:
            os.close(fd)
        folder.remove()
        raise
    return Job(folder, record), files


def _stored(jobs: Path) -> list[Job]:
    found = stored_jobs(jobs)
    return [Job(folder, record, {name: folder.size(name) for name in STREAMS}) for folder, record in found]


async def _ended(job: Job) -> None:
    """End a job because its node stops."""
    if job.end is not None and (problem := await job.end("lost")):
        log.error("job %s: %s", job.record.id, problem)
