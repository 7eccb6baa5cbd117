"""A call on our terminal: raw while it runs, its size passed on, and a way out of a dead connection."""

import os
import signal
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

from hermes_nodes.call_connection import Json
from hermes_nodes.cli.exec import exit_code
from hermes_nodes.cli.interrupts import interrupts
from hermes_nodes.cli.output import print_error, say_note, write_all
from hermes_nodes.cli.results import LEFT_HINT
from hermes_nodes.client import Client
from hermes_nodes.errors import CallCancelled, UsageError

_STDIN_FD, _STDOUT_FD = 0, 1
#: What a terminal that does not know its size is taken for.
_USUAL_SIZE = (80, 24)
_ESCAPE, _LEAVE = ord("~"), ord(".")


_Handler = Callable[[int, FrameType | None], object] | int | None


class Signalled(Exception):
    """A signal ends this command, and the terminal has been given back."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Escapes:
    """Finds `~.` at the beginning of a line in what is typed, as ssh does; `~~` there is one `~`."""

    def __init__(self) -> None:
        self._at_start = True
        self._held = False

    def passed(self, typed: bytes) -> bytes:
        """What goes to the node; raises CallCancelled when the user wants to leave."""
        found = bytearray()
        for byte in typed:
            if self._held:
                if byte == _LEAVE:
                    raise CallCancelled("you left the call by `~.`", LEFT_HINT)
                if byte != _ESCAPE:
                    found.append(_ESCAPE)
            elif byte == _ESCAPE and self._at_start:
                self._held = True
                continue
            self._held = False
            found.append(byte)
            self._at_start = byte in b"\r\n"
        return bytes(found)


class Screen:
    """Our terminal, raw until the block ends, however it ends; `call_connection` reads from it."""

    def __init__(self) -> None:
        """Raises UsageError if stdin is no terminal."""
        if not os.isatty(_STDIN_FD):
            raise UsageError(
                "stdin is not a terminal",
                "`exec` runs commands without one, and `exec --stdin` gives them input",
            )
        self.input_fd = _STDIN_FD
        self.resized_fd, self._told = os.pipe()
        for fd in (self.resized_fd, self._told):
            os.set_blocking(fd, False)
        self._escapes = Escapes()
        self._before = termios.tcgetattr(_STDIN_FD)
        self._handlers: dict[int, _Handler] = {}

    def pty(self) -> dict[str, object]:
        """What the node's terminal is to be like."""
        cols, rows = self.size()
        return {"cols": cols, "rows": rows, "term": os.environ.get("TERM") or "xterm"}

    def size(self) -> tuple[int, int]:
        """Columns and rows; what ``resized_fd`` told is taken."""
        with suppress(BlockingIOError):
            while os.read(self.resized_fd, 512):
                pass
        rows, cols = termios.tcgetwinsize(_STDIN_FD)
        return (cols, rows) if cols and rows else _USUAL_SIZE

    def read(self, limit: int) -> bytes | None:
        """What was typed, None if nothing of it is for the node. Raises CallCancelled at `~.`."""
        typed = os.read(_STDIN_FD, limit)
        if not typed:
            raise Signalled(signal.SIGHUP)  # a terminal has no end but its own
        return self._escapes.passed(typed) or None

    def __enter__(self) -> Self:
        # A handler that raises has given the terminal back before, so that it does not matter where.
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self._handle(number, self._end)
        self._handle(signal.SIGWINCH, self._resized)
        self._handle(signal.SIGCONT, lambda *_: self._make_raw())
        self._make_raw()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.resized_fd)
        os.close(self._told)

    def _handle(self, number: int, handler: _Handler) -> None:
        self._handlers[number] = signal.signal(number, handler)

    def _make_raw(self) -> None:
        with suppress(termios.error):
            tty.setraw(_STDIN_FD, termios.TCSADRAIN)

    def _give_back(self) -> None:
        # From the background the terminal would stop us here.
        stopping = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(_STDIN_FD, termios.TCSADRAIN, self._before)
        signal.signal(signal.SIGTTOU, stopping)

    def _end(self, number: int, _: FrameType | None) -> None:
        self._give_back()
        raise Signalled(number)

    def _resized(self, *_: object) -> None:
        with suppress(BlockingIOError):  # it has been told often enough
            os.write(self._told, b"!")


def attend(gateway: Client, body: Json) -> int:
    """Carry a call out on our terminal; its exit code. Raises what `Client.call` raises, UsageError."""
    screen = Screen()
    try:
        with interrupts() as caught, screen:
            answer = gateway.call(
                {**body, "stdin": True, "pty": screen.pty()},
                write_all,
                watch=(_STDOUT_FD,),
                interrupt=caught.fd,
                note=lambda text: say_note(f"{text}\r"),
                screen=screen,
            )
    except Signalled as ended:
        print_error(f"ended by {signal.Signals(ended.number).name}", LEFT_HINT)
        return 128 + ended.number
    return exit_code(answer)
