"""Sessions of a shell: the directory and the exported environment that one command leaves to the next."""

import asyncio
import fcntl
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from hermes_nodes.errors import CallFailed, FileMissing
from hermes_nodes.node.processes import MARK, shell_command
from hermes_nodes.node.wires import pipe

log = logging.getLogger(__name__)

#: Sessions of one node, and the characters of a session's name.
MAX_SESSIONS = 64
MAX_NAME = 64
#: Bytes of a directory and an environment; a program can't be given much more anyhow.
MAX_STATE = 1024 * 1024
#: What a shell keeps for itself, and what belongs to one call.
_OWN = {MARK, "_", "SHLVL"}
_OWN_PREFIX = "_hermes_"
#: From here on descriptors are in nobody's way: scripts open low numbers, bash itself 10 and 255.
_HIGH_FD = 200

#: For an `env` that has no -0. In the locale C Python makes an LC_CTYPE of its own.
_ENV_BY_PYTHON = (
    "import os, sys; sys.argv[1] or os.environ.pop('LC_CTYPE', None); "
    "sys.stdout.buffer.write(b''.join(b'%s=%s\\0' % item for item in os.environb.items()))"
)
#: Runs the first argument as `-c` would, and tells the state at its end also if it leaves by `exit`. A
#: command with a trap of its own on EXIT tells it before that trap runs. All of it is one line, so that the
#: command's own lines are counted as without.
_SCRIPT = (
    "_hermes_command=$1; shift; "
    "_hermes_keep() {{ "
    "{{ set +xv; {untrap}; }} >/dev/null 2>&1; "
    "{{ command pwd; command printf '\\0'; "
    "/usr/bin/env -0 2>/dev/null || {python} \"${{LC_CTYPE-}}\" && command printf '\\0'; "
    "}} 2>/dev/null >/dev/fd/{fd}; }}; "
    "trap '_hermes_keep || :' EXIT; "
    'eval "$_hermes_command"; '
    "{{ _hermes_code=$?; _hermes_keep || :; _hermes_keep() {{ :; }}; }} 2>/dev/null; "
    'exit "$_hermes_code"'
)


class State(NamedTuple):
    """What a session keeps: a directory, and the whole environment of its commands."""

    cwd: str
    environment: dict[str, str]


class ShellSession:
    """One session; ``state`` is None until a command has come to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: State | None = None
        self.calls = 0


class ShellSessions:
    """The sessions of a node; they live as long as its process."""

    def __init__(self) -> None:
        self._sessions: dict[str, ShellSession] = {}

    @contextmanager
    def entered(self, name: str) -> Iterator[ShellSession]:
        """A session for one call; a new one whose call leaves nothing is dropped. Raises CallFailed."""
        session = self._sessions.get(name) or self._new(name)
        session.calls += 1
        try:
            yield session
        finally:
            session.calls -= 1
            is_empty = session.state is None and not session.calls
            if is_empty and self._sessions.get(name) is session:
                del self._sessions[name]

    def _new(self, name: str) -> ShellSession:
        if not 0 < len(name) <= MAX_NAME:
            raise CallFailed(f"the name of a session has 1 to {MAX_NAME} characters, not {len(name)}")
        if len(self._sessions) >= MAX_SESSIONS:
            raise CallFailed(f"it keeps {MAX_SESSIONS} sessions and no more: `session reset` ends one")
        session = self._sessions[name] = ShellSession(name)
        return session

    def names(self) -> list[str]:
        return sorted(self._sessions)

    def reset(self, name: str) -> None:
        """Forget a session, also for those of its calls that still run. Raises FileMissing."""
        if self._sessions.pop(name, None) is None:
            raise FileMissing(f"there is no session {name!r}")


class StateReader:
    """Takes the state that a command's shell tells at its end, through a pipe that both have open.

    A pipe, as it is in no directory where somebody could wait for it. What the command left in the
    background may hold it for ever, so that the end of the state is told by the state itself.
    """

    def __init__(self) -> None:
        self._reading, writing = pipe()
        os.set_blocking(self._reading, False)
        self.writing = _high(writing)
        self._told = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reading, self._read)

    def argv(self, command: str) -> list[str]:
        """``command`` for the node's shell, which is to inherit ``writing``."""
        name, flag, _ = shell_command(command)
        python = shlex.join([sys.executable, "-I", "-S", "-c", _ENV_BY_PYTHON])
        untrap = "trap - DEBUG ERR" if name.endswith("bash") else ":"
        script = _SCRIPT.format(fd=self.writing, python=python, untrap=untrap)
        return [name, flag, script, name, command]

    def started(self) -> None:
        """The command has its own end now."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    def state(self) -> State | None:
        """What was told whole and is not too much; call it when the shell has ended."""
        self._read()
        if len(self._told) > MAX_STATE:
            log.warning("a session's environment has more than %d bytes and is not kept", MAX_STATE)
            return None
        state = parse(bytes(self._told))
        if state is None:
            log.warning(
                "a session stays as it was: its shell was replaced by `exec`, or has a variable that is too"
                " long for any program"
            )
        return state

    def close(self) -> None:
        self.started()
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._reading, MAX_STATE):
                if len(self._told) <= MAX_STATE:  # the rest is drained, so that its writer can end
                    self._told += piece
            self._loop.remove_reader(self._reading)


def parse(told: bytes) -> State | None:
    """The state in ``directory \\n NUL (NAME=VALUE NUL)* NUL``; None if that is not whole."""
    cwd, separator, rest = told.partition(b"\n\0")
    if not separator or not cwd.startswith(b"/") or not rest.endswith(b"\0\0"):
        return None
    environment = {}
    for entry in rest[:-2].split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if not equals:
            return None
        environment[os.fsdecode(name)] = os.fsdecode(value)
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _OWN and not name.startswith(_OWN_PREFIX)
    }
    return State(os.fsdecode(cwd), kept)


def _high(fd: int) -> int:
    """The same under a high number, where there is one."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    except OSError:
        return fd
    os.close(fd)
    return high
