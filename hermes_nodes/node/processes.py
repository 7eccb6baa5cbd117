"""Starting a command as ssh would, and ending it with everything that it started."""

import asyncio
import errno
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from hermes_nodes.node import wires
from hermes_nodes.node.spawning import Process, Spawner, Start
from hermes_nodes.node.tree import ProcessTree
from hermes_nodes.node.user import current_user
from hermes_nodes.node.wires import Wires

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
LOOK_EVERY = 0.05


def command_environment(
    call_id: str, given: Mapping[str, str], inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What ssh would give: the user's own variables, the locale, and the call's."""
    user = current_user()
    environment = {
        name: value for name, value in inherited.items() if name in _PASSED_ON or name.startswith("LC_")
    }
    environment.setdefault("PATH", _DEFAULT_PATH)
    environment |= {
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": user.shell,
    }
    return environment | dict(given) | {MARK: call_id}


def shell() -> str:
    """The path of bash, else of sh."""
    return shutil.which("bash") or "/bin/sh"


def shell_command(command: str) -> list[str]:
    """``command`` for that shell under its own name, which it gives in messages; without profile files."""
    return [os.path.basename(shell()), "-c", command]


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
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # Linux says it so when a terminal is held by nobody any more
        if not data:
            self.close()
        return data

    @property
    def is_waiting(self) -> bool:
        """Whether all that had come has been pulled."""
        return self._watched

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
    """A running command: its process, our ends of its streams, and the tree that it may have grown."""

    def __init__(self, call_id: str, process: Process, wired: Wires) -> None:
        self.process = process
        self.stdin, self.stdout, self.stderr = wired.ours
        self.exited = process.exited
        mark = f"{MARK}={call_id}".encode()
        outputs = (self.stdout, self.stderr)
        self._tree = ProcessTree(mark, process.pid, outputs, wired.terminal, elder=process.keeper)

    @classmethod
    async def start(
        cls,
        spawner: Spawner,
        call_id: str,
        argv: list[str],
        *,
        cwd: str,
        environment: Mapping[str, str],
        wired: Wires | None = None,
        keep_open: tuple[int, ...] = (),
        program: str | None = None,
    ) -> "Command":
        """Without ``wired`` it gets a pipe for each output; ``keep_open`` are descriptors that it inherits.

        ``program`` is what is run if not ``argv[0]``, which is then only its name. Raises OSError if it
        can't be run, ValueError if it holds NUL bytes. What is started is left by ``leave``.
        """
        wired = wired or wires.pipes()
        try:
            process = await spawner.start(
                Start(
                    program or argv[0],
                    argv,
                    cwd,
                    environment,
                    wired.theirs,
                    keep_open,
                    hold=None if wired.terminal or wired.ours[0] == wires.NO_INPUT else wired.ours[0],
                )
            )
        except BaseException:
            wires.close(wired.ours)
            raise
        finally:
            wires.close(wired.theirs)
        return cls(call_id, process, wired)

    @property
    def exit_code(self) -> int:
        """As a shell says it: 128+n where signal n ended it."""
        code = self._returncode
        return 128 - code if code < 0 else code

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it, without SIG."""
        code = self._returncode
        if code >= 0:
            return None
        with suppress(ValueError):
            return signal.Signals(-code).name.removeprefix("SIG")
        return str(-code)

    @property
    def _returncode(self) -> int:
        assert self.process.returncode is not None, "it has not ended"  # noqa: S101
        return self.process.returncode

    def end_input(self) -> None:
        """Its stdin is about to be closed, and that is meant."""
        self.process.end_input()

    def leave(self) -> None:
        """Let what is left of the tree go on, as what a command leaves in the background does."""
        self.process.leave()

    async def end(self, escalation: Callable[[], Escalation] = lambda: ESCALATION) -> str | None:
        """End the whole tree, gently at first; None, or a sentence without a subject on what goes on.

        ``escalation`` is asked again at every look, as a node that is being stopped has less time.
        """
        await end_all(self._members, self._kill, lambda: self._exited_within(LOOK_EVERY), escalation)
        if self.exited.is_set():
            await self.process.kill()
        left = await asyncio.to_thread(self._members)
        if not left:
            return None
        goes_on = self.process.pid if self.process.pid in left else min(left)
        return f"can't be ended by the node's user: process {goes_on} goes on"

    async def _exited_within(self, seconds: float) -> None:
        self.process.wake()
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
        ended = self.exited.is_set()
        # The first one also where nobody can be asked about the others.
        found = self._tree.members(leader_has_ended=ended, keeper=self.process.keeper)
        return found | (set() if ended else {self.process.pid})


async def end_all(
    members: Callable[[], set[int]],
    kill: Callable[[set[int], signal.Signals], None],
    rest: Callable[[], Awaitable[object]],
    escalation: Callable[[], Escalation],
) -> None:
    """Send signals to what ``members`` finds, in a thread, until nothing is left or the last one was sent.

    ``kill`` sends one, ``rest`` waits between two looks, ``escalation`` is asked again at every look.
    """
    ladder, started = escalation(), time.monotonic()
    signalled: dict[signal.Signals, set[int]] = {}
    while found := await asyncio.to_thread(members):
        if escalation() != ladder:  # a shorter one begins at its own first step
            ladder, started = escalation(), time.monotonic()
        sign = _due(ladder, time.monotonic() - started)
        if sign is None:
            return
        told = signalled.setdefault(sign, set())
        # KILL can't be refused, but a process may fork before it arrives: so again and again.
        kill(found if sign is signal.SIGKILL else found - told, sign)
        told |= found
        await rest()


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
