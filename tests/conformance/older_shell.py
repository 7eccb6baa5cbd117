"""The shell of an older node: one for a whole connection, fed line by line, its output ended by markers."""

import asyncio
import base64
import os
import secrets
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.conformance.node import Json

#: The most that one call may print in one line, in bytes; a line that is longer is never got past.
LONGEST_LINE = 1024 * 1024
#: Bytes of stderr that are read over a whole connection.
STDERR_BUDGET = 10 * 1024 * 1024
#: Bytes of one stream of a call that are sent.
KEPT = 10 * 1024 * 1024
SHELLS = {"bash": ("bash", "--norc", "--noprofile", "-i"), "sh": ("sh", "-i")}
_EXIT = b"EXIT "

Take = Callable[[bytes], Awaitable[None]]


class OutputLost(Exception):
    """The shell's stdout has ended, or can't be read on."""


class Shell:
    """Runs one command at a time; what one has left behind, the next one meets."""

    def __init__(
        self, stdin: asyncio.WriteTransport, stdout: asyncio.StreamReader, stderr: "Stderr"
    ) -> None:
        self.stderr = stderr
        self._stdin = stdin
        self._stdout = stdout
        #: The ends of commands that timed out, which the shell has still to print.
        self._owed: deque[bytes] = deque()

    async def run(self, command: str, *, cwd: str | None, seconds: float | None, take: Take) -> int | None:
        """Hand each line of output to ``take``; the exit code, or None after so many seconds.

        Never returns where a line was too long or the shell is gone.
        """
        end = f"END {secrets.token_hex(8)}"
        self.stderr.take()
        self._stdin.write(script(command, cwd, end).encode(errors="replace"))
        try:
            async with asyncio.timeout(seconds):
                return await self._output(f"{end}\n".encode(), take)
        except TimeoutError:
            self._owed.append(f"{end}\n".encode())
            return None
        except OutputLost:
            # Nobody is left to see an end of this command, nor does its time-out help.
            await asyncio.get_running_loop().create_future()
            raise

    async def _output(self, end: bytes, take: Take) -> int:
        await self._skip_owed()
        code = 0
        while (line := await self._line()) != end:
            if not line.startswith(_EXIT):
                await take(line)
            elif (number := line.removeprefix(_EXIT).strip()).isdigit():
                code = int(number)
        return code

    async def _skip_owed(self) -> None:
        while self._owed:
            while await self._line() != self._owed[0]:
                pass
            self._owed.popleft()

    async def _line(self) -> bytes:
        try:
            line = await self._stdout.readline()
        except ValueError as error:
            raise OutputLost from error
        if not line.endswith(b"\n"):
            raise OutputLost
        return line


def script(command: str, cwd: str | None, end: str) -> str:
    """What the shell is fed for one command."""
    change = "" if cwd is None else f"cd {shlex.quote(cwd)}\n"
    return f'{change}{command}\necho "EXIT $?"; echo "{end}"\n'


class Stderr:
    """What a shell says on stderr, read as it comes until the budget is used up."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._left = STDERR_BUDGET
        self._kept = bytearray()

    def __enter__(self) -> Self:
        os.set_blocking(self._fd, False)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)

    def take(self) -> bytes:
        """What has come since the last time."""
        self._read()
        kept = bytes(self._kept)
        self._kept.clear()
        return kept

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._fd, min(self._left, 1 << 16)):
                self._left -= len(piece)
                self._kept += piece
            # Either the shell has closed it, or there is nothing left that may be read.
            asyncio.get_running_loop().remove_reader(self._fd)


class Output:
    """The output of one command, sent when it has ended."""

    def __init__(self) -> None:
        self._stdout = bytearray()
        self._size = 0

    async def take(self, line: bytes) -> None:
        self._stdout += self._cut(line)

    def end(self, code: int | None, stderr: bytes) -> Json:
        """The fields of the result; a code of None stands for a time-out."""
        if code is None:
            return {"type": "exec_result", **self._ending(code), "stdout": "", "stderr": ""}
        streams = {"stdout": self._stdout, "stderr": stderr[:KEPT]}
        decoded = {name: bytes(stream).decode(errors="replace") for name, stream in streams.items()}
        return {"type": "exec_result", **self._ending(code), **decoded}

    def _cut(self, line: bytes) -> bytes:
        kept = line[: max(KEPT - self._size, 0)]
        self._size += len(line)
        return kept

    def _ending(self, code: int | None) -> Json:
        if code is None:
            return {"status": "timeout", "exit_code": -1}
        status = "error" if code else "ok"
        return {"status": status, "exit_code": code, "truncated": self._size > KEPT}


class Chunks(Output):
    """The output of one command, sent as it comes; what it says on stderr is lost."""

    def __init__(self, send: Callable[..., Any], call_id: str) -> None:
        super().__init__()
        self._send = send
        self._id = call_id
        self._seq = 0

    async def take(self, line: bytes) -> None:
        if kept := self._cut(line):
            await self._send(id=self._id, more=True, **self._next(kept))

    def end(self, code: int | None, stderr: bytes) -> Json:  # noqa: ARG002 - the wire has no room for it
        return {**self._next(b""), "more": False, **self._ending(code)}

    def _next(self, data: bytes) -> Json:
        self._seq += 1
        return {"type": "exec_chunk", "seq": self._seq, "data": base64.b64encode(data).decode()}


# -- the process ----------------------------------------------------------------------------------


@asynccontextmanager
async def open_shell(kind: str, folder: Path) -> AsyncIterator[Shell]:
    """An interactive shell without a terminal; ends it with all that it has started."""
    with subprocess.Popen(  # noqa: ASYNC220 - asyncio would reap it unasked, and its id be reused
        SHELLS[kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "HISTFILE": ""},  # bash would write the history of whoever runs the tests
        bufsize=0,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        loop = asyncio.get_running_loop()
        lines = asyncio.StreamReader(LONGEST_LINE)
        try:
            stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
            stdout, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), process.stdout
            )
            try:
                with Stderr(process.stderr.fileno()) as stderr:
                    yield Shell(stdin, lines, stderr)
            finally:
                stdout.close()
                if not stdin.is_closing():  # it is, where the shell has gone by itself
                    stdin.abort()
        finally:
            kill_all_of(process.pid)


def kill_all_of(leader: int) -> None:
    """Kill a process, its session and its descendants, those with a session of their own included."""
    family = {leader}
    while living := _living(family):
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _living(family: set[int]) -> set[int]:
    """Whoever is alive and belongs to a family, which grows by them."""
    processes = list(_processes())
    size = 0
    while size < len(family):
        size = len(family)
        family |= {pid for pid, _, parent, session in processes if family & {parent, session}}
    return {pid for pid, state, *_ in processes if pid in family and state not in "ZX"}


def _processes() -> list[tuple[int, str, int, int]]:
    """Process, state, parent and session of everything that runs (proc(5): stat)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            state, parent, _, session = stat.read_text(errors="replace").rpartition(")")[2].split()[:4]
            found.append((int(stat.parent.name), state, int(parent), int(session)))
    return found
