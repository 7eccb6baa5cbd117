"""The processes that a command has grown, wherever they have gone since: what `/proc` or `ps` tells."""

import math
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: How often, and how many seconds apart, an empty environment is looked at again.
_EXEC_LOOKS = 5
_EXEC_SECONDS = 0.001
#: The flag of the kernel's own threads (PF_KTHREAD in Linux's sched.h), which are nobody's.
_KERNEL_THREAD = 0x0020_0000


class _Process(NamedTuple):
    parent: int
    group: int
    session: int
    #: Of one machine's start; together with the number it names one process for good.
    started: int | str


class ProcessTree:
    """One call's processes; looking at them blocks.

    On Linux a process is of the call if it is below the call's keeper: all are that the command has grown,
    however they have cut themselves loose. It also is if it carries the call's mark, is of the leader's
    group or session, is no older than the leader and can write to the call's pipes or its ``terminal`` (an
    older one was lent them, as a terminal multiplexer is by its clients), or has been started by one that
    is: so those are found as well which others start on its behalf, or whose keeper was killed. Without
    /proc there is neither keeper nor mark nor pipe to see: there it is enough to leave the session and to
    lose the parent.
    """

    def __init__(
        self,
        mark: bytes,
        leader: int,
        pipes: tuple[int, ...],
        terminal: str | None = None,
        *,
        elder: int | None = None,
    ) -> None:
        """``elder`` is a process that is about as old as the leader, and is there for certain."""
        self._mark = mark
        self._leader = leader
        self._born = _born(elder or leader) or math.inf
        links = {terminal, *(_link(os.fstat(fd)) for fd in pipes)}
        self._ways_out = {link for link in links if link is not None}
        # Found before: one whose parent has died meanwhile is still ours.
        self._known: set[tuple[int, int | str]] = set()
        self._has_asked = False

    def members(self, *, leader_has_ended: bool, keeper: int | None = None) -> set[int]:
        """Those that live now; zombies do not. ``keeper`` is that process if it lives."""
        table = _table()
        # A group keeps its number as long as it has members. A process of that number after ours has
        # ended is therefore a stranger, with a group of its own.
        leader = 0 if leader_has_ended and self._leader in table else self._leader
        found = {pid for pid, process in table.items() if self._is_akin(pid, process, leader)}
        found |= _descendants(found if keeper is None else found | {keeper}, table) - {keeper}
        # To ask every process of a machine takes long: where there is a keeper, only first and last.
        if keeper is None or not self._has_asked or not found:
            self._has_asked = True
            found |= {pid for pid, process in table.items() if self._is_signed(pid, process)}
            found |= _descendants(found, table)
        self._known = {(pid, table[pid].started) for pid in found}
        return found

    def _is_akin(self, pid: int, process: _Process, leader: int) -> bool:
        """Whether the table alone shows that it is of the call."""
        if (pid, process.started) in self._known:
            return True
        return bool(leader) and leader in (process.group, process.session)

    def _is_signed(self, pid: int, process: _Process) -> bool:
        """Whether it shows something of the call itself."""
        return _is_marked(pid, self._mark) or (self._is_young(process) and self._can_write(pid))

    def _is_young(self, process: _Process) -> bool:
        return isinstance(process.started, str) or process.started >= self._born

    def _can_write(self, pid: int) -> bool:
        """Whether a process can write to what we read from."""
        with suppress(OSError):  # gone meanwhile, or another user's
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in self._ways_out and _is_writable(pid, fd):
                    return True
        return False


def _link(status: os.stat_result) -> str | None:
    """What `/proc` calls a pipe; None for what is none, whose numbers belong to others."""
    return f"pipe:[{status.st_ino}]" if stat.S_ISFIFO(status.st_mode) else None


def _is_writable(pid: int, fd: str) -> bool:
    """From the open flags, which fdinfo gives in octal."""
    with suppress(OSError, ValueError, IndexError):
        info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
        flags = int(info.partition("flags:")[2].split()[0], 8)
        return flags & os.O_ACCMODE != os.O_RDONLY
    return False


def _is_marked(pid: int, mark: bytes) -> bool:
    with suppress(OSError):
        return mark in _environ(pid).split(b"\0")
    return False


def _environ(pid: int) -> bytes:
    """A process's environment, which is empty for an instant in the middle of an exec."""
    content = Path(f"/proc/{pid}/environ").read_bytes()
    for _ in range(_EXEC_LOOKS):
        if content:
            break
        time.sleep(_EXEC_SECONDS)
        content = Path(f"/proc/{pid}/environ").read_bytes()
    return content


#: What `ps` everywhere tells of a process, in one line; the last takes five words.
_PS_COLUMNS = "pid=,ppid=,pgid=,stat=,lstart="


def _table() -> dict[int, _Process]:
    """Every process that lives."""
    if not Path("/proc/self/stat").exists():
        return dict(_parsed(_ps("-A", "-o", _PS_COLUMNS)))
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    found = ((pid, _read(pid)) for pid in pids)
    return {pid: process for pid, process in found if process is not None}


def _parsed(told: str) -> Iterator[tuple[int, _Process]]:
    for line in told.splitlines():
        pid, parent, group, state, started = line.split(None, 4)
        with suppress(OSError):  # gone meanwhile
            if not state.startswith("Z"):
                yield int(pid), _Process(int(parent), int(group), os.getsid(int(pid)), started)


def _fields(pid: int) -> list[bytes]:
    """What `/proc` tells of a process, from its state on; nothing of one that is gone."""
    try:
        # pid (comm) state ppid pgrp session tty tpgid flags … starttime is the 22nd; comm may hold
        # anything, also parentheses.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _born(pid: int) -> int:
    """When a process was started, as ``_Process`` has it; also one that has ended and was not reaped."""
    fields = _fields(pid)
    return int(fields[19]) if fields else 0


def _read(pid: int) -> _Process | None:
    fields = _fields(pid)
    if not fields or fields[0] in (b"Z", b"X") or int(fields[6]) & _KERNEL_THREAD:
        return None
    return _Process(int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _descendants(found: set[int], table: dict[int, _Process]) -> set[int]:
    """Whatever has been started by those, at any remove."""
    more = set(found)
    while True:
        children = {pid for pid, process in table.items() if process.parent in more} - more
        if not children:
            return more
        more |= children


#: Seconds for `ps` to answer.
_PS_SECONDS = 5.0


def birth(pid: int) -> str | None:
    """When a process was started: with its number it names one process for good. None if it is gone.

    Blocking: without /proc it asks `ps`, which is exact to a second.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")  # as Linux counts from the machine's start
    if boot.exists():
        process = _read(pid)
        return None if process is None else f"{boot.read_text().strip()} {process.started}"
    return _ps("-o", "lstart=", "-p", str(pid)).strip() or None


def _ps(*options: str) -> str:
    """What `ps` says; nothing if it can't be asked."""
    try:
        asked = subprocess.run(
            ["ps", *options],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            timeout=_PS_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.decode("ascii", "replace")
