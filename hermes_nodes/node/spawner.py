"""Run as a script: starts a node's commands, each below a keeper that none of its processes can leave.

On Linux a process whose parent has ended falls to the nearest ancestor that has asked for such. For each
command that is a keeper of its own, so that whatever the command has grown can be found below the keeper,
and told from what other calls have left. Both are forked from this process, because it is small and has
no threads: in the node's own, nothing of Python may run between fork and exec.

An order is one message with descriptors: the order itself (marshal in a memfd), the line to the node, the
three streams, and what else the command is to inherit. With HOLD there is one more, the writing end of the
command's stdin: the keeper holds it open as well until the node says `close`, so that the sudden death of a
node is not taken for the end of the input.

The keeper says on its line `keeps PID KEEPER`, then `runs` or `failed ERRNO`, and then `ended STATUS` as
`waitpid` has it. The node answers `leave`, and what is left goes on, or `kill`, and nothing is left when
the keeper hangs up. A line that drops without either means that the node is gone: then the keeper ends
everything as well, but gently at first.

Standard library only, as it is started without site-packages.
"""

import errno
import fcntl
import gc
import marshal
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypedDict

#: Descriptors of an order: more than it has today.
MAX_FDS = 16
ORDER, HOLD = b"order", b"hold"
#: From Linux's prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: How the death of a node ends its commands: seconds of TERM, and of KILL for what can't be ended at all.
_TERM_SECONDS, _KILL_SECONDS = 2.0, 5.0
_LOOK_EVERY = 0.02

_prctl: Callable[..., int]
try:
    from ctypes import CDLL

    _prctl = CDLL(None).prctl
except (ImportError, AttributeError):  # a Python built without it: orphans are found by their mark alone

    def _prctl(*_: int) -> int:
        return -1


class Order(TypedDict):
    """What is to be run; bytes, as the kernel takes them."""

    #: Where to look for a program that is named without a slash.
    path: list[bytes]
    program: bytes
    argv: list[bytes]
    environment: dict[bytes, bytes]
    cwd: bytes
    #: Under which numbers the command has the descriptors behind the three streams.
    keep: list[int]


def main() -> None:
    """Take orders from stdin, a socket, until the node has closed it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # whatever whoever started the node had blocked
    orders = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # /dev/null, so that no descriptor of a command is ever opened under such a number
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    gc.freeze()  # a collection would write to pages that every keeper shares
    while True:
        kind, fds, _, _ = socket.recv_fds(orders, 16, MAX_FDS)
        if not fds:
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            if os.fork() == 0:
                orders.close()
                keep(*fds, holds=kind == HOLD)
        except OSError as error:
            _say(fds[1], f"failed {error.errno}")
        for fd in fds:
            os.close(fd)


def keep(order_fd: int, line: int, *fds: int, holds: bool) -> NoReturn:
    """Be the keeper of one command, whatever comes: there must never be two that take orders."""
    try:
        streams = len(fds) - holds
        Keeper(line, set(fds[streams:])).keep(order_fd, fds[:streams])
    except OSError as error:
        _say(line, f"failed {error.errno}")
    finally:
        os._exit(0)


class Keeper:
    """The process that one command runs below, from its start until the node lets it go."""

    def __init__(self, line: int, held: set[int]) -> None:
        self._line = line
        self._held = held
        self._pid = os.getpid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._woken, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._leader = 0

    def keep(self, order_fd: int, fds: tuple[int, ...]) -> None:
        """Start it, and stay until nothing of it is left, or what is left may go on. Raises OSError."""
        failures, failure = os.pipe()
        gate, opener = os.pipe()
        self._leader = os.fork()
        if self._leader == 0:
            os.close(opener)
            become(self._pid, gate, order_fd, failure, fds)
        # Only what was kept may run: a start of which the node heard nothing can be tried again.
        if not _say(self._line, f"keeps {self._leader} {self._pid}"):
            return
        for fd in (gate, opener, order_fd, failure, *fds):
            os.close(fd)
        word = self._attend(failures)
        if word in ("failed", "leave"):
            return
        if word != "kill":
            end_all(signal.SIGTERM, _TERM_SECONDS)
        end_all(signal.SIGKILL, _KILL_SECONDS)

    def _attend(self, failures: int) -> str:
        """Tell of the start and of the end; what ends our task."""
        awaited = [self._line, self._woken, failures]
        while True:
            ready, _, _ = select.select(awaited, [], [])
            if failures in ready:
                awaited.remove(failures)
                if not self._tell_start(os.read(failures, 16)):
                    return "failed"
            if self._woken in ready:
                os.read(self._woken, 512)
            if failures not in awaited:
                self._tell_end()
            if self._line in ready and (word := self._heard()) != "close":
                return word

    def _tell_start(self, failed: bytes) -> bool:
        _say(self._line, f"failed {int(failed)}" if failed else "runs")
        return not failed

    def _tell_end(self) -> None:
        """If the command has ended; whatever else has fallen to us and has ended is taken as well."""
        status = _reap().get(self._leader)
        if status is not None:
            _say(self._line, f"ended {status}")

    def _heard(self) -> str:
        """What the node says; nothing if it is gone."""
        word = ""
        with suppress(OSError):
            word = os.read(self._line, 16).decode()
        if word == "close":
            while self._held:
                os.close(self._held.pop())
        return word


def become(keeper: int, gate: int, order_fd: int, failure: int, fds: tuple[int, ...]) -> NoReturn:
    """Become the command, in a session of its own, or tell why that is not possible."""
    number = errno.EIO
    try:
        # A keeper that is killed can't end its command any more, so that this must come by itself.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.read(gate, 1)
        if os.getppid() != keeper:
            os._exit(127)
        with os.fdopen(order_fd, "rb") as file:
            file.seek(0)
            order: Order = marshal.load(file)  # noqa: S302 - the node wrote it
        numbers = (0, 1, 2, *order["keep"])
        above = max(numbers) + 1
        failure = fcntl.fcntl(failure, fcntl.F_DUPFD_CLOEXEC, above)
        for fd, as_number in zip([_moved(fd, above) for fd in fds], numbers, strict=True):
            os.dup2(fd, as_number)
        os.setsid()
        os.chdir(order["cwd"])
        for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and the command would inherit that
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        _execute(order)
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(failure, b"%d" % number)
        os._exit(127)


def _execute(order: Order) -> NoReturn:
    """Raises OSError: what is most to the point of all the places that were looked at."""
    argv, environment = order["argv"], order["environment"]
    if b"/" in order["program"]:
        os.execve(order["program"], argv, environment)  # noqa: S606 - it is what was asked for
    found: OSError = FileNotFoundError(errno.ENOENT, "not found")
    for folder in order["path"]:
        try:
            os.execve(os.path.join(folder, order["program"]), argv, environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            found = error
    raise found


def _moved(fd: int, above: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above)


def end_all(sign: signal.Signals, seconds: float) -> None:
    """Send a signal, once to each, to everything below this process, until there is nothing.

    Whether there is anything the kernel says without a doubt, as what was below a process that has ended
    falls to us; a look at /proc may miss one that is being born.
    """
    told: set[int] = set()
    deadline = time.monotonic() + seconds
    while _has_children() and time.monotonic() < deadline:
        below = _below(os.getpid())
        for pid in below - told:
            with suppress(OSError):
                os.kill(pid, sign)
        told = below
        _reap()
        time.sleep(_LOOK_EVERY)


def _has_children() -> bool:
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def _below(root: int) -> set[int]:
    """Processes that a process has started, at any remove."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found, left = set(), [root]
    while left:
        below = children.get(left.pop(), [])
        found.update(below)
        left += below
    return found


def _reap() -> dict[int, int]:
    """The statuses of children that have ended."""
    ended = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    return ended


def _say(line: int, text: str) -> bool:
    """Whether the node is still there to hear it."""
    with suppress(OSError):
        os.write(line, text.encode())
        return True
    return False


if __name__ == "__main__":
    main()
