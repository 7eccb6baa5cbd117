"""Ctrl-C during a call: the first asks for the call's end, the second leaves at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hermes_nodes.cli import PROGRAM

#: Seconds that a call may take to end before the user is told that it is being ended. A command that
#: ends when it is asked to does so sooner.
_PATIENCE = 1.0
_ENDING = f"{PROGRAM}: note: ending it on the node; Ctrl-C again leaves at once\n"
_STDERR_FD = 2


class Interrupts:
    """``fd`` becomes readable at the first SIGINT; ``ends_slowly`` if what that ends takes its time."""

    def __init__(self, *, ends_slowly: bool) -> None:
        self._ends_slowly = ends_slowly
        self.fd, self._told = os.pipe()
        #: Whether it was the user, and not ``tell``.
        self.by_user = False

    def handle(self, number: int, _: object) -> None:
        self.by_user = True
        self.tell()
        # The next one is Python's own again, which ends the command wherever it is.
        signal.signal(number, signal.default_int_handler)
        if self._ends_slowly:
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    def say_ending(self, *_: object) -> None:
        # Past Python's own stream: what the signal has interrupted may be in the middle of writing there.
        with suppress(OSError):
            os.write(_STDERR_FD, _ENDING.encode())

    def tell(self) -> None:
        """Make ``fd`` readable: whatever watches it is to end its call."""
        os.write(self._told, b"!")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._told)


@contextmanager
def interrupts(*, ends_slowly: bool = False) -> Iterator[Interrupts]:
    """While a call runs."""
    caught = Interrupts(ends_slowly=ends_slowly)
    alarm = signal.signal(signal.SIGALRM, caught.say_ending)
    before = signal.signal(signal.SIGINT, caught.handle)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        caught.close()
