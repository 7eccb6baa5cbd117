"""A person at a terminal: types, reads what is shown, and changes the window's size."""

import os
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hermes_nodes.node.terminals import on_terminal
from tests.harness import PROGRAM, Home
from tests.support import PATIENCE


class Person:
    """Works with one command of ours, which has a terminal of its own."""

    def __init__(self, master: int, slave: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.shown = b""
        self._master = master
        self._slave = slave

    def type(self, keys: bytes) -> None:
        while keys:
            keys = keys[os.write(self._master, keys) :]

    def sees(self, text: bytes) -> bytes:
        """What is shown up to that text, from behind the one that was seen before."""
        return self.finds(re.escape(text)).string

    def finds(self, pattern: bytes) -> re.Match[bytes]:
        """The same for a pattern; ``string`` of the match ends with it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self._master], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {pattern!r} within {PATIENCE} s, only {self.shown!r}"
            self.shown += os.read(self._master, 65536)
        seen, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        whole = re.search(pattern, seen)
        assert whole
        return whole

    def resize(self, cols: int, rows: int) -> None:
        termios.tcsetwinsize(self._master, (rows, cols))

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def ends(self, within: float = PATIENCE) -> int:
        """The exit code, which must come within so many seconds; what is shown until then is read."""
        deadline = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.shown!r}"
            self._read(0.01)
        self._read(0.01)
        return self.process.returncode

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            self.shown += os.read(self._master, 65536)


@contextmanager
def at_terminal(home: Home, *arguments: str, cols: int = 90, rows: int = 30) -> Iterator[Person]:
    """Starts a command of ours on a terminal of that size."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (rows, cols))
    process = subprocess.Popen(
        on_terminal(PROGRAM[0], [*PROGRAM, *arguments], os.environ.get("LC_CTYPE")),
        env={**home.environ, "TERM": "xterm-test"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    try:
        yield Person(master, slave, process)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        os.close(slave)
        os.close(master)
