"""Processes that a job left behind when its node died: found by what was written down of it, and ended."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hermes_nodes.node.processes import ESCALATION, LOOK_EVERY, MARK, Escalation, end_all
from hermes_nodes.node.tree import ProcessTree, birth


class Leftovers:
    """The processes of one job that began under an earlier process of this node; methods block.

    On Linux they are found by the job's mark in their environment, and by the first one's number and birth;
    elsewhere only by the latter, with its process group.
    """

    def __init__(self, job_id: str, pid: int | None, born: str | None) -> None:
        self._pid = pid or 0
        self._born = born
        # A number alone may belong to a stranger by now, and so may its group.
        leader = self._pid if self._leader_lives() else 0
        mark = f"{MARK}={job_id}".encode()
        self._tree = ProcessTree(mark, leader, ()) if Path("/proc/self/environ").exists() else None

    def members(self) -> set[int]:
        """Those that live; never this process, which a job may have started."""
        lives = self._leader_lives()
        if self._tree is None:
            return {self._pid} if lives else set()
        # Twice: nobody comes back to look, and an exec may hide the mark from one look.
        found = (self._tree.members(leader_has_ended=not lives) for _ in range(2))
        return set().union(*found) - {os.getpid()}

    def _leader_lives(self) -> bool:
        return self._pid > 0 and self._born is not None and birth(self._pid) == self._born

    def kill(self, pids: set[int], sign: signal.Signals) -> None:
        send = os.kill if self._tree is not None else os.killpg
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                send(pid, sign)


async def end_leftovers(
    job_id: str,
    pid: int | None,
    born: str | None,
    escalation: Callable[[], Escalation] = lambda: ESCALATION,
) -> set[int]:
    """End what a job has left, gently at first; the processes that can't be ended."""
    left = await asyncio.to_thread(Leftovers, job_id, pid, born)
    await end_all(left.members, left.kill, lambda: asyncio.sleep(LOOK_EVERY), escalation)
    return await asyncio.to_thread(left.members)
