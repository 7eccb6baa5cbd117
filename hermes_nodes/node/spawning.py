"""Starting processes from a node, and hearing of their end."""

import asyncio
import errno
import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from hermes_nodes.node import spawner
from hermes_nodes.node.spawner import HOLD, ORDER

_SPAWNER = spawner.__file__
#: Whether there are subreapers, and whatever else keepers are made of.
_KEEPS = sys.platform == "linux"
#: Bytes of a message from a keeper, which is a word and two numbers.
_MESSAGE_BYTES = 64
#: How often a start is tried whose spawner is killed before it has begun.
_TRIES = 3
#: What there may be again a moment later.
_SCARCE = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
#: Seconds for a keeper to kill what is left: more are for what can't be killed.
_KILL_SECONDS = 1.0


class Start(NamedTuple):
    """What is to be run. ``program`` is looked for in the environment's PATH unless it has a slash."""

    program: str
    argv: list[str]
    cwd: str
    environment: Mapping[str, str]
    #: Descriptors of stdin, stdout and stderr.
    streams: tuple[int, int, int]
    #: Descriptors that it inherits besides, under their own numbers.
    keep_open: tuple[int, ...] = ()
    #: The writing end of its stdin, if that ends only once ``end_input`` was called.
    hold: int | None = None


class Process:
    """A process that was started, until ``leave``; ``exited`` is set once ``returncode`` is known."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: As `subprocess` says it: -n where signal n ended it.
        self.returncode: int | None = None
        self.exited = asyncio.Event()
        #: The process below which all stay that this one has grown; None if there is none.
        self.keeper: int | None = None

    def end_input(self) -> None:
        """The end of its stdin is near: whoever has the writing end closes it now."""

    def leave(self) -> None:
        """Let what is left of it go on, and forget it."""
        self.keeper = None

    def wake(self) -> None:
        """See to it that its end is heard of: somebody may have stopped who tells it."""

    async def kill(self) -> None:
        """Leave nothing of it that can be ended: what was born at an instant when nobody looked."""

    def _ended(self, returncode: int) -> None:
        self.returncode = returncode
        self.exited.set()


class Spawner:
    """Starts processes for a node: on Linux by a process of its own, elsewhere directly.

    That process is started by ``open``, when it is first needed, and again if somebody has killed it.
    """

    def __init__(self) -> None:
        self._orders: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Save the first command the wait; raises OSError."""
        if _KEEPS and self._orders is None:
            self._opened()

    async def start(self, what: Start) -> Process:
        """Raises OSError if it can't be run, ValueError if it holds NUL bytes.

        It may take as long as the program's file system does. Whoever gives up cancels it.
        """
        _check(what)
        if not _KEEPS:
            return _Child(what)
        for _ in range(_TRIES):
            process = await self._try(self._order(what))
            if process is not None:
                return process
        raise OSError(errno.EAGAIN, "somebody keeps killing the node's process that starts commands")

    async def _try(self, line: socket.socket) -> Process | None:
        """What has been started; None if nothing has been, as the spawner was killed before."""
        first: list[str] = []
        try:
            first = await _said(line)
            match first, await _said(line):
                case (["failed", number], _) | (_, ["failed", number]):
                    raise OSError(int(number), os.strerror(int(number)))
                case ["keeps", pid, keeper], _:
                    return _Kept(line, int(pid), int(keeper))
        except BaseException:
            line.close()
            self._wake(first)
            raise
        line.close()
        return None

    def _wake(self, first: list[str]) -> None:
        """Who was to start something, and said that first: somebody may have stopped it in the middle."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        match first:
            case ["keeps", _, keeper]:
                _continue(int(keeper))

    def close(self) -> None:
        """Start nothing more; what runs is kept on."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()  # it holds nothing, and one that was stopped would be waited for for ever
            self._process.wait()
            self._process = None

    def _order(self, what: Start) -> socket.socket:
        """Have it started; our end of the line to its keeper."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs, open(os.memfd_create("order"), "w+b", buffering=0) as order:
                order.write(_marshalled(what))
                held = () if what.hold is None else (what.hold,)
                fds = [order.fileno(), theirs.fileno(), *what.streams, *what.keep_open, *held]
                self._send(HOLD if held else ORDER, fds)
        except BaseException:
            ours.close()
            raise
        return ours

    def _send(self, kind: bytes, fds: list[int]) -> None:
        if self._orders is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._orders, [kind], fds)
                return
            self.close()
        socket.send_fds(self._opened(), [kind], fds)

    def _opened(self) -> socket.socket:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _SPAWNER],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Whoever may read it finds nothing of the node's there, and commands are given their own.
                env={},
                cwd="/",
                start_new_session=True,
            )
        return self._orders


class _Kept(Process):
    """Started by the spawner; ``line`` leads to its keeper, which tells its end."""

    def __init__(self, line: socket.socket, pid: int, keeper: int) -> None:
        super().__init__(pid)
        self.keeper = keeper
        self._line = line
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(line, self._hear)

    def end_input(self) -> None:
        self._say(b"close")

    def leave(self) -> None:
        if self.keeper is not None:
            self._say(b"leave")
            self._hang_up()

    def _say(self, word: bytes) -> None:
        if self.keeper is not None:
            with suppress(OSError):  # it was killed
                self._line.send(word)

    def wake(self) -> None:
        if self.keeper is not None:
            _continue(self.keeper)

    async def kill(self) -> None:
        if self.keeper is not None:
            self._say(b"kill")
            with suppress(TimeoutError):
                async with asyncio.timeout(_KILL_SECONDS):
                    await self._gone.wait()

    def _hear(self) -> None:
        said = b""
        with suppress(ConnectionResetError):
            said = self._line.recv(_MESSAGE_BYTES)
        if said:
            self._ended(os.waitstatus_to_exitcode(int(said.split()[1])))
            return
        # It has killed all, or it was itself killed, and with it the kernel has killed the command.
        self._hang_up()
        if self.returncode is None:
            self._ended(-signal.SIGKILL)

    def _hang_up(self) -> None:
        self.keeper = None
        self._gone.set()
        self._loop.remove_reader(self._line)
        self._line.close()


class _Child(Process):
    """Started by the node itself, where there are no keepers."""

    def __init__(self, what: Start) -> None:
        stdin, stdout, stderr = what.streams
        process = subprocess.Popen(
            what.argv,
            executable=what.program,
            cwd=what.cwd,
            env=dict(what.environment),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=what.keep_open,
        )
        super().__init__(process.pid)
        loop = asyncio.get_running_loop()

        def wait() -> None:
            code = process.wait()
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._ended, code)

        threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()


async def _said(line: socket.socket) -> list[str]:
    """The words of a keeper's next message; `gone` if it was killed."""
    with suppress(ConnectionResetError):
        said = await asyncio.get_running_loop().sock_recv(line, _MESSAGE_BYTES)
        return said.decode().split() or ["gone"]
    return ["gone"]


def is_scarcity(error: OSError) -> bool:
    """Whether nothing was started for want of something that there may be again."""
    return error.errno in _SCARCE


def _continue(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGCONT)


def _check(what: Start) -> None:
    """What the kernel could not be told."""
    if not what.program:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    texts = (what.program, what.cwd, *what.argv, *what.environment, *what.environment.values())
    if any("\0" in text for text in texts):
        raise ValueError("embedded null byte")
    if any("=" in name for name in what.environment):
        raise ValueError("illegal environment variable name")


def _marshalled(what: Start) -> bytes:
    environment = {os.fsencode(name): os.fsencode(value) for name, value in what.environment.items()}
    return marshal.dumps(
        {
            "path": [os.fsencode(folder) for folder in os.get_exec_path(what.environment)],
            "program": os.fsencode(what.program),
            "argv": [os.fsencode(argument) for argument in what.argv],
            "environment": environment,
            "cwd": os.fsencode(what.cwd),
            "keep": list(what.keep_open),
        }
    )
