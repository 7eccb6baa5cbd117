"""How a call ended: what a node's answer, or an error of ours, comes to for its caller and its row."""

import shlex
from typing import Protocol, assert_never

import msgspec

from hermes_nodes.calls import Answer
from hermes_nodes.errors import (
    Busy,
    CallCancelled,
    CallFailed,
    CallTimeout,
    FileAlreadyThere,
    FileMissing,
    FilePermission,
    FileTooLarge,
    HermesNodesError,
    NodeDisconnected,
    PathNotAllowed,
    Unsupported,
)
from hermes_nodes.losses import hint_after_loss
from hermes_nodes.protocol.messages import (
    ERROR_NAMES,
    Error,
    Exec,
    ExecResult,
    JobKill,
    JobListResult,
    JobRead,
    JobWait,
    ReadResult,
    Request,
    Result,
    WriteResult,
)
from hermes_nodes.text import printable

#: Characters of a node's own words that go into an error.
MAX_DETAIL = 1000
#: What a process can leave behind as its exit code.
MAX_EXIT_CODE = 255

_ERRORS: dict[str, type[HermesNodesError]] = {
    "path_not_allowed": PathNotAllowed,
    "file_not_found": FileMissing,
    "file_exists": FileAlreadyThere,
    "file_too_large": FileTooLarge,
    "permission_denied": FilePermission,
    "exec_timeout": CallTimeout,
}


class Ending(Protocol):
    """What of a call is needed to say how it ended."""

    @property
    def node(self) -> str: ...
    @property
    def request(self) -> Request: ...
    @property
    def dropped(self) -> bool:
        """Whether output came that the caller did not get."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended; also the final answer of the control API."""

    request_id: str
    node: str
    status: str
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: int = 0
    truncated: bool = False
    size_bytes: int | None = None
    bytes_written: int | None = None
    sha256: str | None = None
    #: The id of a detached job.
    job: str | None = None
    error: dict[str, object] | None = None
    #: What else the answer to this kind of call holds; for calls that have such answers alone.
    facts: dict[str, object] | None = None


def outcome_of(running: Ending, answer: Answer, duration_ms: int) -> Outcome:
    """What a node's answer comes to; raises what it failed with."""
    if isinstance(answer, Error):
        raise _node_error(running, ERROR_NAMES.get(answer.code, "failed"), answer.detail or answer.reason)
    failed = answer.status == "error" and not isinstance(answer, ExecResult)
    if failed or answer.error or _never_ran(answer):
        raise _node_error(running, answer.error or "failed", answer.error_detail)
    if isinstance(answer, ExecResult) and answer.exit_code > MAX_EXIT_CODE:
        raise _node_error(running, "failed", f"an exit code of {answer.exit_code}, which no command has")
    common = {"request_id": running.request.id, "node": running.node, "duration_ms": duration_ms}
    ended = _ended(running, answer)
    match answer:
        case ExecResult():
            found: dict[str, object] = {
                "exit_code": _exit_code(answer),
                "signal": printable(answer.signal) if answer.signal else None,
                "truncated": answer.truncated,
                "job": printable(answer.job, MAX_DETAIL) if answer.job else None,
            }
        case ReadResult():
            found = {"size_bytes": answer.size_bytes, "sha256": printable(answer.sha256)}
        case WriteResult():
            found = {"bytes_written": answer.bytes_written, "sha256": printable(answer.sha256)}
        case _:
            found = {"facts": _facts(answer)}
    status = ended.call_status if ended else _status(answer)
    error = ended.to_wire() if ended else None
    return msgspec.convert({**common, **found, "status": status, "error": error}, Outcome)


def _exit_code(answer: ExecResult) -> int | None:
    """None where a command has just been started, and where a wait for one was cancelled."""
    return None if answer.status == "started" or answer.exit_code < 0 else answer.exit_code


def _never_ran(answer: Result) -> bool:
    """A wait that was cancelled has no exit code either, but it is what was asked for."""
    return isinstance(answer, ExecResult) and answer.exit_code < 0 and answer.status != "cancelled"


def _facts(answer: Result) -> dict[str, object]:
    """What an answer says beyond what all of them say."""
    general = {"id", "ts", "status", "error", "error_detail"}
    facts = msgspec.structs.asdict(answer)
    if isinstance(answer, JobListResult):  # on the wire it is a number
        facts["jobs"] = [{**job, "truncated": bool(job.get("truncated"))} for job in answer.jobs]
    return {key: value for key, value in facts.items() if key not in general}


def _status(answer: Result) -> str:
    """`ok` or `error`; for a command its exit code decides, whatever its node calls it."""
    if isinstance(answer, ExecResult):
        return answer.status if answer.status == "started" else "error" if answer.exit_code else "ok"
    return answer.status


def _ended(running: Ending, answer: Answer) -> HermesNodesError | None:
    """The reason why a call ended before its command did."""
    status = "" if isinstance(answer, Error) else answer.status
    if status == "cancelled" and isinstance(running.request, JobWait | JobRead | JobKill):
        return CallCancelled(_cancelled_for_job(running.request, answer))
    if status == "timeout":
        return CallTimeout("the call's time-out has passed, and the command was ended on the node")
    if status == "cancelled":
        return CallCancelled(f"the call was cancelled, and ended on node {running.node!r}")
    if running.dropped:  # and the command has ended by itself
        return CallCancelled("the call was cancelled before all of its output was taken")
    return None


def _cancelled_for_job(request: JobWait | JobRead | JobKill, answer: Answer) -> str:
    match request:
        case JobWait() if isinstance(answer, ExecResult) and answer.exit_code >= 0:
            return "the job was killed"
        case JobWait():
            return "the wait was cancelled; the job goes on"
        case JobRead():
            return "the reading was cancelled, which changes nothing for the job"
        case JobKill():
            return "the wait for the job's end was cancelled; the job is still being ended"
        case _:
            assert_never(request)


def _node_error(running: Ending, name: str, detail: str | None) -> HermesNodesError:
    said = printable(detail or name.replace("_", " "), MAX_DETAIL)
    if name == "busy":
        return Busy.by_node(running.node, said)
    if name == "unsupported":
        return Unsupported(running.node, said)
    return _ERRORS.get(name, CallFailed)(f"node {running.node!r}: {said}", _node_hint(running, name))


def _node_hint(running: Ending, name: str) -> str:
    """What to do about a node's error; nodes themselves give no hints."""
    request = running.request
    if name == "path_not_allowed":
        return "`allowed_paths` in the node's own settings decides"
    if name == "file_not_found" and isinstance(request, Exec):  # the directory that it was to run in
        if request.session is not None:
            reset = f"`hermes-nodes session reset {shlex.join([running.node, request.session])}`"
            return f"give --cwd /, or forget the session: {reset}"
        return "" if request.cwd else "that is the home of the node's user: give --cwd /"
    return ""


def failure_of(running: Ending, error: HermesNodesError, duration_ms: int) -> Outcome:
    if isinstance(error, NodeDisconnected) and error.was_sent:
        request = running.request
        on_terminal = isinstance(request, Exec) and request.pty is not None
        tag = str(request.__struct_config__.tag)
        error.hint = hint_after_loss(tag, on_terminal=on_terminal) or error.hint
    return Outcome(
        request_id=running.request.id,
        node=running.node,
        status=error.call_status,
        duration_ms=duration_ms,
        error=error.to_wire(),
    )
