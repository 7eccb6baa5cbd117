"""Ctrl-C during a call: the first asks for the call's end, the second leaves at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """``fd`` becomes readable at the first SIGINT."""

    def __init__(self) -> None:
        self.fd, self._told = os.pipe()
        #: Whether it was the user, and not ``tell``.
        self.by_user = False

    def handle(self, number: int, _: object) -> None:
        self.by_user = True
        self.tell()
        # The next one is Python's own again, which ends the command wherever it is.
        signal.signal(number, signal.default_int_handler)

    def tell(self) -> None:
        """Make ``fd`` readable: whatever watches it is to end its call."""
        os.write(self._told, b"!")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._told)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """While a call runs."""
    caught = Interrupts()
    before = signal.signal(signal.SIGINT, caught.handle)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
        caught.close()
