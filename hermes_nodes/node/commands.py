"""`exec` on this node: a command in a fresh shell, followed until it and its output have ended."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from typing import NamedTuple, assert_never

from hermes_nodes.errors import CallFailed, FileMissing, FilePermission
from hermes_nodes.node.calls import NodeCall, Place, answer, failure
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.ends import Ended, first_end, given_up
from hermes_nodes.node.inputs import Input
from hermes_nodes.node.processes import (
    MARK,
    Command,
    Escalation,
    Output,
    command_environment,
    shell,
    shell_command,
)
from hermes_nodes.node.shells import ShellSession, State, StateReader
from hermes_nodes.node.spawning import is_scarcity
from hermes_nodes.node.terminals import Terminal, on_terminal
from hermes_nodes.node.user import current_user, expand_home
from hermes_nodes.node.wires import NO_INPUT, pipes
from hermes_nodes.protocol.messages import CallStatus, Exec, ExecResult, Result
from hermes_nodes.protocol.stream import STDERR, STDIN, STDOUT

#: Seconds in which a command that was ended may still get its last output through.
FLUSH_SECONDS = 1.0
#: Seconds of silence after which a terminal has nothing more to say whose first process has ended: the
#: kernel passes on what is written to it a moment later.
LAST_WORDS_SECONDS = 0.1


class ExecCall:
    """One `exec`; ``escalation`` may be shortened while it runs."""

    def __init__(self, place: Place, call: NodeCall, request: Exec, escalation: Escalation) -> None:
        self._place = place
        self._call = call
        self._request = request
        self._terminal: Terminal | None = None
        self._seconds = None if request.timeout_ms is None else request.timeout_ms / 1000
        self.escalation = escalation

    async def run(self) -> Result:
        name = self._request.session
        if name is None:
            return await self._run(None)
        with self._place.lasting.shells.entered(name) as session:
            return await self._run(session)

    def resize(self, cols: int, rows: int) -> None:
        """The caller's terminal has a new size."""
        if self._terminal is not None:
            self._terminal.resize(cols, rows)

    async def _run(self, session: ShellSession | None) -> Result:
        request = self._request
        plan = prepared(self._place.config, request, session.state if session else None)
        with ExitStack() as held:
            # What is run without a shell can't change a session.
            tells = session is not None and request.command is not None
            reader = held.enter_context(closing(StateReader())) if tells else None
            starting = asyncio.create_task(self._start(plan, reader, held))
            ended = await given_up(starting, self._call.cancelled, self._seconds)
            if ended is not None:
                return answer(request, ended)
            try:
                command = starting.result()
            except OSError as error:
                if is_scarcity(error):
                    return failure(request, "busy", f"it can't start a process: {error.strerror}")
                return await self._not_run(plan.program, error)
            except ValueError as error:  # a NUL character, or a variable's name that is none
                return failure(request, "bad_request", f"the command can't be started: {error}")
            held.callback(command.leave)
            result = await self._follow(command)
            if session is not None and reader is not None and _came_to_its_end(result):
                session.state = reader.state() or session.state
            return result

    async def _start(self, plan: "Prepared", reader: StateReader | None, held: ExitStack) -> Command:
        request = self._request
        program, argv, cwd, environment = plan
        keep_open: tuple[int, ...] = ()
        if reader is not None:
            argv, keep_open = reader.argv(request.command or ""), (reader.writing,)
        wired = None
        if request.pty is not None:
            self._terminal = held.enter_context(closing(Terminal(request.pty)))
            if request.command is None and not request.argv:
                # How every shell knows that it is a login shell: not all have the same option for it.
                argv = [f"-{os.path.basename(program)}"]
            argv = on_terminal(program, argv, environment.get("LC_CTYPE"))
            program = argv[0]
            wired = self._terminal.wires
        command = await Command.start(
            self._place.lasting.spawner,
            request.id,
            argv,
            cwd=cwd,
            environment=environment,
            wired=wired or pipes(stdin=request.stdin),
            keep_open=keep_open,
            program=program,
        )
        if reader is not None:
            reader.started()
        return command

    async def _follow(self, command: Command) -> ExecResult:
        """Until the command and its output have ended, or until something ends them."""
        started = time.monotonic()
        outputs = self._open_outputs(command)
        finish = asyncio.create_task(_finished(command, outputs, is_session=self._terminal is not None))
        async with self._fed(command):
            try:
                ended = await first_end(finish, self._call.cancelled, self._seconds)
                if ended is not None:
                    await self._end(command)
                    await asyncio.wait([finish], timeout=0.0 if self._call.abandoned else FLUSH_SECONDS)
                whole = finish.done()
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

    async def _end(self, command: Command) -> None:
        """Raises CallFailed if something is left that can't be ended."""
        if self._terminal is not None and not command.exited.is_set():
            self._terminal.hang_up(command.process.pid)
        problem = await command.end(lambda: self.escalation)
        if problem is not None:
            raise CallFailed(f"the command {problem}")

    @asynccontextmanager
    async def _fed(self, command: Command) -> AsyncIterator[None]:
        """The caller's input goes to the command. It is closed only when the command is over.

        A call that is being ended must not look like one whose input has come to its end.
        """
        if command.stdin == NO_INPUT:
            yield
            return
        stream, call, terminal = self._place.stream, self._call, self._terminal
        last_words = terminal.end_of_input if terminal is not None else None
        stdin = Input(
            command.stdin,
            lambda size: stream.took(call.id, STDIN, size),
            command.end_input,
            last_words,
        )
        feeding = asyncio.create_task(stdin.feed_from(call))
        try:
            yield
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding
            stdin.close()

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
        await first_end(asyncio.create_task(line.ended.wait()), self._call.cancelled)
        code = 127 if isinstance(error, FileNotFoundError) else 126
        return ExecResult(id=self._request.id, status="error", exit_code=code)


class Prepared(NamedTuple):
    """What a command is started with; ``argv`` begins with what ``program`` is called."""

    program: str
    argv: list[str]
    cwd: str
    environment: dict[str, str]


def prepared(config: NodeConfig, request: Exec, kept: State | None = None) -> Prepared:
    """``kept`` is what its session has kept. Raises FilePermission from a node that runs nothing,
    FileMissing if there is no such directory."""
    if not config.exec:
        raise FilePermission("this node runs no commands (`exec = false` in its config.toml)")
    environment = _environment(request, kept)
    base = kept.cwd if kept else current_user().home
    cwd = os.path.join(base, expand_home(request.cwd)) if request.cwd else base
    if not os.path.isdir(cwd):
        raise FileMissing(f"there is no directory {cwd!r} to run in")
    if not os.access(cwd, os.X_OK):
        raise FilePermission(f"the node's user may not enter the directory {cwd!r}")
    if request.cwd:
        environment.pop("PWD", None)  # it was the session's
    if request.argv:
        return Prepared(request.argv[0], request.argv, cwd, environment)
    if request.command is not None:
        return Prepared(shell(), shell_command(request.command), cwd, environment)
    users = environment.get("SHELL", "/bin/sh")
    return Prepared(users, [users], cwd, environment)


def _environment(request: Exec, kept: State | None) -> dict[str, str]:
    """Its session's, or a fresh one; its terminal's TERM; what the call itself gives."""
    given = ({"TERM": request.pty.term} if request.pty else {}) | (request.env or {})
    if kept is None:
        return command_environment(request.id, given)
    return kept.environment | given | {MARK: request.id}


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


async def _finished(command: Command, outputs: list[Output], *, is_session: bool) -> None:
    """Wait for the end of a command and of its output.

    On a terminal the first process is the session: what it left in the background may hold the terminal
    on, but is waited for no more than by ssh.
    """
    await command.exited.wait()
    for output in outputs:
        while is_session and not output.ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await output.ended.wait()
            if output.is_waiting:
                output.close()
        await output.ended.wait()


def _came_to_its_end(result: ExecResult) -> bool:
    """Whether a shell ended by itself, and so told its state."""
    return result.status in ("ok", "error") and result.signal is None


def _status(ended: Ended | None, exit_code: int) -> CallStatus:
    match ended:
        case None:
            return "ok" if exit_code == 0 else "error"
        case "cancelled" | "timeout":
            return ended
        case _:
            assert_never(ended)
