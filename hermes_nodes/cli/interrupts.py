"""Signals that are to end a call: the first asks for its end, the second leaves at once."""

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

#: By which others end a command: when its call is over, they end it as if nobody had heard them.
_FATAL = (signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """``fd`` becomes readable at the first signal; ``ends_slowly`` if what that ends takes its time."""

    def __init__(self, *, ends_slowly: bool) -> None:
        self._ends_slowly = ends_slowly
        self.fd, self._told = os.pipe()
        #: Whether it was the user, and not ``tell``.
        self.by_user = False
        #: Which of those that are fatal has come.
        self.fatal: int | None = None

    def handle(self, number: int, _: object) -> None:
        self.by_user = True
        if number in _FATAL:
            self.fatal = number
        self.tell()
        # The next one ends the command wherever it is: with INT by Python's own exception.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
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
    """While a call runs; one that a fatal signal has ended, ends the process by that signal."""
    caught = Interrupts(ends_slowly=ends_slowly)
    # What `nohup` has told to be ignored stays so.
    heard = [number for number in _FATAL if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, caught.handle) for number in (signal.SIGINT, *heard)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, caught.say_ending)
    try:
        yield caught
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        caught.close()
        if caught.fatal is not None:
            signal.raise_signal(caught.fatal)
