"""A command's terminal: its size, the end of its input, and what happens when its line drops."""

import os
import signal
import sys
import termios
from contextlib import suppress
from pathlib import Path

from hermes_nodes.node.wires import Wires
from hermes_nodes.protocol.messages import Pty

#: Cells of a terminal's side: what its structure in the kernel holds.
_MOST_CELLS = 0xFFFF
#: The input flag IUTF8 on Linux and macOS, which `termios` does not name everywhere: erasing in cooked mode
#: takes whole characters.
_IUTF8 = 0x4000
_CHILD = str(Path(__file__).with_name("terminal_child.py"))


class Terminal:
    """One pseudo-terminal, from its opening to ``close``."""

    def __init__(self, size: Pty) -> None:
        """Raises OSError if there are no more of them."""
        self._master, slave = os.openpty()
        try:
            attributes = termios.tcgetattr(slave)
            attributes[0] |= _IUTF8
            termios.tcsetattr(slave, termios.TCSANOW, attributes)
            self.resize(size.cols, size.rows)
            # Each of its users closes an own descriptor; the terminal is there until the last one does.
            ours = (os.dup(self._master), os.dup(self._master), os.open(os.devnull, os.O_RDONLY))
            theirs = (slave, os.dup(slave), os.dup(slave))
        except OSError:
            os.close(self._master)
            os.close(slave)
            raise
        self.wires = Wires(ours, theirs, os.ttyname(slave))

    def resize(self, cols: int, rows: int) -> None:
        """Tell the terminal its size, and by SIGWINCH whoever draws on it."""
        with suppress(OSError):
            termios.tcsetwinsize(self._master, (_cells(rows), _cells(cols)))

    def end_of_input(self, last: bytes) -> bytes:
        """What a user would type to end the input, behind the byte ``last``.

        In the middle of a line the sign for it only hands over what is there, so it is typed twice.
        """
        flags, characters = termios.tcgetattr(self._master)[3::3]
        sign = bytes(characters[termios.VEOF])
        in_line = bool(flags & termios.ICANON) and last not in (b"", b"\n", b"\r", sign)
        return sign * 2 if in_line else sign

    def hang_up(self, leader: int) -> None:
        """What a line that drops does to the session on it; what that still says can be read."""
        with suppress(OSError):
            os.killpg(os.tcgetpgrp(self._master), signal.SIGHUP)
        for sign in (signal.SIGHUP, signal.SIGCONT):
            with suppress(OSError):
                os.killpg(leader, sign)

    def close(self) -> None:
        os.close(self._master)


def on_terminal(program: str, argv: list[str], lc_ctype: str | None) -> list[str]:
    """What becomes ``argv`` of ``program`` once its stdin is its controlling terminal.

    That takes two steps between fork and exec. Python may take none there in a process with threads: a
    lock that another thread held is never released in the child. So they are taken behind an exec, in a
    Python of one thread, which costs 15 ms.
    """
    return [sys.executable, "-I", "-S", _CHILD, lc_ctype or "", program, *argv]


def _cells(number: int) -> int:
    return min(max(number, 1), _MOST_CELLS)
