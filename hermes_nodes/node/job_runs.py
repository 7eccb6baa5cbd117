"""One detached job: what is known of it, and following its command to the end."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from hermes_nodes.clock import timestamp
from hermes_nodes.node.job_files import STREAMS, JobFolder, JobStatus, Record, StreamName
from hermes_nodes.node.job_output import KeptStream, Recorder
from hermes_nodes.node.processes import Command, Escalation

log = logging.getLogger(__name__)

#: What ends a job from outside; ``lost`` is the stop of its node.
Why = Literal["timeout", "cancelled", "lost"]
#: Seconds in which a job that was ended may still get its last output through.
FLUSH_SECONDS = 1.0
#: Bytes that the command and the error of a job may take in a list, as JSON in ASCII.
_SHOWN_BYTES = 200
_STOPPED = "its node was stopped while it ran"


class Job:
    """A job, running or ended. ``over`` is set when its end is known and written down."""

    def __init__(
        self, folder: JobFolder, record: Record, sizes: dict[StreamName, int] | None = None
    ) -> None:
        self.folder = folder
        self.record = record
        ended = record.status != "running"
        known = sizes or {}
        self.streams = {
            name: KeptStream(folder, name, size=known.get(name, 0), whole=ended) for name in STREAMS
        }
        self.over = asyncio.Event()
        if ended:
            self.over.set()
        #: Ends it, if there is something to end; gives what goes on all the same.
        self.end: Callable[[Why], Awaitable[str | None]] | None = None

    @property
    def kept_bytes(self) -> int:
        return sum(stream.size for stream in self.streams.values())

    @property
    def is_truncated(self) -> bool:
        return self.record.truncated or any(stream.is_cut for stream in self.streams.values())

    def entry(self) -> dict[str, str | int | None]:
        """What `job_list` says of it; at most some 700 bytes as JSON. ``truncated`` is 0 or 1."""
        record = self.record
        return {
            "id": record.id,
            "command": shortened(record.command),
            "status": record.status,
            "exit_code": record.exit_code,
            "signal": record.signal,
            "started_at": record.started_at,
            "ended_at": record.ended_at,
            "duration_ms": record.duration_ms,
            "stdout_bytes": self.streams["stdout"].size,
            "stderr_bytes": self.streams["stderr"].size,
            "truncated": int(self.is_truncated),
            "error": shortened(record.error) if record.error else None,
        }

    def ended(self, status: JobStatus, **facts: object) -> Record:
        """The record of its end, now."""
        return msgspec.structs.replace(
            self.record,
            status=status,
            ended_at=timestamp(),
            truncated=self.is_truncated,
            **facts,
        )

    def close(self, record: Record) -> None:
        """From now on it has ended."""
        self.record = record
        self.end = None
        for stream in self.streams.values():
            if not stream.is_whole:
                stream.end()
        self.over.set()


class JobRun:
    """A job's command on this node, until it and its output have ended or something ends them."""

    def __init__(
        self, command: Command, recorders: list[Recorder], *, escalation: Callable[[], Escalation]
    ) -> None:
        self._command = command
        self._recorders = recorders
        self._escalation = escalation
        self._why: Why | None = None
        #: What of it goes on though its command has ended, in a sentence.
        self.unended: str | None = None
        self._ending: asyncio.Task[str | None] | None = None
        self._recording = asyncio.create_task(self._record())

    async def _record(self) -> None:
        await asyncio.gather(self._command.exited.wait(), *(recorder.run() for recorder in self._recorders))

    async def follow(self, time_limit: float | None) -> Why | None:
        """Wait for the end; what brought it about, None for the command itself. The limit is in seconds."""
        loop = asyncio.get_running_loop()
        deadline = (
            None if time_limit is None else loop.call_later(time_limit, self._begin_to_end, "timeout")
        )
        try:
            await self._recording
        finally:
            if deadline is not None:
                deadline.cancel()
        if self._ending is not None:
            await self._ending
        return self._why

    async def end(self, why: Why) -> str | None:
        """End the whole tree; None when it has ended, else a sentence on what can't be ended."""
        return await asyncio.shield(self._begin_to_end(why))

    def _begin_to_end(self, why: Why) -> "asyncio.Task[str | None]":
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end(why))
        return self._ending

    async def _end(self, why: Why) -> str | None:
        # A command that had its own end keeps it, though what it left in the background is ended now.
        if not self._command.exited.is_set():
            self._why = self._why or why
        problem = await self._command.end(self._escalation)
        if problem is not None:
            log.warning("a job %s", problem)
            problem = f"it {problem}"
        if not self._command.exited.is_set():
            self._why = None
            return problem
        self.unended = problem
        await asyncio.wait([self._recording], timeout=FLUSH_SECONDS)
        for recorder in self._recorders:
            recorder.stop()
        return problem


def outcome(job: Job, command: Command, why: Why | None, duration_ms: int, unended: str | None) -> Record:
    """The record of a job whose command has ended; what the node's stop has ended says no exit code."""
    problems = [_STOPPED if why == "lost" else None, unended, _not_kept(job)]
    error = "; ".join(filter(None, problems)) or None
    if why == "lost":
        return job.ended("lost", duration_ms=duration_ms, error=error)
    status: JobStatus = why or ("ok" if command.exit_code == 0 else "error")
    return job.ended(
        status,
        exit_code=command.exit_code,
        signal=command.signal_name,
        duration_ms=duration_ms,
        error=error,
    )


def _not_kept(job: Job) -> str | None:
    failures = [f"{name}: {kept.failure}" for name, kept in job.streams.items() if kept.failure]
    return f"its output could not be kept ({'; '.join(failures)})" if failures else None


def shortened(text: str) -> str:
    """As much of a text as takes _SHOWN_BYTES in JSON: control characters and other scripts take more."""
    room = _SHOWN_BYTES
    for at, sign in enumerate(text):
        room -= len(json.dumps(sign)) - len('""')
        if room < 0:
            return text[:at]
    return text
