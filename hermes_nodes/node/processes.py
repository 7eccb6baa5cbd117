"""Starting a command as ssh would, and ending it with everything that it started."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from hermes_nodes.node.tree import ProcessTree

#: The environment variable that marks a call's processes, so that those which left its process group
#: are found as well. It holds the call's id.
MARK = "HERMES_NODES_CALL"

#: What a command is given of the node's own environment; least of all its token.
_PASSED_ON = ("LANG", "PATH", "TERM", "TZ")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: How a call is ended: each signal, and the seconds until the next.
Escalation = tuple[tuple[signal.Signals, float], ...]
ESCALATION: Escalation = ((signal.SIGINT, 2.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 2.0))
#: The same for a node that is itself being stopped.
QUICK_ESCALATION: Escalation = ((signal.SIGTERM, 1.0), (signal.SIGKILL, 2.0))
#: Seconds between two looks at what is left.
_LOOK_EVERY = 0.05
#: A pipe holds 64 KiB; with more a fast command is switched to and fro less often.
_PIPE_BYTES = 256 * 1024


def command_environment(
    call_id: str, given: Mapping[str, str], inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What ssh would give: the user's own variables, the locale, and the call's."""
    user = pwd.getpwuid(os.geteuid())
    environment = {
        name: value for name, value in inherited.items() if name in _PASSED_ON or name.startswith("LC_")
    }
    environment.setdefault("PATH", _DEFAULT_PATH)
    environment |= {
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh",
    }
    return environment | dict(given) | {MARK: call_id}


def shell_command(command: str) -> list[str]:
    """``command`` for bash, else for sh; neither reads profile files."""
    return [shutil.which("bash") or "/bin/sh", "-c", command]


class Output:
    """The read end of a command's pipe: a stream Source that reads only what it may send."""

    def __init__(self, fd: int, wake: Callable[[], None]) -> None:
        self._fd = fd
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._watched = False
        #: Set when the end has been pulled.
        self.ended = asyncio.Event()
        os.set_blocking(fd, False)

    def pull(self, limit: int) -> bytes | None:
        if self._fd < 0:
            return b""
        try:
            data = os.read(self._fd, limit)
        except BlockingIOError:
            self._watch()
            return None
        if not data:
            self.close()
        return data

    def close(self) -> None:
        """Stop reading; what is still in the pipe is lost."""
        if self._fd >= 0:
            self._unwatch()
            os.close(self._fd)
            self._fd = -1
            self.ended.set()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._fd, self._readable)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        self._unwatch()
        self._wake()


class Command:
    """A running command: its process, its two pipes, and the tree that it may have grown."""

    def __init__(self, call_id: str, process: subprocess.Popen[bytes], stdout: int, stderr: int) -> None:
        self.process = process
        self.stdout = stdout
        self.stderr = stderr
        self.exited = asyncio.Event()
        mark = f"{MARK}={call_id}".encode()
        has_proc = Path("/proc/self/environ").exists()
        self._tree = ProcessTree(mark, process.pid, (stdout, stderr)) if has_proc else None
        _when_exited(process, self.exited.set)

    @classmethod
    def start(cls, call_id: str, argv: list[str], *, cwd: str, environment: Mapping[str, str]) -> "Command":
        """Raises OSError if it can't be run, ValueError if it holds NUL bytes."""
        pipes = (*_pipe(), *_pipe())
        stdout_read, stdout_write, stderr_read, stderr_write = pipes
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout_write,
                stderr=stderr_write,
                start_new_session=True,
            )
        except BaseException:
            os.close(stdout_read)
            os.close(stderr_read)
            raise
        finally:
            os.close(stdout_write)
            os.close(stderr_write)
        return cls(call_id, process, stdout_read, stderr_read)

    @property
    def exit_code(self) -> int:
        """As a shell says it: 128+n where signal n ended it."""
        code = self.process.returncode
        return 128 - code if code < 0 else code

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it, without SIG."""
        code = self.process.returncode
        if code >= 0:
            return None
        with suppress(ValueError):
            return signal.Signals(-code).name.removeprefix("SIG")
        return str(-code)

    async def end(self, escalation: Callable[[], Escalation] = lambda: ESCALATION) -> None:
        """End the whole tree, gently at first; returns when nothing is left of it.

        ``escalation`` is asked again at every look, as a node that is being stopped has less time.
        """
        ladder, started = escalation(), time.monotonic()
        signalled: dict[signal.Signals, set[int]] = {}
        while members := await asyncio.to_thread(self._members):
            if escalation() != ladder:  # a shorter one begins at its own first step
                ladder, started = escalation(), time.monotonic()
            sign = _due(ladder, time.monotonic() - started)
            if sign is None:
                return
            told = signalled.setdefault(sign, set())
            # KILL can't be refused, but a process may fork before it arrives: so again and again.
            self._kill(members if sign is signal.SIGKILL else members - told, sign)
            told |= members
            await self._exited_within(_LOOK_EVERY)

    async def _exited_within(self, seconds: float) -> None:
        if self.exited.is_set():
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.exited.wait()

    def _kill(self, pids: set[int], sign: signal.Signals) -> None:
        leader = self.process.pid
        if leader in pids and not self.exited.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, sign)
            # To some programs a second INT means something else than the first.
            pids = {pid for pid in pids if _group_of(pid) != leader}
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, sign)

    def _members(self) -> set[int]:
        """The processes of this call that live."""
        if self._tree is None:
            return self._group_members()
        return self._tree.members(leader_has_ended=self.exited.is_set())

    def _group_members(self) -> set[int]:
        """Where there is no /proc, all that can be seen is whether the group has members."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return set()
        except PermissionError:
            pass  # macOS says this of a group in which only zombies are left
        return set() if self.exited.is_set() else {self.process.pid}


def _due(escalation: Escalation, elapsed: float) -> signal.Signals | None:
    """The signal whose turn it is after that many seconds; None after the last."""
    for sign, seconds in escalation:
        if elapsed < seconds:
            return sign
        elapsed -= seconds
    return None


def _group_of(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return None


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - the constant exists here alone

        with suppress(OSError):  # over the user's budget of pipe pages: the default serves
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end


def _when_exited(process: subprocess.Popen[bytes], tell: Callable[[], None]) -> None:
    """Call ``tell`` in this event loop once the process has ended and has been reaped."""
    loop = asyncio.get_running_loop()
    if hasattr(os, "pidfd_open"):
        fd = os.pidfd_open(process.pid)

        def ended() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            process.wait()
            tell()

        loop.add_reader(fd, ended)
        return

    def wait() -> None:
        process.wait()
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()
