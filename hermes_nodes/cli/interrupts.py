"""Signals that are to end a call: the first asks for its end, the second leaves at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: By which others end a command: when its call is over, they end it as if nobody had heard them.
_FATAL = (signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """``fd`` becomes readable at the first signal."""

    def __init__(self) -> None:
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

    def tell(self) -> None:
        """Make ``fd`` readable: whatever watches it is to end its call."""
        os.write(self._told, b"!")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._told)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """While a call runs; one that a fatal signal has ended, ends the process by that signal."""
    caught = Interrupts()
    # What `nohup` has told to be ignored stays so.
    heard = [number for number in _FATAL if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, caught.handle) for number in (signal.SIGINT, *heard)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        caught.close()
        if caught.fatal is not None:
            signal.raise_signal(caught.fatal)
