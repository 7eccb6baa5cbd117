"""The guard in a shell as an older node keeps one, and what runs there."""

import asyncio
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hermes_nodes.protocol.guarded import (
    ECHO_OFF,
    Ended,
    GuardedOutput,
    guarded_script,
    new_marker,
    session_script,
)
from tests.conformance.older_shell import STDERR_BUDGET, Shell, open_shell
from tests.support import PATIENCE

#: The seconds between the guard's time-out and the node's own.
NODE_WAITS = 5.0
TOOLS = {"bash", "sh", "setsid", "env", "sleep", "base64", "tr", "fold", "head", "cat", "awk", "sed", "dd"}
MISSING = [{"setsid"}, {"bash"}]
both_modes = pytest.mark.parametrize("live", [False, True], ids=["whole", "live"])


class Outcome(NamedTuple):
    stdout: bytes
    ended: Ended
    #: Bytes that the node had to pass on, and how long it took.
    printed: int
    seconds: float

    @property
    def triple(self) -> tuple[bytes, bytes, int | None]:
        return self.stdout, self.ended.stderr, self.ended.exit_code


class Guarded:
    """A shell as an older node keeps it, and what it starts."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.folder = folder
        self.leader = 0
        self._shell = shell
        self._mark = f"GUARDED_BY={new_marker()}"
        self._prepare = ECHO_OFF

    async def set_up(self) -> None:
        """Whatever runs here later is known by a variable, also where it has left the session."""
        await self.feed(f"export {self._mark}")
        self.leader = await self.process_id()

    async def process_id(self) -> int:
        """The shell's own."""
        said: list[bytes] = []
        await self.feed('echo "$$"', said.append)
        return int(said[-1])

    async def feed(self, script: str, take: Callable[[bytes], None] = lambda _: None) -> int:
        """Run a script in the shell itself; its exit code."""

        async def take_line(line: bytes) -> None:
            take(line)

        async with asyncio.timeout(PATIENCE):
            code = await self._shell.run(script, cwd=None, seconds=None, take=take_line)
        assert code is not None
        return code

    async def run(
        self,
        command: str,
        *,
        marker: str | None = None,
        on_stdout: Callable[[bytes], None] = lambda _: None,
        **options: Any,
    ) -> Outcome:
        """Run a command in the guard."""
        marker = marker or new_marker()
        output, stdout, sizes = GuardedOutput(marker), bytearray(), []

        def take(line: bytes) -> None:
            sizes.append(len(line))
            if piece := output.feed(line):
                stdout.extend(piece)
                on_stdout(piece)

        script = self._prepare + guarded_script(marker, command, **{"seconds": 60.0, **options})
        self._prepare = ""
        begun = time.monotonic()
        await self.feed(script, take)
        return Outcome(bytes(stdout), output.end(), sum(sizes), time.monotonic() - begun)

    @property
    def stderr_used(self) -> int:
        return STDERR_BUDGET - self._shell.stderr._left

    def left(self) -> dict[int, str]:
        """What still runs, once whoever is being killed is gone: process ids, each with its name."""
        for pid in self._started():
            _wait_for_end_of(pid)
        return self._started()

    def _started(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile, or someone else's
                name, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
                state, _, _, session = rest.split()[:4]
                pid, is_marked = int(folder.name), self._mark.encode() in (folder / "environ").read_bytes()
                if state not in "ZX" and pid != self.leader and (is_marked or int(session) == self.leader):
                    found[pid] = name.partition("(")[2]
        return found

    def end_all(self) -> None:
        for pid in self._started():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _wait_for_end_of(pid: int) -> None:
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        select.select([fd], [], [], 0.3)
        os.close(fd)


@asynccontextmanager
async def guarded(kind: str, folder: Path) -> AsyncIterator[Guarded]:
    async with open_shell(kind, folder) as opened:
        shell = Guarded(opened, folder)
        await shell.set_up()
        try:
            yield shell
        finally:
            shell.end_all()


def plainly(command: str, folder: Path) -> tuple[bytes, bytes, int]:
    """What a command prints, and its exit code, where nobody guards it."""
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        start_new_session=True,
    )
    code = done.returncode
    return done.stdout, done.stderr, code if code >= 0 else 128 - code


async def take_away(shell: Guarded, missing: set[str]) -> None:
    """From now on the shell finds these tools only, less the missing ones."""
    for tool in TOOLS - missing:
        (shell.folder / tool).symlink_to(shutil.which(tool) or tool)
    await shell.feed(f"PATH='{shell.folder}'")


class Spoken(NamedTuple):
    said: bytes
    code: int


async def in_session(shell: Guarded, command: str, *, marker: str = "", **options: Any) -> Spoken:
    said: list[bytes] = []
    script = session_script(marker or new_marker(), command, **{"cwd": None, "env": None, **options})
    code = await shell.feed(script, said.append)
    return Spoken(b"".join(said), code)
