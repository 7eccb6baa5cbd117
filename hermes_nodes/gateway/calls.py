"""One call: authorise, limit, dispatch, follow, and write its one audit row. There is no other way."""

import asyncio
import time
from contextlib import suppress
from typing import Protocol

import msgspec

from hermes_nodes.audit import AuditLog, summarise_command
from hermes_nodes.calls import Answer, Call
from hermes_nodes.config import Settings
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
    NodeNotConnected,
    PathNotAllowed,
    UnknownNode,
    Unsupported,
)
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.protocol.messages import (
    ERROR_NAMES,
    MAX_CALLS,
    STREAM,
    Error,
    Exec,
    ExecResult,
    Read,
    ReadResult,
    Request,
    Result,
    Write,
    WriteResult,
)
from hermes_nodes.protocol.stream import Source
from hermes_nodes.registry import NodeRegistry
from hermes_nodes.sessions import END_GRACE
from hermes_nodes.text import printable

#: Seconds that a caller gets to take the output of a call whose node is lost. Somebody who reads gets
#: all of it in that time; somebody who does not must hold up neither the row nor the gateway's stop.
LAST_OUTPUT_SECONDS = 1.0

#: Seconds that a call may wait for others before its caller is told.
WAIT_NOTE_SECONDS = 1.0
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

#: How the trail names an outcome for which it has no word of its own.
_TRAIL_STATUS = {"unknown_node": "error", "unsupported": "error", "failed": "error", "busy": "rate_limited"}


class Actor(msgspec.Struct, frozen=True):
    """Who asks: the one identity that is checked and written down."""

    name: str
    remote_addr: str | None = None


class Caller(Protocol):
    """Whom a call's output goes to."""

    async def output(self, channel: int, payload: memoryview) -> None:
        """Pass on a piece, empty at the end of its channel; ConnectionError if nobody is there."""

    async def note(self, text: str) -> None:
        """Tell what is worth knowing meanwhile; ConnectionError if nobody is there."""


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
    error: dict[str, object] | None = None


class RunningCall:
    """A call under way, which goes on to its end whoever stops waiting for it."""

    def __init__(self, actor: Actor, node: str, request: Request, caller: Caller) -> None:
        self.actor = actor
        self.node = node
        self.request = request
        self.caller = caller
        self.bytes_in = 0
        self.bytes_out = 0
        self.source: Source | None = None
        self.call: Call | None = None
        self.cancelled = False
        #: Output came that the caller did not get.
        self.dropped = False
        self.task: asyncio.Task[Outcome] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._output_until: float | None = None
        self._patience: asyncio.Timeout | None = None

    def begin(self, call: Call) -> None:
        """The call is on its way to the node."""
        self.call = call
        call.on_failed = self._node_lost
        if call.answer_within is not None:
            self._expect_answer_within(call.answer_within)

    async def tell(self, call: Call) -> None:
        """Tell the caller what its session has to say, and that its call waits, if it does."""
        with suppress(ConnectionError):  # which cancels the call by itself
            if call.note:
                await self.caller.note(call.note)
            if call.is_sent:
                return
            try:
                async with asyncio.timeout(WAIT_NOTE_SECONDS):
                    await call.has_left()
            except TimeoutError:
                await self.caller.note(f"node {self.node!r} does one call at a time: waiting for others")

    def end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def release(self) -> None:
        """It is over: let go of what may hold megabytes, rather than wait for the garbage collector."""
        self.source = None
        if self.call is not None:
            self.call.on_failed = None

    def cancel(self) -> None:
        """End the call on its node; the outcome still comes, and what was printed until then."""
        if self.cancelled:
            return
        self.cancelled = True
        self._wait_for_caller(LAST_OUTPUT_SECONDS)
        if self.call is not None:
            self.call.cancel()
            self._expect_answer_within(END_GRACE)

    def input_ready(self) -> None:
        if self.call is not None and self.source is not None:
            self.call.input_ready()

    async def pass_on(self, channel: int, payload: memoryview) -> None:
        """Give the caller a piece of output, for as long as the caller is to be waited for."""
        self.bytes_out += len(payload)
        if self.dropped:
            return
        try:
            async with asyncio.timeout_at(self._output_until) as self._patience:
                await self.caller.output(channel, payload)
        except (ConnectionError, TimeoutError):
            self.dropped = True
            self.cancel()

    def _node_lost(self) -> None:
        self._wait_for_caller(LAST_OUTPUT_SECONDS)

    def _wait_for_caller(self, seconds: float) -> None:
        self._output_until = asyncio.get_running_loop().time() + seconds
        if self._patience is not None and not self._patience.expired():
            with suppress(RuntimeError):  # that piece has been taken
                self._patience.reschedule(self._output_until)

    def _expect_answer_within(self, seconds: float) -> None:
        self.end()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """The node did not end the call in time: nothing more will be said of it."""
        if self.call is None or self.call.finished:
            return
        hint = "the node did not confirm that it has ended: look there before you repeat it"
        if self.cancelled:
            self.call.finish(CallCancelled("the call was cancelled", hint))
        else:
            self.call.finish(CallTimeout("the call's time-out has passed", hint))
        self.call.abandon()

    async def outcome(self) -> Outcome:
        """Wait for the end; whoever is cancelled while waiting has hung up, which ends the call."""
        assert self.task is not None  # noqa: S101 - set by Calls.begin before anyone has this object
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            self.cancel()
            raise


class Calls:
    """The gateway's calls, all of them."""

    def __init__(
        self, settings: Settings, registry: NodeRegistry, pairings: Pairings, trail: AuditLog
    ) -> None:
        #: Replaced when the settings are read again.
        self.settings = settings
        self._registry = registry
        self._pairings = pairings
        self._trail = trail
        self._running: set[RunningCall] = set()

    def __len__(self) -> int:
        return len(self._running)

    def begin(
        self, actor: Actor, node: str, request: Request, caller: Caller, source: Source | None = None
    ) -> RunningCall:
        """Start a call; ``source`` is what its channel 0 carries."""
        running = RunningCall(actor, node, request, caller)
        running.source = None if source is None else _CountingSource(source, running)
        self._running.add(running)
        running.task = asyncio.create_task(self._perform(running))
        running.task.add_done_callback(lambda _: self._running.discard(running))
        return running

    async def end_all(self) -> None:
        """Cancel what runs and wait until each has its row."""
        for running in list(self._running):
            running.cancel()
        tasks = [running.task for running in self._running if running.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _perform(self, running: RunningCall) -> Outcome:
        started = time.monotonic()
        # What stands in the trail if something of ours fails in a way that nobody thought of.
        outcome = _failure(running, CallFailed("the gateway failed during the call"), 0)
        try:
            answer = await self._follow(running)
            outcome = _outcome(running, answer, _since(started))
        except HermesNodesError as error:
            outcome = _failure(running, error, _since(started))
        finally:
            self._append_row(running, outcome)
            running.release()
        if self.settings.audit_fsync == "always":
            await asyncio.to_thread(self._trail.sync)
        return outcome

    def _dispatch(self, running: RunningCall) -> Call:
        """Send the call to its node; nothing has run there if this raises."""
        name = running.node
        pairing = self._pairings.get(name)
        if pairing is None:
            raise UnknownNode(name)
        session = self._registry.get(name)
        if session is None:
            is_older = bool(pairing.last_seen_at) and STREAM not in pairing.capabilities
            raise NodeNotConnected(name, pairing.last_seen_at, is_older=is_older)
        self._registry.admit_call(session, time.monotonic())
        return session.start(running.request, running.source)

    async def _follow(self, running: RunningCall) -> Answer:
        """Pass output on until the answer is there; raises what ended the call without one."""
        if running.cancelled:
            raise CallCancelled("the call was cancelled before it began")
        call = self._dispatch(running)
        running.begin(call)
        try:
            await running.tell(call)
            while (piece := await call.next_output()) is not None:
                channel, payload = piece
                await running.pass_on(channel, payload)
                call.took(channel, len(payload))
        finally:
            running.end()
        return call.result()

    def _append_row(self, running: RunningCall, outcome: Outcome) -> None:
        request = running.request
        session = running.call.session if running.call else None
        pairing = self._pairings.get(running.node)
        is_exec = isinstance(request, Exec)
        self._trail.append(
            action=type(request).__struct_config__.tag,
            status=_TRAIL_STATUS.get(outcome.status, outcome.status),
            node=running.node,
            pairing_id=session.pairing_id if session else (pairing.id if pairing else None),
            request_id=request.id,
            session_id=session.id if session else None,
            actor=running.actor.name,
            remote_addr=running.actor.remote_addr,
            exit_code=outcome.exit_code,
            duration_ms=outcome.duration_ms,
            error=outcome.error["code"] if outcome.error else None,
            command=self._command(request) if is_exec else None,
            path=request.path if isinstance(request, Read | Write) else None,
            bytes_in=running.bytes_in,
            bytes_out=running.bytes_out,
        )

    def _command(self, request: Request) -> str | None:
        if not isinstance(request, Exec):
            return None
        return summarise_command(request.argv or request.command or "", self.settings.audit_commands)


class _CountingSource:
    """A source whose bytes are counted for the trail."""

    def __init__(self, source: Source, running: RunningCall) -> None:
        self._source = source
        self._running = running

    def pull(self, limit: int) -> bytes | memoryview | None:
        piece = self._source.pull(limit)
        self._running.bytes_in += len(piece or b"")
        return piece


def _since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)


def _outcome(running: RunningCall, answer: Answer, duration_ms: int) -> Outcome:
    """What a node's answer comes to; raises what it failed with."""
    if isinstance(answer, Error):
        raise _node_error(running, ERROR_NAMES.get(answer.code, "failed"), answer.detail or answer.reason)
    failed = answer.status == "error" and not isinstance(answer, ExecResult)
    if failed or answer.error or (isinstance(answer, ExecResult) and answer.exit_code < 0):
        raise _node_error(running, answer.error or "failed", answer.error_detail)
    if isinstance(answer, ExecResult) and answer.exit_code > MAX_EXIT_CODE:
        raise _node_error(running, "failed", f"an exit code of {answer.exit_code}, which no command has")
    common = {"request_id": running.request.id, "node": running.node, "duration_ms": duration_ms}
    ended = _ended(running, answer)
    match answer:
        case ExecResult():
            facts: dict[str, object] = {
                "exit_code": answer.exit_code,
                "signal": printable(answer.signal) if answer.signal else None,
                "truncated": answer.truncated,
            }
        case ReadResult():
            facts = {"size_bytes": answer.size_bytes, "sha256": printable(answer.sha256)}
        case WriteResult():
            facts = {"bytes_written": answer.bytes_written, "sha256": printable(answer.sha256)}
        case _:
            facts = {}
    status = ended.call_status if ended else _status(answer)
    error = ended.to_wire() if ended else None
    return msgspec.convert({**common, **facts, "status": status, "error": error}, Outcome)


def _status(answer: Result) -> str:
    """`ok` or `error`; for a command its exit code decides, whatever its node calls it."""
    if isinstance(answer, ExecResult):
        return "error" if answer.exit_code else "ok"
    return answer.status


def _ended(running: RunningCall, answer: Answer) -> HermesNodesError | None:
    """The reason why a call ended before its command did."""
    status = "" if isinstance(answer, Error) else answer.status
    if status == "timeout":
        return CallTimeout("the call's time-out has passed, and the command was ended on the node")
    if status == "cancelled":
        return CallCancelled(f"the call was cancelled, and ended on node {running.node!r}")
    if running.dropped:  # and the command has ended by itself
        return CallCancelled("the call was cancelled before all of its output was taken")
    return None


def _node_error(running: RunningCall, name: str, detail: str | None) -> HermesNodesError:
    said = printable(detail or name.replace("_", " "), MAX_DETAIL)
    if name == "busy":
        return Busy(running.node, MAX_CALLS)
    if name == "unsupported":
        return Unsupported(running.node, said)
    hint = "`allowed_paths` in the node's own settings decides" if name == "path_not_allowed" else ""
    return _ERRORS.get(name, CallFailed)(f"node {running.node!r}: {said}", hint)


def _failure(running: RunningCall, error: HermesNodesError, duration_ms: int) -> Outcome:
    return Outcome(
        request_id=running.request.id,
        node=running.node,
        status=error.call_status,
        duration_ms=duration_ms,
        error=error.to_wire(),
    )
