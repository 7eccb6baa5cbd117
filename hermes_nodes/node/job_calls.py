"""The calls about detached jobs: start one, list them, read what they print, wait for one, end one."""

from typing import assert_never

from hermes_nodes.acts import act
from hermes_nodes.errors import UsageError
from hermes_nodes.node.allowlist import told
from hermes_nodes.node.calls import NodeCall, Place, failure, until_cancelled
from hermes_nodes.node.commands import prepared
from hermes_nodes.node.job_files import JobStatus
from hermes_nodes.node.job_output import StreamSource
from hermes_nodes.node.job_runs import Job
from hermes_nodes.node.jobs import JobOrder, TooMuch
from hermes_nodes.protocol.messages import (
    CallStatus,
    Exec,
    ExecResult,
    JobKill,
    JobKillResult,
    JobList,
    JobListResult,
    JobRead,
    JobReadResult,
    JobWait,
    Result,
)
from hermes_nodes.protocol.stream import STDOUT

_ENDS: dict[JobStatus, CallStatus] = {
    "ok": "ok",
    "error": "error",
    "timeout": "timeout",
    "cancelled": "cancelled",
}


async def start(place: Place, call: NodeCall, request: Exec) -> Result:
    """Start a job and answer at once; it is the node's own from here on, whatever becomes of the session.

    Raises what `exec` raises before a command runs, CallFailed if the disk refuses, CallCancelled.
    """
    if request.stdin or request.pty is not None or request.session is not None:
        return failure(request, "bad_request", "a detached job has no input, no terminal and no session")
    program, argv, cwd, environment = prepared(place.config, request)
    time_limit = None if request.timeout_ms is None else request.timeout_ms / 1000
    summary = act(request, "summary").command or ""
    order = JobOrder(request.id, summary, program, argv, cwd, environment, time_limit)
    try:
        await place.lasting.jobs.start(order, call.cancelled)
    except TooMuch as error:
        return failure(request, "busy", str(error))
    except UsageError as error:
        return failure(request, "bad_request", error.message)
    return ExecResult(id=request.id, status="started", job=request.id)


async def carry_out(place: Place, call: NodeCall, request: JobList | JobRead | JobWait | JobKill) -> Result:
    """Raises FileMissing for a job that is not known, CallCancelled, CallFailed."""
    jobs = place.lasting.jobs
    match request:
        case JobList():
            return JobListResult(id=call.id, status="ok", jobs=[job.entry() for job in jobs.all()])
        case JobRead():
            return await _read(place, call, request)
        case JobWait():
            job = jobs.get(request.job)
            await until_cancelled(call, job.over.wait())
            return _end_of(job, request)
        case JobKill():
            was_running = await until_cancelled(call, jobs.kill(jobs.get(request.job)))
            return JobKillResult(id=call.id, status="ok", already_ended=not was_running)
        case _:
            assert_never(request)


async def _read(place: Place, call: NodeCall, request: JobRead) -> Result:
    """``size_bytes`` of the answer is where a later read goes on from."""
    jobs = place.lasting.jobs
    job = jobs.get(request.job)
    kept = job.streams[request.stream]
    try:
        fd, disk = await jobs.open_stream(kept)
        content = StreamSource(
            kept,
            fd,
            disk,
            offset=request.offset,
            follow=request.follow,
            wake=lambda: place.stream.wake(call.id, STDOUT),
        )
        place.stream.send_from(call.id, STDOUT, call.counted(content))
        await until_cancelled(call, content.finished())
    except OSError as error:
        raise told(error, f"{request.stream} of the job") from error
    return JobReadResult(id=call.id, status="ok", size_bytes=content.offset, truncated=kept.is_cut)


def _end_of(job: Job, request: JobWait) -> Result:
    """How a job ended, as `exec` would have answered."""
    record = job.record
    if record.status in ("lost", "running"):  # and nothing that is over still runs
        return failure(request, "job_lost", f"the job was lost: {record.error}")
    return ExecResult(
        id=request.id,
        status=_ENDS[record.status],
        exit_code=record.exit_code if record.exit_code is not None else -1,
        signal=record.signal,
        truncated=record.truncated,
        duration_ms=record.duration_ms or 0,
        job=record.id,
    )
