"""Runs the calls of one session side by side, each to its one answer and its row in the node's trail."""

import asyncio
import logging
import time
from typing import assert_never

from hermes_nodes.acts import act
from hermes_nodes.audit import AuditLog
from hermes_nodes.errors import CallCancelled, HermesNodesError
from hermes_nodes.node import job_calls, transfers
from hermes_nodes.node.allowlist import Allowlist, error_name
from hermes_nodes.node.calls import CallStream, NodeCall, Place, answer, failure
from hermes_nodes.node.commands import ExecCall
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.lasting import Lasting
from hermes_nodes.node.processes import ESCALATION, QUICK_ESCALATION
from hermes_nodes.protocol.messages import (
    MAX_CALLS,
    Exec,
    ExecResult,
    JobKill,
    JobList,
    JobRead,
    JobWait,
    ListDir,
    MakeDir,
    Read,
    Request,
    Result,
    SessionList,
    SessionListResult,
    SessionReset,
    SessionResetResult,
    Stat,
    Write,
    needed_capabilities,
)
from hermes_nodes.protocol.stream import STDIN

log = logging.getLogger(__name__)

#: What this node can do beyond `stream/1`; it lists them in `hello`.
CAPABILITIES: list[str] = ["fs", "jobs", "pty", "session", "stdin"]


class Runner:
    """The calls of one session; ``close`` ends them all."""

    def __init__(self, config: NodeConfig, stream: CallStream, trail: AuditLog, lasting: Lasting) -> None:
        self._place = Place(config, Allowlist(config.allowed_paths), stream, lasting)
        self._trail = trail
        self._calls: dict[str, NodeCall] = {}
        self._commands: dict[str, ExecCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._escalation = ESCALATION
        self._open = True

    def start(self, request: Request) -> None:
        """Begin a call; whatever becomes of it, it is answered."""
        if request.id in self._calls:
            return
        lacking = [one for one in needed_capabilities(request) if one not in CAPABILITIES]
        if lacking:
            # Not a call that begins: the trail has no name for what this node can't do.
            self._place.stream.send(failure(request, "unsupported", f"`{lacking[0]}`"))
            return
        if len(self._calls) >= MAX_CALLS:
            too_many = f"{MAX_CALLS} calls are running, which is all it takes"
            self._place.stream.send(failure(request, "busy", too_many))
            return
        call = NodeCall(request)
        self._calls[call.id] = call
        # At once, not when the call's task begins: its input may be in the very next record.
        self._place.stream.open(call.id, sends={}, receives=_input_channels(request))
        task = asyncio.create_task(self._run(call))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(request, task))

    def feed(self, call_id: str, payload: memoryview) -> None:
        """Bytes of a call's channel 0."""
        call = self._calls.get(call_id)
        if call is not None:
            call.feed(payload)

    def cancel(self, call_id: str, *, keep: bool = False) -> None:
        """End a call; ``keep``: its caller may come back for what a `write` has got."""
        call = self._calls.get(call_id)
        if call is not None:
            call.keeps = keep
            call.cancelled.set()

    def resize(self, call_id: str, cols: int, rows: int) -> None:
        """The terminal at the other end of a call has a new size."""
        command = self._commands.get(call_id)
        if command is not None:
            command.resize(cols, rows)

    async def close(self) -> None:
        """The session is over: end every call, with nobody left to answer to."""
        self._open = False
        for call in self._calls.values():
            call.abandoned = True
            call.keeps = call.keeps or not call.cancelled.is_set()
            call.cancelled.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hurry(self) -> None:
        """The node itself is being stopped: end commands within seconds, one that starts now as well."""
        self._escalation = QUICK_ESCALATION
        for command in self._commands.values():
            command.escalation = QUICK_ESCALATION

    async def _run(self, call: NodeCall) -> None:
        started = time.monotonic()
        try:
            result = await self._carry_out(call)
        except CallCancelled:
            result = answer(call.request, "cancelled")
        except HermesNodesError as error:
            result = failure(call.request, error_name(error), error.message)
        finally:
            del self._calls[call.id]
            self._place.stream.close(call.id)
        try:
            self._append_row(call, result, int((time.monotonic() - started) * 1000))
        except HermesNodesError as error:
            # What was done can't be undone, and the gateway has a row of its own: so the answer goes out.
            log.error("the node's own trail: %s", error.message)  # noqa: TRY400 - the sentence is enough
        if self._open:
            self._place.stream.send(result)

    def _ended(self, request: Request, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # A fault of ours; its caller must not wait for ever.
            log.error("call %s failed unexpectedly", request.id, exc_info=error)
            self._place.stream.send(failure(request, "internal_error", "the node failed; its log says how"))

    async def _carry_out(self, call: NodeCall) -> Result:
        match call.request:
            case Exec(detach=True):
                return await job_calls.start(self._place, call, call.request)
            case Exec():
                command = ExecCall(self._place, call, call.request, self._escalation)
                self._commands[call.id] = command
                try:
                    return await command.run()
                finally:
                    del self._commands[call.id]
            case Read() | Write() | Stat() | ListDir() | MakeDir():
                return await transfers.carry_out(self._place, call, call.request)
            case JobList() | JobRead() | JobWait() | JobKill():
                return await job_calls.carry_out(self._place, call, call.request)
            case SessionList():
                names = self._place.lasting.shells.names()
                return SessionListResult(id=call.id, status="ok", sessions=names)
            case SessionReset():
                self._place.lasting.shells.reset(call.request.session)
                return SessionResetResult(id=call.id, status="ok")
            case _:
                assert_never(call.request)

    def _append_row(self, call: NodeCall, result: Result, duration_ms: int) -> None:
        done = act(call.request, "summary")
        self._trail.append(
            action=done.action,
            status="ok" if result.status == "started" else result.status,
            node=self._place.config.name,
            request_id=call.id,
            exit_code=_exit_code(result),
            duration_ms=duration_ms,
            error=result.error,
            command=done.command,
            path=done.path,
            bytes_in=call.bytes_in,
            bytes_out=call.bytes_out,
        )


def _exit_code(result: Result) -> int | None:
    """What a row says; a job that has begun has none yet, and -1 stands for none."""
    if not isinstance(result, ExecResult) or result.status == "started" or result.exit_code < 0:
        return None
    return result.exit_code


def _input_channels(request: Request) -> tuple[int, ...]:
    takes_input = isinstance(request, Write) or (isinstance(request, Exec) and request.stdin)
    return (STDIN,) if takes_input else ()
