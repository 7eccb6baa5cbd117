"""`exec` on this node: a command in a fresh shell, followed until it and its output have ended."""

import asyncio
import os
import time
from typing import assert_never

from hermes_nodes.errors import CallFailed
from hermes_nodes.node.calls import Ended, NodeCall, Place, failure, first_end
from hermes_nodes.node.processes import (
    Command,
    Escalation,
    Output,
    command_environment,
    shell_command,
)
from hermes_nodes.protocol.messages import CallStatus, Exec, ExecResult, Result
from hermes_nodes.protocol.stream import STDERR, STDOUT

#: Seconds in which a command that was ended may still get its last output through.
FLUSH_SECONDS = 1.0


class ExecCall:
    """One `exec`; ``escalation`` may be shortened while it runs."""

    def __init__(self, place: Place, call: NodeCall, request: Exec, escalation: Escalation) -> None:
        self._place = place
        self._call = call
        self._request = request
        self.escalation = escalation

    async def run(self) -> Result:
        request = self._request
        if not self._place.config.exec:
            detail = "this node runs no commands (`exec = false` in its config.toml)"
            return failure(request, "permission_denied", detail)
        environment = command_environment(request.id, request.env or {})
        cwd = _directory(environment["HOME"], request.cwd)
        if cwd is None:
            wanted = os.path.join(environment["HOME"], request.cwd or "")
            return failure(request, "file_not_found", f"there is no directory {wanted} to run in")
        argv = request.argv or shell_command(request.command or "")
        try:
            command = Command.start(request.id, argv, cwd=cwd, environment=environment)
        except OSError as error:
            return await self._not_run(argv[0], error)
        except ValueError as error:  # a NUL character, or a variable's name that is none
            return failure(request, "bad_request", f"the command can't be started: {error}")
        return await self._follow(command)

    async def _follow(self, command: Command) -> ExecResult:
        """Until the command and its output have ended, or until something ends them."""
        started = time.monotonic()
        outputs = self._open_outputs(command)
        finish = asyncio.create_task(_finished(command, outputs))
        timeout_ms = self._request.timeout_ms
        try:
            seconds = None if timeout_ms is None else timeout_ms / 1000
            ended = await first_end(finish, self._call.cancelled, seconds)
            if ended is not None:
                await command.end(lambda: self.escalation)
                await asyncio.wait([finish], timeout=0.0 if self._call.abandoned else FLUSH_SECONDS)
            whole = finish.done()
            if not command.exited.is_set():
                pid = command.process.pid
                raise CallFailed(f"the command can't be ended by the node's user: process {pid} goes on")
        finally:
            finish.cancel()
            for output in outputs:
                output.close()
        return ExecResult(
            id=self._request.id,
            status=_status(ended, command.exit_code),
            exit_code=command.exit_code,
            signal=command.signal_name,
            truncated=not whole,
            duration_ms=int((time.monotonic() - started) * 1000),
        )

    def _open_outputs(self, command: Command) -> list[Output]:
        stream, call = self._place.stream, self._call
        outputs = [
            Output(command.stdout, lambda: stream.wake(call.id, STDOUT)),
            Output(command.stderr, lambda: stream.wake(call.id, STDERR)),
        ]
        for channel, output in zip((STDOUT, STDERR), outputs, strict=True):
            stream.send_from(call.id, channel, call.counted(output))
        return outputs

    async def _not_run(self, program: str, error: OSError) -> ExecResult:
        """What a shell does with a program that it can't run: a line on stderr, and 127 or 126."""
        line = _Line(f"{program}: {error.strerror}\n".encode())
        self._place.stream.send_from(self._call.id, STDERR, self._call.counted(line))
        await first_end(asyncio.create_task(line.ended.wait()), self._call.cancelled, None)
        code = 127 if isinstance(error, FileNotFoundError) else 126
        return ExecResult(id=self._request.id, status="error", exit_code=code)


def _directory(home: str, cwd: str | None) -> str | None:
    """Where a command runs: at home, or in ``cwd``, relative to that; None if it is not there."""
    path = os.path.join(home, os.path.expanduser(cwd or ""))
    return path if os.path.isdir(path) else None


class _Line:
    """A few bytes that are all there is: a stream Source."""

    def __init__(self, content: bytes) -> None:
        self._rest = content
        self.ended = asyncio.Event()

    def pull(self, limit: int) -> bytes:
        piece, self._rest = self._rest[:limit], self._rest[limit:]
        if not piece:
            self.ended.set()
        return piece


async def _finished(command: Command, outputs: list[Output]) -> None:
    await command.exited.wait()
    for output in outputs:
        await output.ended.wait()


def _status(ended: Ended | None, exit_code: int) -> CallStatus:
    match ended:
        case None:
            return "ok" if exit_code == 0 else "error"
        case "cancelled" | "timeout":
            return ended
        case _:
            assert_never(ended)
